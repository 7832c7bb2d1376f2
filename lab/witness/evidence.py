"""Everything the witnesses of one run wrote, found by request id and by connection."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lab.plan import Plan
from lab.wire.pcap import packets_in
from lab.witness.flows import Flow, Segment, flows
from lab.witness.logs import Line, Log, read, read_unnumbered

CAPTURES = ("proxy-side.pcap", "upstream-side.pcap")
Places = dict[str, list[tuple[Flow, Segment]]]


@dataclass
class Evidence:
    """Everything the witnesses of one run wrote."""

    client: list[Line]
    proxy: dict[str, list[Line]]
    """Proxy events by request id."""
    proxied_by: dict[str, str]
    """Which lane's proxy wrote of a request id, by the name of its log."""
    executions: dict[str, list[int]]
    """When each request id was executed, ns."""
    upstream_closes: dict[str, Line]
    """What closed on the far side of the wire, by connection: the upstream, or in a chain the proxy in the middle."""
    flows: dict[str, list[Flow]]
    places: Places
    """Where on the wire each request id was seen, in order."""
    wire: Line | None
    """What the wire said of itself at the end; None where there is none."""
    damage: list[str] = field(default_factory=list)
    accepted: frozenset[str] = frozenset()
    """Connections that an upstream says it accepted; empty where none says so."""
    middle: dict[str, list[Line]] = field(default_factory=dict)
    """Events of the proxies in the middle of a chain, by request id; nothing where there is none."""

    def of(self, kind: str) -> Iterator[Line]:
        return (line for line in self.client if line["kind"] == kind)

    def conns(self, req_id: str) -> list[str]:
        """The upstream connections that a request was sent on, in order: by the wire, or by the proxy without one."""
        if self.flows:
            return [flow.conn for flow, _ in self.places.get(req_id, ())]
        return [line["conn"] for line in self.proxy.get(req_id, ()) if line["kind"] == "exchange.sent"]

    def reused(self, req_id: str) -> bool | None:
        """Whether its first connection had carried an answer before, by the same witness; None: it was never sent."""
        if self.flows:
            return next((flow.answered_before(s.t_in) for flow, s in self.places.get(req_id, ())), None)
        sent = (line["reused"] for line in self.proxy.get(req_id, ()) if line["kind"] == "exchange.sent")
        return next(sent, None)

    def undisturbed(self, arm: str, method: str) -> list[Line]:
        """A lane's steady requests that were answered; without the first of them, which had to connect."""
        lane = [line for line in self.of("client.steady") if (line["arm"], line["method"]) == (arm, method)]
        return [line for line in lane[1:] if line["status"] == 200]


def load(folder: Path, plan: Plan) -> Evidence:
    """Reads all event logs that a run of this plan must have left: client, wire, a proxy's per lane, upstreams'.

    In a chain also those of the proxies in the middle.
    """
    client = read(folder / "client.jsonl")
    wire = [] if plan.setup.wire == "loopback" else [read(folder / "wire.jsonl")]
    proxies = {lane.name: read(folder / f"proxy-{lane.name}.jsonl") for lane in plan.lanes}
    upstreams = [read(path) for path in sorted(folder.glob("upstream-*.jsonl"))]
    real = [read_unnumbered(path) for path in sorted(folder.glob("executions-*.jsonl"))]
    middles = [read(path) for path in sorted(folder.glob("middle-*.jsonl"))]
    by_request: dict[str, list[Line]] = defaultdict(list)
    proxied_by: dict[str, str] = {}
    for lane, log in proxies.items():
        for line in log.lines:
            if req_id := line.get("req_id"):
                by_request[req_id].append(line)
                proxied_by[req_id] = lane
    executions: dict[str, list[int]] = defaultdict(list)
    for line in _lines([*upstreams, *real]):
        if line["kind"] == "exchange.executed":
            executions[line["req_id"]].append(line["t"])
    seen = flows(_lines(wire))
    of_wire = next((line for line in client.lines if line["kind"] == "client.wire"), None)
    return Evidence(
        client=client.lines,
        proxy=dict(by_request),
        proxied_by=proxied_by,
        executions=dict(executions),
        upstream_closes=_closes_of_middles(middles) if middles else _closes_of_upstreams(upstreams),
        flows=seen,
        places=_places(seen),
        accepted=_accepted(middles, "downstream.opened") if middles else _accepted(upstreams, "upstream.opened"),
        wire=of_wire,
        damage=[
            *(log.damage for log in (client, *wire, *proxies.values(), *middles, *upstreams, *real) if log.damage),
            *(_captures_lack(folder, of_wire["packets"]) if of_wire is not None else ()),
        ],
        middle=_by_request(middles),
    )


def _captures_lack(folder: Path, packets: int) -> list[str]:
    """What is wrong with the captures, of which the wire says that it wrote so many packets."""
    paths = [folder / name for name in CAPTURES]
    if gone := [path.name for path in paths if not path.exists()]:
        return [f"{name} is missing" for name in gone]
    held = {path.name: packets_in(path) for path in paths}
    broken = [f"{name} breaks off after {n} packets" for name, (n, whole) in held.items() if not whole]
    there = sum(n for n, _ in held.values())
    return broken or ([f"the captures lack {packets - there} of {packets} packets"] if there != packets else [])


def _by_request(logs: Iterable[Log]) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = defaultdict(list)
    for line in _lines(logs):
        if req_id := line.get("req_id"):
            found[req_id].append(line)
    return dict(found)


def _closes_of_upstreams(logs: Iterable[Log]) -> dict[str, Line]:
    return {line["conn"]: line for line in _lines(logs) if line["kind"] == "upstream.closed"}


def _closes_of_middles(logs: Iterable[Log]) -> dict[str, Line]:
    """The same of a proxy, which says of what it has accepted neither how old it was nor what was left unread."""
    unsaid = {"idle_ms": None, "unread_bytes": 0}
    return {line["conn"]: {**unsaid, **line} for line in _lines(logs) if line["kind"] == "downstream.closed"}


def _accepted(logs: Iterable[Log], kind: str) -> frozenset[str]:
    return frozenset(line["conn"] for line in _lines(logs) if line["kind"] == kind)


def _places(seen: dict[str, list[Flow]]) -> Places:
    """Where each request id was seen, in order; of packets that a kernel repeated, the first."""
    places: Places = defaultdict(list)
    for named in seen.values():
        for flow in named:
            for req_id in dict.fromkeys(s.req_id for s in flow.segments if s.up and s.req_id):
                segment = flow.request(req_id)
                assert segment is not None
                places[req_id].append((flow, segment))
    for found in places.values():
        found.sort(key=lambda place: place[1].t_in)
    return dict(places)


def _lines(logs: Iterable[Log]) -> list[Line]:
    return [line for log in logs for line in log.lines]
