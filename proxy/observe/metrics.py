"""What the proxy shows of itself: the structs that workers send, and the same as Prometheus metrics.

Rules of this file:

- It counts nothing. What the chain counted (counters.py) and what it looks like now come in a `Snapshot`.
- What grows is added up over the workers, and over those that have gone: a counter never falls while the proxy lives.
  What belongs to a process has the label `worker`, a small number that the next in its place takes over.
- A label's value is from our code or from the config; a status code that nobody has registered is told by its class.
  So the number of series is bounded whatever clients and upstreams send.
- Units are seconds and bytes, counters end in `_total`.
"""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Iterator
from http import HTTPStatus
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from time import process_time
from typing import Final

import msgspec

from proxy.failure import Failure
from proxy.observe.counters import (
    CLOSED,
    REFUSED,
    Counters,
    GroupCounters,
    Histogram,
    Names,
    UpstreamCounters,
    added,
    total,
)
from proxy.observe.exposition import Family, by, counter, gauge, histogram, text_of
from proxy.retry import DECISIONS

PREFIX: Final = "kalab_proxy_"

MOST_SHOWN: Final = 1000  # connections in `WorkerSnapshot.pool`

UPSTREAM_STATES: Final = ("ready", "half_open", "ejected", "terminating", "draining", "down")
DOWNSTREAM_STATES: Final = ("idle", "head", "exchange", "tunnel", "lingering", "closed")


# --- What a worker sends


class Process(msgspec.Struct):
    """What the kernel says of a process. 0: it does not say."""

    rss_bytes: int
    open_fds: int
    max_fds: int
    cpu_s: float  # user and system

    @classmethod
    def own(cls) -> Process:
        """Of this one."""
        try:
            with open("/proc/self/statm", "rb") as statm:
                rss = int(statm.read().split()[1]) * resource.getpagesize()
            fds = len(os.listdir("/proc/self/fd")) - 1  # without the one that lists
        except OSError:
            rss = fds = 0
        return cls(rss, fds, resource.getrlimit(resource.RLIMIT_NOFILE)[0], process_time())


class ConnectionSnapshot(msgspec.Struct):
    """An upstream connection, as it is now. `state` as in upstream_connection.py, in lower case."""

    group: str
    upstream: str
    conn: str  # the 4-tuple
    state: str
    age_s: float
    idle_s: float  # 0 unless it is idle
    requests: int


class UpstreamSnapshot(msgspec.Struct):
    """An upstream, as one worker sees it now. What it has counted is in `WorkerSnapshot.counters.upstreams`."""

    group: str
    address: str
    state: str  # one of UPSTREAM_STATES
    weight: int = 1
    connecting: int = 0  # connections, as the next two
    idle: int = 0
    active: int = 0
    busy: int = 0  # requests under way or waiting
    waiting: int = 0  # of these, in line for a connection


class SourceSnapshot(msgspec.Struct):
    """Where a group hears of its endpoints, as one worker sees it now. What failed is in `GroupCounters`."""

    group: str
    kind: str  # `discovery.kind`
    good_at: float  # when all was well last; seconds since 1970, 0: never
    problems: list[str]
    known: int  # endpoints
    serving: int  # of these, those that may be sent requests


class WorkerSnapshot(msgspec.Struct):
    """One process."""

    worker: int  # its number, from 0
    pid: int
    uptime_s: float
    process: Process
    loop_lag: Histogram
    loop_lag_worst_s: float  # of the last minute
    counters: Counters
    downstream: Names = {}  # open client connections, by state
    upstreams: list[UpstreamSnapshot] = []
    sources: list[SourceSnapshot] = []
    pool: list[ConnectionSnapshot] = []  # only when asked for, and MOST_SHOWN of them
    pool_size: int = 0  # all upstream connections; more than in `pool`: the rest was left out
    draining: bool = False


class Snapshot(msgspec.Struct):
    """All workers at about the same time, and what those counted that have gone."""

    workers: list[WorkerSnapshot]
    gone: Counters = msgspec.field(default_factory=Counters)
    restarts: int = 0  # of workers that died
    reloads: Names = msgspec.field(default_factory=dict)  # "applied", "refused"; by SIGHUP or PATCH
    build: dict[str, str] = msgspec.field(default_factory=dict)

    def counted(self) -> Counters:
        """What all of them have counted."""
        return total((worker.counters for worker in self.workers), self.gone)

    def retire(self, worker: WorkerSnapshot) -> None:
        """Keeps what a worker had counted when it was last asked, now that it has gone."""
        self.gone = added(self.gone, worker.counters)


def build_info() -> dict[str, str]:
    """What does the work: the build of the proxy, "plain" Python or "compiled" (hatch_build.py), and versions.

    `parser` is what judges the grammar of heads; httptools brings it along, and does not tell its version.
    """
    chain = find_spec("proxy.exchange")  # all of it is compiled, or nothing
    compiled = chain is not None and (chain.origin or "").endswith(EXTENSION_SUFFIXES[0])
    versions = {"build": "compiled" if compiled else "plain", "python": platform.python_version(), "parser": "llhttp"}
    for package in ("kalab", "uvloop", "httptools", "msgspec", "aiohttp", "dnspython"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # not there; or kalab run from a tree that was never installed
            versions[package] = "unknown" if package == "kalab" else "none"
    return versions


# --- As metrics


def render(snapshot: Snapshot) -> bytes:
    """The page that Prometheus reads."""
    return text_of(families(snapshot), PREFIX)


def families(snapshot: Snapshot) -> Iterator[Family]:
    """All metrics, in the order of the page."""
    counted = snapshot.counted()
    yield gauge("build_info", "1; the versions are in the labels.", [({**snapshot.build}, 1)])
    yield gauge("workers", "Processes that serve.", [({}, len(snapshot.workers))])
    yield counter("worker_restarts_total", "Workers started again after they had died.", [({}, snapshot.restarts)])
    yield counter(
        "config_reloads_total",
        "Changes of the config while it ran, by outcome. A refused one changed nothing.",
        by("result", {"applied": 0, "refused": 0, **snapshot.reloads}),
    )
    yield from _of_processes(snapshot.workers)
    yield from _of_downstream(snapshot.workers, counted)
    yield from _of_groups(counted.groups)
    yield from _of_discovery(snapshot.workers, counted.groups)
    yield from _of_upstreams(snapshot.workers, counted.upstreams)
    yield counter(
        "log_dropped_total",
        "Lines that are missing from a log, because it was full or nobody read it.",
        by("log", {"access": 0, "events": 0, **counted.log_dropped}),
    )


def _of_processes(workers: list[WorkerSnapshot]) -> Iterator[Family]:
    labelled = [({"worker": str(each.worker)}, each) for each in workers]
    yield gauge("uptime_seconds", "Since the worker started.", [(who, each.uptime_s) for who, each in labelled])
    connections = [(who, sum(each.downstream.values())) for who, each in labelled]
    yield gauge("worker_connections", "Client connections now, of each worker.", connections)
    yield gauge("resident_memory_bytes", "Resident memory.", [(who, each.process.rss_bytes) for who, each in labelled])
    yield gauge("open_fds", "Open file descriptors.", [(who, each.process.open_fds) for who, each in labelled])
    yield gauge("max_fds", "File descriptors allowed.", [(who, each.process.max_fds) for who, each in labelled])
    yield counter(
        "cpu_seconds_total", "CPU time, user and system.", [(who, each.process.cpu_s) for who, each in labelled]
    )
    yield histogram(
        "loop_lag_seconds",
        "How late the event loop ran a timer of 100 ms.",
        [(who, each.loop_lag) for who, each in labelled],
    )
    yield gauge(
        "loop_lag_worst_seconds",
        "The same, the worst of the last minute.",
        [(who, each.loop_lag_worst_s) for who, each in labelled],
    )


def _of_downstream(workers: list[WorkerSnapshot], counted: Counters) -> Iterator[Family]:
    states = total((each.downstream for each in workers), dict.fromkeys(DOWNSTREAM_STATES[:-1], 0))
    downstream = counted.downstream
    yield gauge("downstream_connections", "Client connections now, by state.", by("state", states))
    yield counter("downstream_accepted_total", "Client connections accepted.", [({}, downstream.accepted)])
    refused = {**dict.fromkeys(REFUSED, 0), **downstream.refused}
    yield counter("downstream_refused_total", "Client connections refused, by limit.", by("reason", refused))
    closed = {**dict.fromkeys(CLOSED, 0), **downstream.closed}
    yield counter("downstream_closed_total", "Client connections closed, by reason.", by("reason", closed))


def _of_groups(groups: dict[str, GroupCounters]) -> Iterator[Family]:
    groups = {"": GroupCounters(), **groups}  # what is refused before it has a group counts from the start, too

    def names(attribute: str, label: str, known: Names) -> Iterator[tuple[dict[str, str], float]]:
        for group, each in groups.items():
            for name, count in {**known, **getattr(each, attribute)}.items():
                yield {"group": group, label: name}, count

    def histograms(attribute: str) -> list[tuple[dict[str, str], Histogram]]:
        return [({"group": group}, getattr(each, attribute)) for group, each in groups.items() if group]

    codes = [
        ({"group": group, "code": code}, n)
        for group, each in groups.items()
        for code, n in _codes(each.statuses).items()
    ]
    yield counter("requests_total", "Requests that ended, by the status told or meant for the client.", codes)
    yield histogram(
        "request_duration_seconds", "From a request's head to the end of its response.", histograms("seconds")
    )
    yield counter(
        "request_body_bytes_total", "Of request bodies.", [({"group": name}, g.bytes_in) for name, g in groups.items()]
    )
    yield counter(
        "response_body_bytes_total",
        "Of response bodies.",
        [({"group": name}, g.bytes_out) for name, g in groups.items()],
    )
    yield counter(
        "errors_total",
        "Requests that the proxy answered itself or broke off, by cause.",
        names("causes", "cause", dict.fromkeys(Failure, 0)),
    )
    yield counter(
        "retries_total", "Requests sent again, by the reason to.", names("retries", "reason", _reasons(retry=True))
    )
    yield counter(
        "not_retried_total",
        "Failed attempts not repeated, by the reason not to.",
        names("not_retried", "reason", _reasons(retry=False)),
    )
    yield histogram(
        "tunnel_duration_seconds",
        "How long upgraded connections lasted, WebSocket for one. They are not in request_duration_seconds.",
        histograms("tunnels"),
    )
    yield histogram(
        "upstream_idle_age_seconds",
        "How long reused upstream connections had been idle.",
        histograms("reused"),
    )
    yield histogram(
        "upstream_lost_idle_age_seconds",
        "The same, of those that closed instead of answering. All near one age: that is the upstream's idle timeout.",
        histograms("lost"),
    )


def _of_discovery(workers: list[WorkerSnapshot], groups: dict[str, GroupCounters]) -> Iterator[Family]:
    """Each worker asks for itself. Groups whose upstreams are in the config ask nobody."""
    seen = [
        ({"group": each.group, "kind": each.kind, "worker": str(worker.worker)}, each)
        for worker in workers
        for each in worker.sources
    ]
    asking = [(who, each) for who, each in seen if each.kind != "static"]
    kinds = {each.group: each.kind for _, each in asking}
    yield gauge(
        "discovery_last_success_timestamp_seconds",
        "When its source last answered and nothing was wrong, since 1970. 0: never.",
        [(who, each.good_at) for who, each in asking],
    )
    yield gauge("discovery_problems", "What is wrong with it now.", [(who, len(each.problems)) for who, each in asking])
    yield counter(
        "discovery_failures_total",
        "Times that it was asked in vain, or not understood.",
        [
            ({"group": name, "kind": kind}, groups.get(name, GroupCounters()).discovery_failures)
            for name, kind in kinds.items()
        ],
    )
    yield gauge(
        "discovery_endpoints",
        "Endpoints that are known, and those of them that may be sent requests.",
        (
            ({**who, "state": state}, count)
            for who, each in seen
            for state, count in (("known", each.known), ("serving", each.serving))
        ),
    )


def _of_upstreams(workers: list[WorkerSnapshot], counted: dict[str, dict[str, UpstreamCounters]]) -> Iterator[Family]:
    """Of those that a worker still knows: what discovery has taken away ends with it, so there are never many."""
    now: dict[tuple[str, str], list[UpstreamSnapshot]] = {}
    for worker in workers:
        for each in worker.upstreams:
            now.setdefault((each.group, each.address), []).append(each)
    labelled = [({"group": group, "upstream": address}, seen) for (group, address), seen in now.items()]
    counters = [(who, counted.get(who["group"], {}).get(who["upstream"], UpstreamCounters())) for who, _ in labelled]
    yield gauge(
        "upstream_workers",
        "Workers by the state that they see an upstream in.",
        (
            ({**who, "state": state}, sum(each.state == state for each in seen))
            for who, seen in labelled
            for state in UPSTREAM_STATES
        ),
    )
    yield gauge(
        "upstream_connections",
        "Upstream connections now, by state.",
        (
            ({**who, "state": state}, sum(getattr(each, state) for each in seen))
            for who, seen in labelled
            for state in ("connecting", "idle", "active")
        ),
    )
    yield gauge(
        "upstream_busy",
        "Requests under way at an upstream, or waiting for a connection to it.",
        [(who, sum(each.busy for each in seen)) for who, seen in labelled],
    )
    yield gauge(
        "upstream_waiting", "Of these, waiting.", [(who, sum(each.waiting for each in seen)) for who, seen in labelled]
    )
    yield counter("upstream_requests_total", "Requests sent, each attempt.", [(who, u.requests) for who, u in counters])
    yield counter("upstream_opened_total", "Connections opened.", [(who, u.opened) for who, u in counters])
    yield counter(
        "upstream_closed_total",
        "Connections closed, by reason.",
        (({**who, "reason": reason}, n) for who, each in counters for reason, n in each.closed.items()),
    )
    yield counter(
        "upstream_ejections_total",
        "Times it was taken out of the rotation.",
        [(who, u.ejections) for who, u in counters],
    )
    yield counter(
        "upstream_returns_total",
        "Times it came back into the rotation, after an ejection or failed checks.",
        [(who, u.returns) for who, u in counters],
    )
    yield counter(
        "upstream_checks_total",
        "Active checks, by their result.",
        (
            ({**who, "result": result}, each.checks.get(result, 0))
            for who, each in counters
            for result in ("passed", "failed")
        ),
    )
    yield counter(
        "upstream_failures_total",
        "Attempts that failed, by cause.",
        (({**who, "cause": cause}, n) for who, each in counters for cause, n in each.failures.items()),
    )


def _reasons(*, retry: bool) -> Names:
    return {decision.because: 0 for decision in DECISIONS if decision.retry is retry}


_REGISTERED: Final = frozenset({*HTTPStatus, 499})  # 499: the client has left


def _codes(statuses: dict[int, int]) -> Names:
    codes: Names = {}
    for status, count in sorted(statuses.items()):
        code = str(status) if status in _REGISTERED else f"{status // 100}xx"
        codes[code] = codes.get(code, 0) + count
    return codes
