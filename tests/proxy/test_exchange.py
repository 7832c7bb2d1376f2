"""An exchange between both sides: repeats, what a client is told, and events that meet in one turn of the loop."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest
from conftest import MakeProxy
from fakes import GET, OK, OK_CLOSE, POST, FakeProxy, Peer, body_of, fields_of, status_of

LARGE_POST = b"POST /a HTTP/1.1\r\nHost: shop\r\nContent-Length: 100000\r\n\r\n"


def race(proxy: FakeProxy, request: bytes, *, unacked: bool = True) -> Peer:
    """A request on a reused connection that closes instead of answering; returns the client."""
    client, server = proxy.pair()
    client.sends(request)
    proxy.kernel.unacked = len(server.gets()) if unacked else 0
    server.closes()
    return client


@pytest.mark.parametrize(
    ("policy", "request_", "unacked", "repeated"),
    [
        ("never", GET, True, False),
        ("reused_idempotent", GET, False, True),
        ("reused_idempotent", POST, True, False),
        ("when_proven", POST, True, True),
        ("when_proven", POST, False, False),
        ("any_idempotent", GET, False, True),
        ("always", POST, False, True),
    ],
)
def test_whether_a_lost_request_is_repeated(
    make_proxy: MakeProxy, policy: str, request_: bytes, unacked: bool, repeated: bool
) -> None:
    proxy = make_proxy(retry__policy=policy)
    client = race(proxy, request_, unacked=unacked)
    failed = proxy.last("exchange.attempt_failed")
    assert failed["retry"] is repeated
    assert (failed["attempt"], failed["reused"], failed["failure"]) == (1, True, "closed_before_response")
    if repeated:
        again = proxy.accept()
        assert body_of(again.gets()) == body_of(request_)
        again.sends(OK)
        assert status_of(client.gets()) == 200
        finished = proxy.last("exchange.finished")
        assert (finished["attempts"], finished["retry_reason"]) == (2, failed["because"])
        assert [event["attempt"] for event in proxy.of("exchange.sent")] == [1, 2]
    else:
        page = client.gets()
        assert status_of(page) == 502
        assert fields_of(page)["x-kalab-cause"] == "closed_before_response"
        assert not client.closed
        assert proxy.loop.dials == []


def test_a_repeat_goes_to_a_fresh_connection_though_others_are_idle(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    other = proxy.client()
    client.sends(GET)
    other.sends(GET)
    idle = proxy.accept()
    idle.sends(OK)
    idle.gets()
    server.closes()
    assert idle.gets() == b""
    proxy.accept().sends(OK)
    assert status_of(client.gets()) == 200


def test_a_repeat_at_the_connection_limit_takes_the_place_of_an_idle_one(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(pool__max_connections=2)
    client, server = proxy.pair()
    other = proxy.client()
    client.sends(GET)
    other.sends(GET)
    idle = proxy.accept()
    idle.sends(OK)
    third = proxy.client()
    server.closes()  # its place is taken by the repeat; now both are in use or idle
    third.sends(GET)
    idle.sends(OK)
    proxy.accept().sends(OK)
    assert status_of(client.gets()) == status_of(third.gets()) == 200


@pytest.mark.parametrize(("in_line", "repeated"), [(0, True), (1, True), (2, True), (3, False), (4, False)])
def test_half_the_line_is_for_requests_that_are_new(make_proxy: MakeProxy, in_line: int, repeated: bool) -> None:
    """One connection, and room for four in line. The first of them gets the place of the one that was lost."""
    proxy = make_proxy(pool__max_connections=1, pool__max_waiting=4)
    client, server = proxy.pair()
    client.sends(GET)
    for _ in range(in_line):
        proxy.client().sends(GET)
    server.closes()
    failed = proxy.last("exchange.attempt_failed")
    assert (failed["retry"], failed["because"]) == (
        (True, "idempotent method") if repeated else (False, "overloaded: many wait in line")
    )
    assert status_of(client.gets()) == (0 if repeated else 502)


def test_a_proxy_that_drains_repeats_as_ever(proxy: FakeProxy) -> None:
    """See row 23 of docs/armour.md."""
    client, server = proxy.pair()
    client.sends(GET)
    proxy.gateway.draining = True
    proxy.group.drain()
    server.closes()
    proxy.accept().sends(OK)
    response = client.gets()
    assert (status_of(response), fields_of(response)["connection"]) == (200, "close")


def test_a_fresh_connection_that_fails_is_not_repeated(proxy: FakeProxy) -> None:
    client = proxy.client()
    client.sends(GET)
    proxy.accept().closes()
    assert status_of(client.gets()) == 502
    assert proxy.last("exchange.attempt_failed")["reused"] is False


def test_a_repeat_that_fails_too_is_the_last(proxy: FakeProxy) -> None:
    client = race(proxy, GET)
    proxy.accept().resets()
    page = client.gets()
    assert fields_of(page)["x-kalab-cause"] == "reset_before_response"
    assert [event["attempt"] for event in proxy.of("exchange.attempt_failed")] == [1, 2]


def test_nothing_is_repeated_after_a_byte_of_a_response(proxy: FakeProxy) -> None:
    for piece in (b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"):
        client, server = proxy.pair()
        client.sends(GET)
        server.sends(piece)
        server.closes()
        response = client.gets()
        page = body_of(response) if status_of(response) == 100 else response
        assert fields_of(page)["x-kalab-cause"] == "truncated_response"
        assert proxy.last("exchange.attempt_failed")["retry"] is False


@pytest.mark.parametrize("balance", ["round_robin", "least_busy", "random_two", "hash"])
def test_a_repeat_goes_to_another_upstream_than_the_one_that_failed(make_proxy: MakeProxy, balance: str) -> None:
    for _ in range(5):
        proxy = make_proxy(upstreams=["10.0.0.3:9000", "10.0.0.4:9000"], balance=balance)
        client = proxy.client()
        client.sends(GET)
        (first,) = proxy.loop.dials
        first.fail(ConnectionRefusedError(111, "Connection refused"))
        (second,) = proxy.loop.dials
        assert second.address != first.address
        second.accept().sends(OK)
        assert status_of(client.gets()) == 200


def test_a_group_without_an_upstream_is_a_503(proxy: FakeProxy) -> None:
    proxy.group.apply([], proxy.loop.now)
    client = proxy.client()
    client.sends(POST[:-2])
    page = client.gets()
    assert (status_of(page), fields_of(page)["x-kalab-cause"]) == (503, "no_upstream")


def test_answers_that_come_too_late_count_against_an_upstream_and_others_for_it(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(health__slow_after="2s")
    client, server = proxy.pair()
    for wait_s, failing in ((2.5, 1), (2.5, 2), (0.5, 0)):
        client.sends(GET)
        proxy.loop.passes(wait_s)
        server.sends(OK)
        assert proxy.upstream.failing == failing


def test_over_the_budget_nothing_is_repeated(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(retry__budget=0)
    statuses = []
    for _ in range(12):
        client = race(proxy, GET)
        if proxy.loop.dials:
            proxy.accept().sends(OK_CLOSE)
        statuses.append(status_of(client.gets()))
    assert statuses == [200] * 10 + [502] * 2
    assert proxy.last("exchange.attempt_failed")["because"] == "over the retry budget"


# ---- bodies


def test_a_body_is_repeated_up_to_the_limit(make_proxy: MakeProxy) -> None:
    for limit, repeated in (("4B", True), ("3B", False)):
        proxy = make_proxy(retry__policy="always", retry__max_body=limit)
        client, server = proxy.pair()
        client.sends(POST[:-2])
        client.sends(POST[-2:])
        server.closes()
        assert bool(proxy.loop.dials) is repeated
        if repeated:
            assert body_of(proxy.accept().gets()) == b"body"
        else:
            assert status_of(client.gets()) == 502


def test_a_repeat_in_the_middle_of_a_body_goes_on_with_the_rest(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(retry__policy="always")
    client, server = proxy.pair()
    client.sends(POST[:-2])
    server.closes()
    assert not client.transport.reading
    again = proxy.accept()
    assert client.transport.reading
    client.sends(POST[-2:])
    assert body_of(again.gets()) == b"body"
    again.sends(OK)
    assert status_of(client.gets()) == 200
    assert not client.closed


def test_a_large_body_passes_through_and_is_not_kept(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(LARGE_POST)
    server.gets()
    for _ in range(100):
        client.sends(bytes(1000))
        assert server.gets() == bytes(1000)
    assert len(client.protocol._exchange._unsent) <= proxy.config.retry.max_body
    server.sends(OK)
    assert status_of(client.gets()) == 200
    assert proxy.last("exchange.finished")["bytes_in"] == 100_000


def test_a_large_response_passes_through_uncopied(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(GET)
    server.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + bytes(100_000))
    server.sends(bytes(200_000))
    assert len(body_of(client.gets())) == 300_000
    assert proxy.last("exchange.finished")["bytes_out"] == 300_000


def test_a_response_before_the_request_is_complete_ends_both_connections(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(POST[:-2])
    server.sends(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
    response = client.gets()
    assert (status_of(response), fields_of(response)["connection"]) == (413, "close")
    assert proxy.last("upstream.closed")["reason"] == "unfinished_request"
    assert client.transport.eof_written
    client.sends(POST[-2:])  # thrown away
    client.closes()
    assert client.closed


def test_a_request_the_kernel_has_not_taken_whole_makes_the_connection_unusable(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(POST)
    server.transport.waiting = 1
    server.sends(OK)
    assert status_of(client.gets()) == 200
    assert proxy.last("upstream.closed")["reason"] == "unfinished_request"


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n123",
    ],
)
@pytest.mark.parametrize("breaks", [Peer.closes, Peer.resets])
def test_a_response_that_breaks_off_closes_the_client_and_is_never_followed_by_a_second(
    proxy: FakeProxy, response: bytes, breaks: Callable[[Peer], None]
) -> None:
    client, server = proxy.pair()
    client.sends(GET)
    server.sends(response)
    breaks(server)
    got = client.gets()
    assert client.closed
    assert got.count(b"HTTP/1.1 200") == 1
    assert not got.endswith(b"0\r\n\r\n")
    finished = proxy.last("exchange.finished")
    assert (finished["status"], finished["cause"]) == (200, "truncated_response")


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("breaks", [Peer.closes, lambda server: server.protocol._expired()], ids=["fin", "timeout"])
def test_a_response_that_only_a_close_ends_is_broken_off_with_a_reset(
    proxy: FakeProxy, version: bytes, breaks: Callable[[Peer], None]
) -> None:
    """A client of HTTP/1.0 knows no chunks: a FIN would tell it that all is there."""
    client, server = proxy.pair()
    client.sends(GET.replace(b"1.1", version))
    server.sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n123\r\n")
    breaks(server)
    assert client.closed
    assert client.transport.resets is (version == b"1.0")


def test_so_is_one_whose_request_turns_out_bad(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(POST[:-1].replace(b"1.1", b"1.0"))
    server.sends(b"HTTP/1.1 200 OK\r\n\r\n123")
    proxy.loop.passes(61)
    assert client.transport.resets
    assert client.closed
    assert not client.transport.eof_written
    assert len(proxy.of("exchange.finished")) == len(proxy.of("downstream.closed")) == 1


def test_broken_chunks_in_a_response_close_the_client(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(GET)
    server.sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n123\r\n")
    server.sends(b"nonsense\r\n")
    assert client.closed
    assert client.gets().endswith(b"3\r\n123\r\n")


def test_head_gets_a_page_without_a_body(proxy: FakeProxy) -> None:
    client = proxy.client()
    client.sends(GET.replace(b"GET", b"HEAD"))
    proxy.accept().resets()
    page = client.gets()
    assert status_of(page) == 502
    assert body_of(page) == b""
    assert int(fields_of(page)["content-length"]) > 0


# ---- many things in one turn of the loop


def answers(server: Peer) -> None:
    server.protocol.data_received(OK)


def fin(server: Peer) -> None:
    server.protocol.eof_received()


def lost(server: Peer) -> None:
    server.protocol.connection_lost(None)


def reset(server: Peer) -> None:
    server.protocol.connection_lost(ConnectionResetError(104, "Connection reset by peer"))


def deadline(server: Peer) -> None:
    server.protocol._expired()


@pytest.mark.parametrize(
    "order", list(permutations([answers, fin, reset, deadline])), ids=lambda order: "-".join(f.__name__ for f in order)
)
@pytest.mark.parametrize("request_", [GET, POST], ids=["GET", "POST"])
def test_whatever_the_order_there_is_one_answer(
    proxy: FakeProxy, order: tuple[Callable[[Peer], None], ...], request_: bytes
) -> None:
    """EOF, reset, response and deadline in one turn: the first decides, the rest is harmless, and it all adds up."""
    client, server = proxy.pair()
    client.sends(request_)
    for happens in order:
        happens(server)
    if proxy.loop.dials:  # a repeat
        proxy.accept().sends(OK)
    response = client.gets()
    first = order[0]
    if first is answers:
        assert status_of(response) == 200
    elif first is deadline:
        assert status_of(response) == 504
    else:
        assert status_of(response) == (200 if request_ is GET else 502)
    assert response.count(b"HTTP/1.1 ") == 1
    assert len(proxy.of("exchange.finished")) == 1
    assert len([event for event in proxy.of("upstream.closed") if event.conn == server.protocol.name]) == 1
    assert proxy.upstream.pool.open_count == (1 if first in (fin, reset) and request_ is GET else 0)
    assert not client.closed


@pytest.mark.parametrize(
    "order", list(permutations([fin, lost, deadline])), ids=lambda order: "-".join(f.__name__ for f in order)
)
def test_whatever_the_order_an_idle_connection_closes_once(
    proxy: FakeProxy, order: tuple[Callable[[Peer], None], ...]
) -> None:
    _, server = proxy.pair()
    for happens in order:
        happens(server)
    assert len(proxy.of("upstream.closed")) == 1
    assert proxy.upstream.pool.open_count == proxy.upstream.pool.idle_count == 0


def test_a_fin_and_a_request_in_one_turn_fin_first(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    server.closes()
    client.sends(POST)
    assert proxy.of("exchange.attempt_failed") == []
    proxy.accept().sends(OK)
    assert status_of(client.gets()) == 200


def test_a_fin_and_a_request_in_one_turn_request_first(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(POST)
    proxy.kernel.unacked = len(server.gets())  # the FIN was in the kernel before the request was written
    server.closes()
    failed = proxy.last("exchange.attempt_failed")
    assert (failed["failure"], failed["proof"]) == ("closed_before_response", "unprocessed")
    assert status_of(client.gets()) == 502


def test_a_client_that_leaves_in_the_turn_of_a_failure_gets_no_repeat(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(GET)
    client.closes()
    server.closes()
    assert proxy.loop.dials == []
    assert len(proxy.of("exchange.finished")) == 1


# ---- what is told


def test_the_events_of_an_exchange(proxy: FakeProxy) -> None:
    client = proxy.client()
    client.sends(GET[:-2] + b"X-Request-Id: r-7\r\n\r\n")
    server = proxy.accept()
    sent = server.gets()
    server.sends(OK)
    assert proxy.kinds == [
        "downstream.opened",
        "exchange.started",
        "upstream.opened",
        "upstream.acquired",
        "exchange.sent",
        "exchange.first_byte",
        "upstream.idle",
        "exchange.finished",
    ]
    exchange = [event for event in proxy.events if event.kind.startswith("exchange")]
    assert {event["req_id"] for event in exchange} == {"r-7"}
    assert {event.exchange for event in exchange} == {1}
    assert proxy.last("exchange.sent")["bytes"] == len(sent)
    assert {event.kind: event.conn for event in exchange} == {
        "exchange.started": client.protocol.name,
        "exchange.sent": server.protocol.name,
        "exchange.first_byte": server.protocol.name,
        "exchange.finished": client.protocol.name,
    }
    assert proxy.last("exchange.finished")["duration_ms"] >= 0
    finished = {**proxy.last("exchange.finished").detail}
    del finished["duration_ms"]
    assert finished == {
        "req_id": "r-7",
        "client": "10.0.0.1",
        "method": "GET",
        "target": "/a",
        "status": 200,
        "cause": "",
        "attempts": 1,
        "retry_reason": "",
        "group": "default",
        "upstream": proxy.upstream.name,
        "up_conn": server.protocol.name,
        "up_reuse_n": 0,
        "up_idle_ms": 0.0,
        "bytes_in": 0,
        "bytes_out": 2,
    }


def test_the_idle_age_of_the_connection_is_told_with_every_request(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    proxy.loop.passes(2.5)
    client.sends(GET)
    server.sends(OK)
    finished = proxy.last("exchange.finished")
    assert (finished["up_reuse_n"], finished["up_idle_ms"]) == (1, 2500)


def test_sent_is_stamped_before_the_write(proxy: FakeProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    client, server = proxy.pair()
    known: list[list[str]] = []
    monkeypatch.setattr(server.transport, "write", lambda _data: known.append(list(proxy.kinds)))
    client.sends(GET)
    assert known[0][-2:] == ["upstream.acquired", "exchange.sent"]


def test_one_line_reprs(proxy: FakeProxy) -> None:
    client, _ = proxy.pair()
    client.sends(GET)
    assert repr(client.protocol._exchange) == "<Exchange 2 GET waiting, 1 attempts>"
    assert repr(proxy.gateway) == "<Gateway 2 exchanges>"
