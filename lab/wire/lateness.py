"""How late the wire handed things over: counts per step of 10 µs, so that a long run costs no more than a short one."""

from __future__ import annotations

STEP_NS = 10_000


class Lateness:
    """Collects nanoseconds, answers percentiles in milliseconds, each to 10 µs and never too small."""

    def __init__(self) -> None:
        self.count = 0
        self._max_ns = 0
        self._steps: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Lateness of {self.count}, p99 {self.percentile_ms(0.99)} ms>"

    def add(self, late_ns: int) -> None:
        step = late_ns // STEP_NS
        self._steps[step] = self._steps.get(step, 0) + 1
        self.count += 1
        if late_ns > self._max_ns:
            self._max_ns = late_ns

    def percentile_ms(self, share: float) -> float | None:
        """The upper edge of the step below which `share` of the values lie; None without values."""
        left = share * self.count
        for step in sorted(self._steps):
            left -= self._steps[step]
            if left <= 0:
                return (step + 1) * STEP_NS / 1e6
        return None

    @property
    def max_ms(self) -> float | None:
        return round(self._max_ns / 1e6, 3) if self.count else None
