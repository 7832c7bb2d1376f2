"""A timer that is cheap to move.

Most timers of a proxy are moved far more often than they fire. Rules of this file:

- Moving a deadline later writes a float. The loop's own timer is touched only when it must fire sooner; when it fires
  too early, it re-arms itself.
- It never fires early, although the loop's timers may (uvloop counts in whole milliseconds). It may fire a millisecond
  or two late.
- One `Deadline` per connection bounds whatever that connection waits for now.
- Its clock is the loop's, which is `time.monotonic()`: whoever has read that already passes it on to `until`.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from math import inf

SHORTEST_WAIT_S = 0.001  # uvloop rounds a shorter one to zero, and would spin until the clock has caught up


class Deadline:
    """Calls `on_expired` once when the time set last has passed. Starts cleared."""

    __slots__ = ("_armed", "_handle", "_loop", "_on_expired", "_when")

    def __init__(self, loop: AbstractEventLoop, on_expired: Callable[[], None]) -> None:
        self._loop = loop
        self._on_expired = on_expired
        self._when = inf
        self._armed = inf  # when the loop's timer fires; inf: there is none; -inf: there will be none any more
        self._handle: TimerHandle | None = None

    def __repr__(self) -> str:
        if self._armed == -inf:
            return "<Deadline closed>"
        if self._when == inf:
            return "<Deadline cleared>"
        return f"<Deadline in {self._when - self._loop.time():.3f} s>"

    def set(self, seconds: float) -> None:
        """Expires in so many seconds from now, whatever was set before. `inf` clears. Does nothing once closed."""
        self.until(self._loop.time() + seconds)

    def until(self, when: float) -> None:
        """Expires at this moment, in seconds of `time.monotonic()`. Otherwise as `set`."""
        self._when = when
        if when < self._armed:
            self._arm(when)

    def clear(self) -> None:
        """Does not expire until set again."""
        self._when = inf

    def close(self) -> None:
        """Never expires again, and lets go of the loop's timer and of the owner. Idempotent.

        Without the latter each of millions of connections would be a cycle, which only the collector takes apart.
        """
        self._when = inf
        self._armed = -inf
        self._on_expired = _nothing
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self, when: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._armed = when
        self._handle = self._loop.call_later(max(when - self._loop.time(), SHORTEST_WAIT_S), self._fire)

    def _fire(self) -> None:
        self._handle = None
        self._armed = inf
        when = self._when
        if when == inf:
            return  # cleared meanwhile; the next set() arms again
        if when > self._loop.time():
            self._arm(when)  # moved later meanwhile
        else:
            self._when = inf
            self._on_expired()


def _nothing() -> None:
    pass
