"""Upgrades: who may ask, what is held back until the upstream agrees, and how a tunnel carries bytes and ends."""

from __future__ import annotations

import pytest
from conftest import MakeProxy
from fakes import GET, OK, PASSED_OK, FakeProxy, Peer, body_of, fields_of, splits, status_of

ASKS = (
    b"GET /chat HTTP/1.1\r\nHost: shop\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
    b"Sec-WebSocket-Key: a2FsYWI=\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
AGREES = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: yes\r\n\r\n"
)
PASSED_101 = (
    b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: yes\r\nVia: 1.1 kalab\r\n"
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
)


@pytest.fixture
def proxy(make_proxy: MakeProxy) -> FakeProxy:
    return make_proxy(http__upgrades=["websocket"])


def tunnel(proxy: FakeProxy) -> tuple[Peer, Peer]:
    """A client and an upstream that have switched."""
    client = proxy.client()
    client.sends(ASKS)
    server = proxy.accept()
    server.gets()
    server.sends(AGREES)
    assert client.gets() == PASSED_101
    return client, server


# ---- asking


@pytest.mark.parametrize(
    ("upgrades", "asked", "passed"),
    [
        ([], b"WebSocket", None),
        (["websocket"], b"WebSocket", "websocket"),
        (["websocket"], b"h2c", None),
        (["websocket"], b"h2c, websocket", None),  # the first is preferred, and is not allowed
        (["websocket", "echo/1"], b"echo/1, websocket", "echo/1"),
    ],
)
def test_only_what_is_allowed_may_be_asked_for(
    make_proxy: MakeProxy, upgrades: list[str], asked: bytes, passed: str | None
) -> None:
    proxy = make_proxy(http__upgrades=upgrades)
    client = proxy.client()
    client.sends(ASKS.replace(b"WebSocket\r\n", asked + b"\r\n", 1))
    server = proxy.accept()
    head = fields_of(server.gets())
    assert head.get("upgrade") == passed
    assert head.get("connection") == ("Upgrade" if passed else None)
    server.sends(OK)
    assert client.gets() == PASSED_OK


def test_a_request_with_a_body_does_not_ask(proxy: FakeProxy) -> None:
    client = proxy.client()
    client.sends(ASKS.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 4\r\n\r\n") + b"body")
    head = proxy.accept().gets()
    assert "upgrade" not in fields_of(head)
    assert body_of(head) == b"body"


def test_a_head_request_may_ask_and_its_answer_has_no_body_all_the_same(proxy: FakeProxy) -> None:
    client = proxy.client()
    client.sends(ASKS.replace(b"GET", b"HEAD"))
    server = proxy.accept()
    server.sends(OK.removesuffix(b"ok"))
    assert client.gets() == PASSED_OK.removesuffix(b"ok")
    client.sends(GET)
    server.gets()
    server.sends(OK)
    assert client.gets() == PASSED_OK


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (GET, AGREES),
        (ASKS, AGREES.replace(b"websocket", b"h2c")),
        (ASKS, AGREES.replace(b"Upgrade: websocket\r\n", b"")),
        (ASKS, AGREES.replace(b"Connection: Upgrade\r\n", b"")),
        (ASKS, AGREES.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n")),
        (ASKS, AGREES.replace(b"1.1", b"1.0")),
    ],
    ids=["unasked", "another", "none", "not named", "with a body", "1.0"],
)
def test_a_101_that_agrees_to_nothing_is_a_502(proxy: FakeProxy, request_: bytes, answer: bytes) -> None:
    client, server = proxy.pair()
    client.sends(request_)
    server.sends(answer)
    page = client.gets()
    assert (status_of(page), fields_of(page)["x-kalab-cause"]) == (502, "invalid_response")
    assert server.closed


# ---- until the upstream agrees (CVE-2026-2833)


def test_what_comes_behind_is_held_until_the_101(proxy: FakeProxy) -> None:
    client = proxy.client()
    client.sends(ASKS + b"fra")
    assert not client.transport.reading
    server = proxy.accept()
    assert server.gets().endswith(b"\r\n\r\n")
    server.sends(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    assert server.gets() == b""
    server.sends(AGREES + b"hello")
    assert server.gets() == b"fra"
    assert client.transport.reading
    client.sends(b"me")
    assert server.gets() == b"me"
    assert client.gets().endswith(PASSED_101 + b"hello")


def test_what_comes_behind_is_the_next_request_if_the_upstream_does_not_agree(proxy: FakeProxy) -> None:
    client = proxy.client()
    client.sends(ASKS + GET)
    server = proxy.accept()
    assert server.gets().count(b"GET ") == 1
    server.sends(OK)
    proxy.loop.turn()
    assert server.gets().startswith(b"GET /a ")
    server.sends(OK)
    assert client.gets() == PASSED_OK * 2


def test_what_comes_behind_is_judged_as_a_request_if_the_upstream_does_not_agree(proxy: FakeProxy) -> None:
    client = proxy.client()
    client.sends(ASKS + b"\x81\x05hello")
    server = proxy.accept()
    server.gets()
    server.sends(OK)
    proxy.loop.turn()
    assert server.gets() == b""
    answer, page = client.gets().split(b"ok", 1)
    assert (status_of(answer), status_of(page)) == (200, 400)


def test_the_answer_is_the_same_however_it_arrives(make_proxy: MakeProxy) -> None:
    for first, second in splits(AGREES + b"hello"):
        proxy = make_proxy(http__upgrades=["websocket"])
        client = proxy.client()
        client.sends(ASKS)
        server = proxy.accept()
        server.sends(first)
        server.sends(second)
        assert client.gets() == PASSED_101 + b"hello"


def test_asking_again_on_a_fresh_connection(proxy: FakeProxy) -> None:
    """It is a GET, so what a GET is allowed it is allowed too; until a byte of the answer has come."""
    client, server = proxy.pair()
    client.sends(ASKS + b"held")
    server.closes()
    again = proxy.accept()
    assert fields_of(again.gets())["upgrade"] == "websocket"
    again.sends(AGREES)
    assert again.gets() == b"held"
    assert client.gets() == PASSED_101


# ---- bytes


def test_bytes_go_both_ways_and_are_counted(proxy: FakeProxy) -> None:
    client, server = tunnel(proxy)
    client.sends(b"GET / HTTP/1.1\r\n\r\n")
    client.sends(b"\x00" * 10)
    assert server.gets() == b"GET / HTTP/1.1\r\n\r\n" + b"\x00" * 10
    server.sends(b"HTTP/1.1 500 no\r\n\r\n")
    assert client.gets() == b"HTTP/1.1 500 no\r\n\r\n"
    assert proxy.of("exchange.finished") == []
    client.protocol.eof_received()
    server.protocol.eof_received()
    (finished,) = proxy.of("exchange.finished")
    assert (finished["status"], finished["cause"]) == (101, "")
    assert (finished["bytes_in"], finished["bytes_out"]) == (28, 19)


@pytest.mark.parametrize("slow", ["client", "server"])
def test_whoever_reads_slowly_pauses_the_other(proxy: FakeProxy, slow: str) -> None:
    client, server = tunnel(proxy)
    reads, sends = (client, server) if slow == "client" else (server, client)
    reads.protocol.pause_writing()
    assert not sends.transport.reading
    assert reads.transport.reading
    reads.protocol.resume_writing()
    assert sends.transport.reading


def test_a_client_slow_from_the_start_pauses_the_upstream(proxy: FakeProxy) -> None:
    client = proxy.client()
    client.sends(ASKS)
    server = proxy.accept()
    client.protocol.pause_writing()
    server.protocol.data_received(AGREES)  # had been read before
    assert not server.transport.reading
    client.protocol.resume_writing()
    assert server.transport.reading


# ---- the end


@pytest.mark.parametrize("first", ["client", "server"])
def test_a_fin_is_passed_on_and_the_other_direction_goes_on(proxy: FakeProxy, first: str) -> None:
    client, server = tunnel(proxy)
    one, other = (client, server) if first == "client" else (server, client)
    assert one.protocol.eof_received()  # its transport stays open
    assert other.transport.eof_written
    assert not one.transport.eof_written
    other.sends(b"more")
    assert one.gets() == b"more"
    one.protocol.pause_writing()
    assert not other.transport.reading
    one.protocol.resume_writing()
    assert other.transport.reading
    other.protocol.pause_writing()
    one.transport.reading = False
    other.protocol.resume_writing()
    assert not one.transport.reading  # it would read its end again
    assert not other.protocol.eof_received()
    assert client.closed
    assert server.closed
    for each in (one, other):
        each.loses(None)
    assert proxy.connections == []
    assert proxy.upstream.pool.open_count == 0
    assert proxy.last("exchange.finished")["cause"] == ""
    assert proxy.last("downstream.closed")["reason"] == "done"


@pytest.mark.parametrize("first", ["client", "server"])
def test_where_one_side_speaks_tls_the_first_end_is_that_of_both(proxy: FakeProxy, first: str) -> None:
    for secure in ("client", "server"):
        client, server = proxy.client(), None
        client.sends(ASKS)
        server = proxy.accept()
        (client if secure == "client" else server).transport.info["sslcontext"] = object()
        server.sends(AGREES)
        one = client if first == "client" else server
        one.sends(b"last")
        assert not one.protocol.eof_received()
        assert client.closed
        assert server.closed
        assert (server if one is client else client).gets().endswith(b"last")


def test_a_client_that_vanishes_takes_the_upstream_along(proxy: FakeProxy) -> None:
    client, server = tunnel(proxy)
    client.resets()
    assert server.closed
    finished = proxy.last("exchange.finished")
    assert (finished["status"], finished["cause"]) == (101, "client_closed")
    assert proxy.last("downstream.closed")["reason"] == "client_reset"
    assert proxy.last("upstream.closed")["reason"] == "client_closed"
    server.protocol.data_received(b"late")
    server.loses(None)
    assert proxy.upstream.pool.open_count == 0


def test_an_upstream_that_dies_resets_the_client(proxy: FakeProxy) -> None:
    """A FIN would say that the stream ends here."""
    client, server = tunnel(proxy)
    server.resets()
    assert client.transport.resets
    assert client.closed
    finished = proxy.last("exchange.finished")
    assert (finished["status"], finished["cause"]) == (101, "truncated_response")
    client.protocol.data_received(b"late")
    client.loses(None)
    assert proxy.connections == []
    assert proxy.upstream.pool.open_count == 0


def test_silence_is_bounded_and_any_byte_breaks_it(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(http__upgrades=["websocket"], http__tunnel_idle="100s")
    client, server = tunnel(proxy)
    for peer in (client, server, client):
        proxy.loop.passes(99)
        peer.sends(b"x")
    proxy.loop.passes(99)
    assert not client.closed
    proxy.loop.passes(2)
    assert client.closed
    assert server.closed
    finished = proxy.last("exchange.finished")
    assert (finished["status"], finished["cause"]) == (101, "tunnel_idle")


def test_no_other_timer_ends_it(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(http__upgrades=["websocket"], http__tunnel_idle="off", timeouts__request_total="5s")
    client, server = tunnel(proxy)
    proxy.loop.passes(100_000)
    client.sends(b"x")
    assert server.gets() == b"x"


def test_an_upstream_that_does_not_take_the_last_bytes_is_given_up(proxy: FakeProxy) -> None:
    client, server = tunnel(proxy)
    client.protocol.eof_received()
    server.protocol.eof_received()
    server.transport.closed = False  # it is still to be sent something
    proxy.loop.passes(59)
    assert not server.closed
    proxy.loop.passes(2)
    assert server.closed


def test_its_connection_is_in_use_and_then_gone(proxy: FakeProxy) -> None:
    client, server = tunnel(proxy)
    assert (proxy.upstream.busy, proxy.upstream.pool.idle_count) == (1, 0)
    other = proxy.client()
    other.sends(GET)
    proxy.accept().sends(OK)
    assert other.gets() == PASSED_OK
    for peer in (server, client):
        peer.protocol.eof_received()
    server.loses(None)
    assert (proxy.upstream.busy, proxy.upstream.pool.idle_count) == (0, 1)


def test_draining_lets_it_run_until_the_grace_is_over(proxy: FakeProxy) -> None:
    client, server = tunnel(proxy)
    proxy.gateway.draining = True
    proxy.connections[0].drain()
    proxy.upstream.drain()
    proxy.loop.passes(5)
    client.sends(b"still here")
    assert server.gets() == b"still here"
    proxy.connections[0].abort()
    assert client.closed
    assert server.closed
    finished = proxy.last("exchange.finished")
    assert (finished["status"], finished["cause"]) == (101, "draining")
    assert proxy.last("upstream.closed")["reason"] == proxy.last("downstream.closed")["reason"] == "drained"


def test_one_line_repr(proxy: FakeProxy) -> None:
    client, server = tunnel(proxy)
    client.sends(b"1234")
    server.sends(b"12")
    between = client.protocol._tunnel
    assert repr(between) == "<Tunnel open, 4 bytes up, 2 down>"
    client.resets()
    assert repr(between) == "<Tunnel over, 4 bytes up, 2 down>"
    assert repr(proxy.connections) == "[]"
