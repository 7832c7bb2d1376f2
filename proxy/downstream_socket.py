"""The socket under a client's connection: whether it is open, how it is closed, and what the client has read.

Rules of this file:

- Closing with unread input would make the kernel send RST, which can destroy the answer on its way. So the input is
  read and thrown away for a while first (state LINGERING; RFC 9112 §9.6).
- Nothing is written once the connection is closed: on uvloop that raises.
- A client that reads slowly is borne as long as it reads; one that has read nothing for a while is cut off. What it has
  read is what its kernel has acknowledged, which takes some for it at first, and then no more than is read.
- It knows nothing of requests but that somebody must be told when they are cut off.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final

from proxy import events, sockets, transports
from proxy.deadline import Deadline
from proxy.failure import Failure
from proxy.gateway import Gateway
from proxy.kernel import unacked_bytes, unread_bytes

LINGER_S: Final = 2.0  # without a byte of input; then the connection is closed
LINGER_BYTES: Final = 64 * 1024 * 1024  # input that is thrown away at most

LOOKS: Final = 4  # in the time of a gap, whether a client reads; so one that does not is cut off a quarter late at most

LINGER_0: Final = struct.pack("ii", 1, 0)  # for SO_LINGER: the close sends RST


class State(IntEnum):
    IDLE = 0  # no byte of a request has come
    HEAD = 1  # part of a head has
    EXCHANGE = 2
    LINGERING = 3  # answered for the last time; input is thrown away
    CLOSED = 4


# Plain numbers are cheaper than members, and as constants they cost a compiled proxy nothing.
IDLE: Final = 0
HEAD: Final = 1
EXCHANGE: Final = 2
LINGERING: Final = 3
CLOSED: Final = 4
assert list(State) == [IDLE, HEAD, EXCHANGE, LINGERING, CLOSED]

# The steps there are: from each state, to IDLE, HEAD, EXCHANGE, LINGERING, CLOSED.
_STEPS: Final[tuple[tuple[bool, ...], ...]] = (
    (False, True, True, True, True),
    (False, False, True, True, True),
    (True, False, False, True, True),
    (False, False, False, False, True),
    (False, False, False, False, False),
)


def _nowhere(_data: bytes) -> None:
    """Where a connection writes that has been closed."""


class DownstreamSocket(asyncio.Protocol):
    """One TCP connection from a client, whatever goes over it."""

    _read_at = 0.0  # when the client was last seen to read, or had to begin; in the loop's time

    def __init__(self, gateway: Gateway, loop: asyncio.AbstractEventLoop) -> None:
        self._gateway = gateway
        self._loop = loop
        self._state = IDLE
        self._transport: Any = None
        self._tls = False
        self.write: Callable[[bytes], None] = _nowhere  # the transport's own while it may be written to
        self.deadline = Deadline(loop, self._expired)
        self.name = ""
        self.ip = ""
        self.requests = 0
        self.close_reason = ""
        self._writing_paused = False
        self._untaken = 0  # bytes that the client had not taken when that was looked at last
        self._lingers_until = 0.0  # at most; in the loop's time
        self._thrown_away = 0  # bytes of input

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.state.name} {self.name or '-'}, {self.requests} requests>"

    # ---- what the requests over it must do

    def _expired(self) -> None:
        """The deadline has passed."""
        raise NotImplementedError

    def _forget_requests(self) -> None:
        """The last answer has been given."""
        raise NotImplementedError

    def _cut_off(self, cause: Failure) -> None:
        """What is under way gets no further."""
        raise NotImplementedError

    # ---- state

    @property
    def state(self) -> State:
        return State(self._state)

    def _enter(self, state: int) -> None:
        if not _STEPS[self._state][state]:
            raise RuntimeError(f"{self!r} cannot become {State(state).name}")
        self._state = state
        if state >= LINGERING:
            self.write = _nowhere
            if state == CLOSED and self._gateway.emit is not None:
                self._gateway.emit(events.DOWNSTREAM_CLOSED, self.name, 0, self.close_reason, self.requests)

    def _open(self, transport: Any) -> None:
        """It is there."""
        self._transport = transport
        self.write = transport.write
        self._tls = transport.get_extra_info("sslcontext") is not None
        transports.prepare(transport, tls=self._tls)
        peer = transport.get_extra_info("peername") or ("", 0)
        self.ip = peer[0]
        self.name = events.connection_name(peer, transport.get_extra_info("sockname"))
        if self._gateway.emit is not None:
            self._gateway.emit(events.DOWNSTREAM_OPENED, self.name, 0)

    def close(self, reason: str, cause: Failure = Failure.CLIENT_CLOSED) -> None:
        """Closes it, after what has been written is out. Idempotent. `cause`: of an exchange that it cuts off."""
        if self._state == CLOSED:
            return
        self.close_reason = reason
        self._enter(CLOSED)
        self._cut_off(cause)
        self._read_at = self._loop.time()
        self.deadline.set(LINGER_S if self._tls else self._gateway.config.timeouts.body_gap / LOOKS)
        self._transport.close()

    def _abort(self, reason: str, cause: Failure = Failure.CLIENT_CLOSED) -> None:
        """Closes it without waiting for what is still to be written."""
        self.close(reason, cause)
        self._transport.abort()

    def _reset(self, reason: str) -> None:
        """Closes it with RST. Under TLS without close_notify either: it says that all is there."""
        self._ends_with_reset()
        if self._tls:
            self._transport.abort()
        self.close(reason)

    def _ends_with_reset(self) -> None:
        self._socket().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)

    def set_options(self, options: tuple[sockets.Option, ...]) -> None:
        """Of its socket. Raises OSError if the kernel refuses one, or the client has reset it already."""
        sockets.set_all(self._socket(), options)

    # ---- lingering

    def _linger(self, reason: str) -> None:
        """Closes it when the client has, or in a while: see the rules."""
        self.close_reason = reason
        self._enter(LINGERING)
        self._forget_requests()
        self._lingers_until = self._loop.time() + self._gateway.config.timeouts.body_gap
        self.deadline.set(LINGER_S)
        if not self._tls:  # there, its transport cannot say that nothing more comes and still read
            self._transport.write_eof()

    def _throw_away(self, data: bytes) -> None:
        self._thrown_away += len(data)
        if self._thrown_away > LINGER_BYTES:
            self._abort(self.close_reason)
        else:
            self.deadline.until(min(self._loop.time() + LINGER_S, self._lingers_until))

    def _linger_on(self) -> None:
        """While the answer is on its way; but nobody may take for ever."""
        if self._undelivered() and self._loop.time() < self._lingers_until:
            self.deadline.set(LINGER_S)
        else:
            self._abort(self.close_reason)

    # ---- what the client has read

    def _await_reader(self) -> None:
        """The client must read before it is sent more."""
        self._untaken = self._undelivered()
        self._read_at = self._loop.time()
        self._look_again()

    def _stalls(self) -> None:
        """There is still not room enough to write again. If it has read nothing for the time of a gap, that is all."""
        if self._reads():
            self._look_again()
        else:
            self.close("write_timeout", Failure.CLIENT_STALLED)
            self._drop()

    def _reads(self) -> bool:
        """Whether it has read anything for the time of a gap."""
        now, untaken = self._loop.time(), self._undelivered()
        if untaken < self._untaken:
            self._read_at = now
        self._untaken = untaken
        return now < self._read_at + self._gateway.config.timeouts.body_gap

    def _look_again(self) -> None:
        self.deadline.set(self._gateway.config.timeouts.body_gap / LOOKS)

    def _close_is_late(self) -> None:
        """What was written last has not been taken; or under TLS it has, and the client does not answer close_notify.

        Many do not, and would hold a descriptor and a place for nothing (RFC 8446 §6.1 asks nobody to wait for it).
        """
        if not self._undelivered():
            self._transport.abort()
        elif not self._reads():
            self._drop()
        elif self._tls:
            self.deadline.set(LINGER_S)
        else:
            self._look_again()

    def _drop(self) -> None:
        """What has been written cannot be delivered. With a FIN the kernel would hold megabytes of it for minutes."""
        self._ends_with_reset()
        self._transport.abort()

    def _undelivered(self) -> int:
        """Bytes of answers that the client has not acknowledged."""
        waiting: int = self._transport.get_write_buffer_size()
        return waiting + (unacked_bytes(self._socket().fileno()) or 0)

    def _unread(self) -> bool:
        """Whether something has come that the loop has not read yet."""
        return bool(unread_bytes(self._socket().fileno()))

    def _socket(self) -> socket.socket:
        found: socket.socket = self._transport.get_extra_info("socket")
        return found
