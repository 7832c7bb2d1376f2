"""What a client sends beside heads: the body of the request at hand, and what comes behind it.

Rules of this file:

- It is read while somebody takes it. What comes behind the request waits, at most what one read has brought.
- A client is to blame for a gap in its body only while it is read, and while it reads itself what it is sent.
- Where a rate must be kept, what has come is looked at each time that the time of a gap has passed.
"""

from __future__ import annotations

import asyncio
from typing import Final

from proxy.downstream_socket import CLOSED, DownstreamSocket
from proxy.exchange import Exchange
from proxy.failure import Failure
from proxy.gateway import Gateway
from proxy.http1.framing import BadBody, BodyReader, ChunkedBody, LengthBody
from proxy.http1.pages import CONTINUE
from proxy.http1.request_head import RequestFields

_NO_WINDOW: Final = -1


class DownstreamBody(DownstreamSocket):
    """One connection from a client, while a request is under way."""

    def __init__(self, gateway: Gateway, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(gateway, loop)
        self._reading = True
        self._held = False  # reading, by the exchange
        # Of the request at hand.
        self._exchange: Exchange | None = None
        self._body: BodyReader | None = None  # until the body is complete
        self._body_bytes = 0
        self._window_from = _NO_WINDOW  # of these, how many had come when its rate was looked at last
        self._behind = b""  # what came behind the request: the next one, pipelined, or another protocol

    @property
    def phase(self) -> str:
        """Its state in a word, with what `State` does not know: whether HTTP is over."""
        if self._exchange is not None and self._exchange.is_tunnel:
            return "tunnel"
        return self.state.name.lower()

    # ---- the end

    def _cut_off(self, cause: Failure) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.cut_off(cause)

    def _forget_requests(self) -> None:
        self._body = None
        self._behind = b""
        self._held = False
        self._read_or_not()

    # ---- called by the exchange (ClientSide)

    def pause_reading(self) -> None:
        """The body is not taken for now, so the client is not to blame for a gap."""
        self._held = True
        self._read_or_not()
        self._await_body()

    def resume_reading(self) -> None:
        self._held = False
        self._read_or_not()
        self._await_body()

    # ---- the body

    def _begin_body(self, fields: RequestFields, rest: bytes) -> None:
        """The request at hand has one, and `rest` is its beginning."""
        body: BodyReader
        if fields.chunked:
            body = ChunkedBody(keep_trailers=self._gateway.trailers, named=fields.named)
        else:
            body = LengthBody(fields.length)
        self._body = body
        self._body_bytes = 0
        self._window_from = _NO_WINDOW
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
        if 0 < self._gateway.config.limits.body_bytes < self._body_bytes:
            exchange.refuse(413, Failure.BAD_REQUEST, "the body is too large")
            return
        if body.done:
            self._body = None
            if body.rest:
                self._behind = body.rest
                self._read_or_not()
            if isinstance(body, ChunkedBody):
                exchange.trailers = body.trailers
        self._await_body()
        if first:
            exchange.attempt_with_body(payload, body.done)
        else:
            exchange.request_body(payload, body.done)

    def _await_body(self) -> None:
        """What bounds the wait for the client now: a gap in its body, or nothing while the upstream works.

        Where a rate must be kept, it is looked at when the time of a gap has passed, and not moved by each piece. While
        the client is to read, that is what bounds it, whatever its body does.
        """
        if self._writing_paused:
            return
        config = self._gateway.config
        if self._body is None or self._held:
            self.deadline.clear()
            self._window_from = _NO_WINDOW
        elif not config.limits.min_body_rate:
            self.deadline.set(config.timeouts.body_gap)
        elif self._window_from == _NO_WINDOW:
            self._window_from = self._body_bytes
            self.deadline.set(config.timeouts.body_gap)

    def _read_or_not(self) -> None:
        """Reads unless the next request has begun to arrive, or the exchange cannot take more of this one."""
        wanted = not (self._held or self._behind)
        if wanted is not self._reading and self._state != CLOSED:
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _body_is_late(self) -> None:
        """Nothing has come for the time of a gap; or with a rate to be kept, it is the time to look at it."""
        assert self._exchange is not None
        config = self._gateway.config
        came, rate = self._body_bytes - self._window_from, config.limits.min_body_rate
        if rate and self._window_from != _NO_WINDOW and came >= rate * config.timeouts.body_gap:
            self._window_from = _NO_WINDOW
            self._await_body()
        else:
            self._exchange.refuse(408, Failure.REQUEST_TIMEOUT, "the body did not come in time")

    def _body_waits(self) -> None:
        """It is not measured for now."""
        self._window_from = _NO_WINDOW
