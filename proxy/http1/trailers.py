"""Trailers: the field lines behind the last chunk of a body (RFC 9110 §6.5). No I/O.

Rules of this file:

- Trailers are held to the grammar and the limits of heads even where nobody wants them.
- They never become header fields, and of those sent on none may govern anything: what frames, routes, authenticates,
  modifies or describes a message is taken out (RFC 9110 §6.5.1), and what says where a request came from.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from proxy.http1.grammar import CRLF, HOP_BY_HOP, OWS, TOKEN, VALUE

MAX_BYTES: Final = 8 * 1024  # of all the trailers of one body
MAX_FIELDS: Final = 100

_NAME = re.compile(TOKEN + rb"++").fullmatch
_LINE = re.compile(rb"(" + TOKEN + rb"++):" + VALUE + rb"*+").fullmatch

_FORBIDDEN = re.compile(
    rb"|".join(
        (
            *HOP_BY_HOP,
            rb"content-.*|host|via|max-forwards|expect|date|age|.*_.*",
            rb"(?:proxy-)?authorization|www-authenticate|(?:proxy-)?authentication-info|cookie|set-cookie",
            rb"forwarded|x-forwarded-.*|x-real-ip|x-request-id",
            rb"accept(?:-.*)?|access-control-.*|cache-control|pragma|if-.*|range|location|retry-after|vary|expires|warning|origin",
        )
    )
).fullmatch


class Trailers:
    """The trailers of one body, line by line. `named`: what Connection names is not sent on either."""

    __slots__ = ("_bytes", "_fields", "_keep", "_named", "kept")

    def __init__(self, *, keep: bool, named: Collection[bytes] = ()) -> None:
        self._keep = keep
        self._named = named
        self._bytes = self._fields = 0
        self.kept = b""  # the lines to send on, each with its CRLF

    def __repr__(self) -> str:
        return f"<Trailers {self._fields} fields, {len(self.kept)} bytes kept>"

    def add(self, line: bytes) -> bool:
        """One line, without its CRLF. False: it is malformed, or one too many."""
        match = _LINE(line)
        self._fields += 1
        self._bytes += len(line)
        if match is None or self._bytes > MAX_BYTES or self._fields > MAX_FIELDS:
            return False
        if self._keep and is_permitted(match[1], self._named):
            self.kept += line + CRLF
        return True


def is_permitted(name: bytes, named: Collection[bytes]) -> bool:
    """Whether a field with this name may be sent on as a trailer."""
    name = name.lower()
    return _NAME(name) is not None and not _FORBIDDEN(name) and name not in named


def permitted(names: bytes, named: Collection[bytes]) -> bytes:
    """A Trailer field, which says what will come, without what will not be sent on."""
    return b", ".join([name for part in names.split(b",") if (name := part.strip(OWS)) and is_permitted(name, named)])
