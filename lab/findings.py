"""Puts together what a run found: lanes judged, the run checked, the story told.

Pure: the same stored evidence gives the same result, which is what `kalab verify` relies on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median

from lab.checkers import LaneFinding, credit, judge_lane
from lab.curves import curves
from lab.example import ladder
from lab.model import Aim, Exposure, Scenario, Verdict
from lab.narrative import narrate
from lab.plan import BY_TIME, EDGE_MS, Plan
from lab.result import ArmResult, Check, RunResult
from lab.soundness import check_run
from lab.stats import interval
from lab.witness.evidence import Evidence
from lab.witness.flows import idle_ms_at_close
from lab.witness.trials import Trial

REAL = ("the proxy and the upstream server, as processes of their own", "the kernel's TCP on both sides")

HELD = "the moment: except in arms that sweep idle gaps, the wire held each FIN until the request had left"

WIRES = {
    "relay": (
        "the way between proxy and upstream: a relay process that delays bytes, FIN and RST",
        "the packets: they are two connections, and the pcap files are rebuilt from what the relay read and wrote",
        HELD,
    ),
    "netns": ("the distance: a delay line between two network namespaces holds each real packet back", HELD),
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
    seen = _closes_seen(plan, evidence, trials)
    closes = plan.calibration.close_ms if plan.calibration.measured else seen
    checks = [_upstream_closes(plan, closes, seen), *(check_run(plan, evidence, trials, findings) if findings else ())]
    sound = all(check.verdict is Verdict.PASS for check in checks)
    # A run that was no experiment proves nothing against a fix either.
    verdict = Verdict.worst(finding.verdict for finding in findings) if sound else Verdict.INCONCLUSIVE
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
        story=narrate(plan, findings, closes, controls, sound=sound),
        checks=tuple(checks),
        arms=tuple(_arm(scenario, finding, evidence) for finding in findings),
        not_judged=plan.not_judged,
        curves=curves(plan, findings, titles) if findings else (),
        ladder=ladder(evidence, findings),
        environment=plan.environment,
        real=REAL,
        emulated=WIRES[setup.wire],
        files=tuple(files),
    )


def _closes_seen(plan: Plan, evidence: Evidence, trials: Sequence[Trial]) -> list[float]:
    """The idle ages at which the upstream closed: under requests that crossed its FIN, or where none was near it."""
    conns = {trial.conn for trial in trials if trial.exposure is Exposure.CROSSED}
    far = {lane.name for lane in plan.lanes if lane.aim is Aim.ELSEWHERE}
    conns |= {conn for conn, named in evidence.flows.items() if any(flow.link in far for flow in named)}
    ages = (idle_ms_at_close(flow) for conn in conns for flow in evidence.flows.get(conn, []))
    return sorted(age for age in ages if age is not None)


def _upstream_closes(plan: Plan, closes: Sequence[float], seen: Sequence[float]) -> Check:
    """Without an idle close there is no race to hit; and what aims by time must have aimed at the real close."""
    name, told_ms = "upstream closes", plan.setup.keep_alive_s * 1000
    remedy = "Check how its idle timeout is set; `kalab run --upstream lab` is known to close."
    if not closes:
        sentence = f"No idle connection was closed by the upstream, though it was told to after {told_ms:.0f} ms."
        return Check(name, Verdict.INCONCLUSIVE, sentence, remedy)
    measured = f"{min(closes):.1f}–{max(closes):.1f} ms"
    if min(closes) < told_ms * 0.9:
        return Check(name, Verdict.INCONCLUSIVE, f"Told {told_ms:.0f} ms, it closed after {measured}.", remedy)
    if not seen and _must_be_seen(plan):
        sentence = "In the run no idle connection was closed, so nothing was far from a close either."
        return Check(name, Verdict.INCONCLUSIVE, sentence, "Run more than one block (--blocks).")
    moved_ms = abs(median(seen) - plan.calibration.middle) if seen and _aimed_by_time(plan) else 0.0
    if moved_ms > max(EDGE_MS, plan.setup.rtt_ms / 4):
        sentence = f"Measured before the run it closed after {measured}; in the run, after {median(seen):.1f} ms."
        return Check(name, Verdict.INCONCLUSIVE, sentence, "Run again on a quieter machine.")
    return Check(name, Verdict.PASS, f"Told {told_ms:.0f} ms, it closes idle connections after {measured}.")


def _aimed_by_time(plan: Plan) -> bool:
    return any(lane.aim in BY_TIME for lane in plan.lanes)


def _must_be_seen(plan: Plan) -> bool:
    """Whether the wire must have seen closes: nothing else tells that what is far from them is that."""
    return plan.setup.wire != "loopback" and any(lane.aim is Aim.ELSEWHERE for lane in plan.lanes)


def _arm(scenario: Scenario, finding: LaneFinding, evidence: Evidence) -> ArmResult:
    lane, arm = finding.lane, scenario.arm(finding.lane.arm)
    bounds = interval(finding.lost, len(finding.exposed))
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
        exposed_as="aimed where the control is lost" if lane.prevents else _classes(finding.exposed),
        lost=finding.lost,
        lost_low=bounds.low,
        lost_high=bounds.high,
        executed_twice=sum(t.executions > 1 for t in finding.trials),
        outcomes=dict(Counter(t.label for t in finding.trials)),
        exposures=dict(exposures),
        proven=sum(t.proof == "unprocessed" for t in finding.exposed),
        latency_ms=latency_ms,
        connects_per_request=connects,
    )


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
