"""What no single key can see: values that contradict each other, keys that have no effect, routes that lead nowhere.

A key counts as set when its value is not the default. What the plain keys say is for every group that does not say
otherwise, so a plain key has no effect only if it has none in any of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import Final, NamedTuple

from proxy.config.addresses import UpstreamParts, is_loopback, parse_address, parse_upstream
from proxy.config.knobs import DEFAULT_GROUP, GroupConfig, ProxyConfig
from proxy.config.knobs_upstreams import DiscoveryConfig
from proxy.config.known_keys import GROUPS, PLAIN, ROUTES, ConfigError, nearest, place
from proxy.config.origins import DEFAULT
from proxy.config.values import OFF, toml_of


class Problem(NamedTuple):
    """`keys` are those that have to do with it, the likeliest first: the first that somebody has set is named."""

    keys: tuple[str, ...]
    what: str


class Need(NamedTuple):
    """What must hold for a key to have an effect, and what to say if it does not."""

    holds: Callable[[GroupConfig], bool]
    else_: str


def refuse_contradictions(config: ProxyConfig, origins: Mapping[str, str]) -> None:
    """Raises ConfigError with the first problem found. `origins` says where keys were set."""
    for problem in problems(config):
        raise ConfigError(_told(problem, origins))


def warn(config: ProxyConfig, origins: Mapping[str, str]) -> Iterator[str]:
    """What is hardly meant, and does no harm: it may be on its way in or out."""
    return (_told(problem, origins) for problem in _unused(config, origins))


def _told(problem: Problem, origins: Mapping[str, str]) -> str:
    keys, what = problem
    culprit = next((key for key in keys if origins.get(key, DEFAULT) != DEFAULT), keys[0])
    return f"{place(culprit, origins.get(culprit, 'config'))}: {what}"


def problems(config: ProxyConfig) -> Iterator[Problem]:
    """All that is wrong between the keys of a config."""
    groups = config.group_configs()
    yield from _of_the_whole(config)
    for group in groups.values():
        yield from _of_a_group(config, group)
    yield from _without_effect(config, groups)
    yield from _of_routes(config, groups)


# --- The whole


def _of_the_whole(config: ProxyConfig) -> Iterator[Problem]:
    admin = config.admin.listen
    if admin == config.listen and parse_address(admin)[1] != 0:
        yield Problem(("admin.listen", "listen"), f"{admin} is both the clients' address and the admin's")
    if not config.admin.public and not is_loopback(admin):
        yield Problem(
            ("admin.listen", "admin.public"),
            f"others than this machine can reach {admin}; if that is meant, set admin.public",
        )
    if config.log.events == "-":
        yield Problem(("log.events",), "must be a path: standard output is for the access log")
    if config.limits.line_bytes > config.limits.head_bytes:
        yield Problem(("limits.line_bytes", "limits.head_bytes"), "limits.line_bytes is more than limits.head_bytes")
    if config.limits.min_body_rate and str(config.timeouts.body_gap) == OFF:
        yield Problem(("limits.min_body_rate", "timeouts.body_gap"), "is measured over timeouts.body_gap, which is off")
    if not config.tls.certificates:
        unused = (key for key in ("tls.client_ca", "tls.min_version") if _is_set(config, key))
        yield from (Problem((key,), "has no effect: there are no tls.certificates") for key in unused)
    if not config.downstream_socket.keepalive:
        unused = (key for key in _keepalive_keys("downstream_socket") if _is_set(config, key))
        yield from (Problem((key,), "has no effect: downstream_socket.keepalive is false") for key in unused)


# --- A group


def _of_a_group(config: ProxyConfig, group: GroupConfig) -> Iterator[Problem]:
    yield from _of_upstreams(config, group)
    discovery, health = group.discovery, group.health
    if discovery.kind == "file" and not discovery.file:
        yield Problem(_keys(group, "discovery.kind"), "is file, and discovery.file is not set")
    if discovery.kind == "kubernetes" and not discovery.service:
        yield Problem(_keys(group, "discovery.kind"), "is kubernetes, and discovery.service is not set")
    if discovery.min_ttl > discovery.max_ttl:
        keys = _keys(group, "discovery.min_ttl", "discovery.max_ttl")
        yield Problem(keys, "discovery.min_ttl is more than discovery.max_ttl")
    if health.eject_for > health.eject_longest:
        keys = _keys(group, "health.eject_for", "health.eject_longest")
        yield Problem(keys, "health.eject_for is more than health.eject_longest")


def _of_upstreams(config: ProxyConfig, group: GroupConfig) -> Iterator[Problem]:
    keys = _keys(group, "upstreams")
    if not group.upstreams and _lists_upstreams(group):
        if group.name != DEFAULT_GROUP:
            own = (f"{GROUPS}.{group.name}.{key}" for key in config.groups[group.name])
            yield Problem((keys[0], *own), f"the group {group.name} has no upstreams")
        elif not config.routes:
            yield Problem(keys, 'expected at least one, such as ["127.0.0.1:9000"]')
    parts = [parse_upstream(upstream) for upstream in group.upstreams]
    counted = Counter(f"{host.lower()}:{port}" for host, port, _ in parts)
    if twice := next((address for address, count in counted.items() if count > 1), ""):
        yield Problem(keys, f"{twice} is listed twice")
    if any(_reaches(part, config.listen) for part in parts):
        what = "is both listened on and an upstream: requests would go in circles"
        yield Problem(("listen", *keys), f"{config.listen} {what}")
    if any(_reaches(part, config.admin.listen) for part in parts):
        what = "is the admin's address and an upstream: every client could reach it"
        yield Problem(("admin.listen", *keys), f"{config.admin.listen} {what}")


def _lists_upstreams(group: GroupConfig) -> bool:
    """Whether the config says which upstreams a group has, and no other source does."""
    return group.discovery.kind in ("static", "dns")


def _reaches(upstream: UpstreamParts, listen: str) -> bool:
    """Whether connecting to an upstream ends at an address of this proxy, as far as the text says."""
    if listen == OFF:
        return False
    host, port = parse_address(listen)
    if port != upstream.port:
        return False
    of_any = {"0.0.0.0": "127.0.0.1", "localhost": "127.0.0.1", "::": "::1"}
    here, there = (of_any.get(name.lower(), name.lower()) for name in (host, upstream.host))
    return here == there


def _keys(group: GroupConfig, *keys: str) -> tuple[str, ...]:
    """Where each may have been set for this group: its own, then the plain one."""
    if group.name == DEFAULT_GROUP:
        return keys
    return (*(f"{GROUPS}.{group.name}.{key}" for key in keys), *keys)


# --- Keys without effect


def _keepalive_keys(section: str) -> list[str]:
    return [f"{section}.keepalive_{name}" for name in ("idle", "interval", "count")]


def _needs() -> Iterator[tuple[str, Need]]:
    """The keys of a group that need another one."""
    yield "hash_by", Need(lambda group: group.balance == "hash", "balance is not hash")
    checks = Need(lambda group: group.health.check_path != "", "health.check_path is not set")
    tls = Need(lambda group: group.upstream_tls.enabled, "upstream_tls.enabled is false")
    probes = Need(lambda group: group.upstream_socket.keepalive, "upstream_socket.keepalive is false")
    for key in PLAIN:
        if key.startswith("health.check_") and key != "health.check_path":
            yield key, checks
        elif key.startswith("upstream_tls.") and key != "upstream_tls.enabled":
            yield key, tls
        elif key in _keepalive_keys("upstream_socket"):
            yield key, probes
    for name in DiscoveryConfig.__struct_fields__:
        if kinds := [kind for kind, names in _KIND_KEYS.items() if name in names]:
            yield f"discovery.{name}", Need(_is_found_by(kinds), f"discovery.kind is not {' or '.join(kinds)}")


_KIND_KEYS: Final = {
    "dns": ("min_ttl", "max_ttl", "resolver"),
    "file": ("file", "poll_every", "port_name"),
    "kubernetes": ("service", "namespace", "port_name", "api", "token_file", "ca_file"),
}


def _is_found_by(kinds: list[str]) -> Callable[[GroupConfig], bool]:
    return lambda group: group.discovery.kind in kinds


_NEEDS: Final = dict(_needs())
_DEFAULTS: Final = ProxyConfig()


def _is_set(config: ProxyConfig | GroupConfig, key: str) -> bool:
    value: object = attrgetter(key)(config)
    return bool(value != attrgetter(key)(_DEFAULTS))


def _without_effect(config: ProxyConfig, groups: Mapping[str, GroupConfig]) -> Iterator[Problem]:
    for key, need in _NEEDS.items():
        heirs = [group for name, group in groups.items() if key not in config.groups.get(name, {})]
        if _is_set(config, key) and not any(map(need.holds, heirs)):
            yield Problem((key,), f"has no effect: {need.else_}")
        for name, own in config.groups.items():
            if key in own and _is_set(groups[name], key) and not need.holds(groups[name]):
                yield Problem((f"{GROUPS}.{name}.{key}",), f"has no effect: {need.else_}")


# --- Routes


def _of_routes(config: ProxyConfig, groups: Mapping[str, GroupConfig]) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for number, route in enumerate(config.routes, start=1):
        key = f"{ROUTES}.{number}.group"
        if route.group not in groups:
            yield Problem((key,), f"no group is called {toml_of(route.group)}{nearest(route.group, groups)}")
        elif not groups[route.group].upstreams and _lists_upstreams(groups[route.group]):
            yield Problem((key, "upstreams"), f"the group {route.group} has no upstreams")
        if route.pattern in first:
            keys = (f"{ROUTES}.{number}.path", f"{ROUTES}.{number}.host", key)
            yield Problem(keys, f"{route.pattern} is what {ROUTES}.{first[route.pattern]} matches already")
        first.setdefault(route.pattern, number)


# --- What nobody asks


def _unused(config: ProxyConfig, origins: Mapping[str, str]) -> Iterator[Problem]:
    reached = {route.group for route in config.routes}
    for name, own in config.groups.items():
        if name not in reached:
            yield Problem(tuple(f"{GROUPS}.{name}.{key}" for key in own), f"no route leads to the group {name}")
    everything = next((number for number, route in enumerate(config.routes, 1) if route.pattern == "*/"), 0)
    said = origins.get("upstreams", DEFAULT) != DEFAULT
    if everything and said and config.upstreams and DEFAULT_GROUP not in reached:
        what = f"no request comes here: {ROUTES}.{everything} takes all that no other route takes"
        yield Problem(("upstreams",), what)
