"""An upstream: its address, its pool, and the exchanges that wait for one of its connections.

Rules of this file:

- `acquire` never waits: it returns an idle connection, or promises one through the exchange's `connected`. Between
  taking a connection from the pool and sending on it nothing else runs.
- First come, first served. Nobody overtakes an exchange that waits; the line is bounded in length and in time.
- A repeated attempt asks for a `fresh` connection: another idle one might have died of the same cause.
- The pool decides; this file does the I/O that follows: connects, closes, arms the timer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf
from time import monotonic
from typing import Final, NamedTuple

from proxy.config import Limits, PoolLimits, Timeouts, parse_address
from proxy.deadline import Deadline
from proxy.failure import Failure, classify
from proxy.http1 import HeadLimits
from proxy.pool import CloseReason, ConnectionPool
from proxy.upstream_connection import Emit, ResponseSink, UpstreamConnection

JUST_PARKED_S: Final = 0.001  # longer than a turn of the loop mostly takes


class Waiting(NamedTuple):
    """One exchange in line."""

    sink: ResponseSink
    fresh: bool
    until: float  # monotonic seconds


class Upstream:
    """One address, with the connections to it."""

    def __init__(
        self,
        address: str,
        loop: asyncio.AbstractEventLoop,
        timeouts: Timeouts,
        pool: PoolLimits,
        limits: Limits,
        emit: Emit | None = None,
    ) -> None:
        self.address = address
        self.host, self.port = parse_address(address)
        self.loop = loop
        self.timeouts = timeouts
        self.head_limits = HeadLimits(limits.line_bytes, limits.head_bytes, limits.fields)
        self.emit = emit
        self.pool: ConnectionPool[UpstreamConnection] = ConnectionPool(pool, timeouts.upstream_idle)
        self._connecting: dict[UpstreamConnection, tuple[ResponseSink, asyncio.Task[None]]] = {}
        self._line: deque[Waiting] = deque()
        self._serving_line = False
        self._line_deadline = Deadline(loop, self._waited_too_long)
        self._expiry = Deadline(loop, self._expire)
        self._expires = inf  # what _expiry is set to, in monotonic seconds

    def __repr__(self) -> str:
        pool = self.pool
        return f"<Upstream {self.address}, {pool.open_count} open, {pool.idle_count} idle, {len(self._line)} waiting>"

    # ---- called by the exchange

    def acquire(self, sink: ResponseSink, *, fresh: bool = False) -> UpstreamConnection | None:
        """An idle connection; or None, and then `sink.connected` or `sink.not_connected` is called, perhaps at once."""
        if not self._line:
            if not fresh and (connection := self._take_idle()) is not None:
                return connection
            if self._make_room(fresh):
                self._connect(sink)
                return None
        limits = self.pool.limits
        if len(self._line) >= limits.max_waiting or limits.max_wait <= 0:
            sink.not_connected(Failure.POOL_EXHAUSTED)
            return None
        self._line.append(Waiting(sink, fresh, monotonic() + limits.max_wait))
        if len(self._line) == 1:
            self._line_deadline.set(limits.max_wait)
        return None

    def forget(self, sink: ResponseSink) -> None:
        """The exchange no longer waits for what `acquire` promised."""
        self._line = deque(waiting for waiting in self._line if waiting.sink is not sink)
        for connection, (wanted_by, _) in list(self._connecting.items()):
            if wanted_by is sink:
                connection.close(CloseReason.CLIENT_CLOSED)

    # ---- called by its connections

    def idle_limit(self, hint_s: int | None) -> float:
        return self.pool.idle_limit(hint_s)

    def opened(self, connection: UpstreamConnection) -> None:
        sink, _ = self._connecting.pop(connection)
        sink.connected(connection)

    def connect_timed_out(self, connection: UpstreamConnection) -> None:
        _, task = self._connecting[connection]
        task.cancel()
        self._connect_failed(connection, Failure.CONNECT_TIMEOUT)

    def park(self, connection: UpstreamConnection) -> CloseReason | None:
        """Takes a connection back after a response, or says why it must be closed."""
        now = monotonic()
        reason = self.pool.release(connection, now)
        if reason is not None:
            return reason
        connection.become_idle()
        if self._line:
            self._serve_line()
        expires = now + min(connection.idle_limit, self.pool.idle_timeout)
        if expires < self._expires:
            self._expires = expires
            self._expiry.set(expires - now)
        return None

    def closed(self, connection: UpstreamConnection) -> None:
        if connection in self._connecting:
            _, task = self._connecting.pop(connection)
            task.cancel()
        self.pool.discard(connection)
        self.pool.closed()
        self._serve_line()

    # ---- called by timers

    def _expire(self) -> None:
        """Closes the connections that have been idle for too long. They were not reused any more, even without this."""
        self._expires = inf
        now = monotonic()
        for connection, reason in self.pool.expire(now):
            connection.close(reason)
        expires = self.pool.next_expiry()
        if expires is not None and expires < self._expires:
            self._expires = expires
            self._expiry.set(expires - now)

    def _waited_too_long(self) -> None:
        now = monotonic()
        while self._line and self._line[0].until <= now:
            self._line.popleft().sink.not_connected(Failure.POOL_EXHAUSTED)
        if self._line:
            self._line_deadline.set(self._line[0].until - now)

    # ---- called by the server

    def drain(self) -> None:
        """Closes what is idle, and from now on whatever becomes idle."""
        for connection, reason in self.pool.drain():
            connection.close(reason)

    def close(self) -> None:
        """Lets go of its timers. Its connections belong to their exchanges."""
        self._expiry.close()
        self._line_deadline.close()

    # ---- connections

    def _take_idle(self) -> UpstreamConnection | None:
        """An idle connection to use now.

        Each is looked at first. With unread bytes it is closed: they would be taken for the answer. With a FIN that no
        callback has told of yet it is closed if `look_before_reuse` says so, and always if it was parked just now: what
        came right behind its response is in the kernel already, and the loop has had no turn to say so.
        """
        while True:
            now = monotonic()
            connection, expired = self.pool.acquire(now)
            for old, why in expired:
                old.close(why)
            if connection is None:
                return None
            reason = connection.look()
            if reason is None:
                return connection
            told_to_look = self.pool.limits.look_before_reuse or now - connection.idle_since <= JUST_PARKED_S
            if reason is CloseReason.PEER_FIN and not told_to_look:
                return connection
            connection.close(reason)

    def _make_room(self, fresh: bool) -> bool:
        """Counts a connection to be opened, if there may be one more. For a fresh one, an idle one makes way."""
        while not self.pool.reserve():
            victim = self._take_idle() if fresh else None
            if victim is None:
                return False
            victim.close(CloseReason.MAX_IDLE)
        return True

    def _connect(self, sink: ResponseSink) -> None:
        connection = UpstreamConnection(self)
        self._connecting[connection] = sink, self.loop.create_task(self._connecting_to(connection))
        connection.deadline.set(self.timeouts.connect)

    async def _connecting_to(self, connection: UpstreamConnection) -> None:
        try:
            await self.loop.create_connection(lambda: connection, self.host, self.port)
        except (OSError, UnicodeError) as problem:  # UnicodeError: a name that no resolver can be asked for
            self._connect_failed(connection, classify(problem, response_started=False, connecting=True))

    def _connect_failed(self, connection: UpstreamConnection, failure: Failure) -> None:
        if connection in self._connecting:
            sink, _ = self._connecting.pop(connection)
            connection.close(CloseReason.FAILED)
            sink.not_connected(failure)

    def _serve_line(self) -> None:
        """Gives those who wait what there is now: an idle connection, or room for a new one."""
        if self._serving_line:
            return  # looking for one may close others, which leads here again
        self._serving_line = True
        while self._line:
            fresh = self._line[0].fresh
            connection = None if fresh else self._take_idle()
            if connection is None and not self._make_room(fresh):
                break
            sink = self._line.popleft().sink
            if connection is not None:
                sink.connected(connection)
            else:
                self._connect(sink)
        self._serving_line = False
