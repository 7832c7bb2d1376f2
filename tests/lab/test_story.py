"""The terminal story: complete, plain off a terminal, and safe with whatever a result holds."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from sample_result import sample, sample_arm

from lab.model import Verdict
from lab.progress import Progress
from lab.result import Check, NotJudged, RunResult
from lab.story import tell


def told(result: RunResult, *, terminal: bool = False, width: int = 80) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=width, color_system="truecolor" if terminal else None)
    tell(result, console, report="runs/x/report.html")
    return stream.getvalue()


def table_of(text: str) -> list[str]:
    lines = text.splitlines()
    return lines[next(i for i, line in enumerate(lines) if line.startswith("what was tried")) :]


def test_off_a_terminal_the_table_is_plain_and_fits_100_columns() -> None:
    text = told(sample())
    assert "\x1b" not in text
    assert max(len(line) for line in table_of(text)) <= 100
    assert "240 of 240 (98.4–100 %)" in text
    assert "0 of 240, fewer than 1.6 %" in text


def test_off_a_terminal_a_sentence_stays_on_one_line() -> None:
    sentence = "A long sentence that says what happened, " * 5
    assert sentence.strip() in told(sample(story=(sentence.strip(),)))


def test_on_a_narrow_terminal_nothing_is_wider_than_it() -> None:
    plain = io.StringIO()
    console = Console(file=plain, force_terminal=True, width=64, no_color=True, color_system=None)
    tell(sample(), console)
    assert max(len(line) for line in plain.getvalue().splitlines()) <= 64


def test_at_80_columns_every_row_is_readable() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, no_color=True, color_system=None)
    tell(sample(), console)
    lines = stream.getvalue().splitlines()
    assert max(len(line) for line in lines) <= 80
    for arm in sample().arms:
        row = next(line for line in lines if line.startswith(arm.arm))
        assert " POST " in row or " GET " in row
        assert " of " in row or "none exposed" in row


def test_on_a_terminal_there_is_colour_unless_no_color_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1;32m" in told(sample(), terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[1;32m" not in told(sample(), terminal=True)


def test_every_arm_and_method_has_its_row() -> None:
    result = sample()
    rows = [line for line in told(result).splitlines() if " GET  " in line or " POST  " in line]
    assert len(rows) == len(result.arms)


def test_what_did_not_pass_is_told_with_its_remedy() -> None:
    arm = sample_arm("retry-safe", "GET", verdict=Verdict.FAIL, sentence="3 of 240 were lost.", lost=3)
    checks = (
        Check("logs whole", Verdict.INCONCLUSIVE, "The proxy dropped 7 events.", "Write the run to a faster disk."),
    )
    text = told(sample(arms=(sample_arm(), arm), checks=checks, verdict=Verdict.FAIL))
    assert "  fail  retry-safe, GET: 3 of 240 were lost." in text
    assert "  inconclusive  logs whole: The proxy dropped 7 events." in text
    assert "      what to do: Write the run to a faster disk." in text
    assert "fail: not as expected" in text
    assert "\nverdict: fail  " in text


def test_the_end_is_the_verdict_and_the_page() -> None:
    *_, verdict, page = told(sample()).splitlines()
    assert verdict == "verdict: pass  Everything expected before the run was found."
    assert page == "report: runs/x/report.html"


def test_an_arm_that_was_not_judged_takes_one_line() -> None:
    arms = (NotJudged("lag", "The proxy's loop late", "This wire has no gate."),)
    assert "\n  lag: This wire has no gate.\n" in told(sample(not_judged=arms))


def test_a_run_that_found_nothing_is_told_too() -> None:
    text = told(sample(story=(), arms=(), checks=(), not_judged=(), verdict=Verdict.INCONCLUSIVE))
    assert "proves nothing" in text


def test_strings_are_shown_and_not_interpreted() -> None:
    hostile = "[red]not red[/red] \x1b[2J [link=x]"
    text = told(sample(story=(hostile,), arms=(sample_arm(title=hostile),)), terminal=True)
    assert "[red]not red[/red]  [2J [link=x]" in text
    assert "\x1b[2J" not in text


def test_a_stream_of_plain_ascii_gets_plain_ascii() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    tell(sample(), Console(file=stream))
    stream.flush()
    assert b"240 of 240 (98.4-100 %)" in raw.getvalue()


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_in_a_log_is_lines_and_says_nothing_twice() -> None:
    stream = io.StringIO()
    with Progress(stream) as progress:
        progress.step("measuring the close")
        progress.step("measuring the close")
        progress.step("block 1 of 6")
    assert stream.getvalue() == "measuring the close\nblock 1 of 6\n"


def test_progress_on_a_terminal_is_one_line_that_is_left_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "12")
    stream = Terminal()
    with Progress(stream) as progress:
        progress.step("measuring the close")
    assert stream.getvalue() == "\r\x1b[Kmeasuring t\r\x1b[K"


def test_progress_on_a_dumb_terminal_is_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Progress(stream) as progress:
        progress.step("measuring the close")
    assert stream.getvalue() == "measuring the close\n"


def test_progress_that_cannot_be_written_ends_nothing() -> None:
    class Gone(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    Progress(Gone()).step("measuring the close")
