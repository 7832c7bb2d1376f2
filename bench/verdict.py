"""From rounds to a table, and whether the table may be believed. Pure functions.

Rules of this file:

- The cost is CPU time per completed request; medians over rounds, with the range beside them.
- "against nginx" compares within a round, where both met the same machine, and only then takes the median.
- Whoever answers fast enough to be bored was not measured: if a contestant was runnable for less than
  `SATURATED` of a round, the load generator or the upstream was the limit, and the result is inconclusive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

ENOUGH_ROUNDS = 5
SATURATED = 0.9
STOLEN_AT_MOST = 0.02
SPREAD_AT_MOST = 0.5
YARDSTICK = "nginx"
SHARES = {"load generator": "load_share", "upstream": "upstream_share", "others": "others_share"}


class Round(NamedTuple):
    """One contestant in one round. Times in seconds unless named otherwise; shares are of the round's wall time.

    `runnable` counts running and waiting for a core; `load_share`, `upstream_share` and `others_share` are the CPU of
    wrk, of the upstream, and of whatever else ran on the machine.
    A round that could not be driven has `failed` set and nothing else.
    """

    number: int
    heads: str
    contestant: str
    requests: int = 0
    seconds: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    errors: dict[str, int] | None = None
    user_s: float = 0.0
    system_s: float = 0.0
    runnable: float = 0.0
    load_share: float = 0.0
    upstream_share: float = 0.0
    others_share: float = 0.0
    stolen_share: float = 0.0
    failed: str = ""

    @property
    def whole(self) -> bool:
        """Driven to the end, with every request answered as it should be."""
        return not self.failed and not self.errors and self.requests > 0

    @property
    def cpu_us(self) -> float:
        """CPU microseconds per completed request, user and system, of all the contestant's processes."""
        return (self.user_s + self.system_s) / self.requests * 1e6

    @property
    def user_us(self) -> float:
        """Of it in user mode."""
        return self.user_s / self.requests * 1e6

    @property
    def per_s(self) -> float:
        """Completed requests per second."""
        return self.requests / self.seconds


def doubts(rounds: Sequence[Round], *, cores: int) -> list[str]:
    """Every reason not to believe these rounds of one table; none means that they stand."""
    found = [] if cores >= 2 else ["one core: contestant, load generator and upstream shared it"]
    for name in dict.fromkeys(r.contestant for r in rounds):
        own = [r for r in rounds if r.contestant == name]
        found += [f"{name}: {doubt}" for doubt in _doubts_of_one(own, proxied=name != "direct")]
    return found


def _doubts_of_one(rounds: Sequence[Round], *, proxied: bool) -> list[str]:
    found = list(dict.fromkeys(r.failed for r in rounds if r.failed))
    found += [f"errors in round {r.number}: {_counts(r.errors)}" for r in rounds if r.errors]
    found += [f"no request completed in round {r.number}" for r in rounds if not (r.failed or r.errors or r.requests)]
    whole = [r for r in rounds if r.whole]
    if len(whole) < ENOUGH_ROUNDS:
        found.append(f"{len(whole)} whole rounds, a measurement takes {ENOUGH_ROUNDS}")
    if any(r.stolen_share > STOLEN_AT_MOST for r in whole):
        worst = max(r.stolen_share for r in whole)
        found.append(f"the hypervisor took {worst:.0%} of a core away; run it on a quieter machine")
    if not (proxied and whole):
        return found
    runnable, *shares = (median(getattr(r, name) for r in whole) for name in ("runnable", *SHARES.values()))
    if runnable < SATURATED:
        who = ", ".join(f"{title} {share:.0%}" for title, share in zip(SHARES, shares, strict=True))
        found.append(
            f"at work for only {runnable:.0%} of the time: the load generator or the upstream was the limit "
            f"(of a core: {who}); give them more cores or a quieter machine"
        )
    costs = [r.cpu_us for r in whole]
    spread = (max(costs) - min(costs)) / median(costs)
    if spread > SPREAD_AT_MOST:
        found.append(f"rounds differ by {spread:.0%} of the median; run it on a quieter machine")
    return found


def table(rounds: Sequence[Round], titles: dict[str, str]) -> str:
    """The Markdown table of one kind of head, a row for each title: measured, or why not."""
    head = ("contestant", "CPU µs/request", "user", "system", "against nginx", "req/s", "p50 ms", "p99 ms", "rounds")
    lines = [_row(head), _row(["---"] * len(head))]
    for name, title in titles.items():
        whole = [r for r in rounds if r.contestant == name and r.whole]
        lines.append(_row([title, *_cells(name, whole, rounds)]))
    return "\n".join(lines)


def _cells(name: str, whole: Sequence[Round], rounds: Sequence[Round]) -> list[str]:
    if not whole:
        return ["not measured"] + ["–"] * 6 + ["0"]

    def over(value: Callable[[Round], float], form: str) -> str:
        return with_range([value(r) for r in whole], form)

    cost = ["–"] * 4
    if name != "direct":
        ratios = against(YARDSTICK, whole, rounds)
        cost = [over(lambda r: r.cpu_us, ".1f"), f"{median(r.user_us for r in whole):.1f}"]
        cost += [f"{median(r.cpu_us - r.user_us for r in whole):.1f}", with_range(ratios, ".2f") if ratios else "–"]
    speed = [over(lambda r: r.per_s, ",.0f"), over(lambda r: r.p50_ms, ".2f"), over(lambda r: r.p99_ms, ".2f")]
    return [*cost, *speed, str(len(whole))]


def against(yardstick: str, own: Sequence[Round], rounds: Sequence[Round]) -> list[float]:
    """Cost relative to the yardstick's in the same round, for the rounds in which both were whole."""
    measure = {r.number: r.cpu_us for r in rounds if r.contestant == yardstick and r.whole}
    return [r.cpu_us / measure[r.number] for r in own if r.number in measure]


def with_range(values: Sequence[float], form: str) -> str:
    """The median, and the range when there is more than one value: `15.1 (14.8–15.9)`."""
    middle = format(median(values), form)
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}}–{max(values):{form}})"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _counts(errors: dict[str, int] | None) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in (errors or {}).items())
