"""The wire's log as connections, and where on it a request met the upstream's close.

A segment has two times: `t_in`, when it left its host and entered the wire, and `t_out`, when the other host got it.
The four facts that decide:

- did the connection carry an answer before (was it reused)?
- did the upstream close it, by FIN or by RST?
- had that close left the upstream before the request arrived?
- had it arrived at the proxy's host before the request left?
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from lab.model import Exposure
from lab.witness.logs import Line


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment (or, at a relay, one chunk) on the wire. Times in ns; `t_out` None: it never arrived."""

    up: bool
    flags: str
    size: int
    t_in: int
    t_out: int | None
    req_id: str
    seq: int | None = None
    ack: int | None = None

    @property
    def has_data(self) -> bool:
        return "D" in self.flags

    @property
    def closes(self) -> bool:
        return "F" in self.flags or "R" in self.flags


@dataclass(slots=True)
class Flow:
    """One connection as the wire saw it, segments in order of entry."""

    conn: str
    link: str
    segments: list[Segment] = field(default_factory=list)
    forgotten_ns: int | None = None
    """Since when the wire knew it no more, and dropped what came."""

    def request(self, req_id: str) -> Segment | None:
        """The first segment of the request with this id."""
        return next((s for s in self.segments if s.up and s.req_id == req_id), None)

    def answered_before(self, moment: int) -> bool:
        """Whether an answer had come down to the proxy by then."""
        return any(s.has_data and not s.up and s.t_out is not None and s.t_out <= moment for s in self.segments)

    def last_answer_before(self, moment: int) -> Segment | None:
        answers = [s for s in self.segments if s.has_data and not s.up and s.t_out is not None and s.t_out <= moment]
        return answers[-1] if answers else None

    def answer_to(self, request: Segment) -> Segment | None:
        """The first of what came down after this request had arrived."""
        arrived = request.t_out
        if arrived is None:
            return None
        return next((s for s in self.segments if s.has_data and not s.up and s.t_in >= arrived), None)

    def upstream_close(self) -> Segment | None:
        """The first FIN or RST from the upstream."""
        return next((s for s in self.segments if s.closes and not s.up), None)


def flows(lines: Iterable[Line]) -> dict[str, list[Flow]]:
    """All connections by name. A name can come again when its port is used again: a SYN starts a new flow."""
    found: dict[str, list[Flow]] = {}
    since = {"wire.segment": "t_in", "wire.forgotten": "t"}
    known = (line for line in lines if line["kind"] in since)
    for line in sorted(known, key=lambda line: line[since[line["kind"]]]):
        if line["kind"] == "wire.forgotten":
            if named := found.get(line["conn"]):
                named[-1].forgotten_ns = line["t"]
            continue
        segment = Segment(
            up=line["dir"] == "up",
            flags=line["flags"],
            size=line["bytes"],
            t_in=line["t_in"],
            t_out=line["t_out"],
            req_id=line["req_id"],
            seq=line["seq"],
            ack=line["ack"],
        )
        named = found.setdefault(line["conn"], [])
        if not named or ("S" in segment.flags and segment.up and named[-1].segments[-1].flags != "S"):
            named.append(Flow(line["conn"], line["link"]))
        named[-1].segments.append(segment)
    return found


def expose(flow: Flow, request: Segment) -> Exposure:
    """Where this request met the upstream's close."""
    if not flow.answered_before(request.t_in):
        return Exposure.NEW_CONNECTION
    if flow.forgotten_ns is not None and flow.forgotten_ns <= request.t_in:
        return Exposure.FORGOTTEN
    close = flow.upstream_close()
    if close is None or _answered(flow, request, close):
        return Exposure.NOT_EXPOSED
    if close.t_out is not None and close.t_out <= request.t_in:
        return Exposure.FIN_DELIVERED
    if request.t_out is None or close.t_in < request.t_out:
        return Exposure.CROSSED
    if "F" in close.flags:
        return Exposure.CLOSED_AFTER_ARRIVAL
    return Exposure.UNREAD


def _answered(flow: Flow, request: Segment, close: Segment) -> bool:
    """Whether bytes came down between the request's arrival and the close (or with it)."""
    if request.t_out is None:
        return False
    return any(s.has_data and not s.up and request.t_out <= s.t_in <= close.t_in for s in flow.segments)


def idle_ms_at_close(flow: Flow) -> float | None:
    """The idle age at which the upstream closed, by its own side's times.

    None when it did not, or had never answered, or only answered the close of the proxy.
    It counts from the last answer: what comes down without having been asked for is a farewell, and part of the close.
    """
    close = flow.upstream_close()
    if close is None or any(s.up and s.closes and s.t_out is not None and s.t_out <= close.t_in for s in flow.segments):
        return None
    answered, asked = None, False
    for segment in flow.segments:
        if segment.has_data and segment.up:
            asked = True
        elif segment.has_data and asked and segment.t_in < close.t_in:
            answered, asked = segment.t_in, False
    return (close.t_in - answered) / 1e6 if answered is not None else None
