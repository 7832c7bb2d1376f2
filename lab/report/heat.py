"""Loss over idle gap and margin as a map: a row for each margin, a cell for some idle gaps, the model's box around.

Rules of this file: `plan` is pure geometry, `draw` turns it into SVG. A cell is the darker the more was lost in it; the
box is a line, so that where it lies is told by more than colour.
"""

from __future__ import annotations

from typing import NamedTuple

from markupsafe import Markup

from lab.report.svg import Box, Label, clamped, drawing, element, text_width
from lab.result import LossMap, MapCell, MapRow
from lab.wording import duration_text, range_text, share_text, time_text

TOP, BOTTOM, RIGHT = 26.0, 44.0, 14.0
ROW, BETWEEN = 26.0, 8.0
SIZE = 12.0
NOTHING = "nothing done"


class Plot(NamedTuple):
    """Where the map's parts lie. Times are ms relative to the close, the rest drawing units."""

    width: float
    height: float
    left: float
    from_ms: float
    to_ms: float
    cells: tuple[tuple[Box, MapCell], ...]
    boxes: tuple[Box, ...]
    """The model's, in the rows that have one."""
    labels: tuple[Label, ...]

    def x(self, ms: float) -> float:
        return self.left + (ms - self.from_ms) / (self.to_ms - self.from_ms) * (self.width - self.left - RIGHT)


def margin_text(row: MapRow) -> str:
    """What the row is called."""
    return NOTHING if row.margin_ms is None else f"{round(row.margin_ms)} ms"


def plan(found: LossMap, width: float) -> Plot:
    """The geometry for a drawing of this width. The map must hold at least one cell."""
    edges = [edge for row in found.rows for cell in row.cells for edge in (cell.from_ms, cell.to_ms)]
    left = max(text_width(margin_text(row), SIZE) for row in found.rows) + 12
    height = TOP + len(found.rows) * (ROW + BETWEEN) + BOTTOM
    plot = Plot(width, height, left, min(edges), max(edges), (), (), ())
    cells, boxes = [], []
    for number, row in enumerate(found.rows):
        top = TOP + number * (ROW + BETWEEN)
        cells += [(Box(plot.x(c.from_ms), top, plot.x(c.to_ms), top + ROW), c) for c in row.cells]
        if row.box_from_ms < row.box_to_ms:
            low, high = (max(plot.from_ms, min(plot.to_ms, ms)) for ms in (row.box_from_ms, row.box_to_ms))
            boxes.append(Box(plot.x(low), top - 2, plot.x(high), top + ROW + 2))
    return plot._replace(cells=tuple(cells), boxes=tuple(boxes), labels=_labels(found, plot))


def _labels(found: LossMap, plot: Plot) -> tuple[Label, ...]:
    labels = [
        Label(plot.left - 6, TOP + i * (ROW + BETWEEN) + ROW / 2 + 4, (margin_text(row),), "end", SIZE, "tick")
        for i, row in enumerate(found.rows)
    ]
    below, room = plot.height - BOTTOM + 14, (0.0, plot.width)
    for ms in (-1.5 * found.rtt_ms, -found.rtt_ms, -found.rtt_ms / 2, 0.0, found.rtt_ms / 2):
        if plot.from_ms <= ms <= plot.to_ms:
            text = time_text(ms, 0)
            labels.append(Label(clamped(plot.x(ms), text, SIZE, room), below, (text,), "middle", SIZE, "tick"))
    titles = ("idle gap, ms relative to the upstream's close", "idle gap, ms from the close")
    axis = next((title for title in titles if text_width(title, SIZE) < plot.width), titles[-1])
    labels.append(Label(plot.width / 2, plot.height - 6, (axis,), "middle", SIZE, "axis"))
    head = f"margin; round trip {duration_text(found.rtt_ms)}"
    return (*labels, Label(2, 14, (head,), "start", SIZE, "window-label"))


def draw(found: LossMap, width: float, class_: str) -> Markup:
    """The map."""
    plot = plan(found, width)
    parts = [_cell(box, cell) for box, cell in plot.cells]
    bottom = plot.height - BOTTOM
    parts.append(element("line", x1=plot.x(0), x2=plot.x(0), y1=TOP - 6, y2=bottom, class_="close-line"))
    parts += [element("rect", class_="heat-box", **_place(box)) for box in plot.boxes]
    parts += [label.draw() for label in plot.labels]
    return drawing(plot.width, plot.height, describe(found), parts, class_)


def _cell(box: Box, cell: MapCell) -> Markup:
    place = _place(box)
    title = f"{time_text(cell.from_ms)} to {time_text(cell.to_ms)} ms: {cell.lost} of {cell.n} lost"
    return element(
        "g",
        element("title", title),
        element("rect", class_="heat-back", **place),
        element("rect", class_="heat-lost", fill_opacity=cell.lost / cell.n, **place),
    )


def _place(box: Box) -> dict[str, float]:
    return {"x": box.left, "y": box.top, "width": box.right - box.left, "height": box.bottom - box.top}


def describe(found: LossMap) -> str:
    """The map in a sentence, for who cannot see it."""
    told = "; ".join(
        f"margin {margin_text(row)}: {share_text(row.lost, row.n, row.low, row.high)} lost, "
        f"{range_text(row.predicted_low, row.predicted_high)} predicted"
        for row in found.rows
    )
    return f"Requests lost by idle gap and margin over a round trip of {duration_text(found.rtt_ms)}. {told}."
