"""A group: upstreams that serve the same requests, and which of them gets the next one.

Rules of this file:

- `pick` is an attribute. In the usual case it is the balancer's own, and asks nothing: whenever the set of upstreams
  that are fit changes, another balancer is made and put there. While one is to be tried, `pick` is what gives it its
  one request.
- An upstream is kept while its address stays. One that leaves is drained: it gets nothing new, its exchanges end, and
  only then is it let go of. An address that comes back meanwhile is another upstream.
- Requests go to the first of these that has anybody: those that are ready; those that are ready though they terminate;
  those that stay, ready or not, for that is better than none. One that is not serving never gets any.
- Requests under way keep to the terms they began with; what changes is meant for the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from math import inf
from time import monotonic
from typing import Final, Protocol

from proxy.balancer import Choice, balancer_of, key_reader
from proxy.config import Balance, GroupConfig
from proxy.deadline import Deadline
from proxy.ejection import Change, Ejection, Health, counts
from proxy.failure import Failure
from proxy.observe.counters import GroupCounters
from proxy.retry import RetryBudget, RetryPolicy
from proxy.upstream import Upstream

LEAVING_LOOK_S: Final = 1.0  # how often one that leaves is looked at: has it gone?


class Endpoint(Protocol):
    """What is read of an endpoint; see `endpoints.Endpoint`."""

    @property
    def address(self) -> str: ...
    @property
    def weight(self) -> int: ...
    @property
    def serving(self) -> bool: ...
    @property
    def terminating(self) -> bool: ...


class Pick(Protocol):
    """How an upstream is picked."""

    def __call__(self, key: bytes = b"", avoid: Upstream | None = None) -> Upstream | None:
        """The upstream for an attempt, None if there is none at all.

        `key`: see `Group.wants_key`. `avoid`: not this one if there is another.
        """


class _Member:
    """An endpoint and its upstream."""

    __slots__ = ("endpoint", "upstream")

    def __init__(self, endpoint: Endpoint, upstream: Upstream) -> None:
        self.endpoint = endpoint
        self.upstream = upstream


class Group:
    """The upstreams of one group.

    `make` makes an upstream for an endpoint, by the config that it is given.
    `on_change` hears of every upstream that stands differently. `counters`: of its exchanges.
    """

    def __init__(
        self,
        config: GroupConfig,
        loop: asyncio.AbstractEventLoop,
        make: Callable[[Endpoint, GroupConfig], Upstream],
        on_change: Callable[[Change], None] | None = None,
        counters: GroupCounters | None = None,
    ) -> None:
        self.name = config.name
        self.counters = GroupCounters() if counters is None else counters
        self.upstreams: tuple[Upstream, ...] = ()  # also those that leave
        self.pick: Pick = _nobody
        self.wants_key = False  # `pick` wants one: what `key_of` makes of a request
        self.ejection = Ejection(config.health)
        self.on_members: Callable[[], None] = _nothing  # called when upstreams or the config may be others
        self._make = make
        self._on_change = on_change
        self._members: dict[str, _Member] = {}
        self._leaving: list[Upstream] = []
        self._pick_usual: Pick = _nobody
        self._balanced: tuple[Balance, list[Choice[Upstream]]] = config.balance, []  # what _pick_usual was made of
        self._timer = Deadline(loop, self._timer_passed)
        self.budget = RetryBudget(config.retry.budget)
        self._take(config)

    def __repr__(self) -> str:
        leaving = f", {len(self._leaving)} leaving" if self._leaving else ""
        return f"<Group {self.name}, {len(self.ejection.ready())} of {len(self._members)} ready{leaving}>"

    # ---- called by the exchange

    def failed(self, upstream: Upstream, failure: Failure, now: float, *, reused: bool) -> bool:
        """An attempt failed; `reused`: on a connection that had been used before. True: best avoided by the next."""
        if not counts(failure, reused=reused):
            return False
        self._judge_failed(upstream, failure.value, now)
        return True

    def slow(self, upstream: Upstream, now: float) -> None:
        """An answer came, but later than `slow_after`. Call it instead of `succeeded`."""
        self._judge_failed(upstream, "slow", now)

    def succeeded(self, upstream: Upstream) -> None:
        """An attempt has been answered to the end. To be called only if `upstream.failing` is not 0."""
        if not self._is_member(upstream):
            return
        change = self.ejection.succeeded(upstream.address, monotonic())
        upstream.failing = self.ejection.failures_of(upstream.address)
        if change is not None:
            self._changed([change])

    def overloaded(self) -> bool:
        """Whether whoever got the next request is crowded."""
        _, choices = self._balanced
        return bool(choices) and all(choice.item.crowded for choice in choices)

    # ---- called by the active checks

    @property
    def members(self) -> dict[str, Upstream]:
        """The upstreams that belong to it, by address."""
        return {address: member.upstream for address, member in self._members.items()}

    def check_result(self, address: str, ok: bool, why: str) -> None:
        """What an active check found; `why` if it failed."""
        if (member := self._members.get(address)) is not None:
            member.upstream.counters.checks["passed" if ok else "failed"] += 1
        change = self.ejection.checked(address, ok, why, monotonic())
        if change is not None:
            self._changed([change])

    # ---- called by discovery

    def apply(self, endpoints: Sequence[Endpoint], now: float) -> None:
        """Where requests may go from now on."""
        members: dict[str, _Member] = {}
        for endpoint in endpoints:
            if endpoint.address not in members:
                members[endpoint.address] = self._member_for(endpoint)
        kept = {member.upstream for member in members.values()}
        for member in self._members.values():
            if member.upstream not in kept:
                self._leave(member.upstream)
        self._members = members
        self.ejection.apply(
            address
            for address, member in members.items()
            if member.endpoint.serving and not member.endpoint.terminating
        )
        self._rebuild(now)
        self.on_members()

    # ---- called by the server

    def reconfigure(self, config: GroupConfig) -> None:
        """Another config, while requests are under way. Of another `upstreams` or `discovery` the source must tell."""
        old = self.config
        if config.retry.budget != old.retry.budget:
            self.budget = RetryBudget(config.retry.budget)
        self._take(config)
        if (config.upstream_tls, config.upstream_socket) != (old.upstream_tls, old.upstream_socket):
            self.renew()
        elif (config.timeouts, config.pool) != (old.timeouts, old.pool):
            for upstream in self.upstreams:
                upstream.reconfigure(config.timeouts, config.pool)
        changes = self.ejection.reconfigure(config.health)
        self._changed(changes)
        self.on_members()

    def renew(self) -> None:
        """Other upstreams for the same endpoints: nothing is sent on a connection made under the old terms any more."""
        for member in self._members.values():
            self._leave(member.upstream)
            member.upstream = self._made(member.endpoint)
        self._rebuild(monotonic())

    def states(self) -> list[tuple[Upstream, str]]:
        """Every upstream and how it stands: ready, ejected, half_open, down, terminating or draining."""
        standing = [(member.upstream, self._state_of(member)) for member in self._members.values()]
        return standing + [(upstream, "draining") for upstream in self._leaving]

    def drain(self) -> None:
        """Closes what is idle, and from now on whatever becomes idle. Exchanges that have begun are still served."""
        for upstream in self.upstreams:
            upstream.drain()

    def close(self) -> None:
        """Lets go of all timers."""
        self._timer.close()
        for upstream in self.upstreams:
            upstream.close()

    # ---- members

    def _member_for(self, endpoint: Endpoint) -> _Member:
        """The member that has this address, or a new one. Draining cannot be undone, so who stays after all is new."""
        member = self._members.get(endpoint.address)
        if member is None or (member.endpoint.terminating and not endpoint.terminating):
            return _Member(endpoint, self._made(endpoint))
        if endpoint.terminating and not member.endpoint.terminating:
            member.upstream.drain()
        return _Member(endpoint, member.upstream)

    def _made(self, endpoint: Endpoint) -> Upstream:
        upstream = self._make(endpoint, self.config)
        upstream.failing = self.ejection.failures_of(endpoint.address)
        if endpoint.terminating:
            upstream.drain()
        return upstream

    def _leave(self, upstream: Upstream) -> None:
        upstream.drain()
        self._leaving.append(upstream)

    def _let_go(self) -> None:
        """Of those that have left and have no connection any more, under way or wanted."""
        for upstream in self._leaving:
            if not upstream.pool.open_count:
                upstream.close()
        self._leaving = [upstream for upstream in self._leaving if upstream.pool.open_count]

    def _is_member(self, upstream: Upstream) -> bool:
        member = self._members.get(upstream.address)
        return member is not None and member.upstream is upstream

    def _state_of(self, member: _Member) -> str:
        if member.endpoint.terminating:
            return "terminating"
        if member.upstream.pool.draining:
            return "draining"
        return self.ejection.health_of(member.endpoint.address).value if member.endpoint.serving else Health.DOWN.value

    # ---- who is fit

    def _judge_failed(self, upstream: Upstream, what: str, now: float) -> None:
        if not self._is_member(upstream):
            return
        change = self.ejection.failed(upstream.address, what, now)
        upstream.failing = self.ejection.failures_of(upstream.address)
        if change is not None:
            self._changed([change])

    def _changed(self, changes: Sequence[Change]) -> None:
        for change in changes:
            member = self._members[change.name]
            member.upstream.failing = self.ejection.failures_of(change.name)
            if self._on_change is not None:
                self._on_change(change)
        self._rebuild(monotonic())

    def _fit(self) -> list[_Member]:
        """Those that get requests; see the rules above."""
        serving = [member for member in self._members.values() if member.endpoint.serving]
        staying = [member for member in serving if not member.endpoint.terminating]
        ready = [member for member in staying if self.ejection.health_of(member.endpoint.address) is Health.READY]
        ending = [member for member in serving if member.endpoint.terminating]
        return ready or ending or staying

    def _rebuild(self, now: float) -> None:
        """Makes another balancer if others are fit now. Whose turn it is begins anew with it."""
        self._let_go()
        self.upstreams = (*(member.upstream for member in self._members.values()), *self._leaving)
        choices = [Choice(each.upstream, each.endpoint.weight, each.endpoint.address) for each in self._fit()]
        balance = self.config.balance
        if (balance, choices) != self._balanced:
            self._balanced = balance, choices
            self._pick_usual = balancer_of(balance, choices).pick if choices else _nobody
            self.wants_key = balance == "hash" and len(choices) > 1
        self._offer_trials()
        self._set_timer(now)

    def _offer_trials(self) -> None:
        """A half-open upstream comes first, once."""
        self.pick = self._pick_for_trial if self.ejection.offered() else self._pick_usual

    def _pick_for_trial(self, key: bytes = b"", avoid: Upstream | None = None) -> Upstream | None:
        name = self.ejection.offered()[0]
        upstream = self._members[name].upstream
        if upstream is avoid:
            return self._pick_usual(key, avoid)
        now = monotonic()
        self.ejection.begin_trial(name, now)
        self._offer_trials()
        self._set_timer(now)
        return upstream

    # ---- time

    def _set_timer(self, now: float) -> None:
        expiry = self.ejection.next_expiry()
        wait = inf if expiry is None else expiry - now
        self._timer.set(max(0.0, min(wait, LEAVING_LOOK_S if self._leaving else inf)))

    def _timer_passed(self) -> None:
        self._changed(self.ejection.expire(monotonic()))

    # ---- config

    def _take(self, config: GroupConfig) -> None:
        self.config = config
        self.policy = RetryPolicy(config.retry.policy, config.retry.max_retries)
        self.never_reuses = config.pool.max_idle == 0
        slow_after = config.health.slow_after
        self.slow_after = 0.0 if slow_after == inf else float(slow_after)  # seconds; 0: no answer is too slow
        self.key_of = key_reader(config.hash_by)


def _nobody(key: bytes = b"", avoid: Upstream | None = None) -> Upstream | None:  # noqa: ARG001 - a Pick
    return None


def _nothing() -> None:
    return None
