"""`kalab compare`: two stored runs, and what may be said of the difference. What it means is in docs/tools.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab.compare import LEVEL, Comparison, Difference, Outcome, Side, Stored, compare
from lab.errors import UsageError
from lab.options import JsonOption, StoredRunsOption
from lab.runs import find_run
from lab.store import read_plan, read_result, tampered
from lab.story import COLUMNS
from lab.wording import share_text

HELP = """
Compares two runs of one scenario: what was set up otherwise, and which differences are more than chance.

\b
Examples:
  kalab compare idle-close/20261120-133000 idle-close/latest
  kalab compare runs-before/idle-close/latest runs/idle-close/latest

Exit codes: 0 the second is alike or better, 1 worse, 2 inconclusive, 3 bad usage.
"""

STYLES = {Outcome.WORSE: "bold red", Outcome.BETTER: "bold green", Outcome.INCONCLUSIVE: "bold yellow"}


def command(
    first: Annotated[str, typer.Argument(help="A run folder, scenario/time, or latest.")],
    second: Annotated[str, typer.Argument(help="The run that is judged against it.")],
    runs: StoredRunsOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    folders = [find_run(word, runs) for word in (first, second)]
    if folders[0].resolve() == folders[1].resolve():
        raise UsageError(f"{first} and {second} are the same run")
    found = compare(*(_stored(folder) for folder in folders))
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        tell(found, Console())
    raise typer.Exit(found.verdict.exit_code)


def _stored(folder: Path) -> Stored:
    name = f"{folder.resolve().parent.name}/{folder.resolve().name}"
    return Stored(name, read_plan(folder), read_result(folder), tuple(tampered(folder)))


def tell(found: Comparison, console: Console) -> None:
    """What differed before the runs, arm by arm what came out, and what follows from it."""

    def line(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=not console.is_terminal)

    line(f"first:  {found.first}")
    line(f"second: {found.second}")
    for name, differences in (("set up otherwise", found.setup), ("environment", found.environment)):
        line("")
        line(f"{name}:" if differences else f"{name}: nothing")
        for text in _told(differences):
            line(text)
    if found.pairs:
        line("")
        console.print(_table(found), width=COLUMNS, crop=False, no_wrap=True)
        line(f"chance: how likely chance alone makes both differ so much; below {found.level:.2g} it is not believed,")
        line(f"which is {LEVEL:g} divided by the {found.tests} tests that were made.")
    for name, arms in ((found.first, found.only_first), (found.second, found.only_second)):
        if arms:
            line(f"only in {name}: {', '.join(arms)}")
    line("")
    for sentence in found.story:
        line(sentence)
    line(f"comparison: {found.outcome}", STYLES.get(found.outcome, "bold"))


def _told(differences: Sequence[Difference]) -> list[str]:
    return [f"  {each.what}: {each.first or 'unset'} -> {each.second or 'unset'}" for each in differences]


def _table(found: Comparison) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in ("what was tried", "first: lost, of exposed", "second: lost, of exposed", "chance", "second is"):
        table.add_column(name, no_wrap=True)
    for pair in found.pairs:
        style = STYLES.get(pair.outcome, "")
        table.add_row(
            Text(f"{pair.arm} {pair.method}"),
            _share(pair.first),
            _share(pair.second),
            f"{pair.chance:.2g}",
            Text(pair.outcome, style=style),
        )
    table.width = COLUMNS
    return table


def _share(side: Side) -> Text:
    twice = f"\n{side.executed_twice} executed twice" if side.executed_twice else ""
    return Text(share_text(side.lost, side.exposed, side.low, side.high) + twice)
