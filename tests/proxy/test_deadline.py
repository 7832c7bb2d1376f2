"""A deadline fires at the time set last: never sooner, once, and not at all when cleared."""

from __future__ import annotations

import asyncio
import gc
import heapq
import weakref
from collections.abc import Callable, Iterator
from math import inf
from typing import cast

import pytest
import uvloop

from proxy.deadline import SHORTEST_WAIT_S, Deadline


class Handle:
    """A timer of FakeLoop."""

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self._when = when
        self.callback = callback
        self.cancelled = False

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        self.cancelled = True

    def __lt__(self, other: Handle) -> bool:
        return self._when < other._when


class FakeLoop:
    """A clock that is advanced by hand. With `coarse`, timers count in whole milliseconds, as uvloop's do."""

    def __init__(self, coarse: bool = False) -> None:
        self.now = 100.0
        self.coarse = coarse
        self.armed = 0
        self._timers: list[Handle] = []

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Handle:
        assert seconds != inf
        self.armed += 1
        handle = Handle(self.now + (round(seconds, 3) if self.coarse else seconds), callback)
        heapq.heappush(self._timers, handle)
        return handle

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while self._timers and self._timers[0].when() <= end:
            handle = heapq.heappop(self._timers)
            self.now = handle.when()
            if not handle.cancelled:
                handle.callback()
        self.now = end


def make(coarse: bool = False) -> tuple[FakeLoop, Deadline, list[float]]:
    loop = FakeLoop(coarse)
    fired: list[float] = []
    deadline = Deadline(cast(asyncio.AbstractEventLoop, loop), lambda: fired.append(round(loop.now - 100, 6)))
    return loop, deadline, fired


def test_fires_once() -> None:
    loop, deadline, fired = make()
    deadline.set(5)
    loop.advance(100)
    assert fired == [5]


def test_starts_cleared() -> None:
    loop, deadline, fired = make()
    loop.advance(100)
    assert fired == []
    assert loop.armed == 0
    assert repr(deadline) == "<Deadline cleared>"


def test_moved_later_it_fires_at_the_later_time() -> None:
    loop, deadline, fired = make()
    for _ in range(1000):
        deadline.set(5)
        loop.advance(0.001)
    assert loop.armed == 1  # a thousand moves, and the loop has heard of one
    loop.advance(100)
    assert fired == [5.999]
    assert loop.armed == 2


def test_moved_sooner_it_fires_at_the_sooner_time() -> None:
    loop, deadline, fired = make()
    deadline.set(50)
    deadline.set(5)
    loop.advance(100)
    assert fired == [5]


def test_cleared_it_does_not_fire_and_can_be_set_again() -> None:
    loop, deadline, fired = make()
    deadline.set(5)
    deadline.clear()
    loop.advance(50)
    assert fired == []
    deadline.set(5)
    loop.advance(50)
    assert fired == [55]


def test_cleared_and_set_again_before_the_timer_is_due() -> None:
    loop, deadline, fired = make()
    deadline.set(5)
    loop.advance(4)
    deadline.clear()
    deadline.set(5)
    loop.advance(50)
    assert fired == [9]


def test_infinity_clears() -> None:
    loop, deadline, fired = make()
    deadline.set(inf)
    assert loop.armed == 0
    deadline.set(5)
    deadline.set(inf)
    loop.advance(50)
    assert fired == []


def test_it_can_be_set_by_what_it_calls() -> None:
    loop = FakeLoop()
    fired: list[float] = []

    def again() -> None:
        fired.append(loop.now - 100)
        if len(fired) < 3:
            deadline.set(5)

    deadline = Deadline(cast(asyncio.AbstractEventLoop, loop), again)
    deadline.set(5)
    loop.advance(100)
    assert fired == [5, 10, 15]


def test_closed_it_never_fires_whatever_is_set() -> None:
    loop, deadline, fired = make()
    deadline.set(5)
    deadline.close()
    deadline.set(5)
    loop.advance(50)
    deadline.close()
    assert fired == []
    assert repr(deadline) == "<Deadline closed>"


def test_a_timer_that_fires_early_is_armed_again_and_does_not_spin() -> None:
    loop, deadline, fired = make(coarse=True)
    deadline.set(5.0004)
    loop.advance(10)
    assert fired == [5 + SHORTEST_WAIT_S]
    assert loop.armed == 2


def test_repr_says_how_long() -> None:
    loop, deadline, _ = make()
    deadline.set(5)
    loop.advance(1.5)
    assert repr(deadline) == "<Deadline in 3.500 s>"


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    loop = request.param()
    yield loop
    loop.close()


@pytest.mark.parametrize("moves", [[0.03], [0.01, 0.03], [5.0, 0.03], [0.0104, 0.0204, 0.0304]])
def test_on_a_real_loop_it_is_never_early(loop: asyncio.AbstractEventLoop, moves: list[float]) -> None:
    fired: list[float] = []

    def expire() -> None:
        fired.append(loop.time())
        loop.stop()

    deadline = Deadline(loop, expire)
    for seconds in moves:
        deadline.set(seconds)
        due = loop.time() + seconds
    loop.run_forever()
    assert fired[0] >= due - 1e-9
    assert fired[0] < due + 10


def test_on_a_real_loop_a_closed_one_does_not_keep_its_owner(loop: asyncio.AbstractEventLoop) -> None:
    class Owner:
        def __init__(self) -> None:
            self.deadline = Deadline(loop, self.expired)

        def expired(self) -> None:
            raise AssertionError("closed")

    owner = Owner()
    owner.deadline.set(0.001)
    owner.deadline.close()
    loop.run_until_complete(asyncio.wait_for(asyncio.sleep(0.01), 10))
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None


def test_a_closed_deadline_holds_nobody() -> None:
    """Its owner holds it, so holding the owner would make a cycle of every connection that is gone."""

    class Owner:
        def __init__(self) -> None:
            self.deadline = Deadline(cast(asyncio.AbstractEventLoop, FakeLoop()), self.expired)

        def expired(self) -> None:
            raise AssertionError("closed")

    owner = Owner()
    gone = weakref.ref(owner)
    owner.deadline.set(1.0)
    owner.deadline.close()
    del owner
    assert gone() is None
