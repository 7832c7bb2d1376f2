"""What the value of a key must be: the types of the knobs, each with its bounds in words and as a check."""

from __future__ import annotations

import re
from ipaddress import ip_address
from math import inf, isfinite
from typing import Annotated, Final, Literal

from proxy.config import hints
from proxy.config.addresses import is_address, is_upstream_address, parse_address
from proxy.config.values import OFF, Bounds, Bytes, Network, Seconds

_TOKEN: Final = r"[0-9A-Za-z!#$%&'*+.^_`|~-]+"  # RFC 9110 section 5.6.2
_LABEL: Final = r"[0-9a-z_](?:[0-9a-z_-]{0,61}[0-9a-z_])?"
_HEADER_KEY = re.compile(rf"header:{_TOKEN}")
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\]")
_PATTERN = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\]")
_SEGMENT = re.compile(r"[!\"$->@-\[\]-~]+")  # visible, and none of # ? \\
_TARGET = re.compile(r"/[!\"$-~]*")
_PROTOCOL = re.compile(r"[0-9a-z!#$%&'*+.^_`|~-]+(?:/[0-9a-z!#$%&'*+.^_`|~-]+)?")
_LONGEST_KEEPALIVE_S: Final = 32767  # the kernel's own limits: tcp(7), TCP_KEEPIDLE, TCP_KEEPINTVL and TCP_KEEPCNT
_MOST_KEEPALIVES: Final = 127


def is_hash_key(text: str) -> bool:
    """Whether requests can be told apart by it."""
    return text == "client" or _HEADER_KEY.fullmatch(text) is not None


def is_host(text: str) -> bool:
    """Whether it is a host without a port, in lower case."""
    return len(text) <= 253 and _HOST.fullmatch(text) is not None


def is_host_pattern(text: str) -> bool:
    """Whether it is a host, or `*.` and a domain; "" is any host."""
    return text == "" or (len(text) <= 253 and _PATTERN.fullmatch(text) is not None)


def is_path_prefix(text: str) -> bool:
    """Whether it is a path as it stands in a request: no query, no dot segments, no slash at its end but in "/".

    A star at the end would be one of the path itself, and match nothing that anybody asks for.
    """
    first, *segments = text.split("/")
    plain = (_SEGMENT.fullmatch(segment) and segment not in (".", "..") for segment in segments)
    return text == "/" or (first == "" and segments != [] and all(plain) and not text.endswith("*"))


def is_check_path(text: str) -> bool:
    """Whether it can be asked for, with or without a query; "" is no check."""
    return text == "" or _TARGET.fullmatch(text) is not None


def is_protocol(text: str) -> bool:
    """Whether it may be asked for by Upgrade. h2c would be a second connection inside, past every rule of this one."""
    return _PROTOCOL.fullmatch(text) is not None and not text.startswith(("h2c", "http", "tls"))


def is_resolver(text: str) -> bool:
    """Whether it is the address of a DNS server, by number: who would resolve its name? "" is the system's."""
    try:
        return text == "" or (is_upstream_address(text) and bool(ip_address(parse_address(text)[0].partition("%")[0])))
    except ValueError:
        return False


def _is_keepalive_time(seconds: float) -> bool:
    return 1 <= seconds <= _LONGEST_KEEPALIVE_S and seconds == int(seconds)


Timeout = Annotated[Seconds, Bounds('more than 0, or "off" for no limit', lambda s: s > 0)]
Margin = Annotated[Seconds, Bounds('a duration other than "off"', isfinite)]
Interval = Annotated[Seconds, Bounds('more than 0 and not "off"', lambda s: 0 < s < inf)]
KeepaliveSeconds = Annotated[Seconds, Bounds(f"whole seconds, from 1s to {_LONGEST_KEEPALIVE_S}s", _is_keepalive_time)]
# A close() that lingers for a time blocks, even on a socket that does not (socket(7)), and with it everybody else.
Linger = Annotated[Seconds, Bounds('"off" or "0s"', lambda s: s in (0, inf))]
Count = Annotated[int, Bounds("0 or more", lambda n: n >= 0)]
AtLeastOne = Annotated[int, Bounds("1 or more", lambda n: n >= 1)]
Backlog = Annotated[int, Bounds("1 to 2147483647", lambda n: 1 <= n < 1 << 31)]  # an int of C, in listen(2)
KeepaliveCount = Annotated[int, Bounds(f"between 1 and {_MOST_KEEPALIVES}", lambda n: 1 <= n <= _MOST_KEEPALIVES)]
Share = Annotated[float, Bounds("a share between 0 and 1", lambda x: 0 <= x <= 1, hints.of_share)]
Size = Annotated[Bytes, Bounds("more than 0", lambda n: n > 0)]

Listen = Annotated[
    str, Bounds('host:port such as "127.0.0.1:8080"', is_address, hints.of_listen(8080, for_everybody=True))
]
AdminListen = Annotated[
    str,
    Bounds(
        'host:port such as "127.0.0.1:9901", or "off"',
        lambda a: a == OFF or is_address(a),
        hints.of_listen(9901, for_everybody=False),
    ),
]
Resolver = Annotated[str, Bounds('an address such as "10.0.0.2:53", not a name; or ""', is_resolver, hints.of_resolver)]
UpstreamAddress = Annotated[
    str,
    Bounds(
        'host:port such as "127.0.0.1:9000", or with a weight from 1 to 1000, "127.0.0.1:9000 weight=3"',
        is_upstream_address,
        hints.of_upstream,
    ),
]
HashBy = Annotated[str, Bounds('"client" or "header:NAME"', is_hash_key, hints.of_hash_key)]
Host = Annotated[
    str,
    Bounds('a host such as "api.example.com", in lower case and without a port', is_host, hints.of_exact_host),
]
HostOrNone = Annotated[
    str,
    Bounds(
        'a host such as "api.example.com", in lower case, or ""',
        lambda h: h == "" or is_host(h),
        hints.of_exact_host,
    ),
]
HostPattern = Annotated[
    str,
    Bounds(
        '"api.example.com" or "*.example.com", in lower case and without a port; leave it out for any host',
        is_host_pattern,
        hints.of_host,
    ),
]
PathPrefix = Annotated[
    str,
    Bounds(
        'a path such as "/" or "/v1", without a query, dot segments, or a slash or * at its end',
        is_path_prefix,
        hints.of_path,
    ),
]
CheckPath = Annotated[str, Bounds('a path such as "/healthz", or "" for no checks', is_check_path, hints.of_target)]
Protocol = Annotated[
    str,
    Bounds(
        'a protocol in lower case such as "websocket"; HTTP and TLS are not allowed', is_protocol, hints.of_protocol
    ),
]

Balance = Literal["round_robin", "least_busy", "random_two", "hash"]
Discovery = Literal["static", "dns", "file", "kubernetes"]
Trailers = Literal["drop", "forward"]
TlsVersion = Literal["1.2", "1.3"]
LogFormat = Literal["json", "combined"]
Order = Literal["newest", "oldest"]
PolicyName = Literal["never", "reused_idempotent", "when_proven", "any_idempotent", "always"]
Networks = tuple[Network, ...]
