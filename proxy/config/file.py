"""A TOML file as settings, each with the line it stands in.

tomllib does not say where a key stands, so this looks for it, line by line. A table written inline has one line.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from proxy.config.hints import did_you_mean
from proxy.config.known_keys import ROUTES, ConfigError, Setting, flat
from proxy.config.origins import not_opened

_PART: Final = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_NAME: Final = rf"({_PART}(?:\s*\.\s*{_PART})*)"
_HEADER = re.compile(rf"\s*(\[\[?)\s*{_NAME}\s*\]")
_LIKE_AN_ENTRY = re.compile(r"\s*([\w.-]+)\s*[=:\s]\s*([^\s=:;{}\[\]#][^={}\[\]#]*?)\s*;?\s*(?:#.*)?")
_ENTRY = re.compile(rf"\s*{_NAME}\s*=")


def settings_of(path: Path) -> Iterator[Setting]:
    """What the file says, in its order. Raises ConfigError if it cannot be read or is no TOML."""
    try:
        text = path.read_text("utf-8-sig")  # some editors begin a file with a mark of its encoding
        document = tomllib.loads(text)
    except OSError as problem:
        raise ConfigError(not_opened(str(path), problem)) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8") from None
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(_explain(path, text, str(problem))) from None
    lines: dict[str, int] = {}
    for key, line in _lines(text):
        while key:  # the tables around it stand where their first key does
            lines.setdefault(key, line)
            key = key.rpartition(".")[0]
    for key, value in flat(document):
        number = _line_of(key, lines)
        yield Setting(key, value, f"{path}:{number}" if number else str(path), is_text=False)


def _lines(text: str) -> Iterator[tuple[str, int]]:
    section, routes = "", 0
    for number, line in enumerate(text.split("\n"), start=1):
        if header := _HEADER.match(line):
            section = _plain(header[2])
            if header[1] == "[[" and section == ROUTES:
                routes += 1
                section = f"{ROUTES}.{routes}"
            yield section, number
            section += "."
        elif entry := _ENTRY.match(line):
            yield section + _plain(entry[1]), number


def _plain(name: str) -> str:
    """A dotted name without its quotes and spaces."""
    return ".".join(part.strip().strip("\"'") for part in name.split("."))


def _line_of(key: str, lines: Mapping[str, int]) -> int:
    """The line of a key, or of the table it stands in; 0 if neither was found."""
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return lines.get(key, 0)


def _explain(path: Path, text: str, problem: str) -> str:
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
    meant = _meant(text.split("\n")[int(at[1]) - 1]) if at else ""
    return f"{path}:{where}: not valid TOML: {what or problem}{meant}"


def _meant(line: str) -> str:
    """What a line could be in TOML that is written as elsewhere: `connect = 5s`, `verify = False`, `listen: a:1;`."""
    match = _LIKE_AN_ENTRY.fullmatch(line)
    if match is None:
        return ""
    name, value = match.groups()
    for written in (value, value.lower() if value.lower() in ("true", "false") else "", json.dumps(value)):
        with suppress(tomllib.TOMLDecodeError):
            tomllib.loads(f"{name} = {written}")
            return did_you_mean(f"{name} = {written}")
    return ""
