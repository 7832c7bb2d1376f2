"""The knobs of an exchange: how long, how many, how much, sent again when, passed on how, and where it is logged."""

from __future__ import annotations

import msgspec

from proxy.config.bounds import (
    AtLeastOne,
    Count,
    LogFormat,
    Margin,
    Order,
    PolicyName,
    Protocol,
    Share,
    Size,
    Timeout,
    Trailers,
)
from proxy.config.values import Bytes, Seconds, Sink


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

    tls_handshake: Timeout = Seconds(10)
    """From a TCP connection to the end of its TLS handshake, on either side. Default 10s. Passed: a client's connection
    is closed; an upstream's counts as one that failed, 504 connect_timeout."""

    request_total: Timeout = Seconds("inf")
    """From the first byte of a request to the end of its response, all attempts included. Default off: no limit.
    Passed: 504, or the connection is closed if the response has begun."""


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

    max_connections_per_client: Count = 0
    """Connections of one client address at a time. Default 0: no limit. Above: 503 and closed. Everybody behind one
    load balancer or NAT is one client."""

    min_body_rate: Bytes = Bytes(0)
    """Bytes a second that a request body must reach on average, over each timeouts.body_gap. Default off (0): no
    minimum, any byte within the gap will do. Below: 408."""


class HttpConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the proxy lets through beyond plain requests and responses."""

    trailers: Trailers = "drop"
    """Fields after a chunked body. Default drop, because few read them and some are fooled by them. "forward": passed
    on, but for fields that frame, route, authorise or describe the body."""

    upgrades: tuple[Protocol, ...] = ()
    """Protocols that a client may ask for by Upgrade, such as "websocket". Default none: the field is removed and the
    request goes on without. Names are in lower case; HTTP and TLS are refused."""

    tunnel_idle: Timeout = Seconds(3600)
    """How long an upgraded connection may be silent in both directions. Default 1h. Passed: closed on both sides.
    "off": never."""


class LogConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where the logs go. "off" or "": nowhere, at no cost."""

    access: Sink = Sink("-")
    """One line per exchange. Default "-": standard output. Otherwise a path, which is appended to."""

    events: Sink = Sink("")
    """The event stream (see events.py), to a path. Default off."""

    format: LogFormat = "json"
    """How a line of the access log is written. Default json. "combined": as Apache and nginx write it, for tools that
    read nothing else; it has no causes and no upstream."""
