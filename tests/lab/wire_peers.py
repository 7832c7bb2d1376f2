"""Raw sockets on both sides of a wire, and readers of what the wire wrote. For the tests of lab.wire."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from pathlib import Path
from typing import Any, NamedTuple

import dpkt
import msgspec

WITHIN_S = 20.0
REQUEST = b"POST /orders HTTP/1.1\r\nHost: x\r\nX-Request-Id: r-1\r\nContent-Length: 0\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"


class Pair(NamedTuple):
    """A connection through the wire: the proxy's socket and the upstream's."""

    proxy: socket.socket
    upstream: socket.socket

    async def say(self, up: bytes = b"", down: bytes = b"") -> None:
        """Sends, and waits until it has arrived."""
        if up:
            await send(self.proxy, up)
            assert await receive(self.upstream, len(up)) == up
        if down:
            await send(self.upstream, down)
            assert await receive(self.proxy, len(down)) == down

    def close(self) -> None:
        self.proxy.close()
        self.upstream.close()


def listener() -> socket.socket:
    """An upstream's listening socket."""
    sock = socket.create_server(("127.0.0.1", 0), backlog=4096)
    sock.setblocking(False)
    return sock


async def connect(address: tuple[str, int], server: socket.socket) -> Pair:
    """Dials through the wire and waits for the upstream to accept."""
    client = await dial(address)
    accepted, _ = await soon(asyncio.get_running_loop().sock_accept(server))
    accepted.setblocking(False)
    return Pair(client, accepted)


async def dial(address: tuple[str, int]) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    await soon(asyncio.get_running_loop().sock_connect(sock, address))
    return sock


async def send(sock: socket.socket, data: bytes) -> None:
    await soon(asyncio.get_running_loop().sock_sendall(sock, data))


async def receive(sock: socket.socket, n: int) -> bytes:
    """Exactly n bytes, or fewer before an EOF."""
    received = b""
    while len(received) < n:
        chunk = await soon(asyncio.get_running_loop().sock_recv(sock, n - len(received)))
        if not chunk:
            break
        received += chunk
    return received


async def soon(awaitable: Any) -> Any:
    return await asyncio.wait_for(awaitable, WITHIN_S)


async def hung_up(sock: socket.socket) -> None:
    """Waits until the kernel says that the connection is dead in both directions (a RST came)."""
    poll = select.poll()
    poll.register(sock, 0)
    async with asyncio.timeout(WITHIN_S):
        while not poll.poll(0):
            await asyncio.sleep(0.002)


def reset(sock: socket.socket) -> None:
    """Closes by RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def events(run_dir: Path) -> list[dict[str, Any]]:
    """The flow log, by time."""
    lines = (run_dir / "wire.jsonl").read_bytes().splitlines()
    return sorted((msgspec.json.decode(line) for line in lines), key=lambda event: event["t"])


def segments(run_dir: Path, **wanted: object) -> list[dict[str, Any]]:
    """The segments of the flow log whose fields are as wanted."""
    return [
        event
        for event in events(run_dir)
        if event["kind"] == "wire.segment" and all(event[field] == value for field, value in wanted.items())
    ]


class Seen(NamedTuple):
    """A TCP packet of a capture."""

    time: float
    source: int
    target: int
    flags: int
    seq: int
    ack: int
    data: bytes


def packets(path: Path) -> list[Seen]:
    """A capture, read back by dpkt."""
    with path.open("rb") as file:
        reader = dpkt.pcap.Reader(file)
        ethernet = reader.datalink() == dpkt.pcap.DLT_EN10MB
        seen = []
        for time, frame in reader:
            ip = dpkt.ethernet.Ethernet(frame).data if ethernet else dpkt.ip.IP(frame)
            tcp = ip.data
            seen.append(Seen(float(time), tcp.sport, tcp.dport, tcp.flags, tcp.seq, tcp.ack, bytes(tcp.data)))
        return seen
