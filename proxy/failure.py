"""What went wrong with an attempt, what that proves, and which status the client gets.

The facts, the same under asyncio and uvloop (`connection_lost(exc)` is all a protocol hears):

- `exc` is None: the peer sent FIN. Without a response byte that is `closed_before_response`, the race in its plain
  form.
- `exc` is ECONNRESET or EPIPE: the peer sent RST. Without a response byte that is `reset_before_response`: the race a
  moment later, a crash, or a close with unread data. The three look alike from here.
- After a response byte, either is `truncated_response`: the client may hold a part of it, and it is not the race.

Statuses follow RFC 9110: 502 the upstream's answer was missing or wrong (§15.6.3), 503 this proxy cannot serve now
(§15.6.4), 504 the upstream was too slow (§15.6.5).
"""

from __future__ import annotations

import errno
from enum import StrEnum
from typing import Final


class Failure(StrEnum):
    """The cause of a request that got no answer from its upstream. The value is what logs and error pages say."""

    # Of one attempt: on the way to the upstream, or in place of its response.
    CONNECT_REFUSED = "connect_refused"
    CONNECT_TIMEOUT = "connect_timeout"
    CONNECT_FAILED = "connect_failed"  # no route, no such name
    CLOSED_BEFORE_RESPONSE = "closed_before_response"
    RESET_BEFORE_RESPONSE = "reset_before_response"
    RESPONSE_TIMEOUT = "response_timeout"
    TRUNCATED_RESPONSE = "truncated_response"
    INVALID_RESPONSE = "invalid_response"
    # Of the exchange: the proxy or the client ended it, no upstream is to blame.
    POOL_EXHAUSTED = "pool_exhausted"
    RESOURCES_EXHAUSTED = "resources_exhausted"  # no port, descriptor or memory is left to connect with
    NO_ROUTE = "no_route"  # no group for this host and path
    NO_UPSTREAM = "no_upstream"  # a group without an endpoint
    TOO_MANY_CONNECTIONS = "too_many_connections"
    DRAINING = "draining"
    BAD_REQUEST = "bad_request"
    REQUEST_TIMEOUT = "request_timeout"
    CLIENT_CLOSED = "client_closed"
    CLIENT_STALLED = "client_stalled"  # it reads nothing of its response
    TOTAL_TIMEOUT = "total_timeout"  # of the whole request, `timeouts.request_total`
    TUNNEL_IDLE = "tunnel_idle"  # an upgraded connection was silent
    INTERNAL_ERROR = "internal_error"


class Proof(StrEnum):
    """Whether a failed request is known not to have been processed."""

    UNPROCESSED = "unprocessed"
    UNKNOWN = "unknown"


# What socket(2) and connect(2) report when this side has nothing left to connect with.
_LACKS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_STATUS = {
    Failure.CONNECT_REFUSED: 502,
    Failure.CONNECT_TIMEOUT: 504,
    Failure.CONNECT_FAILED: 502,
    Failure.CLOSED_BEFORE_RESPONSE: 502,
    Failure.RESET_BEFORE_RESPONSE: 502,
    Failure.RESPONSE_TIMEOUT: 504,
    Failure.TRUNCATED_RESPONSE: 502,
    Failure.INVALID_RESPONSE: 502,
    Failure.POOL_EXHAUSTED: 503,
    Failure.RESOURCES_EXHAUSTED: 503,
    Failure.NO_ROUTE: 404,
    Failure.NO_UPSTREAM: 503,
    Failure.TOO_MANY_CONNECTIONS: 503,
    Failure.DRAINING: 503,
    Failure.BAD_REQUEST: 400,
    Failure.REQUEST_TIMEOUT: 408,
    Failure.CLIENT_CLOSED: 499,  # never sent, there is nobody to read it: nginx's number, for the log
    Failure.CLIENT_STALLED: 499,  # likewise
    Failure.TOTAL_TIMEOUT: 504,
    Failure.TUNNEL_IDLE: 101,
    Failure.INTERNAL_ERROR: 500,
}


def status_of(failure: Failure) -> int:
    """The status that a client gets for this failure, if its response has not begun."""
    return _STATUS[failure]


_PHRASES = {
    Failure.CONNECT_REFUSED: "the upstream refused the connection",
    Failure.CONNECT_TIMEOUT: "the upstream did not accept a connection in time",
    Failure.CONNECT_FAILED: "no connection to the upstream",
    Failure.CLOSED_BEFORE_RESPONSE: "the upstream closed the connection before it answered",
    Failure.RESET_BEFORE_RESPONSE: "the upstream reset the connection before it answered",
    Failure.RESPONSE_TIMEOUT: "the upstream did not answer in time",
    Failure.TRUNCATED_RESPONSE: "the upstream's response broke off",
    Failure.INVALID_RESPONSE: "the upstream's response was invalid",
    Failure.POOL_EXHAUSTED: "all connections to the upstream are in use",
    Failure.RESOURCES_EXHAUSTED: "the proxy can open no more connections at the moment",
    Failure.NO_UPSTREAM: "there is no upstream at the moment",
}


def phrase_of(failure: Failure) -> str:
    """What a client is told about a failed attempt, or about none, in words that repeat nothing of either side."""
    return _PHRASES[failure]


def classify(exc: BaseException | None, *, response_started: bool) -> Failure:
    """The failure behind what `connection_lost` or a write reported."""
    if response_started:
        return Failure.TRUNCATED_RESPONSE
    if exc is None:
        return Failure.CLOSED_BEFORE_RESPONSE
    if isinstance(exc, ConnectionRefusedError):  # only a connect can be refused
        return Failure.CONNECT_REFUSED
    if isinstance(exc, TimeoutError):  # the kernel gave up retransmitting; the request may have arrived
        return Failure.RESPONSE_TIMEOUT
    return Failure.RESET_BEFORE_RESPONSE


def classify_connect(exc: BaseException, *, reached: bool) -> Failure:
    """The failure behind what a connect reported; `reached`: one to this address has succeeded before."""
    if isinstance(exc, ConnectionRefusedError):
        return Failure.CONNECT_REFUSED
    if isinstance(exc, TimeoutError):
        return Failure.CONNECT_TIMEOUT
    return Failure.RESOURCES_EXHAUSTED if is_ours(exc, reached=reached) else Failure.CONNECT_FAILED


def is_ours(exc: BaseException, *, reached: bool) -> bool:
    """Whether a connect failed for want of something on this side: it says nothing about who was to be reached.

    EADDRNOTAVAIL says one of two things: all ports of net.ipv4.ip_local_port_range are taken towards that address, or
    this machine has no address to reach it from, as for IPv6 where that is off. Who has been `reached` can be.
    """
    return isinstance(exc, OSError) and (exc.errno in _LACKS or (reached and exc.errno == errno.EADDRNOTAVAIL))


def proof_of(failure: Failure, *, request_bytes: int, unacked_bytes: int | None, written_bytes: int) -> Proof:
    """Whether the request is proven not to have been processed.

    `request_bytes`: length of the whole request as sent on this connection, head and body.
    `unacked_bytes`: the socket's send queue when the EOF was seen (Linux SIOCOUTQ: written and not yet acknowledged),
    None when it could not be read.
    `written_bytes`: how much of the request was handed to the transport.

    Two situations prove it. Nothing was written. Or the upstream's FIN came while all of the request was still
    unacknowledged: a FIN carries the number of the next byte its sender expects (RFC 9293 §3.10.7.4 acknowledges all
    that was received in order), so a FIN that does not acknowledge the request left before the request arrived, and a
    closed socket answers what comes later with RST instead of reading it.

    A reset proves nothing: its acknowledgement is not taken over, so the queue looks full even when the
    upstream has read and processed every byte.

    Limits. Behind a middlebox that acknowledges for the upstream the queue is empty, and the answer is "unknown": safe,
    and blind. Against an upstream that half-closes (`shutdown(SHUT_WR)`) and still executes what it reads afterwards,
    "unprocessed" is wrong. Measured: all idle closes of unmodified servers were recognised, and of the adversarial
    cases (crash after reading, abortive close, partial read) none was taken for one.
    """
    if written_bytes == 0:
        return Proof.UNPROCESSED
    if failure is not Failure.CLOSED_BEFORE_RESPONSE or unacked_bytes is None:
        return Proof.UNKNOWN
    return Proof.UNPROCESSED if unacked_bytes >= request_bytes > 0 else Proof.UNKNOWN
