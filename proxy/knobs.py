"""Every knob of the proxy: its unit, its default, and what 0 and "off" mean.

All of it is frozen; how a config is read and changed is in `config.py`, which is also where to import these from.
Durations and sizes are written with a unit ("250ms", "64KiB"). "off" is no limit for a duration, and infinity inside.
"""

from __future__ import annotations

from math import isfinite
from typing import Annotated, Literal

import msgspec

from proxy.values import Bounds, Bytes, Seconds, Sink, is_address, is_upstream_address

Timeout = Annotated[Seconds, Bounds('more than 0, or "off" for no limit', lambda s: s > 0)]
Margin = Annotated[Seconds, Bounds('a duration other than "off"', isfinite)]
Count = Annotated[int, Bounds("0 or more", lambda n: n >= 0)]
AtLeastOne = Annotated[int, Bounds("1 or more", lambda n: n >= 1)]
Share = Annotated[float, Bounds("between 0 and 1", lambda x: 0 <= x <= 1)]
Size = Annotated[Bytes, Bounds("more than 0", lambda n: n > 0)]
Listen = Annotated[str, Bounds('host:port such as "127.0.0.1:8080"', is_address)]
UpstreamAddress = Annotated[str, Bounds('host:port such as "127.0.0.1:9000"', is_upstream_address)]
Order = Literal["newest", "oldest"]
PolicyName = Literal["never", "reused_idempotent", "when_proven", "any_idempotent", "always"]


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """How long the proxy waits for each thing. All are durations; "off" waits for ever; 0 is refused."""

    connect: Timeout = Seconds(5)
    """For a TCP connection to an upstream. Default 5s. Passed: 504 connect_timeout."""

    response_header: Timeout = Seconds(60)
    """From the end of the request to the end of the response's head. Default 60s. Passed: 504 response_timeout."""

    body_gap: Timeout = Seconds(60)
    """Between two reads, or two writes, of a body that is under way, on either side. Default 60s. Passed: the
    connection is closed; a client that stalls in its request gets 408 first."""

    upstream_idle: Timeout = Seconds(4)
    """How long an idle upstream connection is kept for reuse. Default 4s, because the commonest idle timeout of servers
    is 5 s and the side that sends requests must give up first. Set it to the upstream's own idle timeout minus a margin
    for the round trip and for delays on both hosts. "off": kept until the upstream closes it, so that every close may
    cross a request."""

    downstream_idle: Timeout = Seconds(75)
    """How long an idle client connection is kept. Default 75s. Whoever sends requests to this proxy must give up first:
    keep it longer than the idle timeout of the load balancer in front."""

    downstream_header: Timeout = Seconds(10)
    """From the first byte of a request to the end of its head. Default 10s. Passed: 408."""


class PoolLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The connections to each upstream: how many, how long they are kept, and which is reused."""

    max_connections: AtLeastOne = 1024
    """Connections to one upstream at a time, busy, idle or connecting. Default 1024; at least 1."""

    max_wait: Seconds = Seconds(5)
    """How long a request waits for a connection when max_connections is reached, before 503. Default 5s. 0s: does not
    wait. "off": waits as long as the client does."""

    max_waiting: Count = 1024
    """Requests that may wait for a connection to one upstream; more get 503 at once. Default 1024. 0: none waits."""

    max_idle: Count = 1024
    """Idle connections that are kept for one upstream. Default 1024. 0: none, so that no connection is ever reused."""

    max_requests: Count = 0
    """Requests after which a connection is closed by the proxy. Default 0: no limit."""

    max_age: Timeout = Seconds("inf")
    """Age since connecting at which a connection is no longer reused. Default off: no limit. A request under way is
    finished first; an idle connection past its age is closed when its turn comes or when its idle time is over."""

    order: Order = "newest"
    """Which idle connection is reused first. Default newest, so that surplus ones age and close. "oldest" reuses the
    connections nearest to their expiry: more of them stay open, and the race is met more often."""

    look_before_reuse: bool = False
    """Look at the socket for a FIN that has arrived unnoticed, before each reuse. Default false. It removes the proxy's
    own delay in noticing from the race, not the round trip. Unread bytes are looked for in any case: they must never be
    taken for an answer (RFC 9112 section 9.2)."""

    honour_hint: bool = True
    """Let an upstream's `Keep-Alive: timeout=N` shorten timeouts.upstream_idle for its connection. Default true."""

    hint_margin: Margin = Seconds(1)
    """How much earlier than the hint the proxy gives up. Default 1s, because hints are whole seconds, rounded who knows
    how. 0s: at the hint itself. A connection whose hint is not longer than the margin is not reused."""


class RetryConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Which failed requests are sent again. What each policy costs is measured in the lab."""

    policy: PolicyName = "reused_idempotent"
    """Which failed requests are sent again; default reused_idempotent. never: none. reused_idempotent: after a
    connect that failed at once, and on a reused connection that closed before any response byte, if the method is
    idempotent or nothing was sent. when_proven: and any method, if the upstream provably did not process it.
    any_idempotent: idempotent methods after any failure without a response byte. always: every method, after any
    failure without a response byte, although it may be executed twice."""

    max_retries: Count = 1
    """Retries of one request. Default 1. 0: none."""

    max_body: Bytes = Bytes(64 << 10)
    """Largest request body that is kept for a retry, in bytes. Default 64KiB. off or 0: none is kept, and only requests
    without a body are retried."""

    budget: Share = 0.2
    """Share of the requests of the last 10 s that may be retries. Default 0.2; 10 in 10 s are always allowed. 0: only
    those. 1: as many as there are requests."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much the proxy accepts."""

    head_bytes: Size = Bytes(64 << 10)
    """Size of a head, of a request or a response, in bytes. Default 64KiB; more than 0. Above: 431, or 502."""

    line_bytes: Size = Bytes(8 << 10)
    """Size of one line of a head, in bytes. Default 8KiB; more than 0, at most head_bytes. Above: 414 or 431."""

    fields: AtLeastOne = 100
    """Header fields of one message. Default 100; at least 1. Above: 431, or 502."""

    max_downstream_connections: AtLeastOne = 10_000
    """Client connections at a time. Default 10000; at least 1. Above: 503 and closed, right after accepting."""

    body_bytes: Bytes = Bytes(0)
    """Size of a request body, in bytes. Default off (0): no limit. Above: 413."""


class LogConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where the logs go. "off" or "": nowhere, at no cost."""

    access: Sink = Sink("-")
    """One JSON line per exchange. Default "-": standard output. Otherwise a path, which is appended to."""

    events: Sink = Sink("")
    """The event stream (see events.py), to a path. Default off."""


class ProxyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    listen: Listen = "127.0.0.1:8080"
    """Where clients connect, host:port. Default 127.0.0.1:8080. Port 0: any free one, printed at start."""

    upstreams: tuple[UpstreamAddress, ...] = ("127.0.0.1:9000",)
    """Where requests go, host:port each, in turn. Default one, 127.0.0.1:9000."""

    drain_grace: Seconds = Seconds(10)
    """How long a stopping proxy lets exchanges finish. Default 10s. 0s: not at all. "off": as long as they take."""

    timeouts: Timeouts = Timeouts()
    pool: PoolLimits = PoolLimits()
    retry: RetryConfig = RetryConfig()
    limits: Limits = Limits()
    log: LogConfig = LogConfig()
