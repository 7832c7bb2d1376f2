"""From rounds to a table, and whether the table may be believed. Pure functions.

Rules of this file:

- The cost is CPU time per completed request, or per MiB where one request is a whole download; medians over rounds,
  with the range beside them.
- The ratio to the yardstick is taken within a round, where both met the same machine; then its median.
- A target is met or missed by that median. Nothing is said of a table that is in doubt.
- Whoever answers fast enough to be bored was not measured: if a contestant was runnable for less than `SATURATED` of
  a round, the load generator or the upstream was the limit, and the result is inconclusive. At a fixed rate, being
  bored is the point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from bench.workloads import MIB, Workload

ENOUGH_ROUNDS = 5
SATURATED = 0.9
OTHERS_MATTER = 0.1  # of a core, taken by what does not belong to the benchmark
STOLEN_AT_MOST = 0.02
SPREAD_AT_MOST = 0.5
ON_SCHEDULE = 0.9  # of the requests that a fixed rate asks for; each connection pauses before its first, too
CONTROL = "direct"
OURS = ("kalab", "kalab-compiled")
SHARES = {"load generator": "load_share", "upstream": "upstream_share", "others": "others_share"}


class Round(NamedTuple):
    """One contestant in one round. Times in seconds unless named otherwise; shares are of the round's wall time.

    `runnable` counts running and waiting for a core; `load_share`, `upstream_share` and `others_share` are the CPU of
    wrk, of the upstream, and of whatever else ran on the machine. `units`: what the cost is counted per.
    A round that could not be driven has `failed` set and nothing else.
    """

    number: int
    workload: str
    contestant: str
    requests: int = 0
    units: float = 0.0
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
        return not self.failed and not self.errors and self.units > 0

    @property
    def cpu_us(self) -> float:
        """CPU microseconds per unit, user and system, of all the contestant's processes."""
        return (self.user_s + self.system_s) / self.units * 1e6

    @property
    def user_us(self) -> float:
        """Of it in user mode."""
        return self.user_s / self.units * 1e6

    @property
    def per_s(self) -> float:
        """Units a second."""
        return self.units / self.seconds


Latency = Callable[[Round], float]
LATENCIES: dict[str, Latency] = {"p50": lambda r: r.p50_ms, "p99": lambda r: r.p99_ms}


def units_of(load: Workload, requests: int, received: int) -> float:
    """What was done, in the workload's unit."""
    return received / MIB if load.unit == "MiB" else float(requests)


def doubts(load: Workload, rounds: Sequence[Round], *, cores: int) -> list[str]:
    """Every reason not to believe these rounds of one table; none means that they stand."""
    found = [] if cores >= 2 else ["one core: contestant, load generator and upstream shared it"]
    for name in dict.fromkeys(r.contestant for r in rounds):
        own = [r for r in rounds if r.contestant == name]
        found += [f"{name}: {doubt}" for doubt in _doubts_of_one(load, own, proxied=name != CONTROL)]
    return found


def _doubts_of_one(load: Workload, rounds: Sequence[Round], *, proxied: bool) -> list[str]:
    found = list(dict.fromkeys(r.failed for r in rounds if r.failed))
    found += [f"errors in round {r.number}: {_counts(r.errors)}" for r in rounds if r.errors]
    found += [f"nothing completed in round {r.number}" for r in rounds if not (r.failed or r.errors or r.units)]
    whole = [r for r in rounds if r.whole]
    if len(whole) < ENOUGH_ROUNDS:
        found.append(f"{len(whole)} whole rounds, a measurement takes {ENOUGH_ROUNDS}")
    if any(r.stolen_share > STOLEN_AT_MOST for r in whole):
        worst = max(r.stolen_share for r in whole)
        found.append(f"the hypervisor took {worst:.0%} of a core away; run it on a quieter machine")
    if load.rate:
        late = [r for r in whole if r.requests < ON_SCHEDULE * load.rate * r.seconds]
        found += [f"{r.requests / r.seconds:.0f} requests a second in round {r.number}, not {load.rate}" for r in late]
        return found
    if not (proxied and whole):
        return found
    runnable, *shares = (median(getattr(r, name) for r in whole) for name in ("runnable", *SHARES.values()))
    if runnable < SATURATED:
        who = ", ".join(f"{title} {share:.0%}" for title, share in zip(SHARES, shares, strict=True))
        why = "the load generator or the upstream was the limit"
        if shares[-1] >= OTHERS_MATTER:
            why = "other programs kept the load generator or the upstream from working"
        found.append(
            f"at work for only {runnable:.0%} of the time: {why} (of a core: {who}); "
            "give them more cores or a quieter machine"
        )
    costs = [r.cpu_us for r in whole]
    spread = (max(costs) - min(costs)) / median(costs)
    if spread > SPREAD_AT_MOST:
        found.append(f"rounds differ by {spread:.0%} of the median; run it on a quieter machine")
    return found


def conclusion(load: Workload, rounds: Sequence[Round], name: str) -> str:
    """One of ours beside the target, in one sentence; empty when there is none, or either was not measured."""
    ours, theirs = ([r for r in rounds if r.contestant == each and r.whole] for each in (name, load.yardstick))
    if not (load.target and ours and theirs):
        return ""
    if load.rate:
        ratios = [_ratio_added(value, ours, theirs, rounds) for value in LATENCIES.values()]
        if None in ratios:
            return ""
        found = " and ".join(f"{p} {ratio:.2f} ×" for p, ratio in zip(LATENCIES, ratios, strict=True))
        met = all(ratio is not None and ratio <= load.target for ratio in ratios)
        return f"{name}: target {_met(met)}: adds {found} what {load.yardstick} adds, allowed {load.target:g} ×."
    costs = against(load.yardstick, ours, rounds)
    if not costs:
        return ""
    met = median(costs) <= load.target
    return f"{name}: target {_met(met)}: {with_range(costs, '.2f')} × {load.yardstick}, allowed {load.target:g} ×."


def _met(met: bool) -> str:
    return "met" if met else "missed"


def _ratio_added(
    value: Latency, ours: Sequence[Round], theirs: Sequence[Round], rounds: Sequence[Round]
) -> float | None:
    """Of the medians: latencies of single rounds are too near each other to divide."""
    mine, yours = added(value, ours, rounds), added(value, theirs, rounds)
    return median(mine) / median(yours) if mine and yours and median(yours) > 0 else None


def table(load: Workload, rounds: Sequence[Round], titles: Mapping[str, str]) -> str:
    """The Markdown table of one workload, a row for each title: measured, or why not."""
    extra = [f"added {p} ms" for p in LATENCIES] if load.rate else []
    head = ["contestant", f"CPU µs/{load.unit}", "user", "system", f"× {load.yardstick}", f"{load.unit}/s"]
    head += ["p50 ms", "p99 ms", *extra, "rounds"]
    lines = [_row(head), _row(["---"] * len(head))]
    for name, title in titles.items():
        whole = [r for r in rounds if r.contestant == name and r.whole]
        lines.append(_row([title, *_cells(load, name, whole, rounds)]))
    return "\n".join(lines)


def _cells(load: Workload, name: str, whole: Sequence[Round], rounds: Sequence[Round]) -> list[str]:
    if not whole:
        return ["not measured", *["–"] * (8 if load.rate else 6), "0"]

    def over(value: Callable[[Round], float], form: str) -> str:
        return with_range([value(r) for r in whole], form)

    cost = ["–"] * 4
    if name != CONTROL:
        ratios = against(load.yardstick, whole, rounds)
        cost = [over(lambda r: r.cpu_us, ".1f"), f"{median(r.user_us for r in whole):.1f}"]
        cost += [f"{median(r.cpu_us - r.user_us for r in whole):.1f}", with_range(ratios, ".2f") if ratios else "–"]
    speed = [over(lambda r: r.per_s, ",.0f"), over(lambda r: r.p50_ms, ".2f"), over(lambda r: r.p99_ms, ".2f")]
    if load.rate:
        for value in LATENCIES.values():
            differences = added(value, whole, rounds)
            speed.append(with_range(differences, ".3f") if differences and name != CONTROL else "–")
    return [*cost, *speed, str(len(whole))]


def against(yardstick: str, own: Sequence[Round], rounds: Sequence[Round]) -> list[float]:
    """Cost relative to the yardstick's in the same round, for the rounds in which both were whole."""
    measure = {r.number: r.cpu_us for r in rounds if r.contestant == yardstick and r.whole}
    return [r.cpu_us / measure[r.number] for r in own if r.number in measure]


def added(value: Latency, own: Sequence[Round], rounds: Sequence[Round]) -> list[float]:
    """What a contestant adds to the control's latency in the same round."""
    without = {r.number: value(r) for r in rounds if r.contestant == CONTROL and r.whole}
    return [value(r) - without[r.number] for r in own if r.number in without]


def with_range(values: Sequence[float], form: str) -> str:
    """The median, and the range when there is more than one value: `15.1 (14.8–15.9)`."""
    middle = format(median(values), form)
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}}–{max(values):{form}})"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _counts(errors: dict[str, int] | None) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in (errors or {}).items())
