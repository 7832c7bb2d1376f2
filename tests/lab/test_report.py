"""The report page: whole, self-contained, safe, and drawn so that it can be read."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_result import sample, sample_arm, sample_curves, sample_ladder

from lab.model import Verdict
from lab.report import chart, heat, ladder, render, write
from lab.report.page import NARROW, WIDE, charted, files_by_kind, groups
from lab.report.svg import Label, element, wrapped
from lab.result import Check, GapCurve, Ladder, LossMap, MapCell, MapRow, RunResult, Step

VOID = {"meta", "link", "br"}
WIDTHS = pytest.mark.parametrize("width", [WIDE, NARROW])


class Page(HTMLParser):
    """Reads a page and insists that every element is closed where it should be."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


# -- the page --------------------------------------------------------------------------------------


def test_the_page_is_well_formed_and_in_order() -> None:
    page = Page(render(sample()))
    heads = [
        "When is a request lost?",
        "What was tried, and what it did",
        "One lost request, packet by packet",
        "What was checked",
        "What was real, and what was emulated",
        "The machine",
        "What was not judged",
        "The evidence",
        "kalab verify RUN",
    ]
    places = [page.words.index(head) for head in heads]
    assert places == sorted(places)
    assert page.words.index("The upstream executed none of them") < places[0]


def test_the_page_needs_nothing_from_outside_and_runs_nothing() -> None:
    html = render(sample())
    assert not re.search(r"https?:|//[a-z]|url\(|@import", html)
    page = Page(html)
    assert page.count("script") == 0
    for _, attributes in page.elements:
        assert not {"src", "srcset", "action"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
    assert "default-src 'none'" in html


def test_the_page_says_what_was_real_and_what_emulated() -> None:
    words = Page(render(sample())).words
    assert sample().real
    assert sample().emulated
    assert [line for line in (*sample().real, *sample().emulated) if line not in words] == []


def test_no_id_is_used_twice() -> None:
    ids = [attributes["id"] for _, attributes in Page(render(sample())).elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def hostile(value: Any, key: str = "") -> Any:
    """Every string of a result replaced, but for those that must be one of a few."""
    if isinstance(value, dict):
        bad = value if key not in ("environment", "outcomes", "exposures") else {f"<b>{k}": v for k, v in value.items()}
        return {k: hostile(v, k) for k, v in bad.items()}
    if isinstance(value, list):
        return [hostile(item, key) for item in value]
    if isinstance(value, str) and key != "verdict":
        return "</title></style><script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }}\x00\x1b"
    return value


def test_strings_of_the_result_are_text_and_nothing_else() -> None:
    result = msgspec.convert(hostile(msgspec.to_builtins(sample())), RunResult)
    page = Page(render(result))
    plain = Page(render(sample()))
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in plain.elements}
    assert "<script>alert(1)</script>" in page.text
    assert "49" not in page.text.replace("49.", "")


def test_every_arm_and_method_is_shown() -> None:
    result = sample()
    page = Page(render(result))
    for arm in result.arms:
        assert arm.title in page.words
        assert arm.why in page.words
    cells = [a for tag, a in page.elements if tag == "td" and a.get("data-label") == "method"]
    assert len(cells) == len(result.arms)
    assert sum(len(group.rows) for group in groups(result.arms)) == len(result.arms)


def test_none_lost_is_a_bound_and_never_zero_percent() -> None:
    words = Page(render(sample())).words
    assert "0 of 240, fewer than 1.6 %" in words
    assert "0 of 24, fewer than 14.3 %" in words
    assert not re.search(r"\b0 of \d+ \(", words)


def test_a_change_is_shown_as_the_lines_of_a_diff() -> None:
    words = Page(render(sample(arms=(sample_arm("retry-safe"),)))).words
    assert "- proxy.retry.policy = never+ proxy.retry.policy = reused_idempotent" in words


@pytest.mark.parametrize("verdict", Verdict)
def test_the_verdict_is_a_word_and_a_shape(verdict: Verdict) -> None:
    words = Page(render(sample(verdict=verdict))).words
    assert f"{'✓✗?'[verdict.exit_code]} {verdict.value}" in words


def test_a_check_that_failed_says_what_to_do_and_one_that_passed_does_not() -> None:
    bad = Check("logs whole", Verdict.FAIL, "7 lines are missing.", "Use a faster disk.")
    good = Check("aim", Verdict.PASS, "All met.", "Not needed.")
    words = Page(render(sample(checks=(bad, good)))).words
    assert "What to do: Use a faster disk." in words
    assert "Not needed." not in words


def test_a_run_that_found_nothing_still_has_a_page() -> None:
    empty = sample(story=(), arms=(), checks=(), not_judged=(), curves=(), ladder=None, files=(), emulated=())
    words = Page(render(empty)).words
    assert "No idle gaps were swept in this run." in words
    assert "there is none to draw" in words
    assert "Every arm of the scenario was judged." in words


def test_every_drawing_is_there_wide_and_narrow_with_a_name_and_a_table() -> None:
    page = Page(render(sample()))
    drawings = [a for tag, a in page.elements if tag == "svg" and a.get("role") == "img"]
    assert [a["class"] for a in drawings] == ["wide", "narrow", "wide", "narrow"]
    assert all(a["aria-label"] for a in drawings)
    assert page.words.count("The same as a table") == 2


def test_the_page_is_written_as_utf_8(tmp_path: Path) -> None:
    write(sample(), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes().decode("utf-8") == render(sample())


def test_files_are_explained_and_those_of_one_kind_take_one_line() -> None:
    names = ["logs/relay.log", "odd", "proxy-a.GET.jsonl", "proxy-a.POST.jsonl", "proxy-side.pcap", "upstream-x.jsonl"]
    found = files_by_kind(names)
    assert [(name, n) for name, n, _ in found] == [
        ("logs/relay.log", 1),
        ("odd", 1),
        ("proxy*.jsonl", 2),
        ("proxy-side.pcap", 1),
        ("upstream-x.jsonl", 1),
    ]
    assert [text.split(":")[0] for _, _, text in found] == [
        "What a process printed.",
        "",
        "The proxy's events",
        "The packets as the proxy's side saw them. Opens in Wireshark.",
        "The upstream's events",
    ]


# -- colours ---------------------------------------------------------------------------------------

CSS = (Path(chart.__file__).parent / "page.css").read_text()
TEXTS = ("text", "soft", "link", "pass", "fail", "open", "harm", "fin", "rst", "window-text", "minus", "plus")
MARKS = ("curve-0", "curve-1", "curve-2", "curve-3", "data", "fin", "rst")


def colours(dark: bool) -> dict[str, str]:
    blocks = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[1 if dark else 0]))


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_what_is_behind_it(dark: bool) -> None:
    found = colours(dark)
    pairs = [(name, "back") for name in TEXTS] + [("text", "panel"), ("soft", "panel")]
    pairs += [("badge-text", name) for name in ("pass", "fail", "open")]
    pairs += [("minus", "minus-back"), ("plus", "plus-back")]
    poor = [pair for pair in pairs if contrast(found[pair[0]], found[pair[1]]) < 4.5]
    assert poor == []
    assert [name for name in MARKS if contrast(found[name], found["back"]) < 3] == []
    assert [name for name in MARKS[:2] if contrast(found[name], found["window"]) < 3] == []


def test_both_sets_of_colours_name_the_same() -> None:
    assert set(colours(False)) == set(colours(True))


# -- the map ---------------------------------------------------------------------------------------

CELLS = tuple(MapCell(-60.0 + 10 * i, -50.0 + 10 * i, 6, 6 if 2 <= i < 6 else 0) for i in range(8))
MAP = LossMap(
    40.0,
    (
        MapRow("control", "POST", None, -40.0, 0.0, 0.5, 0.55, 48, 24, 0.36, 0.64, CELLS),
        MapRow("none", "POST", -0.3, -40.0, 0.3, 0.5, 0.55, 48, 24, 0.36, 0.64, CELLS),
        MapRow("more", "POST", 60.0, -40.0, -60.0, 0.0, 0.0, 48, 0, 0.0, 0.07, CELLS[:1]),
    ),
)


@WIDTHS
def test_the_map_frames_what_the_model_says(width: float) -> None:
    plot = heat.plan(MAP, width)
    assert [(box.left, box.right) for box in plot.boxes] == [
        (plot.x(-40.0), plot.x(0.0)),
        (plot.x(-40.0), plot.x(0.3)),
    ]
    assert len(plot.cells) == 17
    assert all(0 < box.left < box.right < width and box.bottom < plot.height for box, _ in plot.cells)
    no_overlap(list(plot.labels))
    inside(list(plot.labels), width, plot.height)


def test_the_map_is_told_in_words_and_as_a_table() -> None:
    page = Page(render(sample(maps=(MAP,))))
    assert "40 ms0 ms−40.0, +0.350.0 to 55.0 %24 of 48 (36–64 %)" in page.words
    assert "40 ms60 msnowhere0.0 to 0.0 %" in page.words
    assert "margin nothing done: 24 of 48 (36–64 %) lost, 50.0 to 55.0 % predicted" in heat.describe(MAP)
    assert "against the model" not in Page(render(sample())).words


def test_a_cell_is_the_darker_the_more_was_lost() -> None:
    assert re.findall(r'fill-opacity="([0-9.]+)"', heat.draw(MAP, WIDE, "wide"))[:4] == ["0", "0", "1", "1"]


# -- the chart -------------------------------------------------------------------------------------


def no_overlap(labels: list[Label]) -> None:
    for one, other in combinations([label for label in labels if any(label.lines)], 2):
        assert not one.box.overlaps(other.box), (one, other)


def inside(labels: list[Label], width: float, height: float) -> None:
    for label in labels:
        assert label.box.left >= -0.5, label
        assert label.box.right <= width + 0.5, label
        assert label.box.top >= 0, label
        assert label.box.bottom <= height, label


@WIDTHS
def test_chart_places_gaps_and_window_on_one_scale(width: float) -> None:
    plot = chart.plan(sample_curves()[:2], 40.0, width)
    (window,) = plot.windows
    assert window.left == plot.x(-40.0)
    assert window.right == plot.x(0.0)
    assert (window.top, window.bottom) == (plot.y(1.0), plot.y(0.0))
    assert 0 < plot.x(-300) < plot.x(-40) < plot.x(0) < plot.x(60) < width


@WIDTHS
@pytest.mark.parametrize("scale", [0.01, 1, 7.3, 400])
def test_chart_labels_are_readable_at_every_scale(width: float, scale: float) -> None:
    def scaled(curve: GapCurve) -> GapCurve:
        points = tuple(msgspec.structs.replace(p, gap_ms=p.gap_ms * scale) for p in curve.points)
        edges = (curve.box_from_ms * scale, curve.box_to_ms * scale)
        return msgspec.structs.replace(curve, points=points, box_from_ms=edges[0], box_to_ms=edges[1])

    plot = chart.plan([scaled(curve) for curve in sample_curves()], 40.0 * scale, width)
    no_overlap(list(plot.labels))
    inside(list(plot.labels), width, plot.height)
    assert len(plot.ticks) >= 2


@pytest.mark.parametrize(
    ("rtt_ms", "says"),
    [(40.0, "one round trip, 40 ms"), (38.0, "one round trip, 38 ms"), (4.0, "predicted loss, 40 ms")],
)
def test_the_window_is_called_a_round_trip_only_if_it_is_one(rtt_ms: float, says: str) -> None:
    plot = chart.plan(sample_curves()[:1], rtt_ms, WIDE)
    assert says in [line for label in plot.labels for line in label.lines]


def test_two_curves_are_drawn_and_all_are_told() -> None:
    result = sample()
    assert [curve.arm for curve in charted(result)] == ["window", "order-timeouts"]
    assert charted(sample(curves=())) == []
    assert [curve.arm for curve in charted(sample(curves=result.curves[1:]))] == ["order-timeouts"]
    page = Page(render(result))
    assert "The same 25 ms, round trip 60 ms With nothing done, loss is predicted from −60.0 to 0.0 ms." in page.words


def test_a_curve_is_told_by_its_shape() -> None:
    assert len({chart.marker(chart.shape_of(i), 0, 0) for i in range(4)}) == 4


def test_a_single_point_and_a_gap_without_trials_can_be_drawn() -> None:
    point = msgspec.structs.replace(sample_curves()[0].points[0], n=0, lost=0)
    curve = GapCurve("one", "One", 0.0, 0.0, (point,))
    assert "<circle" not in chart.draw([curve], 40.0, WIDE, "wide")


# -- the ladder ------------------------------------------------------------------------------------


def judge_ladder(found: Ladder, width: float) -> ladder.Plan:
    """What must hold for every ladder: rows in order and apart, labels apart and inside, arrows downwards."""
    placed = ladder.plan(found, width)
    for before, row in pairwise(placed.rows):
        assert before.at <= row.at
        assert row.y - before.y >= ladder.ROW - 1e-6
    labels = [*placed.labels, *(arrow.label for arrow in placed.arrows)]
    no_overlap(labels)
    inside(labels, width, placed.height)
    for arrow in placed.arrows:
        assert arrow.local or arrow.tip[1] > arrow.tail[1]
    return placed


@WIDTHS
def test_ladder_of_the_sample(width: float) -> None:
    placed = judge_ladder(sample_ladder(), width)
    assert [(arrow.look, arrow.delivered) for arrow in placed.arrows if arrow.look in ("fin", "rst")] == [
        ("fin", True),
        ("rst", True),
    ]
    fin, request = placed.arrows[3], placed.arrows[5]
    assert fin.tail[1] < request.tail[1] < fin.tip[1] < request.tip[1]


@WIDTHS
def test_two_seconds_are_cut_and_a_tenth_of_a_millisecond_is_not_lost(width: float) -> None:
    steps = (
        Step(-2000.0, -1980.0, "upstream", "proxy", "200", "D"),
        Step(0.0, 20.0, "upstream", "proxy", "FIN", "F"),
        Step(0.1, 20.1, "proxy", "upstream", "POST", "D"),
    )
    placed = judge_ladder(Ladder("r", "c", "", steps), width)
    ((_, cut_ms),) = ladder.cuts(placed.rows)
    assert cut_ms == 1980.0
    assert placed.rows[3].y - placed.rows[2].y >= ladder.ROW
    assert placed.height < 500
    times = [line for label in placed.labels for line in label.lines if label.class_ == "time"]
    assert times == ["ms", "−2000.0", "−1980.0", "0.0", "+0.1", "+20.0", "+20.1"]


@WIDTHS
def test_what_never_arrived_is_said_and_drawn_so(width: float) -> None:
    placed = judge_ladder(Ladder("r", "c", "", (Step(0.0, None, "upstream", "proxy", "FIN", "F"),)), width)
    (arrow,) = placed.arrows
    assert not arrow.delivered
    assert placed.lanes["proxy"] < arrow.tip[0] < placed.lanes["upstream"]
    assert arrow.full_text == "FIN (never arrived)"


def test_looks() -> None:
    table = {"D": "data", "DF": "fin", "F": "fin", "R": "rst", "FR": "rst", "": "data"}
    assert {flags: ladder.look_of(Step(0, 1, "proxy", "upstream", "", flags)) for flags in table} == table
    assert ladder.look_of(Step(0, None, "proxy", "proxy", "closed", "F")) == "note"


LANE = st.sampled_from(ladder.LANES)
TIME = st.one_of(st.sampled_from([0.0, 0.05, 0.1, 20.0, 2000.0]), st.floats(-5000, 5000))
STEPS = st.builds(
    Step,
    t_ms=TIME,
    arrived_ms=st.none() | TIME,
    sender=LANE,
    receiver=LANE,
    label=st.text(max_size=90),
    flags=st.sampled_from(["", "D", "F", "R", "DF"]),
)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEPS, min_size=1, max_size=9), width=st.sampled_from([WIDE, NARROW]))
def test_whatever_happened_can_be_read(steps: list[Step], width: float) -> None:
    found = Ladder("r", "c", "", tuple(steps))
    judge_ladder(found, width)
    Page(str(ladder.draw(found, width, "wide")))


# -- the parts of a drawing ------------------------------------------------------------------------


def test_elements_escape_text_and_attributes() -> None:
    made = element("text", "a < b & c", class_='"x"', stroke_width=1.50)
    assert made == '<text class="&#34;x&#34;" stroke-width="1.5">a &lt; b &amp; c</text>'


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", ("",)),
        ("one two", ("one two",)),
        ("one two three four", ("one two", "three four")),
        ("closed_before_response", ("closed_", "before_", "response")),
        ("0123456789abcdef", ("0123456789", "abcdef")),
        ("a\x00b\nc", ("a b c",)),
    ],
)
def test_wrapping(text: str, lines: tuple[str, ...]) -> None:
    assert wrapped(text, 10 * 0.58 * 10, 10) == lines


def test_a_text_that_is_too_long_ends_in_an_ellipsis() -> None:
    lines = wrapped("word " * 50, 58, 10, max_lines=2)
    assert len(lines) == 2
    assert lines[-1].endswith("…")
