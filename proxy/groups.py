"""All groups of upstreams by a config: each with its source of endpoints and its active checks; and a change of them.

Rules of this file:

- A change has two steps. `plan` does what can fail, certificates and sources, and changes nothing. `take` cannot fail.
- A group that is new is waited for, until it has heard where its endpoints are, or that they cannot be found: before
  that its requests would be refused. Nothing else changes meanwhile.
- A group that says the same as before is left alone: its connections, ejections and endpoints stay. One that is gone
  drains: who waits for it is served, and then it is let go of.
- A group that has nowhere to go, no upstreams and nobody to ask for them, is none.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Final, NamedTuple

from proxy import tls
from proxy.config import GroupConfig, ProxyConfig, in_group
from proxy.discovery import Endpoint, Source, SourceError, open_source
from proxy.ejection import Change, Health
from proxy.group import Endpoint as AnyEndpoint
from proxy.group import Group
from proxy.health import CheckTls, HealthChecks
from proxy.observe.counters import Counters
from proxy.sides import Emit
from proxy.upstream import Upstream
from proxy.upstream_connection import UpstreamConnection

LEAVING_LOOK_S: Final = 0.5  # how often a group that drains is looked at
HEARD_WITHIN_S: Final = 5.0  # how long a new group is waited for; DNS takes as long to say that nobody answers
TOLD_ELSEWHERE: Final[tuple[str, ...]] = ("file", "kubernetes")
USABLE: Final[tuple[str, ...]] = ("ready", "half_open", "ejected")


class CountedUpstream(Upstream):
    """An upstream whose connections are known one by one, and counted when they come and go."""

    weight: int
    connections: set[UpstreamConnection]  # those that have connected

    def opened(self, connection: UpstreamConnection) -> None:
        self.counters.opened += 1
        self.connections.add(connection)
        super().opened(connection)

    def closed(self, connection: UpstreamConnection) -> None:
        if connection in self.connections:
            self.connections.remove(connection)
            self.counters.closed[connection.close_reason] += 1
            self.counters.requests += connection.requests
        super().closed(connection)


class Running:
    """A group, and what feeds it."""

    def __init__(self, config: GroupConfig, whole: ProxyConfig, emit: Emit | None, counters: Counters) -> None:
        self.whole = whole
        self.client_tls: tls.ClientTls | None = None
        self._emit = emit
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self.group = Group(config, self._loop, self._make, self._stands_differently, counters.group(config.name))
        self.source: Source | None = None
        self.heard = asyncio.Event()  # something of its endpoints
        self._checks = HealthChecks(self.group, self._tls_for_checks)

    def __repr__(self) -> str:
        return f"<Running {self.group!r}, {self.source!r}, {self._checks!r}>"

    def begin(self, source: Source, client_tls: tls.ClientTls | None) -> None:
        self.client_tls = client_tls
        self._checks.start()
        self.follow(source)

    def change(self, config: GroupConfig, whole: ProxyConfig, client_tls: tls.ClientTls | None) -> None:
        group, old_tls = self.group, self.client_tls
        other_terms = config.upstream_tls != group.config.upstream_tls
        other_files = old_tls is not None and client_tls is not None and old_tls.read != client_tls.read
        other_messages = _of_messages(whole) != _of_messages(self.whole)
        self.whole = whole
        if other_terms or other_files:
            self.client_tls = client_tls
        if config != group.config:
            group.reconfigure(config)
        if other_messages or (other_files and not other_terms):  # of other terms it knows itself
            group.renew()

    def follow(self, source: Source) -> None:
        """Hears of endpoints from here; until it says something, those that were known stay."""
        if self.source is not None:
            self.source.close()
        self.source = source
        source.report.on_failure = self._cannot_ask
        source.start()

    def feed_no_more(self) -> None:
        self._checks.close()
        if self.source is not None:
            self.source.close()

    # ---- called by the source

    def found(self, endpoints: Sequence[Endpoint]) -> None:
        self.group.apply(endpoints, monotonic())
        self.heard.set()

    def cannot_find(self, problem: str) -> None:
        say(f"group {self.group.name}: {problem}")
        self.heard.set()

    def _cannot_ask(self) -> None:
        self.group.counters.discovery_failures += 1

    # ---- called by the group and the checks

    def _make(self, endpoint: AnyEndpoint, config: GroupConfig) -> Upstream:
        upstream = CountedUpstream(
            endpoint.address,
            self._loop,
            config.timeouts,
            config.pool,
            self.whole.limits,
            self._emit,
            tls=self.client_tls.context if self.client_tls else None,
            server_name=config.upstream_tls.server_name or getattr(endpoint, "host", ""),
            sock=config.upstream_socket,
            trailers=self.whole.http.trailers == "forward",
            counters=self._counters.upstream(config.name, endpoint.address),
            reused=self._counters.group(config.name).reused,
        )
        upstream.weight = endpoint.weight
        upstream.on_problem = partial(self._cannot_connect, endpoint.address)
        upstream.connections = set()
        return upstream

    def _stands_differently(self, change: Change) -> None:
        counters = self._counters.upstream(self.group.name, change.name)
        if change.health is Health.EJECTED:
            counters.ejections += 1
        elif change.health is Health.READY:
            counters.returns += 1
        say(f"group {self.group.name}: {change.name} is {change.health.value}: {change.because}")

    def _cannot_connect(self, address: str, why: str) -> None:
        say(f"group {self.group.name}: no connection to {address}: {why}")

    def _tls_for_checks(self, address: str) -> CheckTls | None:
        upstream = self.group.members.get(address)
        if upstream is None or upstream.tls is None:
            return None
        return CheckTls(upstream.tls, upstream.server_name)


class Step(NamedTuple):
    """What becomes of one group. No `source`: it goes on with the one that it has."""

    running: Running
    config: GroupConfig
    client_tls: tls.ClientTls | None
    source: Source | None


class Groups:
    """The groups in force, by name. `begin` with a first config, then any number of changes, then `close`."""

    def __init__(self, emit: Emit | None, counters: Counters) -> None:
        self.running: dict[str, Running] = {}
        self._emit = emit
        self._counters = counters
        self._leaving: dict[Group, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<Groups {', '.join(self.running) or 'none'}>"

    @property
    def by_name(self) -> Mapping[str, Group]:
        return {name: running.group for name, running in self.running.items()}

    def all(self) -> list[Group]:
        """Also those that drain."""
        return [*self.by_name.values(), *self._leaving]

    def plan(self, config: ProxyConfig) -> list[Step]:
        """What it takes to get there. Raises TlsError or SourceError, and then nothing has changed."""
        steps = []
        for name, wanted in config.group_configs().items():
            if not wanted.upstreams and wanted.discovery.kind not in TOLD_ELSEWHERE:
                continue
            try:
                steps.append(self._step(wanted, config))
            except (tls.TlsError, SourceError) as problem:
                raise type(problem)(in_group(name, str(problem))) from None
        return steps

    def _step(self, wanted: GroupConfig, config: ProxyConfig) -> Step:
        client_tls = tls.client_context(wanted.upstream_tls) if wanted.upstream_tls.enabled else None
        running = self.running.get(wanted.name)
        known = running.group.config if running else None
        running = running or Running(wanted, config, self._emit, self._counters)
        same_source = known is not None and _where(known) == _where(wanted)
        source = None if same_source else open_source(wanted, running.found, running.cannot_find)
        return Step(running, wanted, client_tls, source)

    async def take(self, steps: Sequence[Step], whole: ProxyConfig) -> None:
        """Goes there, once every new group has heard of its endpoints."""
        new = [step for step in steps if step.running.source is None]
        for running, _, client_tls, source in new:
            assert source is not None
            running.begin(source, client_tls)
        with suppress(TimeoutError):
            async with asyncio.timeout(HEARD_WITHIN_S):
                for step in new:
                    await step.running.heard.wait()
        wanted = {step.config.name: step.running for step in steps}
        for name, running in self.running.items():
            if name not in wanted:
                self._leave(running)
        for running, config, client_tls, source in steps:
            running.change(config, whole, client_tls)
            if source is not None and source is not running.source:
                running.follow(source)
        self.running = wanted

    def why_not_ready(self) -> str:
        """ "" if any group has somebody for its requests: one that has not must not take the others' traffic away."""
        idle = [name for name, running in self.running.items() if not _is_usable(running.group)]
        if len(idle) < len(self.running):
            return ""
        return f"no usable upstream in {', '.join(f'group {name}' for name in idle)}" if idle else "no group"

    def drain(self) -> None:
        """Closes what is idle, and from now on whatever becomes idle. Nothing is found or checked any more."""
        for running in self.running.values():
            running.feed_no_more()
        for group in self.all():
            group.drain()

    def close(self) -> None:
        """Lets go of all timers."""
        for task in self._leaving.values():
            task.cancel()
        for group in self.all():
            group.close()

    def _leave(self, running: Running) -> None:
        running.feed_no_more()
        group = running.group
        group.drain()
        self._leaving[group] = asyncio.get_running_loop().create_task(self._until_left(group))

    async def _until_left(self, group: Group) -> None:
        while any(upstream.pool.open_count for upstream in group.upstreams):
            await asyncio.sleep(LEAVING_LOOK_S)
        group.close()
        del self._leaving[group]


def say(what: str) -> None:
    """One line for whoever runs the proxy. That nobody reads it any more is no reason to stop serving."""
    with suppress(OSError):
        print(what, file=sys.stderr, flush=True)


def _is_usable(group: Group) -> bool:
    return any(state in USABLE for _, state in group.states())


def _where(config: GroupConfig) -> object:
    """What a source is made of."""
    return config.upstreams, config.discovery


def _of_messages(whole: ProxyConfig) -> object:
    """What an upstream takes from the config of all, once."""
    return whole.limits.line_bytes, whole.limits.head_bytes, whole.limits.fields, whole.http.trailers
