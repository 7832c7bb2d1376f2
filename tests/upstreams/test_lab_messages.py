"""The lab upstream's reader and renderer: bytes in, requests out."""

from __future__ import annotations

from math import inf

import pytest
from lab_process import request_bytes

from upstreams.durations import duration, pause
from upstreams.messages import ECHO_LIMIT, RequestError, RequestReader, render

POST = request_bytes("r1", target="/echo?delay=20ms", method="POST", body=b"0123456789")
CHUNKED = b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsaid\r\n0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_request_is_handed_out_once_it_is_whole(size: int) -> None:
    reader = RequestReader()
    pieces = [POST[start : start + size] for start in range(0, len(POST), size)]
    read = [reader.feed(piece) for piece in pieces]
    assert read[:-1] == [[]] * (len(pieces) - 1)
    (request,) = read[-1]
    assert (request.method, request.target, request.path) == ("POST", "/echo?delay=20ms", "/echo")
    assert (request.req_id, request.body, request.delay_s) == ("r1", b"0123456789", 0.02)
    assert request.keep_alive
    assert not reader.partial


def test_what_follows_a_request_is_kept() -> None:
    reader = RequestReader()
    assert [r.req_id for r in reader.feed(request_bytes("1") + request_bytes("2") + b"GE")] == ["1", "2"]
    assert reader.partial
    assert [r.req_id for r in reader.feed(request_bytes("3")[2:])] == ["3"]


@pytest.mark.parametrize(
    ("sent", "keep_alive"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", False),  # not offered: RFC 9112 section 9.3
    ],
)
def test_keep_alive(sent: bytes, keep_alive: bool) -> None:
    (request,) = RequestReader().feed(sent)
    assert request.keep_alive is keep_alive


def test_an_upgrade_is_ignored() -> None:
    upgrade = request_bytes("u", fields="Connection: upgrade\r\nUpgrade: h2c\r\n")
    assert [r.req_id for r in RequestReader().feed(upgrade + request_bytes("next"))] == ["u", "next"]


def test_continue_is_wanted_between_the_head_and_the_body() -> None:
    reader = RequestReader()
    head, body = POST.replace(b"Host: lab", b"Expect: 100-continue").split(b"\r\n\r\n")
    reader.feed(head)
    assert not reader.wants_continue
    reader.feed(b"\r\n\r\n")
    assert reader.wants_continue
    assert len(reader.feed(body)) == 1
    assert not reader.wants_continue


def test_a_body_is_kept_only_to_be_echoed() -> None:
    (request,) = RequestReader().feed(request_bytes(method="POST", body=b"forgotten"))
    assert request.body == b""
    (request,) = RequestReader().feed(CHUNKED)
    assert request.body == b"said"


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"hello\r\n\r\n", "Invalid method"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000, "the head is larger"),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "Content-Length"),
        (request_bytes(target="/?delay=soon"), "delay: 'soon' is not a duration"),
        (request_bytes(target="/echo", method="POST", body=bytes(ECHO_LIMIT + 1)), "the body to echo is larger"),
    ],
)
def test_refused(sent: bytes, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        RequestReader().feed(sent)


def test_render() -> None:
    plain = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n"
    assert render(200, b"ok\n") == plain + b"\r\nok\n"
    assert render(200, b"ok\n", head_only=True) == plain + b"\r\n"
    assert render(200, b"ok\n", hint=5) == plain + b"Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\nok\n"
    assert render(200, b"ok\n", hint=5, close=True) == plain + b"Connection: close\r\n\r\nok\n"


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("2s", 2.0), ("1.5s", 1.5), ("2m", 120.0), ("1h", 3600.0), ("off", inf)]
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds
    assert pause(text) == (0.0 if text == "off" else seconds)


@pytest.mark.parametrize("text", ["", "2", "s", "-1s", "2 s", "2us", "two seconds", "OFF"])
def test_not_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        duration(text)
