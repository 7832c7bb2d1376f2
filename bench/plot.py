"""The plot: CPU per unit of each contestant, a panel for each workload, as one SVG file. Pure.

A bar is the median, divided into user and system time; the line across its end is the range of the rounds. Bars that
would dwarf the others are cut at `CUT` times the yardstick, and their number says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from xml.sax.saxutils import escape

from bench.verdict import CONTROL, OURS, Round
from bench.workloads import WORKLOADS, Workload

WIDTH, LEFT, RIGHT = 860, 120, 110
BAR, GAP, TITLE = 16, 6, 34
CUT = 5.0
SYSTEM, USER, OWN = "#9db4c8", "#47708f", "#c2542d"


def costs(rounds: Sequence[Round]) -> str:
    """The SVG of all workloads that were driven as fast as they are answered."""
    parts: list[str] = []
    y = 10
    for load in WORKLOADS:
        own = [r for r in rounds if r.workload == load.name and r.whole and r.contestant != CONTROL]
        if own and not load.rate:
            parts += _panel(load, own, y)
            y += TITLE + len({r.contestant for r in own}) * (BAR + GAP) + 14
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, f'<rect width="{WIDTH}" height="{y}" fill="white"/>', *parts, "</svg>\n"])


def _panel(load: Workload, rounds: Sequence[Round], y: int) -> Iterator[str]:
    by_name = {
        name: [r for r in rounds if r.contestant == name] for name in dict.fromkeys(r.contestant for r in rounds)
    }
    middle = {name: median(r.cpu_us for r in own) for name, own in by_name.items()}
    longest = min(max(middle.values()), CUT * middle.get(load.yardstick, max(middle.values())))
    scale = (WIDTH - LEFT - RIGHT) / longest
    title = f"{load.title}: CPU µs per {load.unit}, user (dark) and system"
    yield f'<text x="10" y="{y + 18}" font-weight="bold">{escape(title)}</text>'
    y += TITLE
    for name in sorted(by_name, key=middle.__getitem__):
        yield from _bar(name, by_name[name], middle[name], scale, y)
        y += BAR + GAP


def _bar(name: str, own: Sequence[Round], cost: float, scale: float, y: int) -> Iterator[str]:
    end = WIDTH - LEFT - RIGHT
    user = min(median(r.user_us for r in own) * scale, end)
    whole = min(cost * scale, end)
    weight = ' font-weight="bold"' if name in OURS else ""
    yield f'<text x="{LEFT - 8}" y="{y + 12}" text-anchor="end"{weight}>{escape(name)}</text>'
    yield f'<rect x="{LEFT}" y="{y}" width="{whole:.1f}" height="{BAR}" fill="{SYSTEM}"/>'
    yield f'<rect x="{LEFT}" y="{y}" width="{user:.1f}" height="{BAR}" fill="{OWN if name in OURS else USER}"/>'
    low, high = (min(edge(r.cpu_us for r in own) * scale, end) for edge in (min, max))
    middle = y + BAR / 2
    yield f'<path d="M{LEFT + low:.1f} {middle}H{LEFT + high:.1f}" stroke="black" fill="none"/>'
    cut = " (cut)" if cost * scale > end + 1 else ""
    yield f'<text x="{LEFT + max(whole, high) + 6:.1f}" y="{y + 12}"{weight}>{cost:.1f}{cut}</text>'
