"""The proxy itself stops, reloads, cannot write its log, or runs for long (targets A1, B3, B9)."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import own_network
import pytest
from fleet import Fleet, Process, Size, until
from traffic import Traffic

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


async def test_sigterm_under_load_loses_nothing(fleet: Fleet, size: Size) -> None:
    """Two proxies of two workers; one is stopped, its clients go to the other when they are told to, and so on."""
    upstream = fleet.upstream()
    most = size.of(2500, 50_000)
    first, second = (fleet.proxy([upstream], "--workers", "2", log=False) for _ in range(2))
    stopped = 0
    async with Traffic([first.address], rate=size.of(800, 1500), clients=40, most=most) as traffic:
        while traffic.outcomes.sent < most - size.of(1000, 4000):
            told = traffic.outcomes.told_to_close
            await traffic.good(size.of(300, 1500))
            traffic.to([second.address])  # a balancer takes it out first
            await asyncio.sleep(0.05)
            first.signal(signal.SIGTERM)
            assert await asyncio.to_thread(first.wait) == 0
            assert traffic.outcomes.told_to_close > told
            stopped += 1
            first, second = second, await asyncio.to_thread(fleet.proxy, [upstream], "--workers", "2", log=False)
        outcomes = await traffic.finished()
    assert outcomes.bad() == {}, outcomes
    assert outcomes.ok >= most
    assert fleet.executed_twice() == []
    print(f"{outcomes}, {stopped} stopped, {outcomes.told_to_close} told to close")


async def test_reloads_under_load_lose_nothing(fleet: Fleet, size: Size, tmp_path: Path) -> None:
    """Each reload changes timeouts and limits, and takes an upstream out or back in."""
    upstreams = [fleet.upstream() for _ in range(3)]
    config = tmp_path / "proxy.toml"

    def write(number: int) -> None:
        here = [f'"{upstream.at}"' for upstream in upstreams[: 2 + number % 2]]
        config.write_text(
            f'upstreams = [{", ".join(here)}]\n[timeouts]\nupstream_idle = "{2 + number % 3}s"\n'
            f'[pool]\nmax_idle = {50 + number}\n[log]\naccess = "off"\n[admin]\nlisten = "off"\n'
        )

    write(0)
    proxy = fleet.start([*fleet.python, "-m", "proxy", "--config", str(config), "--listen", "127.0.0.1:0"], "proxy")
    most = size.of(2500, 50_000)
    async with Traffic([proxy.address], rate=size.of(800, 1500), clients=40, most=most) as traffic:
        for number in range(1, size.of(10, 50) + 1):
            await traffic.good(50)
            write(number)
            proxy.signal(signal.SIGHUP)
            await asyncio.to_thread(proxy.until_says, "reloaded", times=number)
        outcomes = await traffic.finished()
    assert outcomes.bad() == {}, outcomes
    assert outcomes.told_to_close == 0
    assert outcomes.ok >= most
    print(outcomes)


async def test_a_log_that_cannot_be_written_costs_no_request(fleet: Fleet, size: Size) -> None:
    proxy = fleet.proxy([fleet.upstream()], "--log.access", "/dev/full", admin=True)
    await all_answered_and_lines_lost(proxy, size.of(600, 6000))


async def test_a_disk_that_is_full_costs_no_request(fleet: Fleet, size: Size, tmp_path: Path) -> None:
    """1 MiB of tmpfs, in a mount namespace of its own, and nearly full from the start."""
    disk = tmp_path / "disk"
    disk.mkdir()
    other = f"head -c {size.of(960, 100)}k /dev/zero >{disk}/other"
    mount = f'mount -t tmpfs -o size=1m kalab {disk} && {other} && exec "$@"'
    wrapper = (*own_network.UNSHARE_MOUNTS, "sh", "-c", mount, "sh")
    if not own_network.may(*wrapper, "true"):
        pytest.skip(own_network.FORBIDDEN)
    proxy = fleet.proxy([fleet.upstream()], "--log.access", f"{disk}/access.jsonl", wrapper=wrapper, admin=True)
    sent, lost = await all_answered_and_lines_lost(proxy, size.of(800, 10_000))
    # As the proxy sees its files; what could not be written whole is not the last word of the log.
    written = Path(f"/proc/{proxy.pid}/root{disk}/access.jsonl").read_bytes().splitlines()
    whole = [line for line in written if line.endswith(b"}")]
    assert len(whole) + lost == sent
    assert len(written) - len(whole) <= 1


async def all_answered_and_lines_lost(proxy: Process, most: int) -> tuple[int, int]:
    """How many requests were sent, and how many of their lines the proxy says it has dropped."""
    async with Traffic([proxy.address], rate=400, clients=20, most=most) as traffic:
        outcomes = await traffic.finished()
    assert outcomes.counts == {"ok": outcomes.sent}
    lost = (await asyncio.to_thread(proxy.counted, "log_dropped", "log"))["access"]
    print(f"{outcomes}, {lost} lines lost")
    assert lost > 0
    assert proxy.says("No space left") == 1
    return outcomes.sent, lost


async def test_a_soak_leaks_nothing(fleet: Fleet, size: Size) -> None:
    """Mixed traffic, with clients that leave in the middle; memory and descriptors are where they were."""
    upstream = fleet.upstream()
    proxy = fleet.proxy([upstream])
    descriptors = proxy.descriptors()
    samples: list[tuple[float, int]] = []
    leavers = asyncio.create_task(_leave_again_and_again(proxy.address))
    began = time.monotonic()
    async with Traffic([proxy.address], rate=size.of(500, 1200), clients=100) as traffic:
        while (passed := time.monotonic() - began) < size.of(4, 480):
            await asyncio.sleep(1.0)
            samples.append((passed, proxy.rss_bytes()))
        outcomes = await traffic.stop()
    leavers.cancel()
    await asyncio.gather(leavers, return_exceptions=True)
    assert outcomes.bad() == {}, outcomes
    await asyncio.to_thread(until, lambda: proxy.descriptors() <= descriptors + 5, 15, "descriptors back")
    late = [(at, rss) for at, rss in samples if at > size.of(1, 120)]
    slope = _slope_per_min(late)
    assert slope < size.of(64, 1) * (1 << 20) / 2, f"{slope / (1 << 20):.2f} MiB a minute"
    print(f"{outcomes.ok} requests, RSS {samples[-1][1] / (1 << 20):.1f} MiB, {slope / (1 << 20):+.2f} MiB a minute")


async def _leave_again_and_again(address: tuple[str, int]) -> None:
    """Clients that ask for much, read a little and go, in the middle of a head, a body or an answer."""
    begins = (
        b"GET /bytes/5000000 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /ok HTTP/1.1\r\nHo",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nha",
    )
    while True:
        for begin in begins:
            _, writer = await asyncio.open_connection(*address)
            try:
                writer.write(begin)
                await asyncio.sleep(0.02)
            finally:
                writer.transport.abort()


def _slope_per_min(samples: list[tuple[float, int]]) -> float:
    """Least squares, in bytes a minute."""
    n = len(samples)
    mean_x, mean_y = sum(x for x, _ in samples) / n, sum(y for _, y in samples) / n
    above = sum((x - mean_x) * (y - mean_y) for x, y in samples)
    below = sum((x - mean_x) ** 2 for x, _ in samples)
    return 60 * above / below
