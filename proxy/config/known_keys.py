"""Which keys a config has, and how a value is read for its key.

Three kinds, all dotted: the plain keys ("pool.max_idle"), those that a named group may say otherwise
("groups.api.pool.max_idle"), and those of a route by its number from 1 on ("routes.1.host").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from proxy.config import hints
from proxy.config.knobs import DEFAULT_GROUP, GroupConfig, ProxyConfig, Route
from proxy.config.values import parse, parse_text

GROUPS: Final = "groups"
ROUTES: Final = "routes"

_GROUP_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MISSING: Final = object()  # the value of what must be said and was not


class ConfigError(Exception):
    """What is wrong with a config, in one line."""


class Setting(NamedTuple):
    """A value for a key, not yet checked. `value` is text from a flag or variable, or what TOML made of it."""

    key: str
    value: object
    origin: str
    is_text: bool


def _types_of(struct: type[msgspec.Struct]) -> Iterator[tuple[str, Any]]:
    for field in msgspec.structs.fields(struct):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            for inner in msgspec.structs.fields(field.type):
                yield f"{field.name}.{inner.name}", inner.type
        else:
            yield field.name, field.type


# What a client's connection waits for before it has asked for anything, and so before it has a group.
_BEFORE_ANY_GROUP: Final = {"name", "timeouts.downstream_idle", "timeouts.downstream_header"}

PLAIN: Final = {key: kind for key, kind in _types_of(ProxyConfig) if key not in (GROUPS, ROUTES)}
OF_A_GROUP: Final = {key: kind for key, kind in _types_of(GroupConfig) if key not in _BEFORE_ANY_GROUP}
OF_A_ROUTE: Final = dict(_types_of(Route))

SECTIONS: Final = list(dict.fromkeys(key.partition(".")[0] for key in PLAIN if "." in key))
GROUP_SECTIONS: Final = list(dict.fromkeys(key.partition(".")[0] for key in OF_A_GROUP if "." in key))


def flat(document: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """What stands in the tables of a document, by dotted key. A value that is no table where one is wanted stays."""
    for name, value in document.items():
        if name in SECTIONS and isinstance(value, dict):
            yield from ((f"{name}.{inner}", found) for inner, found in value.items())
        elif name == GROUPS and isinstance(value, dict):
            for group, table in value.items():
                yield from _flat_group(f"{GROUPS}.{group}", table)
        elif name == ROUTES and isinstance(value, list | tuple):
            for number, table in enumerate(value, start=1):
                yield from _flat_route(f"{ROUTES}.{number}", table)
        else:  # routes have numbers only here
            yield ROUTES if name.startswith(f"{ROUTES}.") else name, value


def _flat_group(prefix: str, table: object) -> Iterator[tuple[str, object]]:
    if not isinstance(table, dict) or not table:
        yield prefix, table
        return
    for name, value in table.items():
        if name in GROUP_SECTIONS and isinstance(value, dict):
            yield from ((f"{prefix}.{name}.{inner}", found) for inner, found in value.items())
        else:
            yield f"{prefix}.{name}", value


def _flat_route(prefix: str, table: object) -> Iterator[tuple[str, object]]:
    if isinstance(table, Route):
        table = msgspec.structs.asdict(table)
    if not isinstance(table, dict):
        yield prefix, table
        return
    yield from ((f"{prefix}.{name}", value) for name, value in table.items())
    if "group" not in table:
        yield f"{prefix}.group", _MISSING


def split_group_key(key: str) -> tuple[str, str]:
    """Group and plain key of "groups.api.pool.max_idle"."""
    _, group, inner = key.split(".", 2)
    return group, inner


def read(setting: Setting) -> object:
    """The typed value of a setting. Raises ConfigError."""
    key, value, origin, is_text = setting
    try:
        wanted = _type_of(key, value)
        return parse_text(wanted, str(value)) if is_text else parse(wanted, value)
    except ValueError as problem:
        raise ConfigError(f"{place(key, origin)}: {problem}") from None


def _type_of(key: str, value: object) -> Any:
    if key in PLAIN:
        return PLAIN[key]
    first, *rest = key.split(".")
    if first == GROUPS:
        return _type_in_group(key, rest, value)
    if first == ROUTES:
        return _type_in_route(rest, value)
    if key in SECTIONS:
        raise ValueError(f"expected a section, [{key}]")
    if isinstance(value, dict) and "." not in key:
        raise ValueError(f"unknown section{nearest(key, [*SECTIONS, GROUPS, ROUTES])}")
    raise ValueError(f"unknown key{nearest(key, [*PLAIN, GROUPS, ROUTES])}")


def _type_in_group(key: str, parts: list[str], value: object) -> Any:
    name, inner = (parts or [""])[0], ".".join(parts[1:])
    if not name:
        raise ValueError("expected a section for each group, such as [groups.api]")
    if name == DEFAULT_GROUP:
        raise ValueError("the plain keys are the group default: write them without groups.default")
    if not _GROUP_NAME.fullmatch(name):
        raise ValueError("the name of a group is made of letters, digits, - and _")
    if not inner:
        what = "a section" if not isinstance(value, dict) else "at least one key in the section"
        raise ValueError(f"expected {what}, [{key}]")
    if inner in OF_A_GROUP:
        return OF_A_GROUP[inner]
    if inner in GROUP_SECTIONS:
        raise ValueError(f"expected a section, [{key}]")
    if inner in PLAIN or inner in SECTIONS:
        raise ValueError(f"cannot differ between groups; {inner} is for all")
    what, known = ("section", GROUP_SECTIONS) if isinstance(value, dict) else ("key", list(OF_A_GROUP))
    raise ValueError(f"unknown {what} of a group{nearest(inner, known, f'{GROUPS}.{name}.')}")


def _type_in_route(parts: list[str], value: object) -> Any:
    if not parts or not parts[0].isdecimal():
        raise ValueError("expected [[routes]], in double brackets, once for each route in the file")
    if len(parts) == 1:
        raise ValueError("expected a table with host, path and group")
    if value is _MISSING:
        raise ValueError("missing: the name of the group that serves the route")
    if parts[1] in OF_A_ROUTE:
        return OF_A_ROUTE[parts[1]]
    raise ValueError(f"unknown key of a route{nearest(parts[1], OF_A_ROUTE)}")


def place(key: str, origin: str) -> str:
    """The start of an error message: where, and which key."""
    return origin if origin == f"--{key}" else f"{origin}: {key}"


def nearest(wrong: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of an error message: what was probably meant, if anything is near."""
    known = list(known)
    section, dot, leaf = wrong.rpartition(".")
    beside = [key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == section and dot]
    a_part = (key for key in beside if len(leaf) > 3 and leaf in key)
    if near := hints.near(leaf, beside) or next(a_part, ""):
        return hints.did_you_mean(f"{prefix}{section}.{near}")
    misplaced = [key for key in known if key.rpartition(".")[2] == leaf]
    near = misplaced[0] if misplaced else "" if beside else hints.near(wrong, known)
    if near:
        return hints.did_you_mean(prefix + near)
    listed = beside or known
    return f"; one of {', '.join(listed)}" if len(listed) <= 12 else "; --show-config lists what there is"
