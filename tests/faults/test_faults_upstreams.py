"""Upstreams that die, freeze or reset: who pays, and for how long (targets B1, B6, B11)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from fleet import Fleet, Size
from traffic import Traffic, executions

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

# How a request may end that was in flight when its upstream died; each names one cause.
CAUSES = {"502 reset_before_response", "502 closed_before_response", "502 truncated_response"}


def posts_sent_twice(access: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """POSTs that were repeated although something of them had been sent."""
    return [
        line for line in access if line["method"] == "POST" and line["retry_reason"] not in ("", "nothing was sent")
    ]


async def test_kill_9_of_one_of_three_costs_what_was_in_flight(fleet: Fleet, size: Size) -> None:
    upstreams = [fleet.upstream() for _ in range(3)]
    proxy = fleet.proxy(upstreams)
    in_flight = 0
    async with Traffic([proxy.address], rate=size.of(400, 1000), clients=40, target="/ok?delay=10ms") as traffic:
        outcomes = traffic.outcomes
        for _ in range(size.of(3, 20)):
            await traffic.good(200)
            victim = upstreams.pop(0)
            in_flight += outcomes.sent - outcomes.counts.total()
            victim.kill()
            in_flight += outcomes.sent - outcomes.counts.total()  # and what was sent while it died
            await traffic.good(100)
            upstreams.append(await asyncio.to_thread(fleet.upstream, listen=victim.at))
    outcomes = await traffic.stop()
    proxy.stop()
    assert set(outcomes.bad()) <= CAUSES, outcomes
    assert sum(outcomes.bad().values()) <= in_flight, (outcomes, in_flight)
    lines = fleet.access()
    assert len(lines) == outcomes.sent
    assert {line["cause"] for line in lines if line["status"] != 200} <= {cause.split()[1] for cause in CAUSES}
    assert not posts_sent_twice(iter(lines))
    assert max(executions(fleet.events()).values()) <= 2
    posts = {line["req_id"] for line in lines if line["method"] == "POST"}
    assert all(times == 1 for req_id, times in executions(fleet.events()).items() if req_id in posts)


async def test_an_upstream_that_resets_idle_connections_costs_no_get_and_doubles_no_post(
    fleet: Fleet, size: Size
) -> None:
    """A keep-alive time just below the pace of the clients: many connections die by RST while they are idle."""
    upstream = fleet.upstream("--keep-alive", "50ms", "--close", "rst", "--jitter", "20ms")
    proxy = fleet.proxy([upstream])
    most = size.of(1500, 60_000)
    async with Traffic([proxy.address], rate=size.of(300, 500), clients=20, most=most) as traffic:
        outcomes = await traffic.finished()
    proxy.stop()
    upstream.stop()
    assert set(outcomes.bad()) <= {"502 reset_before_response", "502 closed_before_response"}, outcomes
    lines = fleet.access()
    assert not [line for line in lines if line["method"] == "GET" and line["status"] != 200]
    posts = {line["req_id"] for line in lines if line["method"] == "POST"}
    assert all(times == 1 for req_id, times in executions(fleet.events()).items() if req_id in posts)


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
