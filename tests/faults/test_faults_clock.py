"""Time that jumps: the proxy stands still, or the wall clock is set (targets B10, B11)."""

from __future__ import annotations

import asyncio
import signal

import pytest
from fleet import Fleet
from traffic import Traffic

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

# The proxy, with a wall clock that is wrong by a day, and each time it is read on the other side.
JUMPING = """
import runpy, sys, time
from itertools import cycle
was, was_ns, days = time.time, time.time_ns, cycle((-86_400, 86_400))
time.time = lambda: was() + next(days)
time.time_ns = lambda: was_ns() + next(days) * 10**9
sys.argv[0] = "proxy"
runpy.run_module("proxy", run_name="__main__", alter_sys=True)
"""


async def test_a_frozen_proxy_reuses_no_connection_that_has_grown_too_old(fleet: Fleet) -> None:
    """SIGSTOP for twice the idle time; on SIGCONT its timers have not run, and the age is checked all the same."""
    upstream = fleet.upstream("--keep-alive", "1s")
    proxy = fleet.proxy([upstream], "--timeouts.upstream_idle", "500ms")
    async with Traffic([proxy.address], rate=200, clients=20) as traffic:
        await traffic.good(100)
        proxy.signal(signal.SIGSTOP)
        await asyncio.sleep(2.0)  # the fault itself: twice the upstream's timeout
        proxy.signal(signal.SIGCONT)
        await traffic.good(100)
    assert (await traffic.stop()).bad() == {}


async def test_no_timer_goes_by_the_wall_clock(fleet: Fleet) -> None:
    """Only the time in the log does. Connections are kept, and end, as long after as they should."""
    upstream = fleet.upstream()
    flags = ("--timeouts.upstream_idle", "1s", "--timeouts.downstream_idle", "1s", "--health.slow_after", "5s")
    proxy = fleet.proxy([upstream], *flags, program=("-c", JUMPING), admin=True)
    async with Traffic([proxy.address], rate=200, clients=20, most=300) as traffic:
        outcomes = await traffic.finished()
    reader, writer = await asyncio.open_connection(*proxy.address)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await reader.read() == b""
    writer.close()
    assert 0.9 < loop.time() - began < 6
    assert outcomes.bad() == {}, outcomes
    opened = await asyncio.to_thread(proxy.counted, "upstream_opened", "upstream")
    assert opened.total() <= 25, opened  # they were reused: never more than there are clients at a time
    proxy.stop()
    lines = fleet.access()
    assert len(lines) == outcomes.sent
    assert len({line["ts"][:10] for line in lines}) >= 2  # the day before, and the day after
    assert all(0 <= line["duration_ms"] < 5000 for line in lines)
