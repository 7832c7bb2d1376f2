"""HTTP/1 bodies: where one ends, and its payload without the framing it came in. No I/O.

Each reader is fed what arrives and returns the payload in it. When `done` is true, `rest` holds what follows the
message. Rules of this file:

- Chunk extensions are dropped, and trailers too unless they are asked for (RFC 9112 §7.1.1 and §7.1.2 allow it): nobody
  can hide a field there. See `trailers.py`.
- What arrived together leaves together: many small chunks of one read become one.
- Nothing is kept but the start of an unfinished line, and that is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from enum import Enum, auto
from typing import Final, Protocol, TypeAlias

from proxy.http1.grammar import VALUE
from proxy.http1.trailers import MAX_BYTES, Trailers

Payload: TypeAlias = bytes | memoryview

LAST_CHUNK: Final = b"0\r\n\r\n"
WORTH_A_VIEW: Final = 16 * 1024  # bytes; below this, copying a slice is cheaper than a view of it

MAX_SIZE_LINE: Final = 16 + 256  # hex digits of a chunk's size, and its extensions

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;" + VALUE + rb"{0,255})?").fullmatch


class BadBody(Exception):  # noqa: N818 - it says what the body is
    """The framing of a body is broken: where it ends cannot be known any more."""


class BodyReader(Protocol):
    """Finds the end of one body."""

    done: bool
    rest: bytes

    def feed(self, data: bytes) -> Payload:
        """The payload in these bytes, the next to arrive. Raises `BadBody`."""


def chunk(payload: Payload) -> list[Payload]:
    """One chunk as the parts to write. An empty payload is no chunk: it would end the body."""
    return [b"%x\r\n" % len(payload), payload, b"\r\n"] if payload else []


def last_chunk(trailers: bytes) -> bytes:
    """The end of a chunked body; `trailers` are lines that each end in CRLF."""
    return b"0\r\n%b\r\n" % trailers if trailers else LAST_CHUNK


class LengthBody:
    """A body of known length."""

    __slots__ = ("_left", "done", "rest")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0
        self.rest = b""

    def __repr__(self) -> str:
        return f"<LengthBody {self._left} left>"

    def feed(self, data: bytes) -> Payload:
        left = self._left - len(data)
        if left > 0:
            self._left = left
            return data
        self.done = True
        if left < 0:
            self.rest = data[self._left :]
            data = data[: self._left]
        self._left = 0
        return data


class UntilCloseBody:
    """A response body that only a FIN ends (RFC 9112 §6.3). The connection sees that; here `done` stays false."""

    __slots__ = ("done", "rest")

    def __init__(self) -> None:
        self.done = False
        self.rest = b""

    def __repr__(self) -> str:
        return "<UntilCloseBody>"

    def feed(self, data: bytes) -> Payload:
        return data


class _Next(Enum):
    """What comes next in a chunked body, outside of a chunk's payload."""

    SIZE = auto()
    END_OF_CHUNK = auto()
    TRAILER = auto()


class ChunkedBody:
    """A chunked body (RFC 9112 §7.1).

    `keep_trailers`: when it is done, `trailers` holds the lines to send on, without those that Connection `named`.
    """

    __slots__ = ("_held", "_left", "_next", "_trailers", "done", "rest")

    def __init__(self, *, keep_trailers: bool = False, named: Collection[bytes] = ()) -> None:
        self._next = _Next.SIZE
        self._held = b""  # the start of a line whose end has not arrived
        self._left = 0  # bytes of this chunk still to come
        self._trailers = Trailers(keep=keep_trailers, named=named)
        self.done = False
        self.rest = b""

    def __repr__(self) -> str:
        return f"<ChunkedBody {'done' if self.done else self._next.name}, {self._left} left of this chunk>"

    @property
    def trailers(self) -> bytes:
        """The trailers to send on, for `last_chunk`."""
        return self._trailers.kept

    def feed(self, data: bytes) -> Payload:
        if self._held:
            data = self._held + data
            self._held = b""
        pieces: list[Payload] = []
        at, end = 0, len(data)
        while at < end and not self.done:
            if self._left:
                upto = min(at + self._left, end)
                pieces.append(memoryview(data)[at:upto] if upto - at >= WORTH_A_VIEW else data[at:upto])
                self._left -= upto - at
                at = upto
                continue
            line_end = data.find(b"\r\n", at)
            if line_end < 0:
                self._held = data[at:]
                self._check_partial(self._held)
                break
            self._read_line(data[at:line_end])
            at = line_end + 2
        if self.done:
            self.rest = data[at:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read_line(self, line: bytes) -> None:
        """Takes one line between payloads, and says what comes next."""
        if self._next is _Next.SIZE:
            match = _SIZE_LINE(line)
            if match is None:
                raise BadBody("not the size of a chunk")
            self._left = int(match[1], 16)
            self._next = _Next.END_OF_CHUNK if self._left else _Next.TRAILER
        elif self._next is _Next.END_OF_CHUNK:
            if line:
                raise BadBody("a chunk is longer than it said")
            self._next = _Next.SIZE
        elif line:
            if not self._trailers.add(line):
                raise BadBody("trailers that are too long, too many, or malformed")
        else:
            self.done = True

    def _check_partial(self, line: bytes) -> None:
        """Refuses the start of a line as soon as it cannot become a line."""
        limit = MAX_BYTES if self._next is _Next.TRAILER else MAX_SIZE_LINE
        if len(line) > limit + 1 or b"\n" in line or (self._next is _Next.END_OF_CHUNK and line != b"\r"):
            raise BadBody("a line of the framing is too long, or malformed")
