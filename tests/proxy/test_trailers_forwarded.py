"""Trailers through the chain: dropped by default, passed on where the config says so, in both directions."""

from __future__ import annotations

import pytest
from conftest import MakeProxy
from fakes import GET, FakeProxy, body_of, fields_of, splits, status_of

POST = (
    b"POST /a HTTP/1.1\r\nHost: shop\r\nTE: trailers\r\nConnection: TE, X-Hop\r\nTransfer-Encoding: chunked\r\n"
    b"Trailer: Digest, Host, X-Hop\r\n\r\n"
)
BODY = b"4\r\nbody\r\n0\r\nDigest: sha\r\nHost: evil\r\nContent-Length: 3\r\nX-Hop: 1\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Server-Timing\r\n\r\n"
ANSWER_BODY = b"2\r\nok\r\n0\r\nServer-Timing: db\r\nSet-Cookie: a=b\r\n\r\n"


@pytest.mark.parametrize("forward", [False, True])
def test_trailers_of_a_request(make_proxy: MakeProxy, forward: bool) -> None:
    for first, second in splits(BODY):
        proxy = make_proxy(**({"http__trailers": "forward"} if forward else {}))
        client = proxy.client()
        client.sends(POST + first)
        server = proxy.accept()
        client.sends(second)
        got = server.gets()
        fields = fields_of(got)
        assert fields.get("trailer") == ("Digest" if forward else None)
        assert fields.get("te") == ("trailers" if forward else None)
        assert body_of(got).endswith(b"\r\n0\r\nDigest: sha\r\n\r\n" if forward else b"y\r\n0\r\n\r\n")
        assert b"evil" not in got
        assert b"Content-Length" not in got


@pytest.mark.parametrize("forward", [False, True])
def test_trailers_of_a_response(make_proxy: MakeProxy, forward: bool) -> None:
    proxy = make_proxy(**({"http__trailers": "forward"} if forward else {}))
    client, server = proxy.pair()
    for first, second in splits(ANSWER + ANSWER_BODY):
        client.sends(GET)
        server.sends(first)
        server.sends(second)
        got = client.gets()
        assert fields_of(got).get("trailer") == ("Server-Timing" if forward else None)
        assert got.endswith(b"\r\n0\r\nServer-Timing: db\r\n\r\n" if forward else b"\r\n0\r\n\r\n")
        assert b"Cookie" not in got
    client.sends(GET)  # and none of them are left over for the next
    server.sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    assert client.gets().endswith(b"\r\n\r\n0\r\n\r\n")


def test_a_1_0_client_gets_no_trailers(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(http__trailers="forward")
    client = proxy.client()
    client.sends(GET.replace(b"1.1", b"1.0"))
    proxy.accept().sends(ANSWER + ANSWER_BODY)
    assert body_of(client.gets()) == b"ok"


def test_a_response_that_only_a_close_ends_has_none(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(http__trailers="forward")
    client, server = proxy.pair()
    client.sends(GET)
    server.sends(b"HTTP/1.1 200 OK\r\n\r\nok")
    server.closes()
    assert client.gets().endswith(b"2\r\nok\r\n0\r\n\r\n")


def test_trailers_are_repeated_with_the_body(make_proxy: MakeProxy) -> None:
    proxy = make_proxy(http__trailers="forward", retry__policy="always")
    client, server = proxy.pair()
    client.sends(POST + BODY)
    server.closes()
    again = proxy.accept()
    assert again.gets().endswith(b"4\r\nbody\r\n0\r\nDigest: sha\r\n\r\n")


@pytest.mark.parametrize("trailer", [b"A b: c", b"A: b\x00", b"A" * 9000 + b": b"])
def test_trailers_that_are_not_sound_are_refused_whether_they_go_on_or_not(
    make_proxy: MakeProxy, trailer: bytes
) -> None:
    for how in ("drop", "forward"):
        proxy: FakeProxy = make_proxy(http__trailers=how)
        client, server = proxy.pair()
        client.sends(POST + b"4\r\nbody\r\n0\r\n")
        client.sends(trailer + b"\r\n\r\n")
        assert status_of(client.gets()) == 400
        assert server.closed
