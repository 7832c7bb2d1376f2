"""The nouns of the wire: a link, a connection that uses it (a flow), and what travels on it (a segment)."""

from __future__ import annotations

import re

from lab.wire.contract import HOLD_LIMIT_S, Address
from lab.wire.gate import Gate

REQUEST_ID = re.compile(rb"\r\nx-request-id:[ \t]*([^\r\n]*?)[ \t]*\r\n", re.IGNORECASE)

# What a segment carries. "D" is data; a pure ACK has no letter and is not logged.
DATA, FIN, RST, SYN = "D", "F", "R", "S"


class Link:
    """A named way to one upstream port, and the counts of its round. Changed by `Line` only."""

    __slots__ = (
        "address",
        "armed",
        "closed_by_proxy",
        "delay_ns",
        "forget_ns",
        "held",
        "held_this_round",
        "hold_limit_ns",
        "name",
        "on_its_way",
        "open",
        "port",
        "round",
    )

    def __init__(self, name: str, port: int, address: Address, delay_ns: int, armed: bool) -> None:
        self.name = name
        self.port = port
        self.address = address
        self.delay_ns = delay_ns
        self.armed = armed
        self.hold_limit_ns = int(HOLD_LIMIT_S * 1e9)
        self.forget_ns = 0  # of silence, after which a connection is forgotten; 0: never
        self.round = 0
        self.held: dict[Flow, None] = {}
        self.held_this_round = 0
        self.closed_by_proxy = 0
        self.open = 0
        self.on_its_way = 0

    def __repr__(self) -> str:
        return f"<Link {self.name}, {self.open} open, {len(self.held)} held, {self.on_its_way} on their way>"


class Flow:
    """One connection over a link. `conn` and `up_conn` are its names at the proxy's and at the upstream's side."""

    __slots__ = (
        "closed_down",
        "closed_up",
        "conn",
        "ended_down",
        "ended_up",
        "forgotten",
        "gate",
        "held_round",
        "last_ns",
        "link",
        "not_before",
        "opened",
        "up_conn",
        "waiting",
    )

    def __init__(self, link: Link, conn: str, up_conn: str) -> None:
        self.link = link
        self.conn = conn
        self.up_conn = up_conn
        self.gate = Gate()
        self.waiting: list[Segment] = []
        self.held_round = -1
        self.not_before = 0  # nothing goes down before this moment: what was held goes first
        self.last_ns = 0  # when something entered last
        self.forgotten = False
        self.opened = False
        self.closed_up = False  # the proxy's FIN or RST has entered the wire
        self.closed_down = False  # the upstream's FIN or RST has passed the gate
        self.ended_up = False  # the proxy's FIN has reached the upstream
        self.ended_down = False  # the upstream's FIN has reached the proxy

    @property
    def fresh(self) -> bool:
        """Nobody has answered its SYN yet."""
        return not (self.opened or self.closed_up or self.closed_down)

    def __repr__(self) -> str:
        return f"<Flow {self.conn} on {self.link.name}, {self.gate!r}>"


class Segment:
    """What travels: a packet (netns), or a chunk of data, a SYN, FIN or RST (relay).

    `flow` is None for a packet that belongs to no connection. `payload` is what the make hands over; its last `size`
    bytes are TCP data. `t_in`: when it left its host, monotonic ns.
    """

    __slots__ = ("ack", "delay_ns", "flags", "flow", "payload", "req_id", "seq", "size", "t_in", "up")

    def __init__(
        self,
        flow: Flow | None,
        up: bool,
        flags: str,
        t_in: int,
        *,
        delay_ns: int,
        payload: bytes = b"",
        size: int = 0,
        seq: int = 0,
        ack: int = 0,
    ) -> None:
        self.flow = flow
        self.up = up
        self.flags = flags
        self.t_in = t_in
        self.delay_ns = delay_ns
        self.payload = payload
        self.size = size
        self.seq = seq
        self.ack = ack
        self.req_id = ""

    @property
    def data(self) -> bytes:
        """The TCP data."""
        return self.payload[len(self.payload) - self.size :]

    def repeats(self, earlier: Segment) -> bool:
        """A retransmission."""
        return bool(self.flags) and (self.seq, self.size, self.flags) == (earlier.seq, earlier.size, earlier.flags)

    def __repr__(self) -> str:
        return f"<Segment {'up' if self.up else 'down'} {self.flags or 'ack'} {self.size} bytes, {self.flow!r}>"


def request_id(head: bytes) -> str:
    """The X-Request-Id of the request that begins here, or "" when it has none."""
    found = REQUEST_ID.search(head)
    return found[1].decode("latin-1") if found else ""
