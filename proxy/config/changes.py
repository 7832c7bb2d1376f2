"""What differs between two configs, and what it takes to bring a running proxy from one to the other."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Final, Literal, NamedTuple

from proxy.config.knobs import ProxyConfig
from proxy.config.known_keys import GROUPS, OF_A_GROUP, PLAIN, ROUTES, split_group_key
from proxy.config.values import shown

ABSENT: Final = "absent"
INHERITED: Final = "inherited"

# What is made once, when the process starts; and what a reload opens anew, files and addresses, but no PATCH does.
# By the start of the key; the first that fits counts.
_AT_START: Final = (
    "workers",
    "admin.",
    "listener.",
    "downstream_socket.",
    "upstream_socket.",
    "log.access",
    "log.events",
)
# Who may PATCH must not be able to have a secret sent elsewhere: which files, and to which API, the file alone says.
_BY_RELOAD: Final = ("listen", "tls.", "upstream_tls.", "discovery.api", "discovery.ca_file", "discovery.token_file")

Means = Literal["patch", "reload"]


class Change(NamedTuple):
    """One difference of two configs, as a person would write it."""

    key: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.key}: {self.before} -> {self.after}"


def diff(a: ProxyConfig, b: ProxyConfig) -> list[Change]:
    """What differs: the plain keys in their order, then groups, then routes."""
    pairs = ((key, attrgetter(key)(a), attrgetter(key)(b)) for key in PLAIN)
    plain = [Change(key, shown(before), shown(after)) for key, before, after in pairs if before != after]
    return [*plain, *_diff_groups(a, b), *_diff_routes(a, b)]


def _diff_groups(a: ProxyConfig, b: ProxyConfig) -> Iterator[Change]:
    for name in dict.fromkeys([*a.groups, *b.groups]):
        said = {*a.groups.get(name, ()), *b.groups.get(name, ())}
        for key in OF_A_GROUP:
            before, after = _said(a, name, key), _said(b, name, key)
            if key in said and before != after:
                yield Change(f"{GROUPS}.{name}.{key}", before, after)


def _said(config: ProxyConfig, group: str, key: str) -> str:
    """What a group says of a key, for people."""
    if group not in config.groups:
        return ABSENT
    own = config.groups[group]
    return shown(own[key]) if key in own else INHERITED


def _diff_routes(a: ProxyConfig, b: ProxyConfig) -> Iterator[Change]:
    """By what they match: their order means nothing."""
    before, after = ({route.pattern: route.group for route in config.routes} for config in (a, b))
    for pattern in dict.fromkeys([*before, *after]):
        old, new = before.get(pattern, ABSENT), after.get(pattern, ABSENT)
        if old != new:
            yield Change(f"{ROUTES} {pattern}", old, new)


def live_changes(old: ProxyConfig, new: ProxyConfig, by: Means = "reload") -> tuple[list[Change], list[Change]]:
    """What of the difference a running proxy can take on, by a PATCH or by a reload (SIGHUP), and what it cannot."""
    applicable: list[Change] = []
    needs_restart: list[Change] = []
    for change in diff(old, new):
        needs = change_by(change.key)
        if needs == "restart" and change.key.startswith(f"{GROUPS}.") and ABSENT in (change.before, change.after):
            needs = "patch"  # a group that comes or goes as a whole has nothing that would have to change
        (applicable if needs in ("patch", by) else needs_restart).append(change)
    return applicable, needs_restart


def change_by(key: str) -> Means | Literal["restart"]:
    """The least that it takes to change a key of any kind. What a PATCH can do, a reload can do as well."""
    if key.startswith(f"{GROUPS}."):
        _, key = split_group_key(key)
    if key.startswith(_AT_START):
        return "restart"
    return "reload" if key.startswith(_BY_RELOAD) else "patch"
