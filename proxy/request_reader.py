"""Reads request heads from one connection, one after the other: bytes in, requests out. No I/O."""

from __future__ import annotations

from typing import Final

from proxy.http1 import CRLF, HEAD_END, BadHead, HeadLimits, PartialHead
from proxy.request_head import (
    Request,
    RequestFields,
    parse_request_fields,
    parse_request_line,
    resolve_target,
    with_host,
)

_CR: Final = CRLF[0]
_SLASH: Final = b"/"[0]


class RequestReader:
    """`feed` it until it returns a request; `rest` is then what came behind the head. `peer`: the client's address."""

    __slots__ = ("_known", "_known_block", "_known_http10", "_limits", "_partial", "_peer", "rest")

    def __init__(self, limits: HeadLimits, peer: str) -> None:
        self._limits = limits
        self._peer = peer.encode()
        self._partial: PartialHead | None = None
        self.rest = b""
        # The last field lines, and what they meant: a client says much the same every time.
        self._known_block = b""
        self._known_http10 = False
        self._known: RequestFields | None = None

    def __repr__(self) -> str:
        return f"<RequestReader {'in a head' if self.begun else 'awaiting a head'}>"

    @property
    def begun(self) -> bool:
        """Whether part of a head has come."""
        return self._partial is not None

    def feed(self, data: bytes) -> Request | None:
        """Takes what arrived next; the request if its head is whole. Raises `BadHead`."""
        end = data.find(HEAD_END) if self._partial is None and data[0] != _CR else -1
        if end < 0:
            whole = self._feed_partial(data)
            if whole is None:
                return None
            data, end = whole, whole.find(HEAD_END)
        end += len(HEAD_END)
        limits = self._limits
        if end > limits.head:
            raise BadHead(431, "the head is too long")
        method, target, http10, at = parse_request_line(data, limits)
        block = data[at:end]
        if target[0] != _SLASH or method == b"CONNECT":
            target, host = resolve_target(method, target)
            if host is not None:
                block = with_host(block, host)
        fields = self._known
        if fields is None or block != self._known_block or http10 is not self._known_http10:
            fields = self._known = parse_request_fields(block, http10, limits, self._peer)
            self._known_block, self._known_http10 = block, http10
        self.rest = data[end:]
        return Request(method, target, http10, fields)

    def _feed_partial(self, data: bytes) -> bytes | None:
        """All that has come since the head began, once it is whole. An empty line before it is dropped.

        Such a line is left over from an old client's last body (RFC 9112 §2.2).
        """
        if self._partial is None:
            data = data.removeprefix(CRLF)
            if not data:
                return None
            self._partial = PartialHead(self._limits)
        whole = self._partial.feed(data)
        if whole is not None:
            self._partial = None
            whole = whole.removeprefix(CRLF)  # it had come in two pieces
        return whole
