"""Reads responses from one connection, one after the other: bytes in, heads and payload out. No I/O.

llhttp cannot do this for a proxy: it does not know what an answer answers (HEAD), takes a 100 for a whole answer,
and does not know about closes. It judges the grammar of heads (`http1.check_grammar`), and this class all the rest.
"""

from __future__ import annotations

from typing import Protocol

from proxy.framing import WORTH_A_VIEW, BadBody, BodyReader, ChunkedBody, LengthBody, Payload, UntilCloseBody
from proxy.http1 import HEAD_END, BadHead, HeadLimits, PartialHead
from proxy.response_head import BODILESS, ResponseHead, parse_response


class ResponseHandler(Protocol):
    """What is told about a response, in this order."""

    def interim(self, head: ResponseHead) -> None:
        """A 1xx, any number of times."""

    def response(self, head: ResponseHead, payload: Payload, done: bool) -> None:
        """The final head, and what of its body came with it; `done`: that was all."""

    def body(self, payload: Payload, done: bool) -> None:
        """More of the body."""


class ResponseReader:
    """Call `expect` before each response, then `feed` until it returns true."""

    __slots__ = (
        "_body",
        "_head_only",
        "_interim_bytes",
        "_known",
        "_known_bytes",
        "_limits",
        "_partial",
        "head",
        "rest",
    )

    def __init__(self, limits: HeadLimits) -> None:
        self._limits = limits
        # The last head, and what it meant: an upstream says much the same every time.
        self._known_bytes = b""
        self._known: ResponseHead | None = None
        self.expect(head_only=False)

    def __repr__(self) -> str:
        return f"<ResponseReader {'in ' + repr(self._body) if self._body else 'awaiting a head'}>"

    def expect(self, *, head_only: bool) -> None:
        """The next bytes begin a response; `head_only`: to a HEAD request, so it has no body whatever it says."""
        self._head_only = head_only
        self._interim_bytes = 0  # of the heads of interim responses
        self._partial: PartialHead | None = None
        self._body: BodyReader | None = None
        self.head: ResponseHead | None = None  # the final one
        self.rest = b""  # what came behind the response

    @property
    def until_close(self) -> bool:
        """Whether only a close ends this body."""
        return isinstance(self._body, UntilCloseBody)

    def feed(self, data: bytes, handler: ResponseHandler) -> bool:
        """Takes what arrived next; true if it completes the response. Raises `BadHead` and `BadBody`."""
        if self._body is None:
            return self._feed_head(data, handler)
        payload = self._body.feed(data)
        done = self._body.done
        handler.body(payload, done)
        self.rest = self._body.rest
        return done

    def _feed_head(self, data: bytes, handler: ResponseHandler) -> bool:
        at = 0
        while at < len(data):
            end = data.find(HEAD_END, at) if self._partial is None else -1
            if end < 0:
                self._partial = self._partial or PartialHead(self._limits)
                whole = self._partial.feed(data[at:])
                if whole is None:
                    return False
                self._partial = None
                data, at, end = whole, 0, whole.find(HEAD_END)
            end += len(HEAD_END)
            head = self._known
            if head is None or data[at:end] != self._known_bytes:
                head = self._learn(data[at:end])
            if head.status >= 200:
                return self._begin_body(head, data, end, handler)
            self._check_interim(head, end - at)
            handler.interim(head)
            at = end
        return False

    def _check_interim(self, head: ResponseHead, length: int) -> None:
        """All that comes before a response is bounded like one head."""
        if head.status == 101:
            raise BadHead(502, "nobody asked to switch protocols")
        self._interim_bytes += length
        if self._interim_bytes > self._limits.head:
            raise BadHead(502, "too many interim responses")

    def _learn(self, data: bytes) -> ResponseHead:
        """Reads a head that is not the same as the last."""
        if len(data) > self._limits.head:
            raise BadHead(502, "the head is too long")
        self._known = head = parse_response(data, self._limits)
        self._known_bytes = data
        return head

    def _begin_body(self, head: ResponseHead, data: bytes, end: int, handler: ResponseHandler) -> bool:
        """The final head is whole; its body begins at `end`."""
        self.head = head
        length = 0 if self._head_only or head.status in BODILESS else head.length
        here = len(data) - end
        if length == here:  # all of it came at once, as it mostly does
            handler.response(head, data[end:] if here < WORTH_A_VIEW else memoryview(data)[end:], True)
            return True
        if length is not None:
            self._body = LengthBody(length)
        else:
            self._body = ChunkedBody() if head.chunked else UntilCloseBody()
        try:
            payload = self._body.feed(data[end:])
        except BadBody:
            self.head = None  # nothing of it has been passed on
            raise
        done = self._body.done
        handler.response(head, payload, done)
        self.rest = self._body.rest
        return done
