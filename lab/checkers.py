"""Evidence in, verdicts out: pure functions, three-valued, composed by the worst.

Rules of this file:

- A lane is judged by its exposed trials only. Too few of them: inconclusive, never pass.
- A fix is credited only if its control broke in the same run.
- A check that raises is inconclusive; a figure that could not be measured is never 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lab.model import Aim, Expect, Exposure, Verdict
from lab.plan import EDGE_MS, LanePlan, Plan
from lab.result import Check
from lab.stats import percentile
from lab.witness.trials import Evidence, Trial

MAX_DISPUTED = 0.001
MAX_OUTSIDE_LOST = 0.01
MIN_CROSSED = 0.95
MAX_GENERATOR_CPU = 0.8
MAX_LATE_MS = 20.0

EXPOSED_BY = {
    Aim.HELD_FIN: (Exposure.CROSSED, Exposure.UNREAD),
    Aim.GAPS: (Exposure.CROSSED, Exposure.UNREAD, Exposure.FIN_DELIVERED),
    Aim.STALLED_PROXY: (Exposure.FIN_DELIVERED,),
    Aim.CRASH: (Exposure.CLOSED_AFTER_ARRIVAL,),
}


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


# Lanes.


def judge_lane(plan: Plan, lane: LanePlan, trials: Sequence[Trial]) -> LaneFinding:
    """Compares one lane's trials with what was expected of it, before its control is looked at."""
    mine = tuple(t for t in trials if (t.arm, t.method) == (lane.arm, lane.method))
    exposed = tuple(t for t in mine if _counts(plan, lane, t))
    counted = {t.req_id for t in exposed}
    outside = tuple(t for t in mine if t.req_id not in counted and t.exposure is not Exposure.NOT_SENT)
    if len(exposed) < plan.setup.min_exposed:
        verdict, sentence = Verdict.INCONCLUSIVE, _too_few(plan, mine, exposed)
    else:
        verdict, sentence = _JUDGES[lane.expect](mine, exposed, outside)
    return LaneFinding(lane, verdict, sentence, mine, exposed, outside)


def credit(findings: Sequence[LaneFinding], controls: Mapping[str, str]) -> list[LaneFinding]:
    """Takes back the credit of fixes whose control did not break. `controls`: arm -> its control arm."""
    broke = {f.lane.name: f.verdict is Verdict.PASS for f in findings}
    arms = {f.lane.arm for f in findings}

    def credited(finding: LaneFinding) -> LaneFinding:
        control = controls.get(finding.lane.arm)
        if control is None or finding.verdict is not Verdict.PASS:
            return finding
        method = finding.lane.method if f"{control}.{finding.lane.method}" in broke else "POST"
        if broke.get(f"{control}.{method}", False):
            return finding
        why = "did not break as expected" if control in arms else "was not run"
        sentence = f"Its control, {control}, {why} in this run, so this says nothing."
        return LaneFinding(
            finding.lane, Verdict.INCONCLUSIVE, sentence, finding.trials, finding.exposed, finding.outside
        )

    return [credited(finding) for finding in findings]


def _counts(plan: Plan, lane: LanePlan, trial: Trial) -> bool:
    if not lane.prevents:
        # Without a wire, what the stall makes is counted: requests unread at close(), and no stray crossing.
        by_aim = EXPOSED_BY[lane.aim]
        return trial.exposure in ((Exposure.UNREAD,) if _stalls(plan, lane) else by_aim)
    return _inside(plan, lane, trial) if lane.aim is Aim.GAPS else trial.armed


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
    need = plan.setup.min_exposed
    return f"Only {len(exposed)} of {len(mine)} aimed requests count, {need} are needed (seen: {seen})."


Judged = tuple[Verdict, str]


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
    twice = sum(t.executions > 1 for t in mine)
    if lost:
        return Verdict.FAIL, f"{lost} of {len(mine)} requests were still lost."
    if twice:
        return Verdict.FAIL, f"{twice} of {len(mine)} requests were executed more than once."
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


_JUDGES: dict[Expect, Callable[[Sequence[Trial], Sequence[Trial], Sequence[Trial]], Judged]] = {
    Expect.LOST: _lost,
    Expect.BOX: _box,
    Expect.MENDED: _mended,
    Expect.EXECUTED_TWICE: _executed_twice,
    Expect.EXECUTED_ONCE: _executed_once,
}


# The run as a whole.


def check_run(plan: Plan, evidence: Evidence, trials: Sequence[Trial], findings: Sequence[LaneFinding]) -> list[Check]:
    """Whether the run was an experiment at all."""
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("witnesses whole", lambda: _witnesses_whole(evidence)),
        ("witnesses agree", lambda: _witnesses_agree(trials)),
        ("schedule kept", lambda: _schedule_kept(plan, evidence, trials)),
        ("generator not the limit", lambda: _generator_free(evidence)),
        ("wire", lambda: _wire_faithful(plan, evidence)),
        ("aim", lambda: _aimed_well(plan, findings)),
    ]
    return [_safely(name, check) for name, check in checks]


def _safely(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:  # a check that cannot be made must not pass for one that was
        return Check(name, Verdict.INCONCLUSIVE, f"This could not be checked: {error!r}.", "Please report this run.")


def _witnesses_whole(evidence: Evidence) -> Check:
    name = "witnesses whole"
    if evidence.damage:
        return Check(name, Verdict.INCONCLUSIVE, "; ".join(evidence.damage) + ".", "Run again; do not edit the logs.")
    return Check(name, Verdict.PASS, "No witness lost a line.")


def _witnesses_agree(trials: Sequence[Trial]) -> Check:
    name = "witnesses agree"
    disputed = [t for t in trials if t.dispute]
    if len(disputed) > MAX_DISPUTED * len(trials):
        first = f"{disputed[0].req_id}: {disputed[0].dispute}"
        sentence = f"In {len(disputed)} of {len(trials)} trials the witnesses contradict each other ({first})."
        return Check(name, Verdict.INCONCLUSIVE, sentence, "Run again; if it stays, report it with the run folder.")
    return Check(name, Verdict.PASS, f"Client, proxy, wire and upstream agree on {len(trials)} trials.")


def _schedule_kept(plan: Plan, evidence: Evidence, trials: Sequence[Trial]) -> Check:
    name = "schedule kept"
    planned = len(plan.lanes) * plan.setup.blocks * plan.setup.trials
    remedy = "Close other programs, or run fewer trials at once (--trials)."
    rounds = sum(1 for _ in evidence.of("client.round"))
    if len(trials) != planned or rounds != len(plan.lanes) * plan.setup.blocks:
        sentence = f"Of {planned} planned requests {len(trials)} were sent."
        return Check(name, Verdict.INCONCLUSIVE, sentence, remedy)
    late_ms = percentile([t.late_ms for t in trials], 0.99)
    if late_ms > MAX_LATE_MS:
        sentence = f"Requests went out late: 1 in 100 by {late_ms:.0f} ms or more."
        return Check(name, Verdict.INCONCLUSIVE, sentence, remedy)
    return Check(name, Verdict.PASS, f"All {planned} requests were sent, 99 of 100 within {max(late_ms, 0.1):.1f} ms.")


def _generator_free(evidence: Evidence) -> Check:
    name = "generator not the limit"
    line = next(evidence.of("client.generator"))
    share = line["cpu_s"] / line["wall_s"]
    sentence = f"The load generator used {share:.0%} of one core."
    if share > MAX_GENERATOR_CPU:
        return Check(name, Verdict.INCONCLUSIVE, sentence, "Run fewer trials at once (--trials).")
    return Check(name, Verdict.PASS, sentence)


def _wire_faithful(plan: Plan, evidence: Evidence) -> Check:
    """The wire forwarded everything it took; where arms aim by time, it was not late either."""
    name = "wire"
    if evidence.wire is None:
        return Check(name, Verdict.PASS, f"The {plan.setup.wire} wire reported nothing, for it has nothing in between.")
    lost = evidence.wire["lost"] + evidence.wire["dropped"]
    if lost:
        sentence = f"The wire failed to forward or to record {lost} segments."
        return Check(name, Verdict.INCONCLUSIVE, sentence, "Run again with fewer --trials.")
    late = _late_where_time_counts(plan, evidence)
    late_ms = percentile(late, 0.99) if late else 0.0
    if late_ms > MAX_LATE_MS:
        sentence = f"The wire was late: 1 aimed request or close in 100 by {late_ms:.0f} ms or more."
        return Check(name, Verdict.INCONCLUSIVE, sentence, "Close other programs and run again.")
    on_time = f"; 99 of 100 aimed requests and closes were at most {late_ms:.1f} ms late" if late else ""
    return Check(name, Verdict.PASS, f"The wire lost nothing{on_time}.")


def _late_where_time_counts(plan: Plan, evidence: Evidence) -> list[float]:
    """How late (ms) the wire handed over aimed requests and closes in the arms that sweep idle gaps."""
    delays_ms = {lane.name: lane.rtt_ms / 2 for lane in plan.lanes if lane.aim is Aim.GAPS}
    aimed = {line["req_id"] for line in evidence.of("client.trial")}
    return [
        (segment.t_out - segment.t_in) / 1e6 - delays_ms[flow.link]
        for named in evidence.flows.values()
        for flow in named
        for segment in flow.segments
        if flow.link in delays_ms and segment.t_out is not None and (segment.closes or segment.req_id in aimed)
    ]


def _aimed_well(plan: Plan, findings: Sequence[LaneFinding]) -> Check:
    """Of the control's requests that were fired at held FINs, nearly all must have crossed one."""
    name = "aim"
    aimed = [t for f in findings if f.lane.aim is Aim.HELD_FIN and not f.lane.prevents for t in f.trials]
    if not aimed:
        return Check(name, Verdict.PASS, f"No arm waits for held FINs on the {plan.setup.wire} wire; classes decide.")
    crossed = sum(t.exposure in EXPOSED_BY[Aim.HELD_FIN] for t in aimed)
    sentence = f"{crossed} of {len(aimed)} requests aimed at a held FIN met it."
    if crossed < MIN_CROSSED * len(aimed):
        return Check(name, Verdict.INCONCLUSIVE, sentence, "Run again on a quieter machine, or with fewer --trials.")
    return Check(name, Verdict.PASS, sentence)
