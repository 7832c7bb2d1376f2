"""Which group of upstreams a request goes to, by its host and path.

Rules of this file:

- Of the routes that match, the most specific wins, in whatever order they are written: an exact host, then the longest
  wildcard, then any host; and of these the longest path. A host whose paths all do not match is passed over.
- A host is compared without regard to case, without its port and without the dot that may end it. `*.example.com` is
  every name below example.com, at any depth, and not example.com itself.
- A path is a prefix that ends where a segment ends: `/v1` is `/v1` and `/v1/a`, and neither `/v10` nor `/v1;a`.
- Paths are compared byte by byte as they stand in the target, up to its query. Nothing is decoded, merged or resolved:
  what the upstream will make of it cannot be known here.
- So when there are routes by path, a target with a dot segment is refused with 400, however it is spelt: `/v1/../a`
  would match `/v1` here and be `/a` at an upstream that resolves it. Clients resolve them before they send (RFC 3986
  §5.2.4, WHATWG URL), so they are met in attacks only. Dots that are part of a segment (`/a..b`, `/.well-known`), and
  `%2F` elsewhere, pass.
- A route is a signpost, not a lock. `//admin` and `/%61dmin` are not `/admin` here and may be at an upstream: what an
  upstream must not serve to everybody it has to refuse itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from proxy.config import Route
from proxy.http1.grammar import BadHead

LONGEST_HOST: Final = 253  # bytes of a name in DNS (RFC 1035 §2.3.4); a longer one is no host of ours
MOST_KNOWN: Final = 1000  # Host fields whose routes are remembered

# A segment of one or two dots, where slashes, backslashes and dots may be percent-encoded, and where some servers end a
# segment at a semicolon.
_DOT_SEGMENT = re.compile(rb"(?:[/\\]|%2f|%5c)(?:\.|%2e){1,2}(?=[/\\;]|%2f|%5c|%3b|\Z)", re.IGNORECASE).search


class _Paths(NamedTuple):
    """The routes of one host."""

    groups: Mapping[bytes, str]  # by prefix, "/" as ""
    longest: int  # of the prefixes, in bytes


class Router:
    """The routes of a config, which do not change; another config has another router."""

    __slots__ = ("_any", "_by_path", "_exact", "_known", "_wildcards", "routes")

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        hosts: dict[bytes, dict[bytes, str]] = {}
        for route in routes:
            paths = hosts.setdefault(route.host.lower().encode(), {})
            paths.setdefault(route.path.rstrip("/").encode(), route.group)
        self._by_path = any(prefix for paths in hosts.values() for prefix in paths)
        tables = {host: _Paths(paths, max(map(len, paths))) for host, paths in hosts.items()}
        self._any = tables.pop(b"", _Paths({}, 0))
        self._wildcards = {host[1:]: table for host, table in tables.items() if host.startswith(b"*.")}
        self._exact = {host: table for host, table in tables.items() if not host.startswith(b"*.")}
        self._known: dict[bytes, tuple[_Paths, ...]] = {}  # what was found for a Host field

    def __repr__(self) -> str:
        return f"<Router {len(self.routes)} routes>"

    def route(self, host: bytes, target: bytes) -> str:
        """The name of the group, "" if no route matches. Raises `BadHead` for a path that is refused.

        `host` is the value of the Host field, `target` is in origin-form or `*`, which is taken for `/`.
        """
        path = target.partition(b"?")[0] if b"?" in target else target
        if self._by_path and (b"." in path or b"%2" in path) and _DOT_SEGMENT(path):
            raise BadHead(400, "dot segments in the path")
        tables = self._known.get(host)
        if tables is None:
            tables = self._learn(host)
        for groups, longest in tables:
            # From the longest prefix that this path may have to the shortest, which is empty.
            end = len(path)
            if end > longest:
                end = path.rfind(b"/", 0, longest + 1)
            while end > 0:
                group = groups.get(path[:end])
                if group is not None:
                    return group
                end = path.rfind(b"/", 0, end)
            if b"" in groups:
                return groups[b""]
        return ""

    def _learn(self, host: bytes) -> tuple[_Paths, ...]:
        """What may match a host, the most specific first: its own, its wildcards from the longest on, and any."""
        name = _name_of(host)
        found = [self._exact[name]] if name in self._exact else []
        if self._wildcards:
            dot = name.find(b".", 1)
            while dot > 0:
                if name[dot:] in self._wildcards:
                    found.append(self._wildcards[name[dot:]])
                dot = name.find(b".", dot + 1)
        tables = (*found, self._any)
        if len(self._known) < MOST_KNOWN and len(host) <= LONGEST_HOST:
            self._known[host] = tables  # clients choose hosts: when it is full, the rest is looked for each time
        return tables


def _name_of(host: bytes) -> bytes:
    """A Host field's value as hosts are compared."""
    end = host.find(b"]") + 1 if host.startswith(b"[") else host.find(b":")  # "[::1]:80" has colons of its own
    name = (host[:end] if end > 0 else host).lower()
    if name.endswith(b"."):
        name = name[:-1]
    return name if len(name) <= LONGEST_HOST else b""
