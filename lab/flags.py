"""Values on the command line: a choice among names, a length of time. A mistake says what was meant."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from math import inf
from typing import TypeVar

from lab.errors import UsageError
from proxy.config import parse_duration

T = TypeVar("T")


def choice(what: str, wanted: str, choices: Mapping[str, T]) -> T:
    """The one with this name. Raises UsageError."""
    if wanted in choices:
        return choices[wanted]
    near = difflib.get_close_matches(wanted, choices, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise UsageError(f"unknown {what} {wanted!r}; {meant}there are: {', '.join(choices)}")


def seconds(flag: str, text: str, *, or_off: bool = False) -> float:
    """A length of time with its unit; with `or_off` also "off", which is `inf`. Raises UsageError."""
    if text.isdecimal():
        raise UsageError(f"{flag} {text}: which unit? {text}ms or {text}s")
    try:
        value = float(parse_duration(text))
    except ValueError as error:
        raise UsageError(f"{flag} {text}: {error}") from error
    if not 0 <= value < inf and not (or_off and value == inf):
        raise UsageError(f"{flag} {text}: give a length of time, such as 2s or 40ms")
    return value
