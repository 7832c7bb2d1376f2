"""Response heads: what one means to a proxy, and the head to send to a client. Rules: see `http1.py`."""

from __future__ import annotations

import re
from typing import Final

from proxy.http1 import (
    CRLF,
    HOP_BY_HOP,
    PSEUDONYM,
    BadHead,
    HeadLimits,
    check_grammar,
    check_lines,
    framing,
    keeps_alive,
    lines_of,
    options,
    without_named,
)

BODILESS: Final = frozenset({204, 304})  # RFC 9112 §6.3; also every 1xx, and any answer to HEAD

_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([\t -~\x80-\xff]*))?\r\n").match
_HINT = re.compile(rb"(?:^|[,; \t])timeout[ \t]*=[ \t]*\"?([0-9]{1,9})", re.IGNORECASE).search

_DROPPED = rb"content-length|proxy-authentication-info|" + HOP_BY_HOP
_MARKED = lines_of(_DROPPED).findall
_DROP = lines_of(_DROPPED).sub


class ResponseHead:
    """What a response head means to a proxy, and the lines to send on."""

    __slots__ = ("chunked", "hint_s", "http10", "keep_alive", "length", "lines", "status", "usual")

    status: int
    http10: bool
    length: int | None  # of the body; None when chunked, or when the close ends it
    chunked: bool
    keep_alive: bool  # the upstream lets its connection stay open
    hint_s: int | None  # its `Keep-Alive: timeout=`, in seconds
    lines: bytes  # status line and fields, without framing and without the empty line
    usual: bytes  # the whole head, for the usual client: HTTP/1.1, its connection stays open

    def head(self, *, http10: bool, keep_alive: bool, no_body: bool) -> bytes:
        """The head to send to this client; `no_body` says that it asked with HEAD."""
        framing = b""
        if self.length is not None and self.status >= 200 and self.status != 204:
            framing = b"Content-Length: %d\r\n" % self.length
        elif not http10 and self.status not in BODILESS and self.status >= 200 and (self.chunked or not no_body):
            framing = b"Transfer-Encoding: chunked\r\n"
        if not keep_alive:
            framing += b"Connection: close\r\n"
        elif http10:
            framing += b"Connection: keep-alive\r\n"
        return self.lines + framing + CRLF


def parse_response(head: bytes, limits: HeadLimits) -> ResponseHead:
    """Reads a response head, from the status line to the empty line. Raises `BadHead` if it is not sound."""
    match = _LINE(head)
    if match is None:
        raise BadHead(502, "not a status line")
    minor, status, reason = match.groups()
    block = head[match.end() - 2 :]
    check_lines(block, limits)
    parsed = ResponseHead()
    parsed.status = int(status)
    parsed.http10 = minor == b"0"
    parsed.hint_s = None
    lengths, codings, named = [], [], []
    for name, value in _MARKED(block):
        name = name.lower()
        value = value.rstrip(b" \t")
        if name == b"content-length":
            lengths.append(value)
        elif name == b"transfer-encoding":
            codings.append(value)
        elif name == b"connection":
            named += options(value)
        elif name == b"keep-alive" and (hint := _HINT(value)):
            parsed.hint_s = int(hint[1])
    parsed.length, parsed.chunked = framing(lengths, codings, parsed.http10)
    parsed.keep_alive = keeps_alive(named, parsed.http10)
    check_grammar(block)
    kept = without_named(_DROP(b"", block), named)
    parsed.lines = b"HTTP/1.1 %b %b%bVia: 1.%b %b\r\n" % (status, reason or b"", kept[:-2], minor, PSEUDONYM)
    parsed.usual = parsed.head(http10=False, keep_alive=True, no_body=False)
    return parsed
