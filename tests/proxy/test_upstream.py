"""The upstream side: responses however they arrive, failures and their proof, the pool at work."""

from __future__ import annotations

import errno
import select
import socket
import ssl

import pytest
from conftest import MakeProxy
from fakes import GET, OK, OK_CLOSE, PASSED_OK, POST, FakeProxy, Peer, body_of, fields_of, splits, status_of

from proxy.config import override
from proxy.upstream_life import State

RESPONSES = [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", True),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"", True),
    (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"", True),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nTrailer: gone\r\n\r\n",
        b"hello",
        True,
    ),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + OK, b"ok", True),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello", b"hello", False),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", False),
    (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", b"hello", True),
]


def payload_of(response: bytes) -> bytes:
    """The body that a client understands: interim responses skipped, chunks joined."""
    while response[9:10] == b"1":
        response = body_of(response)
    body = body_of(response)
    if fields_of(response).get("transfer-encoding") != "chunked":
        return body
    payload = b""
    while body != b"0\r\n\r\n":
        size, _, body = body.partition(b"\r\n")
        payload, body = payload + body[: int(size, 16)], body[int(size, 16) + 2 :]
    return payload


@pytest.mark.parametrize(("response", "payload", "reusable"), RESPONSES)
def test_a_response_is_the_same_however_it_arrives(
    make_proxy: MakeProxy, response: bytes, payload: bytes, reusable: bool
) -> None:
    for first, second in [(response, b""), *splits(response)]:
        proxy = make_proxy()
        client = proxy.client()
        client.sends(GET)
        server = proxy.accept()
        server.sends(first)
        if second:
            server.sends(second)
        assert payload_of(client.gets()) == payload
        assert server.closed is not reusable
        assert proxy.last("exchange.finished")["cause"] == ""
        assert proxy.upstream.pool.idle_count == reusable


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_an_answer_to_head_has_no_body_whatever_it_says(proxy: FakeProxy, response: bytes) -> None:
    client = proxy.client()
    client.sends(GET.replace(b"GET", b"HEAD"))
    server = proxy.accept()
    server.sends(response)
    assert body_of(client.gets()) == b""
    assert not server.closed
    client.sends(GET)
    server.sends(OK)
    assert body_of(client.gets()) == b"ok"


def test_a_response_until_close_ends_with_the_close_and_becomes_chunks(proxy: FakeProxy) -> None:
    client = proxy.client()
    client.sends(GET)
    server = proxy.accept()
    server.sends(b"HTTP/1.1 200 OK\r\n\r\nhel")
    server.sends(b"lo")
    server.closes()
    assert payload_of(client.gets()) == b"hello"
    assert not client.closed
    assert proxy.last("upstream.closed")["reason"] == "peer_close"


def test_a_reset_does_not_end_a_response_until_close(proxy: FakeProxy) -> None:
    client = proxy.client()
    client.sends(GET)
    server = proxy.accept()
    server.sends(b"HTTP/1.1 200 OK\r\n\r\nhel")
    server.resets()
    assert not client.gets().endswith(b"0\r\n\r\n")
    assert client.closed
    assert proxy.last("exchange.finished")["cause"] == "truncated_response"


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnot a size\r\n",
        b"HTTP/1.1 200 OK\n\n",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70_000,
    ],
)
def test_an_invalid_response_is_a_502_and_the_connection_is_closed(proxy: FakeProxy, response: bytes) -> None:
    client = proxy.client()
    client.sends(GET)
    server = proxy.accept()
    server.sends(response)
    page = client.gets()
    assert status_of(page) == 502
    assert fields_of(page)["x-kalab-cause"] == "invalid_response"
    assert server.closed
    assert not client.closed


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize("pieces", [1, 100])
def test_interim_responses_may_be_many_but_not_without_end(proxy: FakeProxy, pieces: int) -> None:
    client = proxy.client()
    most = proxy.config.limits.head_bytes // len(CONTINUE)
    client.sends(GET)
    server = proxy.accept()
    for _ in range(pieces):
        server.sends(CONTINUE * (most // pieces))
    server.sends(OK)
    assert client.gets().endswith(PASSED_OK)
    client.sends(GET)
    for _ in range(pieces):
        server.sends(CONTINUE * (most // pieces))
    server.sends(CONTINUE * pieces)
    page = client.gets().rpartition(b"\r\n\r\nHTTP")[2]
    assert b"invalid_response" in page
    assert server.closed
    assert not client.closed


@pytest.mark.parametrize(
    ("request_", "response"),
    [
        (GET, OK + b"x"),
        (GET, OK + OK),
        (GET, b"HTTP/1.1 204 No Content\r\n\r\nbody"),
        (GET, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nbody"),
        (GET.replace(b"GET", b"HEAD"), OK),
        (GET, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHTTP"),
    ],
)
def test_what_comes_behind_a_response_closes_the_connection(proxy: FakeProxy, request_: bytes, response: bytes) -> None:
    client = proxy.client()
    client.sends(request_)
    server = proxy.accept()
    server.sends(response)
    assert status_of(client.gets()) in (200, 204, 304)
    assert not client.closed
    assert server.closed
    assert proxy.last("upstream.closed")["reason"] == "unsolicited_data"


# ---- while idle, anything closes


def says_408(server: Peer) -> None:
    server.sends(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize(
    ("happens", "reason"),
    [(Peer.closes, "peer_fin"), (Peer.resets, "peer_reset"), (says_408, "unsolicited_data")],
)
def test_anything_on_an_idle_connection_closes_it(proxy: FakeProxy, happens: object, reason: str) -> None:
    client, server = proxy.pair()
    proxy.loop.passes(1.5)
    happens(server)  # type: ignore[operator]
    assert server.closed
    closed = proxy.last("upstream.closed")
    assert (closed["reason"], closed["idle_ms"], closed["requests"]) == (reason, 1500, 1)
    assert proxy.upstream.pool.idle_count == proxy.upstream.pool.open_count == 0
    client.sends(GET)
    proxy.accept().sends(OK)
    assert body_of(client.gets()) == b"ok"


@pytest.mark.parametrize(("unread", "reason"), [(70, "unsolicited_data"), (0, "peer_fin")])
def test_what_came_right_behind_a_response_is_seen_in_the_same_turn(proxy: FakeProxy, unread: int, reason: str) -> None:
    """By the next request that would take the connection; if none does, the loop's next turn tells."""
    client = proxy.client()
    client.sends(GET + GET)
    server = proxy.accept()
    server.gets()
    server.sends(OK)
    proxy.kernel.stirred, proxy.kernel.unread = True, unread
    proxy.loop.turn()
    assert server.gets() == b""
    assert proxy.last("upstream.closed")["reason"] == reason
    proxy.accept().sends(OK)
    assert client.gets() == PASSED_OK * 2


def test_an_answer_that_had_arrived_before_the_request_is_never_taken(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    proxy.kernel.unread = 70
    client.sends(GET)
    assert server.gets() == b""
    assert server.closed
    assert proxy.last("upstream.closed")["reason"] == "unsolicited_data"
    proxy.kernel.unread = 0
    proxy.accept().sends(OK)
    assert body_of(client.gets()) == b"ok"


def test_an_answer_that_crossed_the_request_is_never_taken(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(POST)
    proxy.kernel.unacked = len(server.gets())
    says_408(server)
    assert status_of(client.gets()) == 502
    failed = proxy.last("exchange.attempt_failed")
    assert (failed["failure"], failed["proof"]) == ("closed_before_response", "unprocessed")
    assert proxy.last("upstream.closed")["reason"] == "unsolicited_data"


@pytest.mark.parametrize("request_", [GET, POST])
def test_the_second_of_two_answers_that_crossed_the_next_request_is_never_taken(
    proxy: FakeProxy, request_: bytes
) -> None:
    """Whether the upstream, which is out of step, executes that request cannot be known."""
    client, server = proxy.pair()
    client.sends(request_)
    proxy.kernel.unacked = len(server.gets())
    server.sends(OK)
    page = client.gets()
    assert (status_of(page), fields_of(page)["x-kalab-cause"]) == (502, "invalid_response")
    assert proxy.last("exchange.attempt_failed")["proof"] == "unknown"
    assert proxy.last("upstream.closed")["reason"] == "unsolicited_data"
    assert not client.closed


def test_an_error_that_acknowledges_the_request_is_the_answer(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(POST)
    proxy.kernel.unacked = 0
    says_408(server)
    assert status_of(client.gets()) == 408


def test_look_before_reuse_sees_a_fin_that_no_callback_has_told_of(make_proxy: MakeProxy) -> None:
    for look in (False, True):
        proxy = make_proxy(pool__look_before_reuse=look)
        client, server = proxy.pair()
        proxy.loop.passes(1)
        proxy.kernel.stirred = True
        client.sends(GET)
        assert server.closed is look
        assert bool(server.gets()) is not look


# ---- failures and their proof


@pytest.mark.parametrize(
    ("unacked", "proof"),
    [(0, "unknown"), (1, "unknown"), ("all but one", "unknown"), ("all", "unprocessed"), (None, "unknown")],
)
def test_a_fin_proves_something_if_all_of_the_request_is_unacknowledged(
    make_proxy: MakeProxy, unacked: object, proof: str
) -> None:
    proxy = make_proxy(retry__policy="never")
    client, server = proxy.pair()
    client.sends(POST)
    sent = len(server.gets())
    proxy.kernel.unacked = {"all": sent, "all but one": sent - 1}.get(unacked, unacked)  # type: ignore[call-overload]
    server.closes()
    failed = proxy.last("exchange.attempt_failed")
    assert failed["failure"] == "closed_before_response"
    assert failed["sent_bytes"] == sent
    assert failed["unacked_bytes"] == proxy.kernel.unacked
    assert failed["proof"] == proof
    assert status_of(client.gets()) == 502


def test_a_reset_proves_nothing(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(POST)
    proxy.kernel.unacked = 10_000
    server.resets()
    failed = proxy.last("exchange.attempt_failed")
    assert (failed["failure"], failed["proof"]) == ("reset_before_response", "unknown")


def test_bytes_that_the_kernel_has_not_taken_count_as_unacknowledged(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(POST)
    proxy.kernel.unacked, server.transport.waiting = 0, len(server.gets())
    server.closes()
    assert proxy.last("exchange.attempt_failed")["proof"] == "unprocessed"


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_write_that_the_kernel_refuses_is_proof_for_any_method(proxy: FakeProxy, method: bytes) -> None:
    client, server = proxy.pair()
    server.transport.refuses = True
    client.sends(POST.replace(b"POST", method))
    server.loses(BrokenPipeError(32, "Broken pipe"))
    failed = proxy.last("exchange.attempt_failed")
    assert (failed["proof"], failed["retry"], failed["because"]) == ("unprocessed", True, "nothing was sent")
    again = proxy.accept()
    assert again.gets().endswith(b"body")
    again.sends(OK)
    assert status_of(client.gets()) == 200


def test_a_response_that_came_before_a_refused_write_is_still_read(
    proxy: FakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = proxy.client()
    client.sends(b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 10\r\n\r\n")
    server = proxy.accept()
    server.transport.refuses = True
    client.sends(b"12345")
    left = [b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n", b""]
    monkeypatch.setattr("proxy.upstream_socket.os.read", lambda _fd, _size: left.pop(0))
    server.loses(ConnectionResetError(104, "Connection reset by peer"))
    assert status_of(client.gets()) == 413
    assert proxy.last("upstream.closed")["reason"] == "unfinished_request"


def test_a_response_and_a_close_together_the_response_wins(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(GET)
    server.sends(OK)
    server.closes()
    assert status_of(client.gets()) == 200
    assert proxy.of("exchange.attempt_failed") == []


# ---- under TLS the queues count ciphertext


def test_under_tls_the_certificate_is_for_the_host_and_the_handshake_has_its_time(make_proxy: MakeProxy) -> None:
    context = object()
    proxy = make_proxy(tls=context, timeouts__tls_handshake="3s")
    client = proxy.client()
    client.sends(GET)
    (dial,) = proxy.loop.dials
    assert dial.options == {"ssl": context, "server_hostname": "10.0.0.3", "ssl_handshake_timeout": 3}
    proxy.loop.passes(7.9)
    assert client.gets() == b""
    proxy.loop.passes(0.2)
    assert fields_of(client.gets())["x-kalab-cause"] == "connect_timeout"


@pytest.mark.parametrize(
    ("events", "closed"),
    [
        (select.POLLIN, False),  # a session ticket, perhaps
        (select.POLLIN | select.POLLRDHUP, True),
        (select.POLLHUP, True),
        (select.POLLERR, True),
    ],
)
def test_under_tls_only_the_end_of_the_stream_is_seen_before_reuse(
    make_proxy: MakeProxy, events: int, closed: bool
) -> None:
    proxy = make_proxy(tls=object(), pool__look_before_reuse=True)
    client, server = proxy.pair()
    proxy.loop.passes(1)
    proxy.kernel.stirred, proxy.kernel.unread = events, 70
    client.sends(GET)
    assert server.closed is closed
    if closed:
        assert proxy.last("upstream.closed")["reason"] == "peer_fin"


def test_under_tls_nothing_is_proven_and_no_answer_is_suspect(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(tls=object())
    client, server = proxy.pair()
    client.sends(POST)
    proxy.kernel.unacked = len(server.gets())
    server.sends(OK)
    assert status_of(client.gets()) == 200
    client.sends(POST)
    server.closes()
    failed = proxy.last("exchange.attempt_failed")
    assert (failed["proof"], failed["unacked_bytes"], failed["retry"]) == ("unknown", None, False)


# ---- deadlines


def test_a_response_that_does_not_begin_in_time_is_a_504(proxy: FakeProxy) -> None:
    client, _ = proxy.pair()
    client.sends(GET)
    proxy.loop.passes(59.9)
    assert client.gets() == b""
    proxy.loop.passes(0.2)
    page = client.gets()
    assert (status_of(page), fields_of(page)["x-kalab-cause"]) == (504, "response_timeout")
    assert proxy.last("upstream.closed")["reason"] == "failed"


def test_a_gap_in_a_response_ends_it(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    client.sends(GET)
    server.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123")
    proxy.loop.passes(59)
    server.sends(b"456")
    proxy.loop.passes(59)
    assert not client.closed
    proxy.loop.passes(2)
    assert client.closed
    assert server.closed
    assert client.gets().endswith(b"123456")


def test_a_connect_that_takes_too_long_is_a_504(proxy: FakeProxy) -> None:
    client = proxy.client()
    client.sends(GET)
    proxy.loop.passes(5.1)
    page = client.gets()
    assert (status_of(page), fields_of(page)["x-kalab-cause"]) == (504, "connect_timeout")
    assert proxy.loop.dials[0].task.cancelled
    assert proxy.upstream.pool.open_count == 0


@pytest.mark.parametrize(
    ("problem", "cause"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "connect_refused"),
        (OSError(113, "No route to host"), "connect_failed"),
        (UnicodeError("label empty or too long"), "connect_failed"),  # the upstream a..b:80
        (ValueError("a leading dot"), "connect_failed"),  # of the TLS context, with the upstream .a:443
    ],
)
def test_a_connect_that_fails_is_a_502(proxy: FakeProxy, problem: Exception, cause: str) -> None:
    client = proxy.client()
    client.sends(GET)
    while proxy.loop.dials:
        proxy.loop.dials[0].fail(problem)
    page = client.gets()
    assert (status_of(page), fields_of(page)["x-kalab-cause"]) == (502, cause)
    assert not client.closed
    assert proxy.upstream.pool.open_count == 0
    assert proxy.of("upstream.closed") == []


def test_a_connection_that_is_reset_as_soon_as_it_is_made(proxy: FakeProxy) -> None:
    client = proxy.client()
    client.sends(GET)
    server = proxy.loop.dials[0].accept(reset=True)
    server.resets()
    assert fields_of(client.gets())["x-kalab-cause"] == "reset_before_response"
    assert proxy.last("upstream.closed").conn.endswith(">10.0.0.3:9000")


# ---- the pool at work


def test_an_idle_connection_is_closed_when_its_time_is_over(proxy: FakeProxy) -> None:
    _, server = proxy.pair()
    proxy.loop.passes(3.9)
    assert not server.closed
    proxy.loop.passes(0.2)
    assert server.closed
    assert proxy.last("upstream.closed")["reason"] == "idle_timeout"


def test_an_idle_connection_is_closed_when_it_is_too_old(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(pool__max_age="2s")
    _, server = proxy.pair()
    proxy.loop.passes(1.9)
    assert not server.closed
    proxy.loop.passes(0.2)
    assert server.closed
    assert proxy.last("upstream.closed")["reason"] == "max_age"


def test_other_limits_hold_at_once_for_what_is_idle(proxy: FakeProxy) -> None:
    _, server = proxy.pair()
    proxy.loop.passes(1.5)
    shorter = override(proxy.config, {"timeouts.upstream_idle": "2s"})
    proxy.upstream.reconfigure(shorter.timeouts, shorter.pool)
    assert not server.closed
    proxy.loop.passes(0.6)
    assert server.closed
    assert proxy.last("upstream.closed")["idle_ms"] < 2500


@pytest.mark.parametrize("most", [1, 0])
def test_fewer_idle_ones_are_kept_at_once(proxy: FakeProxy, most: int) -> None:
    clients = [proxy.client() for _ in range(3)]
    for client in clients:
        client.sends(GET)
    servers = [proxy.accept() for _ in clients]
    for server in servers:
        server.sends(OK)
        proxy.loop.passes(0.1)
    fewer = override(proxy.config, {"pool.max_idle": most})
    proxy.upstream.reconfigure(fewer.timeouts, fewer.pool)
    assert [server.closed for server in servers] == [True, True, most == 0]
    assert proxy.last("upstream.closed")["reason"] == "max_idle"
    assert repr(proxy.upstream) == f"<Upstream 10.0.0.3:9000, {most} open, {most} idle, 0 waiting>"


def test_one_that_makes_way_for_a_fresh_one_is_not_counted_as_reused(make_proxy: MakeProxy) -> None:
    """A repeat waits in line; the connection that is parked meanwhile is closed for it."""
    proxy = make_proxy(pool__max_connections=1)
    repeated, server = proxy.pair()
    repeated.sends(GET)
    other = proxy.client()
    other.sends(GET)
    server.closes()
    served = proxy.accept()
    served.sends(OK)
    assert status_of(other.gets()) == 200
    assert served.closed
    proxy.accept().sends(OK)
    assert status_of(repeated.gets()) == 200
    assert sum(proxy.upstream._reused.counts) == 1


def test_room_for_more_is_given_at_once_to_those_who_wait(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(pool__max_connections=1)
    proxy.client().sends(GET)
    proxy.client().sends(GET)
    assert len(proxy.loop.dials) == 1
    wider = override(proxy.config, {"pool.max_connections": 2})
    proxy.upstream.reconfigure(wider.timeouts, wider.pool)
    assert len(proxy.loop.dials) == 2


def test_a_socket_is_told_what_the_config_says(make_proxy: MakeProxy) -> None:
    for keepalive in (False, True):
        _, server = make_proxy(upstream_socket__keepalive=keepalive).pair()
        assert ((socket.SOL_SOCKET, socket.SO_KEEPALIVE) in server.transport.options) is keepalive


def test_a_connection_past_its_time_is_not_reused_even_if_no_timer_ran(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    proxy.loop.now += 4.0
    client.sends(GET)
    assert server.closed
    assert server.gets() == b""


@pytest.mark.parametrize(("hint", "lives_s"), [(3, 2.0), (60, 4.0), (1, 0.0)])
def test_the_upstreams_hint_shortens_the_idle_time(proxy: FakeProxy, hint: int, lives_s: float) -> None:
    client = proxy.client()
    client.sends(GET)
    server = proxy.accept()
    server.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nKeep-Alive: timeout=%d\r\n\r\n" % hint)
    assert server.closed is (lives_s == 0)
    if lives_s:
        proxy.loop.passes(lives_s - 0.1)
        assert not server.closed
        proxy.loop.passes(0.2)
        assert server.closed
    assert proxy.last("upstream.closed")["reason"] == "idle_timeout"


def test_max_idle_0_never_reuses_and_says_so(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(pool__max_idle=0)
    client = proxy.client()
    client.sends(GET)
    server = proxy.accept()
    assert fields_of(server.gets())["connection"] == "close"
    server.sends(OK)
    assert server.closed


def test_max_requests_closes_after_the_last(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(pool__max_requests=2)
    client, server = proxy.pair()
    client.sends(GET)
    server.sends(OK)
    assert server.closed
    assert proxy.last("upstream.closed")["reason"] == "max_requests"


def test_at_the_limit_requests_wait_in_line_and_are_served_in_order(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(pool__max_connections=1)
    first, second, third = proxy.client(), proxy.client(), proxy.client()
    for number, client in enumerate((first, second, third)):
        client.sends(GET.replace(b"/a", b"/%d" % number))
    assert repr(proxy.upstream) == "<Upstream 10.0.0.3:9000, 1 open, 0 idle, 2 waiting>"
    assert (proxy.upstream.busy, proxy.upstream.waiting) == (3, 2)
    server = proxy.accept()
    for number, client in enumerate((first, second, third)):
        assert server.gets().startswith(b"GET /%d " % number)
        server.sends(OK)
        assert status_of(client.gets()) == 200
    assert proxy.loop.dials == []
    assert (proxy.upstream.busy, proxy.upstream.waiting) == (0, 0)


def test_when_a_connection_closes_the_next_in_line_gets_a_new_one(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(pool__max_connections=1)
    first, second = proxy.client(), proxy.client()
    first.sends(GET)
    second.sends(GET)
    proxy.accept().sends(OK_CLOSE)
    proxy.accept().sends(OK)
    assert status_of(second.gets()) == 200


def test_a_wait_that_is_too_long_is_a_503(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(pool__max_connections=1, pool__max_wait="2s")
    first, second, third = proxy.client(), proxy.client(), proxy.client()
    first.sends(GET)
    second.sends(GET)
    proxy.loop.passes(1)
    third.sends(GET)
    proxy.loop.passes(1.1)
    page = second.gets()
    assert (status_of(page), fields_of(page)["x-kalab-cause"]) == (503, "pool_exhausted")
    assert fields_of(page)["retry-after"] == "1"
    assert third.gets() == b""
    proxy.loop.passes(1)
    assert status_of(third.gets()) == 503


@pytest.mark.parametrize("limit", [{"pool__max_wait": "0s"}, {"pool__max_waiting": 0}])
def test_where_nobody_may_wait_the_503_comes_at_once(make_proxy: MakeProxy, limit: dict[str, object]) -> None:
    proxy = make_proxy(pool__max_connections=1, **limit)
    proxy.client().sends(GET)
    client = proxy.client()
    client.sends(POST[:-2])  # with a body under way, too
    assert status_of(client.gets()) == 503


def test_who_leaves_the_line_is_not_served(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(pool__max_connections=1)
    first, second, third = proxy.client(), proxy.client(), proxy.client()
    for client in (first, second, third):
        client.sends(GET)
    second.resets()
    server = proxy.accept()
    server.sends(OK)
    server.sends(OK)
    assert status_of(third.gets()) == 200
    assert second.gets() == b""


def test_a_client_that_leaves_while_connecting_ends_the_connect(proxy: FakeProxy) -> None:
    client = proxy.client()
    client.sends(GET)
    client.closes()
    assert proxy.loop.dials[0].task.cancelled
    assert proxy.upstream.pool.open_count == 0
    late = proxy.accept()  # connected after all, in the same turn
    assert late.closed
    assert proxy.of("upstream.opened") == []


def test_draining_closes_what_is_idle_and_what_becomes_idle(proxy: FakeProxy) -> None:
    client, server = proxy.pair()
    busy_client = proxy.client()
    client.sends(GET)
    busy_client.sends(GET)
    busy = proxy.accept()
    server.sends(OK)
    proxy.upstream.drain()
    assert server.closed
    assert not busy.closed
    busy.sends(OK)
    assert busy.closed
    assert proxy.last("upstream.closed")["reason"] == "drained"


def test_the_life_of_a_connection_in_events(proxy: FakeProxy) -> None:
    client = proxy.client()
    client.sends(GET)
    server = proxy.accept()
    server.sends(OK)
    proxy.loop.passes(1)
    client.sends(GET)
    server.sends(OK)
    server.closes()
    upstream = [event for event in proxy.events if event.kind.startswith("upstream")]
    assert [event.kind.partition(".")[2] for event in upstream] == [
        "opened",
        "acquired",
        "idle",
        "acquired",
        "idle",
        "closed",
    ]
    assert len({event.conn for event in upstream}) == 1
    assert [event["reused"] for event in proxy.of("upstream.acquired")] == [False, True]
    assert proxy.last("upstream.acquired")["idle_ms"] == 1000
    assert repr(server.protocol).startswith("<UpstreamConnection CLOSED 10.0.0.2:")


def test_a_step_that_does_not_exist_is_refused(proxy: FakeProxy) -> None:
    _, server = proxy.pair()
    with pytest.raises(RuntimeError, match="cannot become IDLE"):
        server.protocol._enter(State.IDLE)


@pytest.mark.parametrize(
    ("problem", "says"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('10.0.0.3', 9000)"), "Connection refused"),
        (OSError(errno.EMFILE, "no more"), "Too many open files"),
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            "its name cannot be resolved",
        ),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "TLS: [SSL: WRONG"),
        (ValueError("server_hostname cannot be an empty string"), "server_hostname cannot be an empty string"),
    ],
)
def test_why_a_connect_fails_is_told_once_for_each_reason_and_not_too_often(
    proxy: FakeProxy, problem: Exception, says: str
) -> None:
    told: list[str] = []
    proxy.upstream.on_problem = told.append
    for _ in range(3):
        proxy.client().sends(GET)
        proxy.loop.turn()
        while proxy.loop.dials:
            proxy.loop.dials[0].fail(problem)
    assert len(told) == 1
    assert told[0].startswith(says)
