"""Response heads: what is refused, what is understood, what is sent on."""

from __future__ import annotations

import pytest
from fakes import fields_of
from keep_alive_table import KEEP_ALIVE

from proxy.http1.grammar import BadHead, HeadLimits
from proxy.http1.response_head import ResponseHead, parse_response, read_response

LIMITS = HeadLimits()


def parsed(head: bytes, limits: HeadLimits = LIMITS, *, trailers: bool = False) -> ResponseHead:
    found = read_response(head + b"body", limits, trailers=trailers)
    assert found is not None
    assert found[1] == len(head)
    return found[0]


def response(head: bytes) -> ResponseHead:
    return parse_response(head, LIMITS)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\x00\r\n\r\n",
        b"HTTP/1.1 200 O\x00K\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\n\r\n\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 " + b"a" * 8192 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 8192 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 101 + b"\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: content-length\r\nContent-Length: 1\r\n\r\n",
    ],
)
def test_a_response_that_is_not_sound_is_refused(head: bytes) -> None:
    with pytest.raises(BadHead):
        response(head)


def test_a_response_is_written_anew() -> None:
    head = response(
        b"HTTP/1.0 404 Not  here\r\nServer: x\r\nConnection: keep-alive, x-own\r\nX-Own: gone\r\n"
        b"Keep-Alive: timeout=5\r\ncontent-length: 012\r\nProxy-Authenticate: gone\r\nUpgrade: gone\r\n"
        b"X_Y: gone\r\nVia: 1.1 back\r\n\r\n"
    )
    assert head.head(http10=False, keep_alive=True, no_body=False) == (
        b"HTTP/1.1 404 Not  here\r\nServer: x\r\nVia: 1.1 back\r\nVia: 1.0 kalab\r\nContent-Length: 12\r\n\r\n"
    )
    assert response(b"HTTP/1.1 200\r\n\r\n").usual.startswith(b"HTTP/1.1 200 \r\n")


@pytest.mark.parametrize(("version", "connection", "keeps"), KEEP_ALIVE)
def test_whether_the_upstream_connection_may_stay_open(version: bytes, connection: bytes, keeps: bool) -> None:
    lines = b"\r\n" + connection + b"\r\n"
    assert response(b"HTTP/" + version + b" 200 OK" + lines).keep_alive is keeps


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (b"timeout=5", 5),
        (b"timeout=5, max=100", 5),
        (b"max=100,Timeout = 7", 7),
        (b'timeout="9"', 9),
        (b"xtimeout=5", None),
        (b"timeout=", None),
        (b"timeout=-1", None),
        (b"", None),
        (b"timeout=5\r\nKeep-Alive: timeout=6", 5),
    ],
)
def test_the_hint(value: bytes, hint: int | None) -> None:
    assert response(b"HTTP/1.1 200 OK\r\nKeep-Alive: " + value + b"\r\n\r\n").hint_s == hint


LENGTH, CHUNKED, CLOSE = b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b""


@pytest.mark.parametrize(
    ("status", "framing", "http10", "no_body", "sent"),
    [
        (200, LENGTH, False, False, {"content-length": "5"}),
        (200, LENGTH, False, True, {"content-length": "5"}),
        (200, CHUNKED, False, False, {"transfer-encoding": "chunked"}),
        (200, CHUNKED, False, True, {"transfer-encoding": "chunked"}),
        (200, CHUNKED, True, False, {"connection": "keep-alive"}),
        (200, CLOSE, False, False, {"transfer-encoding": "chunked"}),
        (200, CLOSE, False, True, {}),
        (204, LENGTH, False, False, {}),
        (204, CHUNKED, False, False, {}),
        (304, LENGTH, False, False, {"content-length": "5"}),
        (304, CLOSE, False, False, {}),
        (103, CLOSE, False, True, {}),
    ],
)
def test_the_framing_that_a_client_is_told(
    status: int, framing: bytes, http10: bool, no_body: bool, sent: dict[str, str]
) -> None:
    head = response(b"HTTP/1.1 %d X\r\n%b\r\n" % (status, framing))
    fields = fields_of(head.head(http10=http10, keep_alive=True, no_body=no_body))
    del fields["via"]
    assert fields == sent


@pytest.mark.parametrize(
    ("status", "framing", "length", "body_length"),
    [
        (200, LENGTH, 5, 5),
        (200, CHUNKED, None, None),
        (200, CLOSE, None, None),
        (204, LENGTH, 5, 0),
        (304, CHUNKED, None, 0),
        (103, CLOSE, None, 0),
    ],
)
def test_what_follows_a_head(status: int, framing: bytes, length: int | None, body_length: int | None) -> None:
    head = response(b"HTTP/1.1 %d X\r\n%b\r\n" % (status, framing))
    assert (head.means.length, head.body_length) == (length, body_length)


def test_the_usual_head_is_that_for_the_usual_client() -> None:
    for status in (103, 200, 204, 304):
        for framing in (LENGTH, CHUNKED, CLOSE):
            head = response(b"HTTP/1.1 %d X\r\nA: b\r\n%b\r\n" % (status, framing))
            assert head.usual == head.head(http10=False, keep_alive=True, no_body=False)
            assert b"\r\nConnection: close\r\n\r\n" in head.head(http10=False, keep_alive=False, no_body=False)


# ---- switching protocols


@pytest.mark.parametrize(
    ("lines", "protocol"),
    [
        (b"Connection: Upgrade\r\nUpgrade: WebSocket\r\n", b"websocket"),
        (b"Connection: upgrade\r\nUpgrade: h2c, websocket\r\n", b""),
        (b"Upgrade: websocket\r\n", b""),
        (b"Connection: upgrade\r\n", b""),
    ],
)
def test_what_a_101_switches_to(lines: bytes, protocol: bytes) -> None:
    assert response(b"HTTP/1.1 101 Switching Protocols\r\n" + lines + b"\r\n").means.upgrade == protocol


def test_a_101_is_written_anew() -> None:
    head = response(
        b"HTTP/1.1 101 Go\r\nConnection: x-own, Upgrade\r\nX-Own: gone\r\nUpgrade: websocket\r\n"
        b"Keep-Alive: timeout=5\r\nSec-WebSocket-Accept: a\r\n\r\n"
    )
    assert head.head(http10=False, keep_alive=False, no_body=True) == (
        b"HTTP/1.1 101 Go\r\nSec-WebSocket-Accept: a\r\nVia: 1.1 kalab\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\n\r\n"
    )


@pytest.mark.parametrize(
    "bad", [b"HTTP/1.0 101 X\r\n", b"HTTP/1.1 101 X\r\n" + LENGTH, b"HTTP/1.1 101 X\r\n" + CHUNKED]
)
def test_a_101_that_could_have_a_body_is_refused(bad: bytes) -> None:
    with pytest.raises(BadHead):
        response(bad + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n")


def test_an_upgrade_field_in_any_other_response_is_dropped() -> None:
    head = response(b"HTTP/1.1 426 Upgrade Required\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert head.means.upgrade == b""
    assert b"pgrade: " not in head.usual


def test_the_trailer_field_goes_on_only_with_trailers() -> None:
    head = b"HTTP/1.1 200 OK\r\nTrailer: Sum, Set-Cookie\r\n"
    assert fields_of(parsed(head + CHUNKED + b"\r\n", trailers=True).usual)["trailer"] == "Sum"
    for framing, trailers in ((CHUNKED, False), (LENGTH, True)):
        assert "trailer" not in fields_of(parsed(head + framing + b"\r\n", trailers=trailers).usual)


def test_what_is_remembered_of_one_head_is_not_said_of_another() -> None:
    for _ in range(2):
        for line in (b"HTTP/1.0 200 OK", b"HTTP/1.1 200 OK", b"HTTP/1.1 204 OK", b"HTTP/1.1 200"):
            for framing in (LENGTH, CHUNKED, CLOSE):
                for own in (b"X-Own: a\r\nConnection: X-Own\r\n", b"X-Own: b\r\n", b"X: y\r\n"):
                    if framing is CHUNKED and line == b"HTTP/1.0 200 OK":
                        continue
                    head = response(line + b"\r\n" + own + framing + b"\r\n")
                    sent = fields_of(head.usual)
                    assert head.status == int(line[9:12])
                    assert head.usual.startswith(b"HTTP/1.1 %d %b\r\n" % (head.status, line[13:]))
                    assert sent["via"] == line[5:8].decode() + " kalab"
                    assert sent.get("x-own", "") == ("b" if b": b" in own else "")
                    assert ("content-length" in sent) is (framing is LENGTH and head.status == 200)


@pytest.mark.parametrize("near", range(120))
def test_a_wrong_guess_of_where_a_head_ends_changes_nothing(near: int) -> None:
    head = b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 9\r\n\r\n"
    for body in (
        b"",
        b"\r\n",
        b"\r\n\r\n",
        b"\n\r\n\r\n",
        b"x\r\n\r\n",
        b"A: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        head,
    ):
        found = read_response(head + body, LIMITS, False, near)
        assert found is not None
        assert found[1] == len(head)
        assert found[0].usual == response(head).usual
        with pytest.raises(BadHead):
            read_response(head.replace(b":", b"", 1) + body, LIMITS, False, near)


def test_what_follows_a_head_is_not_part_of_it_and_part_of_one_is_none() -> None:
    head = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"
    assert parsed(head).usual == response(head).usual
    for at in range(len(head)):
        assert read_response(head[:at], LIMITS) is None
        with pytest.raises(BadHead):
            response(head[:at])
