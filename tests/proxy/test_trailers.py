"""Trailers: what they are held to, and which of them may be sent on."""

from __future__ import annotations

import pytest
from fakes import splits

from proxy.http1.framing import LAST_CHUNK, BadBody, ChunkedBody, last_chunk
from proxy.http1.trailers import MAX_BYTES, MAX_FIELDS, Trailers, permitted

KEPT = b"Grpc-Status: 0\r\nserver-timing: db;dur=5\r\nETag: x\r\n"
FORBIDDEN = (
    *(b"Host", b"Content-Length", b"Transfer-Encoding", b"Content-Type", b"content-anything", b"Trailer", b"TE"),
    *(b"Connection", b"Keep-Alive", b"Upgrade", b"Proxy-Connection", b"Via", b"Forwarded", b"X-Forwarded-For"),
    *(b"Authorization", b"Proxy-Authorization", b"WWW-Authenticate", b"Proxy-Authenticate", b"Cookie", b"Set-Cookie"),
    *(b"Expect", b"Max-Forwards", b"Cache-Control", b"If-Match", b"Range", b"Location", b"Date", b"Vary", b"x_y"),
    b"X-Request-Id",
)


def read(body: bytes, *, keep_trailers: bool = True, named: tuple[bytes, ...] = ()) -> ChunkedBody:
    reader = ChunkedBody(keep_trailers=keep_trailers, named=named)
    reader.feed(body)
    return reader


def test_trailers_are_dropped_unless_asked_for() -> None:
    assert read(b"0\r\n" + KEPT + b"\r\n", keep_trailers=False).trailers == b""
    assert read(b"0\r\n" + KEPT + b"\r\n").trailers == KEPT
    assert read(b"0\r\n\r\n").trailers == b""


def test_trailers_are_the_same_however_they_arrive() -> None:
    body = b"2\r\nok\r\n0\r\nHost: evil\r\n" + KEPT + b"\r\n"
    for first, second in splits(body):
        reader = ChunkedBody(keep_trailers=True)
        assert bytes(reader.feed(first)) + bytes(reader.feed(second)) == b"ok"
        assert reader.done
        assert reader.trailers == KEPT


@pytest.mark.parametrize("name", [*FORBIDDEN, *(name.lower() for name in FORBIDDEN)])
def test_what_may_not_be_a_trailer_is_taken_out(name: bytes) -> None:
    assert read(b"0\r\n" + name + b": x\r\nSum: 1\r\n\r\n").trailers == b"Sum: 1\r\n"


def test_what_connection_names_is_taken_out() -> None:
    assert read(b"0\r\nX-Own: 1\r\nSum: 1\r\n\r\n", named=(b"close", b"x-own")).trailers == b"Sum: 1\r\n"


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(
    "lines",
    [
        b"Sum : 1\r\n",
        b" Sum: 1\r\n",
        b": 1\r\n",
        b"Sum\r\n",
        b"Sum: \x00\r\n",
        b"Sum: a\rb\r\n",
        b"A: b\r\n" * (MAX_FIELDS + 1),
        b"A: " + b"b" * MAX_BYTES + b"\r\n",
        (b"A: " + b"b" * (MAX_BYTES // 2) + b"\r\n") * 2,
    ],
)
def test_trailers_are_held_to_grammar_and_limits_also_where_they_are_dropped(lines: bytes, keep: bool) -> None:
    with pytest.raises(BadBody, match="trailers"):
        read(b"0\r\n" + lines + b"\r\n", keep_trailers=keep)


def test_the_end_of_a_body_with_trailers() -> None:
    assert last_chunk(b"") == LAST_CHUNK
    assert last_chunk(b"Sum: 1\r\n") == b"0\r\nSum: 1\r\n\r\n"
    assert read(last_chunk(KEPT)).trailers == KEPT


def test_what_is_announced_is_what_may_come() -> None:
    assert permitted(b"Sum,,Host , x-own, Grpc-Status", (b"x-own",)) == b"Sum, Grpc-Status"
    assert permitted(b"a b, \x00, Sum", ()) == b"Sum"
    assert permitted(b"", ()) == b""


def test_one_line_repr() -> None:
    trailers = Trailers(keep=True)
    trailers.add(b"Sum: 1")
    assert repr(trailers) == "<Trailers 1 fields, 8 bytes kept>"
