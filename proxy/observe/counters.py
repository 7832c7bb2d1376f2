"""What the chain counts while it works: per group, per upstream, and of the clients' side.

Rules of this file:

- Counting is an addition where the thing happens. Nothing is formatted, looked up by name or locked; metrics.py reads.
- Two of these are called for each request, `GroupCounters.ended` and `Histogram.add` for a reuse: a quarter of a µs.
  What is rare is a name in a dictionary, from a set that is fixed in our code: never what a client or upstream sent.
- They only ever grow. What goes up and down (open connections, requests under way) is read from its owner instead.
- They travel between processes as they are (msgspec encodes dataclasses), and `added` makes one of two.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import reduce
from typing import Any, Final, TypeVar

# Upper ends of buckets, in seconds. A value that is exactly one belongs to it.
DURATIONS: Final[tuple[float, ...]] = (
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
    1.0,
    2.0,
    5.0,
    10.0,
    30.0,
    60.0,
)
# Fine where idle timeouts are usual: 2 s (gunicorn), 5 s (Node, uvicorn, Apache), 10 s, 15 s, 60 s, 65 s, 75 s (nginx).
IDLE_AGES: Final[tuple[float, ...]] = (
    0.01,
    0.1,
    0.5,
    1.0,
    1.5,
    2.0,
    3.0,
    4.0,
    4.5,
    5.0,
    6.0,
    10.0,
    15.0,
    30.0,
    60.0,
    65.0,
    75.0,
    120.0,
)

# Of what followed a 101: from seconds to days.
TUNNELS: Final[tuple[float, ...]] = (0.1, 1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)

# Why a client's connection is refused, and why one is closed: all the names there are.
REFUSED: Final[tuple[str, ...]] = (
    *("connections", "per_client", "tls_plain_http", "tls_no_certificate", "tls_bad_certificate", "tls_version"),
    *("tls_timeout", "tls_client_left", "tls_failed"),
)
CLOSED: Final[tuple[str, ...]] = (
    *("client_closed", "client_reset", "idle_timeout", "done", "answered_early", "bad_request", "no_route"),
    *("header_timeout", "write_timeout", "connection_limit", "drained"),
)

Names = dict[str, int]  # how often, by name


def names() -> Names:
    """A count for each name that turns up."""
    return defaultdict(int)


@dataclass(slots=True)
class Histogram:
    """How many values fell under each bound. `counts` has one more, for what is above the last."""

    bounds: tuple[float, ...]
    counts: list[int]
    sum: float = 0.0

    @classmethod
    def of(cls, bounds: tuple[float, ...]) -> Histogram:
        return cls(bounds, [0] * (len(bounds) + 1))

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


@dataclass(slots=True)
class GroupCounters:
    """The exchanges of one group of upstreams; the group "" has those that were refused before they had one."""

    statuses: dict[int, int] = field(default_factory=lambda: defaultdict(int))  # by what the client was told
    seconds: Histogram = field(default_factory=lambda: Histogram.of(DURATIONS))  # from its request's head to its end
    bytes_in: int = 0  # of request bodies
    bytes_out: int = 0  # of response bodies
    causes: Names = field(default_factory=names)  # of what the proxy answered itself or broke off, by Failure
    retries: Names = field(default_factory=names)  # by the reason to repeat
    not_retried: Names = field(default_factory=names)  # failed attempts, by the reason not to repeat
    reused: Histogram = field(default_factory=lambda: Histogram.of(IDLE_AGES))  # idle age of each connection reused
    lost: Histogram = field(default_factory=lambda: Histogram.of(IDLE_AGES))  # of these, closed instead of answering
    tunnels: Histogram = field(default_factory=lambda: Histogram.of(TUNNELS))  # seconds that each lasted
    discovery_failures: int = 0  # times that endpoints were asked for in vain

    def ended(self, status: int, seconds: float, bytes_in: int, bytes_out: int) -> None:
        """An exchange is over. `status` is the client's, also when nobody was left to read it."""
        self.statuses[status] += 1
        histogram = self.seconds  # its `add`, without the call
        histogram.counts[bisect_left(DURATIONS, seconds)] += 1
        histogram.sum += seconds
        self.bytes_out += bytes_out
        if bytes_in:
            self.bytes_in += bytes_in

    def tunnel_ended(self, seconds: float, bytes_in: int, bytes_out: int) -> None:
        """What followed a 101 is over. It is a request too, but how long it lasts is not how long an answer takes."""
        self.statuses[101] += 1
        self.tunnels.add(seconds)
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out


@dataclass(slots=True)
class UpstreamCounters:
    """The connections to one upstream and the attempts there."""

    opened: int = 0  # connections that came to be
    closed: Names = field(default_factory=names)  # of these, by CloseReason
    requests: int = 0  # that the connections closed so far have carried; an open one knows its own
    failures: Names = field(default_factory=names)  # attempts that failed, by Failure
    ejections: int = 0
    returns: int = 0  # to the rotation, after an ejection or failed checks
    checks: Names = field(default_factory=names)  # by their result: "passed", "failed"


@dataclass(slots=True)
class DownstreamCounters:
    """The clients' connections."""

    accepted: int = 0
    refused: Names = field(default_factory=names)  # by REFUSED
    closed: Names = field(default_factory=names)  # by CLOSED


@dataclass(slots=True)
class Counters:
    """All that one process counts."""

    downstream: DownstreamCounters = field(default_factory=DownstreamCounters)
    groups: dict[str, GroupCounters] = field(default_factory=dict)
    upstreams: dict[str, dict[str, UpstreamCounters]] = field(default_factory=dict)  # by group and address
    log_dropped: Names = field(default_factory=names)  # lines lost, by log; only in what `seen` returns

    def group(self, name: str) -> GroupCounters:
        """Those of a group, the same ones also after it was reconfigured."""
        return self.groups.setdefault(name, GroupCounters())

    def upstream(self, group: str, address: str) -> UpstreamCounters:
        """Those of an address, the same ones also for the upstream that takes another's place."""
        return self.upstreams.setdefault(group, {}).setdefault(address, UpstreamCounters())

    def keep(self, group: str, addresses: Collection[str]) -> None:
        """The only addresses that the group still has to do with: others would pile up as discovery finds new ones."""
        known = self.upstreams.get(group, {})
        self.upstreams[group] = {address: known[address] for address in known if address in addresses}

    def seen(self, open_requests: Mapping[tuple[str, str], int], log_dropped: Names) -> Counters:
        """As they are now: with the requests that open connections have carried, by group and address, and lost lines.

        It shares with these what it does not change: send it or show it at once.
        """
        upstreams = {
            group: {
                address: replace(each, requests=each.requests + open_requests.get((group, address), 0))
                for address, each in known.items()
            }
            for group, known in self.upstreams.items()
        }
        return replace(self, upstreams=upstreams, log_dropped=log_dropped)


T = TypeVar("T")


def added(one: T, other: T) -> T:
    """Two counts of the same shape as one: numbers are added, by name and by place. Words are the first's."""
    both: Any = _added(one, other)
    return both  # type: ignore[no-any-return]


def total(counts: Iterable[T], none: T) -> T:
    """All of them as one; `none` is how nothing looks."""
    return reduce(added, counts, none)


def _added(one: Any, other: Any) -> Any:
    if is_dataclass(one):
        values = (_added(getattr(one, each.name), getattr(other, each.name)) for each in fields(one))
        return type(one)(*values)  # type: ignore[misc]
    if isinstance(one, dict):
        return {
            **other,
            **{name: _added(value, other[name]) if name in other else value for name, value in one.items()},
        }
    if isinstance(one, list):
        return [_added(a, b) for a, b in zip(one, other, strict=True)]
    return one if isinstance(one, str | tuple) else one + other
