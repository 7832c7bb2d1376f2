"""Two runs of one scenario side by side: what was set up otherwise, and which differences are more than chance.

Pure: two stored runs in, a comparison out. Rules of this file:

- Arms are compared by their exposed requests, with Fisher's exact test. Of many arms one would differ by chance alone,
  so the level is divided by the number of tests (Bonferroni).
- The second run is judged against the first. More lost, or more executed twice, is worse, and so is an arm that is not
  as expected any more. What may be chance is no difference, but it is no proof of none either.
- A run that was no experiment, an arm that was not settled, or one with too few requests to tell all from none leaves
  the comparison open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum

import msgspec

from lab.errors import UsageError
from lab.model import Verdict
from lab.plan import Plan, Setup
from lab.result import ArmResult, RunResult
from lab.stats import differ_by_chance, interval

LEVEL = 0.05
"""How often two runs that differ by chance only may be told to differ, in any of their arms."""


class Outcome(StrEnum):
    """What the second run is, beside the first."""

    ALIKE = "alike"
    BETTER = "better"
    WORSE = "worse"
    INCONCLUSIVE = "inconclusive"

    @property
    def verdict(self) -> Verdict:
        """Alike and better pass, worse fails."""
        return {Outcome.WORSE: Verdict.FAIL, Outcome.INCONCLUSIVE: Verdict.INCONCLUSIVE}.get(self, Verdict.PASS)

    @staticmethod
    def of_all(outcomes: Sequence[Outcome]) -> Outcome:
        """What is worse outweighs what is open, and that what is better."""
        order = (Outcome.WORSE, Outcome.INCONCLUSIVE, Outcome.BETTER, Outcome.ALIKE)
        return next((each for each in order if each in outcomes), Outcome.INCONCLUSIVE)


class Difference(msgspec.Struct, frozen=True):
    """One thing that was otherwise in the second run."""

    what: str
    first: str
    second: str


class Side(msgspec.Struct, frozen=True):
    """One arm in one of the runs."""

    verdict: Verdict
    lost: int
    exposed: int
    low: float
    high: float
    executed_twice: int
    aimed: int


class Pair(msgspec.Struct, frozen=True):
    """One arm with one method in both runs. `chance`: how likely chance alone makes them lose so differently."""

    arm: str
    method: str
    first: Side
    second: Side
    chance: float
    chance_twice: float
    outcome: Outcome
    because: str


class Comparison(msgspec.Struct, frozen=True):
    """The second run beside the first."""

    scenario: str
    first: str
    second: str
    outcome: Outcome
    verdict: Verdict
    story: tuple[str, ...]
    setup: tuple[Difference, ...]
    environment: tuple[Difference, ...]
    level: float
    """Below which a chance counts as none, after the correction for the number of tests."""
    tests: int
    pairs: tuple[Pair, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]


class Stored(msgspec.Struct, frozen=True):
    """A run, as it is compared. `changed`: what was changed in its folder since, one sentence each."""

    name: str
    plan: Plan
    result: RunResult
    changed: tuple[str, ...] = ()


def compare(first: Stored, second: Stored) -> Comparison:
    """Raises UsageError for runs of two scenarios: what they lose is not the same thing."""
    if first.result.scenario != second.result.scenario:
        raise UsageError(
            f"{first.name} is a run of {first.result.scenario} and {second.name} one of {second.result.scenario}: "
            "only runs of the same scenario can be compared"
        )
    ours, theirs = ({f"{arm.arm}.{arm.method}": arm for arm in stored.result.arms} for stored in (first, second))
    both = [(arm, theirs[name]) for name, arm in ours.items() if name in theirs]
    tests = sum(1 + bool(one.executed_twice or other.executed_twice) for one, other in both)
    level = LEVEL / max(1, tests)
    pairs = tuple(_pair(one, other, level) for one, other in both)
    doubts = [*_doubts(first), *_doubts(second)] + ([] if both else ["No arm is in both of them."])
    outcome = Outcome.INCONCLUSIVE if doubts else Outcome.of_all([pair.outcome for pair in pairs])
    setup = tuple(_of_setup(first.plan.setup, second.plan.setup)) + tuple(_of_changes(both))
    return Comparison(
        scenario=first.result.scenario,
        first=first.name,
        second=second.name,
        outcome=outcome,
        verdict=outcome.verdict,
        story=(*doubts, *_story(outcome, pairs, setup, told=not doubts)),
        setup=setup,
        environment=tuple(_between(first.plan.environment, second.plan.environment)),
        level=level,
        tests=tests,
        pairs=pairs,
        only_first=tuple(name for name in ours if name not in theirs),
        only_second=tuple(name for name in theirs if name not in ours),
    )


def _pair(one: ArmResult, other: ArmResult, level: float) -> Pair:
    # A stall that hit one round must not count as often as there were requests in it.
    effect = max(_effect(one), _effect(other))
    n, other_n = round(one.exposed / effect), round(other.exposed / effect)
    chance = differ_by_chance(round(one.lost / effect), n, round(other.lost / effect), other_n)
    twice = differ_by_chance(one.executed_twice, one.aimed, other.executed_twice, other.aimed)
    outcome, because = _judge(one, other, chance, twice, level, enough=differ_by_chance(0, n, other_n, other_n) < level)
    return Pair(one.arm, one.method, _side(one), _side(other), chance, twice, outcome, because)


def _judge(
    one: ArmResult, other: ArmResult, chance: float, twice: float, level: float, *, enough: bool
) -> tuple[Outcome, str]:
    if Verdict.INCONCLUSIVE in (one.verdict, other.verdict):
        return Outcome.INCONCLUSIVE, "it was not settled in both runs"
    if not enough:
        return Outcome.INCONCLUSIVE, "too few requests to tell all lost from none lost"
    broke = one.verdict is Verdict.PASS and other.verdict is Verdict.FAIL
    if twice < level and _share(other.executed_twice, other.aimed) > _share(one.executed_twice, one.aimed):
        return Outcome.WORSE, "more were executed twice"
    if chance < level and _share(other.lost, other.exposed) > _share(one.lost, one.exposed):
        return Outcome.WORSE, "more were lost"
    if min(chance, twice) < level and broke:
        return Outcome.WORSE, "it is not as expected any more"
    if broke:
        return Outcome.INCONCLUSIVE, "it is not as expected any more, which by the counts may be chance"
    if chance < level:
        return Outcome.BETTER, "fewer were lost"
    if twice < level:
        return Outcome.BETTER, "fewer were executed twice"
    return Outcome.ALIKE, "what differs may be chance"


def _effect(arm: ArmResult) -> float:
    """How many of its requests are worth one independent request: its interval is wider by the root of that."""
    plain = interval(arm.lost, arm.exposed)
    if plain.high == plain.low:
        return 1.0
    return max(1.0, ((arm.lost_high - arm.lost_low) / (plain.high - plain.low)) ** 2)


def _share(hits: int, n: int) -> float:
    return hits / n if n else 0.0


def _side(arm: ArmResult) -> Side:
    return Side(arm.verdict, arm.lost, arm.exposed, arm.lost_low, arm.lost_high, arm.executed_twice, arm.aimed)


def _doubts(stored: Stored) -> Iterator[str]:
    """Why this run can be compared with none."""
    for change in stored.changed:
        yield f"{stored.name} is not what it was: {change}."
    for check in stored.result.checks:
        if check.verdict is not Verdict.PASS:
            yield f"{stored.name} was no experiment ({check.name}): {check.sentence}"


# Fields of a setup that say nothing of what was tried.
_NOT_TOLD = ("scenario", "seed", "min_exposed")


def _of_setup(first: Setup, second: Setup) -> Iterator[Difference]:
    return _between(
        *(
            {key: _text(value) for key, value in msgspec.structs.asdict(each).items() if key not in _NOT_TOLD}
            for each in (first, second)
        )
    )


def _of_changes(both: Sequence[tuple[ArmResult, ArmResult]]) -> Iterator[Difference]:
    """What an arm changed in one run otherwise than in the other."""
    seen = set()
    for one, other in both:
        if one.arm not in seen:
            seen.add(one.arm)
            values = ({f"{arm.arm}: {change.key}": change.after for change in arm.changes} for arm in (one, other))
            yield from _between(*values)


def _between(first: Mapping[str, str], second: Mapping[str, str]) -> Iterator[Difference]:
    for key in dict.fromkeys([*first, *second]):
        if first.get(key, "") != second.get(key, ""):
            yield Difference(key, first.get(key, ""), second.get(key, ""))


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}={each}" for key, each in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _story(outcome: Outcome, pairs: Sequence[Pair], setup: Sequence[Difference], *, told: bool) -> Iterator[str]:
    """What it comes to, in sentences."""
    if not told:
        yield "So nothing can be said of what differs."
        return
    for each in (Outcome.WORSE, Outcome.BETTER, Outcome.INCONCLUSIVE):
        for pair in (pair for pair in pairs if pair.outcome is each):
            yield f"{pair.arm}, {pair.method}: {each}; {pair.because}."
    alike = sum(pair.outcome is Outcome.ALIKE for pair in pairs)
    if alike:
        yield f"In {alike} of {len(pairs)} arms and methods what differs may be chance."
    if not setup and outcome in (Outcome.WORSE, Outcome.BETTER):
        yield "Both were set up alike, so look at the environment, or at what has changed in the code."
