"""Networks that swallow packets, run out of ports, or name the wrong machines (targets B5, B12, B16)."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import own_network
import pytest
from fake_dns import Fault, fake_dns
from fleet import Fleet, Process, Size, until
from traffic import Failed, Traffic

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

TIMEOUT_S = 1.0
TIMEOUTS = ("--timeouts.connect", f"{TIMEOUT_S:g}s", "--timeouts.response_header", f"{TIMEOUT_S:g}s")
LATE_S = 0.5
RECOVERED_S = 2.0


async def partitioned(proxy: Process, size: Size, cut: Callable[[], None], mend: Callable[[], None]) -> list[Failed]:
    """What failed while nothing came through; after that, nothing may."""
    async with Traffic([proxy.address], rate=120, clients=60) as traffic:
        await traffic.good(100)
        began = time.monotonic()
        await asyncio.to_thread(cut)
        await asyncio.sleep(size.of(2, 30))  # the fault itself
        mended = time.monotonic()
        await asyncio.to_thread(mend)
        await traffic.good(100)
        outcomes = await traffic.stop()
    assert set(outcomes.bad()) <= {"504 connect_timeout", "504 response_timeout"}, outcomes
    assert outcomes.failed, "nothing was cut"
    late = [failed for failed in outcomes.failed if failed.took_s > TIMEOUT_S + LATE_S + 1.0 * (not size.full)]
    assert not late
    assert began < outcomes.failed[0].at
    recovered_s = outcomes.failed[-1].at - mended
    assert recovered_s <= RECOVERED_S
    slowest = max(failed.took_s for failed in outcomes.failed)
    print(f"{outcomes}, told after {slowest:.2f} s at most, the last {recovered_s:+.2f} s after the network was back")
    return outcomes.failed


@pytest.mark.own_network
async def test_a_partition_is_told_in_time_and_forgotten_when_it_is_over(fleet: Fleet, size: Size) -> None:
    with cable() as there:
        upstream = fleet.upstream(listen=f"{own_network.THERE}:0", wrapper=there.wrapper)
        proxy = fleet.proxy([upstream], *TIMEOUTS)
        failed = await partitioned(proxy, size, there.cut, there.mend)
    assert {each.outcome for each in failed} == {"504 connect_timeout", "504 response_timeout"}
    assert fleet.executed_twice() == []


async def test_an_upstream_that_hangs_is_told_in_time_and_used_again(fleet: Fleet, size: Size) -> None:
    """It stands still: the kernel accepts for it, and nobody answers."""
    upstream = fleet.upstream()
    proxy = fleet.proxy([upstream], *TIMEOUTS)
    await partitioned(proxy, size, lambda: upstream.signal(signal.SIGSTOP), lambda: upstream.signal(signal.SIGCONT))
    assert fleet.executed_twice() == []


async def test_an_upstream_that_accepts_nobody_is_told_in_time(fleet: Fleet) -> None:
    """Its backlog is full: the kernel drops what would connect."""
    with full_backlog() as upstream:
        proxy = fleet.proxy([upstream], *TIMEOUTS)
        async with Traffic([proxy.address], rate=20, clients=20, most=20) as traffic:
            outcomes = await traffic.finished()
    assert outcomes.counts == {"504 connect_timeout": outcomes.sent}
    assert max(failed.took_s for failed in outcomes.failed) <= TIMEOUT_S + LATE_S + 1.0


@pytest.mark.own_network
async def test_no_local_port_left_is_a_503_with_a_cause_of_its_own(fleet: Fleet, size: Size) -> None:
    """Every request takes a new connection, and more are under way at a time than there are ports to both upstreams.

    That is no fault of theirs: asked and checked meanwhile, both stay in the rotation.
    """
    ports, delay_ms = size.of(20, 200), size.of(300, 1500)
    upstreams = [fleet.upstream(), fleet.upstream()]
    checks = ("--health.check_path", "/ok", "--health.check_every", "100ms")
    proxy = fleet.proxy(upstreams, "--pool.max_idle", "0", *checks)
    clients = 5 * ports
    async with Traffic(
        [proxy.address], rate=size.of(200, 400), clients=clients, target=f"/ok?delay={delay_ms}ms"
    ) as traffic:
        await traffic.good(2 * clients)  # all have connected
        own_network.local_ports(40_000, 40_000 + ports - 1)
        before = traffic.outcomes.ok
        await asyncio.sleep(size.of(1, 20))  # the fault itself
        during = traffic.outcomes.ok - before
        own_network.local_ports(41_000, 60_999)
        again = time.monotonic()
        await traffic.good(150)
        outcomes = await traffic.stop()
    assert set(outcomes.bad()) == {"503 resources_exhausted"}, outcomes
    assert during > 0
    assert outcomes.failed[-1].at < again + 1.0
    assert proxy.stop() == 0
    assert proxy.says("Cannot assign requested address") >= 1
    assert proxy.says("ejected") == proxy.says("is down") == 0, proxy.stderr.read_text()
    lines = fleet.access()
    assert len(lines) == outcomes.sent
    assert [line["cause"] for line in lines].count("resources_exhausted") == len(outcomes.failed)
    assert {line["retry_reason"] for line in lines} == {""}
    print(outcomes)


async def test_whatever_dns_says_the_last_good_addresses_serve(fleet: Fleet, size: Size) -> None:
    first = fleet.upstream()
    port = first.address[1]
    second = fleet.upstream(listen=f"127.0.0.2:{port}")
    name, both = "shop.test.", ("1 A 127.0.0.1", "1 A 127.0.0.2")
    faults: tuple[Fault, ...] = ("SERVFAIL", "NXDOMAIN", "garbage", "silent")
    async with fake_dns() as dns:
        dns.set(name, *both)
        flags = ("--discovery.kind", "dns", "--discovery.resolver", dns.address, "--discovery.max_ttl", "1s")
        proxy = await asyncio.to_thread(fleet.proxy, [], "--upstreams", f"shop.test:{port}", *flags)
        async with Traffic([proxy.address], rate=200, clients=20) as traffic:
            await traffic.good(100)
            for fault in faults[: size.of(1, 4)]:
                dns.faults[name] = fault
                await dns.until_asked(name, times=size.of(1, 10))
                await traffic.good(50)
            dns.faults.clear()
            dns.set(name)  # none at all
            await dns.until_asked(name)
            for number in range(size.of(2, 20)):
                dns.set(name, both[number % 2])
                await dns.until_asked(name)
                await traffic.good(20)
            dns.set(name, both[1])
            await dns.until_asked(name, times=2)
            await traffic.good(50)
            first.kill()  # it has nothing to do any more
            await traffic.good(100)
            outcomes = await traffic.stop()
    second.stop()
    assert outcomes.bad() == {}, outcomes
    assert outcomes.percentile_ms(99) < size.of(500, 100)  # nothing of it blocks the loop
    print(f"{outcomes}, p99 {outcomes.percentile_ms(99):.1f} ms")


@contextmanager
def cable() -> Iterator[own_network.Cable]:
    made = own_network.Cable()
    try:
        yield made
    finally:
        made.close()


class FullBacklog:
    at = ""


@contextmanager
def full_backlog() -> Iterator[FullBacklog]:
    """A listening socket at which as many wait as may, for ever."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        upstream = FullBacklog()
        upstream.at = f"127.0.0.1:{listening.getsockname()[1]}"
        waiting = []
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(listening.getsockname())
            waiting.append(client)
        until(lambda: connected(waiting) >= 1, 5, "the backlog is full")
        yield upstream
        for client in waiting:
            client.close()


def connected(clients: list[socket.socket]) -> int:
    established = 1  # TCP_ESTABLISHED, in include/net/tcp_states.h
    return sum(client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == established for client in clients)
