"""One socket of a relayed connection, and the packets that its reads and writes would have been."""

from __future__ import annotations

import socket
from collections import deque

from lab.wire.flow import DATA, FIN, RST, SYN, Flow, Segment
from lab.wire.pcap import TCP_ACK, TCP_FIN, TCP_PSH, TCP_RST, TCP_SYN, Endpoint, PcapFile, tcp_packet

FLAG_BITS = {SYN: TCP_SYN, DATA: TCP_PSH | TCP_ACK, FIN: TCP_FIN | TCP_ACK, RST: TCP_RST | TCP_ACK}


class RelayFlow(Flow):
    """A relayed connection: its two ends."""

    __slots__ = ("downstream", "upstream")

    downstream: End
    upstream: End | None

    def end(self, up: bool) -> End | None:
        """The end at which a segment leaves the relay."""
        return self.upstream if up else self.downstream


class End:
    """One socket. `came` and `went` count its bytes read and written, SYN and FIN included, as TCP's numbers do."""

    __slots__ = (
        "_here",
        "_pcap",
        "_there",
        "came",
        "closed",
        "dialling",
        "eof",
        "faces_proxy",
        "fd",
        "fin_sent",
        "flow",
        "out",
        "reading",
        "sock",
        "waiting",
        "watched",
        "went",
        "written",
    )

    def __init__(self, sock: socket.socket, flow: RelayFlow, faces_proxy: bool, pcap: PcapFile) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.flow = flow
        self.faces_proxy = faces_proxy
        self.out: deque[Segment] = deque()  # due, and not taken by the kernel yet
        self.written = 0  # bytes of out[0] that the kernel has taken
        self.waiting = 0  # bytes read here that are not delivered yet
        self.dialling = False
        self.reading = False
        self.eof = False
        self.fin_sent = False
        self.closed = False
        self.watched = 0
        self.came = 0
        self.went = 0
        self._pcap = pcap

    def __repr__(self) -> str:
        side = "proxy" if self.faces_proxy else "upstream"
        state = "closed" if self.closed else "eof" if self.eof else "reading" if self.reading else "paused"
        return f"<End to the {side}, {state}, {len(self.out)} to write, {self.waiting} bytes on their way>"

    def named(self, here: tuple[str, int], there: tuple[str, int]) -> None:
        self._here, self._there = Endpoint(here), Endpoint(there)

    def tap_read(self, t_ns: int, flags: int, data: bytes = b"") -> None:
        """Notes what came from this end's host in the capture of its side."""
        self._pcap.add(t_ns, tcp_packet(self._there, self._here, self.came, self.went, flags, data))
        self.came += len(data) + (1 if flags & (TCP_SYN | TCP_FIN) else 0)

    def tap_write(self, t_ns: int, flags: int, data: bytes = b"") -> None:
        """Notes what went to this end's host."""
        self._pcap.add(t_ns, tcp_packet(self._here, self._there, self.went, self.came, flags, data))
        self.went += len(data) + (1 if flags & (TCP_SYN | TCP_FIN) else 0)
