"""One value of a config, as people write it and as the proxy uses it: "250ms", "64KiB", "10.0.0.0/8".

A number without a unit is refused where a unit could be forgotten. What is printed reads back as the same value.
Whatever is wrong is a `ValueError` that says what was expected and what was found.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network, ip_network
from math import inf
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args, get_origin

from proxy.config import hints

OFF: Final = "off"

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_SECONDS_IN: Final = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}

_SIZE = re.compile(r"([0-9]+)(B|KiB|MiB|GiB)?")
_BYTES_IN: Final = {None: 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

Network = IPv4Network | IPv6Network


class Seconds(float):
    """A duration. `off` is infinity: no limit."""

    def __str__(self) -> str:
        if self == inf:
            return OFF
        exact = Decimal(repr(float(self)))
        unit = "s"
        if 0 < exact < 1:
            unit = "ms"
        elif exact > 60 and exact % 3600 == 0:
            unit = "h"
        elif exact > 60 and exact % 60 == 0:
            unit = "m"
        return f"{(exact / _SECONDS_IN[unit]).normalize():f}{unit}"


class Bytes(int):
    """A size in bytes. `off` is 0; what that means, each knob says."""

    def __str__(self) -> str:
        if self == 0:
            return OFF
        for unit in ("GiB", "MiB", "KiB"):
            if self % _BYTES_IN[unit] == 0:
                return f"{self // _BYTES_IN[unit]}{unit}"
        return int.__repr__(self)


class Sink(str):
    """Where lines go: a path, "-" for standard output, or "" for nowhere, written "off"."""

    __slots__ = ()


def parse_duration(text: object) -> Seconds:
    """ "250ms", "4.5s", "2m", "1h", or "off" for no limit."""
    if text == OFF:
        return Seconds(inf)
    match = _DURATION.fullmatch(str(text))
    if match is None or not isinstance(text, str):
        meant = hints.of_duration(text)
        raise ValueError(f'expected a duration such as "250ms", "4s", "2m" or "off", got {toml_of(text)}{meant}')
    number, unit = match.groups()
    return Seconds(Decimal(number) * _SECONDS_IN[unit])


def parse_size(text: object) -> Bytes:
    """ "512B", "64KiB", "8MiB", a number of bytes, or "off" for 0."""
    if text == OFF:
        return Bytes(0)
    match = _SIZE.fullmatch(str(text))
    if match is None or not isinstance(text, str | int):
        meant = hints.of_size(text)
        raise ValueError(f'expected a size such as "512B", "64KiB", "8MiB" or "off", got {toml_of(text)}{meant}')
    number, unit = match.groups()
    return Bytes(int(number) * _BYTES_IN[unit])


def parse_network(text: object) -> Network:
    """ "10.0.0.0/8", "fd00::/8", or one address."""
    if not isinstance(text, str):
        raise ValueError(f'expected a network such as "10.0.0.0/8" or "fd00::/8", got {toml_of(text)}')
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        meant = f'; did you mean "{ip_network(text, strict=False)}"?'
    except ValueError:
        meant = ""
    raise ValueError(f'expected a network such as "10.0.0.0/8" or "fd00::/8", got {toml_of(text)}{meant}')


def _no_hint(_: object) -> str:
    return ""


class Bounds(NamedTuple):
    """What a value must be, in words and as a check. It annotates a type: `Annotated[int, Bounds(...)]`.

    `hint`: the end of the message for one that is not so, see `hints.py`.
    """

    says: str
    holds: Callable[[Any], bool]
    hint: Callable[[Any], str] = _no_hint


def parse(wanted: Any, value: object) -> object:
    """What TOML gave, or a value that is typed already, as the wanted type."""
    origin, args = get_origin(wanted), get_args(wanted)
    if origin is Annotated:
        return _parse_bound(args[0], args[1], value)
    if origin is Literal:
        return _parse_choice(args, value)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f'expected a list such as ["…", "…"], got {toml_of(value)}{hints.of_list(value)}')
        return tuple(parse(args[0], item) for item in value)
    if wanted in _PARSERS:
        return value if isinstance(value, wanted) else _PARSERS[wanted](value)
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise ValueError(f"expected {_WANTED[wanted]}, got {toml_of(value)}{hints.of_plain(wanted, value)}")
    return value


def parse_text(wanted: Any, text: str) -> object:
    """What a flag or an environment variable gave, as the wanted type. A list is separated by commas."""
    base = get_args(wanted)[0] if get_origin(wanted) is Annotated else wanted
    value: object = text
    if get_origin(base) is tuple:
        value = [item.strip() for item in text.split(",") if item.strip()]
    elif base is bool:
        value = {"true": True, "false": False}.get(text, text)
    elif base in (int, float):
        with contextlib.suppress(ValueError):
            value = base(text)
    return parse(wanted, value)


def text_of(value: object) -> str:
    """A typed value as `parse_text` reads it: "250ms", "off", "true", "a:1,b:2"."""
    if isinstance(value, tuple):
        return ",".join(map(text_of, value))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Sink):
        return str(value) or OFF
    return str(value)


def shown(value: object) -> str:
    """A typed value for people, who would not see what is empty."""
    return text_of(value) or '""'


def toml_of(value: object) -> str:
    """A value as TOML writes it; a value that is typed already, as `parse` reads it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_of, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name} = {toml_of(inner)}' for name, inner in value.items())}}}"
    if isinstance(value, Seconds | Bytes | Sink | Network):
        value = text_of(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return text_of(value)


def _parse_bound(wanted: Any, bounds: Bounds, value: object) -> object:
    meant = bounds.hint(value)
    try:
        parsed = parse(wanted, value)
    except ValueError:
        if wanted is not str and not meant:
            raise
    else:
        if bounds.holds(parsed):
            return parsed
    raise ValueError(f"must be {bounds.says}, got {toml_of(value)}{meant}")


def _parse_choice(choices: tuple[str, ...], value: object) -> object:
    if value in choices:
        return value
    meant = hints.of_choice(value, choices)
    raise ValueError(f"expected one of {', '.join(choices)}, got {toml_of(value)}{meant}")


def _parse_sink(value: object) -> Sink:
    meant = hints.of_sink(value) if value != OFF else ""
    if meant or not isinstance(value, str):
        raise ValueError(f'expected a path, "-" or "off", got {toml_of(value)}{meant}')
    return Sink("" if value == OFF else value)


_PARSERS: Final[dict[Any, Callable[[Any], object]]] = {
    Seconds: parse_duration,
    Bytes: parse_size,
    Sink: _parse_sink,
    Network: parse_network,
}
_WANTED: Final = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
