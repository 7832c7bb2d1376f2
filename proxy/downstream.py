"""A connection from a client: the request side of an exchange, and the time between two of them.

Rules of this file:

- One request at a time. What comes behind it waits: pipelined requests are answered in order, and cost nothing.
- A request that is refused is answered once, and the connection is closed: where the next would begin is not certain.
- A request that asks for another protocol is followed by nothing until the upstream has agreed. If it has, both
  connections are handed over to a tunnel (`tunnel.py`); if not, what came behind it is the next request.
- A client that sends FIN in the middle of an exchange has left, as with nginx. One that half-closes and waits for its
  answer cannot be told from it, and gets none.
- No knob is copied: what a reload changes holds from the next time that it is asked for.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any, Final, Protocol

from proxy.deadline import Deadline
from proxy.downstream_body import DownstreamBody
from proxy.downstream_socket import CLOSED, EXCHANGE, HEAD, IDLE, LINGERING
from proxy.exchange import Exchange
from proxy.failure import Failure
from proxy.gateway import Gateway
from proxy.http1.framing import Payload
from proxy.http1.grammar import BadHead
from proxy.http1.pages import error_page
from proxy.http1.request_head import Request
from proxy.http1.request_reader import UNSEEN, RequestReader, Seen
from proxy.sockets import QUICKACK

LAST_REQUEST_S: Final = 1.0  # how long a draining proxy waits for a request that may be on its way
LOOK_AGAIN_S: Final = 0.05  # how soon the loop will have read what is there


class Listener(Protocol):
    """What a connection tells the server."""

    def opened(self, connection: DownstreamConnection) -> bool:
        """A client has connected. False: one too many."""

    def closed(self, connection: DownstreamConnection) -> None:
        """It is gone."""


class DownstreamConnection(DownstreamBody):
    """One client, and its requests."""

    _bounded = 0  # which request the limit is for that `_total` keeps: as many had come before it

    def __init__(self, gateway: Gateway, listener: Listener, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(gateway, loop)
        self._listener = listener
        self._reader: RequestReader
        self._total: Deadline | None = None  # of a whole request; made when there is a limit

    def mistaken(self) -> DownstreamConnection:
        """The connection to use instead for a client that speaks plain HTTP where TLS is spoken."""
        return MistakenConnection(self._gateway, self._listener, self._loop)

    # ---- called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._open(transport)
        gateway = self._gateway
        self._reader = RequestReader(
            gateway.head_limits,
            self.ip,
            proto=b"https" if self._tls else b"http",
            trusted=gateway.trusts(self.ip),
            trailers=gateway.trailers,
        )
        if self._listener.opened(self):
            self.deadline.set(gateway.idle_s)
        else:
            self._refuse(503, "too many connections", Failure.TOO_MANY_CONNECTIONS, "connection_limit", UNSEEN)

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
        self.close("client_closed" if self._state != LINGERING else self.close_reason)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._state == LINGERING:
            self.close(self.close_reason)
        else:
            self.close("client_closed" if exc is None else "client_reset")
        self.deadline.close()
        if self._total is not None:
            self._total.close()
        self._listener.closed(self)

    def pause_writing(self) -> None:
        self._writing_paused = True
        self._body_waits()
        self._await_reader()
        if self._exchange is not None:
            self._exchange.pause_response()

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._exchange is not None:
            self._await_body()
            self._exchange.resume_response()
        elif self._state == IDLE:
            self._next_request()

    # ---- time

    def _expired(self) -> None:
        state = self._state
        if state == HEAD:
            seen = self._reader.seen(b"")
            self._refuse(408, "the head did not come in time", Failure.REQUEST_TIMEOUT, "header_timeout", seen)
        elif state == LINGERING:
            self._linger_on()
        elif state == CLOSED:
            self._close_is_late()
        elif self._writing_paused:
            self._stalls()
        elif state == IDLE:
            self._idle_for_long()
        elif self._body is not None:  # otherwise it is the idle time's, left to pass
            self._body_is_late()

    def _idle_for_long(self) -> None:
        if self._unread():  # a request that came at the last moment
            self.deadline.set(LOOK_AGAIN_S)
        else:
            self.close("drained" if self._gateway.draining else "idle_timeout")

    def _bound(self, now: float) -> None:
        """The first byte of a request is here, and there is a limit for the whole of it."""
        if self._total is None:
            self._total = Deadline(self._loop, self._total_passed)
        self._bounded = self.requests
        self._total.until(now + self._gateway.total_s)  # left to pass when the request has ended in time

    def _total_passed(self) -> None:
        if not self._gateway.total_s or self.requests - (self._state == EXCHANGE) != self._bounded:
            return  # there is no limit any more, or it was for one that has ended, and none for this one
        why = "the request took too long altogether"
        if self._exchange is not None:
            self._exchange.refuse(504, Failure.TOTAL_TIMEOUT, why)
        elif self._state == HEAD:
            self._refuse(504, why, Failure.TOTAL_TIMEOUT, "header_timeout", self._reader.seen(b""))

    # ---- called by the exchange (ClientSide)

    def write_parts(self, parts: list[Payload]) -> None:
        if self._state < LINGERING:
            self._transport.writelines(parts)

    def break_off(self) -> None:
        self._exchange = None
        self._reset("done")

    def switched(self) -> tuple[Any, bytes]:
        self.deadline.clear()
        if self._total is not None:
            self._total.clear()
        held, self._behind = self._behind, b""
        self._read_or_not()
        return self._transport, held

    def exchange_ended(self, keep_alive: bool, now: float) -> None:
        self._exchange = None
        self._held = False
        if keep_alive and self._state == EXCHANGE:
            self._enter(IDLE)
            gateway = self._gateway
            if self._behind or self._writing_paused or gateway.draining:
                self._next_request()
            else:
                self.deadline.until(now + gateway.idle_s)
        elif self._state != CLOSED:
            if self._body is not None or self._behind:
                self._linger("answered_early")
            else:
                self.close("done")

    # ---- called by the server

    def drain(self) -> None:
        """The proxy stops. A request that has come is the last; so is one that may be on its way.

        Nothing has told the client so far, and a FIN at once would cross the request that it sends now.
        """
        if self._state == IDLE and not self._writing_paused and not self._behind:
            self.deadline.set(LAST_REQUEST_S)

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
        else:
            self.deadline.set(LAST_REQUEST_S if self._gateway.draining else self._gateway.idle_s)

    def _take_up(self) -> None:
        if self._state == IDLE and self._behind:
            behind, self._behind = self._behind, b""
            self._take_head(behind)
            self._read_or_not()
            if self._state == IDLE and not self._behind:
                self._next_request()  # it was an empty line

    def _take_head(self, data: bytes) -> None:
        gateway = self._gateway
        group = gateway.only
        try:
            request = self._reader.feed(data)
        except BadHead as bad:
            self._refuse(bad.status, str(bad), Failure.BAD_REQUEST, "bad_request", self._reader.seen(data))
            return
        if group is None and request is not None:
            try:
                group = gateway.group_for(request.fields.host, request.target)
            except BadHead as bad:
                self._refuse(bad.status, str(bad), Failure.BAD_REQUEST, "bad_request", request)
                return
        if request is None:
            self._await_head()
            return
        fields = request.fields
        if group is None:
            self._refuse(404, "no route for this host and path", Failure.NO_ROUTE, "no_route", request)
            return
        if fields.length and 0 < gateway.config.limits.body_bytes < fields.length:
            self._refuse(413, "the body is too large", Failure.BAD_REQUEST, "bad_request", request)
            return
        now = monotonic()
        if gateway.total_s and self._state == IDLE:
            self._bound(now)
        self._enter(EXCHANGE)
        self.requests += 1
        exchange = self._exchange = Exchange(gateway, group, self, request, now)
        rest = self._reader.rest
        if fields.length or fields.chunked:
            self._begin_body(fields, rest)
            return
        if rest:
            self._behind = rest
            self._read_or_not()
        exchange.attempt(now)

    def _await_head(self) -> None:
        """Some of it, or nothing but an empty line, has come."""
        if self._state == IDLE and self._reader.begun:
            self._enter(HEAD)
            self.deadline.set(self._gateway.config.timeouts.downstream_header)
            if self._gateway.total_s:
                self._bound(self._loop.time())

    # ---- refusing

    def _refuse(self, status: int, why: str, cause: Failure, reason: str, request: Request | Seen) -> None:
        """Answers what is not a request, or none that is served, once, and closes. `request`: what can be told of it.

        `reason` is why the connection closes.
        """
        self._gateway.refused(self, status, cause.value, why, request)
        self.write(error_page(status, cause.value, why, keep_alive=False, http10=False, head_only=False))
        self._linger(reason)


class MistakenConnection(DownstreamConnection):
    """One that speaks plain HTTP where TLS is spoken. It is told so, and nothing that it says is passed on."""

    def data_received(self, data: bytes) -> None:
        if self._state < LINGERING:
            why = "plain HTTP was sent to a port for HTTPS"
            self._refuse(400, why, Failure.BAD_REQUEST, "bad_request", self._reader.seen(data))
        else:
            self._throw_away(data)


class QuickAckConnection(DownstreamConnection):
    """One that acknowledges at once what it reads (`downstream_socket.quickack`); see `sockets.py`."""

    def data_received(self, data: bytes) -> None:
        self._socket().setsockopt(*QUICKACK)
        super().data_received(data)
