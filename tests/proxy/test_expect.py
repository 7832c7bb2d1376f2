"""Requests that end before they are complete, and those that are many, long or slow: 100-continue, early answers,
pipelines, dribbles (rows 16 to 20 of the pitfalls)."""

from __future__ import annotations

import asyncio
import socket
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from conftest import MakeProxy
from fakes import GET, OK, PASSED_OK, FakeProxy, body_of, fields_of, status_of
from live import PATIENCE_S
from live import proxy as running_proxy

EXPECTS = b"POST /a HTTP/1.1\r\nHost: shop\r\nExpect: 100-continue\r\nContent-Length: 104857600\r\n\r\n"
FLAT = 2 << 20  # bytes; what memory may grow by, whatever a client sends


@contextmanager
def flat_memory() -> Iterator[None]:
    """Fails if at its highest more was allocated than a few reads."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < FLAT, peak


# ---- early answers


@pytest.mark.parametrize("status", [401, 413, 417, 200])
def test_an_early_answer_ends_both_connections(proxy: FakeProxy, status: int) -> None:
    client, server = proxy.pair()
    client.sends(EXPECTS)
    assert client.gets() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert "expect" not in fields_of(server.gets())
    client.sends(bytes(1000))
    server.sends(b"HTTP/1.1 %d No\r\nContent-Length: 2\r\n\r\nno" % status)
    answer = client.gets()
    assert (status_of(answer), body_of(answer)) == (status, b"no")
    assert fields_of(answer)["connection"] == "close"
    assert server.closed
    assert proxy.last("upstream.closed")["reason"] == "unfinished_request"
    assert client.transport.eof_written
    for _ in range(160):  # the rest of the body is thrown away
        client.sends(bytes(65_536))
    assert not client.closed
    client.closes()
    assert client.closed
    assert proxy.last("downstream.closed")["reason"] == "answered_early"


def test_lingering_lasts_while_something_comes_but_not_for_ever(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(EXPECTS)
    server.sends(OK)
    for _ in range(39):
        client.sends(b"x")
        proxy.loop.passes(1.5)
    assert not client.closed
    client.sends(b"x")
    proxy.loop.passes(1.6)  # it has been a minute
    assert client.closed


def test_a_refused_expectation_gets_no_100(proxy: FakeProxy) -> None:
    client = proxy.client()
    client.sends(EXPECTS.replace(b"100-continue", b"200-ok"))
    assert status_of(client.gets()) == 417
    assert proxy.loop.dials == []


async def test_ten_megabytes_still_coming_do_not_destroy_an_early_answer() -> None:
    """The client writes on without reading a byte, as many do; and there would be more."""

    left = asyncio.Semaphore(0)

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 6\r\n\r\nsecret")
            await reader.read()
            writer.close()
            await writer.wait_closed()
        left.release()

    def client(host: str, port: int) -> bytes:
        with socket.create_connection((host, port), PATIENCE_S) as connection:
            connection.sendall(EXPECTS)
            got = b""
            while b"\r\n\r\n" not in got:
                got += connection.recv(100)
            for _ in range(160):
                connection.sendall(bytes(65_536))
            while piece := connection.recv(65_536):
                got += piece
            return got

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    there = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with running_proxy("--upstreams", there) as running:
        for _ in range(3):
            got = await asyncio.to_thread(client, running.host, running.port)
            assert got.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 401 ")
            assert got.endswith(b"secret")
            await left.acquire()
    server.close()


def test_a_client_that_half_closes_has_left(proxy: FakeProxy) -> None:
    """It cannot be told from one that is gone, and a request that nobody waits for should not be served on."""
    client, server = proxy.pair()
    client.sends(GET)
    client.closes()
    assert server.closed
    assert proxy.last("exchange.finished")["cause"] == "client_closed"


# ---- much of it


def test_ten_thousand_pipelined_requests_in_order_in_flat_memory(proxy: FakeProxy) -> None:
    """A client sends them all without reading; what is held of them is what one read brought."""
    client, server = proxy.pair()
    pipeline = memoryview(b"".join(GET.replace(b"/a", b"/%d" % number) for number in range(10_000)))
    at = answered = 0
    proxy.gateway.emit = None
    with flat_memory():
        proxy.events.clear()
        while answered < 10_000:
            while client.transport.reading and at < len(pipeline):
                client.sends(bytes(pipeline[at : at + 65_536]))
                at += 65_536
            assert server.gets().startswith(b"GET /%d " % answered)
            server.sends(OK)
            assert client.gets() == PASSED_OK
            proxy.events.clear()
            proxy.loop.turn()
            answered += 1
    assert server.gets() == b""
    assert not client.closed


def test_a_hundred_thousand_chunks_of_one_byte_in_flat_memory(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(b"POST /a HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n")
    server.gets()
    piece, got = b"1\r\nx\r\n" * 1000, 0
    with flat_memory():
        for _ in range(100):
            client.sends(piece)
            chunk = server.gets()
            assert chunk == b"3e8\r\n%b\r\n" % (b"x" * 1000)  # what came together goes together
            got += 1000
    client.sends(b"0\r\n\r\n")
    server.sends(OK)
    assert client.gets() == PASSED_OK
    assert proxy.last("exchange.finished")["bytes_in"] == got == 100_000


def test_a_hundred_thousand_chunks_one_at_a_time_in_a_response(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(GET)
    server.sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    client.gets()
    with flat_memory():
        for _ in range(100_000):
            server.protocol.data_received(b"1\r\nx\r\n")
            client.transport.written.clear()
    server.sends(b"0\r\n\r\n")
    assert proxy.last("exchange.finished")["bytes_out"] == 100_000


@pytest.mark.parametrize(
    ("begins", "goes_on", "status"),
    [
        (b"GET /", b"a" * 65_536, 414),
        (b"GET / HTTP/1.1\r\nA: ", b"a" * 65_536, 431),
        (b"GET / HTTP/1.1\r\n", b"A: b\r\n" * 10_000, 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n" * 10_000, 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"a" * 65_536, 400),
    ],
)
def test_a_gigabyte_that_never_ends_is_refused_at_once_and_not_kept(
    proxy: FakeProxy, begins: bytes, goes_on: bytes, status: int
) -> None:
    proxy.pair()
    client = proxy.client()
    client.sends(begins)
    sent = 0
    with flat_memory():
        while not client.closed and sent < 1 << 30:
            client.sends(goes_on)
            sent += len(goes_on)
    assert status_of(client.gets()) == status
    assert client.closed
    assert sent < 70 << 20


# ---- slowly


def test_a_body_below_its_rate_is_a_408(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(limits__min_body_rate="10B", timeouts__body_gap="10s")
    client, server = proxy.pair()
    client.sends(EXPECTS.replace(b"Expect: 100-continue\r\n", b""))
    for _ in range(100):  # 12 bytes a second
        proxy.loop.passes(0.9)
        client.sends(bytes(11))
    assert client.gets() == b""
    for _ in range(6):  # 7 bytes a second
        proxy.loop.passes(3)
        client.protocol.data_received(bytes(20))
    page = client.gets()
    assert (status_of(page), fields_of(page)["x-kalab-cause"]) == (408, "request_timeout")
    assert server.closed


def test_a_body_below_its_rate_is_cut_when_its_answer_has_begun(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(limits__min_body_rate="10B", timeouts__body_gap="10s")
    client, server = proxy.pair()
    client.sends(EXPECTS.replace(b"Expect: 100-continue\r\n", b""))
    server.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123")
    for _ in range(4):
        proxy.loop.passes(3)
        client.protocol.data_received(b"x")
    assert client.gets().endswith(b"123")
    assert server.closed
    finished = proxy.last("exchange.finished")
    assert (finished["status"], finished["cause"]) == (200, "request_timeout")


def test_a_body_that_the_upstream_does_not_take_is_not_measured(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(limits__min_body_rate="10B", timeouts__body_gap="10s")
    client, server = proxy.pair()
    client.sends(EXPECTS.replace(b"Expect: 100-continue\r\n", b""))
    for _ in range(5):
        server.protocol.pause_writing()
        proxy.loop.passes(9)
        server.protocol.resume_writing()
        proxy.loop.passes(9)
        client.sends(bytes(10))
    assert client.gets() == b""
    proxy.loop.passes(11)
    assert status_of(client.gets()) == 408


def test_bodies_of_any_speed_are_taken_by_default(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(b"POST /a HTTP/1.1\r\nHost: shop\r\nContent-Length: 10\r\n\r\n")
    for _ in range(10):
        proxy.loop.passes(59)
        client.sends(b"x")
    server.sends(OK)
    assert client.gets() == PASSED_OK


# ---- all of it together


@pytest.mark.parametrize("waits", ["for a connection", "for an answer", "for the body", "in a second attempt"])
def test_a_request_that_takes_too_long_altogether_is_a_504(make_proxy: MakeProxy, waits: str) -> None:
    proxy = make_proxy(timeouts__request_total="4s")
    client = proxy.client()
    client.sends(GET[:5])
    proxy.loop.passes(2)
    if waits == "for the body":
        client.sends(GET[5:-2] + b"Content-Length: 9\r\n\r\n")
    else:
        client.sends(GET[5:])
    if waits != "for a connection":
        server = proxy.accept()
    if waits == "in a second attempt":
        proxy.gateway.only.pick()  # type: ignore[union-attr]
    proxy.loop.passes(1.9)
    assert client.gets() == b""
    proxy.loop.passes(0.2)
    page = client.gets()
    assert (status_of(page), fields_of(page)["x-kalab-cause"]) == (504, "total_timeout")
    if waits != "for a connection":
        assert server.closed
        assert proxy.last("upstream.closed")["reason"] == "failed"
    assert proxy.upstream.busy == 0


def test_a_response_that_takes_too_long_altogether_is_cut(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(timeouts__request_total="4s")
    client, server = proxy.pair()
    client.sends(GET)
    server.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n")
    for _ in range(3):
        proxy.loop.passes(1)
        server.sends(b"x")
    assert not client.closed
    proxy.loop.passes(1.1)
    assert client.gets().endswith(b"xxx")
    assert client.closed
    assert server.closed
    finished = proxy.last("exchange.finished")
    assert (finished["status"], finished["cause"]) == (200, "total_timeout")


def test_a_head_that_takes_too_long_for_the_whole_is_a_504_too(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(timeouts__request_total="4s")
    client = proxy.client()
    client.sends(GET[:5])
    proxy.loop.passes(4.1)
    assert status_of(client.gets()) == 504


def test_the_limit_is_of_each_request_by_itself(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(timeouts__request_total="4s")
    client, server = proxy.pair()
    for _ in range(5):
        proxy.loop.passes(2)
        client.sends(GET)
        proxy.loop.passes(1.5)
        server.sends(OK)
        assert client.gets() == PASSED_OK
    proxy.loop.passes(50)
    assert not client.closed
