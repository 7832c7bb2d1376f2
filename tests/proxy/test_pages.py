"""What the proxy says itself."""

from __future__ import annotations

import pytest
from fakes import body_of, fields_of, status_of

from proxy.http1.pages import error_page


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
