"""Reads request heads from one connection, one after the other: bytes in, requests out. No I/O."""

from __future__ import annotations

import re

from proxy.http1.forwarding import Forwarding
from proxy.http1.grammar import CRLF, REMEMBERED, HeadLimits, PartialHead, read_block
from proxy.http1.request_head import (
    Request,
    parse_request_fields,
    parse_request_line,
    resolve_target,
    usual_line,
)

_EMPTY_LINES = re.compile(rb"(?:\r\n)++").match  # what old clients leave behind a body (RFC 9112 §2.2)


class RequestReader:
    """`feed` it until it returns a request; `rest` is then what came behind the head.

    `peer` is the client's address, `proto` the scheme that it speaks, and `trusted` says that it is a proxy whose word
    counts (`forwarding.py`). `trailers`: those of a request's body will be passed on.
    """

    __slots__ = (
        "_forwarding",
        "_known",
        "_known_head",
        "_limits",
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
        # The last request, and its head while nothing else has come: a client says much the same every time.
        self._known: Request | None = None
        self._known_head: bytes | None = None

    def __repr__(self) -> str:
        return f"<RequestReader {'in a head' if self.begun else 'awaiting a head'}>"

    @property
    def begun(self) -> bool:
        """Whether part of a head has come."""
        return self._partial is not None

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
        known, limits = self._known, self._limits
        if (
            known is not None
            and data.startswith(known.fields.block, at)
            and http10 is known.http10
            and at + len(known.fields.block) <= limits.surely
        ):
            fields = known.fields
            end = at + len(fields.block)
        else:
            found = read_block(data, at, limits)
            if found is None:
                return self._feed_unusual(data)
            block, end = found
            fields = parse_request_fields(block, http10, self._forwarding, trailers=self._trailers)
        request = Request(method, target, http10, fields)
        self.rest = data[end:]
        if end <= REMEMBERED:
            self._known, self._known_head = request, data[:end]
        else:
            self._known = self._known_head = None
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
        return self.feed(whole) if usual_line(whole) else self._read_unusual(whole)

    def _read_unusual(self, data: bytes) -> Request:
        """A whole head, whose first line is not of the usual form."""
        method, target, http10, at = parse_request_line(data, self._limits)
        target, authority = resolve_target(method, target)
        found = read_block(data, at, self._limits)
        assert found is not None, "the head is whole"
        block, end = found
        fields = parse_request_fields(block, http10, self._forwarding, authority=authority, trailers=self._trailers)
        self._known = None  # what the target says has gone into the fields
        self.rest = data[end:]
        return Request(method, target, http10, fields)
