"""How a config is read, changed, compared and printed. The knobs themselves are in `knobs.py`.

Rules of this file:

- Flags override the environment, which overrides the file, which overrides the defaults. The key `timeouts.connect` is
  the flag `--timeouts.connect` and the variable `KALAB_TIMEOUTS_CONNECT`.
- Nothing is guessed and nothing is ignored: whatever is wrong is a `ConfigError` of one line that says where, which
  key, what is wanted, and what was probably meant.
- A config is frozen. A change is a new one, made by `override`; what changed is what `diff` says.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from proxy.knobs import Limits, LogConfig, Order, PolicyName, PoolLimits, ProxyConfig, RetryConfig, Timeouts
from proxy.values import Bytes, Seconds, parse, parse_address, parse_duration, parse_size, parse_text, text_of, toml_of

__all__ = [
    "Bytes",
    "Change",
    "ConfigError",
    "Limits",
    "Loaded",
    "LogConfig",
    "Order",
    "PolicyName",
    "PoolLimits",
    "ProxyConfig",
    "RetryConfig",
    "Seconds",
    "Timeouts",
    "diff",
    "keys",
    "load",
    "override",
    "parse_address",
    "parse_duration",
    "parse_size",
    "text_of",
    "to_toml",
]

PREFIX: Final = "KALAB_"


class ConfigError(Exception):
    """What is wrong with a config, in one line."""


class Loaded(NamedTuple):
    """A config, and for each key where its value comes from: "default", "proxy.toml:7", "KALAB_…" or "--…"."""

    config: ProxyConfig
    origins: dict[str, str]


class Change(NamedTuple):
    """One difference of two configs, as a person would write it."""

    key: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.key}: {self.before} -> {self.after}"


class Setting(NamedTuple):
    """A value for a key, not yet checked. `value` is text from a flag or variable, or what TOML made of it."""

    key: str
    value: object
    origin: str
    is_text: bool


def load(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, str]) -> Loaded:
    """The config from a file (None: no file), the environment, and flags given as `{"timeouts.connect": "5s"}`."""
    origins = dict.fromkeys(_TYPES, "default")
    values = {}
    for setting in chain(_from_file(path) if path else (), _from_environment(environ), _from_flags(flags)):
        values[setting.key] = _read(setting)
        origins[setting.key] = setting.origin
    config = _replace(ProxyConfig(), values)
    _refuse_contradictions(config, origins)
    return Loaded(config, origins)


def override(config: ProxyConfig, changes: Mapping[str, object]) -> ProxyConfig:
    """A new config with these keys changed. A value is text as in a flag, or typed as in TOML."""
    settings = [Setting(key, value, "override", isinstance(value, str)) for key, value in changes.items()]
    changed = _replace(config, {setting.key: _read(setting) for setting in settings})
    _refuse_contradictions(changed, dict.fromkeys(_TYPES, "override"))
    return changed


def diff(a: ProxyConfig, b: ProxyConfig) -> list[Change]:
    """What differs, in the order of the keys."""
    pairs = ((key, attrgetter(key)(a), attrgetter(key)(b)) for key in _TYPES)
    return [Change(key, text_of(before), text_of(after)) for key, before, after in pairs if before != after]


def keys() -> list[str]:
    """All keys, dotted, in the order of the file."""
    return list(_TYPES)


def to_toml(config: ProxyConfig) -> str:
    """The config as a file that `load` reads back to the same config."""
    lines, section = [], ""
    for key in _TYPES:
        of, _, name = key.rpartition(".")
        if of != section:
            lines.append(f"\n[{of}]")
            section = of
        lines.append(f"{name} = {toml_of(attrgetter(key)(config))}")
    return "\n".join(lines) + "\n"


# --- The keys and their types


def _types() -> Iterator[tuple[str, Any]]:
    for field in msgspec.structs.fields(ProxyConfig):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            for inner in msgspec.structs.fields(field.type):
                yield f"{field.name}.{inner.name}", inner.type
        else:
            yield field.name, field.type


_TYPES: Final = dict(_types())
_SECTIONS: Final = list(dict.fromkeys(key.partition(".")[0] for key in _TYPES if "." in key))


def _replace(config: ProxyConfig, values: Mapping[str, object]) -> ProxyConfig:
    top = {key: value for key, value in values.items() if "." not in key}
    for section in _SECTIONS:
        inner = {key.partition(".")[2]: value for key, value in values.items() if key.startswith(section + ".")}
        if inner:
            top[section] = msgspec.structs.replace(getattr(config, section), **inner)
    return msgspec.structs.replace(config, **top)


# --- From a source to settings


def _from_file(path: Path) -> Iterator[Setting]:
    try:
        text = path.read_text("utf-8")
        document = tomllib.loads(text)
    except OSError as problem:
        raise ConfigError(f"{path}: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8") from None
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(_explain_syntax(path, text, str(problem))) from None
    lines: dict[str, int] = {}
    for key, line in _lines(text):
        lines.setdefault(key, line)
    for key, value in _flat(document):
        number = lines.get(key) or lines.get(key.partition(".")[0])
        origin = f"{path}:{number}" if number else str(path)
        if key in _SECTIONS:
            raise ConfigError(f"{origin}: {key}: expected a section, [{key}]")
        if key not in _TYPES and isinstance(value, dict):
            raise ConfigError(f"{origin}: [{key}]: unknown section{_nearest(key, _SECTIONS)}")
        yield Setting(key, value, origin, is_text=False)


def _flat(document: dict[str, Any]) -> Iterator[tuple[str, object]]:
    for name, value in document.items():
        if name in _SECTIONS and isinstance(value, dict):
            yield from ((f"{name}.{inner}", found) for inner, found in value.items())
        else:
            yield name, value


def _from_environment(environ: Mapping[str, str]) -> Iterator[Setting]:
    variables = {PREFIX + key.replace(".", "_").upper(): key for key in _TYPES}
    ours = tuple(f"{PREFIX}{section.upper()}_" for section in _SECTIONS)
    for name, value in environ.items():
        if name in variables:
            yield Setting(variables[name], value, name, is_text=True)
        elif name.startswith(ours):
            raise ConfigError(f"{name}: unknown variable{_nearest(name, variables)}")


def _from_flags(flags: Mapping[str, str]) -> Iterator[Setting]:
    for key, value in flags.items():
        yield Setting(key, value, f"--{key}", is_text=True)


def _read(setting: Setting) -> object:
    key, value, origin, is_text = setting
    if key not in _TYPES:
        raise ConfigError(f"{_place(key, origin)}: unknown key{_nearest(key, _TYPES)}")
    try:
        return parse_text(_TYPES[key], str(value)) if is_text else parse(_TYPES[key], value)
    except ValueError as problem:
        raise ConfigError(f"{_place(key, origin)}: {problem}") from None


def _place(key: str, origin: str) -> str:
    """The start of an error message: where, and which key."""
    return origin if origin == f"--{key}" else f"{origin}: {key}"


def _nearest(wrong: str, known: Iterable[str]) -> str:
    """The end of an error message: what was probably meant, if anything is near."""
    known = list(known)
    leaf = wrong.rpartition(".")[2]
    misplaced = [key for key in known if key.rpartition(".")[2] == leaf]
    near = misplaced or difflib.get_close_matches(wrong, known, n=1)
    return f"; did you mean {near[0]}?" if near else "; --show-config lists what there is"


# --- Where a key stands in a file. tomllib does not say, so this looks for it, line by line.

_HEADER = re.compile(r"\s*\[\s*([\w.-]+)\s*\]")
_ENTRY = re.compile(r"\s*([\w.-]+)\s*=")


def _lines(text: str) -> Iterator[tuple[str, int]]:
    section = ""
    for number, line in enumerate(text.split("\n"), start=1):
        if header := _HEADER.match(line):
            section = header[1] + "."
            yield header[1], number
        elif entry := _ENTRY.match(line):
            yield section + entry[1], number


def _explain_syntax(path: Path, text: str, problem: str) -> str:
    """tomllib's complaint, with the line in front, and for a duplicate with its name."""
    what, _, position = problem.rpartition(" (at ")
    if what.startswith("Cannot"):
        first: dict[str, int] = {}
        for key, line in _lines(text):
            if key in first:
                return f"{path}:{line}: {key}: set twice, first in line {first[key]}"
            first[key] = line
    at = re.match(r"line (\d+), column (\d+)", position)
    where = f"{at[1]}: column {at[2]}" if at else str(len(text.splitlines()) or 1)
    return f"{path}:{where}: not valid TOML: {what}"


# --- What no single key can see


def _refuse_contradictions(config: ProxyConfig, origins: Mapping[str, str]) -> None:
    for keys_, problem in _contradictions(config):
        culprit = next((key for key in keys_ if origins[key] != "default"), keys_[0])
        raise ConfigError(f"{_place(culprit, origins[culprit])}: {problem}")


def _contradictions(config: ProxyConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    if not config.upstreams:
        yield ("upstreams",), 'expected at least one, such as ["127.0.0.1:9000"]'
    if len(set(config.upstreams)) < len(config.upstreams):
        yield ("upstreams",), "one is listed twice"
    if config.listen in config.upstreams:
        yield (
            ("listen", "upstreams"),
            f"{config.listen} is both listened on and an upstream: requests would go in circles",
        )
    if config.log.events == "-":
        yield ("log.events",), "must be a path: standard output is for the access log"
    if config.limits.line_bytes > config.limits.head_bytes:
        yield ("limits.line_bytes", "limits.head_bytes"), "limits.line_bytes is more than limits.head_bytes"
