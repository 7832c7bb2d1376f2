"""What ends the connections of a run, and whether it did: without that there is no race to hit.

Pure: evidence in, a check out.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from lab.model import Act, Aim, Ends, Expect, Exposure, Scenario, Verdict
from lab.plan import EDGE_MS, MAX_REQUESTS, Plan, by_time, lane_of
from lab.result import Check
from lab.witness.evidence import Evidence
from lab.witness.flows import idle_ms_at_close
from lab.witness.trials import IDLE_TIMEOUT, Trial
from lab.wording import duration_text
from proxy.config import parse_duration

NAME = "upstream closes"
FORGETS = "wire forgets"


def check_ends(
    scenario: Scenario,
    plan: Plan,
    evidence: Evidence,
    trials: Sequence[Trial],
    closes: Sequence[float],
    seen: Sequence[float],
) -> Check:
    """Whether what should end connections did so, and when. `closes` and `seen` are idle ages, ms."""
    if plan.not_judged and not plan.lanes:
        sentence = "None of the arms can be judged here, so nothing was run."
        return Check(NAME, Verdict.INCONCLUSIVE, sentence, "See below what each of them needs.")
    if scenario.ends is Ends.COUNT:
        return _closes_by_count(int(scenario.upstream[MAX_REQUESTS]), evidence)
    if scenario.ends is Ends.LEAVES:
        return _leaves(plan, evidence)
    if scenario.ends is Ends.SILENCE:
        return _forgotten(plan, evidence)
    if scenario.ends is Ends.CRASH:
        return _crashed(evidence)
    told = _idle_closes(plan, closes, seen)
    return _middle_closes(evidence, trials, told) if scenario.middle is not None else told


def closed_after(scenario: Scenario) -> str:
    """After what the upstream closed, where that is no idle time; "" where it is."""
    if scenario.ends is Ends.LEAVES:
        return "it was told to end, or recycled a worker"
    if scenario.ends is Ends.CRASH:
        return "executing a request, without an answer"
    if scenario.ends is Ends.SILENCE:
        return f"nothing: the wire forgets after {forgets_after(scenario)}"
    return f"{scenario.upstream[MAX_REQUESTS]} answers" if scenario.ends is Ends.COUNT else ""


def forgets_after(scenario: Scenario) -> str:
    """After how long a silence the wire forgets a connection, in words."""
    return duration_text(float(parse_duration(scenario.wire["forget"])) * 1000)


def _forgotten(plan: Plan, evidence: Evidence) -> Check:
    named = {lane.name for lane in plan.lanes if lane.forget_ms}
    flows = [flow for same in evidence.flows.values() for flow in same if flow.link in named]
    forgotten = sum(flow.forgotten_ns is not None for flow in flows)
    if not forgotten:
        sentence = "The wire forgot no connection, so nothing was lost to that."
        return Check(FORGETS, Verdict.INCONCLUSIVE, sentence, "Run again; if it stays, report it with the run folder.")
    return Check(FORGETS, Verdict.PASS, f"The wire forgot {forgotten} of {len(flows)} connections, and said nothing.")


def _crashed(evidence: Evidence) -> Check:
    died = sum(line["reason"] == "crashed" for line in evidence.upstream_closes.values())
    if not died:
        sentence = "The upstream never died over a request, so nothing was lost to that."
        return Check(NAME, Verdict.INCONCLUSIVE, sentence, "Run again; if it stays, report it with the run folder.")
    return Check(NAME, Verdict.PASS, f"It closed {died} connections behind a request that it had executed.")


def _closes_by_count(told: int, evidence: Evidence) -> Check:
    carried = [line["requests"] for line in evidence.upstream_closes.values() if line["reason"] == "max_requests"]
    if not carried:
        sentence = f"No connection was closed by the upstream for its number of answers, though it was told {told}."
        return Check(NAME, Verdict.INCONCLUSIVE, sentence, "Run again; if it stays, report it with the run folder.")
    if set(carried) != {told}:
        sentence = f"Told {told} answers, it closed after {min(carried)} to {max(carried)}."
        return Check(NAME, Verdict.INCONCLUSIVE, sentence, "Run again; if it stays, report it with the run folder.")
    return Check(NAME, Verdict.PASS, f"It closed {len(carried)} connections, each behind its answer number {told}.")


def _leaves(plan: Plan, evidence: Evidence) -> Check:
    left = [line for line in evidence.upstream_closes.values() if line["reason"] in ("drained", "recycled")]
    if not left and not any(Act.KILL in lane.acts for lane in plan.lanes):
        sentence = "No connection was closed because the upstream ended or recycled a worker."
        return Check(NAME, Verdict.INCONCLUSIVE, sentence, "Give it more requests (--trials).")
    return Check(NAME, Verdict.PASS, f"It closed {len(left)} connections because it ended or recycled a worker.")


def closes_seen(scenario: Scenario, plan: Plan, evidence: Evidence, trials: Sequence[Trial]) -> list[float]:
    """The idle ages at which the upstream closed: under requests that crossed its FIN, or where none was near it."""
    if scenario.ends is not Ends.IDLE:
        return []
    conns = {trial.conn for trial in trials if trial.exposure is Exposure.CROSSED}
    far = {lane.name for lane in plan.lanes if lane.aim is Aim.ELSEWHERE}
    conns |= {conn for conn, named in evidence.flows.items() if any(lane_of(flow.link) in far for flow in named)}
    ages = (idle_ms_at_close(flow) for conn in conns for flow in evidence.flows.get(conn, []))
    return sorted(age for age in ages if age is not None)


def _idle_closes(plan: Plan, closes: Sequence[float], seen: Sequence[float]) -> Check:
    """Without an idle close there is no race to hit; and what aims by time must have aimed at the real close."""
    name, told_ms = NAME, plan.setup.keep_alive_s * 1000
    remedy = "Check how its idle timeout is set; `kalab run --upstream lab` is known to close."
    if not closes:
        sentence = f"No idle connection was closed by the upstream, though it was told to after {told_ms:.0f} ms."
        return Check(name, Verdict.INCONCLUSIVE, sentence, remedy)
    measured = f"{min(closes):.1f}–{max(closes):.1f} ms"
    if min(closes) < told_ms * 0.9:
        return Check(name, Verdict.INCONCLUSIVE, f"Told {told_ms:.0f} ms, it closed after {measured}.", remedy)
    if not seen and _must_be_seen(plan):
        sentence = "In the run no idle connection was seen to be closed, so nothing was near a close, or far from one."
        return Check(name, Verdict.INCONCLUSIVE, sentence, "Run more than one block (--blocks).")
    moved_ms = abs(median(seen) - plan.calibration.middle) if seen and _aimed_by_time(plan) else 0.0
    if moved_ms > max(EDGE_MS, (plan.setup.rtt_ms + plan.setup.stall_ms) / 4):
        sentence = f"Measured before the run it closed after {measured}; in the run, after {median(seen):.1f} ms."
        return Check(name, Verdict.INCONCLUSIVE, sentence, "Run again on a quieter machine.")
    return Check(name, Verdict.PASS, f"Told {told_ms:.0f} ms, it closes idle connections after {measured}.")


def _middle_closes(evidence: Evidence, trials: Sequence[Trial], told: Check) -> Check:
    """In a chain the proxy in the middle keeps a log of its closes: it must have made those that the wire saw."""
    said = sum(line["reason"] == IDLE_TIMEOUT for line in evidence.upstream_closes.values())
    crossed = sum(trial.exposure is Exposure.CROSSED for trial in trials)
    sentence = f"{told.sentence} The log of the proxy in the middle has {said} such closes."
    if told.verdict is Verdict.PASS and said < max(1, crossed):
        sentence += f" The wire saw {crossed} requests cross one."
        return Check(NAME, Verdict.INCONCLUSIVE, sentence, "Run again; if it stays, report it with the run folder.")
    return Check(NAME, told.verdict, sentence, told.remedy)


def _aimed_by_time(plan: Plan) -> bool:
    return any(map(by_time, plan.lanes))


def _must_be_seen(plan: Plan) -> bool:
    """Whether the wire must have seen closes: nothing else tells that what is far from them, or near, is that."""
    by_time = (lane.aim is Aim.ELSEWHERE or lane.expect is Expect.PREDICTED for lane in plan.lanes)
    return plan.setup.wire != "loopback" and any(by_time)
