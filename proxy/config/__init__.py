"""How a config is read, changed and printed. The knobs themselves are in `knobs.py`.

Rules of this file:

- Flags override the environment, which overrides the file, which overrides the defaults. The key `timeouts.connect` is
  the flag `--timeouts.connect` and the variable `KALAB_TIMEOUTS_CONNECT`. What a named group says is in the file or in
  a flag, `--groups.api.pool.max_idle`; routes are in the file.
- Nothing is guessed and nothing is ignored: whatever is wrong is a `ConfigError` of one line that says where, which
  key, what is wanted, and what was probably meant.
- A config is frozen. A change is a new one, made by `override`; what changed, and what it takes, is in
  `changes.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

from proxy.config.addresses import parse_address, parse_upstream
from proxy.config.bounds import Balance, LogFormat, Order, PolicyName, Trailers
from proxy.config.changes import Change, Means, change_by, diff, live_changes
from proxy.config.checks import refuse_contradictions, warn
from proxy.config.file import settings_of
from proxy.config.knobs import GroupConfig, ProxyConfig, Route, replaced
from proxy.config.knobs_edges import AdminConfig, ListenerConfig, SocketConfig, TlsConfig, UpstreamTls
from proxy.config.knobs_exchange import HttpConfig, Limits, LogConfig, PoolLimits, RetryConfig, Timeouts
from proxy.config.knobs_upstreams import DiscoveryConfig, HealthConfig
from proxy.config.known_keys import (
    GROUPS,
    OF_A_GROUP,
    PLAIN,
    ROUTES,
    SECTIONS,
    ConfigError,
    Setting,
    flat,
    nearest,
    read,
    split_group_key,
)
from proxy.config.origins import DEFAULT, Loaded, in_group, not_opened, placed, told
from proxy.config.values import Bytes, Network, Seconds, parse_duration, parse_size, shown, text_of, toml_of

__all__ = [
    "AdminConfig",
    "Balance",
    "Bytes",
    "Change",
    "ConfigError",
    "DiscoveryConfig",
    "GroupConfig",
    "HealthConfig",
    "HttpConfig",
    "Limits",
    "ListenerConfig",
    "Loaded",
    "LogConfig",
    "LogFormat",
    "Means",
    "Network",
    "Order",
    "PolicyName",
    "PoolLimits",
    "ProxyConfig",
    "RetryConfig",
    "Route",
    "Row",
    "Seconds",
    "SocketConfig",
    "Timeouts",
    "TlsConfig",
    "Trailers",
    "UpstreamTls",
    "change_by",
    "diff",
    "in_group",
    "keys",
    "live_changes",
    "load",
    "not_opened",
    "override",
    "parse_address",
    "parse_duration",
    "parse_size",
    "parse_upstream",
    "patched",
    "placed",
    "rows",
    "text_of",
    "to_toml",
    "told",
    "warnings",
]

PREFIX: Final = "KALAB_"
ALMOST: Final = 0.9  # as difflib measures it: a variable this much like one of ours was meant to be that


class Row(NamedTuple):
    """A key, its value and where that comes from, for people."""

    key: str
    value: str
    origin: str


def load(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, str]) -> Loaded:
    """The config from a file (None: no file), the environment, and flags given as `{"timeouts.connect": "5s"}`."""
    origins = dict.fromkeys(PLAIN, DEFAULT)
    values = {}
    for setting in chain(settings_of(path) if path else (), _from_environment(environ), _from_flags(flags)):
        values[setting.key] = read(setting)
        origins[setting.key] = setting.origin
    config = _with(ProxyConfig(), values)
    refuse_contradictions(config, origins)
    return Loaded(config, origins)


def warnings(loaded: Loaded) -> list[str]:
    """What is no mistake and yet hardly meant, each in one line that says where."""
    return list(warn(loaded.config, loaded.origins))


def override(config: ProxyConfig, changes: Mapping[str, object]) -> ProxyConfig:
    """A new config with these keys changed. A value is text as in a flag, or typed as in TOML; tables may be nested.

    "routes" is the whole list of them; groups keep what is not named.
    """
    return patched(Loaded(config, {}), changes, "override").config


def patched(loaded: Loaded, changes: Mapping[str, object], origin: str) -> Loaded:
    """The same with origins: what is changed comes from `origin`, with which every error begins."""
    config, origins = loaded
    settings = [Setting(key, value, origin, isinstance(value, str)) for key, value in flat(changes)]
    values = {setting.key: read(setting) for setting in settings}
    if ROUTES in changes:
        config = replaced(config, {ROUTES: ()})
        origins = {key: known for key, known in origins.items() if not key.startswith(f"{ROUTES}.")}
    config = _with(config, values)
    changed = dict.fromkeys(values, origin)
    refuse_contradictions(config, changed)
    return Loaded(config, origins | changed)


def _with(config: ProxyConfig, values: Mapping[str, object]) -> ProxyConfig:
    """The config with these typed values, by dotted key of any kind."""
    plain: dict[str, object] = {}
    groups = {name: dict(own) for name, own in config.groups.items()}
    routes: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        if key in PLAIN:
            plain[key] = value
        elif key.startswith(f"{GROUPS}."):
            group, inner = split_group_key(key)
            groups.setdefault(group, {})[inner] = value
        else:
            number, _, name = key.removeprefix(f"{ROUTES}.").partition(".")
            routes.setdefault(number, {"host": "", "path": "/"})[name] = value
    if routes:
        plain[ROUTES] = tuple(Route(**route) for route in routes.values())
    return replaced(config, {**plain, GROUPS: groups})


def keys() -> list[str]:
    """All plain keys, dotted, in the order of the file."""
    return list(PLAIN)


# --- Printing


def rows(loaded: Loaded) -> list[Row]:
    """Every plain key, what named groups say otherwise, and the routes; each with its origin."""
    config, origins = loaded
    table = [Row(key, shown(attrgetter(key)(config)), origins[key]) for key in PLAIN]
    for group, inner in _said_by_groups(config):
        key = f"{GROUPS}.{group}.{inner}"
        table.append(Row(key, shown(config.groups[group][inner]), origins[key]))
    for number, route in enumerate(config.routes, start=1):
        table.append(Row(f"{ROUTES} {route.pattern}", route.group, origins[f"{ROUTES}.{number}.group"]))
    return table


def _said_by_groups(config: ProxyConfig) -> Iterator[tuple[str, str]]:
    """Group and key of all that is said, in the order of the file."""
    for group, own in config.groups.items():
        yield from ((group, key) for key in OF_A_GROUP if key in own)


def to_toml(config: ProxyConfig) -> str:
    """The config as a file that `load` reads back to the same config."""
    lines, section = [], ""
    said = [(f"{GROUPS}.{group}.{key}", config.groups[group][key]) for group, key in _said_by_groups(config)]
    for key, value in chain(((key, attrgetter(key)(config)) for key in PLAIN), said):
        of, _, name = key.rpartition(".")
        if of != section:
            lines.append(f"\n[{of}]")
            section = of
        lines.append(f"{name} = {toml_of(value)}")
    for route in config.routes:
        host = [f"host = {toml_of(route.host)}"] if route.host else []
        lines += [f"\n[[{ROUTES}]]", *host, f"path = {toml_of(route.path)}", f"group = {toml_of(route.group)}"]
    return "\n".join(lines) + "\n"


# --- From the environment and from flags to settings


def _from_environment(environ: Mapping[str, str]) -> Iterator[Setting]:
    variables = {_variable(key): key for key in PLAIN}
    ours = tuple(_variable(section) + "_" for section in SECTIONS)
    for name, value in environ.items():
        if name in variables:
            yield Setting(variables[name], value, name, is_text=True)
        elif name.startswith((_variable(GROUPS), _variable(ROUTES))):
            raise ConfigError(f"{name}: groups and routes have no variables: write them in the file")
        elif name.startswith(ours) or (name.startswith(PREFIX) and get_close_matches(name, variables, 1, ALMOST)):
            raise ConfigError(f"{name}: unknown variable{nearest(name, variables)}")


def _variable(key: str) -> str:
    return PREFIX + key.replace(".", "_").upper()


def _from_flags(flags: Mapping[str, str]) -> Iterator[Setting]:
    for key, value in flags.items():
        yield Setting(ROUTES if key.startswith(f"{ROUTES}.") else key, value, f"--{key}", is_text=True)
