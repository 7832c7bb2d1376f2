"""A connection from a client: the request side of an exchange, and the time between two of them.

Rules of this file:

- One request at a time. What comes behind it waits unread: pipelined requests are answered in order, and cost nothing.
- A request that is refused is answered once, and the connection is closed: where the next would begin is not certain.
- Closing with unread input would make the kernel send RST, which can destroy the answer on its way. So the input is
  read and thrown away for a moment first (state LINGERING; RFC 9112 §9.6).
- Nothing is written once the connection is closed: on uvloop that raises.
- A client that sends FIN in the middle of an exchange has left, as with nginx and Go.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from enum import IntEnum
from time import monotonic
from typing import Any, Final, Protocol

from proxy import events
from proxy.deadline import Deadline
from proxy.exchange import Exchange
from proxy.failure import Failure
from proxy.gateway import Gateway
from proxy.http1.framing import BadBody, BodyReader, ChunkedBody, LengthBody, Payload
from proxy.http1.grammar import BadHead, HeadLimits
from proxy.http1.pages import CONTINUE, error_page
from proxy.http1.request_head import RequestFields
from proxy.http1.request_reader import RequestReader
from proxy.kernel import unacked_bytes

HIGH_WATER: Final = 256 * 1024  # bytes waiting to be written before the upstream is paused

LINGER_S: Final = 2.0  # how long input is thrown away before the connection is closed
FIRST_REQUEST_S: Final = 1.0  # how long a draining proxy waits for the first request of a client that has just come
LINGER_BYTES: Final = 4 * 1024 * 1024  # and how much of it


LINGER_0: Final = struct.pack("ii", 1, 0)  # for SO_LINGER: the close sends RST


class State(IntEnum):
    IDLE = 0  # no byte of a request has come
    HEAD = 1  # part of a head has
    EXCHANGE = 2
    LINGERING = 3  # answered for the last time; input is thrown away
    CLOSED = 4


IDLE, HEAD, EXCHANGE, LINGERING, CLOSED = map(int, State)  # plain numbers are cheaper than members

# The steps there are: from each state, to IDLE, HEAD, EXCHANGE, LINGERING, CLOSED.
_STEPS: Final = (
    (False, True, True, True, True),
    (False, False, True, True, True),
    (True, False, False, True, True),
    (False, False, False, False, True),
    (False, False, False, False, False),
)


def _nowhere(_data: bytes) -> None:
    """Where a connection writes that has been closed."""


class Listener(Protocol):
    """What a connection tells the server."""

    def opened(self, connection: DownstreamConnection) -> bool:
        """A client has connected. False: one too many."""

    def closed(self, connection: DownstreamConnection) -> None:
        """It is gone."""


class DownstreamConnection(asyncio.Protocol):
    """One TCP connection from a client."""

    def __init__(self, gateway: Gateway, listener: Listener, loop: asyncio.AbstractEventLoop) -> None:
        self._gateway = gateway
        self._loop = loop
        self._listener = listener
        self._timeouts = gateway.config.timeouts
        self._idle_s = float(self._timeouts.downstream_idle)  # see ConnectionPool.configure
        self._body_limit = gateway.config.limits.body_bytes
        self._state = IDLE
        self._transport: Any = None
        self._tls = False
        self._reader: RequestReader
        self.write: Callable[[bytes], None] = _nowhere  # the transport's own while it may be written to
        self.deadline = Deadline(loop, self._expired)
        self.name = ""
        self.ip = ""
        self.requests = 0
        self._close_reason = ""
        self._writing_paused = False
        self._reading = True
        self._held = False  # reading, by the exchange
        # Of the request at hand.
        self._exchange: Exchange | None = None
        self._body: BodyReader | None = None  # until the body is complete
        self._body_bytes = 0
        self._behind = b""  # what came behind the request: the next one, pipelined
        self._lingers_until = 0.0  # at most, while an answer is on its way; in the loop's time
        self._thrown_away = 0

    def __repr__(self) -> str:
        return f"<DownstreamConnection {self.state.name} {self.name or '-'}, {self.requests} requests>"

    # ---- state

    @property
    def state(self) -> State:
        return State(self._state)

    def _enter(self, state: int) -> None:
        if not _STEPS[self._state][state]:
            raise RuntimeError(f"{self!r} cannot become {State(state).name}")
        self._state = state
        if state >= LINGERING:
            self.write = _nowhere
            if state == CLOSED and self._gateway.emit is not None:
                self._gateway.emit(events.DOWNSTREAM_CLOSED, self.name, 0, self._close_reason, self.requests)

    def close(self, reason: str, cause: Failure = Failure.CLIENT_CLOSED) -> None:
        """Closes it, after what has been written is out. Idempotent. `cause`: of an exchange that it cuts off."""
        if self._state == CLOSED:
            return
        self._close_reason = reason
        self._enter(CLOSED)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.cut_off(cause)
        self.deadline.set(self._timeouts.body_gap)  # for what is still to be written
        self._transport.close()

    def _linger(self, reason: str) -> None:
        """Closes it when the client has, or in a moment: see the rules."""
        self._close_reason = reason
        self._enter(LINGERING)
        self._body = None
        self._behind = b""
        self._held = False
        self._lingers_until = self._loop.time() + self._timeouts.body_gap
        self.deadline.set(LINGER_S)
        if not self._tls:  # there, its transport cannot say that nothing more comes and still read
            self._transport.write_eof()
        self._read_or_not()

    # ---- called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.write = transport.write  # type: ignore[attr-defined]
        transport.set_write_buffer_limits(HIGH_WATER)  # type: ignore[attr-defined]
        peer = transport.get_extra_info("peername") or ("", 0)
        self.ip = peer[0]
        limits = self._gateway.config.limits
        self._tls = transport.get_extra_info("sslcontext") is not None
        head_limits = HeadLimits(limits.line_bytes, limits.head_bytes, limits.fields)
        self._reader = RequestReader(head_limits, self.ip, proto=b"https" if self._tls else b"http")
        self.name = events.connection_name(peer, transport.get_extra_info("sockname"))
        if self._gateway.emit is not None:
            self._gateway.emit(events.DOWNSTREAM_OPENED, self.name, 0)
        if self._listener.opened(self):
            self.deadline.set(self._timeouts.downstream_idle)
        else:
            self._refuse(503, "too many connections", Failure.TOO_MANY_CONNECTIONS, "connection_limit")

    def data_received(self, data: bytes) -> None:
        if (self._state == IDLE and not self._writing_paused) or self._state == HEAD:
            self._take_head(data)
        elif self._body is not None:
            self._take_body(data, self._body)
        elif self._state == EXCHANGE or self._state == IDLE:  # idle, but its last response is not out yet
            self._behind += data
            self._read_or_not()
        else:
            self._throw_away(data)

    def eof_received(self) -> None:
        self.close("client_closed" if self._state != LINGERING else self._close_reason)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._state == LINGERING:
            self.close(self._close_reason)
        else:
            self.close("client_closed" if exc is None else "client_reset")
        self.deadline.close()
        self._listener.closed(self)

    def pause_writing(self) -> None:
        self._writing_paused = True
        self.deadline.set(self._timeouts.body_gap)
        if self._exchange is not None:
            self._exchange.pause_response()

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._exchange is not None:
            self._await_body()
            self._exchange.resume_response()
        elif self._state == IDLE:
            self._next_request()

    def _expired(self) -> None:
        if self._state == HEAD:
            self._refuse(408, "the head did not come in time", Failure.REQUEST_TIMEOUT, "header_timeout")
        elif self._state == EXCHANGE and not self._writing_paused:
            if self._exchange is not None and self._body is not None:  # otherwise it is the idle time's, left to pass
                self._exchange.refuse(408, Failure.REQUEST_TIMEOUT, "the body did not come in time")
        elif self._state == CLOSED:
            self._transport.abort()  # what was written last cannot be delivered
        elif self._state == LINGERING and self._loop.time() < self._lingers_until and self._undelivered():
            self.deadline.set(LINGER_S)
        elif self._state == IDLE and not self._writing_paused:
            self.close("drained" if self._gateway.draining else "idle_timeout")
        else:
            self._abort("write_timeout" if self._writing_paused else self._close_reason)

    def _abort(self, reason: str, cause: Failure = Failure.CLIENT_CLOSED) -> None:
        """Closes it without waiting for what is still to be written."""
        self.close(reason, cause)
        self._transport.abort()

    def _undelivered(self) -> int:
        """Bytes of answers that the client has not acknowledged."""
        waiting: int = self._transport.get_write_buffer_size()
        return waiting + (unacked_bytes(self._transport.get_extra_info("socket").fileno()) or 0)

    # ---- called by the exchange (ClientSide)

    def write_parts(self, parts: list[Payload]) -> None:
        if self._state < LINGERING:
            self._transport.writelines(parts)

    def pause_reading(self) -> None:
        """The body is not taken for now, so the client is not to blame for a gap."""
        self._held = True
        self._read_or_not()
        self._await_body()

    def resume_reading(self) -> None:
        self._held = False
        self._read_or_not()
        self._await_body()

    def break_off(self) -> None:
        self._exchange = None
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
        if self._tls:
            self._transport.abort()  # no close_notify either: it says that all is there
        self.close("done")

    def exchange_ended(self, keep_alive: bool, now: float) -> None:
        self._exchange = None
        self._held = False
        if keep_alive and self._state == EXCHANGE:
            self._enter(IDLE)
            if self._behind or self._writing_paused or self._gateway.draining:
                self._next_request()
            else:
                self.deadline.until(now + self._idle_s)
        elif self._state != CLOSED:
            if self._body is not None or self._behind:
                self._linger("answered_early")
            else:
                self.close("done")

    # ---- called by the server

    def drain(self) -> None:
        """The proxy stops. A request that has come is the last; so is a first one that may be on its way."""
        if self._state == IDLE and not self._writing_paused and not self._behind:
            if self.requests:
                self.close("drained")
            else:
                self.deadline.set(FIRST_REQUEST_S)

    def abort(self) -> None:
        """The time for draining is over."""
        self._abort("drained", Failure.DRAINING)

    # ---- the head

    def _next_request(self) -> None:
        """Takes up what came behind the last request, or waits for the next. First the client must read its answer."""
        if self._writing_paused:
            return
        if self._behind:
            self._loop.call_soon(self._take_up)  # not at once: a thousand requests would nest a thousand calls
        elif self._gateway.draining:
            self.close("drained")
        else:
            self.deadline.set(self._timeouts.downstream_idle)

    def _take_up(self) -> None:
        if self._state == IDLE and self._behind:
            behind, self._behind = self._behind, b""
            self._take_head(behind)
            self._read_or_not()
            if self._state == IDLE and not self._behind:
                self._next_request()  # it was an empty line

    def _take_head(self, data: bytes) -> None:
        group = self._gateway.only
        try:
            request = self._reader.feed(data)
            if group is None and request is not None:
                group = self._gateway.group_for(request.fields.host, request.target)
        except BadHead as bad:
            self._refuse(bad.status, str(bad), Failure.BAD_REQUEST, "bad_request")
            return
        if request is None:
            if self._state == IDLE and self._reader.begun:
                self._enter(HEAD)
                self.deadline.set(self._timeouts.downstream_header)
            return
        fields = request.fields
        if group is None:
            self._refuse(404, "no route for this host and path", Failure.NO_ROUTE, "no_route")
            return
        if fields.length and 0 < self._body_limit < fields.length:
            self._refuse(413, "the body is too large", Failure.BAD_REQUEST, "bad_request")
            return
        now = monotonic()
        self._enter(EXCHANGE)
        self.requests += 1
        exchange = self._exchange = Exchange(self._gateway, group, self, request, now)
        rest = self._reader.rest
        if fields.length or fields.chunked:
            self._begin_body(fields, rest)
            return
        if rest:
            self._behind = rest
            self._read_or_not()
        exchange.attempt(now)

    # ---- the body

    def _begin_body(self, fields: RequestFields, rest: bytes) -> None:
        """The request at hand has one, and `rest` is its beginning."""
        self._body = body = ChunkedBody() if fields.chunked else LengthBody(fields.length)
        self._body_bytes = 0
        if fields.expects_continue and not rest:
            self.write(CONTINUE)  # a client that waits for it has sent nothing yet
        self._await_body()
        self._take_body(rest, body, first=True)

    def _take_body(self, data: bytes, body: BodyReader, *, first: bool = False) -> None:
        exchange = self._exchange
        assert exchange is not None
        try:
            payload = body.feed(data)
        except BadBody as bad:
            exchange.refuse(400, Failure.BAD_REQUEST, str(bad))
            return
        self._body_bytes += len(payload)
        if 0 < self._body_limit < self._body_bytes:
            exchange.refuse(413, Failure.BAD_REQUEST, "the body is too large")
            return
        if body.done:
            self._body = None
            if body.rest:
                self._behind = body.rest
                self._read_or_not()
        self._await_body()
        if first:
            exchange.attempt_with_body(payload, body.done)
        else:
            exchange.request_body(payload, body.done)

    def _await_body(self) -> None:
        """What bounds the wait for the client now: a gap in its body, or nothing while the upstream works.

        While the client is to read, that is what bounds it, whatever its body does.
        """
        if self._writing_paused:
            return
        if self._body is not None and not self._held:
            self.deadline.set(self._timeouts.body_gap)
        else:
            self.deadline.clear()

    def _read_or_not(self) -> None:
        """Reads unless the next request has begun to arrive, or the exchange cannot take more of this one."""
        wanted = not (self._held or self._behind)
        if wanted is not self._reading and self._state != CLOSED:
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # ---- refusing

    def _refuse(self, status: int, why: str, cause: Failure, reason: str) -> None:
        """Answers what is not a request, once, and closes."""
        self._gateway.report_refused(self.name, self.ip, status, cause.value)
        self.write(error_page(status, cause.value, why, keep_alive=False, http10=False, head_only=False))
        self._linger(reason)

    def _throw_away(self, data: bytes) -> None:
        self._thrown_away += len(data)
        if self._thrown_away > LINGER_BYTES:
            self._abort(self._close_reason)
