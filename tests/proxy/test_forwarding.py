"""What is said of where a request came from: the proxy's word, or that of a proxy that is trusted."""

from __future__ import annotations

import pytest
from fakes import fields_of

from proxy.http1.forwarding import LONGEST_LIST, Forwarding
from proxy.http1.grammar import HeadLimits
from proxy.http1.request_reader import RequestReader

SPOOFED = (
    b"X-Forwarded-For: 1.1.1.1\r\nx-forwarded-PROTO: https\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\n"
    b"X-Forwarded-Prefix: /x\r\nX_Forwarded_For: 2.2.2.2\r\nForwarded: for=3.3.3.3\r\nX-Forwarded: 4\r\n"
)


def sent(lines: bytes, version: bytes = b"1.1", **knows: object) -> dict[str, str]:
    reader = RequestReader(HeadLimits(), "10.0.0.1", **knows)  # type: ignore[arg-type]
    request = reader.feed(b"GET / HTTP/" + version + b"\r\nHost: shop\r\n" + lines + b"\r\n")
    assert request is not None
    return {name: value for name, value in fields_of(request.head).items() if "forwarded" in name or name == "via"}


def test_nobody_is_believed_by_default() -> None:
    ours = {"x-forwarded-for": "10.0.0.1", "x-forwarded-host": "shop", "via": "1.1 kalab"}
    assert sent(SPOOFED) == {**ours, "x-forwarded-proto": "http"}
    assert sent(b"", proto=b"https") == {**ours, "x-forwarded-proto": "https"}
    assert sent(b"", b"1.0") == {**ours, "x-forwarded-proto": "http", "via": "1.0 kalab"}


def test_a_trusted_proxy_is_continued() -> None:
    assert sent(SPOOFED, trusted=True) == {
        "x-forwarded-for": "1.1.1.1, 10.0.0.1",
        "x-forwarded-proto": "https",
        "x-forwarded-host": "evil",
        "via": "1.1 kalab",
    }
    assert sent(b"", trusted=True) == sent(b"")
    assert sent(b"Via: 1.1 front\r\n", b"1.0", trusted=True)["via"] == "1.1 front, 1.0 kalab"


@pytest.mark.parametrize(
    ("value", "list_"),
    [
        (b"1.1.1.1", "1.1.1.1, 10.0.0.1"),
        (b"1.1.1.1:8080 ,\t[::1]:80", "1.1.1.1:8080, [::1]:80, 10.0.0.1"),
        (b"::1, unknown", "::1, unknown, 10.0.0.1"),
        (b"1.1.1.1\r\nX-Forwarded-For: 2.2.2.2", "1.1.1.1, 2.2.2.2, 10.0.0.1"),
        (b", ".join([b"1.1.1.1"] * LONGEST_LIST), "1.1.1.1, " * LONGEST_LIST + "10.0.0.1"),
        (b", ".join([b"1.1.1.1"] * (LONGEST_LIST + 1)), "10.0.0.1"),
        (b"", "10.0.0.1"),
        (b"1.1.1.1,", "10.0.0.1"),
        (b"evil", "10.0.0.1"),
        (b"1.1.1.1, <script>", "10.0.0.1"),
        (b"1.1.1.1; 2.2.2.2", "10.0.0.1"),
    ],
)
def test_a_list_of_addresses_is_continued_only_if_it_is_sound(value: bytes, list_: str) -> None:
    assert sent(b"X-Forwarded-For: " + value + b"\r\n", trusted=True)["x-forwarded-for"] == list_


@pytest.mark.parametrize(
    ("lines", "proto", "host"),
    [
        (b"X-Forwarded-Proto: HTTPS\r\nX-Forwarded-Host: a.example:81\r\n", "https", "a.example:81"),
        (b"X-Forwarded-Proto: ws\r\nX-Forwarded-Host: a, b\r\n", "http", "shop"),
        (b"X-Forwarded-Proto: https\r\nX-Forwarded-Proto: https\r\n", "http", "shop"),
        (b"X-Forwarded-Host: a\r\nX-Forwarded-Host: b\r\n", "http", "shop"),
        (b"X-Forwarded-Proto:\r\nX-Forwarded-Host:\r\n", "http", "shop"),
    ],
)
def test_scheme_and_host_are_kept_only_if_they_are_sound(lines: bytes, proto: str, host: str) -> None:
    fields = sent(lines, trusted=True)
    assert (fields["x-forwarded-proto"], fields["x-forwarded-host"]) == (proto, host)


def test_one_line_reprs() -> None:
    assert repr(Forwarding(b"10.0.0.1", b"https", trusted=True)) == "<Forwarding https from 10.0.0.1, trusted>"
    assert repr(Forwarding(b"::1")) == "<Forwarding http from ::1>"
