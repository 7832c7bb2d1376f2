"""Joins the witnesses: one `Trial` per aimed request, with what each of them says about it.

Client, proxy and upstream know a request by its id; proxy, wire and upstream know a connection by its 4-tuple. Where
two witnesses contradict each other the trial carries the contradiction in `dispute`; nobody is outvoted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from lab.model import Exposure, Outcome
from lab.witness.flows import Flow, Segment, expose, flows
from lab.witness.logs import Line, Log, read


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
    """Idle time on the client's own connection before this request."""
    idle_ms: float | None
    """Idle age of the upstream connection it was sent on, as the wire (or the proxy) measured it."""
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


@dataclass
class Evidence:
    """Everything the witnesses of one run wrote."""

    client: list[Line]
    proxy: dict[str, list[Line]]
    """Proxy events by request id."""
    executions: Counter[str]
    upstream_closes: dict[str, Line]
    flows: dict[str, list[Flow]]
    wire: Line | None
    """What the wire said of itself at the end; None where there is none."""
    damage: list[str] = field(default_factory=list)

    def of(self, kind: str) -> Iterator[Line]:
        return (line for line in self.client if line["kind"] == kind)


def load(folder: Path) -> Evidence:
    """Reads all event logs of a run folder: client, wire, proxy-*, upstream-*, executions-*."""
    client = read(folder / "client.jsonl")
    wire = [read(path) for path in folder.glob("wire.jsonl")]
    proxies = [read(path) for path in sorted(folder.glob("proxy-*.jsonl"))]
    upstreams = [read(path) for path in sorted(folder.glob("upstream-*.jsonl"))]
    by_request: dict[str, list[Line]] = defaultdict(list)
    for line in _lines(proxies):
        if req_id := line.get("req_id"):
            by_request[req_id].append(line)
    executed = [line for line in _lines(upstreams) if line["kind"] == "exchange.executed"]
    executed += [line for path in sorted(folder.glob("executions-*.jsonl")) for line in _plain(path)]
    return Evidence(
        client=client.lines,
        proxy=by_request,
        executions=Counter(line["req_id"] for line in executed),
        upstream_closes={line["conn"]: line for line in _lines(upstreams) if line["kind"] == "upstream.closed"},
        flows=flows(_lines(wire)),
        wire=next((line for line in client.lines if line["kind"] == "client.wire"), None),
        damage=[log.damage for log in (client, *wire, *proxies, *upstreams) if log.damage],
    )


def join(evidence: Evidence) -> list[Trial]:
    """One trial per aimed request that the client sent."""
    places = _places(evidence)
    return [_trial(line, evidence, places) for line in evidence.of("client.trial")]


Places = dict[str, list[tuple[Flow, Segment]]]


def _places(evidence: Evidence) -> Places:
    """Where on the wire each request id was seen, in order; of packets that a kernel repeated, the first."""
    places: Places = defaultdict(list)
    for named in evidence.flows.values():
        for flow in named:
            for req_id in dict.fromkeys(s.req_id for s in flow.segments if s.up and s.req_id):
                segment = flow.request(req_id)
                assert segment is not None
                places[req_id].append((flow, segment))
    for seen in places.values():
        seen.sort(key=lambda place: place[1].t_in)
    return places


def _trial(line: Line, evidence: Evidence, places: Places) -> Trial:
    req_id = line["req_id"]
    events = evidence.proxy.get(req_id, [])
    sent = [e for e in events if e["kind"] == "exchange.sent"]
    failed = [e for e in events if e["kind"] == "exchange.attempt_failed"]
    seen = places.get(req_id, [])
    executions = evidence.executions[req_id]
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
        gap_ms=line["gap_ms"],
        idle_ms=idle_ms,
        late_ms=(line["sent_ns"] - line["intended_ns"]) / 1e6,
        latency_ms=(line["done_ns"] - line["sent_ns"]) / 1e6,
        attempts=len(sent) or len(seen),
        executions=executions,
        proof=failed[0]["proof"] if failed else "",
        unacked_bytes=failed[0]["unacked_bytes"] if failed else None,
        because=failed[0]["because"] if failed else "",
        armed=line["armed"],
        conn=sent[0]["conn"] if sent else seen[0][0].conn if seen else "",
    )
    return msgspec.structs.replace(trial, dispute=_dispute(trial, events, evidence))


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
        named = evidence.flows.get(sent[0]["conn"])
        if not named:
            return Exposure.NOT_SENT, None
        flow = named[-1]
        request = Segment(up=True, flags="D", size=0, t_in=sent[0]["t"], t_out=None, req_id=req_id)
    else:
        flow, request = seen[0]
    before = flow.last_answer_before(request.t_in)
    idle_ms = (request.t_in - before.t_out) / 1e6 if before is not None and before.t_out is not None else None
    return expose(flow, request), idle_ms


def _exposure_without_wire(sent: list[Line], evidence: Evidence, executions: int) -> tuple[Exposure, float | None]:
    """On plain loopback nothing lies in between: the proxy's send and the upstream's close are compared directly."""
    if not sent[0]["reused"]:
        return Exposure.NEW_CONNECTION, None
    close = evidence.upstream_closes.get(sent[0]["conn"])
    if close is None or close["reason"] != "idle_timeout":
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
    finished = [e for e in events if e["kind"] == "exchange.finished"]
    if evidence.proxy and not finished:
        return "the proxy says nothing of this request"
    if finished and trial.outcome is Outcome.ANSWERED and finished[0]["status"] != trial.status:
        return f"the proxy says that it answered {finished[0]['status']}, the client got {trial.status}"
    return ""


def _lines(logs: Iterable[Log]) -> list[Line]:
    return [line for log in logs for line in log.lines]


def _plain(path: Path) -> list[Line]:
    """Execution lines of a real server's app: written by the app itself, without numbers or a closing line."""
    return [msgspec.json.decode(raw) for raw in path.read_bytes().splitlines()]
