"""Several workers: one is killed, and what they count together is what clients saw."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from functools import partial

import pytest
from fleet import Fleet, Process, Size, until
from traffic import Traffic

from proxy.channel import BEAT_S
from proxy.workers import MOST_SILENT

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


async def test_kill_9_of_one_of_two_workers_costs_what_was_in_flight_there(fleet: Fleet, size: Size) -> None:
    upstream = fleet.upstream()
    proxy = fleet.proxy([upstream], "--workers", "2", log=False)
    in_flight = 0
    kills = size.of(2, 20)
    async with Traffic([proxy.address], rate=size.of(400, 1000), clients=40, target="/ok?delay=10ms") as traffic:
        outcomes = traffic.outcomes
        for number in range(1, kills + 1):
            await traffic.good(200)
            victim = proxy.children()[0]
            in_flight += outcomes.sent - outcomes.counts.total()
            os.kill(victim, signal.SIGKILL)
            until(partial(is_gone, proxy, victim), 10, "it is dead")  # and what it held is closed, before we go on
            await traffic.good(100)
            await asyncio.to_thread(proxy.until_says, "another takes its place", times=number)
            await asyncio.to_thread(until, lambda: len(proxy.children()) == 2, 30, "two workers")
        outcomes = await traffic.stop()
    assert set(outcomes.bad()) <= {"lost", "truncated"}, outcomes
    assert sum(outcomes.bad().values()) <= in_flight, (outcomes, in_flight)
    assert fleet.executed_twice() == []
    assert proxy.stop() == 0
    print(f"{outcomes}, {kills} kills, {in_flight} in flight at them")


def is_gone(proxy: Process, worker: int) -> bool:
    return worker not in proxy.children()


async def test_metrics_say_what_clients_saw(fleet: Fleet, size: Size) -> None:
    """Answers of two upstreams, one of which breaks off, and of the proxy itself; two workers."""
    upstreams = [fleet.upstream(), fleet.upstream("--keep-alive", "30ms", "--close", "rst")]
    proxy = fleet.proxy(upstreams, "--workers", "2", admin=True)
    seen = Counter[str]()
    for target, most in (("/crash", 60), ("/ok", size.of(400, 20_000))):
        async with Traffic([proxy.address], rate=400, clients=20, target=target, most=most) as traffic:
            outcomes = await traffic.finished()
        seen += outcomes.counts
    for _ in range(10):
        reader, writer = await asyncio.open_connection(*proxy.address)
        writer.write(b"GET / HTTP/1.1\r\nno field\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
        writer.close()
    seen["400 bad_request"] += 10
    codes, causes = expected(seen)
    assert set(codes) == {"200", "400", "502"}, seen
    assert await asyncio.to_thread(proxy.counted, "requests", "code") == codes
    assert await asyncio.to_thread(proxy.counted, "errors", "cause") == causes
    assert proxy.stop() == 0
    lines = fleet.access()
    assert Counter(str(line["status"]) for line in lines) == codes
    print(seen)


def expected(seen: Counter[str]) -> tuple[Counter[str], Counter[str]]:
    """Of outcomes: statuses and causes."""
    codes, causes = Counter[str](), Counter[str]()
    for outcome, times in seen.items():
        status, _, cause = outcome.partition(" ")
        codes["200" if outcome == "ok" else status] += times
        if cause:
            causes[cause] += times
    return codes, causes


async def test_a_worker_that_hangs_keeps_neither_the_counts_nor_the_end_from_coming(fleet: Fleet) -> None:
    """It is stopped (SIGSTOP), so it neither answers its master nor hears that it should end."""
    proxy = fleet.proxy([fleet.upstream()], "--workers", "2", "--drain_grace", "1s", admin=True, log=False)
    async with Traffic([proxy.address], rate=200, clients=20, target="/ok", most=100) as traffic:
        await traffic.finished()
    before = await asyncio.to_thread(proxy.counted, "requests", "code")
    hung = proxy.children()[0]
    os.kill(hung, signal.SIGSTOP)
    assert await asyncio.to_thread(proxy.counted, "requests", "code") == before == {"200": 100}
    assert proxy.stop() == 0
    assert proxy.says(f"(pid {hung})", "is killed") == 1  # by whichever limit passes first


async def test_a_machine_that_stands_still_costs_no_worker_and_a_worker_that_hangs_is_replaced(
    fleet: Fleet, size: Size
) -> None:
    """First all of it is stopped for longer than a worker may be silent, as by a laptop's lid; then one worker."""
    proxy = fleet.proxy([fleet.upstream("--keep-alive", "1s")], "--workers", "2", "--timeouts.upstream_idle", "500ms")
    workers = proxy.children()
    everybody = [proxy.pid, *workers]
    async with Traffic([proxy.address], rate=100, clients=10) as traffic:
        for pids in (everybody, list(reversed(everybody)))[: size.of(1, 2)]:
            await traffic.good(100)
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(MOST_SILENT * BEAT_S + 2)  # the fault itself
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            await traffic.good(300)  # longer than a look
        outcomes = await traffic.stop()
    assert outcomes.bad() == {}, outcomes
    assert proxy.children() == workers
    assert proxy.says("worker") == 0
    for number, hung in enumerate(workers[: size.of(1, 2)], start=1):
        os.kill(hung, signal.SIGSTOP)
        took = await asyncio.to_thread(proxy.until_says, f"(pid {hung}) has been silent", within_s=120)
        assert took > MOST_SILENT * BEAT_S / 2
        await asyncio.to_thread(proxy.until_says, f"(pid {hung}) was killed by SIGKILL; another takes its place")
        await asyncio.to_thread(until, lambda: len(proxy.children()) == 2, 30, "two workers")
        async with Traffic([proxy.address], rate=100, clients=10, most=100) as traffic:
            assert (await traffic.finished()).bad() == {}
        assert proxy.says("has been silent") == number
    assert proxy.stop() == 0
