"""How late the loop runs: what a callback that hogs it, or a host that is too busy, does to everything else.

A tick comes every 100 ms, and how late it comes is how long anything else that was due then had to wait. It costs the
loop ten callbacks a second. uvloop keeps its own time once a turn and in milliseconds, so the clock here is
`time.monotonic`; a tick that fires early, by that rounding, is not late.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, TimerHandle
from time import monotonic
from typing import Final

from proxy.observe.counters import Histogram

EVERY_S: Final = 0.1
BOUNDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)  # seconds
SPAN_S: Final = 5.0  # the worst is remembered per span, for so many of them
SPANS: Final = 12


class LoopLag:
    """Measures one loop, from `start` to `close`."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.histogram = Histogram.of(BOUNDS)
        self._loop = loop
        self._handle: TimerHandle | None = None
        self._due = 0.0
        self._worst = [0.0] * SPANS  # by span, in a circle
        self._span = 0  # number of the one at hand

    def __repr__(self) -> str:
        return f"<LoopLag {sum(self.histogram.counts)} ticks, {self.worst() * 1e3:.1f} ms late at worst>"

    def worst(self) -> float:
        """How late it was at most within the last minute, in seconds; one that is overdue right now counts."""
        now = monotonic()
        self._forget_until(now)
        overdue = now - self._due if self._handle is not None else 0.0
        return max(*self._worst, overdue)

    def start(self) -> None:
        self._arm(monotonic())

    def close(self) -> None:
        """Idempotent."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self, now: float) -> None:
        self._due = now + EVERY_S
        self._handle = self._loop.call_later(EVERY_S, self._tick)

    def _tick(self) -> None:
        now = monotonic()
        late = max(0.0, now - self._due)
        self.histogram.add(late)
        self._forget_until(now)
        at = self._span % SPANS
        self._worst[at] = max(self._worst[at], late)
        self._arm(now)

    def _forget_until(self, now: float) -> None:
        """Opens the span that `now` falls into, and clears those it takes the place of."""
        span = int(now / SPAN_S)
        for skipped in range(max(self._span, span - SPANS) + 1, span + 1):
            self._worst[skipped % SPANS] = 0.0
        self._span = span
