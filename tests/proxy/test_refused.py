"""What is told of a request that the proxy refuses: in the access log what could be read of it and why, and a count."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import MakeProxy
from fakes import FakeProxy, Peer, status_of

from proxy.config.knobs import Route
from proxy.observe.access_log import Finished, combined_line, json_line
from proxy.router import Router

HOST = b"Host: shop\r\n"


class Log:
    """The lines that a fake proxy would write."""

    def __init__(self, proxy: FakeProxy) -> None:
        self.finished: list[Finished] = []
        proxy.gateway._finished = self._keep
        proxy.gateway.watched = True

    def _keep(self, client_conn: str, *detail: object, http10: bool = False, fields: bytes = b"", **more: str) -> None:
        self.finished.append(Finished(1.7e9, client_conn, http10, fields, detail, **more))

    def line(self) -> dict[str, Any]:
        """The only one there is."""
        (finished,) = self.finished
        line: dict[str, Any] = json.loads(json_line(finished))
        return line

    def request(self) -> str:
        """What was asked for, as the combined format has it."""
        (finished,) = self.finished
        return combined_line(finished).decode("ascii").split('"')[1]


def told(line: dict[str, Any]) -> tuple[object, ...]:
    return tuple(line[name] for name in ("status", "cause", "method", "target", "reason"))


REFUSED = [
    (b"GET /a?b=c HTTP/1.1\r\n\r\n", (400, "GET", "/a", "no Host")),
    (b"GET /a HTTP/1.1\r\n" + HOST + HOST + b"\r\n", (400, "GET", "/a", "more than one Host")),
    (b"GET /a HTTP/1.1\r\nHost: a b\r\n\r\n", (400, "GET", "/a", "not a valid Host")),
    (b"GET /a HTTP/1.0\r\nHost: a b\r\n\r\n", (400, "GET", "/a", "not a valid Host")),
    (
        b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        (400, "POST", "/a", "both Content-Length and Transfer-Encoding"),
    ),
    (
        b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length: +1\r\n\r\n",
        (400, "POST", "/a", "Content-Length is not one number"),
    ),
    (b"GET /a HTTP/1.1\r\n" + HOST + b"Expect: tea\r\n\r\n", (417, "GET", "/a", "an unknown expectation")),
    (b"\r\nGET /a HTTP/1.1\r\n" + HOST + b" x: y\r\n\r\n", (400, "GET", "/a", "a field line is malformed")),
    (b"GET /a HTTP/2.0\r\n\r\n", (505, "GET", "/a", "only HTTP/1.0 and HTTP/1.1 are spoken here")),
    (b"CONNECT shop:443 HTTP/1.1\r\n" + HOST + b"\r\n", (405, "CONNECT", "shop:443", "this method is not passed on")),
    (b"GET ftp://shop/ HTTP/1.1\r\n" + HOST + b"\r\n", (400, "GET", "ftp://shop/", "not a target")),
    (b"GET /" + b"a" * 9000, (414, "GET", "/" + "a" * 799 + "…", "the start line is too long")),
    (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", (414, "GET", "/" + "a" * 799 + "…", "the start line is too long")),
    (b"GET /a HTTP/1.1\r\nA: " + b"a" * 70_000, (431, "GET", "/a", "the head is too long")),
    (b"GET /a HTTP/1.1\nHost: shop\n", (400, "GET", "/a", "a control character, or a line that does not end in CRLF")),
    # What is no request line, or not a plain one, is not repeated.
    (b"GET http://me:secret@shop/ HTTP/1.1\r\n" + HOST + b"\r\n", (400, None, None, "not a target")),
    (b"G\x00T / HTTP/1.1\r\n", (400, None, None, "a control character, or a line that does not end in CRLF")),
    (b"GET /\x1b[2J HTTP/1.1\r\n", (400, None, None, "a control character, or a line that does not end in CRLF")),
    (b"GET /\xe2\x80\xae HTTP/1.1\r\n\r\n", (400, None, None, "not a request line")),
    (b"hello\r\n\r\n", (400, None, None, "not a request line")),
    (b"A" * 41 + b" / HTTP/9.9\r\n\r\n", (505, None, None, "only HTTP/1.0 and HTTP/1.1 are spoken here")),
    (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        (400, None, None, "a control character, or a line that does not end in CRLF"),
    ),
]


@pytest.mark.parametrize("pieces", [1, 2, 5])
@pytest.mark.parametrize(("sent", "expected"), REFUSED, ids=[repr(sent[:40]) for sent, _ in REFUSED])
def test_the_log_says_what_was_asked_for_and_why_it_was_refused(
    sent: bytes, expected: tuple[int, object, object, str], pieces: int, proxy: FakeProxy
) -> None:
    log = Log(proxy)
    client = proxy.client()
    size = -(-len(sent) // pieces)
    for at in range(0, len(sent), size):
        client.sends(sent[at : at + size])
    status, method, target, reason = expected
    assert told(log.line()) == (status, "bad_request", method, target, reason)
    assert reason.encode() in client.gets()
    version = "HTTP/1.0" if b"HTTP/1.0" in sent else "HTTP/1.1"
    assert log.request() == (f"{method} {target} {version}".replace("…", "...") if method else "-")
    assert proxy.gateway.counters.group("").causes == {"bad_request": 1}
    assert proxy.last("exchange.finished")["method"] == (method or "")


def sends_a_bad_chunk(client: Peer) -> None:
    client.sends(b"POST /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nx\r\n")


def sends_too_much(client: Peer) -> None:
    client.sends(b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\n")


def sends_too_many_chunks(client: Peer) -> None:
    client.sends(b"POST /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n9\r\n123456789\r\n")


def asks_for_what_has_no_route(client: Peer) -> None:
    client.sends(b"GET /a HTTP/1.1\r\nHost: other\r\nX-Request-Id: r-1\r\n\r\n")


def sends_dots(client: Peer) -> None:
    client.sends(b"GET /a/../b HTTP/1.1\r\n" + HOST + b"\r\n")


def stops_in_its_head(client: Peer) -> None:
    client.sends(b"GET /a HTTP/1.1\r\nHo")


def stops_in_its_line(client: Peer) -> None:
    client.sends(b"GET /a")


def stops_in_its_body(client: Peer) -> None:
    client.sends(b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\nab")


@pytest.mark.parametrize(
    ("does", "config", "passes_s", "expected"),
    [
        (sends_a_bad_chunk, {}, 0, (400, "bad_request", "POST", "/a", "not the size of a chunk")),
        (sends_too_much, {"limits__body_bytes": 8}, 0, (413, "bad_request", "POST", "/a", "the body is too large")),
        (
            sends_too_many_chunks,
            {"limits__body_bytes": 8},
            0,
            (413, "bad_request", "POST", "/a", "the body is too large"),
        ),
        (stops_in_its_head, {}, 10, (408, "request_timeout", "GET", "/a", "the head did not come in time")),
        (stops_in_its_line, {}, 10, (408, "request_timeout", None, None, "the head did not come in time")),
        (stops_in_its_body, {}, 60, (408, "request_timeout", "POST", "/a", "the body did not come in time")),
        (
            stops_in_its_head,
            {"timeouts__request_total": "5s"},
            5,
            (504, "total_timeout", "GET", "/a", "the request took too long altogether"),
        ),
    ],
)
def test_whatever_it_is_refused_for(
    does: Any, config: dict[str, object], passes_s: float, expected: tuple[object, ...], make_proxy: MakeProxy
) -> None:
    proxy = make_proxy(**config)
    log = Log(proxy)
    client = proxy.client()
    does(client)
    if does is stops_in_its_body:
        proxy.accept()
    proxy.loop.passes(passes_s)
    assert told(log.line()) == expected
    assert status_of(client.gets()) == expected[0]


@pytest.mark.parametrize(
    ("does", "expected"),
    [
        (asks_for_what_has_no_route, (404, "no_route", "GET", "/a", "no route for this host and path")),
        (sends_dots, (400, "bad_request", "GET", "/a/../b", "dot segments in the path")),
    ],
)
def test_one_that_leads_nowhere(does: Any, expected: tuple[object, ...], proxy: FakeProxy) -> None:
    log = Log(proxy)
    proxy.gateway.only = proxy.gateway._default = None
    if does is sends_dots:
        proxy.gateway._router = Router((Route(host="shop", path="/b", group="default"),))
    does(proxy.client())
    assert told(log.line()) == expected
    assert log.line()["req_id"] == ("r-1" if does is asks_for_what_has_no_route else "")


def test_one_client_too_many(proxy: FakeProxy) -> None:
    log = Log(proxy)
    proxy.accepts = False
    proxy.client()
    assert told(log.line()) == (503, "too_many_connections", None, None, "too many connections")
    assert log.line()["client"] == "10.0.0.1"


def test_one_that_was_not_refused_has_no_reason(proxy: FakeProxy) -> None:
    log = Log(proxy)
    client = proxy.client()
    client.sends(b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n")
    client.closes()
    assert told(log.line()) == (499, "client_closed", "GET", "/a", "")
