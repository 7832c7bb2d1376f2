"""How much memory an idle client costs: resident memory of a contestant with and without many of them.

Each client sends one request, reads its answer, and stays. What the kernel keeps for a socket is not counted: it is
the same for everybody.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from bench.load import LoadError
from bench.processes import Server, descriptors

SPARE_DESCRIPTORS = 512
AT_ONCE = 200  # connects under way, below every backlog
ANSWERED_WITHIN_S = 30.0
SETTLED_AFTER_S = 1.0
REQUEST = b"GET /small HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


class Idle(NamedTuple):
    """The resident memory of all processes of a contestant, in bytes, and how many clients stayed."""

    contestant: str
    clients: int = 0
    before: int = 0
    after: int = 0
    failed: str = ""

    @property
    def kib_each(self) -> float:
        return (self.after - self.before) / self.clients / 1024


def measure(name: str, server: Server, clients: int) -> Idle:
    """Connects, asks once, waits, and weighs."""
    clients = affordable(clients)
    with idle_clients(server.port, AT_ONCE):
        pass  # what the first clients cost once is not what each one costs
    before = server.resident_bytes()
    with idle_clients(server.port, clients):
        time.sleep(SETTLED_AFTER_S)
        return Idle(name, clients, before, server.resident_bytes())


def affordable(clients: int) -> int:
    """As many of these clients as the descriptor limit allows: a proxy may reserve two descriptors for each."""
    return min(clients, (descriptors(2 * clients + SPARE_DESCRIPTORS) - SPARE_DESCRIPTORS) // 2)


@contextmanager
def idle_clients(port: int, count: int) -> Iterator[None]:
    """So many connections that have each been answered once."""
    connected: list[socket.socket] = []
    try:
        while len(connected) < count:
            wave = [_connected(port) for _ in range(min(AT_ONCE, count - len(connected)))]
            connected += wave
            _await_answers(wave)
        yield
    finally:
        for client in connected:
            client.close()


def _connected(port: int) -> socket.socket:
    try:
        client = socket.create_connection(("127.0.0.1", port), timeout=ANSWERED_WITHIN_S)
    except OSError as error:
        raise LoadError(f"an idle client could not connect: {error}") from error
    client.sendall(REQUEST)
    return client


def _await_answers(wave: list[socket.socket]) -> None:
    """Until every one has begun to be answered; an answer of 1 KiB then follows in the same segment."""
    deadline = time.monotonic() + ANSWERED_WITHIN_S
    with selectors.DefaultSelector() as selector:
        for client in wave:
            selector.register(client, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(1.0):
                answered = key.fileobj
                assert isinstance(answered, socket.socket)
                if not answered.recv(65536).startswith(b"HTTP/1.1 200"):
                    raise LoadError("an idle client was not answered with 200")
                selector.unregister(answered)
            if time.monotonic() > deadline:
                raise LoadError(f"{len(selector.get_map())} idle clients were not answered")


def table(found: list[Idle], titles: dict[str, str]) -> str:
    """The Markdown table."""
    lines = [
        "| contestant | KiB for each idle client | MiB before | MiB with them | clients |",
        "|---|---|---|---|---|",
    ]
    for one in found:
        title = titles[one.contestant]
        if one.failed:
            lines.append(f"| {title} | not measured: {one.failed} | – | – | – |")
            continue
        mib = [f"{size / 2**20:.1f}" for size in (one.before, one.after)]
        lines.append(f"| {title} | {one.kib_each:.1f} | {mib[0]} | {mib[1]} | {one.clients:,} |")
    return "\n".join(lines)
