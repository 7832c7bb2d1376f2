"""Puts together what a run found: lanes judged, the run checked, the story told.

Pure: the same stored evidence gives the same result, which is what `kalab verify` relies on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median

from lab.checkers import LaneFinding, credit, judge_lane
from lab.curves import curves
from lab.ends import check_ends, closed_after, closes_seen
from lab.example import CHAIN, PLAIN, ladder
from lab.maps import maps
from lab.model import Aim, Scenario, Verdict
from lab.narrative import narrate
from lab.plan import GATED, Plan
from lab.prediction import check_totals
from lab.result import ArmResult, RunResult
from lab.soundness import check_run
from lab.witness.evidence import Evidence
from lab.witness.trials import Trial

REAL = ("the proxy and the upstream server, as processes of their own", "the kernel's TCP on both sides")
REAL_CHAIN = (
    "the balancer (the same proxy), the proxy behind it and the upstream server, as processes of their own",
    "the kernel's TCP on both sides of the wire, which lies between the balancer and the proxy",
)

HELD = "the moment: except in arms that sweep idle gaps, the wire held each FIN until the request had left"
FORGETS = "what forgets: the wire itself drops what comes on a connection that was silent for too long"

WIRES = {
    "relay": (
        "the way between proxy and upstream: a relay process that delays bytes, FIN and RST",
        "the packets: they are two connections, and the pcap files are rebuilt from what the relay read and wrote",
    ),
    "netns": ("the distance: a delay line between two network namespaces holds each real packet back",),
    "loopback": ("nothing between proxy and upstream; there is no distance",),
}


def conclude(
    scenario: Scenario,
    plan: Plan,
    evidence: Evidence,
    trials: Sequence[Trial],
    *,
    duration_s: float,
    files: Sequence[str],
) -> RunResult:
    """The result of a run, from its evidence."""
    setup = plan.setup
    controls = {arm.name: arm.control for arm in scenario.arms if arm.control}
    findings = credit([judge_lane(plan, lane, trials) for lane in plan.lanes], controls)
    seen = closes_seen(scenario, plan, evidence, trials)
    closes = plan.calibration.close_ms if plan.calibration.measured else seen
    ends = check_ends(scenario, plan, evidence, trials, closes, seen)
    checks = [ends, *(check_run(plan, evidence, trials, findings) if findings else ())]
    found_maps = maps(plan, findings)
    checks += [check_totals(found_maps)] if found_maps else []
    # A run that was no experiment proves nothing against a fix either.
    sound = all(check.verdict is not Verdict.INCONCLUSIVE for check in checks)
    judged = (*findings, *checks)
    verdict = Verdict.worst(one.verdict for one in judged) if sound and findings else Verdict.INCONCLUSIVE
    titles = {arm.name: arm.title for arm in scenario.arms}
    return RunResult(
        scenario=scenario.name,
        sentence=scenario.sentence,
        teaches=scenario.teaches,
        command=plan.command,
        started=plan.started,
        duration_s=duration_s,
        seed=setup.seed,
        wire=setup.wire,
        upstream=setup.upstream,
        keep_alive_s=setup.keep_alive_s,
        rtt_ms=setup.rtt_ms,
        close_low_ms=min(closes, default=0.0),
        close_high_ms=max(closes, default=0.0),
        verdict=verdict,
        story=narrate(scenario, plan, findings, closes, controls, sound=sound),
        checks=tuple(checks),
        arms=tuple(_arm(scenario, finding, evidence) for finding in findings),
        not_judged=plan.not_judged,
        curves=curves(plan, findings, titles) if findings else (),
        ladder=ladder(evidence, findings, CHAIN if scenario.middle is not None else PLAIN),
        environment=plan.environment,
        real=REAL if scenario.middle is None else REAL_CHAIN,
        emulated=_emulated(plan),
        files=tuple(files),
        maps=found_maps,
        closed_after=closed_after(scenario),
        chain=() if scenario.middle is None else ("client", "balancer", "wire", "proxy", "upstream"),
    )


def _emulated(plan: Plan) -> tuple[str, ...]:
    lanes = plan.lanes
    held = (HELD,) if any(lane.aim in GATED for lane in lanes) else ()
    return (*WIRES[plan.setup.wire], *held, *((FORGETS,) if any(lane.forget_ms for lane in lanes) else ()))


def _arm(scenario: Scenario, finding: LaneFinding, evidence: Evidence) -> ArmResult:
    lane, arm = finding.lane, scenario.arm(finding.lane.arm)
    bounds = finding.bounds
    latency_ms, connects = _cost(finding, evidence)
    exposures = Counter(str(t.exposure) for t in finding.trials)
    return ArmResult(
        arm=arm.name,
        method=lane.method,
        title=arm.title,
        why=arm.why,
        is_fix=arm.is_fix,
        control=arm.control,
        expected=lane.expect,
        verdict=finding.verdict,
        sentence=finding.sentence,
        changes=lane.changes,
        aimed=len(finding.trials),
        exposed=len(finding.exposed),
        exposed_as=_exposed_as(finding),
        lost=finding.lost,
        lost_low=bounds.low,
        lost_high=bounds.high,
        executed_twice=sum(t.executions > 1 for t in finding.trials),
        outcomes=dict(Counter(t.label for t in finding.trials)),
        exposures=dict(exposures),
        proven=sum(t.proof == "unprocessed" for t in finding.exposed),
        latency_ms=latency_ms,
        connects_per_request=connects,
        attempts=sum(t.attempts for t in finding.exposed) / len(finding.exposed) if finding.exposed else None,
    )


def _exposed_as(finding: LaneFinding) -> str:
    if not finding.lane.prevents:
        return _classes(finding.exposed)
    return "sent when the control is lost" if finding.lane.aim is Aim.TRAFFIC else "aimed where the control is lost"


def _classes(exposed: Sequence[Trial]) -> str:
    return ", ".join(sorted({str(t.exposure) for t in exposed})) or "none"


def _cost(finding: LaneFinding, evidence: Evidence) -> tuple[float | None, float | None]:
    """Median latency and connects per request of undisturbed requests; the first one, which must connect, left out."""
    lines = evidence.undisturbed(finding.lane.arm, finding.lane.method)
    if not lines:
        return None, None
    latency = median((line["done_ns"] - line["sent_ns"]) / 1e6 for line in lines)
    reused = [evidence.reused(line["req_id"]) for line in lines]
    return latency, None if None in reused else reused.count(False) / len(reused)
