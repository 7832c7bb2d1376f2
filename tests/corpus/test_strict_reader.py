"""The judges: the strict reader takes what the RFC takes, and the three readers are seen to disagree."""

from __future__ import annotations

import pytest
from strict_reader import Unsound, read_requests, read_responses
from three_readers import Disagreement, agreed

GET = b"GET /a HTTP/1.1\r\nHost: shop\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: shop\r\nContent-Length: 4\r\n\r\nbody"
CHUNKED = b"POST /a HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"


@pytest.mark.parametrize("data", [GET, POST, CHUNKED, GET + POST + CHUNKED + GET])
def test_all_three_read_what_is_sound(data: bytes) -> None:
    messages, rest = agreed(data + GET[:10])
    assert b"".join(data[message.begin : message.end] for message in messages) == data
    assert rest == GET[:10]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (GET.replace(b"1.1", b"1.0"), "version"),
        (GET.replace(b"Host: shop\r\n", b""), "Host"),
        (GET.replace(b"shop", b"shop\nA: b"), "bare LF"),
        (GET.replace(b"shop", b"sh\0op"), "control"),
        (GET.replace(b"Host:", b"Host :"), "not a field line"),
        (GET.replace(b"shop", b"shop\r\n b"), "not a field line"),
        (GET.replace(b"shop", b"shop\r\nA_b: c"), "underscore"),
        (GET.replace(b"shop", b"shop\r\nConnection: close"), "hop-by-hop"),
        (POST.replace(b" 4", b" 04"), "canonical"),
        (POST.replace(b" 4", b" +4"), "Content-Length"),
        (POST.replace(b" 4", b" 4\r\nTransfer-Encoding: chunked"), "beside"),
        (CHUNKED.replace(b"chunked", b"Chunked"), "canonical"),
        (CHUNKED.replace(b"chunked", b"gzip"), "coding"),
        (CHUNKED.replace(b"4\r\nb", b"4;a\r\nb"), "canonical"),
        (CHUNKED.replace(b"4\r\nb", b"3\r\nb"), "longer"),
        (CHUNKED.replace(b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n"), "trailers"),
        (b"\r\n" + GET, "not three words"),
        (b"GET http://shop/ HTTP/1.1\r\nHost: shop\r\n\r\n", "target"),
    ],
)
def test_what_a_proxy_must_not_send_is_unsound(data: bytes, why: str) -> None:
    with pytest.raises(Unsound, match=why):
        read_requests(data, canonical=True)
    with pytest.raises(Disagreement, match=why):
        agreed(data)


def test_the_other_two_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """If only the strict reader were wrong, they would say so."""
    for reader in ("llhttp", "h11"):
        with monkeypatch.context() as patch:
            patch.setattr(f"three_readers._read_{reader}", lambda *_: "it is another")
            with pytest.raises(Disagreement, match=f"{reader}: it is another"):
                agreed.__wrapped__(GET)


def test_what_a_client_may_send_is_sound() -> None:
    old = b"\r\n\r\nGET http://shop/a HTTP/1.0\r\n\r\n"
    trailers = CHUNKED.replace(b"4\r\nb", b'004;a="b"\r\nb').replace(b"0\r\n\r\n", b"0;c\r\nA: b\r\n\r\n")
    found, end = read_requests(old + trailers)
    assert [message.body for message in found] == [b"", b"body"]
    assert end == len(old + trailers)


@pytest.mark.parametrize("cut", range(1, len(CHUNKED)))
def test_the_start_of_a_message_is_no_message(cut: int) -> None:
    assert read_requests(CHUNKED[:cut]) == ([], 0)


def test_what_was_sound_is_told_with_what_is_not() -> None:
    with pytest.raises(Unsound) as unsound:
        read_requests(GET + POST + b"A: b\r\n\r\n")
    assert [message.body for message in unsound.value.found] == [b"", b"body"]


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_responses_are_read_by_what_they_answer() -> None:
    data = b"HTTP/1.1 100 \r\n\r\n" + OK + OK[:-2] + b"HTTP/1.1 304 \r\nContent-Length: 9\r\n\r\n"
    found, end = read_responses(data, [b"GET", b"HEAD", b"GET"], closed=False)
    assert [(message.status, message.body) for message in found] == [(100, b""), (200, b"ok"), (200, b""), (304, b"")]
    assert end == len(data)


@pytest.mark.parametrize(("closed", "body"), [(False, None), (True, b"ok")])
def test_a_response_until_the_close(closed: bool, body: bytes | None) -> None:
    found, _ = read_responses(b"HTTP/1.1 200 OK\r\n\r\nok", [b"GET"], closed=closed)
    assert [message.body for message in found] == ([] if body is None else [body])


def test_a_response_that_was_cut_short_is_not_complete() -> None:
    found, _ = read_responses(OK[:-1], [b"GET"], closed=True)
    assert not found[0].complete


def test_an_answer_to_nothing_is_unsound() -> None:
    with pytest.raises(Unsound, match="more answers"):
        read_responses(OK + OK, [b"GET"], closed=False)
