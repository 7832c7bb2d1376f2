"""Response heads: what one means to a proxy, and the head to send to a client. Rules: see `grammar.py`."""

from __future__ import annotations

import re
from typing import Final

from proxy.http1.grammar import (
    CRLF,
    HEAD_END,
    HOP_BY_HOP,
    PSEUDONYM,
    VALUE,
    BadHead,
    HeadLimits,
    Said,
    asked_protocol,
    connection_options,
    framing,
    keeps_alive,
    members,
    read_again,
    read_block,
    said_in,
    splitter,
    without_named,
)
from proxy.http1.trailers import permitted

BODILESS: Final = frozenset({204, 304})  # RFC 9112 §6.3; also every 1xx, and any answer to HEAD

_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: (" + VALUE + rb"*+))?\r\n").match
_HINT = re.compile(rb"(?:^|[,; \t])timeout[ \t]*=[ \t]*\"?([0-9]{1,9})", re.IGNORECASE).search

_split = splitter(b"content-length", b"proxy-authentication-info", *HOP_BY_HOP)


class ResponseHead:
    """What a response head means to a proxy, and the lines to send on."""

    __slots__ = (
        "_end_of_lines",
        "body_length",
        "chunked",
        "hint_s",
        "http10",
        "keep_alive",
        "length",
        "named",
        "status",
        "upgrade",
        "usual",
    )

    status: int
    http10: bool
    length: int | None  # its Content-Length; None when chunked, or when the close ends it
    body_length: int | None  # what follows, unless it answers HEAD; None likewise
    chunked: bool
    keep_alive: bool  # the upstream lets its connection stay open
    hint_s: int | None  # its `Keep-Alive: timeout=`, in seconds
    named: tuple[bytes, ...]  # the members of Connection, in lower case
    upgrade: bytes  # of a 101 the protocol that it switches to, in lower case; "": none
    usual: bytes  # the whole head, for the usual client: HTTP/1.1, its connection stays open
    _end_of_lines: int  # in it, where the framing begins

    def head(self, *, http10: bool, keep_alive: bool, no_body: bool) -> bytes:
        """The head to send to this client; `no_body` says that it asked with HEAD."""
        if self.upgrade:
            return self.usual
        lines = self.usual[: self._end_of_lines]
        framing = self._framing(http10=http10, no_body=no_body)
        if not keep_alive:
            return b"%b%bConnection: close\r\n\r\n" % (lines, framing)
        return b"%b%b%b\r\n" % (lines, framing, b"Connection: keep-alive\r\n" if http10 else b"")

    def _framing(self, *, http10: bool, no_body: bool) -> bytes:
        if self.length is not None:
            return b"Content-Length: %d\r\n" % self.length if self.status >= 200 and self.status != 204 else b""
        if self.body_length is None and not http10 and (self.chunked or not no_body):
            return b"Transfer-Encoding: chunked\r\n"
        return b""


def parse_response(head: bytes, limits: HeadLimits) -> ResponseHead:
    """Reads a whole response head, from the status line to the empty line. Raises `BadHead` if it is not sound."""
    found = read_response(head, limits)
    if found is None:
        raise BadHead(502, "not a whole head")
    return found[0]


def read_response(data: bytes, limits: HeadLimits, *, trailers: bool = False) -> tuple[ResponseHead, int] | None:
    """The response head that `data` begins with, and where it ends; None: that has not come yet. Raises `BadHead`.

    `trailers`: whether those of a body will be passed on.
    """
    match = _LINE(data)
    if match is None:
        if HEAD_END not in data:
            return None
        raise BadHead(502, "not a status line")
    found = read_block(data, match.end() - len(CRLF), limits)
    if found is None:
        return None
    block, end = found
    minor, status, reason = match.groups()
    parts = _split(block[:-2])
    said = said_in(parts)
    kept = b"".join(parts[::3])
    parsed = ResponseHead()
    parsed.status = code = int(status)
    parsed.http10 = http10 = minor == b"0"
    parsed.named = ()
    parsed.keep_alive = not http10
    if b"connection" in said:
        parsed.named, unwanted = connection_options(said[b"connection"])
        parsed.keep_alive = keeps_alive(parsed.named, http10)
        if unwanted:
            kept = without_named(kept, unwanted)
    parsed.length, parsed.chunked = length, chunked = framing(said, http10)
    read_again(block)
    parsed.body_length = 0 if code in BODILESS or code < 200 else length
    parsed.hint_s = _hint_of(said[b"keep-alive"]) if b"keep-alive" in said else None
    parsed.upgrade = _switched_to(said, parsed) if code == 101 else b""
    if trailers and chunked and (names := permitted(said.get(b"trailer", b""), parsed.named)):
        kept += b"Trailer: %b\r\n" % names
    lines = b"HTTP/1.1 %b %b%bVia: 1.%b %b\r\n" % (status, reason or b"", kept, minor, PSEUDONYM)
    parsed._end_of_lines = len(lines)
    if parsed.upgrade:
        parsed.usual = b"%bConnection: Upgrade\r\nUpgrade: %b\r\n\r\n" % (lines, parsed.upgrade)
    else:
        parsed.usual = b"%b%b\r\n" % (lines, parsed._framing(http10=False, no_body=False))
    return parsed, end


def _hint_of(value: bytes) -> int | None:
    """What `Keep-Alive: timeout=` says, in seconds."""
    hint = _HINT(value)
    return int(hint[1]) if hint else None


def _switched_to(said: Said, head: ResponseHead) -> bytes:
    """The one protocol that a 101 switches to. One that could be read as having a body is refused (RFC 9112 §6.1)."""
    if head.http10 or head.length is not None or head.chunked:
        raise BadHead(502, "a 101 in HTTP/1.0, or with a body")
    return asked_protocol(said, head.named) if len(members(said.get(b"upgrade", b""))) == 1 else b""
