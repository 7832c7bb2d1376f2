"""A reader of HTTP/1 messages that takes RFC 9112 at its word. It judges the proxy, so it shares no code with it.

Rules of this file:

- Slow and plain: a cursor, one line at a time, no regular expression that stands for a whole head.
- Two strengths. `canonical` is what a proxy that writes every message anew must send: no chunk extension, no trailer,
  no folded line, one spelling of each framing field. Without it the reader takes all that the RFC lets a sender do,
  and nothing that it calls an error, however many recipients forgive that.
- Bytes that may still become a message are left alone; bytes that no longer can raise `Unsound`.
"""

from __future__ import annotations

from typing import NamedTuple

TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
VISIBLE = frozenset(range(0x21, 0x7F))
TEXT = VISIBLE | frozenset(range(0x80, 0x100)) | frozenset(b" \t")
HEX = frozenset(b"0123456789abcdefABCDEF")
DIGITS = frozenset(b"0123456789")

# Never sent on by a proxy (RFC 9110 §7.6.1), but for the framing that it chose itself.
HOP_BY_HOP = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"te", b"trailer", b"upgrade"})

Fields = tuple[tuple[bytes, bytes], ...]


class Unsound(Exception):  # noqa: N818 - it says what the bytes are
    """These bytes are not, and will not become, a message by RFC 9112. `found`: what came before them."""

    found: tuple[Message, ...] = ()


class _Incomplete(Exception):  # noqa: N818 - the same
    """The end of the message has not come."""


class Head(NamedTuple):
    """A start line's three parts, and the fields with their names in lower case."""

    start: tuple[bytes, bytes, bytes]
    fields: Fields

    def all(self, name: bytes) -> list[bytes]:
        return [value for found, value in self.fields if found == name]


class Message(NamedTuple):
    """One message and where it lies. `complete` is false only for a response that the close cut short."""

    head: Head
    body: bytes
    begin: int
    end: int
    complete: bool = True

    @property
    def status(self) -> int:
        return int(self.head.start[1])


def read_requests(data: bytes, *, canonical: bool = False) -> tuple[list[Message], int]:
    """All whole requests, and where the last one ends."""
    found: list[Message] = []
    at = 0
    while at < len(data):
        begin = at
        while not canonical and data.startswith(b"\r\n", begin):
            begin += 2  # RFC 9112 §2.2: at least one empty line is ignored
        try:
            head, body_at = _read_head(data, begin)
            _check_request_line(head, canonical)
            length, chunked = _request_framing(head, canonical)
            body, end = _read_chunked(data, body_at, canonical) if chunked else _read_length(data, body_at, length)
        except _Incomplete:
            return found, at
        except Unsound as problem:
            problem.found = tuple(found)
            raise
        found.append(Message(head, body, at, end))
        at = end
    return found, at


def read_responses(
    data: bytes, methods: list[bytes], *, closed: bool, canonical: bool = True
) -> tuple[list[Message], int]:
    """All responses, interim ones too, to requests with these methods; `closed`: no more will come."""
    found: list[Message] = []
    at = 0
    left = list(methods)
    while at < len(data):
        try:
            head, body_at = _read_head(data, at)
        except _Incomplete:
            return found, at
        status = _check_status_line(head)
        if status < 200:
            if not left or (canonical and (head.all(b"content-length") or head.all(b"transfer-encoding"))):
                raise Unsound("an interim response that nobody awaits, or with framing")
            found.append(Message(head, b"", at, body_at))
            at = body_at
            continue
        if not left:
            raise Unsound("more answers than requests")
        message = _read_answer(data, at, body_at, head, left.pop(0), closed, canonical)
        if message is None:
            return found, at
        found.append(message)
        at = message.end
    return found, at


def _read_answer(
    data: bytes, at: int, body_at: int, head: Head, method: bytes, closed: bool, canonical: bool
) -> Message | None:
    """The final response that begins at `at`; None if its end has not come and may."""
    status = int(head.start[1])
    length, chunked = _framing(head)
    if canonical and status == 204 and (chunked or length is not None):
        raise Unsound("a 204 with framing (RFC 9110 §8.6, RFC 9112 §6.1)")
    if method == b"HEAD" or status in (204, 304):
        return Message(head, b"", at, body_at)
    if not chunked and length is None:
        return Message(head, data[body_at:], at, len(data), True) if closed else None
    try:
        body, end = _read_chunked(data, body_at, canonical) if chunked else _read_length(data, body_at, length or 0)
    except _Incomplete:
        return Message(head, data[body_at:], at, len(data), False) if closed else None
    return Message(head, body, at, end)


# --- Heads


def _line(data: bytes, at: int) -> tuple[bytes, int]:
    end = data.find(b"\n", at)
    if end < 0:
        raise _Incomplete
    if end == at or data[end - 1] != 0x0D:
        raise Unsound("a bare LF (RFC 9112 §2.2)")
    line = data[at : end - 1]
    if b"\r" in line:
        raise Unsound("a bare CR (RFC 9112 §2.2)")
    return line, end + 1


def _read_head(data: bytes, at: int) -> tuple[Head, int]:
    line, at = _line(data, at)
    parts = line.split(b" ", 2)
    if len(parts) == 2 and line.startswith(b"HTTP/"):
        parts.append(b"")  # a status line without its last space: an error (RFC 9112 §4), but a clear one
    if len(parts) != 3 or not all(parts[:2]):
        raise Unsound("not three words (RFC 9112 §3, §4)")
    fields, at = _read_fields(data, at)
    return Head((parts[0], parts[1], parts[2]), fields), at


def _read_fields(data: bytes, at: int) -> tuple[Fields, int]:
    fields: list[tuple[bytes, bytes]] = []
    while True:
        line, at = _line(data, at)
        if not line:
            return tuple(fields), at
        name, colon, value = line.partition(b":")
        if not colon or not name or not TOKEN.issuperset(name):
            raise Unsound("not a field line (RFC 9112 §5.1)")  # an obs-fold (§5.2) too: it begins with a space
        if not TEXT.issuperset(value):
            raise Unsound("a control character in a value (RFC 9110 §5.5)")
        fields.append((name.lower(), value.strip(b" \t")))


def _check_request_line(head: Head, canonical: bool) -> None:
    method, target, version = head.start
    if not TOKEN.issuperset(method) or not VISIBLE.issuperset(target) or b"#" in target:
        raise Unsound("not a request line (RFC 9112 §3)")
    if version not in ((b"HTTP/1.1",) if canonical else (b"HTTP/1.0", b"HTTP/1.1")):
        raise Unsound("not the version (RFC 9112 §2.3)")
    absolute = not canonical and target.lower().startswith(b"http://") and len(target) > 7
    if not (target.startswith(b"/") or (target == b"*" and method == b"OPTIONS") or absolute):
        raise Unsound("not a target that an origin server takes (RFC 9112 §3.2)")
    hosts = head.all(b"host")
    if len(hosts) > 1 or (not hosts and version == b"HTTP/1.1"):
        raise Unsound("not one Host (RFC 9112 §3.2)")
    if canonical and HOP_BY_HOP.intersection(name for name, _ in head.fields):
        raise Unsound("a hop-by-hop field was sent on (RFC 9110 §7.6.1)")
    if canonical and any(b"_" in name for name, _ in head.fields):
        raise Unsound("a name with an underscore was sent on")


def _check_status_line(head: Head) -> int:
    version, status, reason = head.start
    if version not in (b"HTTP/1.0", b"HTTP/1.1") or not TEXT.issuperset(reason):
        raise Unsound("not a status line (RFC 9112 §4)")
    if len(status) != 3 or not DIGITS.issuperset(status) or not 100 <= int(status) <= 999:
        raise Unsound("not a status (RFC 9110 §15)")
    return int(status)


# --- Framing (RFC 9112 §6)


def _framing(head: Head) -> tuple[int | None, bool]:
    lengths, codings = head.all(b"content-length"), head.all(b"transfer-encoding")
    if codings:
        if lengths or head.start[0] == b"HTTP/1.0" or head.start[2] == b"HTTP/1.0":
            raise Unsound("Transfer-Encoding beside Content-Length, or in HTTP/1.0 (RFC 9112 §6.1)")
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            raise Unsound("a transfer coding that is not chunked alone (RFC 9112 §6.1)")
        return None, True
    if not lengths:
        return None, False
    if len(lengths) > 1 or not lengths[0] or not DIGITS.issuperset(lengths[0]):
        raise Unsound("not one Content-Length (RFC 9112 §6.3)")
    return int(lengths[0]), False


def _request_framing(head: Head, canonical: bool) -> tuple[int, bool]:
    length, chunked = _framing(head)
    if canonical and head.all(b"content-length") not in ([], [b"%d" % (length or 0)]):
        raise Unsound("Content-Length is not in its one canonical form")
    if canonical and head.all(b"transfer-encoding") not in ([], [b"chunked"]):
        raise Unsound("Transfer-Encoding is not in its one canonical form")
    return length or 0, chunked


def _read_length(data: bytes, at: int, length: int) -> tuple[bytes, int]:
    if len(data) - at < length:
        raise _Incomplete
    return data[at : at + length], at + length


def _read_chunked(data: bytes, at: int, canonical: bool) -> tuple[bytes, int]:
    pieces: list[bytes] = []
    while True:
        line, at = _line(data, at)
        digits, semicolon, extension = line.partition(b";")
        if not digits or not HEX.issuperset(digits) or not TEXT.issuperset(extension):
            raise Unsound("not the size of a chunk (RFC 9112 §7.1)")
        if canonical and (semicolon or digits != b"%x" % int(digits, 16)):
            raise Unsound("a chunk's size is not in its one canonical form")
        size = int(digits, 16)
        if size == 0:
            trailers, at = _read_fields(data, at)
            if canonical and trailers:
                raise Unsound("trailers were sent on")
            return b"".join(pieces), at
        if len(data) < at + size + 2:
            if data[at + size : at + size + 2] not in (b"", b"\r"):
                raise Unsound("a chunk is longer than it said (RFC 9112 §7.1)")
            raise _Incomplete
        if data[at + size : at + size + 2] != b"\r\n":
            raise Unsound("a chunk is longer than it said (RFC 9112 §7.1)")
        pieces.append(data[at : at + size])
        at += size + 2
