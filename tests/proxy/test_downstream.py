"""The client side: requests however they arrive, what is refused, order, backpressure, deadlines."""

from __future__ import annotations

import pytest
from conftest import MakeProxy
from fakes import GET, OK, OK_CLOSE, PASSED_OK, POST, FakeProxy, Peer, body_of, fields_of, splits, status_of

from proxy.downstream_socket import LINGER_BYTES
from proxy.http1.framing import ChunkedBody

CHUNKED = (
    b"POST /a HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nbo\r\n2\r\ndy\r\n0\r\nA: b\r\n\r\n"
)


@pytest.mark.parametrize(
    ("request_", "body"), [(GET, b""), (POST, b"body"), (CHUNKED, b"body")], ids=["none", "length", "chunked"]
)
def test_a_request_is_the_same_however_it_arrives(make_proxy: MakeProxy, request_: bytes, body: bytes) -> None:
    heads = set()
    for first, second in splits(request_):
        proxy = make_proxy()
        client = proxy.client()
        client.sends(first)
        server = None
        if proxy.loop.dials:  # the head is through; its body is not read until there is a connection
            server = proxy.accept()
        client.sends(second)
        server = server or proxy.accept()
        head, _, sent = server.gets().partition(b"\r\n\r\n")
        heads.add(head)
        assert (bytes(ChunkedBody().feed(sent)) if request_ is CHUNKED else sent) == body
        server.sends(OK)
        assert client.gets() == PASSED_OK
        assert not client.closed
        assert not server.closed
        assert proxy.last("exchange.finished")["bytes_in"] == len(body)
    assert len(heads) == 1


def test_a_request_one_byte_at_a_time(proxy: FakeProxy) -> None:
    client = proxy.client()
    for at in range(len(GET)):
        client.sends(GET[at : at + 1])
    server = proxy.accept()
    server.sends(OK)
    assert client.gets() == PASSED_OK


def test_chunks_are_written_anew(proxy: FakeProxy) -> None:
    client = proxy.client()
    client.sends(CHUNKED)
    server = proxy.accept()
    got = server.gets()
    assert fields_of(got)["transfer-encoding"] == "chunked"
    assert body_of(got) == b"4\r\nbody\r\n0\r\n\r\n"


def test_the_same_head_again_is_understood_the_same(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    heads = []
    for request_ in (GET, GET, GET.replace(b"shop", b"other"), GET.replace(b"1.1", b"1.0"), GET):
        client.sends(request_)
        heads.append(server.gets())
        server.sends(OK)
        if client.closed:
            client = proxy.client()
    assert heads[0] == heads[1] == heads[4]
    assert fields_of(heads[2])["host"] == "other"
    assert fields_of(heads[3])["via"] == "1.0 kalab"


def test_one_empty_line_before_a_request_is_ignored(proxy: FakeProxy) -> None:
    for start in (b"\r\n" + GET, b"\r\n"):
        client = proxy.client()
        client.sends(start)
        if start == b"\r\n":
            client.sends(GET)
        proxy.accept().sends(OK_CLOSE)
        assert client.gets() == PASSED_OK


def test_an_empty_line_that_comes_in_two_pieces_is_ignored_too(proxy: FakeProxy) -> None:
    client = proxy.client()
    client.sends(b"\r")
    client.sends(b"\n" + GET)
    proxy.accept().sends(OK)
    assert client.gets() == PASSED_OK


@pytest.mark.parametrize("request_", [GET, POST])
def test_an_empty_line_behind_a_request_does_not_keep_the_connection(make_proxy: MakeProxy, request_: bytes) -> None:
    for draining in (False, True):
        proxy = make_proxy()
        client = proxy.client()
        proxy.loop.passes(10)
        client.sends(request_ + b"\r\n")
        server = proxy.accept()
        server.sends(OK)
        proxy.gateway.draining = draining
        proxy.loop.turn()
        assert client.gets() == PASSED_OK
        proxy.loop.passes(0.9 if draining else 74)
        assert not client.closed
        proxy.loop.passes(0.2 if draining else 2)
        assert client.closed
        assert proxy.last("downstream.closed")["reason"] == ("drained" if draining else "idle_timeout")


# ---- refusing


@pytest.mark.parametrize(
    ("status", "request_"),
    [
        (400, b"GET / HTTP/1.1\r\n\r\n"),
        (400, b"GET / HTTP/1.1\nHost: shop\n\n"),
        (400, POST.replace(b"Length: 4", b"Length: 4\r\nTransfer-Encoding: chunked")),
        (501, POST.replace(b"Content-Length: 4", b"Transfer-Encoding: gzip")),
        (505, GET.replace(b"1.1", b"2.0")),
        (405, b"CONNECT shop:443 HTTP/1.1\r\nHost: shop\r\n\r\n"),
        (414, b"GET /" + b"a" * 9000),
        (414, b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: shop\r\n\r\n"),
        (431, GET[:-2] + b"A: b\r\n" * 101 + b"\r\n"),
        (431, GET[:-2] + b"A: " + b"b" * 70_000),
        (417, POST.replace(b"\r\n\r\n", b"\r\nExpect: magic\r\n\r\n")),
        (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    ],
)
def test_what_is_not_a_request_is_answered_once_and_closed(proxy: FakeProxy, status: int, request_: bytes) -> None:
    client = proxy.client()
    client.sends(request_ + GET)
    page = client.gets()
    assert status_of(page) == status
    assert fields_of(page)["connection"] == "close"
    assert fields_of(page)["x-kalab-cause"] == "bad_request"
    assert page.count(b"X-Kalab-Cause") == 1
    assert proxy.loop.dials == []  # nothing of it reached an upstream
    assert client.transport.eof_written
    assert proxy.last("exchange.finished")["status"] == status
    client.sends(GET)  # it is read and thrown away, so that no RST destroys the page
    client.closes()
    assert client.closed
    assert proxy.last("downstream.closed")["reason"] == "bad_request"


def test_lingering_is_bounded_in_time_and_bytes(proxy: FakeProxy) -> None:
    slow, fast = proxy.client(), proxy.client()
    for client in (slow, fast):
        client.sends(b"bad\r\n\r\n")
    proxy.loop.passes(1.9)
    assert not slow.closed
    proxy.loop.passes(0.2)
    assert slow.closed
    fast = proxy.client()
    fast.sends(b"bad\r\n\r\n")
    fast.sends(bytes(LINGER_BYTES))
    assert not fast.closed
    fast.sends(b"x")
    assert fast.closed


def test_lingering_lasts_while_an_answer_is_on_its_way(proxy: FakeProxy) -> None:
    """An RST would destroy it. But nobody may take for ever."""
    for delivered, lasts in ((True, 52.1), (False, 62.1)):
        proxy.kernel.undelivered = 1000
        client = proxy.client()
        client.sends(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + GET)
        proxy.accept().sends(OK_CLOSE)
        proxy.loop.passes(50)
        assert not client.closed
        proxy.kernel.undelivered = 0 if delivered else 500
        proxy.loop.passes(lasts - 50)
        assert client.closed


@pytest.mark.parametrize("body", [b"x\r\n", b"2\r\nbodyXX\r\n"])
def test_a_broken_body_is_a_400_and_the_upstream_connection_is_closed(proxy: FakeProxy, body: bytes) -> None:
    client, server = proxy.pair()
    client.sends(CHUNKED.partition(b"2;")[0])
    client.sends(body)
    assert status_of(client.gets()) == 400
    assert server.closed
    assert client.transport.eof_written


def test_a_body_that_is_too_large_is_a_413(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(limits__body_bytes="3B")
    client = proxy.client()
    client.sends(POST)
    assert status_of(client.gets()) == 413
    assert proxy.loop.dials == []
    client = proxy.client()
    client.sends(CHUNKED)
    assert status_of(client.gets()) == 413


def test_one_client_too_many_is_told_so(proxy: FakeProxy) -> None:
    proxy.accepts = False
    page = (client := proxy.client()).gets()
    assert (status_of(page), fields_of(page)["x-kalab-cause"]) == (503, "too_many_connections")
    client.closes()
    assert proxy.last("downstream.closed")["reason"] == "connection_limit"


# ---- order


def test_pipelined_requests_are_answered_in_order_one_at_a_time(proxy: FakeProxy) -> None:
    client = proxy.client()
    client.sends(b"".join(GET.replace(b"/a", b"/%d" % number) for number in range(5)))
    assert not client.transport.reading
    server = proxy.accept()
    for number in range(5):
        assert server.gets().startswith(b"GET /%d " % number)
        assert client.transport.reading is (number == 4)
        server.sends(OK)
        assert client.gets() == PASSED_OK
        proxy.loop.turn()
    assert server.gets() == b""


def test_a_body_and_a_pipelined_request_in_one_piece(proxy: FakeProxy) -> None:
    for request_ in (POST, CHUNKED):
        client = proxy.client()
        client.sends(request_ + GET)
        server = proxy.accept()
        server.gets()
        server.sends(OK)
        proxy.loop.turn()
        assert server.gets().startswith(b"GET /a ")
        server.sends(OK_CLOSE)
        assert client.gets() == PASSED_OK * 2
        assert client.transport.reading


def test_a_pipelined_request_that_arrives_in_pieces(proxy: FakeProxy) -> None:
    client = proxy.client()
    client.sends(GET + GET[:9])
    server = proxy.accept()
    server.sends(OK)
    proxy.loop.turn()
    assert client.transport.reading
    client.sends(GET[9:])
    server.sends(OK)
    assert client.gets() == PASSED_OK * 2


def test_ten_thousand_pipelined_requests_that_all_fail_at_once(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(pool__max_connections=1, pool__max_waiting=0)
    proxy.client().sends(GET)
    client = proxy.client()
    client.sends(GET * 5_000)
    proxy.loop.turn()
    assert client.gets().count(b"HTTP/1.1 503 ") == 5_000


def test_a_pipelined_request_behind_the_last_is_not_answered(proxy: FakeProxy) -> None:
    client = proxy.client()
    client.sends(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + GET)
    server = proxy.accept()
    server.sends(OK)
    proxy.loop.turn()
    assert fields_of(client.gets())["connection"] == "close"
    assert client.transport.eof_written


# ---- versions


@pytest.mark.parametrize(
    ("connection", "response", "kept", "body"),
    [
        (b"", OK, False, b"ok"),
        (b"Connection: keep-alive\r\n", OK, True, b"ok"),
        (b"Connection: keep-alive\r\n", b"HTTP/1.1 204 No Content\r\n\r\n", True, b""),
        (
            b"Connection: keep-alive\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            False,
            b"ok",
        ),
    ],
)
def test_a_1_0_client_gets_what_it_understands(
    proxy: FakeProxy, connection: bytes, response: bytes, kept: bool, body: bytes
) -> None:
    client = proxy.client()
    client.sends(b"GET / HTTP/1.0\r\nHost: shop\r\n" + connection + b"\r\n")
    server = proxy.accept()
    server.sends(b"HTTP/1.1 103 Early Hints\r\n\r\n" + response)
    got = client.gets()
    assert body_of(got) == body
    assert got.count(b"HTTP/1.1 ") == 1
    assert "transfer-encoding" not in fields_of(got)
    assert fields_of(got)["connection"] == ("keep-alive" if kept else "close")
    assert client.closed is not kept


# ---- 100 Continue


def test_a_client_that_waits_for_100_gets_it(proxy: FakeProxy) -> None:
    client = proxy.client()
    head, body = POST[:-4].replace(b"\r\n\r\n", b"\r\nExpect: 100-Continue\r\n\r\n"), POST[-4:]
    client.sends(head)
    assert client.gets() == b"HTTP/1.1 100 Continue\r\n\r\n"
    server = proxy.accept()
    assert "expect" not in fields_of(server.gets())
    client.sends(body)
    assert server.gets() == b"body"
    server.sends(OK)
    assert client.gets() == PASSED_OK


def test_a_client_that_does_not_wait_gets_no_100(proxy: FakeProxy) -> None:
    client = proxy.client()
    client.sends(POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    proxy.accept().sends(OK)
    assert client.gets() == PASSED_OK


def test_a_client_slow_before_there_is_a_connection_pauses_the_upstream_too(proxy: FakeProxy) -> None:
    client = proxy.client()
    client.sends(POST[:-4].replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    client.protocol.pause_writing()  # the 100 was the drop too much
    server = proxy.accept()
    assert not server.transport.reading
    client.protocol.resume_writing()
    assert server.transport.reading


# ---- backpressure


def test_a_slow_client_pauses_the_upstream(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(GET)
    server.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n123")
    client.protocol.pause_writing()
    assert not server.transport.reading
    proxy.loop.passes(59)
    client.protocol.resume_writing()
    assert server.transport.reading
    server.sends(b"456")
    assert client.gets().endswith(b"123456")
    assert not server.closed


def test_a_client_that_reads_nothing_is_closed_at_last(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(GET)
    server.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n123")
    client.protocol.pause_writing()
    proxy.loop.passes(61)
    assert client.closed
    assert server.closed
    assert proxy.last("downstream.closed")["reason"] == "write_timeout"


def test_a_connection_is_parked_reading_though_its_client_is_slow(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(GET)
    server.sends(OK[:-1])
    client.protocol.pause_writing()
    server.protocol.data_received(OK[-1:])  # had been read before the pause
    assert server.transport.reading
    assert not server.closed


def test_pipelined_requests_wait_for_a_client_that_does_not_read(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(GET + GET)
    server.gets()
    client.protocol.pause_writing()
    server.protocol.data_received(OK)
    proxy.loop.turn()
    assert server.gets() == b""
    client.protocol.resume_writing()
    proxy.loop.turn()
    assert server.gets().startswith(b"GET /a ")


def test_requests_are_not_taken_from_a_client_that_does_not_read_answers(proxy: FakeProxy) -> None:
    """Otherwise each would add an answer to those that wait in memory."""
    client, server = proxy.pair()
    client.sends(GET)
    server.gets()
    server.sends(OK[:-1])
    client.protocol.pause_writing()
    server.protocol.data_received(OK[-1:])
    client.sends(GET)
    assert not client.transport.reading
    assert server.gets() == b""
    client.protocol.resume_writing()
    proxy.loop.turn()
    assert server.gets().startswith(b"GET /a ")
    assert client.transport.reading


@pytest.mark.parametrize("request_", [POST, CHUNKED])
def test_a_client_that_sends_but_does_not_read_is_closed_at_last(proxy: FakeProxy, request_: bytes) -> None:
    """The response began before the request was complete, and nobody takes it."""
    client, server = proxy.pair()
    client.sends(request_[:-2])
    server.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n123")
    client.protocol.pause_writing()
    proxy.loop.passes(40)
    client.sends(request_[-2:-1])
    proxy.loop.passes(10)
    client.sends(request_[-1:])
    proxy.loop.passes(11)
    assert client.closed
    assert server.closed
    assert proxy.last("downstream.closed")["reason"] == "write_timeout"


def test_a_client_whose_body_is_not_taken_is_not_to_blame(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(POST[:-2])
    server.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n1")
    server.protocol.pause_writing()
    client.protocol.pause_writing()
    client.protocol.resume_writing()
    for _ in range(4):
        proxy.loop.passes(30)
        server.sends(b"2")
    assert not client.closed
    assert proxy.of("exchange.finished") == []


def test_a_slow_upstream_pauses_the_client(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(POST[:-2])
    server.protocol.pause_writing()
    assert not client.transport.reading
    proxy.loop.passes(59)
    server.protocol.resume_writing()
    assert client.transport.reading
    client.sends(POST[-2:])
    server.sends(OK)
    assert client.gets() == PASSED_OK


def test_an_upstream_that_reads_nothing_is_given_up_at_last(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(POST[:-2])
    server.protocol.pause_writing()
    proxy.loop.passes(61)
    assert status_of(client.gets()) == 504
    assert server.closed
    assert client.transport.eof_written


def test_a_body_waits_unread_until_there_is_a_connection(proxy: FakeProxy) -> None:
    client = proxy.client()
    client.sends(POST[:-2])
    assert not client.transport.reading
    proxy.loop.passes(4)
    server = proxy.accept()
    assert client.transport.reading
    client.sends(POST[-2:])
    assert body_of(server.gets()) == b"body"


# ---- deadlines


def test_a_head_that_does_not_come_in_time_is_a_408(proxy: FakeProxy) -> None:
    client = proxy.client()
    proxy.loop.passes(20)
    for at in range(10):
        client.sends(GET[at : at + 1])
        proxy.loop.passes(0.99)
    assert client.gets() == b""
    proxy.loop.passes(0.2)
    page = client.gets()
    assert (status_of(page), fields_of(page)["x-kalab-cause"]) == (408, "request_timeout")


def test_an_idle_client_is_closed_without_a_word(proxy: FakeProxy) -> None:
    client, _ = proxy.pair()
    proxy.loop.passes(74)
    assert not client.closed
    proxy.loop.passes(2)
    assert client.closed
    assert client.gets() == b""
    assert proxy.last("downstream.closed")["reason"] == "idle_timeout"


def test_a_body_that_stops_coming_is_a_408(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(POST[:-3])
    proxy.loop.passes(59)
    client.sends(POST[-3:-2])
    proxy.loop.passes(59)
    assert client.gets() == b""
    proxy.loop.passes(2)
    page = client.gets()
    assert (status_of(page), fields_of(page)["x-kalab-cause"]) == (408, "request_timeout")
    assert server.closed


def test_a_last_response_that_nobody_reads_is_given_up(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    server.sends(OK)
    assert proxy.last("downstream.closed")["reason"] == "done"
    client.transport.closed = False  # not yet flushed
    proxy.loop.passes(61)
    assert client.closed


# ---- leaving


@pytest.mark.parametrize("leaves", [Peer.closes, Peer.resets])
@pytest.mark.parametrize("response", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123"])
def test_a_client_that_leaves_takes_the_upstream_connection_along(
    proxy: FakeProxy, leaves: object, response: bytes
) -> None:
    client, server = proxy.pair()
    client.sends(GET)
    if response:
        server.sends(response)
    leaves(client)  # type: ignore[operator]
    assert server.closed
    assert proxy.last("upstream.closed")["reason"] == "client_closed"
    finished = proxy.last("exchange.finished")
    assert (finished["cause"], finished["status"]) == ("client_closed", 200 if response else 499)
    server.protocol.data_received(OK)  # late: nobody is hurt
    server.closes()
    assert proxy.connections == []


def test_a_draining_proxy_says_close(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(GET)
    proxy.gateway.draining = True
    client.protocol.drain()
    server.sends(OK)
    assert fields_of(client.gets())["connection"] == "close"
    assert client.closed


@pytest.mark.parametrize("used", [False, True])
def test_a_draining_proxy_waits_a_moment_for_a_request_that_may_be_on_its_way(proxy: FakeProxy, used: bool) -> None:
    """A FIN at once would cross it, whether it is the first on its connection or not."""
    asks, silent = proxy.client(), proxy.client()
    if used:
        asks.sends(GET)
        server = proxy.accept()
        server.sends(OK)
        silent.sends(GET)
        server.sends(OK)
        asks.gets()
    proxy.gateway.draining = True
    for connection in list(proxy.connections):
        connection.drain()
    proxy.loop.passes(0.9)
    asks.sends(GET)
    proxy.loop.passes(0.2)
    assert silent.closed
    assert proxy.last("downstream.closed")["reason"] == "drained"
    (server if used else proxy.accept()).sends(OK)
    assert fields_of(asks.gets())["connection"] == "close"
    assert asks.closed


def test_who_was_answered_without_close_while_draining_began_may_ask_once_more(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(GET)
    server.sends(OK[:-1])
    proxy.gateway.draining = True
    client.protocol.drain()
    server.sends(OK[-1:])
    assert "connection" not in fields_of(client.gets())
    client.sends(GET)
    server.sends(OK)
    assert fields_of(client.gets())["connection"] == "close"
    assert client.closed


def test_a_request_that_came_at_the_last_moment_is_answered(proxy: FakeProxy) -> None:
    """The time is over, but the kernel has something that the loop has not read yet."""
    client, server = proxy.pair()
    proxy.kernel.unread_by_proxy = len(GET)
    proxy.loop.passes(75.01)
    assert not client.closed
    proxy.kernel.unread_by_proxy = 0
    client.sends(GET)
    proxy.accept().sends(OK)
    assert client.gets() == PASSED_OK
    proxy.loop.passes(76)
    assert client.closed
    assert server.closed


def test_a_draining_proxy_answers_what_has_come_behind(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(GET + GET)
    server.sends(OK)
    proxy.gateway.draining = True
    client.protocol.drain()
    proxy.loop.turn()
    server.sends(OK)
    first, second = client.gets().split(b"ok")[:2]
    assert "connection" not in fields_of(first)
    assert fields_of(second)["connection"] == "close"
    assert client.closed


@pytest.mark.parametrize(("response", "status"), [(b"", 503), (OK[:-1], 200)])
def test_what_draining_cuts_off_is_not_laid_at_the_clients_door(proxy: FakeProxy, response: bytes, status: int) -> None:
    client, server = proxy.pair()
    client.sends(GET)
    if response:
        server.sends(response)
    client.protocol.abort()
    finished = proxy.last("exchange.finished")
    assert (finished["cause"], finished["status"]) == ("draining", status)
    assert proxy.last("upstream.closed")["reason"] == proxy.last("downstream.closed")["reason"] == "drained"


def test_one_line_repr(proxy: FakeProxy) -> None:
    client, _ = proxy.pair()
    assert repr(client.protocol) == f"<DownstreamConnection IDLE {client.protocol.name}, 1 requests>"
    client.sends(GET[:5])
    assert repr(client.protocol).startswith("<DownstreamConnection HEAD 10.0.0.1:")
    assert repr(client.protocol._reader) == "<RequestReader in a head>"


# ---- routes


def test_a_request_that_no_route_takes_is_a_404(make_proxy: MakeProxy) -> None:
    proxy = make_proxy()
    proxy.gateway.take(proxy.config, {})
    client = proxy.client()
    client.sends(GET)
    page = client.gets()
    assert (status_of(page), fields_of(page)["x-kalab-cause"]) == (404, "no_route")
    assert client.transport.eof_written
