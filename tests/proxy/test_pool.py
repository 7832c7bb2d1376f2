"""Which idle connection is reused, and that none is reused past its limits, twice, or lost."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.config import PoolLimits, Seconds
from proxy.pool import CloseReason, ConnectionPool


class Conn:
    """A connection as the pool sees it."""

    def __init__(self, name: str = "c", *, opened_at: float = 0.0, idle_limit: float = inf, requests: int = 1) -> None:
        self.name = name
        self.opened_at = opened_at
        self.idle_limit = idle_limit
        self.idle_since = 0.0
        self.requests = requests

    def __repr__(self) -> str:
        return self.name


def pool_of(idle_timeout: float = 4.0, **limits: Any) -> ConnectionPool[Conn]:
    return ConnectionPool(PoolLimits(**limits), idle_timeout)


def parked(pool: ConnectionPool[Conn], *conns: tuple[str, float]) -> dict[str, Conn]:
    made = {name: Conn(name) for name, _ in conns}
    for name, now in conns:
        assert pool.release(made[name], now) is None
    return made


def test_an_empty_pool_has_nothing_to_give_and_allocates_nothing() -> None:
    pool = pool_of()
    taken, expired = pool.acquire(0.0)
    assert taken is None
    assert expired == ()
    assert expired is pool.expire(0.0)
    assert pool.next_expiry() is None


@pytest.mark.parametrize(("order", "taken"), [("newest", "c b a"), ("oldest", "a b c")])
def test_order(order: str, taken: str) -> None:
    pool = pool_of(order=order)
    parked(pool, ("a", 1.0), ("b", 2.0), ("c", 3.0))
    assert " ".join(str(pool.acquire(3.5)[0]) for _ in range(3)) == taken
    assert pool.acquire(3.5) == (None, ())


@pytest.mark.parametrize(("order", "taken"), [("newest", "d c b a"), ("oldest", "a b c d")])
def test_order_holds_across_hints(order: str, taken: str) -> None:
    """Connections with different idle limits are in one order, that of parking."""
    pool = pool_of(order=order, idle_timeout=60.0)
    for now, (name, limit) in enumerate([("a", 50.0), ("b", inf), ("c", 50.0), ("d", 30.0)]):
        pool.release(Conn(name, idle_limit=limit), float(now))
    assert " ".join(str(pool.acquire(4.0)[0]) for _ in range(4)) == taken


@pytest.mark.parametrize(
    ("idle", "reused"), [(0.0, True), (3.999, True), (4.0, False), (4.001, False), (1000.0, False)]
)
def test_a_connection_is_not_reused_from_its_idle_limit_on(idle: float, reused: bool) -> None:
    pool = pool_of(idle_timeout=4.0)
    conn = parked(pool, ("a", 100.0))["a"]
    taken, expired = pool.acquire(100.0 + idle)
    if reused:
        assert (taken, expired) == (conn, ())
    else:
        assert (taken, list(expired)) == (None, [(conn, CloseReason.IDLE_TIMEOUT)])


def test_the_newest_is_taken_and_the_expired_are_handed_over() -> None:
    pool = pool_of(idle_timeout=4.0)
    conns = parked(pool, ("a", 0.0), ("b", 1.0), ("c", 3.0))
    taken, expired = pool.acquire(5.5)
    assert taken is conns["c"]
    assert list(expired) == [(conns["a"], "idle_timeout"), (conns["b"], "idle_timeout")]


def test_a_hint_shortens_one_connection_only() -> None:
    pool = pool_of(idle_timeout=60.0)
    short, long = Conn("short", idle_limit=pool.idle_limit(5)), Conn("long", idle_limit=pool.idle_limit(None))
    pool.release(long, 0.0)
    pool.release(short, 1.0)
    assert pool.next_expiry() == 5.0
    assert pool.expire(4.99) == ()
    assert list(pool.expire(5.0)) == [(short, "idle_timeout")]
    assert pool.next_expiry() == 60.0
    assert pool.acquire(59.0)[0] is long


@pytest.mark.parametrize(
    ("hint", "limits", "limit"),
    [
        (None, {}, 4.0),
        (5, {}, 4.0),  # 5 - 1
        (3, {}, 2.0),
        (75, {}, 4.0),  # a hint only shortens
        (1, {}, 0.0),  # not reused
        (0, {}, -1.0),
        (3, {"hint_margin": Seconds(0)}, 3.0),
        (3, {"honour_hint": False}, 4.0),
    ],
)
def test_the_idle_limit_that_a_hint_gives(hint: float | None, limits: dict[str, Any], limit: float) -> None:
    assert pool_of(4.0, **limits).idle_limit(hint) == limit


@pytest.mark.parametrize(
    ("limits", "conn", "reason"),
    [
        ({}, Conn(requests=10**6), None),
        ({"max_requests": 10}, Conn(requests=9), None),
        ({"max_requests": 10}, Conn(requests=10), CloseReason.MAX_REQUESTS),
        ({"max_requests": 10}, Conn(requests=11), CloseReason.MAX_REQUESTS),
        ({"max_age": Seconds(100)}, Conn(opened_at=0.1), None),
        ({"max_age": Seconds(100)}, Conn(opened_at=0.0), CloseReason.MAX_AGE),
        ({"max_idle": 0}, Conn(), CloseReason.MAX_IDLE),
        ({}, Conn(idle_limit=0.0), CloseReason.IDLE_TIMEOUT),
        ({}, Conn(idle_limit=-1.0), CloseReason.IDLE_TIMEOUT),
    ],
)
def test_what_is_parked_and_what_must_be_closed(limits: dict[str, Any], conn: Conn, reason: CloseReason | None) -> None:
    pool = pool_of(**limits)
    assert pool.release(conn, 100.0) is reason
    assert pool.idle_count == (reason is None)


def test_max_idle_bounds_the_idle_ones() -> None:
    pool = pool_of(max_idle=2)
    parked(pool, ("a", 0.0), ("b", 0.0))
    assert pool.release(Conn(), 0.0) is CloseReason.MAX_IDLE
    pool.acquire(0.0)
    assert pool.release(Conn(), 0.0) is None


def test_a_connection_that_aged_while_idle_is_not_reused() -> None:
    pool = pool_of(idle_timeout=inf, max_age=Seconds(10))
    young, old = Conn("young", opened_at=8.0), Conn("old", opened_at=1.0)
    pool.release(young, 9.0)
    pool.release(old, 9.5)
    taken, expired = pool.acquire(11.0)
    assert taken is young
    assert list(expired) == [(old, CloseReason.MAX_AGE)]
    assert pool.next_expiry() is None


def test_a_connection_that_ages_while_idle_is_closed_without_being_asked_for() -> None:
    pool = pool_of(idle_timeout=inf, max_age=Seconds(10))
    young, old = Conn("young", opened_at=8.0), Conn("old", opened_at=1.0)
    pool.release(old, 9.0)
    pool.release(young, 9.5)
    assert pool.next_expiry() == 11.0
    assert list(pool.expire(11.0)) == [(old, CloseReason.MAX_AGE)]
    assert pool.next_expiry() == 18.0


@pytest.mark.parametrize(
    ("limits", "idle_timeout", "closed"),
    [
        ({"max_age": Seconds(20)}, 60.0, []),
        ({"max_age": Seconds(10)}, 60.0, ["a max_age"]),
        ({}, 4.0, ["a idle_timeout", "b idle_timeout"]),
        ({}, 9.0, ["a idle_timeout"]),
    ],
)
def test_other_limits_hold_for_what_is_parked(limits: dict[str, Any], idle_timeout: float, closed: list[str]) -> None:
    pool = pool_of(idle_timeout=60.0)
    pool.release(Conn("a", opened_at=0.0, idle_limit=50.0), 1.0)
    pool.release(Conn("b", opened_at=5.0), 6.0)
    pool.configure(PoolLimits(**limits), idle_timeout)
    assert [f"{conn} {reason}" for conn, reason in pool.expire(10.5)] == closed
    left = [name for name in "ba" if not any(line.startswith(name) for line in closed)]
    assert [str(pool.acquire(10.5)[0]) for _ in left] == left
    assert pool.acquire(10.5) == (None, ())


def test_a_discarded_connection_is_gone() -> None:
    pool = pool_of()
    conns = parked(pool, ("a", 0.0), ("b", 1.0), ("c", 2.0))
    pool.discard(conns["b"])
    pool.discard(conns["b"])
    pool.discard(Conn())
    assert [pool.acquire(2.0)[0] for _ in range(3)] == [conns["c"], conns["a"], None]


@pytest.mark.parametrize("since", [0.1, 0.7, 1234.5678, 86_400.123_456_7])
@pytest.mark.parametrize("limit", [0.1, 0.2, 0.3, 1.1, 4.0])
def test_at_next_expiry_something_expires(since: float, limit: float) -> None:
    """To the last bit: a timer set for next_expiry that then found nothing would spin."""
    pool = pool_of(idle_timeout=limit)
    parked(pool, ("a", since))
    expiry = pool.next_expiry()
    assert expiry is not None
    assert len(pool.expire(expiry)) == 1


def test_without_a_limit_nothing_expires() -> None:
    pool = pool_of(idle_timeout=inf)
    conns = parked(pool, ("a", 0.0))
    assert pool.next_expiry() is None
    assert pool.expire(1e9) == ()
    assert pool.acquire(1e9)[0] is conns["a"]


def test_reserve_counts_up_to_the_limit() -> None:
    pool = pool_of(max_connections=2)
    assert [pool.reserve(), pool.reserve(), pool.reserve()] == [True, True, False]
    pool.closed()
    assert pool.reserve()
    assert pool.open_count == 2


def test_draining_hands_over_all_and_parks_no_more() -> None:
    pool = pool_of()
    conns = parked(pool, ("a", 0.0), ("b", 1.0))
    assert list(pool.drain()) == [(conns["a"], "drained"), (conns["b"], "drained")]
    assert pool.acquire(1.0) == (None, ())
    assert pool.release(Conn(), 1.0) is CloseReason.DRAINED
    assert pool.idle_count == 0


def test_limits_of_old_hints_do_not_pile_up() -> None:
    pool = pool_of(idle_timeout=1e6)
    for hint in range(1, 1000):
        pool.release(Conn(idle_limit=float(hint)), 0.0)
        assert pool.acquire(0.0)[0] is not None
    assert len(pool._lanes) == 1


def test_repr_tells_the_state_in_one_line() -> None:
    pool = pool_of(order="oldest", max_connections=8)
    pool.reserve()
    pool.reserve()
    parked(pool, ("a", 0.0))
    assert repr(pool) == "<ConnectionPool OPEN, 2 of 8 open, 1 idle, oldest first>"
    pool.drain()
    assert repr(pool) == "<ConnectionPool DRAINING, 2 of 8 open, 0 idle, oldest first>"


class PoolMachine(RuleBasedStateMachine):
    """Any sequence of calls against a plain list: nothing is reused past a limit, handed out twice, or lost."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.idle: list[Conn] = []  # in order of parking
        self.active: list[Conn] = []
        self.made = 0

    @initialize(
        order=st.sampled_from(["newest", "oldest"]),
        max_idle=st.integers(0, 4),
        max_requests=st.integers(0, 3),
        max_age=st.sampled_from([3.0, 10.0, inf]),
        idle_timeout=st.sampled_from([0.3, 2.0, inf]),
    )
    def start(self, idle_timeout: float, max_age: float, **limits: Any) -> None:
        self.limits = PoolLimits(max_age=Seconds(max_age), **limits)
        self.idle_timeout = idle_timeout
        self.pool: ConnectionPool[Conn] = ConnectionPool(self.limits, idle_timeout)

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0, 1.9, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: len(self.active) < 6)
    @rule()
    def connects(self) -> None:
        self.made += 1
        self.active.append(Conn(f"c{self.made}", opened_at=self.now, requests=0))

    @precondition(lambda self: self.active)
    @rule(data=st.data(), limit=st.sampled_from([inf, 2.0, 1.0, 0.1, 0.0]))
    def releases(self, data: st.DataObject, limit: float) -> None:
        conn = data.draw(st.sampled_from(self.active))
        self.active.remove(conn)
        conn.requests += 1
        conn.idle_limit = limit
        expected = (
            CloseReason.MAX_REQUESTS
            if self.limits.max_requests and conn.requests >= self.limits.max_requests
            else CloseReason.MAX_AGE
            if self.aged(conn)
            else CloseReason.IDLE_TIMEOUT
            if limit <= 0
            else CloseReason.MAX_IDLE
            if len(self.idle) >= self.limits.max_idle
            else None
        )
        assert self.pool.release(conn, self.now) is expected
        if expected is None:
            self.idle.append(conn)

    @rule()
    def acquires(self) -> None:
        taken, expired = self.pool.acquire(self.now)
        for conn, reason in expired:
            assert reason is (CloseReason.IDLE_TIMEOUT if self.idled_out(conn) else CloseReason.MAX_AGE)
            assert self.idled_out(conn) or self.aged(conn)
            self.idle.remove(conn)
        assert not any(map(self.idled_out, self.idle))
        if taken is None:
            assert self.idle == []
            return
        assert not self.aged(taken)
        best = (max if self.limits.order == "newest" else min)(conn.idle_since for conn in self.idle)
        assert taken.idle_since == best
        self.idle.remove(taken)  # so it was idle, and is handed out once
        self.active.append(taken)

    @precondition(lambda self: self.idle)
    @rule(data=st.data())
    def dies(self, data: st.DataObject) -> None:
        conn = data.draw(st.sampled_from(self.idle))
        self.pool.discard(conn)
        self.idle.remove(conn)

    @rule()
    def timer_fires(self) -> None:
        due = [conn for conn in self.idle if self.idled_out(conn) or self.aged(conn)]
        expired = self.pool.expire(self.now)
        assert sorted(conn.name for conn, _ in expired) == sorted(conn.name for conn in due)
        self.idle = [conn for conn in self.idle if conn not in due]

    @invariant()
    def the_counts_agree(self) -> None:
        assert self.pool.idle_count == len(self.idle)
        soonest = min((conn.idle_since + self.limit_of(conn) for conn in self.idle), default=inf)
        soonest = min([soonest, *(conn.opened_at + self.limits.max_age for conn in self.idle)])
        assert self.pool.expires <= soonest
        assert self.pool.next_expiry() == (None if soonest == inf else soonest)

    def limit_of(self, conn: Conn) -> float:
        return min(conn.idle_limit, self.idle_timeout)

    def aged(self, conn: Conn) -> bool:
        return self.now >= conn.opened_at + self.limits.max_age

    def idled_out(self, conn: Conn) -> bool:
        return self.now >= conn.idle_since + self.limit_of(conn)


PoolMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestPoolMachine = PoolMachine.TestCase
