"""What the witnesses say of one request's ages, and of how late the peers came to something around it.

The model's box (docs/race.md) is that of peers who are on time. Where one was not, the wire and the proxy say by how
much: so a request can be held against the model, or left out, by evidence.
"""

from __future__ import annotations

from lab.model import Exposure
from lab.witness.evidence import Evidence
from lab.witness.flows import Flow, Segment, idle_ms_at_close
from lab.witness.logs import Line

MET_A_CLOSE = (Exposure.CROSSED, Exposure.FIN_DELIVERED, Exposure.UNREAD)


def gap_ms(line: Line, evidence: Evidence) -> float:
    """How long the connection that was primed for this request had been idle. `line`: the client's, of the request.

    The client may have been late to read the answer that primed it; the wire was not.
    """
    answer = _primed_at(line, evidence)
    return float(line["gap_ms"]) if answer is None else (line["sent_ns"] - answer) / 1e6


def close_ms(
    exposure: Exposure, sent: list[Line], seen: list[tuple[Flow, Segment]], evidence: Evidence
) -> float | None:
    """The idle age at which the upstream closed the connection that it met a close on; None when it met none."""
    if exposure not in MET_A_CLOSE or not evidence.flows:
        return None
    flow = seen[0][0] if seen else evidence.flows[sent[0]["conn"]][-1]
    return idle_ms_at_close(flow)


def lag_ms(line: Line, exposure: Exposure, idle_ms: float | None, evidence: Evidence) -> float:
    """By how much a peer was late around this request; 0 where nobody says so."""
    seen = evidence.places.get(line["req_id"])
    lags = [0.0, *_of_the_proxy(line, exposure, idle_ms, evidence)]
    close = seen[0][0].upstream_close() if seen else None
    if seen and close is not None:
        request = seen[0][1]
        failed = (e["t"] for e in evidence.proxy.get(line["req_id"], ()) if e["kind"] == "exchange.attempt_failed")
        noticed = next(failed, None)
        if exposure is Exposure.CROSSED and close.t_out is not None and noticed is not None:
            lags.append((noticed - close.t_out) / 1e6)  # it had not looked at what had come
        if exposure is Exposure.FIN_DELIVERED and close.t_out is not None:
            lags.append((request.t_in - close.t_out) / 1e6)  # it had not noticed the FIN
        if exposure is Exposure.UNREAD and request.t_out is not None:
            lags.append((close.t_in - request.t_out) / 1e6)  # the upstream had not read the request
    return max(lags)


def _of_the_proxy(line: Line, exposure: Exposure, idle_ms: float | None, evidence: Evidence) -> list[float]:
    """How late it read the answer before, by which it counts idle time, or the request."""
    events = {event["kind"]: event for event in evidence.proxy.get(line["req_id"], ())}
    started, finished = events.get("exchange.started"), events.get("exchange.finished")
    if exposure is not Exposure.NEW_CONNECTION:
        return (
            [idle_ms - finished["up_idle_ms"]] if finished and idle_ms is not None and finished["attempts"] == 1 else []
        )
    answer = _primed_at(line, evidence)
    primed = (e for e in evidence.proxy.get(f"{line['req_id']}.prime", ()) if e["kind"] == "exchange.finished")
    read_late = [(event["t"] - answer) / 1e6 for event in primed if answer is not None]
    return [*read_late, *([(started["t"] - line["sent_ns"]) / 1e6] if started else [])]


def _primed_at(line: Line, evidence: Evidence) -> int | None:
    """When the answer that primed this request's connection reached the proxy's host."""
    for flow, request in evidence.places.get(f"{line['req_id']}.prime", ()):
        answer = flow.answer_to(request)
        if answer is not None:
            return answer.t_out
    return None
