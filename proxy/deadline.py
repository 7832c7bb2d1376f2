"""A timer that is cheap to move.

Most timers of a proxy are moved far more often than they fire. Rules of this file:

- Moving a deadline later writes a float. The loop's own timer is touched only when it must fire sooner; when it fires
  too early, it re-arms itself.
- It never fires early, although the loop's timers may (uvloop counts in whole milliseconds). It may fire a millisecond
  or two late.
- One `Deadline` per connection bounds whatever that connection waits for now.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from math import inf

SHORTEST_WAIT_S = 0.001  # uvloop rounds a shorter one to zero, and would spin until the clock has caught up


class Deadline:
    """Calls `on_expired` once when the time set last has passed. Starts cleared."""

    __slots__ = ("_closed", "_handle", "_loop", "_on_expired", "_when")

    def __init__(self, loop: AbstractEventLoop, on_expired: Callable[[], None]) -> None:
        self._loop = loop
        self._on_expired = on_expired
        self._when = inf
        self._handle: TimerHandle | None = None
        self._closed = False

    def __repr__(self) -> str:
        if self._closed:
            return "<Deadline closed>"
        if self._when == inf:
            return "<Deadline cleared>"
        return f"<Deadline in {self._when - self._loop.time():.3f} s>"

    def set(self, seconds: float) -> None:
        """Expires in so many seconds from now, whatever was set before. `inf` clears. Does nothing once closed."""
        self._when = when = self._loop.time() + seconds
        if self._handle is None:
            if when != inf and not self._closed:
                self._arm(seconds)
        elif when < self._handle.when():
            self._handle.cancel()
            self._arm(seconds)

    def clear(self) -> None:
        """Does not expire until set again."""
        self._when = inf

    def close(self) -> None:
        """Never expires again, and lets go of the loop's timer and with it of the owner. Idempotent."""
        self._closed = True
        self._when = inf
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self, seconds: float) -> None:
        self._handle = self._loop.call_later(max(seconds, SHORTEST_WAIT_S), self._fire)

    def _fire(self) -> None:
        self._handle = None
        if self._when == inf:
            return  # cleared meanwhile; the next set() arms again
        left = self._when - self._loop.time()
        if left > 0:
            self._arm(left)  # moved later meanwhile
        else:
            self._when = inf
            self._on_expired()
