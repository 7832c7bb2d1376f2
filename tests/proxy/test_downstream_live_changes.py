"""What a client's connection asks anew each time: knobs that change under it, whom it trusts, whom it bears."""

from __future__ import annotations

import pytest
from conftest import MakeProxy
from fakes import GET, OK, POST, FakeProxy, fields_of, status_of

from proxy.config import override
from proxy.downstream import QuickAckConnection
from proxy.sockets import QUICKACK
from proxy.upstream_connection import QuickAckConnection as QuickAckUpstream


def change(proxy: FakeProxy, **changes: object) -> None:
    """As a reload or a PATCH does."""
    keys = {name.replace("__", "."): value for name, value in changes.items()}
    proxy.gateway.take(override(proxy.config, keys), proxy.gateway.groups)


# ---- knobs that change under a connection


def test_the_idle_time(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    change(proxy, timeouts__downstream_idle="5s")
    client.sends(GET)
    server.sends(OK)
    proxy.loop.passes(4.9)
    assert not client.closed
    proxy.loop.passes(0.2)
    assert client.closed


def test_the_time_for_a_head_and_for_a_body(proxy: FakeProxy) -> None:
    heads, bodies = proxy.client(), proxy.client()
    change(proxy, timeouts__downstream_header="1s", timeouts__body_gap="2s")
    heads.sends(GET[:5])
    bodies.sends(POST[:-1])
    proxy.accept()
    proxy.loop.passes(1.1)
    assert status_of(heads.gets()) == 408
    assert bodies.gets() == b""
    proxy.loop.passes(1)
    assert status_of(bodies.gets()) == 408


def test_the_size_of_a_body_and_of_a_head(proxy: FakeProxy) -> None:
    client, _ = proxy.pair()
    other = proxy.client()
    change(proxy, limits__body_bytes="3B", limits__head_bytes="1KiB", limits__line_bytes="1KiB")
    client.sends(POST)
    assert status_of(client.gets()) == 413
    other.sends(GET[:-2] + b"A: " + b"b" * 1500 + b"\r\n\r\n")
    assert status_of(other.gets()) == 431


def test_the_rate_of_a_body_that_is_under_way(proxy: FakeProxy) -> None:
    client, _ = proxy.pair()
    client.sends(POST[:-4])
    change(proxy, limits__min_body_rate="1B")
    for _ in range(3):
        proxy.loop.passes(30)
        client.protocol.data_received(b"x")
    assert status_of(client.gets()) == 408


def test_the_time_for_all_of_it_and_that_there_is_none_any_more(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(timeouts__request_total="5s")
    client, server = proxy.pair()
    client.sends(GET)
    change(proxy, timeouts__request_total="off")
    proxy.loop.passes(50)
    assert not client.closed
    server.sends(OK)
    change(proxy, timeouts__request_total="2s")
    client.gets()
    client.sends(GET)
    proxy.loop.passes(2.1)
    assert status_of(client.gets()) == 504


@pytest.mark.parametrize("begins", [GET, GET[:5]])
def test_a_limit_that_was_for_one_request_is_not_for_the_next(make_proxy: MakeProxy, begins: bytes) -> None:
    """Off when the next request begins, and on again while it is under way: it has none."""
    proxy = make_proxy(timeouts__request_total="5s", timeouts__downstream_header="60s", timeouts__upstream_idle="90s")
    client, server = proxy.pair()
    client.sends(GET)
    proxy.loop.passes(1)
    change(proxy, timeouts__request_total="off")
    server.sends(OK)
    client.gets()
    proxy.loop.passes(1)
    client.sends(begins)
    change(proxy, timeouts__request_total="50s")
    proxy.loop.passes(30)
    assert client.gets() == b""
    client.protocol.data_received(GET[len(begins) :])
    server.sends(OK)
    assert status_of(client.gets()) == 200
    client.sends(GET)  # the next has a limit, its own
    proxy.loop.passes(49.9)
    assert client.gets() == b""
    proxy.loop.passes(0.2)
    assert status_of(client.gets()) == 504


def test_what_may_be_asked_for(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    asks = GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    for upgrades, passed in (([], None), (["websocket"], "websocket"), ([], None)):
        change(proxy, http__upgrades=upgrades)
        client.sends(asks)
        assert fields_of(server.gets()).get("upgrade") == passed
        server.sends(OK)


# ---- who is trusted


@pytest.mark.parametrize(
    ("networks", "address", "trusted"),
    [
        ([], "10.0.0.1", False),
        (["10.0.0.0/8"], "10.0.0.1", True),
        (["10.0.0.0/8"], "11.0.0.1", False),
        (["192.168.0.0/16", "10.0.0.1"], "10.0.0.1", True),
        (["10.0.0.0/8"], "fd00::1", False),
        (["fd00::/8"], "fd00::1", True),
        (["10.0.0.0/8"], "::ffff:10.0.0.1", True),
        (["0.0.0.0/0"], "", False),  # reset already: nobody knows who it was
    ],
)
def test_whose_word_counts(make_proxy: MakeProxy, networks: list[str], address: str, trusted: bool) -> None:
    assert make_proxy(trusted_proxies=networks).gateway.trusts(address) is trusted


@pytest.mark.parametrize("networks", [[], ["10.0.0.0/8"]])
def test_a_trusted_proxy_is_believed_and_added_to(make_proxy: MakeProxy, networks: list[str]) -> None:
    proxy = make_proxy(trusted_proxies=networks)
    client = proxy.client()
    client.sends(GET[:-2] + b"X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\n\r\n")
    head = fields_of(proxy.accept().gets())
    assert head["x-forwarded-for"] == ("1.2.3.4, 10.0.0.1" if networks else "10.0.0.1")
    assert head["x-forwarded-proto"] == ("https" if networks else "http")


# ---- readers that are slow, and those that have stopped


def test_a_client_that_reads_slowly_is_borne_and_one_that_has_stopped_is_not(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(GET)
    server.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n123")
    client.transport.waiting, proxy.kernel.undelivered = 300_000, 100_000
    client.protocol.pause_writing()
    for _ in range(10):
        proxy.loop.passes(59)
        proxy.kernel.undelivered -= 1
    proxy.loop.passes(60)
    assert not client.closed
    proxy.loop.passes(15.1)  # it is looked at four times a minute
    assert client.closed
    assert client.transport.resets  # the kernel need not keep what nobody reads
    assert server.closed
    finished = proxy.last("exchange.finished")
    assert (finished["status"], finished["cause"]) == (200, "client_stalled")
    assert proxy.last("downstream.closed")["reason"] == "write_timeout"


def test_an_answer_that_ends_with_a_close_is_delivered_to_whoever_reads(proxy: FakeProxy) -> None:
    """However slowly: the close waits for it as an answer under way does."""
    client = proxy.client()
    client.sends(GET.replace(b"1.1", b"1.0"))
    client.transport.waiting, proxy.kernel.undelivered = 60_000, 100_000
    proxy.accept().sends(OK)
    assert client.closed
    for _ in range(10):
        proxy.loop.passes(59)
        proxy.kernel.undelivered -= 1
    proxy.loop.passes(60)
    assert not client.transport.resets
    proxy.loop.passes(15.1)
    assert client.transport.resets


def test_a_client_that_reads_no_last_answer_is_given_up(proxy: FakeProxy) -> None:
    """Between two exchanges, too: the next is not taken up before the client has read the last."""
    client, server = proxy.pair()
    client.sends(GET + GET)
    client.protocol.pause_writing()
    server.protocol.data_received(OK)
    proxy.loop.passes(61)
    assert client.closed
    assert proxy.last("downstream.closed")["reason"] == "write_timeout"


# ---- sockets


def test_quick_acknowledgements_are_asked_for_again_with_all_that_comes(make_proxy: MakeProxy) -> None:
    """The kernel forgets it; and where it is off nothing is done."""
    level, option, _ = QUICKACK
    for wanted in (False, True):
        proxy = make_proxy(upstream_socket__quickack=wanted, downstream_socket__quickack=wanted)
        client, server = proxy.pair()
        assert isinstance(server.protocol, QuickAckUpstream) is wanted
        before = [len(peer.transport.options) for peer in (client, server)]
        client.sends(GET)
        server.sends(OK)
        after = [peer.transport.options[count:] for peer, count in zip((client, server), before, strict=True)]
        assert after == [[], [(level, option)] if wanted else []]
        down = QuickAckConnection(proxy.gateway, proxy, proxy.loop)  # type: ignore[arg-type]
        down.connection_made(client.transport)  # type: ignore[arg-type]
        down.data_received(GET)
        assert client.transport.options[-1:] == [(level, option)]


def test_under_tls_nothing_may_wait_to_be_decoded(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(tls=object())
    _, server = proxy.pair()
    assert server.transport.most_undecoded == 1
    proxy = make_proxy()
    client, server = proxy.pair()
    assert client.transport.most_undecoded == server.transport.most_undecoded == -1
