"""One lost request, packet by packet, from all witnesses: the ladder of the report.

The example is the lost POST that needs the least explanation: one that crossed a FIN which nothing had held back, if
the run has one; otherwise one whose FIN the wire held until the request had left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from lab.checkers import LaneFinding
from lab.model import Aim, Exposure
from lab.result import Ladder, Step
from lab.witness.evidence import Evidence
from lab.witness.flows import Flow, Segment
from lab.witness.logs import Line
from lab.witness.trials import Trial

SHOWN = (Exposure.CROSSED, Exposure.UNREAD, Exposure.FORGOTTEN)

PLAIN = {"client": "client", "proxy": "proxy", "upstream": "upstream"}
CHAIN = {"client": "client", "proxy": "balancer", "upstream": "proxy"}
"""What stands in front of the wire and behind it, by name: in a chain the balancer, and the proxy in the middle."""

NAMES = {"S": "SYN", "D": "data", "F": "FIN", "R": "RST"}


def ladder(evidence: Evidence, findings: Sequence[LaneFinding], names: Mapping[str, str] = PLAIN) -> Ladder | None:
    """The example of this run, or None when nothing was lost. `names`: of those that take part in it."""
    chosen = choose(findings) or _died_over(findings)
    if chosen is None:
        return None
    finding, trial = chosen
    flow = next((f for f in evidence.flows.get(trial.conn, []) if f.request(trial.req_id)), None)
    request = flow.request(trial.req_id) if flow else None
    vanished = trial.exposure is Exposure.FORGOTTEN
    close = flow.upstream_close() if flow and not vanished else None
    if flow is None or request is None or (close is None and not vanished):
        return None
    zero = request.t_in if close is None else close.t_in
    steps = _wire_steps(flow, request, close, zero, held=finding.lane.aim is Aim.HELD_FIN)
    steps += _local_steps(trial, evidence, zero)
    caption = f"{trial.method} on a connection idle for {trial.idle_ms or 0:.1f} ms; the client got {trial.label}."
    named = [msgspec.structs.replace(s, sender=names[s.sender], receiver=names[s.receiver]) for s in steps]
    ordered = sorted(named, key=lambda step: step.t_ms)
    if vanished:  # what both ends still send into the void, for minutes, tells nothing more
        ends = next((i for i, step in enumerate(ordered) if step.receiver == "client"), len(ordered))
        return Ladder(trial.req_id, trial.conn, caption, tuple(ordered[: ends + 1]), "when the request left the proxy")
    return Ladder(trial.req_id, trial.conn, caption, tuple(ordered))


def choose(findings: Sequence[LaneFinding]) -> tuple[LaneFinding, Trial] | None:
    """The request to show, with the lane that it is from: one of those that were lost as most were; None: none was."""
    plain = [f for f in findings if not f.lane.changes]
    by_preference = sorted(plain, key=lambda f: (f.lane.aim is not Aim.GAPS, f.lane.method != "POST"))
    for finding in by_preference:
        lost = [t for t in finding.exposed if t.lost and t.exposure in SHOWN and t.attempts == 1]
        if lost:
            ((usual, _),) = Counter(t.exposure for t in lost).most_common(1)
            alike = sorted((t for t in lost if t.exposure is usual), key=lambda t: t.age_ms)
            return finding, alike[len(alike) // 2]  # the middle of the window shows it best
    return None


def _died_over(findings: Sequence[LaneFinding]) -> tuple[LaneFinding, Trial] | None:
    """What the upstream executed and never answered: the example of a run in which nothing was lost to the race."""
    plain = [f for f in findings if not f.lane.changes and f.lane.aim is Aim.CRASH]
    for finding in sorted(plain, key=lambda f: f.lane.method != "POST"):
        died = (t for t in finding.exposed if t.lost and t.executions == t.attempts == 1)
        if found := next(died, None):
            return finding, found
    return None


def _wire_steps(flow: Flow, request: Segment, close: Segment | None, zero: int, *, held: bool) -> list[Step]:
    answer = flow.last_answer_before(request.t_in)
    steps = [_step(answer, zero, "the answer before: the connection is idle from here")] if answer else []
    for segment in flow.segments:
        if segment is close:
            label = "FIN" if "F" in segment.flags else "RST"
            steps.append(
                _step(segment, zero, f"{label} (held by the wire until the request had left)" if held else label)
            )
        elif segment is request:
            steps.append(_step(segment, zero, f"the request, {segment.size} bytes"))
        elif segment.req_id and segment.req_id == request.req_id:
            steps.append(_step(segment, zero, "the request again"))
        elif segment.t_in > request.t_in or (close and segment.t_in > close.t_in and segment.closes):
            steps.append(_step(segment, zero, " and ".join(NAMES[flag] for flag in segment.flags)))
    return steps


def _step(segment: Segment, zero: int, label: str) -> Step:
    sides = ("proxy", "upstream") if segment.up else ("upstream", "proxy")
    arrived = (segment.t_out - zero) / 1e6 if segment.t_out is not None else None
    return Step((segment.t_in - zero) / 1e6, arrived, *sides, label, segment.flags)


def _local_steps(trial: Trial, evidence: Evidence, zero: int) -> list[Step]:
    """What client, proxy and upstream say of the same moments."""
    client = next(line for line in evidence.of("client.trial") if line["req_id"] == trial.req_id)
    events = {line["kind"]: line for line in evidence.proxy.get(trial.req_id, [])}
    steps = []
    if started := events.get("exchange.started"):
        arrived = (started["t"] - zero) / 1e6
        steps.append(Step((client["sent_ns"] - zero) / 1e6, arrived, "client", "proxy", f"{trial.method} /", "D"))
    if failed := events.get("exchange.attempt_failed"):
        steps.append(Step((failed["t"] - zero) / 1e6, None, "proxy", "proxy", _failure(failed)))
    if finished := events.get("exchange.finished"):
        left = (finished["t"] - zero) / 1e6
        steps.append(Step(left, (client["done_ns"] - zero) / 1e6, "proxy", "client", trial.label, "D"))
    close = evidence.upstream_closes.get(trial.conn)
    if close is not None:
        label = "close()" if close["idle_ms"] is None else f"idle for {close['idle_ms']:.1f} ms: close()"
        if close["reason"] == "crashed":
            label = "executed, and close() without an answer"
        elif close["reason"] == "max_requests":
            label = f"that was answer {close['requests']}, the last: close()"
        steps.append(Step((close["t"] - zero) / 1e6, None, "upstream", "upstream", label))
    return steps


def _failure(line: Line) -> str:
    unacked = line["unacked_bytes"]
    proof = f", {unacked} of {line['sent_bytes']} bytes un-ACKed" if unacked is not None else ""
    return f"{line['failure']}{proof}"
