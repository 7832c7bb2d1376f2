"""Request heads: what is refused, what is understood, what is sent on."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import fields_of
from keep_alive_table import KEEP_ALIVE

from proxy.http1.grammar import BadHead, HeadLimits
from proxy.http1.request_head import Request
from proxy.http1.request_reader import RequestReader

LIMITS = HeadLimits()
START = b"GET / HTTP/1.1\r\nHost: shop\r\n"


def request(head: bytes, limits: HeadLimits = LIMITS, **knows: object) -> Request:
    """Of a whole head."""
    read = RequestReader(limits, "10.0.0.1", **knows).feed(head)  # type: ignore[arg-type]
    assert read is not None
    return read


REFUSED_REQUESTS = [
    # framing (RFC 9112 §6.3): each of these has smuggled requests through somebody
    (400, b"Content-Length: 3\r\nTransfer-Encoding: chunked"),
    (400, b"Transfer-Encoding: chunked\r\nContent-Length: 3"),
    (400, b"content-length: 3\r\ntransfer-encoding:\tchunked"),
    (400, b"Content-Length: 3\r\nContent-Length: 3"),
    (400, b"Content-Length: 3\r\nContent-Length: 4"),
    (400, b"Content-Length: 3, 3"),
    (400, b"Content-Length: +3"),
    (400, b"Content-Length: -3"),
    (400, b"Content-Length: 0x3"),
    (400, b"Content-Length: 3_0"),
    (400, b"Content-Length: "),
    (400, b"Content-Length: 1 1"),
    (400, b"Content-Length: 1000000000000000000000"),
    (501, b"Transfer-Encoding: gzip"),
    (501, b"Transfer-Encoding: gzip, chunked"),
    (501, b"Transfer-Encoding: chunked, gzip"),
    (501, b"Transfer-Encoding: chunked, chunked"),
    (501, b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
    (501, b"Transfer-Encoding: xchunked"),
    (501, b'Transfer-Encoding: "chunked"'),
    (501, b"Transfer-Encoding: identity"),
    (501, b"Transfer-Encoding: "),
    # grammar
    (400, b"A: b\r\n c"),
    (400, b"A: b\r\n\tc"),
    (400, b" A: b"),
    (400, b"A : b"),
    (400, b": b"),
    (400, b"A"),
    (400, b"A: b\x00c"),
    (400, b"A: b\x07c"),
    (400, b"A: b\x7fc"),
    (400, b"A: b\nC: d"),
    (400, b"A: b\rC: d"),
    (400, b"A\x00: b"),
    (400, b"Transfer-Encoding : chunked"),
    (400, b"Content-Length : 3"),
    # Host
    (400, b"Host: other"),
    (400, b"host: shop"),
    # Connection
    (400, b"Connection: Host"),
    (400, b"Connection: close, content-length"),
    (400, b"Connection: X-Forwarded-For"),
    (400, b"Connection: x-forwarded-anything"),
    (400, b"Connection: Authorization"),
    # expectations
    (417, b"Expect: 200-ok"),
    (417, b"Expect: "),
    (417, b"Expect: , 100-continue"),
    (417, b"Expect: 100-continue\r\nExpect: 200-ok"),
    # grammar comes before meaning
    (400, b"Transfer-Encoding: chunked\x00"),
    (400, b"Transfer-Encoding:\r\n chunked"),
    (400, b"Expect:\r\n 100-continue"),
]


@pytest.mark.parametrize(("status", "lines"), REFUSED_REQUESTS)
def test_a_request_that_two_readers_could_read_in_two_ways_is_refused(status: int, lines: bytes) -> None:
    with pytest.raises(BadHead) as refused:
        request(b"POST / HTTP/1.1\r\nHost: shop\r\n" + lines + b"\r\n\r\n")
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (400, b"GET /"),
        (505, b"GET / HTTP/0.9"),
        (505, b"GET / HTTP/2.0"),
        (505, b"GET / HTTP/1.2"),
        (505, b"GET / HTTP/3"),
        (400, b"GET / http/1.1"),
        (400, b"GET / HTTP/1.1 "),
        (400, b"GET  / HTTP/1.1"),
        (400, b" GET / HTTP/1.1"),
        (400, b"GET\t/ HTTP/1.1"),
        (400, b"GET /a b HTTP/1.1"),
        (400, b"GET /\x00 HTTP/1.1"),
        (400, b"GET /\x7f HTTP/1.1"),
        (400, b"GET /\xff HTTP/1.1"),
        (400, b"GET /#fragment HTTP/1.1"),
        (400, b"GE(T / HTTP/1.1"),
        (400, b"GET / HTTP/1.1\nHost: evil"),
        (400, b""),
        (400, b"GET shop HTTP/1.1"),
        (400, b"GET * HTTP/1.1"),
        (400, b"GET https://shop/ HTTP/1.1"),
        (400, b"GET http:/// HTTP/1.1"),
        (400, b"GET http://user@shop/ HTTP/1.1"),
        (400, b"GET http://169.254.169.254:99999999/ HTTP/1.1"),
        (405, b"CONNECT shop:443 HTTP/1.1"),
        (405, b"CONNECT / HTTP/1.1"),
        (405, b"TRACE / HTTP/1.1"),
        (400, b"GET http://shop/#fragment HTTP/1.1"),
        (400, b"GET http://shop@169.254.169.254/ HTTP/1.1"),
        (400, b"GET http://shop\\@evil/ HTTP/1.1"),
        (400, b"GET http:/evil/ HTTP/1.1"),
        (400, b"GET http://a,b/ HTTP/1.1"),
        (400, b"GET ftp://shop/ HTTP/1.1"),
        (400, b"GET shop:80 HTTP/1.1"),
        (414, b"GET /" + b"a" * 8192 + b" HTTP/1.1"),
        (414, b"G" * 9000 + b" / HTTP/1.1"),
    ],
)
def test_request_lines_refused(status: int, line: bytes) -> None:
    with pytest.raises(BadHead) as refused:
        request(line + b"\r\nHost: shop\r\n\r\n")
    assert refused.value.status == status


@pytest.mark.parametrize(
    "host", [b"", b"a b", b"shop:port", b"user@shop", b"shop/path", b"[::1", b"a,b", b"a,b/c", b"shop:123456"]
)
def test_a_host_that_is_no_authority_is_refused(host: bytes) -> None:
    with pytest.raises(BadHead, match="Host"):
        request(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")


def test_a_missing_host_is_refused_on_1_1_and_sent_empty_on_1_0() -> None:
    with pytest.raises(BadHead, match="Host"):
        request(b"GET / HTTP/1.1\r\n\r\n")
    assert fields_of(request(b"GET / HTTP/1.0\r\n\r\n").head)["host"] == ""


def test_transfer_encoding_is_refused_on_1_0() -> None:
    with pytest.raises(BadHead, match=r"HTTP/1\.0"):
        request(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n")


@pytest.mark.parametrize("host", [b"a b", b"user@shop", b"", b"shop\r\nHost: shop"])
def test_a_target_in_absolute_form_does_not_hide_a_host_that_is_not_sound(host: bytes) -> None:
    with pytest.raises(BadHead, match="Host"):
        request(b"GET http://shop/ HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")


@pytest.mark.parametrize("method", [b"BREW", b"get", b"PROPFIND", b"M-SEARCH", b"CONNECTED", b"TRACED", b"!"])
def test_any_other_method_is_passed_on(method: bytes) -> None:
    assert request(method + b" / HTTP/1.1\r\nHost: shop\r\n\r\n").head.startswith(method + b" / HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("line", "target", "host"),
    [
        (b"GET /a?b HTTP/1.1", b"/a?b", "shop"),
        (b"GET http://other/a?b HTTP/1.1", b"/a?b", "other"),
        (b"GET HTTP://other:81 HTTP/1.1", b"/", "other:81"),
        (b"GET http://other?b HTTP/1.1", b"/?b", "other"),
        (b"GET http://[::1]:81/ HTTP/1.1", b"/", "[::1]:81"),
        (b"OPTIONS * HTTP/1.1", b"*", "shop"),
        (b"OPTIONS http://other HTTP/1.1", b"*", "other"),
        (b"OPTIONS http://other/ HTTP/1.1", b"/", "other"),
    ],
)
def test_a_target_becomes_origin_form_and_an_absolute_one_overrules_host(line: bytes, target: bytes, host: str) -> None:
    sent = request(line + b"\r\nHost: shop\r\n\r\n").head
    assert sent.split(b" ")[1] == target
    assert fields_of(sent)["host"] == host
    assert fields_of(sent)["x-forwarded-host"] == host


def test_what_is_sent_on_is_written_anew() -> None:
    head = (
        b"POST /a HTTP/1.1\r\nhOST: shop\r\nContent-Length: 007\r\nCookie: a_b=c\r\nX_Forwarded_For: evil\r\n"
        b"X-Forwarded-For: evil\r\nx-forwarded-proto: evil\r\nX-Forwarded-Port: 666\r\nForwarded: for=evil\r\n"
        b"Connection: keep-alive, X-Mine, te\r\nX-Mine: gone\r\nTE: trailers\r\nTrailer: x\r\nUpgrade: h2c\r\n"
        b"Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: gone\r\n"
        b"Via: 1.0 front\r\nX-Request-Id:  r1 \r\nExpect: 100-continue\r\nAccept: */*\r\n\r\n"
    )
    assert request(head).head == (
        b"POST /a HTTP/1.1\r\nHost: shop\r\nCookie: a_b=c\r\nVia: 1.0 front\r\nX-Request-Id:  r1 \r\nAccept: */*\r\n"
        b"Content-Length: 7\r\nX-Forwarded-Host: shop\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: http\r\n"
        b"Via: 1.1 kalab\r\n\r\n"
    )
    assert request(head).req_id == "r1"
    assert request(head).fields.expects_continue


def test_what_is_sent_on_for_1_0_says_so_in_via() -> None:
    sent = request(b"GET / HTTP/1.0\r\nHost: shop\r\n\r\n").head
    assert sent.startswith(b"GET / HTTP/1.1\r\n")
    assert fields_of(sent)["via"] == "1.0 kalab"


@pytest.mark.parametrize(("version", "connection", "keeps"), KEEP_ALIVE)
def test_whether_the_connection_may_stay_open(version: bytes, connection: bytes, keeps: bool) -> None:
    lines = b"\r\nHost: shop\r\n" + connection + b"\r\n"
    assert request(b"GET / HTTP/" + version + lines).fields.keep_alive is keeps


@pytest.mark.parametrize(
    ("head", "usual"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", True),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n", True),
        (b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", False),
    ],
)
def test_the_usual_request_gets_the_usual_head(head: bytes, usual: bool) -> None:
    assert request(head).usual is usual


KNOWS: tuple[dict[str, Any], ...] = ({}, {"trailers": True}, {"trusted": True})


def test_what_is_remembered_of_one_head_is_not_said_of_another() -> None:
    for _ in range(2):
        for version in (b"1.0", b"1.1"):
            for lines in (b"", b"X-Own: a\r\nConnection: X-Own\r\n", b"X-Own: b\r\n", b"TE: trailers\r\n"):
                for knows in KNOWS:
                    head = b"GET / HTTP/" + version + b"\r\nHost: a\r\n" + lines + b"X-Forwarded-Proto: https\r\n\r\n"
                    sent = fields_of(request(head, **knows).head)
                    assert sent["via"] == version.decode() + " kalab"
                    assert sent.get("x-own", "") == ("b" if b"X-Own: b" in lines else "")
                    assert ("te" in sent) is (b"TE" in lines and "trailers" in knows and version == b"1.1")
                    assert sent["x-forwarded-proto"] == ("https" if "trusted" in knows else "http")


def test_many_options_in_connection_cost_little() -> None:
    names = b", ".join(b"x%d" % n for n in range(1200))
    assert b"x7" not in request(b"GET / HTTP/1.1\r\nHost: a\r\nX7: b\r\nConnection: " + names + b"\r\n\r\n").head


# ---- what is vouched for, seen from the whole head; more in test_forwarding.py


def test_what_connection_names_cannot_take_away_what_we_add() -> None:
    sent = request(START + b"Connection: Via, X-Forwarded, close\r\nX-Forwarded-For: evil\r\n\r\n").head
    assert fields_of(sent)["via"] == "1.1 kalab"
    assert fields_of(sent)["x-forwarded-for"] == "10.0.0.1"


def test_a_field_is_looked_up_when_asked_for() -> None:
    read = request(START + b"Trace-Parent: no\r\ntraceparent: \t00-ab \r\nTRACEPARENT: second\r\n\r\n")
    assert read.value_of(b"traceparent") == b"00-ab"
    assert read.value_of(b"host") == b"shop"
    assert read.value_of(b"parent") == b""
    assert read.req_id == ""
    twice = request(START + b"X-Request-Id: \xe4\r\n\r\n")
    assert [twice.req_id, twice.req_id] == ["ä", "ä"]


# ---- switching protocols (RFC 9110 §7.8)

WEBSOCKET = b"Upgrade: WebSocket\r\nSec-WebSocket-Key: k\r\n"


@pytest.mark.parametrize(
    ("version", "lines", "protocol"),
    [
        (b"1.1", b"Connection: Upgrade\r\n" + WEBSOCKET, b"websocket"),
        (b"1.1", b"Connection: keep-alive, uPGRADE\r\nContent-Length: 0\r\n" + WEBSOCKET, b"websocket"),
        (b"1.1", b"Connection: upgrade\r\nUpgrade: h2c, websocket\r\n", b"h2c"),
        (b"1.1", b"Connection: upgrade\r\nUpgrade: irc/6.9\r\n", b"irc/6.9"),
        (b"1.1", WEBSOCKET, b""),
        (b"1.1", b"Connection: close\r\n" + WEBSOCKET, b""),
        (b"1.1", b"Connection: upgrade\r\n", b""),
        (b"1.1", b"Connection: upgrade\r\nUpgrade:\r\n", b""),
        (b"1.1", b"Connection: upgrade\r\nUpgrade: web socket\r\n", b""),
        (b"1.1", b"Connection: upgrade\r\nUpgrade: websocket, a b\r\n", b""),
        (b"1.0", b"Connection: upgrade\r\n" + WEBSOCKET, b""),
        (b"1.1", b"Connection: upgrade\r\nContent-Length: 1\r\n" + WEBSOCKET, b""),
        (b"1.1", b"Connection: upgrade\r\nTransfer-Encoding: chunked\r\n" + WEBSOCKET, b""),
    ],
)
def test_the_protocol_that_a_request_asks_for(version: bytes, lines: bytes, protocol: bytes) -> None:
    read = request(b"GET /chat HTTP/" + version + b"\r\nHost: shop\r\n" + lines + b"\r\n")
    assert read.fields.upgrade == protocol
    assert "upgrade" not in fields_of(read.head)


def test_an_upgrade_is_passed_on_when_told_to() -> None:
    read = request(START + b"Connection: keep-alive, Upgrade\r\n" + WEBSOCKET + b"\r\n")
    plain, asking = fields_of(read.head), fields_of(read.head_with_upgrade())
    assert asking.pop("connection") == "Upgrade"
    assert asking.pop("upgrade") == "websocket"
    assert asking == plain
    assert plain["sec-websocket-key"] == "k"


# ---- trailers


@pytest.mark.parametrize(
    ("lines", "trailers", "sent"),
    [
        (b"TE: trailers\r\n", False, {}),
        (b"TE: trailers\r\n", True, {"te": "trailers", "connection": "TE"}),
        (b"TE: gzip;q=0.5, Trailers ;x\r\nConnection: te\r\n", True, {"te": "trailers", "connection": "TE"}),
        (b"TE: gzip\r\n", True, {}),
        (b"Transfer-Encoding: chunked\r\nTrailer: Sum, Host, content-type\r\n", True, {"trailer": "Sum"}),
        (b"Transfer-Encoding: chunked\r\nTrailer: Sum, Own\r\nConnection: Own\r\n", True, {"trailer": "Sum"}),
        (b"Transfer-Encoding: chunked\r\nTrailer: Sum\r\n", False, {}),
        (b"Trailer: Sum\r\n", True, {}),
    ],
)
def test_what_is_said_about_trailers_goes_on_with_them(lines: bytes, trailers: bool, sent: dict[str, str]) -> None:
    fields = fields_of(request(b"POST / HTTP/1.1\r\nHost: shop\r\n" + lines + b"\r\n", trailers=trailers).head)
    assert {name: fields[name] for name in ("te", "trailer", "connection") if name in fields} == sent


def test_one_line_repr() -> None:
    assert repr(request(START + b"\r\n")) == "<Request GET />"
