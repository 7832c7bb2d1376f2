"""A connection to an upstream: the response side of an exchange, and the idle time between two of them.

Rules of this file:

- One setter changes the state. It checks the step and emits the event, so the log is complete by construction.
- While a connection is idle, anything that happens on it closes it.
- If response bytes and a close arrive together, the response wins.
- Bytes that cannot be an answer to the request at hand are never taken for one: `_is_unsolicited`, `look`.
- On a failure the send queue is read before anything closes the socket: it is the proof (`failure.proof_of`).

Facts that it rests on, each with a test in `tests/platform/`: a FIN is `eof_received`, then `connection_lost(None)`; an
RST is `connection_lost(ConnectionResetError)` alone; a write that the kernel refuses closes a uvloop transport at once,
and what had arrived before is then no longer delivered.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from enum import IntEnum, auto
from math import inf
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol

from proxy import events
from proxy.config import Timeouts
from proxy.deadline import Deadline
from proxy.events import Kind
from proxy.failure import Failure, classify
from proxy.framing import BadBody
from proxy.http1 import BadHead, HeadLimits
from proxy.kernel import Stirred, stirred, unacked_bytes, unread_bytes
from proxy.pool import CloseReason
from proxy.response_reader import ResponseHandler, ResponseReader

HIGH_WATER: Final = 256 * 1024  # bytes waiting to be written before the other side is paused

Emit = Callable[..., None]  # EventLog.emit


# The first digits of the statuses that no server says farewell with. One that sends them unasked is out of step.
_ORDINARY: Final = frozenset({b"1", b"2", b"3"})


class State(IntEnum):
    CONNECTING = auto()
    IDLE = auto()
    ACTIVE = auto()
    CLOSED = auto()


# As globals they cost a tenth of what looking them up in the enum does, twenty times a request.
CONNECTING, IDLE, ACTIVE, CLOSED = State


# The steps there are, and what each one emits.
_STEPS: Final[dict[tuple[State, State], Kind | None]] = {
    (CONNECTING, IDLE): events.UPSTREAM_OPENED,
    (CONNECTING, CLOSED): None,  # it never was; the attempt says why
    (IDLE, ACTIVE): events.UPSTREAM_ACQUIRED,
    (ACTIVE, IDLE): events.UPSTREAM_IDLE,
    (IDLE, CLOSED): events.UPSTREAM_CLOSED,
    (ACTIVE, CLOSED): events.UPSTREAM_CLOSED,
}


class Evidence(NamedTuple):
    """How far a request had come when its connection failed."""

    sent_bytes: int  # given to the transport
    written_bytes: int  # of these, what the kernel took
    unacked_bytes: int | None  # of the sent ones, what the upstream has not acknowledged; None: cannot be known


class ResponseSink(ResponseHandler, Protocol):
    """What an exchange hears from the upstream side; and of the response itself, what a `ResponseHandler` hears."""

    def connected(self, connection: UpstreamConnection) -> None:
        """A connection has come for it; it sends on it now."""

    def not_connected(self, failure: Failure) -> None:
        """None came, or none will."""

    def first_byte(self) -> None:
        """Something has arrived."""

    def completed(self) -> None:
        """The response has been passed on, the connection is parked or closed."""

    def failed(self, failure: Failure, evidence: Evidence) -> None:
        """There will be no response, or no more of it. The connection is closed."""

    def pause_request(self) -> None:
        """The upstream reads slower than the client sends."""

    def resume_request(self) -> None:
        """It has caught up."""


class Owner(Protocol):
    """What a connection needs of the upstream it leads to."""

    host: str
    port: int
    loop: asyncio.AbstractEventLoop
    timeouts: Timeouts
    head_limits: HeadLimits
    emit: Emit | None

    def idle_limit(self, hint_s: int | None) -> float:
        """How long a connection may be idle after a response with this hint."""

    def opened(self, connection: UpstreamConnection) -> None:
        """It has connected, and is idle until it is used now."""

    def connect_timed_out(self, connection: UpstreamConnection) -> None:
        """It has not connected in time."""

    def park(self, connection: UpstreamConnection) -> CloseReason | None:
        """Takes it back, or says why not."""

    def closed(self, connection: UpstreamConnection) -> None:
        """It is gone."""


class UpstreamConnection(asyncio.Protocol):
    """One TCP connection, used by one exchange at a time."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._emit = owner.emit
        self._state = CONNECTING
        self._transport: Any = None
        self._fd = -1
        self._stirred: Stirred = lambda _timeout: ()
        self._paused = False  # reading, because the client is slow
        self.deadline = Deadline(owner.loop, self._expired)
        self.name = ""
        # For the pool.
        self.opened_at = monotonic()
        self.idle_since = self.opened_at
        self.idle_limit = inf
        self.requests = 0
        # Of the exchange at hand.
        self._sink: ResponseSink | None = None
        self._reader = ResponseReader(owner.head_limits)
        self._complete = False  # the whole request has been given to the transport
        self.received = False  # a byte of a response
        self._sent_bytes = 0  # given to the transport
        self._refused_bytes = 0  # of these, what the kernel refused

    def __repr__(self) -> str:
        return f"<UpstreamConnection {self._state.name} {self.name or '-'}, {self.requests} requests>"

    # ---- state

    @property
    def state(self) -> State:
        return self._state

    def _enter(self, state: State, *detail: object) -> None:
        step = (self._state, state)
        if step not in _STEPS:
            raise RuntimeError(f"{self!r} cannot become {state.name}")
        self._state = state
        kind = _STEPS[step]
        if self._emit is not None and kind is not None:
            self._emit(kind, self.name, 0, *detail)

    @property
    def reused(self) -> bool:
        """Whether it had carried an exchange before the one at hand."""
        return self.requests > 1

    def close(self, reason: CloseReason) -> None:
        """Closes it at once, wherever it stands. Idempotent."""
        if self._state is CLOSED:
            return
        idle_ms = self.idle_ms() if self._state is IDLE else 0.0
        self._enter(CLOSED, reason, idle_ms, self.requests)
        self._sink = None
        self.deadline.close()
        if self._transport is not None:
            self._transport.abort()
        self._owner.closed(self)

    def idle_ms(self) -> float:
        return round((monotonic() - self.idle_since) * 1e3, 3)

    # ---- called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._state is CLOSED:  # given up while it connected
            transport.close()
            return
        self._transport = transport
        transport.set_write_buffer_limits(HIGH_WATER)  # type: ignore[attr-defined]
        self._fd = transport.get_extra_info("socket").fileno()
        self._stirred = stirred(self._fd)
        peer = transport.get_extra_info("peername") or (self._owner.host, self._owner.port)  # none: reset already
        self.name = events.connection_name(transport.get_extra_info("sockname"), peer)
        self.deadline.clear()
        now = monotonic()
        self._enter(IDLE, round((now - self.opened_at) * 1e3, 3))
        self.opened_at = self.idle_since = now
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        if self._sink is None:
            self.close(CloseReason.UNSOLICITED_DATA)
            return
        if not self.received:
            if self.requests > 1 and self._is_unsolicited():
                farewell = data[9:10] not in _ORDINARY
                failure = Failure.CLOSED_BEFORE_RESPONSE if farewell else Failure.INVALID_RESPONSE
                self._fail(failure, CloseReason.UNSOLICITED_DATA)
                return
            self.received = True
            if self._emit is not None:
                self._sink.first_byte()
        self._take(data, self._sink)

    def eof_received(self) -> None:
        sink = self._sink
        if sink is None:
            self.close(CloseReason.PEER_FIN)
        elif self._reader.until_close:
            sink.body(b"", True)
            self._finished(sink)
        else:
            self._fail(classify(None, response_started=self.received), CloseReason.PEER_FIN)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._refused_bytes:
            self._read_what_is_left()
        reason = CloseReason.PEER_FIN if exc is None else CloseReason.PEER_RESET
        if self._state is ACTIVE:
            self._fail(classify(exc, response_started=self.received), reason)
        else:
            self.close(reason)

    def pause_writing(self) -> None:
        if self._sink is not None:
            self.deadline.set(self._owner.timeouts.body_gap)
            self._sink.pause_request()

    def resume_writing(self) -> None:
        if self._sink is not None:
            self._await_response()
            self._sink.resume_request()

    def _await_response(self) -> None:
        """What bounds the wait now: a gap in the response, the response's head, or nothing while the client sends."""
        timeouts = self._owner.timeouts
        if self._paused:
            pass  # the client's deadline bounds it
        elif self._reader.head is not None:
            self.deadline.set(timeouts.body_gap)
        elif self._complete:
            self.deadline.set(timeouts.response_header)
        else:
            self.deadline.clear()

    def _expired(self) -> None:
        if self._state is CONNECTING:
            self._owner.connect_timed_out(self)
        elif self._state is ACTIVE:
            started = self._reader.head is not None
            self._fail(Failure.TRUNCATED_RESPONSE if started else Failure.RESPONSE_TIMEOUT, CloseReason.FAILED)

    # ---- called by the exchange

    def begin(self, sink: ResponseSink, *, head_only: bool) -> None:
        """Takes it for an exchange, which writes now; `head_only`: a HEAD request."""
        reused = self.requests > 0
        self._enter(ACTIVE, reused, self.idle_ms() if reused and self._emit is not None else 0.0, self.requests)
        self._sink = sink
        self._reader.expect(head_only=head_only)
        self.received = self._complete = False
        self.requests += 1
        self._sent_bytes = self._refused_bytes = 0

    def write(self, data: bytes, complete: bool) -> None:
        """Sends on; `complete`: that ends the request, and the wait for the response begins."""
        self._complete = complete
        self._await_response()
        self._sent_bytes += len(data)
        transport = self._transport
        transport.write(data)
        if transport.is_closing():
            self._refused_bytes += len(data)  # connection_lost follows

    def pause_reading(self) -> None:
        """The client is slow: what bounds the wait is now its deadline."""
        self._paused = True
        self._transport.pause_reading()
        self.deadline.clear()

    def resume_reading(self) -> None:
        self._paused = False
        self._transport.resume_reading()
        self.deadline.set(self._owner.timeouts.body_gap)

    # ---- called by the owner

    def become_idle(self) -> None:
        self._enter(IDLE, self.requests)

    def look(self) -> CloseReason | None:
        """What has happened to this idle connection though no callback has told so yet; None: nothing.

        Unread bytes cannot answer a request that has not been sent.
        """
        if not self._stirred(0):
            return None
        return CloseReason.UNSOLICITED_DATA if unread_bytes(self._fd) else CloseReason.PEER_FIN

    # ---- the response

    def _take(self, data: bytes, sink: ResponseSink) -> None:
        try:
            done = self._reader.feed(data, sink)
        except BadHead:
            self._fail(Failure.INVALID_RESPONSE, CloseReason.FAILED)
        except BadBody:
            begun = self._reader.head is not None
            self._fail(Failure.TRUNCATED_RESPONSE if begun else Failure.INVALID_RESPONSE, CloseReason.FAILED)
        else:
            if done:
                self._finished(sink)
            elif self._reader.head is not None and not self._paused:
                self.deadline.set(self._owner.timeouts.body_gap)

    def _finished(self, sink: ResponseSink) -> None:
        """The response is complete. Parks the connection if it can carry another exchange."""
        if self._sink is not sink:
            return  # the exchange let go of it meanwhile
        reason = self._why_not_again()
        self._sink = None  # the deadline is left to pass: while idle it says nothing, and clearing it costs
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        reason = reason or self._owner.park(self)
        if reason is not None:
            self.close(reason)
        sink.completed()

    def _why_not_again(self) -> CloseReason | None:
        head = self._reader.head
        assert head is not None
        if self._reader.rest:
            return CloseReason.UNSOLICITED_DATA
        if not head.keep_alive or self._reader.until_close:
            return CloseReason.PEER_CLOSE
        if not self._complete or self._refused_bytes or self._transport.get_write_buffer_size():
            return CloseReason.UNFINISHED_REQUEST
        self.idle_limit = inf if head.hint_s is None else self._owner.idle_limit(head.hint_s)
        return None

    # ---- failure

    def _fail(self, failure: Failure, reason: CloseReason) -> None:
        """The exchange gets no response, or no more of it."""
        sink = self._sink
        assert sink is not None
        evidence = self._evidence()
        self.close(reason)
        sink.failed(failure, evidence)

    def _evidence(self) -> Evidence:
        waiting = self._transport.get_write_buffer_size()
        unacked = unacked_bytes(self._fd)
        unwritten = waiting + self._refused_bytes
        return Evidence(
            sent_bytes=self._sent_bytes,
            written_bytes=self._sent_bytes - unwritten,
            unacked_bytes=None if unacked is None else unacked + unwritten,
        )

    def _is_unsolicited(self) -> bool:
        """Whether what arrives now was sent before any of the request had arrived, and so answers something else.

        A segment acknowledges what its sender had received (RFC 9293 §3.4). If nothing of this request is acknowledged,
        the bytes left before it came: a 408 on an idle connection, say, or the second of two answers to the request
        before, that crossed it. The other way round proves nothing, which is why `look` comes first.
        """
        unacked = unacked_bytes(self._fd)
        if unacked is None:
            return False
        unwritten: int = self._transport.get_write_buffer_size() + self._refused_bytes
        return unacked + unwritten >= self._sent_bytes

    def _read_what_is_left(self) -> None:
        """After a write that the kernel refused: the transport has stopped reading, though a response may be there."""
        while self._state is ACTIVE:
            try:
                data = os.read(self._fd, HIGH_WATER)
            except OSError:
                return
            if data:
                self.data_received(data)
            else:
                self.eof_received()
