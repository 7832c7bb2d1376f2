"""Responses from one connection: which bytes are heads, payload and neither, however they arrive."""

from __future__ import annotations

import pytest
from fakes import splits

from proxy.http1.framing import BadBody, Payload
from proxy.http1.grammar import REMEMBERED, BadHead, HeadLimits
from proxy.http1.response_head import ResponseHead
from proxy.http1.response_reader import ResponseReader

LIMITS = HeadLimits()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nSum: 1\r\nHost: evil\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


class Told:
    """Notes what a reader tells."""

    def __init__(self) -> None:
        self.interims: list[int] = []
        self.head: ResponseHead | None = None
        self.payload = b""
        self.done = False
        self.tunnel: bytes | None = None

    def interim(self, head: ResponseHead) -> None:
        assert self.head is None
        self.interims.append(head.status)

    def response(self, head: ResponseHead, payload: Payload, done: bool) -> None:
        assert self.head is None
        self.head = head
        self.body(payload, done)

    def body(self, payload: Payload, done: bool) -> None:
        assert not self.done
        self.payload += payload
        self.done = done

    def switched(self, head: ResponseHead, rest: bytes) -> None:
        self.head = head
        self.tunnel = rest

    def sums_up(self) -> tuple[object, ...]:
        return self.interims, self.head and self.head.usual, self.payload, self.done, self.tunnel


def read(reader: ResponseReader, *pieces: bytes) -> Told:
    """Feeds until the response is complete."""
    told = Told()
    for piece in pieces:
        if reader.feed(piece, told):
            assert told.done
            break
    return told


RESPONSES = [
    (OK, False),
    (OK + b"more", False),
    (CHUNKED, False),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, False),
    (b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n", False),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", False),
    (OK[:-2], True),
    (CHUNKED[: CHUNKED.find(b"2\r\nok")], True),
    (b"HTTP/1.0 200 OK\r\n\r\nuntil close", False),
]


@pytest.mark.parametrize(("data", "head_only"), RESPONSES)
def test_a_response_is_the_same_however_it_arrives(data: bytes, head_only: bool) -> None:
    reader = ResponseReader(LIMITS)
    whole = read(reader, data).sums_up()
    for pieces in (*splits(data), [data[at : at + 1] for at in range(len(data))]):
        reader.expect(head_only=head_only)
        fresh = ResponseReader(LIMITS)
        fresh.expect(head_only=head_only)
        if head_only:
            whole = read(fresh, data).sums_up()
            fresh.expect(head_only=True)
        assert read(fresh, *pieces).sums_up() == whole
        assert read(reader, *pieces).sums_up() == whole  # one that knows the head already


def test_what_came_behind_a_response_is_not_part_of_it() -> None:
    reader = ResponseReader(LIMITS)
    assert read(reader, OK + b"more").payload == b"ok"
    assert reader.rest == b"more"
    reader.expect(head_only=True)
    assert reader.rest == b""
    assert read(reader, OK).payload == b""
    assert reader.rest == b"ok"
    reader.expect(head_only=False)
    assert read(reader, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nok").payload == b""
    assert reader.rest == b"ok"
    reader.expect(head_only=False)
    assert read(reader, OK).payload == b"ok"
    assert reader.rest == b""


def test_nothing_is_carried_from_one_response_to_the_next() -> None:
    reader = ResponseReader(LIMITS, trailers=True)
    for _ in range(2):
        for data in (OK, CHUNKED, b"HTTP/1.1 200 OK\r\n\r\nclose", b"HTTP/1.1 102 X\r\n\r\n" + OK, SWITCH):
            reader.expect(head_only=False, upgrade=b"websocket" if data is SWITCH else b"")
            assert (reader.head, reader.rest, reader.until_close, reader.trailers) == (None, b"", False, b"")
            told = read(reader, data[:30], data[30:])
            assert told.head is reader.head
            assert reader.until_close is data.endswith(b"close")


def test_the_same_head_is_read_once() -> None:
    reader = ResponseReader(LIMITS)
    first = read(reader, OK).head
    reader.expect(head_only=False)
    again = read(reader, OK[:-1], b"k")
    assert again.head is first
    assert again.payload == b"ok"
    reader.expect(head_only=False)
    assert read(reader, OK.replace(b"200", b"201")).head is not first
    large = OK.replace(b"OK", b"OK\r\nX: " + b"x" * REMEMBERED)
    heads = []
    for _ in range(2):
        reader.expect(head_only=False)
        heads.append(read(reader, large).head)
    assert heads[0] is not heads[1]


def test_a_known_head_in_the_middle_of_another_is_not_taken_for_a_response() -> None:
    reader = ResponseReader(LIMITS)
    read(reader, OK)
    reader.expect(head_only=False)
    with pytest.raises(BadHead):
        read(reader, b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nX: ", OK)


def test_trailers_are_handed_out_when_asked_for() -> None:
    for trailers, found in ((True, b"Sum: 1\r\n"), (False, b"")):
        reader = ResponseReader(LIMITS, trailers=trailers)
        read(reader, CHUNKED)
        assert reader.trailers == found
        reader.expect(head_only=False)
        assert reader.trailers == b""


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 3000,
        b"HTTP/1.1 100 Continue\r\nX: x\x00\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
    ],
)
def test_heads_that_are_refused_however_they_arrive(data: bytes) -> None:
    for size in (len(data), 1000):
        with pytest.raises(BadHead):
            read(ResponseReader(LIMITS), *(data[at : at + size] for at in range(0, len(data), size)))


def test_a_body_that_is_broken_from_its_start_leaves_no_head() -> None:
    reader = ResponseReader(LIMITS)
    with pytest.raises(BadBody):
        read(reader, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n")
    assert reader.head is None


# ---- switching protocols


def test_a_101_that_was_asked_for_ends_http() -> None:
    for first, second in splits(b"HTTP/1.1 103 Early Hints\r\n\r\n" + SWITCH + b"frames"):
        reader = ResponseReader(LIMITS)
        reader.expect(head_only=False, upgrade=b"websocket")
        told = Told()
        assert not reader.feed(first, told)
        if told.tunnel is None:
            assert not reader.feed(second, told)
        else:
            told.tunnel += second
        assert told.tunnel == b"frames"
        assert reader.head is told.head is not None
        assert told.head.status == 101


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (b"", SWITCH),
        (b"h2c", SWITCH),
        (b"websocket", SWITCH.replace(b"Upgrade: websocket\r\n", b"")),
        (b"websocket", SWITCH.replace(b"Connection: Upgrade\r\n", b"")),
        (b"websocket", SWITCH.replace(b"websocket", b"websocket, h2c")),
    ],
)
def test_any_other_101_is_refused(asked: bytes, answer: bytes) -> None:
    reader = ResponseReader(LIMITS)
    reader.expect(head_only=False, upgrade=asked)
    with pytest.raises(BadHead, match="switch"):
        read(reader, answer)


def test_what_was_asked_for_may_be_answered_otherwise() -> None:
    reader = ResponseReader(LIMITS)
    reader.expect(head_only=False, upgrade=b"websocket")
    assert read(reader, OK).payload == b"ok"
    reader.expect(head_only=False)
    with pytest.raises(BadHead):
        read(reader, SWITCH)
