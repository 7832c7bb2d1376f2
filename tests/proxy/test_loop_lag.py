"""How late the loop runs: measured by a tick, in a time that the test makes."""

from __future__ import annotations

import asyncio
import time
from typing import cast

import pytest
from fakes import FakeLoop

from proxy.observe import loop_lag
from proxy.observe.loop_lag import EVERY_S, LoopLag

WAIT_S = 30.0


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> FakeLoop:
    """A loop whose time is everybody's."""
    loop = FakeLoop()
    monkeypatch.setattr(loop_lag, "monotonic", lambda: loop.now)
    return loop


def started(loop: FakeLoop) -> LoopLag:
    lag = LoopLag(cast(asyncio.AbstractEventLoop, loop))
    lag.start()
    return lag


def ticks(lag: LoopLag) -> dict[float, int]:
    """How many ticks came within each bound."""
    return {bound: n for bound, n in zip(lag.histogram.bounds, lag.histogram.counts, strict=False) if n}


def test_a_loop_with_nothing_to_do_is_on_time(loop: FakeLoop) -> None:
    lag = started(loop)
    loop.passes(10.05 * EVERY_S)
    assert ticks(lag) == {0.001: 10}
    assert lag.worst() < 1e-6
    assert repr(lag) == "<LoopLag 10 ticks, 0.0 ms late at worst>"


def test_a_callback_that_hogs_the_loop_shows(loop: FakeLoop) -> None:
    lag = started(loop)
    loop.now += EVERY_S + 0.25  # nobody else runs meanwhile
    loop.passes(0.0)
    assert ticks(lag) == {0.5: 1}
    assert lag.worst() == pytest.approx(0.25)


def test_one_that_is_overdue_right_now_counts_as_the_worst(loop: FakeLoop) -> None:
    lag = started(loop)
    loop.now += EVERY_S + 3.0
    assert lag.worst() == pytest.approx(3.0)


@pytest.mark.parametrize(("later_s", "worst"), [(0.0, 0.25), (50.0, 0.25), (61.0, 0.0), (200.0, 0.0)])
def test_the_worst_is_forgotten_after_a_minute(loop: FakeLoop, later_s: float, worst: float) -> None:
    lag = started(loop)
    loop.now += EVERY_S + 0.25
    loop.passes(later_s)
    assert lag.worst() == pytest.approx(worst, abs=1e-6)


def test_the_worst_is_forgotten_also_while_nothing_ticks(loop: FakeLoop) -> None:
    lag = started(loop)
    loop.now += EVERY_S + 0.25
    loop.passes(0.0)
    lag.close()
    loop.now += 1e6
    assert lag.worst() == 0.0


def test_a_timer_that_fires_early_is_not_late(loop: FakeLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    lag = started(loop)
    monkeypatch.setattr(loop_lag, "monotonic", lambda: loop.now - 0.0014)  # uvloop counts in milliseconds
    loop.passes(EVERY_S)
    assert lag.histogram.sum == 0.0


def test_closed_it_ticks_no_more(loop: FakeLoop) -> None:
    lag = started(loop)
    lag.close()
    lag.close()
    loop.passes(10.0)
    assert ticks(lag) == {}
    assert lag.worst() == 0.0


async def test_a_real_loop_that_sleeps_is_found_out() -> None:
    lag = LoopLag(asyncio.get_running_loop())
    lag.start()
    time.sleep(EVERY_S + 0.2)  # the loop cannot run meanwhile: that is the point
    async with asyncio.timeout(WAIT_S):
        while not sum(lag.histogram.counts):
            await asyncio.sleep(0)
    lag.close()
    assert 0.2 <= lag.worst() < WAIT_S
    assert sum(lag.histogram.counts[:7]) == 0
