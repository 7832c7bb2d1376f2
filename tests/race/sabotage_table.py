"""The table of what sabotage came to: scenario by sabotage, the verdict and the check that noticed.

Tests note what they saw in build/sabotage.json, each cell replacing the one before, and build/sabotage.md is made from
it; docs/sabotage.md has a copy of these tables.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from spoilt_runs import SCENARIOS, spoilt_arms

from lab.model import Verdict
from lab.result import RunResult
from lab.sabotage import SPOILS, WHILE_IT_RUNS, pointless

ROOT = Path(__file__).resolve().parents[2]
SEEN = ROOT / "build" / "sabotage.json"
MADE = ROOT / "build" / "sabotage.md"
COPY = ROOT / "docs" / "sabotage.md"

NOTHING = "–"
# Of several checks that noticed, the one that says most.
FIRST = ("witnesses whole", "witnesses agree", "direct", "schedule kept", "reuse", "aim", "upstream closes")

Cells = dict[tuple[str, str], str]


def cell(result: RunResult) -> str:
    """What one spoilt run came to: "inconclusive: witnesses whole"."""
    if result.verdict is Verdict.PASS:
        return "pass"
    checks = [check.name for check in result.checks if check.verdict is not Verdict.PASS]
    checks.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    arms = [f"arm {arm.arm}" for arm in result.arms if arm.verdict is not Verdict.PASS]
    return f"{result.verdict}: {[*checks, *arms][0]}"


def note(cells: Cells) -> None:
    """Adds what was seen, and makes the tables anew."""
    seen = {**_read_seen(), **cells}
    SEEN.parent.mkdir(exist_ok=True)
    SEEN.write_text(json.dumps([[*at, text] for at, text in sorted(seen.items())], indent=1))
    MADE.write_text(render(seen))


def _read_seen() -> Cells:
    return {(name, by): text for name, by, text in json.loads(SEEN.read_text())} if SEEN.exists() else {}


def render(cells: Cells) -> str:
    """Both tables: of runs that were spoilt while they ran, and of evidence that was spoilt afterwards.

    Each has the scenarios of which all is known.
    """
    return "\n\n".join(_table(cells, list(sabotages)) for sabotages in (WHILE_IT_RUNS, SPOILS)) + "\n"


def _table(cells: Cells, sabotages: list[str]) -> str:
    rows = [[name, *_row(cells, name, sabotages)] for name in SCENARIOS]
    lines = [["scenario", *(f"`{sabotage}`" for sabotage in sabotages)], ["---"] * (len(sabotages) + 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (*lines, *(row for row in rows if all(row))))


def _row(cells: Cells, name: str, sabotages: list[str]) -> list[str]:
    """What a scenario came to; "" where that is not known."""
    arms = spoilt_arms(SCENARIOS[name])
    return [
        NOTHING if pointless(sabotage, SCENARIOS[name], arms) else cells.get((name, sabotage), "")
        for sabotage in sabotages
    ]


def read(lines: Iterable[str]) -> Cells:
    """The cells of all tables in a text."""
    cells: Cells = {}
    sabotages: list[str] = []
    for line in lines:
        words = [word.strip() for word in line.strip().strip("|").split(" | ")]
        if words[0] == "scenario":
            sabotages = [word.strip("`") for word in words[1:]]
        elif line.startswith("| ") and sabotages and re.fullmatch(r"[a-z-]*[a-z][a-z0-9-]*", words[0]):
            cells |= {(words[0], sabotage): text for sabotage, text in zip(sabotages, words[1:], strict=True)}
    return cells
