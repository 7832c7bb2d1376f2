"""What httptools (llhttp) hides, lets pass or does not know. So the proxy reads HTTP/1 itself: each test names where.

llhttp's opinion on the grammar of field lines counts all the same: `test_http1.py` compares it byte by byte.
"""

from __future__ import annotations

import httptools
import pytest


class Seen:
    """Notes what a parser reports."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.events.append(f"{name.decode()}={value.decode()}")

    def on_body(self, body: bytes) -> None:
        self.events.append(body.decode())

    def on_message_complete(self) -> None:
        self.events.append("complete")


def responses(*pieces: bytes) -> list[str]:
    seen = Seen()
    parser = httptools.HttpResponseParser(seen)
    for piece in pieces:
        parser.feed_data(piece)
    return seen.events


def accepts_request(head: bytes) -> bool:
    try:
        httptools.HttpRequestParser(None).feed_data(head)
    except httptools.HttpParserError:
        return False
    return True


def test_it_does_not_know_that_a_response_answers_head() -> None:
    """So `ResponseReader.expect` is told, and finds the end itself."""
    answer_to_head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    assert "12345" in responses(answer_to_head, b"12345")  # which was the next answer


def test_it_reports_100_continue_as_a_complete_message() -> None:
    """So only a final status ends an exchange."""
    assert responses(b"HTTP/1.1 100 Continue\r\n\r\n") == ["complete"]


def test_it_cannot_be_told_of_an_end() -> None:
    """So `UntilCloseBody` never is done, and `UpstreamConnection.eof_received` completes the response."""
    assert "complete" not in responses(b"HTTP/1.1 200 OK\r\n\r\n", b"body")
    offered = {name for name in dir(httptools.HttpResponseParser) if not name.startswith("_")}
    assert offered == {
        "feed_data",
        "get_http_version",
        "get_status_code",
        "set_dangerous_leniencies",
        "should_keep_alive",
        "should_upgrade",
    }


def test_bytes_behind_a_response_that_closes_raise() -> None:
    """So it cannot tell what came behind a response; `ResponseReader.rest` can."""
    with pytest.raises(httptools.HttpParserError):
        responses(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", b"x")


def test_two_messages_in_one_feed_are_both_reported() -> None:
    """So a second answer, which nobody asked for, would pass; here it is found in `ResponseReader.rest`."""
    assert responses(b"HTTP/1.1 204 No Content\r\n\r\n" * 2) == ["complete", "complete"]


def test_trailers_look_like_headers() -> None:
    """So `ChunkedBody` keeps them apart, and drops them unless they are asked for."""
    events = responses(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nHost: evil\r\n\r\n")
    assert events == ["Transfer-Encoding=chunked", "a", "Host=evil", "complete"]


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET http://evil/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/0.9\r\nHost: a\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 007\r\n\r\n",
    ],
)
def test_it_takes_what_the_proxy_must_refuse_or_rewrite(head: bytes) -> None:
    """So `request_head.py` judges the start line, `Host`, the framing and the target itself."""
    assert accepts_request(head)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_it_refuses(head: bytes) -> None:
    """Grammar, as `http1.sound` does; and methods that it does not know, which the proxy passes on."""
    assert not accepts_request(head)


def test_it_has_no_limits() -> None:
    """`PartialHead`, `http1.sound` and the readers have."""
    assert accepts_request(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000 + b"\r\n")
    assert accepts_request(b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nA: " + b"b" * 1_000_000 + b"\r\n\r\n")


def test_an_upgrade_is_an_exception_though_the_head_is_sound() -> None:
    """Here it is `RequestFields.upgrade`, for the exchange to permit or not."""
    with pytest.raises(httptools.HttpParserUpgrade):
        httptools.HttpRequestParser(None).feed_data(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
