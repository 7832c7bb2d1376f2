"""Load that is idle, short-lived, large, or in step with idle timeouts; a busy machine (targets A2 to A5, B13)."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest
from fleet import Address, Fleet, Process, Size, until
from hogs import hogs
from scripted import Scripted, running, well
from traffic import Connection, Outcomes, Traffic, outcome_of

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

MIB = 1 << 20
ADDRESSES = [f"127.0.0.{number}" for number in range(2, 10)]  # clients come from these: each has ports of its own


async def test_idle_clients_cost_little_and_disturb_nobody(fleet: Fleet, size: Size) -> None:
    upstream = fleet.upstream()
    proxy = fleet.proxy([upstream], "--timeouts.downstream_idle", "off", log=False)
    crowd, rate = size.of(1000, 8000), size.of(200, 500)
    async with Traffic([proxy.address], rate=rate, clients=50) as traffic:
        await traffic.good(2 * rate)
        baseline_ms, seen = traffic.outcomes.percentile_ms(99, since=rate), traffic.outcomes.ok
        rss, descriptors = proxy.rss_bytes(), proxy.descriptors()
        idle = [await connected(proxy.address, number) for number in range(crowd)]
        assert proxy.descriptors() >= descriptors + crowd
        each = (proxy.rss_bytes() - rss) / crowd
        await asyncio.sleep(size.of(2, 240))  # the load itself
        beside_ms = traffic.outcomes.percentile_ms(99, since=seen)
        assert all(client.open for client in idle)
        for client in idle:
            client.close()
        freed_s = await asyncio.to_thread(until, lambda: proxy.descriptors() <= descriptors + 5, 10, "all freed")
        outcomes = await traffic.stop()
    print(f"{each / 1024:.1f} KiB each, p99 {baseline_ms:.1f} -> {beside_ms:.1f} ms, freed in {freed_s:.1f} s")
    assert outcomes.bad() == {}, outcomes
    assert each <= 40 * 1024
    assert beside_ms <= 2 * baseline_ms + size.of(100, 10)


async def connected(address: Address, number: int) -> Connection:
    """A client connects, from an address of its own."""
    local = (ADDRESSES[number % len(ADDRESSES)], 0)
    _, connection = await asyncio.get_running_loop().create_connection(Connection, *address, local_addr=local)
    return connection


async def test_clients_that_come_for_one_request_leave_nothing_behind(fleet: Fleet, size: Size) -> None:
    """Three cycles of them: what the third adds to the memory of the second is a leak."""
    upstream = fleet.upstream()
    proxy = fleet.proxy([upstream], log=False)
    descriptors = proxy.descriptors()
    outcomes, rss = Counter[str](), []
    for _ in range(3):
        numbers = iter(range(size.of(1200, 66_667)))
        await asyncio.gather(*(one_after_another(proxy.address, numbers, outcomes) for _ in range(32)))
        await asyncio.to_thread(until, lambda: proxy.descriptors() <= descriptors + 40, 20, "all gone")
        rss.append(proxy.rss_bytes())
    print(f"{outcomes}, RSS {', '.join(f'{each / MIB:.1f}' for each in rss)} MiB")
    assert set(outcomes) == {"ok"}, outcomes
    assert rss[2] <= rss[1] + 2 * MIB


async def one_after_another(address: Address, numbers: Iterator[int], outcomes: Counter[str]) -> None:
    for number in numbers:
        connection = await connected(address, number)
        req_id = f"c{number}"
        request = f"GET /ok HTTP/1.1\r\nHost: a\r\nX-Request-Id: {req_id}\r\nConnection: close\r\n\r\n"
        try:
            outcomes[outcome_of(*await connection.ask(request.encode()), req_id)] += 1
        except (ConnectionError, TimeoutError) as problem:
            outcomes[str(problem)] += 1
        connection.close()


# ---- large bodies


class Body:
    """Bytes that are all its own: a random block of an odd length, again and again."""

    def __init__(self, seed: int, length: int) -> None:
        self._block = Random(seed).randbytes(100_003)
        self.length = length

    def parts(self) -> Iterator[bytes]:
        left = self.length
        while left > 0:
            yield self._block[:left]
            left -= len(self._block)

    def hash(self) -> str:
        hashed = hashlib.sha256()
        for part in self.parts():
            hashed.update(part)
        return hashed.hexdigest()


async def hash_of(reader: asyncio.StreamReader, length: int) -> str:
    hashed = hashlib.sha256()
    while length > 0:
        part = await reader.read(min(length, 1 << 18))
        if not part:
            return f"broken off, {length} to come"
        hashed.update(part)
        length -= len(part)
    return hashed.hexdigest()


class Bodies(Scripted):
    """Answers /SEED/LENGTH with that body; to an upload says its hash."""

    def __init__(self) -> None:
        super().__init__(well)

    async def answers(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, target, _ = head.decode().split(None, 2)
        if method == "POST":
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n" + (await hash_of(reader, length)).encode())
        elif target == "/ok":
            await self.answer(head, writer)
        else:
            _, seed, length_text = target.split("/")
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {length_text}\r\n\r\n".encode())
            for part in Body(int(seed), int(length_text)).parts():
                writer.write(part)
                await writer.drain()


async def upload(address: Address, body: Body) -> bool:
    """Whether the upstream got it byte by byte."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(f"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: {body.length}\r\n\r\n".encode())
    for part in body.parts():
        writer.write(part)
        await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    answer = await reader.readexactly(64)
    writer.close()
    return head.startswith(b"HTTP/1.1 200") and answer.decode() == body.hash()


async def download(address: Address, seed: int, body: Body) -> bool:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(f"GET /{seed}/{body.length} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    got = await hash_of(reader, body.length)
    writer.close()
    return head.startswith(b"HTTP/1.1 200") and got == body.hash()


async def read_slowly(address: Address, rate: int) -> None:
    """Asks for much and takes `rate` bytes a second of it, until it is cancelled."""
    reader, writer = await asyncio.open_connection(*address, limit=1 << 16)
    try:
        writer.write(b"GET /1/1000000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        while True:
            await reader.readexactly(rate // 10)
            await asyncio.sleep(0.1)  # its pace
    finally:
        writer.transport.abort()


async def test_large_bodies_both_ways_arrive_byte_by_byte_in_flat_memory(fleet: Fleet, size: Size) -> None:
    """Beside readers that take 256 KiB a second, and traffic that must not wait behind them."""
    many, length = size.of(5, 20), size.of(8, 256) * MIB
    async with running(Bodies()) as upstream:
        proxy = fleet.proxy([upstream], "--pool.max_connections", "200", log=False)
        async with Traffic([proxy.address], rate=50, clients=20, methods=("GET",)) as traffic:
            await traffic.good(100)
            before, sampled = proxy.rss_bytes(), [0]
            slow = [asyncio.create_task(read_slowly(proxy.address, 256 * 1024)) for _ in range(size.of(3, 10))]
            watch = asyncio.create_task(sample(proxy, sampled))
            began = time.monotonic()
            whole = await asyncio.gather(
                *(upload(proxy.address, Body(number, length + number)) for number in range(many)),
                *(download(proxy.address, number, Body(number, length + number)) for number in range(many)),
            )
            took_s = time.monotonic() - began
            assert not any(task.done() for task in slow)
            for task in (*slow, watch):
                task.cancel()
            await asyncio.gather(*slow, watch, return_exceptions=True)
            outcomes = await traffic.stop()
    grown = max(sampled) - before
    print(f"{2 * many} x {length // MIB} MiB in {took_s:.1f} s, RSS {grown / MIB:+.1f} MiB, {outcomes}")
    assert all(whole)
    assert outcomes.bad() == {}, outcomes
    assert grown <= 64 * MIB


async def sample(proxy: Process, sampled: list[int]) -> None:
    while True:
        sampled.append(proxy.rss_bytes())
        await asyncio.sleep(0.05)


# ---- the pool


async def test_gaps_across_the_upstreams_timeout_mix_up_no_answers(fleet: Fleet, size: Size) -> None:
    """Clients that ask all at once and then pause for about as long as upstreams bear, which close in every way.

    What crosses a close is lost, and told; what is answered is the answer to that request.
    """
    idle_ms, cap, random = 40, 16, Random(7)
    flags = ("--keep-alive", f"{idle_ms}ms", "--jitter", "5ms")
    upstreams = [fleet.upstream(*flags, "--close", close) for close in ("fin", "rst", "linger", "408")]
    proxy = fleet.proxy(upstreams, "--pool.max_connections", str(cap), "--health.eject_after", "0", log=False)
    before = [upstream.descriptors() for upstream in upstreams]
    outcomes, most = Outcomes(), 0
    clients: list[Connection | None] = [None for _ in range(4 * cap)]
    while outcomes.sent < size.of(6000, 1_000_000):
        clients = await asyncio.gather(*(ask_one(proxy.address, client, random, outcomes) for client in clients))
        most = max(most, *(up.descriptors() - was for up, was in zip(upstreams, before, strict=True)))
        gap_ms = random.choice((0, 0, 0, idle_ms / 2, random.uniform(idle_ms - 5, idle_ms + 10), 2 * idle_ms))
        await asyncio.sleep(gap_ms / 1000)
    for client in clients:
        if client is not None:
            client.close()
    print(f"{outcomes}, at most {most} connections to one upstream")
    told = {"502 closed_before_response", "502 reset_before_response", "502 invalid_response"}
    told.add("408 of the upstream")  # its notice that it closes; where that crossed a request it looks like the answer
    assert set(outcomes.bad()) <= told, outcomes
    assert outcomes.bad(), "no close was met"
    assert fleet.executed_twice() == []
    assert most <= cap + 4  # some that the proxy has closed, the upstream has yet to close


async def ask_one(
    address: Address, connection: Connection | None, random: Random, outcomes: Outcomes
) -> Connection | None:
    """A request on this connection or a new one; the connection for the next."""
    outcomes.sent += 1
    if connection is None or not connection.open:
        connection = await connected(address, outcomes.sent)
    req_id, now = f"a{outcomes.sent}-{random.random()}", time.monotonic()
    method, body = random.choice((("GET", ""), ("POST", req_id)))
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    request = f"{method} /ok HTTP/1.1\r\nHost: a\r\nX-Request-Id: {req_id}\r\n{length}\r\n{body}"
    try:
        outcome = outcome_of(*await connection.ask(request.encode()), req_id)
    except (ConnectionError, TimeoutError) as problem:
        outcome = str(problem)
    outcomes.note(outcome, req_id, now, now)
    return connection


# ---- a busy machine


async def test_a_busy_machine_costs_time_and_no_request(fleet: Fleet, size: Size) -> None:
    upstream = fleet.upstream()
    proxy = fleet.proxy([upstream], log=False)
    async with Traffic([proxy.address], rate=size.of(100, 300), clients=20) as traffic:
        await traffic.good(100)
        since = traffic.outcomes.ok
        with hogs():
            await traffic.good(size.of(300, 10_000), within_s=120)
        outcomes = await traffic.stop()
    print(f"{outcomes}, p99 {outcomes.percentile_ms(99, since=since):.0f} ms with all cores busy")
    assert outcomes.bad() == {}, outcomes
    assert fleet.executed_twice() == []
