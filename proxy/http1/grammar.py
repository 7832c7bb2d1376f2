"""What the heads of HTTP/1 requests and responses have in common: grammar, framing, limits. Bytes only, no I/O.

Rules of this file, and of `request_head.py` and `response_head.py`, which build on it:

- Refuse, never repair: whatever two readers might understand in two ways raises `BadHead` with the status to answer.
- No head is passed on as it came. The start line, and every field that governs framing, routing or the connection,
  is written anew. All other fields pass as lines that the grammar of RFC 9112 §5 admits, and without a `_` in their
  name, for many servers read `X_A` and `X-A` as one.
- The grammar is one regular expression over all field lines, with the bound on their number in it. What it lets pass,
  llhttp reads too (`read_again`): a hole in either is no hole in the proxy. A test compares the two byte by byte.
- One split finds the fields that matter and takes them out; nobody looks at the others. What it yields depends on the
  field lines and the version alone, so a caller that sees the same lines again may use the result again.

A "block" is the field lines of a head, from the CRLF that ends the start line to the empty line.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final, TypeAlias

import httptools

PSEUDONYM: Final = b"kalab"  # this proxy's name in Via (RFC 9110 §7.6.3)
CRLF: Final = b"\r\n"
HEAD_END: Final = b"\r\n\r\n"
OWS: Final = b" \t"  # what may stand around a value (RFC 9110 §5.6.3)

REMEMBERED: Final = 4 * 1024  # bytes of the largest head that a connection remembers, to know it again

TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"  # one character of it (RFC 9110 §5.6.2)
VALUE: Final = rb"[\t -~\x80-\xff]"  # likewise of a value (RFC 9110 §5.5)

# Fields that concern this connection only, and so never travel on (RFC 9110 §7.6.1, §11.7).
HOP_BY_HOP: Final = (
    *(b"connection", b"proxy-connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    b"proxy-authenticate",
)

# The fields that a split found, by their name in lower case. Several with one name are one list (RFC 9110 §5.3).
Said: TypeAlias = dict[bytes, bytes]

_MOST_FIELDS = 1_000_000  # what a limit on fields can mean at most
_MOST_DIGITS = 18  # of a Content-Length
_USUAL_OPTIONS = 64  # bytes of the longest Connection that is remembered
_SOUND = re.compile(rb"(?:\r\n" + TOKEN + rb"++:" + VALUE + rb"*+)*\r\n\r\n").fullmatch
_IMPOSSIBLE = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?!\n|\Z)").search
_UNDERSCORED = re.compile(rb"\r\n[^:\r\n]*_[^:\r\n]*:[^\r\n]*").sub
# RFC 3986 §3.2.2, but for the comma: X-Forwarded-Host is read as a list.
_AUTHORITY = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+;=%-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?").fullmatch
_PROTOCOL = re.compile(TOKEN + rb"++(?:/" + TOKEN + rb"++)?").fullmatch

# Naming one of these in Connection would take away what the next hop relies on.
_NOT_HOP_BY_HOP = re.compile(rb"host|content-length|authorization|x-forwarded-.*").fullmatch
_TAKEN_OUT = frozenset({b"close", *HOP_BY_HOP})  # what it may name without any line being left to remove


class BadHead(Exception):  # noqa: N818 - it says what the head is
    """A head that is refused. `status` is the answer to a request; for a response it is always a 502."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class HeadLimits:
    """The largest head taken. Bytes; `line` bounds the start line and each field line, `fields` counts lines."""

    __slots__ = ("fields", "head", "line", "sound_block", "surely")

    def __init__(self, line: int = 8 * 1024, head: int = 64 * 1024, fields: int = 100) -> None:
        self.set(line, head, fields)

    def set(self, line: int, head: int, fields: int) -> None:
        """Others, for all readers that share it."""
        self.line = line
        self.head = head
        self.fields = fields
        self.surely = min(line, head)  # bytes; a head up to this size can break no limit but that of fields
        self.sound_block = _sound_with(min(fields, _MOST_FIELDS))

    def __repr__(self) -> str:
        return f"<HeadLimits line {self.line}, head {self.head}, fields {self.fields}>"


@lru_cache
def _sound_with(fields: int) -> Callable[[bytes, int], re.Match[bytes] | None]:
    """Matches a block at a place in bytes: at most so many fields, all sound, and none with `_` in its name."""
    name = TOKEN.replace(b"_", b"")
    return re.compile(rb"(?:\r\n" + name + rb"++:" + VALUE + rb"*+){0,%d}\r\n\r\n" % fields).match


class PartialHead:
    """A head that arrives in pieces. Every byte is looked at once, and limits count across the pieces."""

    __slots__ = ("_limits", "data")

    def __init__(self, limits: HeadLimits) -> None:
        self.data = bytearray()
        self._limits = limits

    def __repr__(self) -> str:
        return f"<PartialHead {len(self.data)} bytes>"

    def feed(self, piece: bytes) -> bytes | None:
        """All that has arrived, once the head is in it. Raises as soon as it can no longer become one."""
        data = self.data
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


def splitter(*names: bytes) -> Callable[[bytes], list[bytes]]:
    """Splits a sound block at the field lines with these names, which are patterns in lower case.

    The list: what stands before the first of them, its name, its value; what stands before the second, and so on;
    what stands behind the last.
    """
    tails: dict[int, list[bytes]] = {}
    for name in names:
        tails.setdefault(name[0], []).append(name[1:])
    first = bytes(tails)  # tested before each name is tried
    branches = b"|".join(b"%c(?:%b)" % (letter, b"|".join(tails[letter])) for letter in tails)
    return re.compile(rb"\r\n(?=[%b])(%b):[ \t]*+([^\r\n]*)" % (first + first.upper(), branches), re.IGNORECASE).split


@lru_cache
def finder(name: bytes) -> Callable[[bytes], re.Match[bytes] | None]:
    """Finds the first field line with this name in a sound block. Group 1: the value, but for spaces at its end."""
    return re.compile(rb"\r\n%b:[ \t]*+([^\r\n]*)" % re.escape(name), re.IGNORECASE).search


def said_in(parts: list[bytes]) -> Said:
    """The fields that a split found."""
    said: Said = {}
    for at in range(1, len(parts), 3):
        name, value = parts[at].lower(), parts[at + 1].rstrip(OWS)
        said[name] = said[name] + b", " + value if name in said else value
    return said


def members(value: bytes) -> tuple[bytes, ...]:
    """The members of a list such as Connection, in lower case (RFC 9110 §5.6.1)."""
    return tuple([member for part in value.lower().split(b",") if (member := part.strip(OWS))])


def connection_options(value: bytes) -> tuple[tuple[bytes, ...], frozenset[bytes]]:
    """The members of Connection, and which of them name fields that are to be removed."""
    return _known_options(value) if len(value) <= _USUAL_OPTIONS else _options(value)


def _options(value: bytes) -> tuple[tuple[bytes, ...], frozenset[bytes]]:
    named = members(value)
    unwanted = frozenset(named) - _TAKEN_OUT
    if any(map(_NOT_HOP_BY_HOP, unwanted)):
        raise BadHead(400, "Connection names a field that is not the connection's")
    return named, unwanted


_known_options = lru_cache(maxsize=256)(_options)  # most peers say one of three things


def framing(said: Said, http10: bool) -> tuple[int | None, bool]:
    """Content-Length and whether chunked (RFC 9112 §6), refusing all that makes request smuggling possible."""
    length, coding = said.get(b"content-length"), said.get(b"transfer-encoding")
    if coding is not None:
        if http10:
            raise BadHead(400, "Transfer-Encoding in an HTTP/1.0 message")
        if length is not None:
            raise BadHead(400, "both Content-Length and Transfer-Encoding")
        if coding.lower() != b"chunked":
            raise BadHead(501, "the only transfer coding known is chunked")
        return None, True
    if length is None:
        return None, False
    if not length.isdigit() or len(length) > _MOST_DIGITS:
        raise BadHead(400, "Content-Length is not one number")
    return int(length), False


def keeps_alive(named: tuple[bytes, ...], http10: bool) -> bool:
    """RFC 9112 §9.3: persistent by default in 1.1, on request in 1.0."""
    return b"close" not in named and (not http10 or b"keep-alive" in named)


def asked_protocol(said: Said, named: tuple[bytes, ...]) -> bytes:
    """The protocol that Upgrade asks for, in lower case; of several the first, which is preferred. "" is none.

    It counts only when Connection names it too (RFC 9110 §7.8).
    """
    protocols = members(said.get(b"upgrade", b""))
    return protocols[0] if protocols and b"upgrade" in named and all(map(_PROTOCOL, protocols)) else b""


def without_named(kept: bytes, unwanted: frozenset[bytes]) -> bytes:
    """The field lines without those with these names, in lower case."""
    return CRLF.join([line for line in kept.split(CRLF) if line.partition(b":")[0].lower() not in unwanted])


def read_block(data: bytes, at: int, limits: HeadLimits) -> tuple[bytes, int] | None:
    """The sound field lines of the head whose start line takes the first `at` bytes, and where it ends.

    None: its end has not come yet.
    """
    found = limits.sound_block(data, at)
    if found is not None and (end := found.end()) <= limits.surely:
        return data[at:end], end
    end = data.find(HEAD_END, at) + len(HEAD_END)
    if end < len(HEAD_END):
        return None
    if at > limits.line:
        raise BadHead(414, "the start line is too long")
    if end > limits.head:
        raise BadHead(431, "the head is too long")
    return sound(data[at:end], limits), end


def sound(block: bytes, limits: HeadLimits) -> bytes:
    """The field lines, if they are within the grammar and the limits, without those that have a `_` in their name."""
    if block.count(CRLF) - 2 > limits.fields:
        raise BadHead(431, "too many fields")
    if len(block) > limits.line and max(map(len, block.split(CRLF))) > limits.line:
        raise BadHead(431, "a field line is too long")
    if not _SOUND(block):
        raise BadHead(400, "a field line is malformed")
    return _UNDERSCORED(b"", block)


def read_again(block: bytes) -> None:
    """Has llhttp read the field lines. As a response's, for both kinds: with a fixed start line it is the stricter.

    Without callbacks it costs half a microsecond, and only for lines that are not the same as last time.
    """
    try:
        httptools.HttpResponseParser(None).feed_data(b"HTTP/1.1 200 OK" + block)
    except httptools.HttpParserUpgrade:
        pass  # it would switch protocols here; the lines are sound
    except httptools.HttpParserError:
        raise BadHead(400, "a field line is malformed") from None


@lru_cache(maxsize=1024)
def is_authority(value: bytes) -> bool:
    """Whether it can stand in Host: host and perhaps port, no user (RFC 9110 §7.2). Clients ask for the same few."""
    return _AUTHORITY(value) is not None
