"""What was probably meant by a wrong value; and that every proposal can be written as it stands."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from operator import attrgetter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import ConfigError, ProxyConfig, hints
from proxy.config.known_keys import OF_A_ROUTE, PLAIN, Setting, read
from proxy.config.values import toml_of

# Key, what was written, what is proposed; "" if nobody can know.
HINTS: list[tuple[str, object, str]] = [
    # durations
    ("timeouts.connect", 5, '"5s"'),
    ("timeouts.connect", 2.5, '"2.5s"'),
    ("timeouts.connect", "4sec", '"4s"'),
    ("timeouts.connect", "4 s", '"4s"'),
    ("timeouts.connect", " 4s", '"4s"'),
    ("timeouts.connect", "4S", '"4s"'),
    ("timeouts.connect", "4 seconds", '"4s"'),
    ("timeouts.connect", "4,5s", '"4.5s"'),
    ("timeouts.connect", "100 millis", '"100ms"'),
    ("timeouts.connect", "2min", '"2m"'),
    ("timeouts.connect", "1hr", '"1h"'),
    ("timeouts.connect", "1m30s", '"90s"'),
    ("timeouts.connect", "1s500ms", '"1500ms"'),
    ("timeouts.connect", "infinite", '"off"'),
    ("timeouts.connect", "none", '"off"'),
    ("timeouts.connect", -1, '"off"'),
    ("timeouts.connect", "-1s", ""),
    ("timeouts.connect", "4 parsecs", ""),
    ("timeouts.connect", "soon", ""),
    ("timeouts.connect", True, ""),
    # sizes
    ("limits.head_bytes", "8MB", '"8MiB"'),
    ("limits.head_bytes", "1 KB", '"1KiB"'),
    ("limits.head_bytes", "8m", '"8MiB"'),
    ("limits.head_bytes", "64k", '"64KiB"'),
    ("limits.head_bytes", "64 kilobytes", '"64KiB"'),
    ("limits.head_bytes", "1g", '"1GiB"'),
    ("limits.head_bytes", "100 bytes", '"100B"'),
    ("limits.head_bytes", "1.5MiB", '"1536KiB"'),
    ("limits.head_bytes", "0.3KiB", ""),
    ("limits.body_bytes", "unlimited", '"off"'),
    ("limits.head_bytes", "big", ""),
    # shares
    ("health.eject_share", 50, "0.5"),
    ("health.eject_share", "50%", "0.5"),
    ("health.eject_share", 100, "1"),
    ("retry.budget", "0.5", "0.5"),
    ("retry.budget", 1.5, ""),
    ("retry.budget", 101, ""),
    ("retry.budget", -1, ""),
    ("retry.budget", "half", ""),
    # plain
    ("pool.max_idle", "3", "3"),
    ("pool.max_idle", 3.0, "3"),
    ("pool.max_idle", "1_000", "1000"),
    ("pool.max_idle", 1.5, ""),
    ("pool.max_idle", True, ""),
    ("pool.honour_hint", "on", "true"),
    ("pool.honour_hint", 0, "false"),
    ("pool.honour_hint", "maybe", ""),
    # choices
    ("log.format", "common", "combined"),
    ("log.format", "JSON", "json"),
    ("log.format", "text", ""),
    ("log.access", "stdout", '"-"'),
    ("log.access", True, '"-"'),
    ("log.events", "none", '"off"'),
    ("log.access", False, '"off"'),
    ("retry.policy", "none", "never"),
    ("retry.policy", False, '"never"'),
    ("balance", "leastconn", "least_busy"),
    ("tls.min_version", "1.0", "1.2"),
    ("tls.min_version", 1.3, '"1.3"'),
    ("balance", "round-robin", "round_robin"),
    ("balance", "least_conn", "least_busy"),
    ("tls.min_version", "TLSv1.2", "1.2"),
    ("discovery.kind", "DNS", "dns"),
    # where one listens
    ("listen", ":8080", '"127.0.0.1:8080", or for everybody "0.0.0.0:8080"'),
    ("listen", "*:8080", '"127.0.0.1:8080", or for everybody "0.0.0.0:8080"'),
    ("listen", 8080, '"127.0.0.1:8080", or for everybody "0.0.0.0:8080"'),
    ("listen", "http://127.0.0.1:80/", '"127.0.0.1:80"'),
    ("listen", "localhost", '"localhost:8080"'),
    ("listen", "::1:8080", '"[::1]:8080"'),
    ("listen", "::", '"[::]:8080"'),
    ("listen", ":99999", ""),
    ("listen", True, ""),
    ("admin.listen", ":9901", '"127.0.0.1:9901"'),
    ("admin.listen", "none", '"off"'),
    ("admin.listen", "false", '"off"'),
    # upstreams
    ("upstreams", ["http://127.0.0.1:9001"], '"127.0.0.1:9001"'),
    ("upstreams", ["http://app"], '"app:80"'),
    ("upstreams", ["app:9000/api"], '"app:9000"'),
    ("upstreams", ["app"], '"app:80"'),
    ("upstreams", ["10.0.0.1"], '"10.0.0.1:80"'),
    ("upstreams", ["app:9000 weight = 3"], '"app:9000 weight=3"'),
    ("upstreams", ["app:9000  3;"], '"app:9000 weight=3"'),
    ("upstreams", ["http://app:9000 Weight=3"], '"app:9000 weight=3"'),
    ("upstreams", ["app:9000 max_fails=3"], ""),
    ("upstreams", ["app:9000 weight=0"], ""),
    ("upstreams", ["app:0"], ""),
    ("upstreams", ["unix:/run/app.sock"], ""),
    ("upstreams", ["unix:///run/app.sock"], ""),
    ("upstreams", ["a:1, b:1"], ""),
    ("upstreams", [9000], ""),
    ("upstreams", "a:1,b:1", '["a:1", "b:1"]'),
    ("upstreams", {"a": 1}, ""),
    # names and paths
    ("discovery.resolver", "10.0.0.1", '"10.0.0.1:53"'),
    ("discovery.resolver", "::1", '"[::1]:53"'),
    ("discovery.resolver", "dns.example", ""),
    ("upstream_tls.server_name", "API.internal:443", '"api.internal"'),
    ("upstream_tls.server_name", "*.internal", ""),
    ("hash_by", "ip", '"client"'),
    ("hash_by", "X-User", '"header:X-User"'),
    ("hash_by", "header=x-user", '"header:x-user"'),
    ("hash_by", "hdr(x-user)", '"header:x-user"'),
    ("hash_by", "cookie", ""),
    ("http.upgrades", ["WebSocket"], '"websocket"'),
    ("http.upgrades", ["My-Protocol/1"], '"my-protocol/1"'),
    ("http.upgrades", ["h2c"], ""),
    ("health.check_path", "http://app/healthz?full=1", '"/healthz?full=1"'),
    ("health.check_path", "health z", ""),
]


def message(key: str, value: object) -> str:
    with pytest.raises(ConfigError) as caught:
        read(Setting(key, value, "proxy.toml:1", is_text=False))
    return str(caught.value)


@pytest.mark.parametrize(("key", "value", "meant"), HINTS)
def test_what_was_probably_meant(key: str, value: object, meant: str) -> None:
    said = message(key, value)
    assert said.startswith(f"proxy.toml:1: {key}: ")
    assert f"got {toml_of(value[0] if isinstance(value, list) else value)}" in said
    assert said.partition("did you mean ")[2] == (f"{meant}?" if meant else "")


def test_tls_to_upstreams_is_not_part_of_an_address() -> None:
    said = message("upstreams", ["https://api.example.com"])
    assert said.endswith('no scheme: did you mean "api.example.com:443", and upstream_tls.enabled = true?')


def proposals(said: str) -> list[str]:
    """Values, as TOML has them; a word of a choice stands without quotes."""
    meant = said.partition("did you mean ")[2].removesuffix("?").removesuffix(", and upstream_tls.enabled = true")
    words = meant.split(", or for everybody ")
    return [word if re.match(r'["\[0-9]|true|false', word) else toml_of(word) for word in words if word]


def refusal(key: str, value: object) -> str:
    """Why it cannot be read; "" if it can."""
    try:
        read(Setting(key, value, "x", is_text=False))
    except ConfigError as problem:
        return str(problem)
    return ""


def can_be_written(key: str, value: object) -> None:
    """What is proposed is of the right kind; it may be out of bounds, "off" where there must be a limit."""
    is_list = key in PLAIN and isinstance(attrgetter(key)(ProxyConfig()), tuple)
    for proposal in proposals(refusal(key, value)):
        said = tomllib.loads(f"key = {proposal}")["key"]
        if isinstance(said, list):
            continue  # its items are looked at next
        again = refusal(key, [said] if is_list else str(said) if key == "tls.min_version" else said)
        has_unit = not isinstance(said, str) or re.fullmatch(r"off|[0-9.]+[A-Za-z]+", said)
        assert not again or has_unit, (proposal, again)
        assert "expected" not in again, (proposal, again)


BITS = st.sampled_from(
    [
        *(
            "http://",
            "https://",
            "a.example",
            ":",
            "80",
            "::1",
            "[",
            "]",
            "/",
            "v1",
            " ",
            "weight=",
            "%",
            "*",
            ".",
            "-",
        ),
        *("3", "0", "1.5", "s", "ms", "KB", "m", "off", "header", "=", "WebSocket", "h2c", "TRUE", "é", "#", "?", "\\"),
    ]
)


@given(st.sampled_from([*PLAIN]), st.lists(BITS, max_size=5).map("".join), st.booleans())
def test_whatever_is_proposed_can_be_written(key: str, text: str, in_a_list: bool) -> None:
    can_be_written(key, [text] if in_a_list else text)


@given(st.sampled_from([*OF_A_ROUTE]), st.lists(BITS, max_size=5).map("".join))
def test_so_it_is_in_routes(key: str, text: str) -> None:
    try:
        read(Setting(f"routes.1.{key}", text, "x", is_text=False))
    except ConfigError as problem:
        for proposal in proposals(str(problem)):
            read(Setting(f"routes.1.{key}", tomllib.loads(f"key = {proposal}")["key"], "x", is_text=False))


@pytest.mark.parametrize("value", ["x" * 1000, "x" * 1000 + ":80", "http://" + "x" * 1000, "a," * 500])
@pytest.mark.parametrize("hint", [hints.of_list, hints.of_upstream, hints.of_host, hints.of_path, hints.of_protocol])
def test_what_is_long_is_not_repeated(hint: Callable[[object], str], value: str) -> None:
    assert len(hint(value)) < 2 * hints.LONGEST
