"""A series of scenarios: its exit code, its table and its page. tests/race runs one for real."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from sample_result import sample, sample_arm

from lab.model import Verdict
from lab.report import overview
from lab.run_all import Ran, exit_code, tell

PASSED = Ran("a", "It asks.", 0, 12.3, "a/1", sample(scenario="a"))
FAILED = Ran("b", "It asks.", 1, 12.3, "b/1", sample(scenario="b", verdict=Verdict.FAIL))
OPEN = Ran("c", "It asks.", 2, 12.3, "c/1", sample(scenario="c", verdict=Verdict.INCONCLUSIVE))
CANNOT = Ran("d", "It asks.", 4, 0.1, why_not="the netns wire cannot be built here: no [rights]")


@pytest.mark.parametrize(
    ("series", "code"),
    [
        ([PASSED, PASSED], 0),
        ([PASSED, OPEN], 2),
        ([PASSED, FAILED, OPEN], 1),
        ([PASSED, CANNOT], 4),
        ([FAILED, CANNOT], 4),
        ([], 2),
    ],
)
def test_the_worst_counts_and_what_was_not_run_is_no_pass(series: list[Ran], code: int) -> None:
    assert exit_code(series) == code


def told(series: list[Ran]) -> str:
    out = io.StringIO()
    tell(series, Console(file=out, width=80), Path("runs"))
    return out.getvalue()


def test_each_has_a_row_and_the_last_line_says_where_the_page_is() -> None:
    text = told([PASSED, FAILED, CANNOT])
    rows = [line.split() for line in text.splitlines() if line[:2] in ("a ", "b ", "d ")]
    assert [row[:2] for row in rows] == [["a", "pass"], ["b", "fail"], ["d", "not"]]
    assert "d: the netns wire cannot be built here: no [rights]\n" in text
    assert "verdict of all: none, 1 could not be run" in text
    assert text.endswith("overview: runs/index.html\n")


def test_the_verdict_of_all_is_the_worst() -> None:
    assert "verdict of all: fail\n" in told([PASSED, OPEN, FAILED])


def test_without_a_result_there_is_no_page_to_name() -> None:
    text = told([CANNOT])
    assert "verdict of all: none, 1 could not be run" in text
    assert "index.html" not in text


def test_the_page_leads_to_each_run_and_escapes() -> None:
    hostile = Ran("e", "<script>", 0, 1.0, "e/1", sample(arms=(sample_arm(verdict=Verdict.FAIL),)))
    page = overview.render([PASSED, CANNOT, hostile])
    assert '<a href="a/1/report.html">a</a>' in page
    assert "no [rights]" in page
    assert "&lt;script&gt;" in page
    assert "1, 1 not as expected" in page
    assert "inconclusive" in page.partition("</header>")[0]  # one was not run
    assert "pass" in overview.render([PASSED]).partition("</header>")[0]
