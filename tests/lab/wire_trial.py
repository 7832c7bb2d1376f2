"""Trials of a wire with real sockets, in a process of their own: `python wire_trial.py MAKE RUN_DIR CONNECTIONS`.

What the sockets said is printed as one JSON object, for a test to judge. A process of its own, because netns moves it
to a private network, and because a test runs it as another user too.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import resource
import select
import socket
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import msgspec

from lab.wire import Wire, enter_private_network, open_wire

DELAY_S = 0.01
FAR_S = 0.1
HOLD_S = 1.0  # long enough for the kernel to repeat a FIN that nobody acknowledges
WITHIN_S = 40.0
RESPONSE_BYTES = 41


class Upstream:
    """`wire_upstream.py` on the far side of a wire."""

    def __init__(self, wire: Wire) -> None:
        program = str(Path(__file__).with_name("wire_upstream.py"))
        self._process = wire.popen(
            [sys.executable, program, wire.bind_host], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.port = int(self._line().rpartition(b":")[2])

    def close_all(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"close\n")
        self._process.stdin.flush()
        assert self._line().startswith(b"closed ")

    def end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(WITHIN_S)
        self._process.stdout.close()

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def request(number: int) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: x\r\nX-Request-Id: r-%07d\r\nContent-Length: 0\r\n\r\n" % number


def unacked(sock: socket.socket) -> int:
    """SIOCOUTQ: bytes in the send queue that the other side has not acknowledged."""
    answer = fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0\0\0\0")
    return int(struct.unpack("i", answer)[0])


def connect_all(address: tuple[str, int], count: int) -> list[socket.socket]:
    """So many connections, dialled at once."""
    clients = [socket.socket() for _ in range(count)]
    for sock in clients:
        sock.setblocking(False)
        sock.connect_ex(address)
    for sock in clients:
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        assert poll.poll(WITHIN_S * 1000), "a connect never ended"
        sock.settimeout(WITHIN_S)
    return clients


def prime(clients: list[socket.socket]) -> None:
    """One request and its answer on each."""
    for number, sock in enumerate(clients):
        sock.sendall(request(number))
    for sock in clients:
        left = RESPONSE_BYTES
        while left:
            left -= len(sock.recv(left))


def fire(clients: list[socket.socket]) -> tuple[int, int]:
    """Sends on every connection at once. Returns how many said EOF, and of those, with the whole request un-ACKed."""
    eofs = proofs = 0
    poll = select.poll()
    by_fd = {sock.fileno(): sock for sock in clients}
    for number, sock in enumerate(clients):
        sock.sendall(request(1_000_000 + number))
        poll.register(sock, select.POLLIN)
    while by_fd:
        ready = poll.poll(WITHIN_S * 1000)
        assert ready, f"{len(by_fd)} connections say nothing"
        for fd, _ in ready:
            sock = by_fd.pop(fd)
            poll.unregister(fd)
            left = unacked(sock)
            if sock.recv(1) == b"":
                eofs += 1
                proofs += left == len(request(0))
    return eofs, proofs


def wait_for_resets(clients: list[socket.socket]) -> None:
    """The upstream's answer to each request. Where the kernel dropped one that met a socket just closing (1 of some
    20,000: it comes together with a delayed ACK), the answer comes to its retransmission."""
    for sock in clients:
        poll = select.poll()
        poll.register(sock, 0)  # POLLHUP is always reported
        assert poll.poll(WITHIN_S * 1000), "a request has had no answer"


async def crossing(wire: Wire, upstream: Upstream, connections: int) -> dict[str, object]:
    """Primes, lets the upstream close all, waits until the gate holds all, fires."""
    address = await wire.link("gated", upstream.port, delay_s=DELAY_S, gate=True)
    clients = connect_all(address, connections)
    prime(clients)
    await wire.mark("gated")
    began = time.monotonic()
    upstream.close_all()
    settled = await wire.settled("gated", connections, WITHIN_S)
    eofs, proofs = fire(clients)
    took = time.monotonic() - began
    drained = await wire.drained("gated", WITHIN_S)
    wait_for_resets(clients)
    for sock in clients:
        sock.close()
    quiet = await wire.quiet("gated", WITHIN_S)
    return {"held": settled.held, "eofs": eofs, "proofs": proofs, "took_s": took, "drained": drained, "quiet": quiet}


async def links_to_one_port(wire: Wire, upstream: Upstream) -> dict[str, object]:
    """How long a handshake, a request, and the news of a close take over a near and a far link."""
    took = {}
    for name, delay_s in (("near", 0.0), ("far", FAR_S)):
        address = await wire.link(name, upstream.port, delay_s=delay_s, gate=False)
        began = time.monotonic()
        clients = connect_all(address, 1)
        connected = time.monotonic()
        prime(clients)
        answered = time.monotonic()
        upstream.close_all()
        assert clients[0].recv(1) == b""
        closed = time.monotonic()
        clients[0].close()
        took[name] = [connected - began, answered - connected, closed - answered]
    return {"took_s": took}


async def long_hold(wire: Wire, upstream: Upstream) -> dict[str, object]:
    """No request comes: the hold limit lets the close go, once, however often the kernel has repeated it."""
    address = await wire.link("long", upstream.port, delay_s=DELAY_S, gate=True)
    await wire.hold("long", HOLD_S)
    clients = connect_all(address, 1)
    prime(clients)
    began = time.monotonic()
    upstream.close_all()
    ended = clients[0].recv(1) == b""
    took = time.monotonic() - began
    clients[0].close()
    return {"ended": ended, "took_s": took}


async def main(make: str, run_dir: Path, connections: int) -> None:
    wire = open_wire(make, run_dir)
    await wire.start()
    upstream = Upstream(wire)
    result = {
        "crossing": await crossing(wire, upstream, connections),
        "links": await links_to_one_port(wire, upstream),
        "long_hold": await long_hold(wire, upstream),
    }
    upstream.end()
    result["stats"] = msgspec.to_builtins(await wire.stop())
    again = open_wire(make, run_dir / "again")
    (run_dir / "again").mkdir()
    await again.start()  # the first has left nothing behind
    await again.stop()
    print(json.dumps(result))


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    make_name, folder, count = sys.argv[1:]
    if make_name == "netns":
        enter_private_network()
    asyncio.run(main(make_name, Path(folder), int(count)))
