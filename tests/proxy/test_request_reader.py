"""Requests from one connection: where each head ends, however it arrives, and what a reader knows again."""

from __future__ import annotations

import pytest
from fakes import splits

from proxy.http1.grammar import REMEMBERED, BadHead, HeadLimits
from proxy.http1.request_head import Request
from proxy.http1.request_reader import RequestReader

LIMITS = HeadLimits()
HEAD = b"GET /a HTTP/1.1\r\nHost: shop\r\nCookie: a_b=c\r\n\r\n"
PLAIN = b"GET /a HTTP/1.1\r\nHost: shop\r\n\r\n"


def reader(limits: HeadLimits = LIMITS) -> RequestReader:
    return RequestReader(limits, "10.0.0.1")


def verdict(*pieces: bytes, limits: HeadLimits = LIMITS) -> object:
    """Of the first request in these pieces: what is sent on and what is left over, or the status; None: not whole."""
    read = reader(limits)
    pieces_left = list(pieces)
    try:
        while pieces_left:
            request = read.feed(pieces_left.pop(0))
            if request is not None:
                return request.head, read.rest + b"".join(pieces_left)
    except BadHead as bad:
        return bad.status
    return None


@pytest.mark.parametrize(
    "data",
    [
        HEAD,
        PLAIN + b"next",
        PLAIN + PLAIN,
        PLAIN + b"\r\n" + PLAIN,
        b"\r\n" + PLAIN,
        b"\r\n\r\n\r\n" + PLAIN + b"\r\n",
        b"\r" + PLAIN,
        b"\r\n\r" + PLAIN,
        b"\n" + PLAIN,
        b"POST /a HTTP/1.1\r\nHost: shop\r\nContent-Length: 8\r\n\r\nbody\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: shop\r\n\r\nrest",
        b"GET http://other/b HTTP/1.0\r\nX_Y: z\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: shop\r\n\r\n",
        b"CONNECT shop:443 HTTP/1.1\r\nHost: shop\r\n\r\n",
    ],
)
def test_a_request_is_the_same_however_it_arrives(data: bytes) -> None:
    whole = verdict(data)
    assert whole is not None
    assert verdict(*(data[at : at + 1] for at in range(len(data)))) == whole
    for first, second in splits(data):
        assert verdict(first, second) == whole, first


def test_empty_lines_alone_are_not_the_beginning_of_a_request() -> None:
    read = reader()
    for piece in (b"\r\n", b"\r\n\r\n", b""):
        assert read.feed(piece) is None
        assert not read.begun
    assert read.feed(PLAIN) is not None
    assert read.feed(b"\r") is None
    assert read.begun
    assert read.feed(b"\n") is None
    assert not read.begun


def test_the_same_head_is_the_same_request() -> None:
    read = reader()
    first = read.feed(HEAD + b"rest")
    assert read.rest == b"rest"
    assert read.feed(bytes(bytearray(HEAD))) is first
    assert read.rest == b""


def test_the_same_field_lines_are_read_once() -> None:
    read = reader()
    first = read.feed(PLAIN)
    other = read.feed(PLAIN.replace(b"/a", b"/b?c"))
    assert first is not None
    assert other is not None
    assert other.target == b"/b?c"
    assert other.fields is first.fields
    assert other.head.startswith(b"GET /b?c HTTP/1.1\r\nHost: shop\r\n")


@pytest.mark.parametrize(
    ("then", "begins"),
    [
        (PLAIN.replace(b"1.1", b"1.0"), b"Via: 1.0 kalab"),
        (PLAIN.replace(b"shop", b"other"), b"Host: other"),
        (PLAIN.replace(b"/a", b"http://other/a"), b"Host: other"),
        (b"\r\n" + PLAIN.replace(b"GET", b"PUT"), b"PUT /a HTTP/1.1"),
    ],
)
def test_what_differs_is_read_anew(then: bytes, begins: bytes) -> None:
    read = reader()
    for first, second in ((b"", then), *splits(then)):
        before = read.feed(PLAIN)
        request = (read.feed(first) if first else None) or read.feed(second)
        assert request is not None
        assert request is not before
        assert b"\r\n" + begins in b"\r\n" + request.head


def test_after_a_target_in_absolute_form_host_counts_again() -> None:
    read = reader()
    hosts = []
    for target in (b"/a", b"http://other/a", b"/a", b"http://other/a"):
        request = read.feed(PLAIN.replace(b"/a", target))
        assert isinstance(request, Request)
        hosts.append(request.fields.host)
    assert hosts == [b"shop", b"other", b"shop", b"other"]


def test_a_known_head_in_the_middle_of_another_is_not_taken_for_a_request() -> None:
    read = reader()
    assert read.feed(PLAIN) is not None
    assert read.feed(b"GET /b HTTP/1.1\r\nHost: shop\r\nX: ") is None
    with pytest.raises(BadHead):  # "Host: shop" twice
        read.feed(PLAIN)


def test_large_heads_are_not_remembered() -> None:
    read = reader()
    large = PLAIN[:-2] + b"X: " + b"x" * REMEMBERED + b"\r\n\r\n"
    first, second = read.feed(large), read.feed(large)
    assert first is not None
    assert second is not None
    assert first is not second
    assert first.head == second.head


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /%b HTTP/1.1\r\nHost: shop\r\n\r\n" % (b"a" * 100), 414),
        (b"GET / HTTP/1.1\r\nHost: shop\r\n" + b"A: b\r\n" * 4 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: shop\r\nA: " + b"b" * 98 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: shop\r\nA: " + b"b" * 90 + b"\r\nB: " + b"b" * 90 + b"\r\n\r\n", 431),
        (b"OPTIONS http://%b/ HTTP/1.1\r\nHost: shop\r\n\r\n" % (b"a" * 100), 414),
    ],
)
def test_limits_hold_however_a_head_arrives(head: bytes, status: int) -> None:
    limits = HeadLimits(line=100, head=200, fields=4)
    assert verdict(head, limits=limits) == status
    assert verdict(*(head[at : at + 1] for at in range(len(head))), limits=limits) == status
    for first, second in splits(head):
        assert verdict(first, second, limits=limits) == status


def test_limits_are_for_one_head_and_not_for_what_comes_with_it() -> None:
    limits = HeadLimits(line=100, head=200, fields=4)
    assert verdict(PLAIN * 100, limits=limits) == (verdict(PLAIN)[0], PLAIN * 99)  # type: ignore[index]


def test_a_long_request_line_is_refused_though_its_field_lines_are_known() -> None:
    read = reader()
    assert read.feed(PLAIN) is not None
    with pytest.raises(BadHead) as refused:
        read.feed(PLAIN.replace(b"/a", b"/" + b"a" * 8192))
    assert refused.value.status == 414


def test_one_line_repr() -> None:
    read = reader()
    assert repr(read) == "<RequestReader awaiting a head>"
    read.feed(b"GET")
    assert repr(read) == "<RequestReader in a head>"
