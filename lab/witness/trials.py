"""Joins the witnesses: one `Trial` per aimed request, with what each of them says about it.

Client, proxy and upstream know a request by its id; proxy, wire and upstream know a connection by its 4-tuple. Where
two witnesses contradict each other the trial carries the contradiction in `dispute`; nobody is outvoted.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import msgspec

from lab.model import Exposure, Outcome
from lab.plan import lane_of
from lab.witness.evidence import Evidence
from lab.witness.flows import Flow, Segment, expose
from lab.witness.lags import close_ms, gap_ms, lag_ms
from lab.witness.logs import Line

# Later witnesses stamp later moments of a request. A stamp this much too early means that a clock is wrong; a process
# may be put aside between what it did and its stamp, so less means nothing.
CLOCKS_AGREE_NS = 10_000_000

IDLE_TIMEOUT = "idle_timeout"
"""The reason that a close has in the log of whoever waited long enough."""


class Trial(msgspec.Struct, frozen=True):
    """One aimed request. Times in ms; `None` is "not known", never 0."""

    req_id: str
    arm: str
    method: str
    block: int
    outcome: Outcome
    status: int
    cause: str
    exposure: Exposure
    gap_ms: float
    """How long the connection that was primed for it had been idle, by the wire's stamp of that answer; without one,
    how long the client's own connection had been."""
    idle_ms: float | None
    """Idle age of the upstream connection it was sent on, as the wire (or the proxy) measured it."""
    close_ms: float | None
    """The idle age at which the upstream closed the connection that it was sent on; None when it did not meanwhile."""
    lag_ms: float
    """By how much a peer came late to something around it, by what the witnesses say: L_u and L_p of docs/race.md."""
    late_ms: float
    """How late the client sent it."""
    latency_ms: float
    attempts: int
    executions: int
    proof: str
    unacked_bytes: int | None
    because: str
    """Why the proxy did or did not repeat it."""
    conn: str
    primed: bool
    """A request before it was answered over an upstream connection of its own: there was something to lose."""
    armed: bool
    """The round was set: every primed connection's FIN was held, or the proxy had closed it first."""
    dispute: str = ""

    @property
    def lost(self) -> bool:
        """Anything but a 2xx answer."""
        return self.outcome is not Outcome.ANSWERED or not 200 <= self.status < 300

    @property
    def age_ms(self) -> float:
        """The idle age at which it was sent: of its upstream connection, or where that was new, the client's gap."""
        return self.gap_ms if self.idle_ms is None else self.idle_ms

    @property
    def label(self) -> str:
        """What the client got, in words."""
        return f"{self.status} {self.cause}".strip() if self.outcome is Outcome.ANSWERED else str(self.outcome)


def join(evidence: Evidence) -> list[Trial]:
    """One trial per aimed request that the client sent."""
    primed = _primed(evidence)
    return [_trial(line, evidence, line["req_id"] in primed) for line in evidence.of("client.trial")]


def _primed(evidence: Evidence) -> set[str]:
    """The aimed requests whose client connection was primed as planned."""
    conns = {
        line["req_id"]: (line["arm"], line["method"], line["block"], *evidence.conns(line["req_id"]))
        for line in evidence.of("client.primed")
        if line["status"] == 200 and line["req_id"].endswith(".prime")
    }
    sharing = Counter(conns.values())
    alone = (req_id for req_id, place in conns.items() if len(place) == 4 and sharing[place] == 1)
    return {req_id.removesuffix(".prime") for req_id in alone}


def _trial(line: Line, evidence: Evidence, primed: bool) -> Trial:
    req_id = line["req_id"]
    events = evidence.proxy.get(req_id, [])
    sent = [e for e in events if e["kind"] == "exchange.sent"]
    failed = [e for e in events if e["kind"] == "exchange.attempt_failed"]
    seen = evidence.places.get(req_id, [])
    executions = len(evidence.executions.get(req_id, ()))
    exposure, idle_ms = _exposure(req_id, sent, seen, evidence, executions)
    trial = Trial(
        req_id=req_id,
        arm=line["arm"],
        method=line["method"],
        block=line["block"],
        outcome=Outcome(line["outcome"]),
        status=line["status"],
        cause=line["cause"],
        exposure=exposure,
        gap_ms=gap_ms(line, evidence),
        idle_ms=idle_ms,
        close_ms=close_ms(exposure, sent, seen, evidence),
        lag_ms=lag_ms(line, exposure, idle_ms, evidence),
        late_ms=(line["sent_ns"] - line["intended_ns"]) / 1e6,
        latency_ms=(line["done_ns"] - line["sent_ns"]) / 1e6,
        attempts=len(sent) or len(seen),
        executions=executions,
        proof=failed[0]["proof"] if failed else "",
        unacked_bytes=failed[0]["unacked_bytes"] if failed else None,
        because=failed[0]["because"] if failed else "",
        primed=primed,
        armed=line["armed"],
        conn=sent[0]["conn"] if sent else seen[0][0].conn if seen else "",
    )
    dispute = (
        _dispute(trial, events, evidence)
        or _dispute_of_middle(trial, evidence)
        or _misled(trial, evidence)
        or clocks(line, evidence)
    )
    return msgspec.structs.replace(trial, dispute=dispute)


def _exposure(
    req_id: str, sent: list[Line], seen: list[tuple[Flow, Segment]], evidence: Evidence, executions: int
) -> tuple[Exposure, float | None]:
    """The class of the first attempt, and the idle age of its connection."""
    if not sent and not seen:
        return Exposure.NOT_SENT, None
    if not evidence.flows:
        return _exposure_without_wire(sent, evidence, executions) if sent else (Exposure.NOT_SENT, None)
    if sent and (not seen or seen[0][0].conn != sent[0]["conn"]):
        # Handed to a socket that was already dead, so the wire never got it: the proxy's stamp stands in.
        named = [f for f in evidence.flows.get(sent[0]["conn"], ()) if f.segments[0].t_in <= sent[0]["t"]]
        if not named:
            return Exposure.NOT_SENT, None
        flow = named[-1]
        request = Segment(up=True, flags="D", size=0, t_in=sent[0]["t"], t_out=None, req_id=req_id)
    else:
        flow, request = seen[0]
    before = flow.last_answer_before(request.t_in)
    idle_ms = (request.t_in - before.t_out) / 1e6 if before is not None and before.t_out is not None else None
    exposure = expose(flow, request)
    if exposure is Exposure.NEW_CONNECTION and _never_accepted(flow, evidence):
        exposure = Exposure.NEVER_ACCEPTED
    return exposure, idle_ms


def _never_accepted(flow: Flow, evidence: Evidence) -> bool:
    """Whether the upstream's kernel reset a connection of which its process never knew."""
    close = flow.upstream_close()
    unknown = bool(evidence.accepted) and flow.conn not in evidence.accepted
    return unknown and close is not None and "R" in close.flags and not flow.answered_before(close.t_in)


def _exposure_without_wire(sent: list[Line], evidence: Evidence, executions: int) -> tuple[Exposure, float | None]:
    """On plain loopback nothing lies in between: the proxy's send and the upstream's close are compared directly."""
    if not sent[0]["reused"]:
        return Exposure.NEW_CONNECTION, None
    close = evidence.upstream_closes.get(sent[0]["conn"])
    if close is None or close["reason"] != IDLE_TIMEOUT:
        return (Exposure.CLOSED_AFTER_ARRIVAL if close and close["reason"] == "crashed" else Exposure.NOT_EXPOSED), None
    if close["unread_bytes"]:
        return Exposure.UNREAD, close["idle_ms"]
    if executions and close["t"] > sent[0]["t"]:
        return Exposure.NOT_EXPOSED, None
    return (Exposure.FIN_DELIVERED if close["t"] <= sent[0]["t"] else Exposure.CROSSED), close["idle_ms"]


def _dispute(trial: Trial, events: list[Line], evidence: Evidence) -> str:
    """The first contradiction between witnesses, or ""."""
    if not trial.lost and not trial.executions:
        return "the client was answered, the upstream executed nothing"
    if trial.exposure is Exposure.CROSSED and trial.attempts == 1 and trial.executions:
        return "the wire says that the request arrived after the close, the upstream says that it was executed"
    if trial.exposure is Exposure.CROSSED and trial.attempts == 1 and not trial.lost:
        return "the wire says that the request arrived after the close, the client was answered"
    if trial.exposure is Exposure.FORGOTTEN and trial.attempts == 1 and (trial.executions or not trial.lost):
        return "the wire says that it dropped the request, the upstream or the client that it was answered"
    if hidden := _hidden_retry(trial, events, evidence):
        return hidden
    finished = [e for e in events if e["kind"] == "exchange.finished"]
    if evidence.proxy and not finished:
        return "the proxy says nothing of this request"
    if finished and trial.outcome is Outcome.ANSWERED and finished[0]["status"] != trial.status:
        return f"the proxy says that it answered {finished[0]['status']}, the client got {trial.status}"
    return ""


def _hidden_retry(trial: Trial, events: list[Line], evidence: Evidence) -> str:
    """Whether a request went or was executed more often than the proxy says that it sent it."""
    sent = sum(e["kind"] == "exchange.sent" for e in events)
    seen = len(evidence.places.get(trial.req_id, ()))
    if sent and seen > sent:
        return f"the proxy says that it sent it {sent} times, the wire saw it {seen} times"
    if sent and trial.executions > sent and not evidence.middle:  # that one may repeat, and says so itself
        return f"the proxy says that it sent it {sent} times, the upstream executed it {trial.executions} times"
    return ""


def _dispute_of_middle(trial: Trial, evidence: Evidence) -> str:
    """What the proxy in the middle of a chain says against the others."""
    if not evidence.middle:
        return ""
    told = evidence.middle.get(trial.req_id)
    if not trial.lost and not told:
        return "the client was answered, the proxy in the middle says nothing of this request"
    if trial.exposure is not Exposure.CROSSED or trial.attempts > 1:
        return ""
    if told:
        return "the wire says that the request arrived after the close, the proxy in the middle says that it had it"
    reason = evidence.upstream_closes.get(trial.conn, {}).get("reason", IDLE_TIMEOUT)
    if reason != IDLE_TIMEOUT:
        return f"the wire says that the proxy in the middle closed an idle connection, that proxy says: {reason}"
    return ""


def _misled(trial: Trial, evidence: Evidence) -> str:
    """Whether it went the way of another arm, so that it tells nothing of its own."""
    own = f"{trial.arm}.{trial.method}"
    proxy = evidence.proxied_by.get(trial.req_id, own)
    links = {lane_of(flow.link) for flow, _ in evidence.places.get(trial.req_id, ())} - {own}
    if proxy != own:
        return f"the client says that it belongs to {own}, the proxy of {proxy} had it"
    return f"the client says that it belongs to {own}, the wire saw it on the link of {links.pop()}" if links else ""


def clocks(line: Line, evidence: Evidence) -> str:
    """Whether a later witness stamped an earlier moment of this request of the client's: then a clock is wrong, or "".

    Each stamp here is made before the moment can show at the next witness: the proxy's before it writes, the upstream's
    before it answers.
    """
    told = evidence.proxy.get(line["req_id"], ())
    sent = [e for e in told if e["kind"] == "exchange.sent"]
    moments = [("client", line["sent_ns"])]
    # Before it is sent a new connection may have to be made, and in that time a clock could hide.
    moments += [("proxy", e["t"]) for e in told if e["kind"] == "exchange.started"]
    if sent:
        moments.append(("proxy", sent[0]["t"]))
    seen = evidence.places.get(line["req_id"], ())
    flow, on_wire = seen[0] if seen and sent and seen[0][0].conn == sent[0]["conn"] else (None, None)
    if on_wire is not None:
        moments.append(("wire", on_wire.t_in))
    if executed := evidence.executions.get(line["req_id"]):
        # Only then is it certain that the client's outcome is later than the arrival.
        moments += [("wire", on_wire.t_out)] if on_wire is not None and on_wire.t_out is not None else []
        moments.append(("upstream", executed[0]))
        answer = flow.answer_to(on_wire) if flow is not None and on_wire is not None and len(seen) == 1 else None
        if answer is not None and answer.t_out is not None and line["outcome"] == Outcome.ANSWERED:
            moments += [("wire", answer.t_in), ("wire", answer.t_out)]
    if line["outcome"] == Outcome.ANSWERED:
        moments.append(("client", line["done_ns"]))
    for (before, early), (after, late) in pairwise(moments):
        if late < early - CLOCKS_AGREE_NS:
            return f"the {after} had it {(early - late) / 1e6:.0f} ms before the {before} let it go, by their clocks"
    return ""
