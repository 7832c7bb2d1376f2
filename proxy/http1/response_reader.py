"""Reads responses from one connection, one after the other: bytes in, heads and payload out. No I/O.

A general parser such as llhttp cannot do this for a proxy: it does not know what an answer answers (HEAD), takes a 100
for a whole answer, and cannot be told of a close (`tests/platform/test_httptools_facts.py`).
"""

from __future__ import annotations

from typing import Protocol

from proxy.http1.framing import WORTH_A_VIEW, BadBody, BodyReader, ChunkedBody, LengthBody, Payload, UntilCloseBody
from proxy.http1.grammar import NEAR, REMEMBERED, REMEMBERED_OF, BadHead, HeadLimits, PartialHead
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
        "_known_end",
        "_known_head",
        "_known_size",
        "_limits",
        "_new",
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
        self._new = 0  # final heads that it did not know
        # The one remembered.
        self._known_head = b""
        self._known: ResponseHead | None = None
        self._known_end = 0
        self._known_size = 0  # bytes of the whole response; 0: not known, or too large to copy
        self._untouched = False  # since `expect`, but for `head`; and nothing unusual is expected
        self.expect()

    def __repr__(self) -> str:
        return f"<ResponseReader {'in ' + repr(self._body) if self._body else 'awaiting a head'}>"

    def expect(self, head_only: bool = False, upgrade: bytes = b"") -> None:
        """The next bytes begin a response; `head_only`: to a HEAD request, so it has no body whatever it says.

        `upgrade` is the protocol, in lower case, that the request asked to switch to; then it may be a 101.
        """
        self.head: ResponseHead | None = None  # the final one
        if self._untouched and not (head_only or upgrade):
            return
        self._untouched = not (head_only or upgrade)
        self._head_only = head_only
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
        known = self._known
        if known is not None and self._untouched and data.startswith(self._known_head):
            end = self._known_end
            if len(data) != self._known_size:
                return self._begin_body(known, data, end, handler)
            self.head = known
            handler.response(known, data[end:], True)
            return True
        if self._body is None:
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
            found = read_response(data, self._limits, self._trailers, self._known_end - NEAR // 2)
            if found is None:
                self._untouched = False
                self._partial = PartialHead(self._limits)
                self._partial.feed(data)
                return False
            head, end = found
            if head.status >= 200:
                if not self._new % REMEMBERED_OF and end <= REMEMBERED:
                    self._known, self._known_head, self._known_end = head, data[:end], end
                    length = head.body_length
                    self._known_size = 0 if length is None or length >= WORTH_A_VIEW else end + length
                self._new += 1
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
        if not self._upgrade or head.means.upgrade != self._upgrade:
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
        elif head.means.chunked:
            self._body = ChunkedBody(keep_trailers=self._trailers, named=head.means.named)
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
