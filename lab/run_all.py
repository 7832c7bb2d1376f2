"""`kalab run --all`: every scenario, one after the other, with one table and one page for all of them.

Rules of this file:

- Each runs in a process of its own, as if it were typed: a run must not inherit what another has left.
- What could not be run is told with its reason, and no verdict is made up for it; the exit code is then that run's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from lab.errors import CannotRunError, UsageError
from lab.model import Scenario, Verdict
from lab.one_run import Say, run_one
from lab.report import overview
from lab.result import RunResult
from lab.story import STYLES

CANNOT = CannotRunError.exit_code
NOT_REACHED = "the series ended before it"
COLUMNS = 100


class Ran(msgspec.Struct, frozen=True):
    """One scenario of the series."""

    scenario: str
    sentence: str
    code: int
    took_s: float
    folder: str = ""
    """Below the folder of runs; "" if there is none."""
    result: RunResult | None = None
    why_not: str = ""
    """Why there is no result, in the words of the run."""

    @property
    def missed(self) -> int:
        """Arms that did not pass."""
        return sum(arm.verdict is not Verdict.PASS for arm in self.result.arms) if self.result else 0


def run_all(scenarios: Sequence[Scenario], flags: Sequence[str], runs: Path, say: Say) -> list[Ran]:
    """Runs them, and writes `index.html` into the folder of runs. Progress goes to `say`, one line a step.

    Raises UsageError if a flag is wrong for one of them.
    """
    series: list[Ran] = []
    try:
        for scenario in scenarios:
            ran = _run(scenario, flags, runs, say)
            if ran.code == UsageError.exit_code:
                raise UsageError(f"{ran.scenario}: {ran.why_not}")
            series.append(ran)
            say(_line(ran))
    finally:  # also of what was done before somebody had enough
        if any(ran.result for ran in series):
            missing = [
                Ran(each.name, each.sentence, CANNOT, 0.0, why_not=NOT_REACHED) for each in scenarios[len(series) :]
            ]
            overview.write([*series, *missing], runs / "index.html")
    return series


def exit_code(series: Sequence[Ran]) -> int:
    """Of what could not be run the highest; otherwise that of the worst verdict."""
    failed = max((ran.code for ran in series if ran.result is None), default=0)
    return failed or Verdict.worst(ran.result.verdict for ran in series if ran.result).exit_code


def tell(series: Sequence[Ran], console: Console, runs: Path) -> None:
    """The table of all, the verdict of all, and where the page is."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in ("scenario", "verdict", "arms", "not judged", "took"):
        table.add_column(name, no_wrap=True)
    for ran in series:
        style = STYLES[ran.result.verdict] if ran.result else "bold red"
        verdict = ran.result.verdict.value if ran.result else "not run"
        arms, not_judged = (len(ran.result.arms), len(ran.result.not_judged)) if ran.result else (0, 0)
        table.add_row(
            ran.scenario, f"[{style}]{verdict}[/]", str(arms), str(not_judged or "none"), f"{ran.took_s:.0f} s"
        )
    console.print()
    console.print(table, width=COLUMNS, crop=False)
    for ran in series:
        if ran.why_not:
            console.print(f"{ran.scenario}: {ran.why_not}", soft_wrap=True, markup=False, highlight=False)
    done = [ran.result for ran in series if ran.result]
    missing = len(series) - len(done)
    verdict = f"none, {missing} could not be run" if missing else Verdict.worst(one.verdict for one in done).value
    console.print(f"\nverdict of all: {verdict}", highlight=False)
    if done:
        console.print(f"overview: {runs / 'index.html'}", soft_wrap=True, markup=False, highlight=False)


def _run(scenario: Scenario, flags: Sequence[str], runs: Path, say: Say) -> Ran:
    ended = run_one(scenario.name, flags, runs, lambda said: say(f"{scenario.name}: {said}"))
    return Ran(scenario.name, scenario.sentence, ended.code, ended.took_s, ended.folder, ended.result, ended.why_not)


def _line(ran: Ran) -> str:
    if ran.result is None:
        return f"{ran.scenario}: not run after {ran.took_s:.0f} s: {ran.why_not}"
    missed = f", {ran.missed} of {len(ran.result.arms)} arms not" if ran.missed else ""
    return f"{ran.scenario}: {ran.result.verdict.value}{missed}, {ran.took_s:.0f} s"
