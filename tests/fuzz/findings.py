"""What a fuzz target reports, and how long it goes on.

Every trial has a seed of its own, made of the target's seed and the trial's number; a finding names it, and the same
seed with `--count 1` plays that trial again.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic, thread_time
from typing import NamedTuple, Protocol

HANG_S = 0.05  # CPU seconds that one trial may take
MOST_FINDINGS = 5  # then the target stops: the first ones say enough


class Finding(NamedTuple):
    """One thing that must not be. `seed` reproduces it, `data` is what was fed in."""

    seed: int
    what: str
    data: bytes


class Result(NamedTuple):
    """What a run of one target came to."""

    trials: int
    seconds: float
    findings: list[Finding]

    def __str__(self) -> str:
        rate = self.trials / self.seconds if self.seconds else 0.0
        return f"{self.trials:>8} trials  {rate:>8.0f}/s  {len(self.findings)} findings"


class Runs(Protocol):
    """A target: runs for so many seconds, or so many trials."""

    def __call__(self, seed: int, seconds: float | None = None, count: int | None = None) -> Result: ...


class Run:
    """Deals out seeds until the time or the count is used up, and collects what is found."""

    def __init__(self, seed: int, seconds: float | None = None, count: int | None = None) -> None:
        if (seconds is None) == (count is None):
            raise ValueError("give seconds or a count, and not both")
        self.seed, self.seconds, self.most = seed, seconds, count
        self.count = 0
        self.findings: list[Finding] = []
        self.began = monotonic()

    def seeds(self) -> Iterator[int]:
        while len(self.findings) < MOST_FINDINGS:
            if self.most is not None and self.count >= self.most:
                return
            if self.seconds is not None and monotonic() - self.began >= self.seconds:
                return
            yield self.seed + self.count
            self.count += 1

    def found(self, seed: int, what: str, data: bytes) -> None:
        self.findings.append(Finding(seed, what, data))

    def result(self) -> Result:
        return Result(self.count, monotonic() - self.began, self.findings)


class Stopwatch:
    """CPU time of this thread: a busy machine must not look like a hang."""

    def __init__(self) -> None:
        self._began = thread_time()

    def hung(self) -> bool:
        return thread_time() - self._began > HANG_S
