"""Addresses, as people write them and as sockets take them: "127.0.0.1:8080", "app:9000 weight=3", "[::1]:8080".

Whatever is wrong is a `ValueError` that says what was expected and what was found. Nothing here asks a resolver.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final, NamedTuple

from proxy.config.values import OFF, toml_of

HEAVIEST: Final = 1000  # a weight is the number of points or turns that a balancer lays out in memory

_ADDRESS = re.compile(r"(?:(?P<name>[0-9A-Za-z._-]+)|\[(?P<ipv6>[0-9A-Fa-f:.]+(?:%\w+)?)\]):(?P<port>[0-9]{1,5})")
_UPSTREAM = re.compile(r"(?P<address>\S+?)(?: weight=(?P<weight>[0-9]{1,4}))?")


class UpstreamParts(NamedTuple):
    """An upstream's address taken apart. `weight` is its share of the requests beside the others'."""

    host: str
    port: int
    weight: int


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of "127.0.0.1:8080", "app:9000" or "[::1]:8080"."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise ValueError(f'expected host:port such as "127.0.0.1:8080" or "[::1]:8080", got {toml_of(text)}')
    return match["name"] or match["ipv6"], int(match["port"])


def parse_upstream(text: str) -> UpstreamParts:
    """Host, port and weight of "127.0.0.1:9000" or "127.0.0.1:9000 weight=3"; the weight is 1 if none is given."""
    match = _UPSTREAM.fullmatch(text)
    if match is None:
        raise ValueError(f'expected host:port, or "host:port weight=N", got {toml_of(text)}')
    host, port = parse_address(match["address"])
    weight = int(match["weight"] or 1)
    if port == 0:
        raise ValueError(f"expected a port to connect to, got {toml_of(text)}")
    if not 1 <= weight <= HEAVIEST:
        raise ValueError(f"expected a weight from 1 to {HEAVIEST}, got {toml_of(text)}")
    return UpstreamParts(host, port, weight)


def address_of(host: str, port: int) -> str:
    """The address as `parse_address` reads it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_address(text: str) -> bool:
    """Whether one can listen on it; port 0 is any free one."""
    try:
        parse_address(text)
    except ValueError:
        return False
    return True


def is_upstream_address(text: str) -> bool:
    """Whether one can connect to it."""
    try:
        parse_upstream(text)
    except ValueError:
        return False
    return True


def is_loopback(text: str) -> bool:
    """Whether only this machine can reach an address. A name other than localhost may mean anything."""
    if text == OFF:
        return True
    host, _ = parse_address(text)
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"
