"""Clients that are too many or too slow: they are told or cut off, and nobody else notices (targets B4, B8)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fleet import Address, Fleet, Size, until
from traffic import Traffic

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

LIMIT_S = 2.0
LATE_S = 1.0  # how much later than its limit a client may be cut off; not a second earlier


@dataclass
class Slow:
    """What became of slow clients: how long each was borne, in seconds."""

    borne_s: list[float] = field(default_factory=list)
    told: int = 0  # why, by 408

    async def dribble(self, address: Address, first: bytes, then: bytes) -> None:
        """Sends `first`, then a byte of `then` again and again, until the proxy says something or ends it."""
        reader, writer = await asyncio.open_connection(*address)
        writer.write(first)
        began = time.monotonic()
        ended = asyncio.create_task(reader.read(1 << 16))
        while not ended.done() and time.monotonic() - began < 10 * LIMIT_S:
            writer.write(then)
            await asyncio.wait([ended], timeout=0.5)
        self.borne_s.append(time.monotonic() - began)
        writer.transport.abort()
        answer = await asyncio.gather(ended, return_exceptions=True)
        self.told += b" 408 " in (answer[0] if isinstance(answer[0], bytes) else b"")


async def test_slowloris_is_cut_at_the_limit_and_good_traffic_goes_on(fleet: Fleet, size: Size) -> None:
    upstream = fleet.upstream()
    limit = f"{LIMIT_S:g}s"
    proxy = fleet.proxy(
        [upstream],
        "--timeouts.downstream_header",
        limit,
        "--timeouts.body_gap",
        limit,
        "--limits.min_body_rate",
        "1KiB",
    )
    heads, bodies = Slow(), Slow()
    crowd, few = size.of(300, 2000), size.of(30, 200)
    post = b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
    async with Traffic([proxy.address], rate=size.of(200, 1000), clients=20) as traffic:
        await traffic.good(100)
        await asyncio.gather(
            *(heads.dribble(proxy.address, b"GET /slow HTTP/1.1\r\nHost: a\r\n", b"X") for _ in range(crowd)),
            *(bodies.dribble(proxy.address, post, b"k") for _ in range(few)),
        )
        outcomes = await traffic.stop()
    print(f"{outcomes}, heads borne {max(heads.borne_s):.2f} s, bodies {max(bodies.borne_s):.2f} s")
    assert heads.told == len(heads.borne_s) == crowd
    assert min(heads.borne_s) >= LIMIT_S - 0.1
    assert max(heads.borne_s) <= LIMIT_S + LATE_S + 2.0 * (not size.full), max(heads.borne_s)
    assert bodies.told == len(bodies.borne_s) == few
    assert max(bodies.borne_s) <= 2 * LIMIT_S + LATE_S + 2.0 * (not size.full), max(bodies.borne_s)
    assert outcomes.ok >= 0.999 * outcomes.sent, outcomes


async def test_readers_that_stop_reading_are_cut_and_memory_stays_flat(fleet: Fleet, size: Size) -> None:
    """What the kernels take counts as read, so the time begins when they take no more."""
    upstream = fleet.upstream()
    proxy = fleet.proxy([upstream], "--timeouts.body_gap", f"{LIMIT_S:g}s")
    few = size.of(20, 200)
    big = b"GET /bytes/8000000 HTTP/1.1\r\nHost: a\r\n\r\n"
    async with Traffic([proxy.address], rate=200, clients=20) as traffic:
        await traffic.good(100)
        before = proxy.rss_bytes()
        sockets = [socket.socket() for _ in range(few)]
        for one in sockets:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)  # the kernel must not take all of it for them
            one.connect(proxy.address)
            one.sendall(big)
        borne_s = await asyncio.to_thread(until_all_reset, sockets, proxy.address[1], LIMIT_S + 15)
        grown = proxy.rss_bytes() - before
        outcomes = await traffic.stop()
    for one in sockets:
        one.close()
    print(f"{outcomes}, borne {min(borne_s):.2f} to {max(borne_s):.2f} s, RSS {grown / (1 << 20):+.1f} MiB")
    assert len(borne_s) == few
    assert min(borne_s) >= LIMIT_S - 0.25
    assert max(borne_s) <= 1.25 * LIMIT_S + LATE_S + 2.0 * (not size.full)  # it is looked at four times in the limit
    assert grown < few * (1 << 20) + (32 << 20), grown
    assert outcomes.ok >= 0.999 * outcomes.sent, outcomes


def until_all_reset(clients: list[socket.socket], port: int, within_s: float) -> list[float]:
    """How long each was borne, in seconds: from when bytes for it were last seen to move, into a kernel or on.

    Nobody reads: an error is waiting at each, and asking takes it away.
    """
    began = time.monotonic()
    moved = dict.fromkeys(clients, (0, began))  # bytes that the proxy's kernel has for it, and since when so many
    borne_s: list[float] = []

    def all_reset() -> bool:
        held, now = held_for_clients(port), time.monotonic()
        for client, (many, _) in list(moved.items()):
            here = held.get(client.getsockname()[1], many)
            if client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                borne_s.append(now - moved.pop(client)[1])
            elif here != many:
                moved[client] = here, now
        return not moved

    until(all_reset, within_s, "all cut off")
    return borne_s


def held_for_clients(port: int) -> dict[int, int]:
    """By a client's port: bytes written to it from this port that its kernel has not acknowledged (proc_net_tcp)."""
    held: dict[int, int] = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if local.endswith(f":{port:04X}"):
            held[int(remote.rpartition(":")[2], 16)] = int(queues.partition(":")[0], 16)
    return held


def asked(client: socket.socket) -> None:
    client.sendall(b"GET /ok HTTP/1.1\r\nHost: a\r\nX-Request-Id: x\r\n\r\n")


def answer_of(client: socket.socket) -> str:
    """ "200", "503", "waiting" while nothing has come, or how it was closed without a word."""
    client.setblocking(False)
    try:
        head = client.recv(4096)
    except BlockingIOError:
        return "waiting"
    except ConnectionResetError:
        return "reset"
    return head[9:12].decode() if head else "closed silently"


def test_256_descriptors_and_1000_clients_no_silent_close(fleet: Fleet, size: Size) -> None:
    upstream = fleet.upstream()
    limited = ("sh", "-c", 'ulimit -n 256; exec "$@"', "sh")
    proxy = fleet.proxy([upstream], wrapper=limited)
    clients = [socket.create_connection(proxy.address) for _ in range(1000)]
    cpu_s, began = proxy.cpu_s(), time.monotonic()
    for client in clients:
        with contextlib.suppress(ConnectionError):  # refused, and gone already; its answer is still to be read
            asked(client)
    found: dict[int, str] = {}

    def all_told() -> bool:
        for number, client in enumerate(clients):
            if found.get(number, "waiting") == "waiting":
                found[number] = answer_of(client)
                if found[number] == "503":
                    client.close()  # makes room for the next to be told
        return "waiting" not in found.values()

    until(all_told, size.of(30, 60), "everybody told")
    busy = (proxy.cpu_s() - cpu_s) / max(time.monotonic() - began, 1.0)
    assert set(found.values()) == {"200", "503"}, found
    served = sum(answer == "200" for answer in found.values())
    assert 50 <= served <= 120, served
    assert busy < 1.0 if not size.full else busy < 0.3, busy
    for client in clients:
        client.close()

    def normal() -> bool:
        with socket.create_connection(proxy.address) as client:
            asked(client)
            return client.recv(4096).startswith(b"HTTP/1.1 200")

    assert until(normal, 10, "normal again") < 5


async def test_one_address_cannot_have_all_connections(fleet: Fleet) -> None:
    upstream = fleet.upstream()
    proxy = fleet.proxy([upstream], "--limits.max_connections_per_client", "30", admin=True)
    async with Traffic([proxy.address], rate=200, clients=20) as traffic:
        await traffic.good(100)
        greedy = [socket.create_connection(proxy.address, source_address=("127.0.0.2", 0)) for _ in range(100)]
        for client in greedy:
            with contextlib.suppress(ConnectionError):
                asked(client)
        found = dict.fromkeys(greedy, "waiting")

        def all_told() -> bool:
            for client, answer in found.items():
                if answer == "waiting":
                    found[client] = answer_of(client)
            return "waiting" not in found.values()

        await asyncio.to_thread(until, all_told, 20, "everybody told")
        await traffic.good(100)
        outcomes = await traffic.stop()
    for client in greedy:
        client.close()
    answers = Counter(found.values())
    refused = await asyncio.to_thread(proxy.counted, "downstream_refused", "reason")
    assert answers == {"200": 30, "503": 70}
    assert refused == {"per_client": 70}
    assert outcomes.bad() == {}, outcomes
