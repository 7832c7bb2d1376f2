"""The relay: a user-space hop that delays what it reads, and FIN and RST too, in order. Needs no rights.

Rules of this file:

- An `End` is one socket of a relayed connection. Reading at one end makes a segment; the line brings it, one delay
  later, to the other end. A FIN is passed on as shutdown, a RST as a close with SO_LINGER 0; half-close stays half.
- A dial takes as long as a real handshake over the link: the upstream is dialled one delay after the accept, and the
  client's first bytes are read one delay after the upstream has accepted. (The proxy's own connect() returns at once:
  the relay's kernel accepted it. A refused dial reaches the proxy as a RST, not as ECONNREFUSED.)
- When more than 1 MiB read at an end is not delivered yet, the relay reads no more there until half of it is.
- Each hop is a TCP connection of its own, so the relay's kernel acknowledges what the proxy sends: un-ACKed bytes
  (SIOCOUTQ) prove nothing behind it. The packets in its pcaps are built from its reads and writes.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from time import monotonic_ns

from lab.wire.contract import Address, WireStats
from lab.wire.evidence import Evidence
from lab.wire.flow import DATA, FIN, RST, SYN, Link, Segment
from lab.wire.line import Line
from lab.wire.loop import Loop
from lab.wire.pcap import RAW_IP, TCP_ACK, TCP_RST, TCP_SYN
from lab.wire.relay_end import FLAG_BITS, End, RelayFlow
from proxy.events import connection_name

CHUNK = 32 << 10
WAITING_LIMIT = 1 << 20
BACKLOG = 4096
ACCEPTS_PER_TURN = 64
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
READ, WRITE, GONE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR | select.EPOLLHUP
DIALLING = {0, errno.EINPROGRESS}
DIALLED = {0, errno.EISCONN}


class Relay:
    """The make "relay": a listening port per link."""

    name = "relay"
    bind_host = "127.0.0.1"
    descriptors: Sequence[int] = ()

    def __init__(self, loop: Loop, run_dir: Path) -> None:
        self._evidence = Evidence(run_dir, RAW_IP)
        self.line = Line(self._evidence.log, self._hand_over)
        self._loop = loop
        self._listeners: list[socket.socket] = []
        self._forwarded = 0

    def __repr__(self) -> str:
        return f"<Relay, {self.line!r}>"

    def add_link(self, name: str, port: int, delay_ns: int, armed: bool) -> Link:
        listener = socket.create_server((self.bind_host, 0), backlog=BACKLOG)
        listener.setblocking(False)
        self._listeners.append(listener)
        link = Link(name, port, Address(*listener.getsockname()), delay_ns, armed)
        self._loop.watch(listener.fileno(), READ, lambda _: self._accept(link, listener))
        return link

    def close(self) -> WireStats:
        self.line.abandon()
        return self._evidence.close(self.name, self._forwarded, 0, self.line.lateness)

    # --- a connection begins ---

    def _accept(self, link: Link, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, peer = listener.accept()
            except BlockingIOError:
                return
            now = monotonic_ns()
            flow = RelayFlow(link, connection_name(peer, link.address), "")
            end = End(_set_up(sock), flow, True, self._evidence.proxy_side)
            end.named(link.address, peer)
            flow.downstream, flow.upstream = end, None
            end.tap_read(now, TCP_SYN)
            end.tap_write(now, TCP_SYN | TCP_ACK)
            end.tap_read(now, TCP_ACK)
            self.line.enter(Segment(flow, True, SYN, now, delay_ns=link.delay_ns))

    def _dial(self, flow: RelayFlow) -> None:
        end = End(_set_up(socket.socket()), flow, False, self._evidence.upstream_side)
        flow.upstream = end
        end.dialling = True
        target = (self.bind_host, flow.link.port)
        now = monotonic_ns()
        failed = end.sock.connect_ex(target)
        here = end.sock.getsockname()
        end.named(here, target)
        flow.up_conn = connection_name(here, target)
        end.tap_write(now, TCP_SYN)
        if failed in DIALLING:
            self._watch(end, WRITE)
        else:
            self._reset_by_host(end)

    def _dialled(self, end: End) -> None:
        flow = end.flow
        result = end.sock.connect_ex((self.bind_host, flow.link.port))  # asked again, it tells how the dial stands
        if result == errno.EALREADY:
            return
        if result not in DIALLED:
            self._reset_by_host(end)
            return
        end.dialling = False
        now = monotonic_ns()
        end.tap_read(now, TCP_SYN | TCP_ACK)
        end.tap_write(now, TCP_ACK)
        self.line.opened(flow)
        self.line.enter(Segment(flow, False, SYN, now, delay_ns=flow.link.delay_ns))
        end.reading = True
        self._watch(end)

    # --- an end has something ---

    def _on_events(self, end: End, events: int) -> None:
        if end.dialling:
            self._dialled(end)
            return
        if events & WRITE:
            self._write(end)
        if end.closed:
            return
        if end.reading and not end.eof and events & (READ | GONE):
            self._read(end)
        elif events & GONE:
            self._gone(end)

    def _read(self, end: End) -> None:
        try:
            data = end.sock.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self._reset_by_host(end)
            return
        if not data:
            end.eof = True
        self._enter(end, DATA if data else FIN, data)
        if end.flow.forgotten:
            if end.eof:  # the other end will never hear of it, so nothing will come back
                self._close(end)
            return
        end.waiting += len(data)
        if end.eof and end.fin_sent:
            self._close(end)
        elif end.eof or end.waiting > WAITING_LIMIT:
            end.reading = False
            self._watch(end)

    def _gone(self, end: End) -> None:
        """The end hung up while the relay does not read it: a reset after its FIN, or unread data before the reset."""
        if end.eof:
            self._reset_by_host(end)
        else:
            self._loop.forget(end.fd)  # or epoll would report it over and over; `_resume` looks again
            end.watched = 0

    def _reset_by_host(self, end: End) -> None:
        self._close(end)
        self._enter(end, RST, b"")

    def _enter(self, end: End, flags: str, data: bytes) -> None:
        now = monotonic_ns()
        flow, up = end.flow, end.faces_proxy
        size = len(data)
        segment = Segment(
            flow, up, flags, now, delay_ns=flow.link.delay_ns, payload=data, size=size, seq=end.came, ack=end.went
        )
        end.tap_read(now, FLAG_BITS[flags], data)
        self.line.enter(segment)

    # --- the line brings something that is due ---

    def _hand_over(self, segment: Segment) -> None:
        flow = segment.flow
        assert isinstance(flow, RelayFlow)
        if segment.flags == SYN:
            now = monotonic_ns()
            if segment.up:
                self._dial(flow)
            else:
                self._resume(flow.downstream)
            self._done(segment, now)
            return
        end = flow.end(segment.up)
        if end is None or end.closed:
            self._done(segment, None)
        elif segment.flags == RST:
            now = monotonic_ns()
            end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self._close(end)
            end.tap_write(now, TCP_RST | TCP_ACK)
            self._done(segment, now)
        else:
            end.out.append(segment)
            if len(end.out) == 1:
                self._write(end)

    def _write(self, end: End) -> None:
        """Gives the kernel what is due, until it takes no more."""
        while end.out:
            segment = end.out[0]
            now = monotonic_ns()
            try:
                if segment.flags == FIN:
                    end.sock.shutdown(socket.SHUT_WR)
                    end.fin_sent = True
                else:
                    end.written += end.sock.send(memoryview(segment.payload)[end.written :])
            except BlockingIOError:
                break
            except OSError:
                self._reset_by_host(end)
                return
            if end.written < segment.size:
                break
            end.written = 0
            end.out.popleft()
            end.tap_write(now, FLAG_BITS[segment.flags], segment.payload)
            self._done(segment, now)
        if end.eof and end.fin_sent:
            self._close(end)
        else:
            self._watch(end)

    def _done(self, segment: Segment, t_out: int | None) -> None:
        self.line.done(segment, t_out)
        flow = segment.flow
        assert isinstance(flow, RelayFlow)
        self._forwarded += t_out is not None
        source = flow.end(not segment.up)
        if source is None or not segment.size:
            return
        source.waiting -= segment.size
        if not (source.reading or source.eof or source.closed) and source.waiting <= WAITING_LIMIT // 2:
            self._resume(source)

    # --- sockets ---

    def _resume(self, end: End) -> None:
        if not end.closed:
            end.reading = True
            self._watch(end)

    def _watch(self, end: End, events: int | None = None) -> None:
        if events is None:
            events = (READ if end.reading else 0) | (WRITE if end.out else 0)
        if not end.watched:
            end.watched = events | GONE
            self._loop.watch(end.fd, events, lambda bits: self._on_events(end, bits))
        elif end.watched != events | GONE:
            end.watched = events | GONE
            self._loop.change(end.fd, events)

    def _close(self, end: End) -> None:
        if end.closed:
            return
        end.closed = True
        end.reading = False
        self._loop.forget(end.fd)
        end.sock.close()
        undelivered, end.out = end.out, deque()
        for segment in undelivered:
            self._done(segment, None)


def _set_up(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
