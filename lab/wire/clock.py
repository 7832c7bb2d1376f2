"""How far wall-clock time is ahead of CLOCK_MONOTONIC. Captures are stamped in the first, evidence in the second."""

from __future__ import annotations

from time import monotonic_ns, time_ns

GOOD_ENOUGH_NS = 20_000
TRIES = 5


def wall_minus_monotonic() -> int:
    """Nanoseconds. Between the two readings the process may be put aside: the closest pair of some tries counts."""
    best_gap, best = 1 << 62, 0
    for _ in range(TRIES):
        before = monotonic_ns()
        wall = time_ns()
        after = monotonic_ns()
        if after - before < best_gap:
            best_gap, best = after - before, wall - (before + after) // 2
        if best_gap < GOOD_ENOUGH_NS:
            break
    return best
