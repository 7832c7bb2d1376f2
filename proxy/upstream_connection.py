"""A connection to an upstream: the response side of an exchange, and the idle time between two of them.

Rules of this file:

- While a connection is idle, anything that happens on it closes it.
- If response bytes and a close arrive together, the response wins.
- Bytes that cannot be an answer to the request at hand are never taken for one (`upstream_socket.py`).
- On a failure the send queue is read before anything closes the socket: it is the proof (`failure.proof_of`).
- The usual response, which comes in one piece on a reused connection, costs few calls: `send`, `data_received`,
  `_finished`. What is unusual is asked after once, and goes elsewhere.

Facts that it rests on, each with a test in `tests/platform/`: a FIN is `eof_received`, then `connection_lost(None)`; an
RST is `connection_lost(ConnectionResetError)` alone; a write that the kernel refuses closes a uvloop transport at once,
and what had arrived before is then no longer delivered.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any, Final, Protocol

from proxy import events
from proxy.config import Timeouts
from proxy.deadline import Deadline
from proxy.failure import Failure, classify
from proxy.http1.framing import BadBody
from proxy.http1.grammar import BadHead, HeadLimits
from proxy.http1.response_reader import ResponseReader
from proxy.kernel import round_trip_s
from proxy.pool import CloseReason, ConnectionPool
from proxy.sides import Emit, ResponseSink
from proxy.sockets import QUICKACK
from proxy.upstream_life import ACTIVE, CLOSED, CONNECTING, IDLE, SWITCHED, UpstreamLife
from proxy.upstream_socket import ORDINARY

LATE_ROUND_TRIP: Final = 4  # times the shortest: what a busy path or host makes of a round trip


class Owner(Protocol):
    """What a connection needs of the upstream it leads to."""

    host: str
    port: int
    loop: asyncio.AbstractEventLoop
    timeouts: Timeouts
    response_header_s: float  # of the timeouts
    head_limits: HeadLimits
    trailers: bool  # are passed on
    pool: ConnectionPool[UpstreamConnection]
    emit: Emit | None
    tls: ssl.SSLContext | None
    prepare: Callable[[socket.socket], None] | None  # called with the socket of each connection that has been made

    def connected(self, round_trip_s: float) -> float:
        """A connection has come to be, and took so long to get there and back; returns the shortest so far."""

    def opened(self, connection: UpstreamConnection) -> None:
        """It has connected, and is idle until it is used now."""

    def connect_timed_out(self, connection: UpstreamConnection) -> None:
        """It has not connected in time."""

    def parked(self) -> None:
        """One of them has become idle again, and is in the pool."""

    def closed(self, connection: UpstreamConnection) -> None:
        """It is gone."""


class UpstreamConnection(UpstreamLife):
    """One TCP connection, used by one exchange at a time."""

    __slots__ = (
        "_complete",
        "_owner",
        "_paused",
        "_reader",
        "_sink",
        "_soonest",
        "deadline",
        "received",
        "sent_at",
    )

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner.emit, tls=owner.tls is not None)
        self._owner = owner
        self._paused = False  # reading, because the client is slow
        self._soonest = 0.0  # after a request, in seconds, no answer to anything else arrives: see `unsolicited`
        self.deadline = Deadline(owner.loop, self._expired)
        # Of the exchange at hand.
        self._sink: ResponseSink | None = None
        self._reader = ResponseReader(owner.head_limits, trailers=owner.trailers)
        self._complete = False  # the whole request has been given to the transport
        self.sent_at = 0.0  # its request, or the last of it; monotonic seconds
        self.received = False  # a byte of a response

    def close(self, reason: CloseReason) -> None:
        """Closes it at once, wherever it stands. Idempotent."""
        if self._state == CLOSED:
            return
        self.close_reason = reason
        self._enter(CLOSED)
        self._sink = None
        self.deadline.close()
        if self._transport is not None:
            self._transport.abort()
        self._owner.closed(self)

    # ---- called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._state == CLOSED:  # given up while it connected
            transport.close()
            return
        owner = self._owner
        sock = self.open(transport)
        peer = transport.get_extra_info("peername") or (owner.host, owner.port)  # none: reset already
        self.name = events.connection_name(transport.get_extra_info("sockname"), peer)
        self.deadline.clear()
        if owner.prepare is not None:
            owner.prepare(sock)
        self._enter(IDLE)
        now = monotonic()
        # How long the connect took would be an answer too, but on a busy loop one that is a hundred times too long.
        self._soonest = LATE_ROUND_TRIP * owner.connected(round_trip_s(sock) or now - self.opened_at)
        self.opened_at = self.idle_since = now
        owner.opened(self)

    def data_received(self, data: bytes) -> None:
        sink = self._sink
        if sink is None:
            self.close(CloseReason.UNSOLICITED_DATA)
            return
        now = monotonic()
        if not self.received:
            if self.requests > 1 and (now <= self.sent_at + self._soonest or not data.startswith(ORDINARY)):
                failure = self.unsolicited(data)
                if failure is not None:
                    self._fail(failure, CloseReason.UNSOLICITED_DATA)
                    return
            self.received = True
            if self._emit is not None:
                sink.first_byte()
        try:
            done = self._reader.feed(data, sink)
        except (BadHead, BadBody) as bad:
            begun = self._reader.head is not None and isinstance(bad, BadBody)
            self._fail(Failure.TRUNCATED_RESPONSE if begun else Failure.INVALID_RESPONSE, CloseReason.FAILED)
            return
        if done:
            self._finished(sink, now)
        elif self._reader.head is not None and not self._paused and self._state == ACTIVE:
            self.deadline.until(now + self._owner.timeouts.body_gap)

    def eof_received(self) -> None:
        sink = self._sink
        if sink is None:
            self.close(CloseReason.PEER_FIN)
        elif self._reader.until_close:
            sink.body(b"", True)
            self._finished(sink, monotonic())
        else:
            self._fail(classify(None, response_started=self.received), CloseReason.PEER_FIN)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._refused_bytes:
            self._read_what_is_left()
        reason = CloseReason.PEER_FIN if exc is None else CloseReason.PEER_RESET
        if self._state == ACTIVE:
            self._fail(classify(exc, response_started=self.received), reason)
        else:
            self.close(reason)

    def pause_writing(self) -> None:
        if self._sink is not None:
            self.deadline.set(self._owner.timeouts.body_gap)
            self._sink.pause_request()

    def resume_writing(self) -> None:
        if self._sink is not None:
            self._await_response(monotonic())
            self._sink.resume_request()

    def _await_response(self, now: float) -> None:
        """What bounds the wait now: a gap in the response, the response's head, or nothing while the client sends."""
        timeouts = self._owner.timeouts
        if self._paused:
            pass  # the client's deadline bounds it
        elif self._reader.head is not None:
            self.deadline.until(now + timeouts.body_gap)
        elif self._complete:
            self.deadline.until(now + timeouts.response_header)
        else:
            self.deadline.clear()

    def _expired(self) -> None:
        if self._state == CONNECTING:
            self._owner.connect_timed_out(self)
        elif self._state == ACTIVE:
            started = self._reader.head is not None
            self._fail(Failure.TRUNCATED_RESPONSE if started else Failure.RESPONSE_TIMEOUT, CloseReason.FAILED)

    # ---- called by the exchange

    def send(self, sink: ResponseSink, data: bytes, complete: bool, head_only: bool, now: float) -> None:
        """Takes it for an exchange, and sends the beginning of its request.

        `complete`: that is all of it, and the wait for the response begins; `head_only`: a HEAD request.
        """
        self._enter(ACTIVE)
        self._sink = sink
        self._reader.expect(head_only)
        self.requests += 1
        self.received = False
        self._complete = complete
        self.sent_at = now
        self._sent_bytes = len(data)
        if complete:
            self.deadline.until(now + self._owner.response_header_s)
        else:
            self.deadline.clear()
        if self._emit is not None:
            sink.sending(len(data))
        transport = self._transport
        transport.write(data)
        if transport.is_closing():
            self._refused_bytes = len(data)  # connection_lost follows

    def send_more(self, data: bytes, complete: bool) -> None:
        """Sends more of the request; `complete`: that ends it."""
        self._complete = complete
        now = monotonic()
        if complete:
            self.sent_at = now
        self._await_response(now)
        self._sent_bytes += len(data)
        transport = self._transport
        transport.write(data)
        if transport.is_closing():
            self._refused_bytes += len(data)

    def asked_to_switch(self, protocol: bytes, head_only: bool) -> None:
        self._reader.expect(head_only, protocol)

    def switched(self) -> Any:
        self._enter(SWITCHED)
        self._sink = None
        self.deadline.clear()
        return self._transport

    @property
    def trailers(self) -> bytes:
        return self._reader.trailers

    def pause_reading(self) -> None:
        """The client is slow: what bounds the wait is now its deadline."""
        self._paused = True
        self._transport.pause_reading()
        self.deadline.clear()

    def resume_reading(self) -> None:
        self._paused = False
        self._transport.resume_reading()
        self.deadline.set(self._owner.timeouts.body_gap)

    # ---- the response

    def _finished(self, sink: ResponseSink, now: float) -> None:
        """The response is complete. Parks the connection if it can carry another exchange."""
        if self._sink is not sink:
            return  # the exchange let go of it meanwhile
        self._sink = None  # the deadline is left to pass: while idle it says nothing, and clearing it costs
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        reader, owner = self._reader, self._owner
        head = reader.head
        assert head is not None
        reason: CloseReason | None
        if reader.rest:
            reason = CloseReason.UNSOLICITED_DATA
        elif reader.until_close or not head.keep_alive:
            reason = CloseReason.PEER_CLOSE
        elif not self._complete or self._refused_bytes or self._transport.get_write_buffer_size():
            reason = CloseReason.UNFINISHED_REQUEST
        else:
            self.idle_limit = inf if head.hint_s is None else owner.pool.idle_limit(head.hint_s)
            reason = owner.pool.release(self, now)
        if reason is None:
            self._enter(IDLE)
            owner.parked()
        else:
            self.close(reason)
        sink.completed(now)

    # ---- failure

    def _fail(self, failure: Failure, reason: CloseReason) -> None:
        """The exchange gets no response, or no more of it."""
        sink = self._sink
        assert sink is not None
        evidence = self.evidence()
        self.close(reason)
        sink.failed(failure, evidence)

    def _read_what_is_left(self) -> None:
        """After a write that the kernel refused: a response may be there."""
        for data in self.unread():
            if self._state != ACTIVE:
                return
            if data:
                self.data_received(data)
            else:
                self.eof_received()


class QuickAckConnection(UpstreamConnection):
    """One that acknowledges at once what it reads (`upstream_socket.quickack`); see `sockets.py`."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        self._transport.get_extra_info("socket").setsockopt(*QUICKACK)
        super().data_received(data)
