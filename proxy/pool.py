"""The connections to one upstream: which idle one is reused, and when one is reused no more.

Rules of this file:

- No clock and no I/O: `now` is an argument, in seconds. Methods return what the caller must close, and why.
- "No longer reused" and "closed" are two moments. `acquire` is exact: it never hands out a connection that has reached
  a limit, however late the timer that calls `expire` runs.
- A hint from the upstream may shorten the idle limit of one connection. Connections with the same limit form a lane,
  and a lane is in order of expiry because it is in order of parking. There is one lane, or a few.
- Before the moment `expires` no parked connection reaches a limit. So the usual `acquire` compares one number.
- `reserve` and `closed` count connections from before the connect until they are gone, idle or not.
"""

from __future__ import annotations

from collections import deque
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

    __slots__ = (
        "_lane",
        "_lane_limit",
        "_lanes",
        "_max_age",
        "_max_idle",
        "_max_requests",
        "_mortal",
        "_newest",
        "draining",
        "expires",
        "idle_count",
        "idle_timeout",
        "limits",
        "open_count",
    )

    def __init__(self, limits: PoolLimits, idle_timeout: float) -> None:
        self.open_count = 0
        self.idle_count = 0
        self.expires = inf  # never later than the moment at which the first parked connection reaches a limit
        self.draining = False
        self._lanes: dict[float, deque[C]] = {}  # by idle limit; each from oldest to newest
        self._lane: deque[C] = deque()  # the one that was parked in last, or the only one
        self._lane_limit = -inf
        self.configure(limits, idle_timeout)

    def configure(self, limits: PoolLimits, idle_timeout: float) -> None:
        """Other limits from now on, also for what is parked. `expire` then tells what they close."""
        self.limits = limits
        self.idle_timeout = float(idle_timeout)  # not one of a class of ours: adding to those is slow, each request
        self._newest = limits.order == "newest"
        self._max_requests = limits.max_requests or inf
        self._max_age = limits.max_age
        self._mortal = limits.max_requests > 0 or limits.max_age < inf  # a connection ends, however often it is used
        self._max_idle = -1 if self.draining else int(limits.max_idle)
        parked = sorted((conn for lane in self._lanes.values() for conn in lane), key=lambda conn: conn.idle_since)
        self._lanes.clear()
        self._lane, self._lane_limit = deque(), -inf
        for conn in parked:
            self._use_lane(min(idle_timeout, conn.idle_limit))
            self._lane.append(conn)
        if parked:
            self.expires = -inf

    def __repr__(self) -> str:
        state = "DRAINING" if self.draining else "OPEN"
        return (
            f"<ConnectionPool {state}, {self.open_count} of {self.limits.max_connections} open, "
            f"{self.idle_count} idle, {self.limits.order} first>"
        )

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
        expired = self.expire(now) if now >= self.expires else _NOTHING
        lane = self._lane if len(self._lanes) < 2 else self._next_lane()  # one lane is the usual case
        if not lane:
            return None, expired
        self.idle_count -= 1
        return (lane.pop() if self._newest else lane.popleft()), expired

    def release(self, conn: C, now: float) -> CloseReason | None:
        """Parks a connection after a response. If a reason is returned it is not parked, and the caller closes it."""
        limit = conn.idle_limit
        if limit >= self.idle_timeout:
            limit = self.idle_timeout
        expires = now + limit
        if self._mortal:
            expires = min(expires, conn.opened_at + self._max_age)
        if (
            expires <= now
            or self.idle_count >= self._max_idle
            or (self._mortal and conn.requests >= self._max_requests)
        ):
            return self._why_not(conn, now, limit)
        if limit != self._lane_limit:
            self._use_lane(limit)
        conn.idle_since = now
        self._lane.append(conn)
        self.idle_count += 1
        if expires < self.expires:
            self.expires = expires
        return None

    def discard(self, conn: C) -> None:
        """An idle connection died or broke: it is no longer handed out. Does nothing if it is not idle."""
        for lane in self._lanes.values():
            if conn in lane:
                lane.remove(conn)
                self.idle_count -= 1
                return

    def expire(self, now: float) -> Sequence[tuple[C, CloseReason]]:
        """Takes out the connections that have reached a limit, for the caller to close."""
        if now < self.expires:
            return _NOTHING
        expired: list[tuple[C, CloseReason]] = []
        for limit, lane in self._lanes.items():
            while lane:
                if now < lane[0].idle_since + limit:  # the same sum as in next_expiry, to the last bit
                    break
                expired.append((lane.popleft(), CloseReason.IDLE_TIMEOUT))
            if self._max_age < inf:
                aged = [conn for conn in lane if now >= conn.opened_at + self._max_age]
                for conn in aged:
                    lane.remove(conn)
                    expired.append((conn, CloseReason.MAX_AGE))
        self.idle_count -= len(expired)
        self.expires = self._next_expiry()
        return expired or _NOTHING

    def surplus(self) -> Sequence[tuple[C, CloseReason]]:
        """Takes out the idle connections beyond `max_idle`, which may be less now: those that are idle longest."""
        surplus: list[tuple[C, CloseReason]] = []
        while self.idle_count > max(0, self._max_idle):
            lane = min((lane for lane in self._lanes.values() if lane), key=lambda lane: lane[0].idle_since)
            surplus.append((lane.popleft(), CloseReason.MAX_IDLE))
            self.idle_count -= 1
        return surplus

    def next_expiry(self) -> float | None:
        """When the next idle connection reaches a limit; None if none ever does."""
        self.expires = self._next_expiry()
        return None if self.expires == inf else self.expires

    def drain(self) -> Sequence[tuple[C, CloseReason]]:
        """Takes out all idle connections, for the caller to close. From now on none is parked."""
        self.draining = True
        self._max_idle = -1
        drained = [(conn, CloseReason.DRAINED) for lane in self._lanes.values() for conn in lane]
        self._lanes.clear()
        self._lane, self._lane_limit = deque(), -inf
        self.idle_count = 0
        self.expires = inf
        return drained

    def _why_not(self, conn: C, now: float, limit: float) -> CloseReason:
        """Why a connection is not parked."""
        if self.draining:
            return CloseReason.DRAINED
        if conn.requests >= self._max_requests:
            return CloseReason.MAX_REQUESTS
        if conn.opened_at + self._max_age <= now:
            return CloseReason.MAX_AGE
        return CloseReason.IDLE_TIMEOUT if now + limit <= now else CloseReason.MAX_IDLE

    def _next_expiry(self) -> float:
        soonest = min((lane[0].idle_since + limit for limit, lane in self._lanes.items() if lane), default=inf)
        if self._max_age < inf:
            for lane in self._lanes.values():
                soonest = min(soonest, min((conn.opened_at + self._max_age for conn in lane), default=inf))
        return soonest

    def _next_lane(self) -> deque[C]:
        """The lane whose end is the next connection to reuse; an empty one if none is idle."""
        lanes = [lane for lane in self._lanes.values() if lane] or [self._lane]
        if self._newest:
            return max(lanes, key=lambda lane: lane[-1].idle_since) if lanes[0] else lanes[0]
        return min(lanes, key=lambda lane: lane[0].idle_since) if lanes[0] else lanes[0]

    def _use_lane(self, limit: float) -> None:
        """Parks in the lane for another limit. Empty ones go, so that odd hints cannot pile up."""
        lane = self._lanes.get(limit)
        if lane is None:
            self._lanes = {old: lane for old, lane in self._lanes.items() if lane}
            lane = self._lanes[limit] = deque()
        self._lane, self._lane_limit = lane, limit
