"""Trials in, a verdict for each lane out: pure functions, three-valued, composed by the worst.

Rules of this file:

- A lane is judged by its exposed trials only. Too few of them: inconclusive, never pass.
- A fix is credited only if its control broke in the same run.
- What a run as a whole must fulfil is in `lab.soundness`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from lab.forecast import agrees
from lab.model import Aim, Expect, Exposure, Verdict
from lab.plan import EDGE_MS, LanePlan, Plan
from lab.prediction import judge_predicted
from lab.repeats import judge_repeats
from lab.stats import Interval, differ_by_chance, of_rounds
from lab.witness.trials import Trial

# The fewest at which the intervals of "none lost" (0 to 45.9 %) and "all lost" (54.1 to 100 %) lie apart.
FEWEST_EXPOSED = 6
MAX_OUTSIDE_LOST = 0.01

TOO_LATE_FOR_PROOF = "The proxy came late to each of their closes, so the proof may have gone before it looked."

EXPOSED_BY = {
    Aim.HELD_FIN: (Exposure.CROSSED, Exposure.UNREAD),
    Aim.GAPS: (Exposure.CROSSED, Exposure.UNREAD, Exposure.FIN_DELIVERED),
    Aim.LATE_READER: (Exposure.CROSSED, Exposure.UNREAD),
    Aim.LATE_WRITER: (Exposure.CROSSED, Exposure.UNREAD),
    Aim.STALLED_PROXY: (Exposure.FIN_DELIVERED,),
    Aim.CRASH: (Exposure.CLOSED_AFTER_ARRIVAL,),
    Aim.FROZEN_UPSTREAM: (Exposure.UNREAD,),
    Aim.TRAFFIC: (Exposure.CROSSED, Exposure.UNREAD, Exposure.FIN_DELIVERED, Exposure.NEVER_ACCEPTED),
    Aim.FORGOTTEN: (Exposure.FORGOTTEN,),
}
# A fix that prevents, in traffic, must lose less than its control by more than chance would make of equals: in fewer
# than one run of 10,000.
MAX_CHANCE = 0.0001


@dataclass(frozen=True)
class LaneFinding:
    """What one lane showed."""

    lane: LanePlan
    verdict: Verdict
    sentence: str
    trials: tuple[Trial, ...]
    exposed: tuple[Trial, ...]
    outside: tuple[Trial, ...]
    """Sent, but met no close: what is lost here is lost to something else than the race."""

    @property
    def lost(self) -> int:
        return sum(trial.lost for trial in self.exposed)

    @property
    def rounds(self) -> list[tuple[int, int]]:
        """Of each of its rounds, how many of how many exposed requests were lost."""
        return rounds_of(self.exposed)

    @property
    def bounds(self) -> Interval:
        """The share lost; requests of one round share what happens to it."""
        return of_rounds(self.rounds)


def rounds_of(trials: Sequence[Trial]) -> list[tuple[int, int]]:
    """Of each round, how many of how many requests were lost."""
    sent = Counter(trial.block for trial in trials)
    lost = Counter(trial.block for trial in trials if trial.lost)
    return [(lost[block], n) for block, n in sorted(sent.items())]


def judge_lane(plan: Plan, lane: LanePlan, trials: Sequence[Trial]) -> LaneFinding:
    """Compares one lane's trials with what was expected of it, before its control is looked at."""
    mine = tuple(t for t in trials if (t.arm, t.method) == (lane.arm, lane.method))
    exposed = tuple(t for t in mine if _counts(plan, lane, t))
    counted = {t.req_id for t in exposed}
    outside = tuple(t for t in mine if t.req_id not in counted and t.exposure is not Exposure.NOT_SENT)
    met = exposed if lane.expect is not Expect.PREDICTED else [t for t in exposed if _inside(plan, lane, t)]
    if len(met) < _needed(plan):
        verdict, sentence = Verdict.INCONCLUSIVE, _too_few(plan, mine, met)
    elif lane.expect is Expect.PREDICTED:
        verdict, sentence = judge_predicted(plan, lane, exposed)
    elif lane.expect in (Expect.REPEATED, Expect.BUDGETED):
        verdict, sentence = judge_repeats(plan, lane, mine, exposed)
    elif lane.expect is Expect.FORECAST:
        verdict, sentence = _forecast(plan, lane, exposed)
    else:
        verdict, sentence = _JUDGES[lane.expect](mine, exposed, outside)
        if verdict is Verdict.FAIL and _was_late_to_the_proof(lane, mine):
            verdict, sentence = Verdict.INCONCLUSIVE, f"{sentence} {TOO_LATE_FOR_PROOF}"
        if verdict is Verdict.PASS and lane.waits_ms:
            verdict, sentence = _waited(*lane.waits_ms, exposed, sentence)
        if verdict is Verdict.PASS and lane.told_as:
            verdict, sentence = _told_as(lane.told_as, exposed, sentence)
    return LaneFinding(lane, verdict, sentence, mine, exposed, outside)


def credit(findings: Sequence[LaneFinding], controls: Mapping[str, str]) -> list[LaneFinding]:
    """Takes back the credit of fixes whose control did not break. `controls`: arm -> its control arm."""
    broke = {f.lane.name: f.verdict is Verdict.PASS for f in findings}
    by_name = {f.lane.name: f for f in findings}
    arms = {f.lane.arm for f in findings}

    def credited(finding: LaneFinding) -> LaneFinding:
        control = controls.get(finding.lane.arm)
        if control is None or finding.verdict is not Verdict.PASS:
            return finding
        method = finding.lane.method if f"{control}.{finding.lane.method}" in broke else "POST"
        if broke.get(f"{control}.{method}", False):
            return _more_than_chance(finding, by_name[f"{control}.{method}"])
        why = "did not break as expected" if control in arms else "was not run"
        return _open(finding, f"Its control, {control}, {why} in this run, so this says nothing.")

    return [credited(finding) for finding in findings]


def _more_than_chance(finding: LaneFinding, control: LaneFinding) -> LaneFinding:
    """In traffic no request is aimed: a fix that prevents may just have been lucky, and then it is not credited."""
    if finding.lane.aim is not Aim.TRAFFIC or not finding.lane.prevents:
        return finding
    (before, of), (after, out_of) = ((sum(t.lost for t in f.trials), len(f.trials)) for f in (control, finding))
    if differ_by_chance(before, of, after, out_of) <= MAX_CHANCE:
        return finding
    told = f"Its control lost {before} of {of} requests and this {after} of {out_of}: too few to tell it from chance."
    return _open(finding, told)


def _open(finding: LaneFinding, sentence: str) -> LaneFinding:
    """The same, with nothing proven."""
    return dataclasses.replace(finding, verdict=Verdict.INCONCLUSIVE, sentence=sentence)


def _counts(plan: Plan, lane: LanePlan, trial: Trial) -> bool:
    if lane.aim is Aim.ELSEWHERE:
        # Before the close the connection is still there; after it there must be another.
        return trial.exposure is (Exposure.NOT_EXPOSED if lane.at < 1 else Exposure.NEW_CONNECTION)
    if lane.expect is Expect.PREDICTED:
        return trial.primed and trial.exposure is not Exposure.NOT_SENT
    if lane.aim is Aim.TRAFFIC:
        return _counts_in_traffic(lane, trial)
    if not lane.prevents:
        # Without a wire, what the stall makes is counted: requests unread at close(), and no stray crossing.
        by_aim = (Exposure.UNREAD,) if _stalls(plan, lane) else EXPOSED_BY[lane.aim]
        return trial.exposure in by_aim or (lane.aim is Aim.GAPS and _met_the_close(trial))
    # A fix that prevents leaves no crossing to count, so there must have been a connection to keep requests off.
    if not trial.primed or trial.exposure is Exposure.NOT_SENT:
        return False
    if lane.aim is Aim.FORGOTTEN:
        return trial.age_ms > lane.forget_ms
    return _inside(plan, lane, trial) if lane.aim is Aim.GAPS else trial.armed


def _counts_in_traffic(lane: LanePlan, trial: Trial) -> bool:
    """All that is sent, where the model says how many are lost; what met a close; or what was sent while one closed."""
    if lane.expect is Expect.FORECAST or lane.prevents:
        return trial.armed and trial.exposure is not Exposure.NOT_SENT
    in_hand = lane.expect in (Expect.DAMAGED, Expect.ANSWERED) and trial.exposure is Exposure.CLOSED_AFTER_ARRIVAL
    return in_hand or trial.exposure in EXPOSED_BY[Aim.TRAFFIC]


def _met_the_close(trial: Trial) -> bool:
    """Whether a request that the wire handed over just before the FIN came after the upstream's close() all the same.

    A close with the request unread would have been a reset, and one that was read would have been executed.
    """
    return trial.exposure is Exposure.CLOSED_AFTER_ARRIVAL and not trial.executions


def _needed(plan: Plan) -> int:
    return max(FEWEST_EXPOSED, plan.setup.min_exposed)


def _stalls(plan: Plan, lane: LanePlan) -> bool:
    return plan.setup.wire == "loopback" and lane.aim is Aim.GAPS


def _inside(plan: Plan, lane: LanePlan, trial: Trial) -> bool:
    """Surely inside the box, edges left out (or, in a box narrower than its edges, anywhere in it)."""
    low, high = plan.calibration.high - lane.window_ms, plan.calibration.low
    edge = min(EDGE_MS, (high - low) / 4)
    return low + edge <= trial.age_ms <= high - edge


def _too_few(plan: Plan, mine: Sequence[Trial], exposed: Sequence[Trial]) -> str:
    classes = Counter(str(t.exposure) for t in mine)
    seen = ", ".join(f"{n} {name}" for name, n in classes.most_common()) or "no trial at all"
    return f"Only {len(exposed)} of {len(mine)} aimed requests count, {_needed(plan)} are needed (seen: {seen})."


Judged = tuple[Verdict, str]


def _was_late_to_the_proof(lane: LanePlan, mine: Sequence[Trial]) -> bool:
    """Whether all that a fix by proof lost was looked at late: by then what had been un-ACKed may be acknowledged."""
    if lane.expect is not Expect.MENDED or lane.proxy.get("retry.policy") != "when_proven":
        return False
    return all(trial.lag_ms > EDGE_MS for trial in mine if trial.lost)


def _told_as(cause: str, exposed: Sequence[Trial], sentence: str) -> Judged:
    """What the proxy called the failures: the forms of losing differ in that."""
    others = Counter(trial.cause or trial.label for trial in exposed if trial.cause != cause)
    if not others:
        return Verdict.PASS, f"{sentence} All were told as {cause}."
    told = ", ".join(f"{n} as {name}" for name, n in others.most_common())
    return Verdict.FAIL, f"{sentence} Not all were told as {cause}: {told}."


def _waited(least_ms: float, most_ms: float, exposed: Sequence[Trial], sentence: str) -> Judged:
    """How long clients waited for their errors. The median, for a busy machine makes single ones wait longer."""
    waits = [trial.latency_ms for trial in exposed]
    told = f"{sentence} Clients waited for {min(waits):.0f} ms at least, {median(waits):.0f} in the median"
    if least_ms <= min(waits) and median(waits) <= most_ms:
        return Verdict.PASS, f"{told}."
    return Verdict.FAIL, f"{told}; expected were {least_ms:.0f} at least, and at most {most_ms:.0f} in the median."


def _lost(_: Sequence[Trial], exposed: Sequence[Trial], __: Sequence[Trial]) -> Judged:
    survived = sum(not t.lost for t in exposed)
    executed = sum(t.executions > 0 for t in exposed)
    if survived:
        return Verdict.FAIL, f"{survived} of {len(exposed)} exposed requests were answered all the same."
    if executed:
        return Verdict.FAIL, f"{executed} of {len(exposed)} lost requests had been executed."
    return Verdict.PASS, f"All {len(exposed)} exposed requests were lost, none was executed."


def _box(mine: Sequence[Trial], exposed: Sequence[Trial], outside: Sequence[Trial]) -> Judged:
    verdict, sentence = _lost(mine, exposed, outside)
    if verdict is not Verdict.PASS:
        return verdict, sentence
    lost = sum(t.lost for t in outside)
    if not outside:
        return Verdict.INCONCLUSIVE, "No request was sent outside the window."
    if lost > MAX_OUTSIDE_LOST * len(outside):
        return Verdict.FAIL, f"{lost} of {len(outside)} requests that met no close were lost too."
    return Verdict.PASS, f"{sentence} Of those that met no close, {lost} of {len(outside)} were lost."


def _mended(mine: Sequence[Trial], exposed: Sequence[Trial], _: Sequence[Trial]) -> Judged:
    lost = sum(t.lost for t in mine)
    not_once = sum(t.executions != 1 for t in mine)
    if lost:
        return Verdict.FAIL, f"{lost} of {len(mine)} requests were still lost."
    if not_once:
        return Verdict.FAIL, f"{not_once} of {len(mine)} requests were not executed exactly once."
    return Verdict.PASS, f"None of {len(exposed)} requests was lost, each was executed once."


def _executed_twice(_: Sequence[Trial], exposed: Sequence[Trial], __: Sequence[Trial]) -> Judged:
    twice = sum(t.executions == 2 and not t.lost for t in exposed)
    if twice < len(exposed):
        return Verdict.FAIL, f"Only {twice} of {len(exposed)} requests were executed twice."
    return Verdict.PASS, f"All {len(exposed)} requests were executed twice, and the client saw success."


def _executed_once(_: Sequence[Trial], exposed: Sequence[Trial], __: Sequence[Trial]) -> Judged:
    once = sum(t.executions == 1 and t.lost for t in exposed)
    if once < len(exposed):
        return Verdict.FAIL, f"{len(exposed) - once} of {len(exposed)} requests were repeated or answered."
    return Verdict.PASS, f"All {len(exposed)} requests were executed once and then lost: an honest error."


def _damaged(_: Sequence[Trial], exposed: Sequence[Trial], outside: Sequence[Trial]) -> Judged:
    survived = sum(not t.lost for t in exposed)
    others = sum(t.lost for t in outside)
    if survived:
        return Verdict.FAIL, f"{survived} of {len(exposed)} exposed requests were answered all the same."
    if others > MAX_OUTSIDE_LOST * len(outside):
        return Verdict.FAIL, f"{others} of {len(outside)} requests that met no close were lost too."
    executed = sum(t.executions > 0 for t in exposed)
    return (
        Verdict.PASS,
        f"All {len(exposed)} exposed requests were lost, {executed} of them executed, and {others} others.",
    )


def _answered(_: Sequence[Trial], exposed: Sequence[Trial], outside: Sequence[Trial]) -> Judged:
    lost, others = (sum(t.lost for t in trials) for trials in (exposed, outside))
    twice = sum(t.executions > 1 for t in exposed)
    if lost:
        return Verdict.FAIL, f"{lost} of {len(exposed)} exposed requests were still lost."
    if others > MAX_OUTSIDE_LOST * len(outside):
        return Verdict.FAIL, f"{others} of {len(outside)} requests that met no close were lost."
    also = f" Of the others, on new connections, {others} were." if others else ""
    return Verdict.PASS, f"None of {len(exposed)} exposed requests was lost, and {twice} were executed twice.{also}"


def _forecast(plan: Plan, lane: LanePlan, sent: Sequence[Trial]) -> Judged:
    """As many lost as the model says, and by nothing else than the close."""
    met = {*EXPOSED_BY[Aim.TRAFFIC], Exposure.CLOSED_AFTER_ARRIVAL}
    others = [t for t in sent if t.exposure not in met]
    lost = sum(t.lost for t in others)
    if lost > MAX_OUTSIDE_LOST * len(others):
        return Verdict.FAIL, f"{lost} of {len(others)} requests that met no close were lost too."
    return agrees(plan, lane, sent)


_JUDGES: dict[Expect, Callable[[Sequence[Trial], Sequence[Trial], Sequence[Trial]], Judged]] = {
    Expect.LOST: _lost,
    Expect.BOX: _box,
    Expect.MENDED: _mended,
    Expect.EXECUTED_TWICE: _executed_twice,
    Expect.EXECUTED_ONCE: _executed_once,
    Expect.DAMAGED: _damaged,
    Expect.ANSWERED: _answered,
}
