"""The report page: a `RunResult` in, one self-contained HTML file out.

Rules of this file:

- Nothing is computed here that a verdict rests on; this only arranges what the result holds.
- Every string of the result may be hostile (it can come from a peer's response): the template escapes by default, and
  drawings escape in `svg.element`. The page forbids itself scripts and the network.
- A drawing is made twice, wide and narrow, and the style sheet shows the one that fits: scaled-down text is no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from lab import wording
from lab.report import chart, heat, ladder
from lab.report.svg import arrow_head, element
from lab.result import ArmResult, Change, GapCurve, Ladder, LossMap, RunResult

WIDE, NARROW = 900.0, 310.0

HOLDS = (
    ("plan.json", "What was going to be run, and what was expected; written before the first aimed request."),
    ("manifest.json", "SHA-256 of every file, so that a later change is noticed."),
    ("verdict.json", "The result as data: what this page shows."),
    ("report.html", "This page."),
    ("trials.jsonl", "The witnesses joined: one line for each aimed request."),
    ("client*.jsonl", "What the lab's own client sent and got, with times."),
    ("wire*.jsonl", "What went over the wire between proxy and upstream: data, FIN and RST, leaving and arriving."),
    ("proxy*.jsonl", "The proxy's events: connections taken and closed, requests sent, attempts that failed, and why."),
    ("middle*.jsonl", "The events of the proxy in the middle of the chain."),
    ("upstream*.jsonl", "The upstream's events: requests executed and answered, connections closed, and why."),
    ("execut*.jsonl", "The upstream's list of executed requests."),
    ("proxy*.pcap", "The packets as the proxy's side saw them. Opens in Wireshark."),
    ("upstream*.pcap", "The packets as the upstream's side saw them. Opens in Wireshark."),
    ("*.pcap", "Packets. Opens in Wireshark."),
    ("access*", "The proxy's access log."),
    ("*.toml", "Configuration as it was given to the proxy."),
    ("*.log", "What a process printed."),
    ("*.txt", "What a process printed."),
)
"""File names, and what each holds. The first pattern that fits counts."""


class Row(NamedTuple):
    """One arm with one method, as the fix table shows it."""

    arm: ArmResult
    share: tuple[str, str]
    strip: Markup
    effect: wording.Effect
    cost: list[str]


class Group(NamedTuple):
    """The rows of one arm; they share title, reason and configuration."""

    arm: str
    title: str
    why: str
    control: str
    changes: tuple[Change, ...]
    rows: tuple[Row, ...]


def render(result: RunResult) -> str:
    """The whole page."""
    curves = charted(result)
    return template("page.html").render(
        result=result,
        meaning=wording.MEANING[result.verdict],
        mark=wording.MARK,
        groups=groups(result.arms),
        chart=_chart(curves, result.rtt_ms),
        legend=[(_glyph(i), curve.title) for i, curve in enumerate(curves)],
        maps=[_map(found) for found in result.maps if any(row.cells for row in found.rows)],
        margin=heat.margin_text,
        range=wording.range_text,
        ladder=_ladder(result.ladder),
        looks=_looks(result.ladder),
        files=files_by_kind(result.files),
        share=wording.share_text,
        change=wording.change_text,
        time=wording.time_text,
        duration=wording.duration_text,
        step_decimals=wording.decimals_for([s.t_ms for s in result.ladder.steps]) if result.ladder else 1,
    )


def write(result: RunResult, path: Path) -> None:
    """Writes the page as UTF-8, whatever the locale."""
    path.write_text(render(result), encoding="utf-8")


def groups(arms: Sequence[ArmResult]) -> list[Group]:
    """The arms in their order, the methods of one arm together."""
    harmful = wording.harmful_changes(arms)
    titles = {arm.arm: arm.title for arm in arms}
    found = []
    for name, members in groupby(arms, key=lambda arm: arm.arm):
        same = list(members)
        rows = tuple(_row(arm, arms, harmful) for arm in same)
        control = titles.get(same[0].control or "", "")
        found.append(Group(name, same[0].title, same[0].why, control, same[0].changes, rows))
    return found


def _row(arm: ArmResult, arms: Sequence[ArmResult], harmful: frozenset[tuple[Change, ...]]) -> Row:
    return Row(
        arm,
        wording.share_parts(arm.lost, arm.exposed, arm.lost_low, arm.lost_high),
        chart.strip(arm.lost, arm.exposed, arm.lost_low, arm.lost_high),
        wording.effect(arm, harmful),
        wording.cost_parts(arm, wording.control_of(arm, arms)),
    )


def _kind(name: str) -> tuple[str, str]:
    """The pattern that a file's name fits and what such files hold; the name and nothing when it is not known."""
    base = name.rsplit("/", 1)[-1]
    return next((kind for kind in HOLDS if fnmatch(base, kind[0])), (name, ""))


def files_by_kind(names: Sequence[str]) -> list[tuple[str, int, str]]:
    """What the files are called, how many there are, and what they hold; files of one kind take one line."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for name in names:
        kinds.setdefault(_kind(name), []).append(name)
    return [(p if len(same) > 1 else same[0], len(same), text) for (p, text), same in kinds.items()]


def charted(result: RunResult) -> list[GapCurve]:
    """The curves that are drawn: nothing done, and the first fix that was swept over the same window.

    More than two would hide each other, for a fix that works is a row of zeros. The tables hold them all.
    """
    fixes = {arm.arm for arm in result.arms if arm.is_fix}
    curves = [curve for curve in result.curves if curve.points]
    first = next((curve for curve in curves if curve.arm not in fixes), None)
    if first is None:
        return curves[:1]
    window = (first.box_from_ms, first.box_to_ms)
    same = [c for c in curves if c.arm in fixes and (c.box_from_ms, c.box_to_ms) == window]
    return [first, *same[:1]]


def _chart(curves: Sequence[GapCurve], rtt_ms: float) -> Markup:
    if not curves:
        return Markup("")
    return chart.draw(curves, rtt_ms, WIDE, "wide") + chart.draw(curves, rtt_ms, NARROW, "narrow")


def _map(found: LossMap) -> Markup:
    return heat.draw(found, WIDE, "wide") + heat.draw(found, NARROW, "narrow")


def _ladder(found: Ladder | None) -> Markup:
    if found is None or not found.steps:
        return Markup("")
    return ladder.draw(found, WIDE, "wide") + ladder.draw(found, NARROW, "narrow")


def _looks(found: Ladder | None) -> list[tuple[Markup, str]]:
    """The legend of the ladder: only what occurs in it."""
    names = {"data": "data", "fin": "FIN: “I send no more”", "rst": "RST: “there is no such connection”"}
    seen = {ladder.look_of(step) for step in found.steps} if found else set()
    return [(_line_glyph(look), name) for look, name in names.items() if look in seen]


def _glyph(number: int) -> Markup:
    """The mark of a curve, for the legend."""
    mark = element("g", chart.marker(chart.shape_of(number), 8, 8), class_=f"curve-{number % len(chart.SHAPES)}")
    return element("svg", mark, viewBox="0 0 16 16", width=16, height=16, class_="glyph", aria_hidden="true")


def _line_glyph(look: str) -> Markup:
    line = element("line", x1=1, x2=29, y1=8, y2=8, class_=f"{look} flight")
    head = arrow_head((1, 8), (37, 8), f"{look} head")
    return element("svg", line, head, viewBox="0 0 38 16", width=38, height=16, class_="glyph", aria_hidden="true")


def template(name: str) -> Template:
    """A page of this folder, which escapes what is put in and knows no missing value."""
    folder = FileSystemLoader(Path(__file__).parent)
    made = Environment(loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return made.get_template(name)
