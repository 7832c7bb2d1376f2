"""Heads: what is refused, what is understood, what is sent on."""

from __future__ import annotations

import re

import pytest
from fakes import fields_of

from proxy.http1 import HEAD_END, BadHead, HeadLimits, PartialHead, check_grammar
from proxy.request_head import Request, parse_request_fields, parse_request_line, resolve_target, with_host
from proxy.response_head import ResponseHead, parse_response

LIMITS = HeadLimits()

# RFC 9112 §5, RFC 9110 §5.5: field lines without folding, and the empty line.
GRAMMAR = re.compile(rb"\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n)*\r\n").fullmatch


def request(head: bytes, limits: HeadLimits = LIMITS) -> Request:
    """As the client's connection puts the parts together."""
    method, target, http10, at = parse_request_line(head, limits)
    block = head[at:]
    target, host = resolve_target(method, target)
    if host is not None:
        block = with_host(block, host)
    return Request(method, target, http10, parse_request_fields(block, http10, limits, b"10.0.0.1"))


def response(head: bytes, limits: HeadLimits = LIMITS) -> ResponseHead:
    return parse_response(head, limits)


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
        (414, b"GET /" + b"a" * 8192 + b" HTTP/1.1"),
        (414, b"G" * 9000 + b" / HTTP/1.1"),
    ],
)
def test_request_lines_refused(status: int, line: bytes) -> None:
    with pytest.raises(BadHead) as refused:
        request(line + b"\r\nHost: shop\r\n\r\n")
    assert refused.value.status == status


@pytest.mark.parametrize(
    "host", [b"", b"a b", b"shop:port", b"user@shop", b"shop/path", b"[::1", b"a,b/c", b"shop:123456"]
)
def test_a_host_that_is_no_authority_is_refused(host: bytes) -> None:
    with pytest.raises(BadHead, match="Host"):
        request(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")


def test_a_missing_host_is_refused_on_1_1_and_sent_empty_on_1_0() -> None:
    with pytest.raises(BadHead, match="Host"):
        request(b"GET / HTTP/1.1\r\n\r\n")
    assert fields_of(request(b"GET / HTTP/1.0\r\n\r\n").head())["host"] == ""


def test_transfer_encoding_is_refused_on_1_0() -> None:
    with pytest.raises(BadHead, match=r"HTTP/1\.0"):
        request(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n")


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
    sent = request(line + b"\r\nHost: shop\r\n\r\n").head()
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
    assert request(head).head() == (
        b"POST /a HTTP/1.1\r\nHost: shop\r\nCookie: a_b=c\r\nVia: 1.0 front\r\nX-Request-Id:  r1 \r\nAccept: */*\r\n"
        b"Content-Length: 7\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: shop\r\n"
        b"Via: 1.1 kalab\r\n\r\n"
    )
    assert request(head).fields.req_id == "r1"
    assert request(head).fields.expects_continue


def test_what_is_sent_on_for_1_0_says_so_in_via() -> None:
    sent = request(b"GET / HTTP/1.0\r\nHost: shop\r\n\r\n").head()
    assert sent.startswith(b"GET / HTTP/1.1\r\n")
    assert fields_of(sent)["via"] == "1.0 kalab"


@pytest.mark.parametrize(
    ("version", "connection", "keeps"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: Keep-Alive, CLOSE\r\n", False),
        (b"1.1", b"Connection: x\r\nConnection: close\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
    ],
)
def test_whether_the_connection_may_stay_open(version: bytes, connection: bytes, keeps: bool) -> None:
    lines = b"\r\nHost: shop\r\n" + connection + b"\r\n"
    assert request(b"GET / HTTP/" + version + lines).fields.keep_alive is keeps
    assert response(b"HTTP/" + version + b" 200 OK" + lines).keep_alive is keeps


def test_many_options_in_connection_cost_little() -> None:
    names = b", ".join(b"x%d" % n for n in range(1200))
    assert b"x7" not in request(b"GET / HTTP/1.1\r\nHost: a\r\nX7: b\r\nConnection: " + names + b"\r\n\r\n").head()


@pytest.mark.parametrize("insert", [True, False])
def test_llhttp_and_the_rfc_agree_on_field_lines_byte_by_byte(insert: bool) -> None:
    """Every byte at every place of a block: what passes the proxy's check is what the grammar admits."""
    sound = b"\r\nHost: a.b\r\nX-Ab: v w\r\nConnection: close\r\nE:\r\n\r\n"
    for at in range(len(sound)):
        for byte in range(256):
            block = sound[:at] + bytes([byte]) + sound[at + (not insert) :]
            block = block[: block.find(HEAD_END) + 4]
            if not block.startswith(b"\r\n") or not block.endswith(HEAD_END):
                continue
            try:
                check_grammar(block)
            except BadHead:
                assert not GRAMMAR(block), block
            else:
                assert GRAMMAR(block), block


# ---- limits


def test_limits_of_a_request_head() -> None:
    limits = HeadLimits(line=100, head=1000, fields=3)
    start = b"GET / HTTP/1.1\r\nHost: shop\r\n"
    request(start + b"A: b\r\nC: d\r\n\r\n", limits)
    for lines in (b"A: b\r\nC: d\r\nE: f\r\n\r\n", b"A: " + b"b" * 100 + b"\r\n\r\n"):
        with pytest.raises(BadHead) as refused:
            request(start + lines, limits)
        assert refused.value.status == 431


@pytest.mark.parametrize("size", [1, 2, 7, 4096])
def test_limits_count_across_the_pieces_of_a_head(size: int) -> None:
    def feed(data: bytes) -> int:
        head = PartialHead(HeadLimits(line=100, head=500, fields=100))
        try:
            for at in range(0, len(data), size):
                head.feed(data[at : at + size])
        except BadHead as refused:
            return refused.status
        return 0

    assert feed(b"GET /" + b"a" * 10_000) == 414
    assert feed(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 10_000) == 431
    assert feed(b"GET / HTTP/1.1\nHost: a\n\n" + b" " * 60) == 400
    assert feed(b"GET / HTTP/1.1\r\nA: \x00" + b" " * 60) == 400
    assert feed(b"GET / HTTP/1.1\r\nA: \rb" + b" " * 60) == 400


def test_a_head_in_pieces_comes_out_whole() -> None:
    whole = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest"
    for at in range(len(whole)):
        head = PartialHead(LIMITS)
        came = head.feed(whole[:at]) or head.feed(whole[at:])
        assert came is not None
        assert came.startswith(whole[: whole.find(b"rest")])


# ---- responses


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
