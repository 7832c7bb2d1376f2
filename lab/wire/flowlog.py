"""The flow log `wire.jsonl`: every data segment, SYN, FIN and RST with both moments of its way, and what the gate did.

A line of `wire.segment` is written when its way has ended, and carries as `t` the moment it began (`t_in`): read the
log sorted by `t`, not by line. `t_out` is null for what was never handed over: the other side had already gone, or the
link had forgotten the connection.
"""

from __future__ import annotations

from pathlib import Path

from lab.wire.flow import Flow, Link, Segment
from lab.wire.gate import ReleasedBy
from proxy.events import EventLog, Kind

LINK = Kind("wire.link", ("link", "make", "address", "port", "delay_ms", "gate", "forget_ms"))
SEGMENT = Kind("wire.segment", ("link", "dir", "flags", "bytes", "t_in", "t_out", "seq", "ack", "req_id", "up_conn"))
HELD = Kind("wire.held", ("link",))
RELEASED = Kind("wire.released", ("link", "by"))
FORGOTTEN = Kind("wire.forgotten", ("link",))


class FlowLog:
    """The wire's evidence. Thin: it only knows which fields a line has."""

    def __init__(self, path: Path) -> None:
        self._log = EventLog(path, at="wire")

    @property
    def emitted(self) -> int:
        return self._log.emitted

    @property
    def dropped(self) -> int:
        return self._log.dropped

    def link(self, link: Link, make: str) -> None:
        """A link as it is now: written when it is made, and when its gate or its memory is set."""
        delay_ms = link.delay_ns / 1e6
        self._log.emit(
            LINK, "", 0, link.name, make, str(link.address), link.port, delay_ms, link.armed, link.forget_ns / 1e6
        )

    def segment(self, segment: Segment, flow: Flow, t_out: int | None) -> None:
        """A segment whose way has ended."""
        self._log.emit(
            SEGMENT,
            flow.conn,
            0,
            flow.link.name,
            "up" if segment.up else "down",
            segment.flags,
            segment.size,
            segment.t_in,
            t_out,
            segment.seq,
            segment.ack,
            segment.req_id,
            flow.up_conn,
            t_ns=segment.t_in,
        )

    def held(self, flow: Flow, t_ns: int) -> None:
        """The gate began to hold."""
        self._log.emit(HELD, flow.conn, 0, flow.link.name, t_ns=t_ns)

    def released(self, flow: Flow, by: ReleasedBy, t_ns: int) -> None:
        """The gate let go."""
        self._log.emit(RELEASED, flow.conn, 0, flow.link.name, by.value, t_ns=t_ns)

    def forgotten(self, flow: Flow, t_ns: int) -> None:
        """A connection is forgotten since `t_ns`; noted when something comes that is dropped for it."""
        self._log.emit(FORGOTTEN, flow.conn, 0, flow.link.name, t_ns=t_ns)

    def close(self) -> None:
        self._log.close()
