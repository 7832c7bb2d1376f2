"""The netns wire: two real network stacks, joined by a delay line for their packets. Needs root or a user namespace.

Rules of this file:

- A packet is handed over as it came. The wire reads TCP headers, never changes them, and answers nothing itself.
- The upstream's address tells the link, so links to one port differ in delay and gate.
- A FIN that the upstream's kernel repeats while the first is held is logged, and goes no further.
"""

from __future__ import annotations

import select
import struct
from collections.abc import Sequence
from pathlib import Path
from time import monotonic_ns

from lab.wire.contract import Address, UnsupportedError, WireStats
from lab.wire.evidence import Evidence
from lab.wire.flow import Flow, Link, Segment
from lab.wire.line import Line
from lab.wire.loop import Loop
from lab.wire.namespaces import LINK_PREFIX, PROXY_END, UPSTREAM_END, Networks
from lab.wire.pcap import ETHERNET, TCP_ACK, TCP_SYN
from lab.wire.ring import Ring
from proxy.events import connection_name

LINKS_LIMIT = 254
PACKETS_PER_TURN = 64
PACKETS_ON_THEIR_WAY = 200_000

# Offsets in a frame: Ethernet, then IPv4 without options (Linux sends none), then TCP.
IP_VERSION, IP_LENGTH, IP_PROTOCOL, IP_SOURCE, IP_TARGET, PORTS, TCP = 14, 16, 23, 26, 30, 34, 34
PLAIN_IPV4, TCP_PROTOCOL = 0x45, 6
TCP_HEADER = struct.Struct("!HHIIBB")
LENGTH = struct.Struct("!H")
# The letters of a segment, by TCP's FIN, SYN and RST bits, plus 8 when it carries data.
LETTERS = tuple(
    ("D" if bits & 8 else "") + ("S" if bits & 2 else "") + ("R" if bits & 4 else "") + ("F" if bits & 1 else "")
    for bits in range(16)
)


class Netns:
    """The make "netns"."""

    name = "netns"
    bind_host = "0.0.0.0"

    def __init__(self, loop: Loop, run_dir: Path) -> None:
        self._networks = Networks()
        self.descriptors: Sequence[int] = [self._networks.upstream]
        self._evidence = Evidence(run_dir, ETHERNET)
        self.line = Line(self._evidence.log, self._hand_over)
        self._from_proxy = Ring(PROXY_END)
        self._from_upstream = Ring(UPSTREAM_END)
        self._link_of: dict[bytes, Link] = {}
        self._flow_up: dict[bytes, Flow] = {}
        self._flow_down: dict[bytes, Flow] = {}
        self._forwarded = 0
        self._lost = 0
        loop.watch(self._from_proxy.fileno(), select.EPOLLIN, lambda _: self._take(self._from_proxy, True))
        loop.watch(self._from_upstream.fileno(), select.EPOLLIN, lambda _: self._take(self._from_upstream, False))

    def __repr__(self) -> str:
        return f"<Netns, {self.line!r}>"

    def add_link(self, name: str, port: int, delay_ns: int, armed: bool) -> Link:
        number = len(self._link_of) + 1
        if number > LINKS_LIMIT:
            raise UnsupportedError(f"the netns wire has room for {LINKS_LIMIT} links")
        link = Link(name, port, Address(f"{LINK_PREFIX}.{number}", port), delay_ns, armed)
        self._link_of[bytes(map(int, link.address.host.split(".")))] = link
        return link

    def close(self) -> WireStats:
        self.line.abandon()
        lost = self._lost
        for ring in (self._from_proxy, self._from_upstream):
            ring.close()
            lost += ring.lost
        stats = self._evidence.close(self.name, self._forwarded, lost, self.line.lateness)
        self._networks.close()
        return stats

    # --- packets come ---

    def _take(self, ring: Ring, up: bool) -> None:
        side = self._evidence.proxy_side if up else self._evidence.upstream_side
        for packet, t_in in ring.read(PACKETS_PER_TURN):
            side.add(t_in, packet)
            if len(self.line) >= PACKETS_ON_THEIR_WAY:
                self._lost += 1
            else:
                self.line.enter(self._segment(packet, up, t_in))

    def _segment(self, packet: bytes, up: bool, t_in: int) -> Segment:
        if packet[IP_VERSION] != PLAIN_IPV4 or packet[IP_PROTOCOL] != TCP_PROTOCOL:
            return self._of_no_flow(packet, up, t_in)
        _, _, seq, ack, offset, bits = TCP_HEADER.unpack_from(packet, TCP)
        if up and bits & (TCP_SYN | TCP_ACK) == TCP_SYN:
            self._begin(packet)
        flow = (self._flow_up if up else self._flow_down).get(packet[IP_SOURCE : PORTS + 4])
        if flow is None:
            return self._of_no_flow(packet, up, t_in)
        if bits & TCP_SYN and not up:
            self.line.opened(flow)
        size = LENGTH.unpack_from(packet, IP_LENGTH)[0] - 20 - (offset >> 4) * 4
        letters = LETTERS[bits & 7 | (8 if size else 0)]
        delay_ns = flow.link.delay_ns
        return Segment(flow, up, letters, t_in, delay_ns=delay_ns, payload=packet, size=size, seq=seq, ack=ack)

    def _of_no_flow(self, packet: bytes, up: bool, t_in: int) -> Segment:
        """Not TCP, or of a connection whose SYN went before the wire was there: delayed, not logged."""
        link = self._link_of.get(packet[IP_TARGET:PORTS] if up else packet[IP_SOURCE:IP_TARGET])
        return Segment(None, up, "", t_in, delay_ns=link.delay_ns if link else 0, payload=packet)

    def _begin(self, packet: bytes) -> None:
        """A SYN: a new flow, unless it repeats one that nobody has answered yet."""
        up_key = packet[IP_SOURCE : PORTS + 4]
        before = self._flow_up.get(up_key)
        link = self._link_of.get(packet[IP_TARGET:PORTS])
        if link is None or (before is not None and before.fresh):
            return
        if before is not None:
            self.line.ended(before)
        source, target = packet[IP_SOURCE:IP_TARGET], packet[IP_TARGET:PORTS]
        source_port, target_port = packet[PORTS : PORTS + 2], packet[PORTS + 2 : PORTS + 4]
        name = connection_name(_address(source, source_port), _address(target, target_port))
        flow = Flow(link, name, name)
        self._flow_up[up_key] = flow
        self._flow_down[target + source + target_port + source_port] = flow

    # --- packets go ---

    def _hand_over(self, segment: Segment) -> None:
        # Stamped before the packet goes: the receiving kernel works on it, and may answer, before `send` returns.
        t_out = monotonic_ns()
        ring, side = (
            (self._from_upstream, self._evidence.upstream_side)
            if segment.up
            else (self._from_proxy, self._evidence.proxy_side)
        )
        if ring.send(segment.payload):
            self._forwarded += 1
            side.add(t_out, segment.payload)
            self.line.done(segment, t_out)
        else:
            self.line.done(segment, None)


def _address(ip: bytes, port: bytes) -> tuple[str, int]:
    return ".".join(map(str, ip)), int.from_bytes(port, "big")
