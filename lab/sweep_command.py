"""`kalab sweep`: what was typed, the grid of it, and what came out. What a sweep is, is in docs/tools.md."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab.asked import Asked, understand
from lab.catalogue import catalogue
from lab.duration import estimate_s, told
from lab.errors import UsageError
from lab.flags import choice, seconds
from lab.model import Scenario, Verdict
from lab.options import ArmOption, JsonOption, MethodOption, RunsOption, SeedOption, UpstreamOption, WireOption
from lab.progress import Progress
from lab.report import sweep as page
from lab.settings import settled, split
from lab.story import COLUMNS, STYLES
from lab.sweep import Axis, Cell, Definition, Share, Sweep, grid, open_sweep, run_sweep
from lab.wording import MARK, MEANING, share_text

MOST_CELLS = 400
STARTS_S = 1.5  # the command of each cell
PAGE = "sweep.html"

HELP = """
Runs a scenario over a grid of values: one real run for each cell, with a verdict for each.

\b
Examples:
  kalab sweep idle-close --arm order-timeouts --method POST --set margin=0ms,20ms,40ms,60ms,300ms
  kalab sweep idle-close --arm order-timeouts --set margin=20ms,60ms --set wire.rtt_ms=20,40,80
  kalab sweep idle-close --arm order-timeouts --set margin=20ms,60ms --set wire.rtt_ms=20,40,80 --points 4

Keys are those that arms change (proxy.timeouts.upstream_idle, proxy.pool.max_age, upstream.jitter, wire.rtt_ms, ...),
margin, and trials, blocks, stall and keep-alive. What is done is not run again: after Ctrl-C, type the same once more.

Exit codes: that of the worst cell; 3 bad usage, 4 a cell could not be run.
"""


def command(
    scenario: Annotated[str, typer.Argument(help="The scenario; `kalab list` names them.")],
    sets: Annotated[
        list[str], typer.Option("--set", metavar="KEY=V1,V2,...", help="A key and its values; may be repeated.")
    ],
    points: Annotated[int | None, typer.Option(min=1, help="So many cells only, spread over the grid.")] = None,
    into: Annotated[Path | None, typer.Option(help="The sweep's folder; below --runs unless given.")] = None,
    within: Annotated[str, typer.Option(help="Refuse what would take longer.")] = "1h",
    again: Annotated[bool, typer.Option("--again", help="Run cells again that were inconclusive.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Each cell in full, not in the short form.")] = False,
    wire: WireOption = "relay",
    upstream: UpstreamOption = "lab",
    arm: ArmOption = None,
    method: MethodOption = None,
    seed: SeedOption = None,
    runs: RunsOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    chosen = choice("scenario", scenario, catalogue())
    axes, fixed = axes_of(sets)
    asked = Asked(
        wire=wire,
        upstream=upstream,
        arms=arm or (),
        methods=method or (),
        short=not full,
        seed=seed,
        settings=fixed,
    )
    cells = grid(axes, points)
    estimates = _estimates(chosen, asked, axes, cells)
    asked = replace(asked, wire=understand(chosen, asked).wire)  # which "auto" is must not change on the way
    definition = Definition(chosen.name, axes, tuple(_flags(asked)))
    folder = into or runs / "sweeps" / f"{chosen.name}-{_short_name(definition)}"
    begun = open_sweep(folder, definition)
    left = [values for values in cells if not _is_done(begun.cell(values), again=again)]
    _refuse_what_takes_too_long([estimates[values] for values in left], within)
    with Progress() as progress:
        progress.step(_announcement(len(cells), [estimates[values] for values in left]))
        for stored in run_sweep(folder, begun, left, [estimates[values] for values in left], progress.step):
            begun = stored
            page.write(begun, folder / PAGE)
    found = Sweep(definition, tuple(cell for values in cells if (cell := begun.cell(values))))
    page.write(begun, folder / PAGE)
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        tell(found, Console(), str(folder / PAGE))
    raise typer.Exit(found.exit_code)


def axes_of(sets: Sequence[str]) -> tuple[tuple[Axis, ...], tuple[str, ...]]:
    """The axes of a grid as typed, and what has one value only. Raises UsageError."""
    axes: list[Axis] = []
    for text in sets:
        key, values = split(text)
        parts = tuple(value.strip() for value in values.split(","))
        if "" in parts:
            raise UsageError(f"--set {text}: an empty value; give KEY=V1,V2,...")
        if len(set(parts)) < len(parts):
            raise UsageError(f"--set {text}: a value is there twice")
        if key in (axis.key for axis in axes):
            raise UsageError(f"--set {text}: {key} is there twice; give all its values in one")
        axes.append(Axis(key, parts))
    swept = tuple(axis for axis in axes if len(axis.values) > 1)
    if not swept:
        raise UsageError(f"--set {sets[0]}: one value is no sweep; give KEY=V1,V2,..., or use kalab run --set")
    return swept, tuple(f"{axis.key}={axis.values[0]}" for axis in axes if axis not in swept)


def _estimates(
    scenario: Scenario, asked: Asked, axes: Sequence[Axis], cells: Sequence[tuple[str, ...]]
) -> Mapping[tuple[str, ...], float]:
    """How long each cell takes. Every one is understood before the first is run, so that none is wrong later on."""
    if len(cells) > MOST_CELLS:
        raise UsageError(f"{len(cells)} cells are more than {MOST_CELLS}; give fewer values, or --points")
    found = {}
    for values in cells:
        settings = [f"{axis.key}={value}" for axis, value in zip(axes, values, strict=True)]
        setup = understand(scenario, replace(asked, settings=[*asked.settings, *settings]))
        found[values] = STARTS_S + estimate_s(settled(scenario, setup), setup)
    return found


def _flags(asked: Asked) -> Iterator[str]:
    if asked.short:
        yield "--short"
    yield from ("--wire", asked.wire)
    if asked.upstream != "lab":
        yield from ("--upstream", asked.upstream)
    for name in asked.arms:
        yield from ("--arm", name)
    for name in asked.methods:
        yield from ("--method", name.upper())
    for setting in asked.settings:
        yield from ("--set", setting)
    if asked.seed is not None:
        yield from ("--seed", str(asked.seed))


def _short_name(definition: Definition) -> str:
    return hashlib.sha256(msgspec.json.encode(definition)).hexdigest()[:8]


def _is_done(cell: Cell | None, *, again: bool) -> bool:
    if cell is None or cell.verdict is None:
        return False
    return not (again and cell.verdict is Verdict.INCONCLUSIVE)


def _refuse_what_takes_too_long(estimates: Sequence[float], within: str) -> None:
    if sum(estimates) > seconds("--within", within):
        raise UsageError(
            f"{len(estimates)} cells would take about {told(sum(estimates))}, longer than --within {within}: "
            "give fewer values, --points, or more time"
        )


def _announcement(cells: int, estimates: Sequence[float]) -> str:
    done = cells - len(estimates)
    if not estimates:
        return f"all {cells} cells are done"
    before = f", {done} of them done before" if done else ""
    return f"{cells} cells{before}: about {told(sum(estimates))}"


# -- what came out ---------------------------------------------------------------------------------


def tell(found: Sweep, console: Console, report: str = "") -> None:
    """A table for each arm and method: the verdict and the share of every cell."""
    axes = found.definition.axes
    for arm, method in page.lanes_of(found):
        console.print()
        console.print(Text(f"{arm} {method}: lost, of exposed", style="bold"))
        if len(axes) == 2:
            _print(console, _crossed(found, arm, method))
        else:
            _print(console, _listed(found, arm, method))
    for cell in found.cells:
        if cell.why_not:
            console.print(Text(f"not run: {' '.join(cell.values)}: {cell.why_not}"), soft_wrap=True)
    verdicts = [cell.verdict for cell in found.cells if cell.verdict]
    worst = Verdict.worst(verdicts)
    missing = len(found.cells) - len(verdicts)
    console.print()
    console.print(
        Text(f"{MARK[Verdict.PASS]} as expected  {MARK[Verdict.FAIL]} not  {MARK[Verdict.INCONCLUSIVE]} not settled")
    )
    word = f"none, {missing} could not be run" if missing else worst.value
    console.print(Text(f"verdict of all: {word}", style="" if missing else STYLES[worst]))
    if not missing and worst is not Verdict.PASS:
        console.print(Text(MEANING[worst]), soft_wrap=True)
    if report:
        console.print(Text(f"report: {report}"), soft_wrap=True)


def _print(console: Console, table: Table) -> None:
    table.width = None
    console.print(table, width=max(COLUMNS, console.width), crop=False, no_wrap=True)


def _crossed(found: Sweep, arm: str, method: str) -> Table:
    """The first key down, the second across."""
    down, across = found.definition.axes
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column(f"{down.key} \\ {across.key}", no_wrap=True)
    for value in across.values:
        table.add_column(value, no_wrap=True)
    for value in down.values:
        cells = [found.cell((value, other)) for other in across.values]
        table.add_row(value, *(_text(cell, arm, method, brief=True) for cell in cells))
    return table


def _listed(found: Sweep, arm: str, method: str) -> Table:
    axes = found.definition.axes
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for axis in axes:
        table.add_column(axis.key, no_wrap=True)
    table.add_column("lost, of exposed", no_wrap=True)
    for values in product(*(axis.values for axis in axes)):
        cell = found.cell(values)
        if cell is not None:
            table.add_row(*values, _text(cell, arm, method, brief=False))
    return table


def _text(cell: Cell | None, arm: str, method: str, *, brief: bool) -> Text:
    if cell is None:
        return Text("")
    share = page.share_of(cell, arm, method)
    if cell.verdict is None or share is None:
        return Text("not run" if cell.verdict is None else "not judged", style="dim")
    verdict = page.verdict_of(cell, share)
    return Text(f"{MARK[verdict]} {_words(share, verdict, brief=brief)}", style=STYLES[verdict])


def _words(share: Share, verdict: Verdict, *, brief: bool) -> str:
    if verdict is Verdict.INCONCLUSIVE:
        return "inconclusive"
    if brief:
        return f"{share.lost} of {share.exposed}"
    return share_text(share.lost, share.exposed, share.low, share.high)
