"""An upstream: its address, its pool, and the exchanges that wait for one of its connections.

Rules of this file:

- Nobody waits in a call: `take_idle` returns an idle connection, and `promise` calls the exchange's `connected` when
  there is one. Between taking a connection from the pool and sending on it nothing else runs.
- First come, first served. Nobody overtakes an exchange that waits; the line is bounded in length and in time.
- A repeated attempt asks for a `fresh` connection: another idle one might have died of the same cause.
- The pool decides; this file does the I/O that follows: connects, closes, arms the timer.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from time import monotonic
from typing import Any, Final, NamedTuple

from proxy import sockets
from proxy.config import Limits, PoolLimits, SocketConfig, Timeouts, parse_address
from proxy.deadline import Deadline
from proxy.failure import Failure, classify_connect
from proxy.http1.grammar import HeadLimits
from proxy.observe.counters import IDLE_AGES, Histogram, UpstreamCounters
from proxy.pool import CloseReason, ConnectionPool
from proxy.sides import Emit, ResponseSink
from proxy.upstream_connection import QuickAckConnection, UpstreamConnection

TOLD_AGAIN_S: Final = 10.0  # how often, at most, why connects fail is told
JUST_PARKED_S: Final = 0.001  # longer than a turn of the loop mostly takes


class Waiting(NamedTuple):
    """One exchange in line."""

    sink: ResponseSink
    fresh: bool
    until: float  # monotonic seconds


class Upstream:
    """One address, with the connections to it.

    `tls`: speak TLS, and expect a certificate for `server_name`, or for the host of the address if that is empty.
    `sock`: what each socket is told. `trailers`: of responses, are passed on. `counters`: its own; `reused`: the idle
    ages at reuse, of its group.
    """

    def __init__(
        self,
        address: str,
        loop: asyncio.AbstractEventLoop,
        timeouts: Timeouts,
        pool: PoolLimits,
        limits: Limits,
        emit: Emit | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str = "",
        sock: SocketConfig | None = None,
        trailers: bool = False,
        counters: UpstreamCounters | None = None,
        reused: Histogram | None = None,
    ) -> None:
        self.address = self.name = address
        self.host, self.port = parse_address(address)
        self.loop = loop
        self.timeouts = timeouts
        self.response_header_s = float(timeouts.response_header)  # see ConnectionPool.configure
        self.head_limits = HeadLimits(limits.line_bytes, limits.head_bytes, limits.fields)
        self.emit = emit
        self.tls = tls
        self.server_name = server_name or self.host
        self.prepare: Callable[[socket.socket], None] | None = None
        if sock is not None and sockets.options_of(sock):
            self.prepare = partial(sockets.apply, config=sock)
        self._make = QuickAckConnection if sock is not None and sock.quickack else UpstreamConnection
        self.trailers = trailers
        self.counters = UpstreamCounters() if counters is None else counters
        self._reused = Histogram.of(IDLE_AGES) if reused is None else reused
        self.on_problem: Callable[[str], None] = _nobody_asks  # called with why a connect failed, now and then
        self._problem, self._told_at = "", -inf
        self.failing = 0  # failures in a row, as its group counts them
        self.round_trip_s = inf  # the shortest that was measured; inf: no connection has come to be
        self.pool: ConnectionPool[UpstreamConnection] = ConnectionPool(pool, timeouts.upstream_idle)
        self._connecting: dict[UpstreamConnection, tuple[ResponseSink, asyncio.Task[None]]] = {}
        self._line: deque[Waiting] = deque()
        self._serving_line = False
        self._line_deadline = Deadline(loop, self._waited_too_long)
        self._expiry = Deadline(loop, self._expire)
        self._expires = inf  # what _expiry is set to, in monotonic seconds

    def __repr__(self) -> str:
        pool = self.pool
        return f"<Upstream {self.name}, {pool.open_count} open, {pool.idle_count} idle, {len(self._line)} waiting>"

    @property
    def busy(self) -> int:
        """Exchanges that are under way on it, or wait for a connection. Each has one, but for those in line."""
        return self.pool.open_count - self.pool.idle_count + len(self._line)

    @property
    def waiting(self) -> int:
        """Exchanges in line."""
        return len(self._line)

    @property
    def crowded(self) -> bool:
        """Whether half of those wait in line who may. The rest of it is for requests that are new."""
        return bool(self._line) and 2 * len(self._line) >= self.pool.limits.max_waiting

    def reconfigure(self, timeouts: Timeouts, pool: PoolLimits) -> None:
        """Other limits from now on. What is parked is judged by them at once, what is under way when it is parked."""
        self.timeouts = timeouts
        self.response_header_s = float(timeouts.response_header)
        self.pool.configure(pool, timeouts.upstream_idle)
        close_all(self.pool.surplus())
        self._expire()
        self._serve_line()

    # ---- called by the exchange

    def take_idle(self, now: float) -> UpstreamConnection | None:
        """An idle connection to use at once, None if there is none. While anybody waits in line there is none.

        Each is looked at first. With unread bytes it is closed: they would be taken for the answer. With a FIN that no
        callback has told of yet it is closed if `look_before_reuse` says so, and always if it was parked just now: what
        came right behind its response is in the kernel already, and the loop has had no turn to say so.

        That the loop has not told of anything is no reason not to look. What it knows is as old as its last poll, up to
        a whole turn; under load connections are reused sooner than that, which is when a second answer, sent behind the
        first, lies in between. Measured so, with an upstream that sends such answers: eight times as many are taken for
        an answer without the look. It costs 0.3 µs.
        """
        while True:
            connection, expired = self.pool.acquire(now)
            if expired:
                close_all(expired)
            if connection is None:
                return None
            age = now - connection.idle_since
            stirred = connection.stirred
            if not stirred(0):
                break
            reason = connection.look()
            if reason is None:
                break
            told_to_look = self.pool.limits.look_before_reuse or age <= JUST_PARKED_S
            if reason is CloseReason.PEER_FIN and not told_to_look:
                break
            connection.close(reason)
        connection.idle_age = age
        reused = self._reused  # its `add`, without the call
        reused.counts[bisect_left(IDLE_AGES, age)] += 1
        reused.sum += age
        return connection

    def promise(self, sink: ResponseSink, now: float, fresh: bool) -> None:
        """Connects for an exchange, puts it in line, or turns it away: calls its `connected` or `not_connected`.

        `fresh`: no idle connection will do.
        """
        if not self._line and self._make_room(now, fresh):
            self._connect(sink)
            return
        limits = self.pool.limits
        if len(self._line) >= limits.max_waiting or limits.max_wait <= 0:
            sink.not_connected(Failure.POOL_EXHAUSTED)
            return
        self._line.append(Waiting(sink, fresh, now + limits.max_wait))
        if len(self._line) == 1:
            self._line_deadline.until(now + limits.max_wait)

    def forget(self, sink: ResponseSink) -> None:
        """The exchange no longer waits for what was promised."""
        self._line = deque(waiting for waiting in self._line if waiting.sink is not sink)
        for connection, (wanted_by, _) in list(self._connecting.items()):
            if wanted_by is sink:
                connection.close(CloseReason.CLIENT_CLOSED)

    # ---- called by its connections

    def connected(self, round_trip_s: float) -> float:
        self.round_trip_s = min(self.round_trip_s, round_trip_s)
        return self.round_trip_s

    def opened(self, connection: UpstreamConnection) -> None:
        self._problem = ""
        sink, _ = self._connecting.pop(connection)
        sink.connected(connection, monotonic())

    def connect_timed_out(self, connection: UpstreamConnection) -> None:
        _, task = self._connecting[connection]
        task.cancel()
        self._connect_failed(connection, Failure.CONNECT_TIMEOUT)

    def parked(self) -> None:
        if self._line:
            self._serve_line()
        expires = self.pool.expires
        if expires < self._expires:
            self._expires = expires
            self._expiry.until(expires)

    def closed(self, connection: UpstreamConnection) -> None:
        if connection in self._connecting:
            _, task = self._connecting.pop(connection)
            task.cancel()
        self.pool.discard(connection)
        self.pool.closed()
        self._serve_line()

    # ---- called by timers

    def _expire(self) -> None:
        """Closes the connections that have reached a limit. They were not reused any more, even without this."""
        close_all(self.pool.expire(monotonic()))
        self._expires = self.pool.expires
        self._expiry.until(self._expires)

    def _waited_too_long(self) -> None:
        now = monotonic()
        while self._line and self._line[0].until <= now:
            self._line.popleft().sink.not_connected(Failure.POOL_EXHAUSTED)
        if self._line:
            self._line_deadline.set(self._line[0].until - now)

    # ---- called by the server

    def drain(self) -> None:
        """Closes what is idle, and from now on whatever becomes idle."""
        close_all(self.pool.drain())

    def close(self) -> None:
        """Lets go of its timers. Its connections belong to their exchanges."""
        self._expiry.close()
        self._line_deadline.close()

    # ---- connections

    def _make_room(self, now: float, fresh: bool) -> bool:
        """Counts a connection to be opened, if there may be one more. For a fresh one, an idle one makes way."""
        while not self.pool.reserve():
            if not fresh:
                return False
            victim, expired = self.pool.acquire(now)  # not `take_idle`: it is not to be reused
            close_all(expired)
            if victim is not None:
                victim.close(CloseReason.MAX_IDLE)
            elif not expired:
                return False
        return True

    def _connect(self, sink: ResponseSink) -> None:
        connection = self._make(self)
        self._connecting[connection] = sink, self.loop.create_task(self._connecting_to(connection))
        handshake = self.timeouts.tls_handshake if self.tls is not None else 0
        connection.deadline.set(self.timeouts.connect + handshake)

    async def _connecting_to(self, connection: UpstreamConnection) -> None:
        options: dict[str, Any] = {}
        if self.tls is not None:
            handshake = self.timeouts.tls_handshake
            options = {
                "ssl": self.tls,
                "server_hostname": self.server_name,
                "ssl_handshake_timeout": None if handshake == inf else handshake,
            }
        try:
            await self.loop.create_connection(lambda: connection, self.host, self.port, **options)
        except (OSError, ValueError) as problem:  # ValueError: a name that no resolver or certificate can be asked for
            self._tell(problem)
            self._connect_failed(connection, classify_connect(problem, reached=self.round_trip_s < inf))

    def _connect_failed(self, connection: UpstreamConnection, failure: Failure) -> None:
        if connection in self._connecting:
            sink, _ = self._connecting.pop(connection)
            connection.close(CloseReason.FAILED)
            sink.not_connected(failure)

    def _tell(self, problem: Exception) -> None:
        """Why a connect failed: once for each reason, and a storm of several is told of now and then."""
        now = monotonic()
        why = reason_of(problem)
        if why == self._problem or now < self._told_at + TOLD_AGAIN_S:
            return
        self._problem, self._told_at = why, now
        self.on_problem(why)

    def _serve_line(self) -> None:
        """Gives those who wait what there is now: an idle connection, or room for a new one."""
        if self._serving_line:
            return  # looking for one may close others, which leads here again
        if not self._line:
            return
        self._serving_line = True
        try:
            self._serve_all(monotonic())
        finally:
            self._serving_line = False

    def _serve_all(self, now: float) -> None:
        while self._line:
            fresh = self._line[0].fresh
            connection = None if fresh else self.take_idle(now)
            if connection is None and not self._make_room(now, fresh):
                return
            sink = self._line.popleft().sink
            if connection is not None:
                sink.connected(connection, now)
            else:
                self._connect(sink)


def reason_of(problem: Exception) -> str:
    """Why a connect failed, in words for whoever runs the proxy."""
    if isinstance(problem, ssl.SSLCertVerificationError):
        return f"its certificate cannot be verified: {problem.verify_message}"
    if isinstance(problem, ssl.SSLError):
        return f"TLS: {problem}"
    if isinstance(problem, socket.gaierror):
        return f"its name cannot be resolved: {problem.strerror}"
    if isinstance(problem, OSError) and problem.errno:
        return os.strerror(problem.errno)
    return str(problem) or type(problem).__name__


def _nobody_asks(_: str) -> None:
    pass


def close_all(connections: Sequence[tuple[UpstreamConnection, CloseReason]]) -> None:
    for connection, reason in connections:
        connection.close(reason)
