"""Whether everybody was on time where an expectation rests on it. On a busy machine a peer that is late loses requests
that its configuration would have saved, and nobody may be accused of that.

Pure: evidence in, checks out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from lab.checkers import LaneFinding
from lab.model import Aim, Expect, Exposure, Verdict
from lab.plan import IDLE_KEY, LanePlan, Plan
from lab.result import Check
from lab.witness.evidence import Evidence
from lab.witness.flows import idle_ms_at_close
from lab.witness.trials import Trial

# An upstream that is stopped is blind from before the first of a round's idle timeouts until after the last. The later
# a connection was primed than the first, the longer it is blind for that one, and that counts as margin in these arms.
MAX_PRIMED_APART_MS = 60.0

NEARLY = 0.9  # of the idle timeout: a close after that long is one for idleness

REMEDY = "Close other programs, or run fewer trials at once (--trials)."


def time_checks(
    plan: Plan, evidence: Evidence, findings: Sequence[LaneFinding]
) -> list[tuple[str, Callable[[], Check]]]:
    """Those that this run needs, by name."""
    checks: list[tuple[str, Callable[[], Check]]] = []
    if stopping := [lane for lane in plan.lanes if lane.aim is Aim.FROZEN_UPSTREAM and lane.prevents]:
        checks.append(("primed together", lambda: _primed_together(stopping, evidence)))
    if counting := [f for f in findings if f.lane.primes > 1 and f.lane.aim is not Aim.CRASH]:
        checks.append(("closed by count", lambda: _closed_by_count(plan, counting, evidence)))
    if failed := [f for f in findings if f.verdict is Verdict.FAIL and _margin_ms(plan, f.lane) > 0]:
        checks.append(("margin", lambda: _lateness_within_the_margin(plan, failed, evidence)))
    if proving := [f for f in findings if _needs_proof(f.lane)]:
        checks.append(("proof in time", lambda: _proof_in_time(proving, evidence)))
    return checks


def _primed_together(lanes: Sequence[LanePlan], evidence: Evidence) -> Check:
    """Where the upstream is stopped, a margin is judged: all connections of a round must be as old as each other."""
    name = "primed together"
    rounds: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for line in evidence.of("client.primed"):
        if line["status"] == 200 and line["req_id"].endswith(".prime"):
            rounds[line["arm"], line["method"], line["block"]].append(line["done_ns"])
    stopping = {(lane.arm, lane.method) for lane in lanes}
    apart_ms = max((max(done) - min(done)) / 1e6 for key, done in rounds.items() if key[:2] in stopping)
    sentence = f"The connections of a round were primed within {apart_ms:.0f} ms."
    if apart_ms > MAX_PRIMED_APART_MS:
        sentence += " For the last of them the upstream stood still for longer than planned."
        return Check(name, Verdict.INCONCLUSIVE, sentence, REMEDY)
    return Check(name, Verdict.PASS, sentence)


def _margin_ms(plan: Plan, lane: LanePlan) -> float:
    """How much sooner its proxy gives up than the upstream does, where that is what mends it; 0 elsewhere.

    One that does not even cover the round trip needs no late peer to lose requests, so it is not excused by any.
    """
    if lane.expect is not Expect.MENDED or not lane.prevents or IDLE_KEY not in lane.proxy:
        return 0.0
    margin_ms = plan.calibration.low - lane.proxy_idle_ms
    return margin_ms if margin_ms > lane.rtt_ms else 0.0


def _lateness_within_the_margin(plan: Plan, findings: Sequence[LaneFinding], evidence: Evidence) -> Check:
    """A margin covers the round trip and, with what is left of it, peers that are late. More is no fault of the fix."""
    name = "margin"
    for finding in findings:
        margin_ms = _margin_ms(plan, finding.lane)
        late_ms = [_late_ms(finding.lane, trial, evidence) for trial in finding.trials if trial.lost]
        if late_ms and min(late_ms) + finding.lane.rtt_ms >= margin_ms:
            sentence = (
                f"{finding.lane.name} lost {len(late_ms)}, each to peers that were late by {min(late_ms):.0f} ms or "
                f"more: with the round trip that is more than its margin of {margin_ms:.0f} ms."
            )
            return Check(name, Verdict.INCONCLUSIVE, sentence, REMEDY)
    return Check(name, Verdict.PASS, "Nothing was lost to peers that were later than a margin covers.")


def _late_ms(lane: LanePlan, trial: Trial, evidence: Evidence) -> float:
    """How late the proxy and the upstream were, together.

    The proxy: to read the answer from which it counts idle time, and to send what it had begun within its limit. One
    that does not keep its limit is not late. The upstream: to read the request.
    """
    events = {event["kind"]: event for event in evidence.proxy.get(trial.req_id, ())}
    late_ms = 0.0
    counted = events.get("exchange.finished", {}).get("up_idle_ms")
    if counted is not None and trial.idle_ms is not None:
        late_ms += trial.idle_ms - counted
        if "exchange.started" in events and "exchange.sent" in events:
            took_ms = (events["exchange.sent"]["t"] - events["exchange.started"]["t"]) / 1e6
            late_ms += min(took_ms, max(0.0, counted - lane.proxy_idle_ms))
    seen = evidence.places.get(trial.req_id)
    close = seen[0][0].upstream_close() if seen else None
    if seen and close is not None and trial.exposure is Exposure.UNREAD and seen[0][1].t_out is not None:
        late_ms += (close.t_in - seen[0][1].t_out) / 1e6
    return late_ms


def _closed_by_count(plan: Plan, findings: Sequence[LaneFinding], evidence: Evidence) -> Check:
    """Where a number of answers ends connections, no idle timeout may have done it before the request was sent."""
    name = "closed by count"
    limit_ms = NEARLY * plan.setup.keep_alive_s * 1000
    lost = [trial for finding in findings for trial in finding.trials if trial.lost]
    idle = [trial for trial in lost if (_idle_at_close_ms(trial, evidence) or 0.0) >= limit_ms]
    if idle:
        sentence = f"{len(idle)} of {len(lost)} losses met a close for idleness, not for the number of answers."
        return Check(name, Verdict.INCONCLUSIVE, sentence, REMEDY)
    return Check(name, Verdict.PASS, "No request was lost to a close for idleness.")


def _idle_at_close_ms(trial: Trial, evidence: Evidence) -> float | None:
    seen = evidence.places.get(trial.req_id)
    return idle_ms_at_close(seen[0][0]) if seen else None


def _needs_proof(lane: LanePlan) -> bool:
    return lane.expect is Expect.MENDED and lane.proxy.get("retry.policy") == "when_proven"


def _proof_in_time(findings: Sequence[LaneFinding], evidence: Evidence) -> Check:
    """Un-ACKed bytes prove something until a word of the request's arrival is back, one round trip after it left."""
    name = "proof in time"
    lost = [(f.lane, trial) for f in findings for trial in f.exposed if trial.lost]
    late = [trial for lane, trial in lost if _noticed_late(lane, trial, evidence)]
    if late and len(late) == len(lost):  # one that was in time is the fix's own
        sentence = f"In all {len(lost)} losses the proxy noticed the close only when its proof was gone."
        return Check(name, Verdict.INCONCLUSIVE, sentence, REMEDY)
    return Check(name, Verdict.PASS, "Wherever a repeat needs a proof, the proxy looked before it was gone.")


def _noticed_late(lane: LanePlan, trial: Trial, evidence: Evidence) -> bool:
    seen = evidence.places.get(trial.req_id)
    failed = [e["t"] for e in evidence.proxy.get(trial.req_id, ()) if e["kind"] == "exchange.attempt_failed"]
    return bool(seen and failed and failed[0] >= seen[0][1].t_in + lane.rtt_ms * 1e6)
