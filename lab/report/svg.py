"""The few parts of SVG that the report needs: an escaping element builder, labels that know their size, arrows.

Rules of this file: pure, no ids (a page holds every drawing twice, wide and narrow), no colours (the page's style
sheet gives them by class, so that light, dark and print work).
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterator
from math import hypot
from typing import NamedTuple

from markupsafe import Markup, escape

from lab.wording import printable


def element(name: str, *inside: str | Markup, **attributes: object) -> Markup:
    """One element. Text and attribute values are escaped; `class_` is `class`, `stroke_width` is `stroke-width`."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}>{''.join(escape(part) for part in inside)}</{name}>")


def _number(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def drawing(width: float, height: float, description: str, parts: list[Markup], class_: str) -> Markup:
    """An SVG that takes the width it is given and names itself to a screen reader."""
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {_number(float(width))} {_number(float(height))}",
        width=float(width),
        height=float(height),
        class_=class_,
        role="img",
        aria_label=description,
    )


class Box(NamedTuple):
    """A rectangle in drawing units, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


class Label(NamedTuple):
    """Lines of text. (x, y) is the baseline of the last line, at the anchor ("start", "middle", "end")."""

    x: float
    y: float
    lines: tuple[str, ...]
    anchor: str
    size: float
    class_: str

    @property
    def box(self) -> Box:
        """The room it takes, estimated on the large side: the reader's font is not known."""
        width = max((text_width(line, self.size) for line in self.lines), default=0.0)
        left = self.x - {"start": 0.0, "middle": width / 2, "end": width}[self.anchor]
        top = self.y - self.size * (LINE_HEIGHT * (len(self.lines) - 1) + ASCENT)
        return Box(left, top, left + width, self.y + self.size * (1 - ASCENT))

    def draw(self) -> Markup:
        first = self.y - self.size * LINE_HEIGHT * (len(self.lines) - 1)
        spans = [
            element("tspan", line, x=self.x, y=first + i * self.size * LINE_HEIGHT) for i, line in enumerate(self.lines)
        ]
        return element("text", *spans, class_=self.class_, text_anchor=self.anchor, font_size=self.size)


LINE_HEIGHT = 1.2
ASCENT = 0.8
CHARACTER_WIDTH = 0.58
"""Of the font size: a little above the mean of the common sans-serif faces."""


def text_width(text: str, size: float) -> float:
    """About how wide a text is; wide East Asian characters count double, combining ones nothing."""
    units = sum(
        0.0 if unicodedata.combining(c) else 1.72 if unicodedata.east_asian_width(c) in "WF" else 1.0 for c in text
    )
    return units * CHARACTER_WIDTH * size


def wrapped(text: str, width: float, size: float, max_lines: int = 5) -> tuple[str, ...]:
    """The text in lines that fit, cut with an ellipsis after `max_lines`; one empty line when there is no text."""
    clean = printable(text)
    widest = max((text_width(c, size) for c in clean), default=size)
    columns = max(4, int(width / max(widest, CHARACTER_WIDTH * size)))
    words = " ".join(piece for word in clean.split() for piece in _pieces(word, columns))
    return tuple(textwrap.wrap(words, columns, max_lines=max_lines, placeholder=" …")) or ("",)


def _pieces(word: str, columns: int) -> Iterator[str]:
    """A word too long for a line, cut behind an underscore where there is one. The pieces never share a line."""
    while len(word) > columns:
        cut = word.rfind("_", 0, columns) + 1 or columns
        yield word[:cut]
        word = word[cut:]
    yield word


def clamped(x: float, text: str, size: float, room: tuple[float, float]) -> float:
    """The nearest middle for a text centred at `x` that keeps it inside `room`."""
    half = text_width(text, size) / 2
    return max(room[0] + half, min(x, room[1] - half))


def arrow_head(tail: tuple[float, float], tip: tuple[float, float], class_: str, size: float = 9) -> Markup:
    """A triangle at `tip`, pointing away from `tail`."""
    dx, dy = tip[0] - tail[0], tip[1] - tail[1]
    length = hypot(dx, dy) or 1.0
    ux, uy = dx / length, dy / length
    base = tip[0] - ux * size, tip[1] - uy * size
    wing = size * 0.42
    corners = [tip, (base[0] - uy * wing, base[1] + ux * wing), (base[0] + uy * wing, base[1] - ux * wing)]
    return element("polygon", points=" ".join(f"{x:.2f},{y:.2f}" for x, y in corners), class_=class_)


def cross(at: tuple[float, float], class_: str, size: float = 5) -> Markup:
    """An x: what was sent never arrived."""
    x, y = at
    path = f"M{x - size:.2f},{y - size:.2f} l{2 * size},{2 * size} m0,{-2 * size} l{-2 * size},{2 * size}"
    return element("path", d=path, class_=class_)
