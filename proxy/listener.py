"""Accepting connections: plain ones as the event loop does it, TLS ones by hand.

Rules of this file:

- A client counts from the moment it is accepted. With the loop's own TLS server nobody hears of a handshake that goes
  on, or that fails; so here the socket is accepted first, counted (`Door.knocked`), and then given to the loop.
- The TLS context is asked for at each accept: what a reload brings is for new connections.
- A handshake that fails is closed and counted, and nothing is printed: anybody can make one fail.
- It begins when the first byte is there, which is looked at and left where it is. So a client that says nothing costs
  no TLS, and one that speaks plain HTTP is told so in plain HTTP, as by nginx.
- When descriptors run out, accepting pauses for a moment. Clients wait in the kernel meanwhile, and nobody is dropped.
- To close is to accept all who have been completed, and in the same breath to close: a client that comes in between is
  reset. So it is done before anybody is told to go away, who would come back at once.
- The one close_notify that ends a TLS connection is the loop's business: after `close` it sends what waits, then that,
  and reads and throws away what still comes, until the client closes or SHUTDOWN_S is over.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from proxy.config import Seconds
from proxy.downstream import DownstreamConnection

SHUTDOWN_S: Final = 60.0  # for the last bytes to a slow reader, and its close_notify
LONGEST_S: Final = 86400.0  # uvloop has no timer for "never"
AT_ONCE: Final = 64  # accepts before other callbacks have their turn
PAUSE_S: Final = 0.1
LEAST_S: Final = 0.001  # for a handshake that begins at the last moment


class Door(Protocol):
    """What accepting needs of the server."""

    def connection(self) -> DownstreamConnection:
        """Another one, for the client that has come."""

    def knocked(self, connection: DownstreamConnection, ip: str) -> bool:
        """A client is there for its handshake. False: not now."""

    def mistaken(self, connection: DownstreamConnection) -> DownstreamConnection:
        """It speaks plain HTTP; what is returned tells it so."""

    def turned_away(self, connection: DownstreamConnection, why: str) -> None:
        """It has not come in."""


class PlainListener:
    """Listens on one socket."""

    def __init__(self, door: Door, sock: socket.socket, backlog: int) -> None:
        self.socket = sock
        self._door = door
        self._backlog = backlog
        self._server: asyncio.Server | None = None
        self._last: set[asyncio.Task[object]] = set()

    def __repr__(self) -> str:
        return f"<PlainListener {self.socket.getsockname()}>"

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._door.connection, sock=self.socket, backlog=self._backlog)

    def close(self) -> None:
        """Accepts what the kernel has completed, and no more."""
        loop = asyncio.get_running_loop()
        with suppress(OSError):  # until nobody waits, or there are no descriptors
            while True:
                accepted, _ = self.socket.accept()
                accepted.setblocking(False)
                task = loop.create_task(loop.connect_accepted_socket(self._door.connection, accepted))
                self._last.add(task)
                task.add_done_callback(self._last.discard)
        if self._server is not None:
            self._server.close()

    async def settle(self) -> None:
        """Until those are connections whom `close` has accepted: before that nobody knows of them."""
        await asyncio.gather(*self._last, return_exceptions=True)


class TlsListener:
    """The same, with a handshake before anything else. `tls` and `handshake_s` are asked for each client."""

    def __init__(
        self,
        door: Door,
        sock: socket.socket,
        tls: Callable[[], ssl.SSLContext],
        handshake_s: Callable[[], Seconds],
    ) -> None:
        self.socket = sock
        self._door = door
        self._tls = tls
        self._handshake_s = handshake_s
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._resume: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<TlsListener {self.socket.getsockname()}, {len(self._handshakes)} handshakes>"

    async def start(self) -> None:
        self._listen()

    def close(self) -> None:
        """Accepts what the kernel has completed, and no more. Handshakes that have begun go on."""
        while self._accept():
            pass
        if self._resume is not None:
            self._resume.cancel()
        self._loop.remove_reader(self.socket)
        self.socket.close()

    def _listen(self) -> None:
        self._resume = None
        self._loop.add_reader(self.socket, self._accept)

    def _accept(self) -> bool:
        """Some of those who wait; whether there may be more."""
        for _ in range(AT_ONCE):
            try:
                accepted, address = self.socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return False
            except OSError:  # no descriptors, or no memory for them
                self._loop.remove_reader(self.socket)
                self._resume = self._loop.call_later(PAUSE_S, self._listen)
                return False
            connection = self._door.connection()
            if self._door.knocked(connection, address[0]):
                accepted.setblocking(False)
                task = self._loop.create_task(self._shake_hands(connection, accepted))
                self._handshakes.add(task)
                task.add_done_callback(self._handshakes.discard)
            else:
                accepted.close()
        return True

    async def _shake_hands(self, connection: DownstreamConnection, accepted: socket.socket) -> None:
        allowed = min(LONGEST_S, self._handshake_s())
        until = self._loop.time() + allowed
        try:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(allowed):
                first = await self._first_byte(accepted)
            if first.isalpha():
                connection = self._door.mistaken(connection)
                await self._loop.connect_accepted_socket(lambda: connection, accepted)
                return
            await self._loop.connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=self._tls(),
                ssl_handshake_timeout=max(until - self._loop.time(), LEAST_S),
                ssl_shutdown_timeout=SHUTDOWN_S,
            )
        except TimeoutError:
            accepted.close()
            self._door.turned_away(connection, "tls_timeout")
        except ssl.SSLError as problem:
            self._door.turned_away(connection, _reason_of(problem))
        except ConnectionAbortedError:  # uvloop's word for a handshake that took too long
            self._door.turned_away(connection, "tls_timeout")
        except OSError:
            accepted.close()
            self._door.turned_away(connection, "tls_client_left")

    async def _first_byte(self, accepted: socket.socket) -> bytes:
        """What a client begins with, which stays to be read. Raises OSError if it has left without a word."""
        first = _peek(accepted)
        if first is None:
            come = self._loop.create_future()
            self._loop.add_reader(accepted, _wake, come)
            try:
                await come
            finally:
                self._loop.remove_reader(accepted)
            first = _peek(accepted)
        if not first:
            raise ConnectionResetError
        return first


def _peek(accepted: socket.socket) -> bytes | None:
    """The first byte, b"" if there will be none, None if it has not come yet."""
    try:
        return accepted.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return None


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _reason_of(problem: ssl.SSLError) -> str:
    """Why a handshake failed, as one of a few words."""
    reason = problem.reason or ""
    if reason in ("HTTP_REQUEST", "HTTPS_PROXY_REQUEST"):
        return "tls_plain_http"
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "tls_no_certificate"
    if reason in ("CERTIFICATE_VERIFY_FAILED", "TLSV1_ALERT_UNKNOWN_CA", "SSLV3_ALERT_CERTIFICATE_UNKNOWN"):
        return "tls_bad_certificate"
    if reason in ("UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW", "WRONG_VERSION_NUMBER", "TLSV1_ALERT_PROTOCOL_VERSION"):
        return "tls_version"
    return "tls_failed"
