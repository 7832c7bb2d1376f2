"""What the heads of HTTP/1 requests and responses have in common: grammar, framing, limits. Bytes only, no I/O.

Rules of this file, and of `request_head.py` and `response_head.py`, which build on it:

- Refuse, never repair: whatever two readers might understand in two ways raises `BadHead` with the status to answer.
- No head is passed on as it came. The start line, and every field that governs framing, routing or the connection,
  is written anew. All other fields pass as lines that the grammar of RFC 9112 §5 admits, and without a `_` in their
  name, for many servers read `X_A` and `X-A` as one.
- Grammar is llhttp's business (fed the field lines, without callbacks); it is strict there, and a test compares it
  byte by byte with the RFC's. What llhttp lets pass is refused here: versions, targets, `Host`, framing, limits.
- One search finds all the fields that matter. What it yields depends on the field lines and the version alone, so a
  caller that sees the same lines again may use the result again.

A "block" is the field lines of a head, from the CRLF that ends the start line to the empty line.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import httptools

PSEUDONYM: Final = b"kalab"  # this proxy's name in Via (RFC 9110 §7.6.3)
CRLF: Final = b"\r\n"
HEAD_END: Final = b"\r\n\r\n"

# Fields that concern this connection only, and so never travel on (RFC 9110 §7.6.1, §11.7).
HOP_BY_HOP: Final = rb"connection|proxy-connection|keep-alive|te|trailer|transfer-encoding|upgrade|proxy-authenticate"

_DIGITS = re.compile(rb"[0-9]{1,18}").fullmatch
_IMPOSSIBLE = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?!\n|\Z)").search
_UNDERSCORED = re.compile(rb"\r\n[^:\r\n]*_[^:\r\n]*:[^\r\n]*").sub

# Naming one of these in Connection would take away what the next hop relies on.
_NOT_HOP_BY_HOP = re.compile(rb"host|content-length|authorization|x-forwarded-.*").fullmatch


class BadHead(Exception):  # noqa: N818 - it says what the head is
    """A head that is refused. `status` is the answer to a request; for a response it is always a 502."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class HeadLimits(NamedTuple):
    """The largest head taken. Bytes; `line` bounds the start line and each field line, `fields` counts lines."""

    line: int = 8 * 1024
    head: int = 64 * 1024
    fields: int = 100


class PartialHead:
    """A head that arrives in pieces. Every byte is looked at once, and limits count across the pieces."""

    __slots__ = ("_data", "_limits")

    def __init__(self, limits: HeadLimits) -> None:
        self._data = bytearray()
        self._limits = limits

    def __repr__(self) -> str:
        return f"<PartialHead {len(self._data)} bytes>"

    def feed(self, piece: bytes) -> bytes | None:
        """All that has arrived, once the head is in it. Raises as soon as it can no longer become one."""
        data = self._data
        looked_at = max(len(data) - 3, 0)
        data += piece
        end = data.find(HEAD_END, looked_at)
        if end >= 0:
            return bytes(data)
        if len(data) > self._limits.line and data.find(CRLF, 0, self._limits.line + 2) < 0:
            raise BadHead(414, "the start line is too long")
        if len(data) > self._limits.head:
            raise BadHead(431, "the head is too long")
        if _IMPOSSIBLE(data, looked_at):
            raise BadHead(400, "a control character, or a line that does not end in CRLF")
        return None


def lines_of(names: bytes) -> re.Pattern[bytes]:
    """Finds the field lines with these names ("a|b|c"), in a block that begins with CRLF. Groups: name, value."""
    first = bytes(sorted({name[0] for name in names.split(b"|")}))  # tested before each name is tried
    return re.compile(rb"\r\n(?=[%b])(%b):[ \t]*([^\r\n]*)" % (first + first.upper(), names), re.IGNORECASE)


def options(value: bytes) -> list[bytes]:
    """The members of a Connection field, in lower case."""
    return [option for part in value.lower().split(b",") if (option := part.strip(b" \t"))]


def framing(lengths: list[bytes], codings: list[bytes], http10: bool) -> tuple[int | None, bool]:
    """Content-Length and whether chunked (RFC 9112 §6), refusing all that makes request smuggling possible."""
    if codings:
        if http10:
            raise BadHead(400, "Transfer-Encoding in an HTTP/1.0 message")
        if lengths:
            raise BadHead(400, "both Content-Length and Transfer-Encoding")
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            raise BadHead(501, "the only transfer coding known is chunked")
        return None, True
    if not lengths:
        return None, False
    if len(lengths) > 1 or not _DIGITS(lengths[0]):
        raise BadHead(400, "Content-Length is not one number")
    return int(lengths[0]), False


def keeps_alive(named: list[bytes], http10: bool) -> bool:
    """RFC 9112 §9.3: persistent by default in 1.1, on request in 1.0."""
    return b"close" not in named and (not http10 or b"keep-alive" in named)


def without_named(block: bytes, named: list[bytes]) -> bytes:
    """The field lines without those named in Connection, and without names that hold an underscore."""
    if named:
        unwanted = {name for name in named if name not in (b"close", b"keep-alive")}
        if any(map(_NOT_HOP_BY_HOP, unwanted)):
            raise BadHead(400, "Connection names a field that is not the connection's")
        if unwanted:
            lines = block.split(CRLF)
            block = CRLF.join([line for line in lines if line.partition(b":")[0].lower() not in unwanted])
    if b"_" in block:
        block = _UNDERSCORED(b"", block)
    return block


def check_lines(block: bytes, limits: HeadLimits) -> None:
    if block.count(CRLF) - 2 > limits.fields:
        raise BadHead(431, "too many fields")
    if len(block) > limits.line and max(map(len, block.split(CRLF))) > limits.line:
        raise BadHead(431, "a field line is too long")


def check_grammar(block: bytes) -> None:
    """Has llhttp read the field lines. A response's, for both kinds: it is the stricter with a fixed start line."""
    try:
        httptools.HttpResponseParser(None).feed_data(b"HTTP/1.1 200 OK" + block)
    except httptools.HttpParserUpgrade:
        pass  # it would switch protocols here; the lines are sound
    except httptools.HttpParserError:
        raise BadHead(400, "a field line is malformed") from None
