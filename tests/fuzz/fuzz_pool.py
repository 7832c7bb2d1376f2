"""C5: any sequence of calls to ConnectionPool, beside a model that is a plain list. Time is an argument.

Not what `test_pool.py` has: here connections are counted from the connect on, hints come as an upstream sends them, the
pool drains, and the timer fires when `next_expiry` says, or late. All times are multiples of an eighth of a second, so
that sums and differences of them are exact.
"""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from math import inf
from typing import Any

from findings import Result, Run
from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

from proxy.config import PoolLimits, Seconds
from proxy.pool import CloseReason, ConnectionPool

STEPS = 50  # of one run
RUNS_AT_A_TIME = 20


class Conn:
    """A connection as the pool sees it."""

    def __init__(self, name: str, opened_at: float) -> None:
        self.name = name
        self.opened_at = opened_at
        self.idle_limit = inf
        self.idle_since = opened_at
        self.requests = 0

    def __repr__(self) -> str:
        return self.name


class PoolModel(RuleBasedStateMachine):
    """What is open, what is idle and in which order; nothing else is known."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.made = 0
        self.active: list[Conn] = []
        self.idle: list[Conn] = []  # in order of parking
        self.draining = False

    @initialize(
        order=st.sampled_from(["newest", "oldest"]),
        max_connections=st.integers(1, 5),
        max_idle=st.integers(0, 4),
        max_requests=st.integers(0, 3),
        max_age=st.sampled_from([0.5, 3.0, 10.0, inf]),
        hint_margin=st.sampled_from([0.0, 1.0, 2.5]),
        honour_hint=st.booleans(),
        idle_timeout=st.sampled_from([0.25, 2.0, 4.0, inf]),
    )
    def start(self, idle_timeout: float, max_age: float, hint_margin: float, **limits: Any) -> None:
        self.limits = PoolLimits(max_age=Seconds(max_age), hint_margin=Seconds(hint_margin), **limits)
        self.idle_timeout = idle_timeout
        self.pool: ConnectionPool[Conn] = ConnectionPool(self.limits, idle_timeout)

    # ---- what happens

    @rule(seconds=st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0, 1.875, 4.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def connects(self) -> None:
        room = len(self.active) + len(self.idle) < self.limits.max_connections
        assert self.pool.reserve() is room
        if room:
            self.made += 1
            self.active.append(Conn(f"c{self.made}", self.now))

    @precondition(lambda self: self.active)
    @rule(data=st.data(), hint=st.sampled_from([None, None, 0, 1, 2, 3, 5, 75]))
    def answers(self, data: st.DataObject, hint: int | None) -> None:
        """A response is complete, with or without a hint."""
        conn = data.draw(st.sampled_from(self.active))
        conn.requests += 1
        conn.idle_limit = inf if hint is None else self.pool.idle_limit(hint)
        if hint is not None and self.limits.honour_hint:
            assert conn.idle_limit == min(self.idle_timeout, hint - self.limits.hint_margin)
        expected = self.why_not(conn)
        assert self.pool.release(conn, self.now) is expected
        self.active.remove(conn)
        if expected is None:
            assert conn.idle_since == self.now
            self.idle.append(conn)
        else:
            self.pool.closed()

    @precondition(lambda self: self.active)
    @rule(data=st.data())
    def fails(self, data: st.DataObject) -> None:
        """It breaks while in use, or never comes to be."""
        conn = data.draw(st.sampled_from(self.active))
        self.active.remove(conn)
        self.pool.discard(conn)
        self.pool.closed()

    @precondition(lambda self: self.idle)
    @rule(data=st.data())
    def dies(self, data: st.DataObject) -> None:
        """The upstream closes an idle one."""
        conn = data.draw(st.sampled_from(self.idle))
        self.idle.remove(conn)
        self.pool.discard(conn)
        self.pool.closed()

    @rule()
    def is_asked(self) -> None:
        taken, expired = self.pool.acquire(self.now)
        for conn, reason in expired:
            self.idle.remove(conn)  # so it was idle, and is handed over once
            assert reason is (CloseReason.IDLE_TIMEOUT if self.idled_out(conn) else CloseReason.MAX_AGE)
            assert self.idled_out(conn) or self.aged_out(conn)
            self.pool.closed()
        usable = [conn for conn in self.idle if not self.aged_out(conn)]
        assert not any(map(self.idled_out, self.idle))
        if taken is None:
            assert usable == []
            return
        assert taken in usable
        since = [conn.idle_since for conn in usable]
        assert taken.idle_since == (max(since) if self.limits.order == "newest" else min(since))
        self.idle.remove(taken)
        self.active.append(taken)

    @rule(late=st.sampled_from([0.0, 0.0, 0.125, 1.0]))
    def timer_fires(self, late: float) -> None:
        due = self.pool.next_expiry()
        if due is not None:
            self.now = max(self.now, due) + late
        wanted = {conn for conn in self.idle if self.idled_out(conn)}
        expired = self.pool.expire(self.now)
        assert wanted <= {conn for conn, _ in expired} <= set(self.idle)
        for conn, reason in expired:
            assert reason is (CloseReason.IDLE_TIMEOUT if self.idled_out(conn) else CloseReason.MAX_AGE)
            assert self.idled_out(conn) or self.aged_out(conn)  # what is too old may go now, or when it is its turn
            self.idle.remove(conn)
            self.pool.closed()
        again = self.pool.next_expiry()
        assert again is None or again > self.now  # or the timer would spin

    @rule(
        order=st.sampled_from(["newest", "oldest"]),
        max_idle=st.integers(0, 4),
        max_requests=st.integers(0, 3),
        max_age=st.sampled_from([0.5, 3.0, inf]),
        idle_timeout=st.sampled_from([0.25, 2.0, inf]),
    )
    def is_configured(self, idle_timeout: float, max_age: float, **limits: Any) -> None:
        """Other limits, live. What is parked stays until it is asked for, or expires by the new ones."""
        self.limits = replace(self.limits, max_age=Seconds(max_age), **limits)
        self.idle_timeout = idle_timeout
        self.pool.configure(self.limits, idle_timeout)

    @precondition(lambda self: not self.draining and self.made > 3)
    @rule()
    def drains(self) -> None:
        self.draining = True
        drained = self.pool.drain()
        assert {conn for conn, _ in drained} == set(self.idle)
        assert {reason for _, reason in drained} <= {CloseReason.DRAINED}
        for _ in self.idle:
            self.pool.closed()
        self.idle.clear()

    # ---- what holds

    @invariant()
    def the_counts_agree(self) -> None:
        assert self.pool.idle_count == len(self.idle)
        assert self.pool.open_count == len(self.idle) + len(self.active) <= self.limits.max_connections
        soonest = min((conn.idle_since + self.limit_of(conn) for conn in self.idle), default=inf)
        oldest = min((conn.opened_at + self.limits.max_age for conn in self.idle), default=inf)
        expiry = self.pool.next_expiry()
        assert (inf if expiry is None else expiry) in (soonest, min(soonest, oldest))

    def why_not(self, conn: Conn) -> CloseReason | None:
        """Why this connection must not be parked now."""
        if self.draining:
            return CloseReason.DRAINED
        if self.limits.max_requests and conn.requests >= self.limits.max_requests:
            return CloseReason.MAX_REQUESTS
        if self.aged_out(conn):
            return CloseReason.MAX_AGE
        if self.limit_of(conn) <= 0:
            return CloseReason.IDLE_TIMEOUT
        return CloseReason.MAX_IDLE if len(self.idle) >= self.limits.max_idle else None

    def limit_of(self, conn: Conn) -> float:
        return min(conn.idle_limit, self.idle_timeout)

    def idled_out(self, conn: Conn) -> bool:
        return self.now >= conn.idle_since + self.limit_of(conn)

    def aged_out(self, conn: Conn) -> bool:
        return self.now - conn.opened_at >= self.limits.max_age


def run(seed: int, seconds: float | None = None, count: int | None = None) -> Result:
    """`count` is of runs, of up to 50 steps each; they come in batches of 20."""
    batches = None if count is None else -(-count // RUNS_AT_A_TIME)
    run = Run(seed, seconds, batches)
    rules = settings(
        max_examples=RUNS_AT_A_TIME,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # shrinking may take minutes
        suppress_health_check=list(HealthCheck),
    )
    for number in run.seeds():
        steps = StringIO()
        try:
            with redirect_stdout(steps):
                run_state_machine_as_test(seeded(number)(PoolModel), settings=rules)
        except Exception as problem:  # a wrong assertion, or whatever the pool raised
            notes = "\n".join(getattr(problem, "__notes__", []))
            run.found(number, f"{type(problem).__name__}: {problem}\n{notes}{steps.getvalue()}", b"")
    result = run.result()
    return result._replace(trials=result.trials * RUNS_AT_A_TIME)
