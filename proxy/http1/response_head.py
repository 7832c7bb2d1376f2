"""Response heads: what one means to a proxy, and the head to send to a client. Rules: see `grammar.py`."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from proxy.http1.grammar import (
    CRLF,
    HOP_BY_HOP,
    MEANINGS,
    PSEUDONYM,
    REMEMBERED_LINES,
    VALUE,
    BadHead,
    HeadLimits,
    Said,
    asked_protocol,
    connection_options,
    framing,
    keeps_alive,
    members,
    read_block,
    said_in,
    splitter,
    without_named,
)
from proxy.http1.trailers import permitted

BODILESS: Final = frozenset({204, 304})  # RFC 9112 §6.3; also every 1xx, and any answer to HEAD

_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: (" + VALUE + rb"*+))?").fullmatch
_HINT = re.compile(rb"(?:^|[,; \t])timeout[ \t]*=[ \t]*\"?([0-9]{1,9})", re.IGNORECASE).search

_split = splitter(b"content-length", b"proxy-authentication-info", *HOP_BY_HOP)


class ResponseMeaning:
    """What a status line and the marked field lines mean to a proxy. Heads that share these share it."""

    __slots__ = (
        "begin",
        "body_length",
        "chunked",
        "end",
        "hint_s",
        "keep_alive",
        "length",
        "named",
        "own",
        "status",
        "unwanted",
        "upgrade",
    )

    status: int
    length: int | None  # its Content-Length; None when chunked, or when the close ends it
    body_length: int | None  # what follows, unless it answers HEAD; None likewise
    chunked: bool
    keep_alive: bool  # the upstream lets its connection stay open
    hint_s: int | None  # its `Keep-Alive: timeout=`, in seconds
    named: tuple[bytes, ...]  # the members of Connection, in lower case
    unwanted: frozenset[bytes]  # of these, the fields that must not be sent on
    upgrade: bytes  # of a 101 the protocol that it switches to, in lower case; "": none
    begin: bytes  # the status line to send, without its CRLF
    own: bytes  # the lines behind those that are kept, up to the framing
    end: bytes  # the framing for the usual client, and the empty line

    def framing(self, *, http10: bool, no_body: bool) -> bytes:
        """The lines that say how long the body is, to this client."""
        if self.length is not None:
            return b"Content-Length: %d\r\n" % self.length if self.status >= 200 and self.status != 204 else b""
        if self.body_length is None and not http10 and (self.chunked or not no_body):
            return b"Transfer-Encoding: chunked\r\n"
        return b""


class ResponseHead:
    """A response head: what it means, and the lines to send on."""

    __slots__ = ("body_length", "hint_s", "keep_alive", "means", "status", "usual")

    def __init__(self, means: ResponseMeaning, usual: bytes) -> None:
        self.means = means
        self.status = means.status
        self.body_length = means.body_length
        self.keep_alive = means.keep_alive
        self.hint_s = means.hint_s
        self.usual = usual  # the whole head, for the usual client: HTTP/1.1, its connection stays open

    def head(self, *, http10: bool, keep_alive: bool, no_body: bool) -> bytes:
        """The head to send to this client; `no_body` says that it asked with HEAD."""
        means = self.means
        if means.upgrade:
            return self.usual
        lines = self.usual[: -len(means.end)]
        framing = means.framing(http10=http10, no_body=no_body)
        if not keep_alive:
            return b"%b%bConnection: close\r\n\r\n" % (lines, framing)
        return b"%b%b%b\r\n" % (lines, framing, b"Connection: keep-alive\r\n" if http10 else b"")


def parse_response(head: bytes, limits: HeadLimits) -> ResponseHead:
    """Reads a whole response head, from the status line to the empty line. Raises `BadHead` if it is not sound."""
    found = read_response(head, limits)
    if found is None:
        raise BadHead(502, "not a whole head")
    return found[0]


def read_response(
    data: bytes, limits: HeadLimits, trailers: bool = False, near: int = 0
) -> tuple[ResponseHead, int] | None:
    """The response head that `data` begins with, and where it ends; None: that has not come yet. Raises `BadHead`.

    `trailers`: whether those of a body will be passed on. `near`: see `read_block`.
    """
    at = data.find(CRLF)
    found = read_block(data, at, limits, near) if at >= 0 else None
    if found is None:
        return None
    block, end = found
    parts = _split(block)
    marked = b"".join(parts[1::2])
    meaning = _known_meaning if at + len(marked) <= REMEMBERED_LINES else _meaning
    means = meaning(data[:at], marked, trailers)
    kept = parts[::2]
    if means.unwanted:
        kept = [without_named(b"".join(kept), means.unwanted)]
    return ResponseHead(means, b"".join([means.begin, *kept, means.own, means.end])), end


def _meaning(line: bytes, marked: bytes, trailers: bool) -> ResponseMeaning:
    match = _LINE(line)
    if match is None:
        raise BadHead(502, "not a status line")
    minor, status, reason = match.groups()
    http10 = minor == b"0"
    said = said_in(marked)
    means = ResponseMeaning()
    means.status = code = int(status)
    means.named, means.unwanted = connection_options(said.get(b"connection", b""))
    means.keep_alive = keeps_alive(means.named, http10)
    means.length, means.chunked = length, chunked = framing(said, http10)
    means.body_length = 0 if code in BODILESS or code < 200 else length
    means.hint_s = _hint_of(said[b"keep-alive"]) if b"keep-alive" in said else None
    means.upgrade = _switched_to(said, means, http10) if code == 101 else b""
    means.begin = b"HTTP/1.1 %b %b" % (status, reason or b"")
    means.own = b"Via: 1.%b %b\r\n" % (minor, PSEUDONYM)
    if trailers and chunked and (names := permitted(said.get(b"trailer", b""), means.named)):
        means.own = b"Trailer: %b\r\n%b" % (names, means.own)
    if means.upgrade:
        means.end = b"Connection: Upgrade\r\nUpgrade: %b\r\n\r\n" % means.upgrade
    else:
        means.end = b"%b\r\n" % means.framing(http10=False, no_body=False)
    return means


_known_meaning = lru_cache(MEANINGS)(_meaning)


def _hint_of(value: bytes) -> int | None:
    """What `Keep-Alive: timeout=` says, in seconds."""
    hint = _HINT(value)
    return int(hint[1]) if hint else None


def _switched_to(said: Said, means: ResponseMeaning, http10: bool) -> bytes:
    """The one protocol that a 101 switches to. One that could be read as having a body is refused (RFC 9112 §6.1)."""
    if http10 or means.length is not None or means.chunked:
        raise BadHead(502, "a 101 in HTTP/1.0, or with a body")
    return asked_protocol(said, means.named) if len(members(said.get(b"upgrade", b""))) == 1 else b""
