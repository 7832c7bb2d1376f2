"""The page of a sweep: a heat map of every two keys, a curve for one, a cell's verdict on each. Rules: `page.py`."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from lab import wording
from lab.model import Verdict
from lab.report.page import NARROW, WIDE, template
from lab.report.svg import Label, drawing, element
from lab.sweep import Axis, Cell, Share, Sweep

HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 220.0, 52.0, 24.0, 14.0, 46.0
SIZE = 12.0


class Square(NamedTuple):
    """One cell of the heat map. `lost` is 0 to 1."""

    kind: str
    text: str
    title: str
    lost: float
    href: str


class Map(NamedTuple):
    """One arm with one method; with more than two keys, for one choice of the others."""

    title: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Square, ...]], ...]
    curve: Markup


def lanes_of(sweep: Sweep) -> list[tuple[str, str]]:
    """The arms and methods that were judged in any cell."""
    return list(dict.fromkeys((share.arm, share.method) for cell in sweep.cells for share in cell.shares))


def share_of(cell: Cell, arm: str, method: str) -> Share | None:
    return next((share for share in cell.shares if (share.arm, share.method) == (arm, method)), None)


def verdict_of(cell: Cell, share: Share) -> Verdict:
    """Of this arm in this cell. In a run that was no experiment nothing is settled, whatever its arms say."""
    return Verdict.INCONCLUSIVE if cell.verdict is Verdict.INCONCLUSIVE else share.verdict


def write(sweep: Sweep, path: Path) -> None:
    """Writes the page as UTF-8, whatever the locale."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(sweep), encoding="utf-8")


def render(sweep: Sweep) -> str:
    """The whole page."""
    verdicts = [cell.verdict or Verdict.INCONCLUSIVE for cell in sweep.cells]
    counts = [f"{verdicts.count(each)} {each.value}" for each in Verdict if each in verdicts]
    missing = sum(cell.verdict is None for cell in sweep.cells)
    return template("sweep.html").render(
        sweep=sweep,
        verdict=Verdict.worst(verdicts),
        summary=f"{len(verdicts)} cells: {', '.join(counts) or 'none'}"
        + (f"; {missing} of these could not be run" if missing else ""),
        keys=" and ".join(axis.key for axis in sweep.definition.axes),
        maps=[each for lane in lanes_of(sweep) for each in _maps(sweep, *lane)],
        mark=wording.MARK,
    )


def _maps(sweep: Sweep, arm: str, method: str) -> list[Map]:
    axes = sweep.definition.axes
    if len(axes) == 1:
        (axis,) = axes
        squares = tuple(_square(sweep.cell((value,)), arm, method) for value in axis.values)
        return [Map(f"{arm}, {method}", "", axis.values, ((axis.key, squares),), _curve(sweep, axis, arm, method))]
    down, across, *others = axes
    found = []
    for rest in product(*(axis.values for axis in others)):
        where = "".join(f", {axis.key}={value}" for axis, value in zip(others, rest, strict=True))
        rows = tuple(
            (one, tuple(_square(sweep.cell((one, other, *rest)), arm, method) for other in across.values))
            for one in down.values
        )
        corner = f"{down.key} \\ {across.key}"
        found.append(Map(f"{arm}, {method}{where}", corner, across.values, rows, Markup("")))
    return found


def _square(cell: Cell | None, arm: str, method: str) -> Square:
    if cell is None:
        return Square("none", "", "not run", 0.0, "")
    if cell.verdict is None:
        return Square("none", "not run", cell.why_not, 0.0, "")
    href = f"{cell.folder}/report.html"
    share = share_of(cell, arm, method)
    if share is None:
        return Square("none", "not judged", "see its page for the reason", 0.0, href)
    told = wording.share_text(share.lost, share.exposed, share.low, share.high)
    verdict = verdict_of(cell, share)
    if verdict is Verdict.INCONCLUSIVE:
        return Square("inconclusive", f"{wording.MARK[verdict]} not settled", told, 0.0, href)
    lost = share.lost / share.exposed
    return Square(verdict.value, f"{wording.MARK[verdict]} {share.lost} of {share.exposed}", told, lost, href)


def _curve(sweep: Sweep, axis: Axis, arm: str, method: str) -> Markup:
    """Share lost against the values in their order, each with its interval; what is not settled has no height."""
    return _draw(sweep, axis, arm, method, WIDE, "wide") + _draw(sweep, axis, arm, method, NARROW, "narrow")


def _draw(sweep: Sweep, axis: Axis, arm: str, method: str, width: float, class_: str) -> Markup:
    step = (width - LEFT - RIGHT) / len(axis.values)
    bottom = HEIGHT - BOTTOM

    def y(share: float) -> float:
        return bottom - share * (bottom - TOP)

    parts = [element("line", x1=LEFT, x2=width - RIGHT, y1=y(s), y2=y(s), class_="grid") for s in (0.0, 0.5, 1.0)]
    parts += [Label(LEFT - 6, y(s) + 4, (f"{s:.0%}",), "end", SIZE, "tick").draw() for s in (0.0, 0.5, 1.0)]
    every = max(1, round(56 / step))
    told = []
    for number, value in enumerate(axis.values):
        x = LEFT + (number + 0.5) * step
        if number % every == 0:
            parts.append(Label(x, bottom + 18, (value,), "middle", SIZE, "tick").draw())
        cell = sweep.cell((value,))
        share = share_of(cell, arm, method) if cell else None
        if cell is None or share is None:
            continue
        verdict = verdict_of(cell, share)
        told.append(f"{value}: {verdict.value}")
        if verdict is Verdict.INCONCLUSIVE:
            parts.append(element("rect", x=x - 7, y=TOP, width=14.0, height=bottom - TOP, class_="sweep-open"))
            parts.append(Label(x, (TOP + bottom) / 2, ("?",), "middle", SIZE, "tick").draw())
            continue
        parts.append(element("line", x1=x, x2=x, y1=y(share.low), y2=y(share.high), class_="sweep-bar"))
        middle = y(share.lost / share.exposed)
        parts.append(element("circle", cx=x, cy=middle, r=5.0, class_=f"sweep-{verdict.value}"))
        told[-1] += f", {wording.share_text(share.lost, share.exposed, share.low, share.high)} lost"
    parts.append(Label(LEFT + (width - LEFT - RIGHT) / 2, HEIGHT - 6, (axis.key,), "middle", SIZE, "axis").draw())
    return drawing(width, HEIGHT, f"Share lost over {axis.key}. {'; '.join(told)}.", parts, class_)
