"""The loss-against-idle-gap chart: the window that the model predicts, and what was measured over it.

Rules of this file: `plan` is pure geometry, `draw` turns it into SVG. A curve is told apart by its shape first and
by its colour second. The bar at a dot is the interval of the measured share, never left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, log10
from typing import NamedTuple

from markupsafe import Markup

from lab.report.svg import Box, Label, clamped, drawing, element, text_width
from lab.result import GapCurve
from lab.wording import duration_text, share_text, time_text

SHAPES = ("dot", "diamond", "square", "triangle")
"""One for each curve, in the order of the curves; more than four curves start again."""

LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 56.0, 44.0
SIZE = 12.0


class Plot(NamedTuple):
    """Where the chart's parts lie. Times are ms relative to the close, shares 0..1, the rest drawing units."""

    width: float
    height: float
    from_ms: float
    to_ms: float
    ticks: tuple[float, ...]
    windows: tuple[Box, ...]
    labels: tuple[Label, ...]

    def x(self, ms: float) -> float:
        share = (ms - self.from_ms) / (self.to_ms - self.from_ms)
        return LEFT + share * (self.width - LEFT - RIGHT)

    def y(self, share: float) -> float:
        return TOP + (1 - share) * (self.height - TOP - BOTTOM)


def shape_of(number: int) -> str:
    """The shape of the curve with this number, counted from 0."""
    return SHAPES[number % len(SHAPES)]


def plan(curves: Sequence[GapCurve], rtt_ms: float, width: float) -> Plot:
    """The geometry for a drawing of this width. The curves must hold at least one point or one window."""
    found = [point.gap_ms for curve in curves for point in curve.points]
    windows = list(
        dict.fromkeys((c.box_from_ms, c.box_to_ms) for c in curves if c.box_to_ms > c.box_from_ms)
    )  # ordered, each once
    edges = [*found, *(edge for window in windows for edge in window), 0.0]
    pad = max((max(edges) - min(edges)) * 0.05, 1.0)
    height = 330.0 if width > 500 else 290.0
    plot = Plot(width, height, min(edges) - pad, max(edges) + pad, (), (), ())
    ticks = _ticks(plot)
    boxes = tuple(Box(plot.x(left), plot.y(1.0), plot.x(right), plot.y(0.0)) for left, right in windows)
    return plot._replace(ticks=ticks, windows=boxes, labels=_labels(plot, ticks, windows, rtt_ms))


def _ticks(plot: Plot) -> tuple[float, ...]:
    """Round times, far enough apart that their labels do not touch."""
    span = plot.to_ms - plot.from_ms
    room = text_width("−1000", SIZE) + 10
    least = span * room / (plot.width - LEFT - RIGHT)
    power = 10 ** floor(log10(least))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * 0.999)
    return tuple(i * step for i in range(ceil(plot.from_ms / step), floor(plot.to_ms / step) + 1))


def _labels(
    plot: Plot, ticks: Sequence[float], windows: Sequence[tuple[float, float]], rtt_ms: float
) -> tuple[Label, ...]:
    room = (LEFT, plot.width - 2)
    labels = [
        Label(LEFT - 7, plot.y(s) + 4, (f"{s:.0%}".replace("%", " %"),), "end", SIZE, "tick") for s in (0, 0.5, 1)
    ]
    below = plot.y(0) + 18
    labels += [
        Label(clamped(plot.x(t), _tick(t), SIZE, (0, plot.width)), below, (_tick(t),), "middle", SIZE, "tick")
        for t in ticks
    ]
    titles = ("idle gap, ms relative to the upstream's close", "idle gap, ms from the close")
    axis = next((title for title in titles if text_width(title, SIZE) < room[1] - room[0]), titles[-1])
    labels.append(Label(clamped(plot.width / 2, axis, SIZE, room), plot.height - 6, (axis,), "middle", SIZE, "axis"))
    if windows:
        left, right = windows[0]
        text = _window_text(right - left, rtt_ms)
        middle = clamped(plot.x((left + right) / 2), text, SIZE, room)
        labels.append(Label(middle, 14.0, (text,), "middle", SIZE, "window-label"))
    text = "the upstream closes"
    fits = plot.x(0) + 6 + text_width(text, SIZE) < plot.width
    labels.append(Label(plot.x(0) + (6 if fits else -6), 40.0, (text,), "start" if fits else "end", SIZE, "tick"))
    return tuple(labels)


def _tick(ms: float) -> str:
    return f"{ms:+g}".replace("-", "−") if ms else "0"


def _window_text(width_ms: float, rtt_ms: float) -> str:
    """The window is one round trip wide, and a little for the spread of the close; a stall of a peer widens it more."""
    if 0 <= width_ms - rtt_ms <= max(1.0, rtt_ms / 8):
        return f"one round trip, {duration_text(rtt_ms)}"
    return f"predicted loss, {duration_text(width_ms)}"


def draw(curves: Sequence[GapCurve], rtt_ms: float, width: float, class_: str) -> Markup:
    """The chart. Every curve's dots come after the windows and the axes, so nothing hides a measurement."""
    plot = plan(curves, rtt_ms, width)
    parts = [*_windows(plot), *_axes(plot)]
    for number, curve in enumerate(curves):
        parts += _curve(plot, number, curve)
    parts += [label.draw() for label in plot.labels]
    return drawing(plot.width, plot.height, describe(curves), parts, class_)


def describe(curves: Sequence[GapCurve]) -> str:
    """The chart in a sentence, for who cannot see it."""
    told = []
    for curve in curves:
        lost, n = sum(p.lost for p in curve.points), sum(p.n for p in curve.points)
        told.append(f"{curve.title}: {lost} of {n} lost")
    first = next((c for c in curves if c.box_to_ms > c.box_from_ms), None)
    window = (
        f" Loss is predicted from {time_text(first.box_from_ms)} to {time_text(first.box_to_ms)} ms." if first else ""
    )
    return f"Share of requests lost against the idle gap. {'; '.join(told)}.{window}"


def _windows(plot: Plot) -> list[Markup]:
    parts = []
    for window in plot.windows:
        width, height = window.right - window.left, window.bottom - window.top
        parts.append(element("rect", x=window.left, y=window.top, width=width, height=height, class_="window"))
    if plot.windows:
        first = plot.windows[0]
        ends = f"M{first.left:.2f},26 v-6 H{first.right:.2f} v6"
        parts.append(element("path", d=ends, class_="bracket"))
    return parts


def _axes(plot: Plot) -> list[Markup]:
    left, right = LEFT, plot.width - RIGHT
    parts = [
        element("line", x1=left, x2=right, y1=plot.y(s), y2=plot.y(s), class_="axis-line" if s == 0 else "grid")
        for s in (0.0, 0.5, 1.0)
    ]
    parts += [
        element("line", x1=plot.x(t), x2=plot.x(t), y1=plot.y(0), y2=plot.y(0) + 5, class_="axis-line")
        for t in plot.ticks
    ]
    parts.append(element("line", x1=plot.x(0), x2=plot.x(0), y1=30.0, y2=plot.y(0), class_="close-line"))
    return parts


def _curve(plot: Plot, number: int, curve: GapCurve) -> list[Markup]:
    # Curves after the first stand a little to the right, so that bars at the same gap do not cover each other.
    shift = number * 5.0
    points = sorted(curve.points, key=lambda point: point.gap_ms)
    places = [(plot.x(p.gap_ms) + shift, plot.y(p.lost / p.n if p.n else 0.0)) for p in points]
    class_ = f"curve-{number % len(SHAPES)}"
    path = " ".join(f"{x:.2f},{y:.2f}" for x, y in places)
    parts = [element("polyline", points=path, class_=f"{class_} trace")] if len(places) > 1 else []
    for point, (x, y) in zip(points, places, strict=True):
        if point.n == 0:
            continue
        top, bottom = plot.y(point.high), plot.y(point.low)
        title = f"{curve.title}, {time_text(point.gap_ms)} ms: {share_text(point.lost, point.n, point.low, point.high)}"
        bar = element("path", d=f"M{x - 3:.2f},{top:.2f} h6 m-3,0 V{bottom:.2f} m-3,0 h6", class_="bar")
        parts.append(element("g", element("title", title), bar, marker(shape_of(number), x, y), class_=class_))
    return parts


def marker(shape: str, x: float, y: float, r: float = 4.5) -> Markup:
    """The shape of a curve, centred at (x, y). The first is filled, the others are hollow, so a dot shows through."""
    if shape == "dot":
        return element("circle", cx=x, cy=y, r=r, class_="mark")
    points = " ".join(f"{x + r * a:.2f},{y + r * b:.2f}" for a, b in _CORNERS[shape])
    return element("polygon", points=points, class_="mark")


_CORNERS: dict[str, tuple[tuple[float, float], ...]] = {
    "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    "triangle": ((0, -1.3), (1.2, 0.9), (-1.2, 0.9)),
}


def strip(lost: int, n: int, low: float, high: float) -> Markup:
    """A share as a small bar from 0 to 100 % with its interval; the number stands beside it, so it is decoration."""
    if n == 0:
        return Markup("")
    width, share = 96.0, lost / n
    parts = [
        element("rect", x=0, y=3, width=width, height=6, class_="strip-back"),
        element("rect", x=0, y=3, width=width * share, height=6, class_="strip-lost"),
        element("path", d=f"M{width * low:.2f},1 v10 m0,-5 H{width * high:.2f} m0,-5 v10", class_="strip-bar"),
    ]
    return element("svg", *parts, viewBox="-1 0 98 12", width=98, height=12, class_="strip", aria_hidden="true")
