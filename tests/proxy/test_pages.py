"""What the proxy says itself."""

from __future__ import annotations

from email.utils import formatdate, parsedate_to_datetime
from time import time

import pytest
from fakes import body_of, fields_of, status_of

from proxy.http1.pages import error_page, http_date


def page(status: int, *, keep_alive: bool = True, http10: bool = False, head_only: bool = False) -> bytes:
    return error_page(status, "a_cause", "what happened", keep_alive=keep_alive, http10=http10, head_only=head_only)


@pytest.mark.parametrize("status", [400, 404, 405, 408, 413, 414, 417, 429, 431, 500, 501, 502, 503, 504, 505])
def test_a_page_is_a_whole_response_that_tells_its_cause(status: int) -> None:
    said = page(status)
    fields = fields_of(said)
    assert status_of(said) == status
    assert fields["x-kalab-cause"] == "a_cause"
    assert int(fields["content-length"]) == len(body_of(said))
    assert body_of(said).endswith(b": what happened\n")


@pytest.mark.parametrize(
    ("status", "name", "value"),
    [
        (405, "allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        (429, "retry-after", "1"),
        (503, "retry-after", "1"),
    ],
)
def test_a_status_brings_the_field_that_it_calls_for(status: int, name: str, value: str) -> None:
    assert fields_of(page(status))[name] == value
    assert name not in fields_of(page(502))


def test_a_page_says_when_it_was_made() -> None:
    before = int(time())
    made = parsedate_to_datetime(fields_of(page(502))["date"])
    assert before <= made.timestamp() <= time()


@pytest.mark.parametrize("at", [0, 784111777, 1_700_000_000, 951_782_400, 4_102_444_799, 253_402_300_799])
def test_the_date_is_that_of_rfc_9110(at: int) -> None:
    assert http_date(at) == formatdate(at, usegmt=True)


def test_the_date_of_the_rfc_itself() -> None:
    assert http_date(784111777) == "Sun, 06 Nov 1994 08:49:37 GMT"


def test_a_page_in_answer_to_head_has_no_body_but_tells_its_length() -> None:
    said = page(404, head_only=True)
    assert body_of(said) == b""
    assert fields_of(said)["content-length"] == fields_of(page(404))["content-length"]


@pytest.mark.parametrize(
    ("keep_alive", "http10", "connection"),
    [(True, False, None), (True, True, "keep-alive"), (False, False, "close"), (False, True, "close")],
)
def test_whether_the_connection_stays_open_is_said(keep_alive: bool, http10: bool, connection: str | None) -> None:
    assert fields_of(page(502, keep_alive=keep_alive, http10=http10)).get("connection") == connection
