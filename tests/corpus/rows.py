"""What a row of the corpus is made of: a message, what must become of it, and why. The tables are in `requests_*.py`
and `responses_*.py`; each table is one family and names the row of the threat list that it covers.

A verdict on a request is one of:

- `400`, any number: refused. Answered with it once, the connection closed, not one byte of it sent upstream.
- `broken(400)`: its head was sound and may have gone upstream; its body is not, and never becomes whole there.
- `sent("GET /a", "Host: shop", …, body=b"…")`: sent upstream with exactly these fields beside the ones the proxy adds.
- `waits`: the end has not come; nobody gets a whole message or an answer.
- several of these in a tuple, for several messages on one connection.
"""

from __future__ import annotations

from typing import NamedTuple

PEER = b"10.0.0.1"  # the client of the stage


class Sent(NamedTuple):
    """A request as an upstream must get it, apart from what every request is given."""

    method: bytes
    target: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    host: bytes
    body: bytes
    minor: int


class Broken(NamedTuple):
    status: int


class Waits(NamedTuple):
    pass


Verdict = int | Sent | Broken | Waits
Verdicts = Verdict | tuple[Verdict, ...]

waits = Waits()
broken = Broken


class Row(NamedTuple):
    """One message of the corpus."""

    name: str
    data: bytes
    verdict: Verdicts
    why: str

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        one = isinstance(self.verdict, int | Sent | Broken | Waits)
        return (self.verdict,) if one else self.verdict  # type: ignore[return-value]


def text(value: str | bytes) -> bytes:
    return value.encode("latin-1") if isinstance(value, str) else value


def sent(
    line: str, *fields: str, host: str = "shop", body: bytes = b"", length: int | None = None, minor: int = 1
) -> Sent:
    """`line` is method and target. `length` is for a Content-Length; a body without one is chunked."""
    method, target = text(line).split(b" ")
    pairs = []
    for field in fields:
        name, _, value = text(field).partition(b":")
        pairs.append((name.lower(), value.strip(b" ")))
    if length is not None:
        pairs.append((b"content-length", b"%d" % length))
    return Sent(method, target, tuple(pairs), text(host), body, minor)


def message(line: str, *fields: str, body: bytes = b"") -> bytes:
    return b"".join(text(part) + b"\r\n" for part in (line, *fields)) + b"\r\n" + body


def get(*fields: str) -> bytes:
    """A GET with these lines behind Host."""
    return message("GET /a HTTP/1.1", "Host: shop", *fields)


def post(*fields: str, body: bytes = b"") -> bytes:
    """A POST with these lines behind Host."""
    return message("POST /a HTTP/1.1", "Host: shop", *fields, body=body)


def chunked(body: bytes) -> bytes:
    """A POST with a body in chunks, given as it stands on the wire."""
    return post("Transfer-Encoding: chunked", body=body)


TE = "Transfer-Encoding: chunked"
GET_SENT = sent("GET /a")


def posted(body: bytes, *fields: str) -> Sent:
    """The POST as it goes upstream with a Content-Length."""
    return sent("POST /a", *fields, body=body, length=len(body))


def streamed(body: bytes, *fields: str) -> Sent:
    """The POST as it goes upstream in chunks."""
    return sent("POST /a", *fields, TE, body=body)
