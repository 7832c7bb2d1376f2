"""One value at a time: what people write, what it is, how it is printed, and what is no such thing."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import Bytes, Network, Seconds, parse_address, parse_duration, parse_size, text_of
from proxy.config.addresses import address_of, is_loopback, parse_upstream
from proxy.config.values import Sink, parse, parse_network, parse_text, toml_of


@pytest.mark.parametrize(
    ("text", "seconds", "printed"),
    [
        ("250ms", 0.25, "250ms"),
        ("0.5ms", 0.0005, "0.5ms"),
        ("4s", 4.0, "4s"),
        ("4.9s", 4.9, "4.9s"),
        ("1500ms", 1.5, "1.5s"),
        ("60s", 60.0, "60s"),
        ("75s", 75.0, "75s"),
        ("2m", 120.0, "2m"),
        ("90m", 5400.0, "90m"),
        ("1h", 3600.0, "1h"),
        ("0s", 0.0, "0s"),
        ("off", inf, "off"),
    ],
)
def test_durations(text: str, seconds: float, printed: str) -> None:
    assert parse_duration(text) == seconds
    assert str(parse_duration(text)) == printed


@pytest.mark.parametrize("text", ["", "s", "5", "5 seconds", "1m30s", "-1s", "1e3s", ".5s", "inf", "nan", "٣s", " 5s"])
def test_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(text)


@given(st.floats(min_value=0, max_value=1e12))
def test_any_duration_prints_and_reads_back_to_the_last_bit(seconds: float) -> None:
    assert parse_duration(str(Seconds(seconds))) == seconds


@pytest.mark.parametrize(
    ("text", "size", "printed"),
    [
        ("64KiB", 65536, "64KiB"),
        ("100B", 100, "100"),
        ("100", 100, "100"),
        ("1GiB", 1 << 30, "1GiB"),
        ("off", 0, "off"),
    ],
)
def test_sizes(text: str, size: int, printed: str) -> None:
    assert parse_size(text) == size
    assert str(parse_size(text)) == printed


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("app_1.example-x:1", ("app_1.example-x", 1)),
        ("[::1]:8080", ("::1", 8080)),
        ("[fe80::1%eth0]:8080", ("fe80::1%eth0", 8080)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", ":80", "a", "a:", "a:b", "a:-1", "a:99999", "::1:80", "[::1]", "http://a:80", "a b:1"]
)
def test_not_an_address(text: str) -> None:
    with pytest.raises(ValueError, match="expected host:port"):
        parse_address(text)


@given(st.sampled_from(["app-1.example", "10.0.0.1", "::1", "fe80::1%eth0"]), st.integers(0, 65535))
def test_an_address_prints_and_reads_back(host: str, port: int) -> None:
    assert parse_address(address_of(host, port)) == (host, port)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("127.0.0.1:9000", ("127.0.0.1", 9000, 1)),
        ("127.0.0.1:9000 weight=3", ("127.0.0.1", 9000, 3)),
        ("app:9000 weight=1000", ("app", 9000, 1000)),
        ("[::1]:9000 weight=1", ("::1", 9000, 1)),
    ],
)
def test_upstreams(text: str, parts: tuple[str, int, int]) -> None:
    assert parse_upstream(text) == parts


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected host:port"),
        ("app", "expected host:port"),
        ("app:0", "expected a port to connect to"),
        ("app:1 weight=0", "expected a weight from 1 to 1000"),
        ("app:1 weight=1001", "expected a weight from 1 to 1000"),
        ("app:1 weight=10000", "expected host:port"),
        ("app:1 weight=-1", "expected host:port"),
        ("app:1 weight=1.5", "expected host:port"),
        ("app:1 weight=", "expected host:port"),
        ("app:1 weight=٣", "expected host:port"),
        ("app:1 weight = 3", "expected host:port"),
        ("app:1  weight=3", "expected host:port"),
        ("app:1 weight=3 ", "expected host:port"),
        ("app:1 Weight=3", "expected host:port"),
        ("app:1 wait=3", "expected host:port"),
        ("app:1weight=3", "expected host:port"),
        ("weight=3", "expected host:port"),
        ("app:1 weight=3 weight=3", "expected host:port"),
    ],
)
def test_not_an_upstream(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_upstream(text)


@pytest.mark.parametrize(
    ("text", "alone"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("LOCALHOST:1", True),
        ("off", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("[fe80::1%eth0]:1", False),
        ("localhost.example:1", False),
        ("127.0.0.1.example:1", False),
    ],
)
def test_whether_only_this_machine_can_reach_an_address(text: str, alone: bool) -> None:
    assert is_loopback(text) is alone


@pytest.mark.parametrize(
    ("text", "network", "printed"),
    [
        ("10.0.0.0/8", IPv4Network("10.0.0.0/8"), "10.0.0.0/8"),
        ("10.1.2.3", IPv4Network("10.1.2.3/32"), "10.1.2.3/32"),
        ("0.0.0.0/0", IPv4Network("0.0.0.0/0"), "0.0.0.0/0"),
        ("fd00::/8", IPv6Network("fd00::/8"), "fd00::/8"),
        ("::1", IPv6Network("::1/128"), "::1/128"),
    ],
)
def test_networks(text: str, network: Network, printed: str) -> None:
    assert parse_network(text) == network
    assert text_of(network) == printed
    assert toml_of((network,)) == f'["{printed}"]'
    assert parse(Network, network) is network


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("10.0.0.1/8", '; did you mean "10.0.0.0/8"?'),
        ("fd00::1/8", '; did you mean "fd00::/8"?'),
        ("10.0.0.0/33", ""),
        ("10.0.0", ""),
        ("10.0.0.0/8/8", ""),
        ("example.com", ""),
        ("", ""),
        (10, ""),
        (None, ""),
    ],
)
def test_not_a_network(text: object, meant: str) -> None:
    with pytest.raises(ValueError, match="expected a network such as") as caught:
        parse_network(text)
    assert str(caught.value).endswith(f"got {toml_of(text)}{meant}")


def test_nothing_is_written_as_off_only_where_lines_go() -> None:
    assert text_of(Sink("")) == "off"
    assert text_of(Bytes(0)) == "off"
    assert text_of(Seconds(inf)) == "off"
    assert text_of("") == ""
    assert text_of(()) == ""
    assert parse_text(str, "off") == "off"
    assert parse_text(tuple[str, ...], "") == ()
