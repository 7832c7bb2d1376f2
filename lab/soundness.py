"""Whether a run was an experiment at all: checks on all witnesses and all lanes together.

Rules of this file:

- Pure: evidence in, checks out. What does not pass says what to do.
- A check that raises is inconclusive; a figure that could not be measured is never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import msgspec

from lab.checkers import LaneFinding, rounds_of
from lab.model import CLOSING, Aim, Verdict
from lab.plan import LanePlan, Plan, by_time, lane_of
from lab.punctuality import time_checks
from lab.result import Check
from lab.stats import design_effect, differ_by_chance, percentile
from lab.witness.evidence import Evidence
from lab.witness.trials import Trial, clocks

MAX_DISPUTED = 0.001
MIN_CROSSED = 0.95
MIN_CROSSED_IN_A_LANE = 0.8
MAX_GENERATOR_CPU = 0.8
MAX_STOLEN = 0.02
MAX_LATE_MS = 20.0
# How much sooner than planned the wire may seem to hand over: clocks are read before and after the calls that matter.
WIRE_EARLY_MS = 1.0
# A held FIN waits for its request, so lateness there does not spoil the aim; but it says that the generator is short.
MAX_LATE_HELD_MS = 200.0
# Equal arms differ this much in fewer than one run of 10,000.
MAX_CHANCE = 0.0001


def check_run(plan: Plan, evidence: Evidence, trials: Sequence[Trial], findings: Sequence[LaneFinding]) -> list[Check]:
    """Whether the run was an experiment at all. What follows from damaged logs is no finding, so it is left out."""
    if evidence.damage:
        return [_witnesses_whole(evidence)]
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("witnesses whole", lambda: _witnesses_whole(evidence)),
        ("witnesses agree", lambda: _witnesses_agree(evidence, trials)),
        ("direct", lambda: _direct(plan, evidence)),
        ("schedule kept", lambda: _schedule_kept(plan, evidence, trials)),
        ("generator not the limit", lambda: _generator_free(evidence)),
        ("wire", lambda: _wire_faithful(plan, evidence)),
        ("aim", lambda: _aimed_well(plan, findings)),
        ("reuse", lambda: _reuse_as_planned(plan, evidence)),
    ]
    if any(lane.acts for lane in plan.lanes):
        checks.append(("acts", lambda: _acts_done(plan, evidence)))
    checks += time_checks(plan, evidence, findings)
    if pairs := _equal_lanes(findings):
        checks.append(("equal arms", lambda: equal_arms_agree(pairs)))
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
    # A real server's app numbers no lines. But what was answered was executed, so a lost line shows here.
    answered = [
        e["req_id"] for kind in ("client.primed", "client.steady") for e in evidence.of(kind) if e["status"] == 200
    ]
    untold = sum(req_id not in evidence.executions for req_id in answered)
    if untold:
        sentence = (
            f"Of {len(answered)} requests around the aimed ones that were answered, {untold} are in no upstream's log."
        )
        return Check(name, Verdict.INCONCLUSIVE, sentence, "Run again; do not edit the logs.")
    return Check(name, Verdict.PASS, "No witness lost a line.")


def _witnesses_agree(evidence: Evidence, trials: Sequence[Trial]) -> Check:
    name = "witnesses agree"
    remedy = "Run again; if it stays, report it with the run folder."
    disputed = [t for t in trials if t.dispute]
    if len(disputed) > MAX_DISPUTED * len(trials):
        first = f"{disputed[0].req_id}: {disputed[0].dispute}"
        sentence = f"In {len(disputed)} of {len(trials)} trials the witnesses contradict each other ({first})."
        return Check(name, Verdict.INCONCLUSIVE, sentence, remedy)
    # Aimed requests may all be lost, and tell little of clocks; those around them were answered.
    around = [line for kind in ("client.primed", "client.steady") for line in evidence.of(kind)]
    wrong = [(line["req_id"], told) for line in around if (told := clocks(line, evidence))]
    if len(wrong) > MAX_DISPUTED * len(around):
        sentence = (
            f"By {len(wrong)} of {len(around)} requests around the aimed ones a clock is wrong ({': '.join(wrong[0])})."
        )
        return Check(name, Verdict.INCONCLUSIVE, sentence, remedy)
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
    arms = {lane.arm for lane in plan.lanes if by_time(lane)}
    timed = [t.late_ms for t in trials if t.arm in arms]
    if late_ms > MAX_LATE_HELD_MS or (timed and percentile(timed, 0.99) > MAX_LATE_MS):
        sentence = (
            f"Requests went out late: 1 in 100 by {percentile(timed, 0.99) if timed else late_ms:.0f} ms or more."
        )
        return Check(name, Verdict.INCONCLUSIVE, sentence, remedy)
    return Check(name, Verdict.PASS, f"All {planned} requests were sent, 99 of 100 within {max(late_ms, 0.1):.1f} ms.")


def _direct(plan: Plan, evidence: Evidence) -> Check:
    """Without a proxy nothing may be lost, and the wire must be as long as it says; or the instrument is at fault."""
    name, remedy = "direct", "Close other programs and run again; if it stays, report it with the run folder."
    lines = list(evidence.of("client.direct"))
    times_ms = [(line["done_ns"] - line["sent_ns"]) / 1e6 for line in lines]
    late_ms = percentile([(line["sent_ns"] - line["intended_ns"]) / 1e6 for line in lines], 0.99)
    once = sum(line["status"] == 200 and len(evidence.executions.get(line["req_id"], ())) == 1 for line in lines)
    fastest_ms, rtt_ms = min(times_ms), plan.setup.rtt_ms
    sentence = f"Without a proxy {once} of {len(lines)} requests were answered and executed once"
    if once < len(lines):
        return Check(name, Verdict.INCONCLUSIVE, f"{sentence}: the others were lost by the instrument itself.", remedy)
    if not rtt_ms - WIRE_EARLY_MS <= fastest_ms <= rtt_ms + MAX_LATE_MS:
        sentence += f", the fastest in {fastest_ms:.1f} ms; the round trip was to be {rtt_ms:g} ms."
        return Check(name, Verdict.INCONCLUSIVE, sentence, remedy)
    if late_ms > MAX_LATE_MS:
        sentence = f"Without a proxy requests at twice the pace went out late: 1 in 100 by {late_ms:.0f} ms or more."
        return Check(name, Verdict.INCONCLUSIVE, sentence, remedy)
    return Check(name, Verdict.PASS, f"{sentence}, at twice the pace at most {max(late_ms, 0.1):.1f} ms late.")


def _generator_free(evidence: Evidence) -> Check:
    name = "generator not the limit"
    line = next(evidence.of("client.generator"))
    share = line["cpu_s"] / line["wall_s"]
    sentence = f"The load generator used {share:.0%} of one core."
    if share > MAX_GENERATOR_CPU:
        return Check(name, Verdict.INCONCLUSIVE, sentence, "Run fewer trials at once (--trials).")
    if line["stolen"] is not None and line["stolen"] > MAX_STOLEN:
        sentence = f"The hypervisor gave {line['stolen']:.1%} of this machine's processor time to others."
        return Check(name, Verdict.INCONCLUSIVE, sentence, "Run again when they are quiet, or on another machine.")
    if line["sent_again"]:
        sentence += f" TCP sent {line['sent_again']} segments again, of whatever ran in this network."
    return Check(name, Verdict.PASS, sentence)


def _wire_faithful(plan: Plan, evidence: Evidence) -> Check:
    """The wire forwarded everything it took; where arms aim by time, it was not late either."""
    name = "wire"
    if plan.setup.wire == "loopback":
        return Check(name, Verdict.PASS, "There is nothing in between.")
    if evidence.wire is None:
        return Check(name, Verdict.INCONCLUSIVE, "The wire did not say how it had worked.", "Run again.")
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
    delays_ms = {lane.name: lane.rtt_ms / 2 for lane in plan.lanes if by_time(lane)}
    aimed = {line["req_id"] for line in evidence.of("client.trial")}
    return [
        (segment.t_out - segment.t_in) / 1e6 - delays_ms[lane_of(flow.link)]
        for named in evidence.flows.values()
        for flow in named
        for segment in flow.segments
        if lane_of(flow.link) in delays_ms and segment.t_out is not None and (segment.closes or segment.req_id in aimed)
    ]


def _aimed_well(plan: Plan, findings: Sequence[LaneFinding]) -> Check:
    """Of the requests fired at held FINs nearly all must have crossed one, and most of them in every arm."""
    name = "aim"
    aimed_at = [f for f in findings if f.lane.aim is Aim.HELD_FIN and not f.lane.prevents]
    aimed = [t for f in aimed_at for t in f.trials]
    if not aimed:
        return Check(name, Verdict.PASS, f"No arm waits for held FINs on the {plan.setup.wire} wire; classes decide.")
    crossed = sum(len(f.exposed) for f in aimed_at)
    sentence = f"{crossed} of {len(aimed)} requests aimed at a held FIN met it."
    poor = [f.lane.name for f in aimed_at if len(f.exposed) < MIN_CROSSED_IN_A_LANE * len(f.trials)]
    if poor:
        sentence += f" Too few did in {', '.join(poor)}."
    if poor or crossed < MIN_CROSSED * len(aimed):
        return Check(name, Verdict.INCONCLUSIVE, sentence, "Run again on a quieter machine, or with fewer --trials.")
    return Check(name, Verdict.PASS, sentence)


def _acts_done(plan: Plan, evidence: Evidence) -> Check:
    """All that was to happen to the upstreams must have, before the traffic was over."""
    name, remedy = "acts", "Run again; if it stays, give it more requests (--trials)."
    done = {(line["stage"], line["block"], line["act"]): line for line in evidence.of("client.act")}
    lanes = [lane for lane in plan.lanes if lane.acts]
    for lane in lanes:
        for block in range(plan.setup.blocks):
            missed = [act for act in lane.acts if not done.get((lane.stage, block, act), {}).get("done")]
            if missed:
                sentence = f"In block {block + 1} of {lane.stage} this did not come about: {', '.join(missed)}."
                return Check(name, Verdict.INCONCLUSIVE, sentence, remedy)
    last = {
        (line["arm"], line["method"], line["block"]): line["sent_ns"] for line in evidence.of("client.trial")
    }  # in order of sending, so the last counts
    for lane in lanes:
        for block in range(plan.setup.blocks):
            closings = [done[lane.stage, block, act]["began_ns"] for act in lane.acts if act in CLOSING]
            if closings and max(closings) >= last.get((lane.arm, lane.method, block), 0):
                sentence = f"In block {block + 1} of {lane.stage} the upstream was told to end after all requests."
                return Check(name, Verdict.INCONCLUSIVE, sentence, remedy)
    return Check(name, Verdict.PASS, "All that was to happen to the upstreams happened while requests came.")


def _reuse_as_planned(plan: Plan, evidence: Evidence) -> Check:
    """A proxy that never reuses loses nothing, whatever its timeouts: only the arm that means this may do it."""
    name = "reuse"
    wrong = [lane.name for lane in plan.lanes if _reuses(lane, evidence) is not lane.reuses]
    if wrong:
        sentence = f"Undisturbed requests did not use connections as these arms mean to: {', '.join(wrong)}."
        return Check(name, Verdict.INCONCLUSIVE, sentence, "Run again; if it stays, look at the proxy's configuration.")
    return Check(name, Verdict.PASS, "Undisturbed requests reused connections in every arm that means to reuse.")


def _equal_lanes(findings: Sequence[LaneFinding]) -> list[tuple[LaneFinding, LaneFinding]]:
    """Arms that differ by nothing but their name."""
    return [
        (one, other)
        for one, other in combinations(findings, 2)
        if one.lane == msgspec.structs.replace(other.lane, arm=one.lane.arm)
    ]


def equal_arms_agree(pairs: Sequence[tuple[LaneFinding, LaneFinding]]) -> Check:
    """What differs between them is neither configuration nor chance, and may be all that differs between others."""
    name = "equal arms"
    for one, other in pairs:
        counts = [(sum(t.lost for t in f.trials), len(f.trials)) for f in (one, other)]
        # A stall that hit one round must not count as often as there were requests in it.
        effect = max(design_effect(rounds_of(f.trials)) for f in (one, other))
        (lost, n), (other_lost, other_n) = [(round(lost / effect), round(n / effect)) for lost, n in counts]
        if differ_by_chance(lost, n, other_lost, other_n) < MAX_CHANCE / len(pairs):
            told = " and ".join(
                f"{lost} of {n} in {f.lane.name}" for f, (lost, n) in zip((one, other), counts, strict=True)
            )
            sentence = f"Two arms that are configured alike lost differently: {told}."
            return Check(name, Verdict.INCONCLUSIVE, sentence, "Run again on a quieter machine.")
    return Check(name, Verdict.PASS, "Arms that are configured alike lost alike.")


def _reuses(lane: LanePlan, evidence: Evidence) -> bool | None:
    """Whether most of this lane's undisturbed requests were sent on a used connection; None when that is not known."""
    reused = [evidence.reused(line["req_id"]) for line in evidence.undisturbed(lane.arm, lane.method)]
    return None if not reused or None in reused else reused.count(True) * 2 > len(reused)
