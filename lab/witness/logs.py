"""Event logs as they are on disk, with what is missing from them.

A log is whole when its lines are numbered without a gap, its last line says how many there should be, and nothing was
dropped. A log that is not whole makes a run inconclusive; it never reads as "nothing happened".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from proxy.events import LOG_CLOSED

Line = dict[str, Any]

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Log(NamedTuple):
    """One witness's log. `damage` says what is wrong with it, "" when it is whole."""

    name: str
    lines: list[Line]
    damage: str


def read(path: Path) -> Log:
    """Reads one event log. A missing file or a torn line is damage, not an error."""
    log = read_unnumbered(path)
    return log if log.damage else log._replace(damage=_damage(log.name, log.lines))


def read_unnumbered(path: Path) -> Log:
    """Reads lines that a real server's app wrote: no numbers, no closing line, so only a torn line shows by itself."""
    name = path.name
    if not path.exists():
        return Log(name, [], f"{name} is missing")
    lines: list[Line] = []
    for raw in path.read_bytes().splitlines():
        try:
            lines.append(_decode(raw))
        except msgspec.MsgspecError:
            return Log(name, lines, f"{name} has a line that is not JSON after line {len(lines)}")
    return Log(name, lines, "")


def _damage(name: str, lines: list[Line]) -> str:
    if not lines or lines[-1]["kind"] != LOG_CLOSED:
        return f"{name} has no closing line: its writer did not end in order"
    closing = lines.pop()
    if closing["dropped"]:
        return f"{name} dropped {closing['dropped']} events"
    missing = closing["emitted"] - len(lines)
    if missing or any(line["n"] != n for n, line in enumerate(lines)):
        return f"{name} lacks {missing} of {closing['emitted']} lines"
    return ""
