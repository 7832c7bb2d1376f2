"""The connections to one upstream: which idle one is reused, and when one is reused no more.

Rules of this file:

- No clock and no I/O: `now` is an argument, in seconds. Methods return what the caller must close, and why.
- "No longer reused" and "closed" are two moments. `acquire` is exact: it never hands out a connection that has reached
  a limit, however late the timer that calls `expire` runs.
- A hint from the upstream may shorten the idle limit of one connection. Connections with the same limit form a lane,
  and a lane is in order of expiry because it is in order of parking. There is one lane, or a few.
- `reserve` and `closed` count connections from before the connect until they are gone, idle or not.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from enum import StrEnum
from math import inf
from typing import Final, Generic, Protocol, TypeVar

from proxy.config import PoolLimits


class CloseReason(StrEnum):
    """Why an upstream connection was closed."""

    IDLE_TIMEOUT = "idle_timeout"
    MAX_AGE = "max_age"
    MAX_REQUESTS = "max_requests"
    MAX_IDLE = "max_idle"
    PEER_FIN = "peer_fin"
    PEER_RESET = "peer_reset"
    FAILED = "failed"
    DRAINED = "drained"
    UNSOLICITED_DATA = "unsolicited_data"
    PEER_CLOSE = "peer_close"  # the response said so, or was one that only the close could end
    UNFINISHED_REQUEST = "unfinished_request"  # the response was complete before the request was
    CLIENT_CLOSED = "client_closed"


class Idle(Protocol):
    """What the pool reads of a connection. It writes `idle_since` only."""

    idle_since: float  # when it was parked
    idle_limit: float  # seconds that it may be idle; see ConnectionPool.idle_limit
    opened_at: float
    requests: int  # that it has carried


C = TypeVar("C", bound=Idle)

_NOTHING: Final[tuple[()]] = ()


class ConnectionPool(Generic[C]):
    """Idle connections to one upstream, and the count of all its connections. Times are seconds."""

    __slots__ = ("_draining", "_lanes", "idle_timeout", "limits", "open_count")

    def __init__(self, limits: PoolLimits, idle_timeout: float) -> None:
        self.limits = limits
        self.idle_timeout = idle_timeout
        self.open_count = 0
        self._draining = False
        self._lanes: dict[float, OrderedDict[C, None]] = {}  # by idle limit; each from oldest to newest

    def __repr__(self) -> str:
        state = "DRAINING" if self._draining else "OPEN"
        return (
            f"<ConnectionPool {state}, {self.open_count} of {self.limits.max_connections} open, "
            f"{self.idle_count} idle, {self.limits.order} first>"
        )

    @property
    def idle_count(self) -> int:
        """How many connections are parked."""
        return sum(map(len, self._lanes.values()))

    def idle_limit(self, hint: float | None) -> float:
        """How long a connection may be idle when its last response said `Keep-Alive: timeout=hint`, None if nothing.

        At most 0: it must not be reused.
        """
        if hint is None or not self.limits.honour_hint:
            return self.idle_timeout
        return min(self.idle_timeout, hint - self.limits.hint_margin)

    def reserve(self) -> bool:
        """Counts one more connection if there is room. The caller then connects, and calls `closed` at its end."""
        if self.open_count >= self.limits.max_connections:
            return False
        self.open_count += 1
        return True

    def closed(self) -> None:
        """A connection counted by `reserve` is gone, or never came to be."""
        self.open_count -= 1

    def acquire(self, now: float) -> tuple[C | None, Sequence[tuple[C, CloseReason]]]:
        """Takes an idle connection that is within its limits, or None; and the connections to close."""
        expired = self.expire(now)
        while (lane := self._next_lane()) is not None:
            conn, _ = lane.popitem(last=self.limits.order == "newest")
            if now - conn.opened_at < self.limits.max_age:
                return conn, expired
            expired = [*expired, (conn, CloseReason.MAX_AGE)]
        return None, expired

    def release(self, conn: C, now: float) -> CloseReason | None:
        """Parks a connection after a response. If a reason is returned it is not parked, and the caller closes it."""
        limits = self.limits
        if self._draining:
            return CloseReason.DRAINED
        if 0 < limits.max_requests <= conn.requests:
            return CloseReason.MAX_REQUESTS
        if now - conn.opened_at >= limits.max_age:
            return CloseReason.MAX_AGE
        limit = min(self.idle_timeout, conn.idle_limit)
        if limit <= 0:
            return CloseReason.IDLE_TIMEOUT
        if self.idle_count >= limits.max_idle:
            return CloseReason.MAX_IDLE
        conn.idle_since = now
        lane = self._lanes.get(limit)
        if lane is None:
            lane = self._open_lane(limit)
        lane[conn] = None
        return None

    def discard(self, conn: C) -> None:
        """An idle connection died or broke: it is no longer handed out. Does nothing if it is not idle."""
        for lane in self._lanes.values():
            if conn in lane:
                del lane[conn]
                return

    def expire(self, now: float) -> Sequence[tuple[C, CloseReason]]:
        """Takes out the connections that have reached their idle limit, for the caller to close."""
        expired: list[tuple[C, CloseReason]] | None = None
        for limit, lane in self._lanes.items():
            while lane:
                oldest = next(iter(lane))
                if now < oldest.idle_since + limit:  # the same sum as in next_expiry, to the last bit
                    break
                del lane[oldest]
                expired = expired or []
                expired.append((oldest, CloseReason.IDLE_TIMEOUT))
        return expired or _NOTHING

    def next_expiry(self) -> float | None:
        """When the next idle connection reaches its idle limit; None if none ever does. `max_age` needs no timer."""
        soonest = min((next(iter(lane)).idle_since + limit for limit, lane in self._lanes.items() if lane), default=inf)
        return None if soonest == inf else soonest

    def drain(self) -> Sequence[tuple[C, CloseReason]]:
        """Takes out all idle connections, for the caller to close. From now on none is parked."""
        self._draining = True
        drained = [(conn, CloseReason.DRAINED) for lane in self._lanes.values() for conn in lane]
        self._lanes.clear()
        return drained

    def _next_lane(self) -> OrderedDict[C, None] | None:
        """The lane whose end is the next connection to reuse."""
        if len(self._lanes) == 1:  # the usual case
            (lane,) = self._lanes.values()
            return lane or None
        newest = self.limits.order == "newest"
        best, best_since = None, 0.0
        for lane in self._lanes.values():
            if lane:
                since = next(reversed(lane) if newest else iter(lane)).idle_since
                if best is None or (since > best_since) is newest:
                    best, best_since = lane, since
        return best

    def _open_lane(self, limit: float) -> OrderedDict[C, None]:
        """A lane for a limit not seen lately. Empty ones go, so that odd hints cannot pile up."""
        self._lanes = {old: lane for old, lane in self._lanes.items() if lane}
        lane = self._lanes[limit] = OrderedDict()
        return lane
