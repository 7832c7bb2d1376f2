"""`kalab sweep`: a scenario over a grid of values, each cell a real run of its own.

Rules of this file:

- A cell is what `kalab run` makes of it, in a process of its own: its verdict, its evidence, its page.
- What is done is written down after every cell, so that nothing is run twice and nothing is lost by Ctrl-C.
- A folder holds one sweep. What was asked for otherwise is another sweep, and is never mixed into it.
- A cell that could not be run has no verdict, and one that is inconclusive no share: neither is a zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import msgspec

from lab.duration import told
from lab.errors import CannotRunError, UsageError
from lab.model import Verdict
from lab.one_run import Say, run_one

SWEEP = "sweep.json"
CELLS = "cells"
# A cell that takes this many times as long as it should, and a minute, hangs.
PATIENCE = 10


class Axis(msgspec.Struct, frozen=True):
    """One key, and the values that it takes."""

    key: str
    values: tuple[str, ...]


class Definition(msgspec.Struct, frozen=True):
    """What is swept: everything that decides what a cell is."""

    scenario: str
    axes: tuple[Axis, ...]
    flags: tuple[str, ...]
    """Of `kalab run`, the same for every cell."""


class Share(msgspec.Struct, frozen=True):
    """What one arm with one method lost in a cell."""

    arm: str
    method: str
    verdict: Verdict
    lost: int
    exposed: int
    low: float
    high: float
    executed_twice: int


class Cell(msgspec.Struct, frozen=True):
    """One point of the grid. `verdict` is None for what could not be run; `why_not` says why."""

    values: tuple[str, ...]
    verdict: Verdict | None
    shares: tuple[Share, ...]
    took_s: float
    folder: str = ""
    """Of its run, below the folder of the sweep."""
    why_not: str = ""


class Sweep(msgspec.Struct, frozen=True):
    """A sweep as it is stored: what it is, and the cells that are done, in the order in which they were run."""

    definition: Definition
    cells: tuple[Cell, ...]

    def cell(self, values: Sequence[str]) -> Cell | None:
        """The cell with these values, if it was run."""
        return next((cell for cell in self.cells if cell.values == tuple(values)), None)

    @property
    def exit_code(self) -> int:
        """4 if something could not be run; otherwise that of the worst verdict."""
        if any(cell.verdict is None for cell in self.cells):
            return CannotRunError.exit_code
        return Verdict.worst(cell.verdict for cell in self.cells if cell.verdict).exit_code


def grid(axes: Sequence[Axis], points: int | None = None) -> list[tuple[str, ...]]:
    """The cells of a grid: all of them in order, or so many of them, spread as far as they can be.

    The first of these are the same whatever their number, so that more can be asked for later.
    """
    places = list(product(*(range(len(axis.values)) for axis in axes)))
    if points is not None and points < len(places):
        places = sorted(_spread(places, [len(axis.values) for axis in axes], points))
    return [tuple(axis.values[i] for axis, i in zip(axes, place, strict=True)) for place in places]


def _spread(places: Sequence[tuple[int, ...]], sizes: Sequence[int], points: int) -> list[tuple[int, ...]]:
    """Each next one is the farthest from those that were chosen; the first of equals."""
    spans = [max(1, size - 1) for size in sizes]

    def apart(one: tuple[int, ...], other: tuple[int, ...]) -> float:
        return sum(((a - b) / span) ** 2 for a, b, span in zip(one, other, spans, strict=True))

    chosen = [places[0]]
    while len(chosen) < points:
        chosen.append(max(places, key=lambda place: min(apart(place, other) for other in chosen)))
    return chosen


def open_sweep(folder: Path, definition: Definition) -> Sweep:
    """The sweep of this folder, new or begun. Raises UsageError if it holds another one."""
    path = folder / SWEEP
    if not path.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{folder} holds something else than a sweep; choose another folder with --into")
        return Sweep(definition, ())
    try:
        stored = msgspec.json.decode(path.read_bytes(), type=Sweep)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{path}: {error}") from error
    if stored.definition != definition:
        raise UsageError(
            f"{folder} holds another sweep ({_otherwise(stored.definition, definition)}); choose another with --into"
        )
    return stored


def _otherwise(stored: Definition, asked: Definition) -> str:
    """What differs first, in words."""
    if stored.scenario != asked.scenario:
        return f"of {stored.scenario}"
    if stored.axes != asked.axes:
        return "of " + " and ".join(f"{axis.key}={','.join(axis.values)}" for axis in stored.axes)
    return f"with {' '.join(stored.flags) or 'no flags'}"


def run_sweep(
    folder: Path, begun: Sweep, cells: Sequence[tuple[str, ...]], estimates: Sequence[float], say: Say
) -> Iterator[Sweep]:
    """Runs these cells, and gives the sweep back after each, as it was stored."""
    left_s = sum(estimates)
    for number, (values, estimate) in enumerate(zip(cells, estimates, strict=True), 1):
        name = " ".join(f"{axis.key}={value}" for axis, value in zip(begun.definition.axes, values, strict=True))
        head = f"cell {number} of {len(cells)}, about {told(left_s)} left: {name}"
        cell = _run_cell(folder, begun.definition, values, estimate, partial(_say, say, head))
        kept = tuple(other for other in begun.cells if other.values != values)
        begun = Sweep(begun.definition, (*kept, cell))
        store(folder, begun)
        left_s -= estimate
        say(f"{head}: {cell.verdict or 'not run'}, {cell.took_s:.0f} s")
        yield begun


def _say(say: Say, head: str, text: str) -> None:
    say(f"{head}: {text}")


def store(folder: Path, sweep: Sweep) -> None:
    """Writes it elsewhere and then into place: whatever happens, a whole one stands there."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f"{SWEEP}.new"
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(sweep), indent=2) + b"\n")
    fresh.rename(folder / SWEEP)


def _run_cell(folder: Path, definition: Definition, values: Sequence[str], estimate: float, say: Say) -> Cell:
    settings = [
        word for axis, value in zip(definition.axes, values, strict=True) for word in ("--set", f"{axis.key}={value}")
    ]
    flags = [*definition.flags, *settings]
    ended = run_one(definition.scenario, flags, folder / CELLS, say, within_s=60 + PATIENCE * estimate)
    if ended.code == UsageError.exit_code:
        raise UsageError(ended.why_not)
    if ended.result is None:
        return Cell(tuple(values), None, (), ended.took_s, why_not=ended.why_not)
    shares = tuple(
        Share(a.arm, a.method, a.verdict, a.lost, a.exposed, a.lost_low, a.lost_high, a.executed_twice)
        for a in ended.result.arms
    )
    return Cell(tuple(values), ended.result.verdict, shares, ended.took_s, f"{CELLS}/{ended.folder}")
