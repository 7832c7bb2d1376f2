"""The packet ladder of one lost request: three lanes, arrows that slant from when they left to when they arrived.

Rules of this file:

- `plan` is pure geometry, `draw` turns it into SVG.
- Every departure and every arrival has a row of its own, in order of time, at least a line of text high: what is
  0.1 ms apart can still be read. In between, distance is time. What is far apart is cut, and the cut says how much.
- So order and slant are true and times are written, but lengths are to scale only between neighbours that are neither
  stretched nor cut. The page says so.
- A label stands in the room above its own departure; no other row's label reaches into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from markupsafe import Markup

from lab.report.svg import Label, arrow_head, clamped, cross, drawing, element, text_width, wrapped
from lab.result import Ladder, Step
from lab.wording import decimals_for, duration_text, time_text

LANES = ("client", "proxy", "upstream")
BALANCER = "balancer"
IN_CHAIN = ("client", BALANCER, "proxy", "upstream")

TOP = 40.0
ROW = 17.0
"""The least distance between two rows."""
FLIGHT = 56.0
"""How high the usual flight between proxy and upstream is drawn; it sets the scale."""
LONGEST = 130.0
"""A stretch of time that would be higher than this is cut …"""
CUT = 46.0
"""… and drawn this high."""
GAP = 12.0
"""Room between a label and what stands above it."""


class Row(NamedTuple):
    """One departure or arrival. `at` is ms, `y` where it is drawn, `cut_ms` what was cut out just above it."""

    at: float
    step: int
    arrives: bool
    y: float
    cut_ms: float | None


class Arrow(NamedTuple):
    """One step as drawn. `tip` is where it arrived, where it got lost, or the same as `tail` for a local fact."""

    look: str
    tail: tuple[float, float]
    tip: tuple[float, float]
    delivered: bool
    local: bool
    label: Label
    full_text: str


class Plan(NamedTuple):
    """Where the ladder's parts lie, in drawing units."""

    width: float
    height: float
    lanes: dict[str, float]
    rows: tuple[Row, ...]
    arrows: tuple[Arrow, ...]
    labels: tuple[Label, ...]
    """Lane heads, times and cuts; the arrows have their own."""
    size: float


def look_of(step: Step) -> str:
    """How a step is drawn: "rst" and "fin" before "data"; "note" for what happened at one place."""
    if step.sender == step.receiver:
        return "note"
    return "rst" if "R" in step.flags else "fin" if "F" in step.flags else "data"


def plan(ladder: Ladder, width: float) -> Plan:
    """The geometry for a drawing of this width."""
    size = 13.0 if width > 500 else 11.0
    decimals = decimals_for([row.at for row in _instants(ladder.steps)])
    column = max(text_width(time_text(row.at, decimals), size) for row in _instants(ladder.steps)) + 8
    lanes = _lanes(ladder.steps, column + 22, width, size)
    texts = [_lines(step, lanes, (column + 8, width - 4), size) for step in ladder.steps]
    rows = _rows(ladder.steps, [len(lines) for lines in texts], size)
    arrows = tuple(_arrow(i, step, lanes, rows, texts[i], size) for i, step in enumerate(ladder.steps))
    bottom = max([row.y for row in rows] + [arrow.tip[1] for arrow in arrows]) + 22
    labels = _side_labels(rows, lanes, column, width, decimals, size)
    return Plan(width, bottom, lanes, rows, arrows, labels, size)


def _lanes(steps: Sequence[Step], left: float, width: float, size: float) -> dict[str, float]:
    """The three lanes, and any other that a step names, left to right."""
    seen = [name for step in steps for name in (step.sender, step.receiver)]
    names = list(dict.fromkeys([*LANES, *seen])) if BALANCER not in seen else [n for n in IN_CHAIN if n in seen]
    right = width - text_width("upstream", size) / 2 - 4
    return {name: left + i * (right - left) / (len(names) - 1) for i, name in enumerate(names)}


def _instants(steps: Sequence[Step]) -> list[Row]:
    """Departures and arrivals in order of time, not yet placed. At the same time the order of the steps decides."""
    rows = [Row(step.t_ms, i, False, 0.0, None) for i, step in enumerate(steps)]
    for i, step in enumerate(steps):
        if step.arrived_ms is not None and step.sender != step.receiver:
            rows.append(Row(max(step.arrived_ms, step.t_ms), i, True, 0.0, None))
    return sorted(rows)


def _scale(steps: Sequence[Step]) -> float:
    """Drawing units per ms: the usual flight over the longer of the two hops gets `FLIGHT`."""
    flights: dict[frozenset[str], list[float]] = {}
    for step in steps:
        if step.arrived_ms is not None and step.arrived_ms > step.t_ms and step.sender != step.receiver:
            flights.setdefault(frozenset((step.sender, step.receiver)), []).append(step.arrived_ms - step.t_ms)
    usual = max((median(times) for times in flights.values()), default=1.0)
    return FLIGHT / usual


def _rows(steps: Sequence[Step], lines: Sequence[int], size: float) -> tuple[Row, ...]:
    scale = _scale(steps)
    placed: list[Row] = []
    for row in _instants(steps):
        room = ROW if row.arrives else lines[row.step] * size * 1.2 + GAP
        if not placed:
            placed.append(row._replace(y=TOP + room))
            continue
        passed = row.at - placed[-1].at
        if passed * scale > LONGEST:
            y, cut_ms = placed[-1].y + CUT + (0 if row.arrives else room), passed
        else:
            y, cut_ms = placed[-1].y + max(room, passed * scale), None
        placed.append(row._replace(y=y, cut_ms=cut_ms))
    return tuple(placed)


def _side(step: Step, lanes: dict[str, float]) -> str:
    """On which side of its lane a label stands: along the arrow; at the last lane a local fact goes to the left."""
    if step.sender == step.receiver:
        return "end" if lanes[step.sender] == max(lanes.values()) else "start"
    return "start" if lanes[step.receiver] > lanes[step.sender] else "end"


def _text(step: Step) -> str:
    lost = step.arrived_ms is None and step.sender != step.receiver
    return f"{step.label} (never arrived)" if lost else step.label


def _lines(step: Step, lanes: dict[str, float], room: tuple[float, float], size: float) -> tuple[str, ...]:
    x = lanes[step.sender]
    width = room[1] - x - 10 if _side(step, lanes) == "start" else x - 10 - room[0]
    return wrapped(_text(step), width, size)


def _arrow(
    i: int, step: Step, lanes: dict[str, float], rows: Sequence[Row], lines: tuple[str, ...], size: float
) -> Arrow:
    left = next(row for row in rows if row.step == i and not row.arrives)
    came = next((row for row in rows if row.step == i and row.arrives), None)
    tail = (lanes[step.sender], left.y)
    local = step.sender == step.receiver
    if local:
        tip = tail
    elif came is not None:
        tip = (lanes[step.receiver], came.y)
    else:
        tip = (tail[0] + (lanes[step.receiver] - tail[0]) * 0.6, left.y + ROW)
    side = _side(step, lanes)
    x = tail[0] + (10 if side == "start" else -10)
    label = Label(x, left.y + (4 if local else -5), lines, side, size, f"label {look_of(step)}")
    return Arrow(look_of(step), tail, tip, came is not None, local, label, _text(step))


def _side_labels(
    rows: Sequence[Row], lanes: dict[str, float], column: float, width: float, decimals: int, size: float
) -> tuple[Label, ...]:
    labels = [Label(column, 18.0, ("ms",), "end", size, "time")]
    for name, x in lanes.items():
        head = wrapped(name, 90, size, 1)[0]
        labels.append(Label(clamped(x, head, size, (column + 4, width)), 18.0, (head,), "middle", size, "lane-head"))
    labels += [Label(column, row.y + 4, (time_text(row.at, decimals),), "end", size, "time") for row in rows]
    ends = sorted(lanes.values())[-2:]
    for y, ms in cuts(rows):
        text = f"{duration_text(ms)} cut out"
        labels.append(Label(sum(ends) / 2, y + 4, (text,), "middle", size, "cut-label"))
    return tuple(labels)


def cuts(rows: Sequence[Row]) -> list[tuple[float, float]]:
    """Where the axis is cut: (y, ms that were cut out)."""
    return [(before.y + CUT / 2 + 2, row.cut_ms) for before, row in pairwise(rows) if row.cut_ms is not None]


def draw(ladder: Ladder, width: float, class_: str) -> Markup:
    """The ladder. Labels come last and carry a halo, so an arrow that passes behind one does not strike it out."""
    placed = plan(ladder, width)
    parts = [
        element("line", x1=x, x2=x, y1=TOP - 14, y2=placed.height - 6, class_="lane") for x in placed.lanes.values()
    ]
    first = min(placed.lanes.values())
    for row in placed.rows:
        arrow = placed.arrows[row.step]
        end = arrow.tip[0] if row.arrives else arrow.tail[0]
        parts.append(element("line", x1=first - 16, x2=end, y1=row.y, y2=row.y, class_="guide"))
    for y, _ in cuts(placed.rows):
        parts += _cut(y, placed)
    for arrow in placed.arrows:
        parts += _draw_arrow(arrow)
    parts += [label.draw() for label in placed.labels]
    parts += [element("g", element("title", arrow.full_text), arrow.label.draw()) for arrow in placed.arrows]
    return drawing(placed.width, placed.height, describe(ladder), parts, class_)


def describe(ladder: Ladder) -> str:
    """The ladder in a sentence; the table behind it holds every step."""
    return (
        f"Packets of one lost request between client, proxy and upstream, {len(ladder.steps)} steps. {ladder.caption}"
    )


def _cut(y: float, placed: Plan) -> list[Markup]:
    """Two slanted strokes on every lane; the label between the lanes says how much time was left out."""
    parts = []
    for x in placed.lanes.values():
        parts.append(element("rect", x=x - 7, y=y - 4, width=14.0, height=8.0, class_="cut-back"))
        stroke = f"M{x - 7:.2f},{y - 1:.2f} l14,-6 m-14,8 l14,-6"
        parts.append(element("path", d=stroke, class_="cut"))
    return parts


def _draw_arrow(arrow: Arrow) -> list[Markup]:
    (x1, y1), (x2, y2) = arrow.tail, arrow.tip
    dot = element("circle", cx=x1, cy=y1, r=3.5 if arrow.local else 2.5, class_=f"{arrow.look} point")
    if arrow.local:
        return [dot]
    line = element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=f"{arrow.look} flight")
    end = (
        arrow_head(arrow.tail, arrow.tip, f"{arrow.look} head")
        if arrow.delivered
        else cross(arrow.tip, f"{arrow.look} lost")
    )
    return [line, dot, end]
