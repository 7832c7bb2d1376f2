"""Every knob of the proxy: its unit, its default, what 0 and "off" mean. This is the whole; the sections are beside.

All of it is frozen; how a config is read and changed is in `__init__.py`: import from `proxy.config`.
Durations and sizes are written with a unit ("250ms", "64KiB"). "off" is no limit for a duration, and infinity inside.

The plain keys are the group of upstreams called "default". A group that is named has all of its values but for what it
says otherwise, and only that is kept: a change of a plain key reaches every group that says nothing about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec

from proxy.config.bounds import AtLeastOne, Balance, HashBy, HostPattern, Listen, PathPrefix, UpstreamAddress
from proxy.config.knobs_edges import AdminConfig, ListenerConfig, SocketConfig, TlsConfig, UpstreamTls
from proxy.config.knobs_exchange import HttpConfig, Limits, LogConfig, PoolLimits, RetryConfig, Timeouts
from proxy.config.knobs_upstreams import DiscoveryConfig, HealthConfig
from proxy.config.values import Network, Seconds

DEFAULT_GROUP: Final = "default"

StructT = TypeVar("StructT", bound=msgspec.Struct)


class Route(msgspec.Struct, frozen=True):
    """Which requests go to which group. Of several that match, the most specific wins, in whatever order they stand:
    an exact host, then the longest wildcard, then any host; and then the longest path."""

    host: HostPattern
    """The host that is asked for: "api.example.com", or "*.example.com" for every name below it. Default "": any."""

    path: PathPrefix
    """Where the path starts: "/v1" is "/v1" and everything below it, and not "/v10". Default "/": all."""

    group: str
    """The group that serves it, by name. There is no default."""

    @property
    def pattern(self) -> str:
        """What it matches, in one word: "api.example.com/v1", "*/v1"."""
        return (self.host or "*") + self.path


class GroupConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All that a group of upstreams needs to know, nothing left to inherit. The fields are those of `ProxyConfig`."""

    name: str
    upstreams: tuple[UpstreamAddress, ...]
    balance: Balance
    hash_by: HashBy
    timeouts: Timeouts
    pool: PoolLimits
    retry: RetryConfig
    health: HealthConfig
    discovery: DiscoveryConfig
    upstream_tls: UpstreamTls
    upstream_socket: SocketConfig


class ProxyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    listen: Listen = "127.0.0.1:8080"
    """Where clients connect, host:port. Default 127.0.0.1:8080. "0.0.0.0:8080": every IPv4 address of this machine;
    "[::]:8080": every IPv6 one. Port 0: any free one, printed at start."""

    upstreams: tuple[UpstreamAddress, ...] = ("127.0.0.1:9000",)
    """Where requests go, host:port each, "weight=3" after it for three times the share. Default one, 127.0.0.1:9000.
    Weights are from 1 to 1000, and 1 if none is said. Not used when discovery.kind is file or kubernetes. None at all:
    what no route takes gets 404."""

    balance: Balance = "round_robin"
    """Which upstream is next. Default round_robin: each in turn. least_busy: the one with the fewest requests under
    way. random_two: the less busy of two drawn at random. hash: always the same one for the same hash_by."""

    hash_by: HashBy = "client"
    """What is hashed when balance is hash. Default client: the client's address. "header:NAME": a field of the request;
    without it, the address."""

    workers: AtLeastOne = 1
    """Processes that serve. Default 1; at least 1. More than one share nothing but the listening address: limits, pools
    and ejections are each process's own."""

    trusted_proxies: tuple[Network, ...] = ()
    """Networks whose X-Forwarded fields are believed and added to, such as "10.0.0.0/8". Default none: everybody's are
    overwritten."""

    drain_grace: Seconds = Seconds(10)
    """How long a stopping proxy lets exchanges finish. Default 10s. 0s: not at all. "off": as long as they take."""

    timeouts: Timeouts = Timeouts()
    pool: PoolLimits = PoolLimits()
    retry: RetryConfig = RetryConfig()
    limits: Limits = Limits()
    http: HttpConfig = HttpConfig()
    health: HealthConfig = HealthConfig()
    discovery: DiscoveryConfig = DiscoveryConfig()
    tls: TlsConfig = TlsConfig()
    upstream_tls: UpstreamTls = UpstreamTls()
    downstream_socket: SocketConfig = SocketConfig()
    upstream_socket: SocketConfig = SocketConfig()
    listener: ListenerConfig = ListenerConfig()
    admin: AdminConfig = AdminConfig()
    log: LogConfig = LogConfig()

    routes: tuple[Route, ...] = ()
    groups: Mapping[str, Mapping[str, object]] = msgspec.field(default_factory=dict)
    """What each named group says otherwise, by dotted key: `{"api": {"pool.max_idle": 3}}`. See `group_configs`."""

    def group_configs(self) -> dict[str, GroupConfig]:
        """Every group by its name with all its values, the default one first."""
        shared = {name: getattr(self, name) for name in GroupConfig.__struct_fields__ if name != "name"}
        default = GroupConfig(name=DEFAULT_GROUP, **shared)
        groups = {DEFAULT_GROUP: default}
        for name, own in self.groups.items():
            group = replaced(default, {**own, "name": name})
            if "upstreams" not in own and group.discovery.kind == "static":
                group = replaced(group, {"upstreams": ()})
            groups[name] = group
        return {name: _without_unused_upstreams(group) for name, group in groups.items()}


def _without_unused_upstreams(group: GroupConfig) -> GroupConfig:
    told_elsewhere = group.discovery.kind in ("file", "kubernetes")
    return replaced(group, {"upstreams": ()}) if told_elsewhere else group


def replaced(struct: StructT, values: Mapping[str, object]) -> StructT:
    """A copy with these fields changed; those of a section are written "pool.max_idle"."""
    top = {key: value for key, value in values.items() if "." not in key}
    for section in dict.fromkeys(key.partition(".")[0] for key in values if "." in key):
        inner = {key.partition(".")[2]: value for key, value in values.items() if key.startswith(section + ".")}
        top[section] = msgspec.structs.replace(getattr(struct, section), **inner)
    return msgspec.structs.replace(struct, **top)
