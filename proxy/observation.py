"""What a process that serves looks like now, in the words of `metrics.py`. It is asked for by operators: not hot."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from time import monotonic

from proxy.group import Group
from proxy.groups import CountedUpstream, Running
from proxy.observe.metrics import (
    MOST_SHOWN,
    ConnectionSnapshot,
    Process,
    SourceSnapshot,
    UpstreamSnapshot,
    WorkerSnapshot,
)
from proxy.server import Server
from proxy.upstream_connection import UpstreamConnection
from proxy.upstream_life import State


def worker_snapshot(server: Server, with_pool: bool) -> WorkerSnapshot:
    """This process; with its connections to upstreams, `MOST_SHOWN` of them."""
    now = monotonic()
    upstreams: list[UpstreamSnapshot] = []
    pool: list[ConnectionSnapshot] = []
    pool_size = 0
    open_requests: Counter[tuple[str, str]] = Counter()
    addresses: dict[str, set[str]] = {}
    for group in server.groups.all():  # one that drains may have the name of another
        addresses.setdefault(group.name, set()).update(upstream.address for upstream in group.upstreams)
    for name, known in addresses.items():
        server.counters.keep(name, known)
    for group in server.groups.all():
        for upstream, state in group.states():
            assert isinstance(upstream, CountedUpstream)
            connections = list(upstream.connections)
            upstreams.append(_upstream(group, upstream, state, connections))
            open_requests[group.name, upstream.address] += sum(each.requests for each in connections)
            pool_size += len(connections)
            if with_pool:
                pool += _connections(group, upstream, connections[: MOST_SHOWN - len(pool)], now)
    return WorkerSnapshot(
        worker=server.worker or 0,
        pid=os.getpid(),
        uptime_s=round(now - server.started, 3),
        process=Process.own(),
        loop_lag=server.loop_lag.histogram,
        loop_lag_worst_s=server.loop_lag.worst(),
        counters=server.counters.seen(open_requests, server.log_dropped),
        downstream=dict(Counter(connection.phase for connection in server.clients.connections)),
        upstreams=upstreams,
        sources=[_source(running) for running in server.groups.running.values()],
        pool=pool,
        pool_size=pool_size,
        draining=server.stopping,
    )


def _source(running: Running) -> SourceSnapshot:
    assert running.source is not None
    report = running.source.report
    endpoints = report.endpoints or ()
    return SourceSnapshot(
        group=running.group.name,
        kind=running.group.config.discovery.kind,
        good_at=report.good_at,
        problems=list(report.problems.values()),
        known=len(endpoints),
        serving=sum(endpoint.serving and not endpoint.terminating for endpoint in endpoints),
    )


def _upstream(
    group: Group, upstream: CountedUpstream, state: str, connections: list[UpstreamConnection]
) -> UpstreamSnapshot:
    states = Counter(connection.state for connection in connections)
    return UpstreamSnapshot(
        group=group.name,
        address=upstream.address,
        state=state,
        weight=upstream.weight,
        connecting=upstream.pool.open_count - len(connections),
        idle=states[State.IDLE],
        active=states[State.ACTIVE] + states[State.SWITCHED],
        busy=upstream.busy,
        waiting=upstream.waiting,
    )


def _connections(
    group: Group, upstream: CountedUpstream, connections: list[UpstreamConnection], now: float
) -> Iterator[ConnectionSnapshot]:
    for each in connections:
        yield ConnectionSnapshot(
            group=group.name,
            upstream=upstream.address,
            conn=each.name,
            state=each.state.name.lower(),
            age_s=round(now - each.opened_at, 3),
            idle_s=round(now - each.idle_since, 3) if each.state is State.IDLE else 0.0,
            requests=each.requests,
        )
