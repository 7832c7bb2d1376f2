"""What the heads of HTTP/1 requests and responses have in common: grammar, framing, limits. Bytes only, no I/O.

Rules of this file, and of `request_head.py` and `response_head.py`, which build on it:

- Refuse, never repair: whatever two readers might understand in two ways raises `BadHead` with the status to answer.
- No head is passed on as it came. The start line, and every field that governs framing, routing or the connection,
  is written anew. All other fields pass as lines that the grammar of RFC 9112 §5 admits, and without a `_` in their
  name, for many servers read `X_A` and `X-A` as one.
- llhttp judges the grammar of the field lines, and nobody else: what it would let pass against RFC 9112 §5 is a hole.
  Tests compare it with a grammar of their own byte by byte. The start lines are matched here.
- One split finds the fields that matter and takes them out; nobody looks at the others. What they mean depends on
  their lines and the version alone, and these vary little from one head to the next: it is remembered by them.

A "block" is the field lines of a head, from the CRLF that ends the start line to the one before the empty line. What
the split takes out of it is "marked", and what it leaves is "kept".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from types import SimpleNamespace
from typing import Final, TypeAlias

import httptools

PSEUDONYM: Final = b"kalab"  # this proxy's name in Via (RFC 9110 §7.6.3)
CRLF: Final = b"\r\n"
HEAD_END: Final = b"\r\n\r\n"
LF: Final = 0x0A  # a single byte is looked for fastest by its number
CR: Final = 0x0D
COLON: Final = 0x3A
UNDERSCORE: Final = 0x5F
OWS: Final = b" \t"  # what may stand around a value (RFC 9110 §5.6.3)

REMEMBERED: Final = 4 * 1024  # bytes of the largest head that a connection remembers, to know it again
# A connection's heads are mostly all the same or all different. So it remembers only one of so many that are new to it:
# a head that is kept for nothing takes up the memory, and the cache, that the next one could have used.
REMEMBERED_OF: Final = 8
REMEMBERED_LINES: Final = 512  # bytes of marked lines, whose meaning is remembered
NEAR: Final = 128  # bytes in which the end of a head is looked for where the last one had its
MEANINGS: Final = 1024  # that are remembered, of requests and of responses

TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"  # one character of it (RFC 9110 §5.6.2)
VALUE: Final = rb"[\t -~\x80-\xff]"  # likewise of a value (RFC 9110 §5.5)

# Fields that concern this connection only, and so never travel on (RFC 9110 §7.6.1, §11.7).
HOP_BY_HOP: Final[tuple[bytes, ...]] = (
    *(b"connection", b"proxy-connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    b"proxy-authenticate",
)

# The fields that a split found, by their name in lower case. Several with one name are one list (RFC 9110 §5.3).
Said: TypeAlias = dict[bytes, bytes]

NOT_CHUNKED: Final = "the only transfer coding known is chunked"

_MOST_DIGITS = 18  # of a Content-Length
_IMPOSSIBLE = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?!\n|\Z)").search
_UNDERSCORED = re.compile(rb"\r\n[^:\r\n_]*+_[^:\r\n]*+:[^\r\n]*+").sub
_EMPTY_CODING = re.compile(rb"\r\nTransfer-Encoding:[ \t]*(?=\r\n)", re.IGNORECASE).subn
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

    __slots__ = ("fields", "head", "line", "surely")

    def __init__(self, line: int = 8 * 1024, head: int = 64 * 1024, fields: int = 100) -> None:
        self.set(line, head, fields)

    def set(self, line: int, head: int, fields: int) -> None:
        """Others, for all readers that share it."""
        self.line = line
        self.head = head
        self.fields = fields
        self.surely = min(line, head)  # bytes; a head up to this size can break no limit but that of fields

    def __repr__(self) -> str:
        return f"<HeadLimits line {self.line}, head {self.head}, fields {self.fields}>"


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
    """Splits a block at the field lines with these names, which are patterns in lower case.

    The list: what stands before the first of them, its line; what stands before the second, and so on; what stands
    behind the last. So the marked lines are at odd places, and what is kept at even ones.
    """
    tails: dict[int, list[bytes]] = {}
    for name in names:
        tails.setdefault(name[0], []).append(name[1:])
    first = bytes(tails)  # tested before each name is tried
    branches = b"|".join(b"%c(?:%b)" % (letter, b"|".join(tails[letter])) for letter in tails)
    return re.compile(rb"(\r\n(?=[%b])(?:%b):[^\r\n]*+)" % (first + first.upper(), branches), re.IGNORECASE).split


@lru_cache
def finder(name: bytes) -> Callable[[bytes], re.Match[bytes] | None]:
    """Finds the first field line with this name in a block. Group 1: the value, but for spaces at its end."""
    return re.compile(rb"\r\n%b:[ \t]*+([^\r\n]*)" % re.escape(name), re.IGNORECASE).search


def said_in(marked: bytes) -> Said:
    """What the marked lines of a block say."""
    said: Said = {}
    for line in marked.split(CRLF)[1:]:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(OWS)
        said[name] = said[name] + b", " + value if name in said else value
    return said


def members(value: bytes) -> tuple[bytes, ...]:
    """The members of a list such as Connection, in lower case (RFC 9110 §5.6.1)."""
    return tuple([member for part in value.lower().split(b",") if (member := part.strip(OWS))])


def connection_options(value: bytes) -> tuple[tuple[bytes, ...], frozenset[bytes]]:
    """The members of Connection, and which of them name fields that are to be removed."""
    named = members(value)
    unwanted = frozenset(named) - _TAKEN_OUT
    if any(map(_NOT_HOP_BY_HOP, unwanted)):
        raise BadHead(400, "Connection names a field that is not the connection's")
    return named, unwanted


def framing(said: Said, http10: bool) -> tuple[int | None, bool]:
    """Content-Length and whether chunked (RFC 9112 §6), refusing all that makes request smuggling possible."""
    length, coding = said.get(b"content-length"), said.get(b"transfer-encoding")
    if coding is not None:
        if http10:
            raise BadHead(400, "Transfer-Encoding in an HTTP/1.0 message")
        if length is not None:
            raise BadHead(400, "both Content-Length and Transfer-Encoding")
        if coding.lower() != b"chunked":
            raise BadHead(501, NOT_CHUNKED)
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


def read_block(data: bytes, at: int, limits: HeadLimits, near: int = 0) -> tuple[bytes, int] | None:
    """The block of the head whose start line takes the first `at` bytes, and where the head ends.

    It is sound, and has no fields with a `_` in their name. None: its end has not come yet. `near`: where its end may
    be, a guess that saves the search.
    """
    block = b""
    if near > at and (end := data.find(HEAD_END, near, near + NEAR)) > 0 and data[end - 1] > CR:
        # llhttp says whether there is another end before this one; but it passes over empty lines.
        block = data[at : end + 2]
        end += 4
        if end > limits.surely or not llhttp.admits(block):
            block = b""
    if not block:
        end = data.find(HEAD_END, at)
        if end < 0:
            return None
        block = data[at : end + 2]
        end += 4
        if end > limits.surely:
            _check_sizes(block, at, end, limits)
        if not llhttp.admits(block) and not llhttp.admits(block):  # the second time it is a new one
            raise _refused(block)
    if block.count(LF) - 1 > limits.fields:
        raise BadHead(431, "too many fields")
    if UNDERSCORE in block and _is_underscored(block):
        block = _UNDERSCORED(b"", block)
    return block, end


def _is_underscored(block: bytes) -> bool:
    """Whether a name has a `_`. Many values have, of User-Agent and Cookie above all."""
    at = block.find(UNDERSCORE)
    while at >= 0:
        if block.find(COLON, block.rfind(LF, 0, at), at) < 0:
            return True
        at = block.find(UNDERSCORE, block.find(CR, at))  # on the next line
    return False


def _refused(block: bytes) -> BadHead:
    """Why llhttp has refused a block. It takes no empty Transfer-Encoding, which names no coding that is known."""
    named, empty = _EMPTY_CODING(rb"\g<0>x", block)
    if empty and llhttp.admits(named):
        return BadHead(501, NOT_CHUNKED)
    try:
        framing(said_in(block), http10=False)
    except BadHead as bad:
        return BadHead(400, str(bad))
    return BadHead(400, "a field line is malformed")


def _check_sizes(block: bytes, at: int, end: int, limits: HeadLimits) -> None:
    if at > limits.line:
        raise BadHead(414, "the start line is too long")
    if end > limits.head:
        raise BadHead(431, "the head is too long")
    if len(block) > limits.line and max(map(len, block.split(CRLF))) > limits.line:
        raise BadHead(431, "a field line is too long")


class Llhttp:
    """llhttp as the judge of blocks: it says whether one is within the grammar, and one only.

    It reads them as responses, for both kinds: there it is the stricter. They all have the status 304, and so no body
    whatever they say: at the end of a head the parser is where the next one begins. It is kept, for to make one costs
    a third of what it costs to read a head; but only if it has told of the beginning and the end of one message, and
    of no other, when all was read. So nothing is carried from one head to the next.
    """

    __slots__ = ("_feed", "_to_begin", "_to_end")

    def __init__(self) -> None:
        self._begin_anew()

    def _begin_anew(self) -> None:
        # The message that it is to tell of. When it tells of a second one there is nothing to pop, and that raises.
        self._to_begin: list[None] = [None]
        self._to_end: list[None] = [None]
        told = SimpleNamespace(on_message_begin=self._to_begin.pop, on_message_complete=self._to_end.pop)
        self._feed = httptools.HttpResponseParser(told).feed_data

    def admits(self, block: bytes) -> bool:
        """Whether this is one block, and sound. A refusal stands if it is the second: one that has read
        `Connection: close` takes nothing more, and after every refusal there is a new one."""
        try:
            self._feed(b"HTTP/1.1 304 X%b\r\n" % block)
        except httptools.HttpParserError:
            self._begin_anew()
            return False
        if self._to_begin or self._to_end:
            self._begin_anew()
            return False
        self._to_begin.append(None)
        self._to_end.append(None)
        return True


llhttp: Final = Llhttp()  # nothing of a head stays in it, so one is enough


@lru_cache(maxsize=1024)
def is_authority(value: bytes) -> bool:
    """Whether it can stand in Host: host and perhaps port, no user (RFC 9110 §7.2). Clients ask for the same few."""
    return _AUTHORITY(value) is not None
