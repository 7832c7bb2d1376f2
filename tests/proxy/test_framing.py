"""Bodies: where they end, at every way to cut them."""

from __future__ import annotations

import pytest
from fakes import splits

from proxy.http1.framing import BadBody, BodyReader, ChunkedBody, LengthBody, UntilCloseBody, chunk

CHUNKED = b'5;a="b"\r\nhello\r\nA\r\n, all of y\r\n2\r\nou\r\n0\r\nTrailer: gone\r\nHost: evil\r\n\r\n'
PAYLOAD = b"hello, all of you"


def read(reader: BodyReader, *pieces: bytes) -> bytes:
    return b"".join(bytes(reader.feed(piece)) for piece in pieces)


def test_a_chunked_body_is_the_same_however_it_arrives() -> None:
    for first, second in splits(CHUNKED):
        reader = ChunkedBody()
        assert read(reader, first, second + b"next") == PAYLOAD
        assert reader.done
        assert reader.rest == b"next"


def test_a_chunked_body_one_byte_at_a_time() -> None:
    reader = ChunkedBody()
    assert read(reader, *(CHUNKED[at : at + 1] for at in range(len(CHUNKED)))) == PAYLOAD
    assert reader.done


def test_large_chunks_are_passed_on_whole() -> None:
    large = bytes(100_000)
    reader = ChunkedBody()
    assert read(reader, b"186a0\r\n" + large + b"\r\n0\r\n\r\n") == large
    assert reader.done


@pytest.mark.parametrize(
    "body",
    [
        b"x\r\n",
        b"\r\n",
        b"5 \r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"5_0\r\n",
        b"5\nhello\r\n",
        b"5\r\nhello5\r\n",
        b"5\r\nhello\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"5;a\nb\r\nhello\r\n",
        b"5;\x00\r\nhello\r\n",
        b"12345678901234567\r\n",
        b"5;" + b"a" * 300,
        b"5" * 300,
        b"0\r\nnot a field\r\n\r\n",
        b"0\r\nA : b\r\n\r\n",
        b"0\r\nA: \x00\r\n\r\n",
        b"0\r\nA: b\n\r\n",
        b"0\r\n" + b"A: b\r\n" * 5000,
        b"0\r\n" + b"A" * 9000,
    ],
)
def test_broken_chunks_are_refused_however_they_arrive(body: bytes) -> None:
    with pytest.raises(BadBody):
        read(ChunkedBody(), body)
    with pytest.raises(BadBody):
        read(ChunkedBody(), *(body[at : at + 1] for at in range(len(body))))


def test_a_body_of_known_length_is_the_same_however_it_arrives() -> None:
    for first, second in splits(b"hello"):
        reader = LengthBody(5)
        assert read(reader, first, second + b"next") == b"hello"
        assert reader.done
        assert reader.rest == b"next"


def test_an_empty_body_is_done_before_it_begins() -> None:
    reader = LengthBody(0)
    assert reader.done
    assert read(reader, b"next") == b""
    assert reader.rest == b"next"


def test_a_body_until_close_is_never_done() -> None:
    reader = UntilCloseBody()
    assert read(reader, b"a", b"b") == b"ab"
    assert not reader.done


def test_an_empty_payload_is_no_chunk() -> None:
    assert chunk(b"") == []
    assert b"".join(chunk(b"hello")) == b"5\r\nhello\r\n"


def test_one_line_reprs() -> None:
    reader = ChunkedBody()
    reader.feed(b"5\r\nhe")
    assert repr(reader) == "<ChunkedBody END_OF_CHUNK, 3 left of this chunk>"
    assert repr(LengthBody(7)) == "<LengthBody 7 left>"
    assert repr(UntilCloseBody()) == "<UntilCloseBody>"
