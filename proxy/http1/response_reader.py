"""Reads responses from one connection, one after the other: bytes in, heads and payload out. No I/O.

A general parser such as llhttp cannot do this for a proxy: it does not know what an answer answers (HEAD), takes a 100
for a whole answer, and cannot be told of a close (`tests/platform/test_httptools_facts.py`).
"""

from __future__ import annotations

from typing import Protocol

from proxy.http1.framing import WORTH_A_VIEW, BadBody, BodyReader, ChunkedBody, LengthBody, Payload, UntilCloseBody
from proxy.http1.grammar import REMEMBERED, BadHead, HeadLimits, PartialHead
from proxy.http1.response_head import ResponseHead, read_response


class ResponseHandler(Protocol):
    """What is told about a response, in this order."""

    def interim(self, head: ResponseHead) -> None:
        """A 1xx, any number of times."""

    def response(self, head: ResponseHead, payload: Payload, done: bool) -> None:
        """The final head, and what of its body came with it; `done`: that was all."""

    def body(self, payload: Payload, done: bool) -> None:
        """More of the body."""

    def switched(self, head: ResponseHead, rest: bytes) -> None:
        """The 101 that was asked for: what follows, beginning with `rest`, is no HTTP any more."""


class ResponseReader:
    """Call `expect` before each response, then `feed` until it returns true.

    `trailers`: those of a body will be passed on.
    """

    __slots__ = (
        "_body",
        "_head_only",
        "_interim_bytes",
        "_known",
        "_known_head",
        "_limits",
        "_partial",
        "_trailers",
        "_untouched",
        "_upgrade",
        "head",
        "rest",
        "until_close",
    )

    def __init__(self, limits: HeadLimits, *, trailers: bool = False) -> None:
        self._limits = limits
        self._trailers = trailers
        # The last final head, and what it meant: an upstream says much the same every time.
        self._known_head = b""
        self._known: ResponseHead | None = None
        self._untouched = False  # since `expect`, but for `head`
        self.expect(head_only=False)

    def __repr__(self) -> str:
        return f"<ResponseReader {'in ' + repr(self._body) if self._body else 'awaiting a head'}>"

    def expect(self, *, head_only: bool, upgrade: bytes = b"") -> None:
        """The next bytes begin a response; `head_only`: to a HEAD request, so it has no body whatever it says.

        `upgrade` is the protocol, in lower case, that the request asked to switch to; then it may be a 101.
        """
        self._head_only = head_only
        self.head: ResponseHead | None = None  # the final one
        if self._untouched and not upgrade:
            return
        self._untouched = not upgrade
        self._upgrade = upgrade
        self._interim_bytes = 0  # of the heads of interim responses
        self._partial: PartialHead | None = None
        self._body: BodyReader | None = None
        self.until_close = False  # only a close ends this body
        self.rest = b""  # what came behind the response

    @property
    def trailers(self) -> bytes:
        """Of a body that is done: the trailers to send on, for `framing.last_chunk`."""
        return self._body.trailers if isinstance(self._body, ChunkedBody) else b""

    def feed(self, data: bytes, handler: ResponseHandler) -> bool:
        """Takes what arrived next; true if it completes the response. Raises `BadHead` and `BadBody`."""
        if self._body is None:
            known = self._known
            if known is not None and self._partial is None and data.startswith(self._known_head):
                return self._begin_body(known, data, len(self._known_head), handler)
            return self._feed_head(data, handler)
        payload = self._body.feed(data)
        done = self._body.done
        self.rest = self._body.rest
        handler.body(payload, done)
        return done

    def _feed_head(self, data: bytes, handler: ResponseHandler) -> bool:
        while data:
            if self._partial is not None:
                whole = self._partial.feed(data)
                if whole is None:
                    return False
                self._partial, data = None, whole
            found = read_response(data, self._limits, trailers=self._trailers)
            if found is None:
                self._untouched = False
                self._partial = PartialHead(self._limits)
                self._partial.feed(data)
                return False
            head, end = found
            if head.status >= 200:
                if end <= REMEMBERED:
                    self._known, self._known_head = head, data[:end]
                return self._begin_body(head, data, end, handler)
            if head.status == 101:
                return self._switch(head, data[end:], handler)
            self._untouched = False
            self._interim_bytes += end
            if self._interim_bytes > self._limits.head:  # all that comes before a response is bounded like one head
                raise BadHead(502, "too many interim responses")
            handler.interim(head)
            data = data[end:]
        return False

    def _switch(self, head: ResponseHead, rest: bytes, handler: ResponseHandler) -> bool:
        """Neither this response nor its connection is over, but this reader has nothing more to read."""
        if not self._upgrade or head.upgrade != self._upgrade:
            raise BadHead(502, "nobody asked to switch protocols, or to this one")
        self.head = head
        handler.switched(head, rest)
        return False

    def _begin_body(self, head: ResponseHead, data: bytes, end: int, handler: ResponseHandler) -> bool:
        """The final head is whole; its body begins at `end`."""
        self.head = head
        length = 0 if self._head_only else head.body_length
        here = len(data) - end
        if length == here:  # all of it came at once, as it mostly does
            handler.response(head, data[end:] if here < WORTH_A_VIEW else memoryview(data)[end:], True)
            return True
        self._untouched = False
        if length is not None:
            self._body = LengthBody(length)
        elif head.chunked:
            self._body = ChunkedBody(keep_trailers=self._trailers, named=head.named)
        else:
            self._body = UntilCloseBody()
            self.until_close = True
        try:
            payload = self._body.feed(data[end:])
        except BadBody:
            self.head = None  # nothing of it has been passed on
            raise
        done = self._body.done
        self.rest = self._body.rest
        handler.response(head, payload, done)
        return done
