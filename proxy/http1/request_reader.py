"""Reads request heads from one connection, one after the other: bytes in, requests out. No I/O."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from proxy.http1.forwarding import Forwarding
from proxy.http1.grammar import (
    CRLF,
    HEAD_END,
    REMEMBERED,
    REMEMBERED_OF,
    TOKEN,
    BadHead,
    HeadLimits,
    PartialHead,
    read_block,
)
from proxy.http1.request_head import (
    Request,
    RequestFields,
    parse_request_line,
    read_fields,
    resolve_target,
    usual_line,
)

_EMPTY_LINES = re.compile(rb"(?:\r\n)++").match  # what old clients leave behind a body (RFC 9112 §2.2)
# A line of which can be told what was asked for. A target with an `@` that is no path may have a password in it.
_TELLABLE = re.compile(
    rb"(?:\r\n)*+(" + TOKEN + rb"{1,40}+) (/[!-~]*+|[!-?A-~]++)(?: HTTP/([0-9](?:\.[0-9])?)\r?\n|\Z)"
).match


class Seen(NamedTuple):
    """What can be told of a request whose head is refused, in the words of `Request`. Empty: it could not be read."""

    method: bytes = b""
    target: bytes = b""
    http10: bool = False
    req_id: str = ""
    block: bytes = b""


UNSEEN: Final = Seen()


class RequestReader:
    """`feed` it until it returns a request; `rest` is then what came behind the head.

    `peer` is the client's address, `proto` the scheme that it speaks, and `trusted` says that it is a proxy whose word
    counts (`forwarding.py`). `trailers`: those of a request's body will be passed on.
    """

    __slots__ = (
        "_end",
        "_fields",
        "_forwarding",
        "_known",
        "_known_head",
        "_known_line",
        "_limits",
        "_new",
        "_partial",
        "_trailers",
        "rest",
    )

    def __init__(
        self, limits: HeadLimits, peer: str, *, proto: bytes = b"http", trusted: bool = False, trailers: bool = False
    ) -> None:
        self._limits = limits
        self._forwarding = Forwarding(peer.encode(), proto, trusted=trusted)
        self._trailers = trailers
        self._partial: PartialHead | None = None
        self.rest = b""
        self._new = 0  # heads that it did not know
        # The request remembered, and its head until anything unusual comes.
        self._known: Request | None = None
        self._known_head: bytes | None = None
        self._known_line = 0  # bytes of its request line
        # What its fields meant, and what is sent behind the lines that are kept as they came.
        self._fields: RequestFields | None = None
        self._end = b""

    def __repr__(self) -> str:
        return f"<RequestReader {'in a head' if self.begun else 'awaiting a head'}>"

    @property
    def begun(self) -> bool:
        """Whether part of a head has come."""
        return self._partial is not None

    def seen(self, data: bytes) -> Seen:
        """What can be told of the head that has been refused, or has not come in time; `data` is what came last.

        A line that has no end yet may be half of what was meant, and is told only if it is too long for one.
        """
        head = data if self._partial is None else bytes(self._partial.data)
        match = _TELLABLE(head)
        if match is None or (match[3] is None and len(head) <= self._limits.line):
            return UNSEEN
        return Seen(match[1], match[2], match[3] == b"1.0")

    def feed(self, data: bytes) -> Request | None:
        """Takes what arrived next; the request if its head is whole. Raises `BadHead`."""
        if data == self._known_head:
            self.rest = b""
            return self._known
        match = usual_line(data) if self._partial is None else None
        if match is None:
            return self._feed_unusual(data)
        at = match.end() - len(CRLF)
        method, target, minor = match.groups()
        http10 = minor == b"0"
        line = data[:at] if not http10 else b"%b %b HTTP/1.1" % (method, target)  # our own version: RFC 9110 §2.5
        known, limits = self._known, self._limits
        if known is not None and data.startswith(known.block, at) and http10 is known.http10:
            after = at + len(known.block)
            end = after + len(CRLF)
            if end <= limits.surely and data.startswith(CRLF, after):
                self.rest = data[end:]
                return Request(method, target, known.fields, known.block, line + known.head[self._known_line :])
        found = read_block(data, at, limits, len(data) - len(HEAD_END))  # mostly nothing follows
        if found is None:
            return self._feed_unusual(data)
        block, end = found
        fields, kept = read_fields(block, http10, self._trailers)
        if fields is not self._fields:
            self._fields = fields
            self._end = fields.own + self._forwarding.lines(fields.host, fields.said, http10=http10)
        request = Request(method, target, fields, block, b"".join([line, fields.begin, *kept, self._end]))
        self.rest = data[end:]
        if not self._new % REMEMBERED_OF:
            if end <= REMEMBERED:
                self._known, self._known_head, self._known_line = request, data[:end], at
            else:
                self._known = self._known_head = None
        self._new += 1
        return request

    def _feed_unusual(self, data: bytes) -> Request | None:
        """A head in pieces, an empty line before it, another form of target, or what is no request at all."""
        if not data:
            return None
        self._known_head = None
        partial = self._partial
        if partial is not None and partial.data == b"\r":
            partial = self._partial = None
            data = b"\r" + data
        if partial is None:
            if empty := _EMPTY_LINES(data):
                data = data[empty.end() :]
                return self.feed(data) if data else None
            partial = self._partial = PartialHead(self._limits)
        whole = partial.feed(data)
        if whole is None:
            return None
        self._partial = None
        try:
            return self.feed(whole) if usual_line(whole) else self._read_unusual(whole)
        except BadHead:
            self._partial = partial  # for `seen`
            raise

    def _read_unusual(self, data: bytes) -> Request:
        """A whole head, whose first line is not of the usual form."""
        method, target, http10, at = parse_request_line(data, self._limits)
        target, authority = resolve_target(method, target)
        found = read_block(data, at, self._limits)
        assert found is not None, "the head is whole"
        block, end = found
        fields, kept = read_fields(block, http10, self._trailers, authority)
        end_of_lines = fields.own + self._forwarding.lines(fields.host, fields.said, http10=http10)
        self._known = None  # what the target says has gone into the fields
        self.rest = data[end:]
        line = b"%b %b HTTP/1.1" % (method, target)
        return Request(method, target, fields, block, b"".join([line, fields.begin, *kept, end_of_lines]))
