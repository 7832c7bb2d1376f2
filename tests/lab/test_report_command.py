"""Which run is told again, and what becomes of its page: with a browser, without one, and when it is no run."""

from __future__ import annotations

import os
import stat
import webbrowser
from pathlib import Path

import pytest
from sample_result import sample

from lab.errors import UsageError
from lab.report import page
from lab.report_command import show_page
from lab.runs import find_run, latest_of_all
from lab.store import create, seal, write_result


def stored(runs: Path, scenario: str, at_ns: int) -> Path:
    """A finished run, as far as it is told again."""
    folder = create(runs, scenario)
    result = sample(scenario=scenario)
    write_result(folder, result)
    page.write(result, folder / "report.html")
    seal(folder)
    os.utime(folder / "manifest.json", ns=(at_ns, at_ns))
    return folder


def test_the_latest_of_all_scenarios_is_meant(tmp_path: Path) -> None:
    older = stored(tmp_path, "frozen", at_ns=1_000)
    newer = stored(tmp_path, "hint", at_ns=2_000)
    assert latest_of_all(tmp_path) == newer
    os.utime(older / "manifest.json", ns=(3_000, 3_000))
    assert latest_of_all(tmp_path) == older


def test_a_run_that_was_not_finished_is_not_the_latest(tmp_path: Path) -> None:
    finished = stored(tmp_path, "frozen", at_ns=1_000)
    create(tmp_path, "hint")
    assert latest_of_all(tmp_path) == finished


def test_without_any_run_the_error_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no finished run in .*; make one: kalab run idle-close --short"):
        latest_of_all(tmp_path)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("{runs}/hint/latest/report.html", "{runs}/hint/latest/report.html is a file, not a run folder; did you mean "),
        ("hint/latest/report.html/x", "there is no run hint/latest/report.html/x"),
        ("hint/lastet", "there is no run hint/lastet; did you mean hint/latest?"),
        ("hnit", "there is no run hnit; did you mean hint?"),
        ("{runs}/hnit", "there is no run {runs}/hnit; did you mean {runs}/hint?"),
        ("{runs}", "{runs} is not a run folder: it has no verdict.json"),
        ("frozen", "{runs}/frozen is not a run folder: it has no verdict.json"),
    ],
)
def test_what_is_no_run_is_one_clear_error(tmp_path: Path, word: str, says: str) -> None:
    stored(tmp_path, "hint", at_ns=1_000)
    (tmp_path / "frozen").mkdir()
    with pytest.raises(UsageError) as caught:
        find_run(word.format(runs=tmp_path), tmp_path)
    assert str(caught.value).startswith(says.format(runs=tmp_path))
    assert "Errno" not in str(caught.value)


def test_a_run_that_was_stopped_says_so(tmp_path: Path) -> None:
    folder = create(tmp_path, "hint")
    with pytest.raises(UsageError, match="was stopped before its verdict"):
        find_run(str(folder), tmp_path)


@pytest.mark.parametrize(
    "word", [None, "latest", "hint", "hint/latest", "hint/{time}", "{runs}/hint/{time}", "{runs}/hint"]
)
def test_a_run_has_several_names(tmp_path: Path, word: str | None) -> None:
    folder = stored(tmp_path, "hint", at_ns=1_000)
    named = word and word.format(runs=tmp_path, time=folder.name)
    assert find_run(named, tmp_path).resolve() == folder


def browser(folder: Path, prints: str = "") -> Path:
    """A browser that writes down what it was to open."""
    command = folder / "browser"
    command.write_text(f'#!/bin/sh\necho "{prints}"\necho "$1" > "{folder}/opened"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    return command


@pytest.fixture
def a_page(tmp_path: Path) -> Path:
    return stored(tmp_path / "some runs", "hint", at_ns=1_000) / "report.html"


def test_the_page_is_opened_in_the_browser_and_its_noise_is_kept_away(
    tmp_path: Path, a_page: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    chosen = str(browser(tmp_path, prints="noise"))
    monkeypatch.setattr(webbrowser, "_tryorder", None)  # it looks at BROWSER once
    monkeypatch.setenv("BROWSER", chosen)
    assert show_page(a_page, {"BROWSER": chosen}) == "opened in the browser"
    assert (tmp_path / "opened").read_text().strip() == a_page.as_uri()
    assert capfd.readouterr().out == ""


def test_without_a_display_it_says_where_the_page_is(a_page: Path) -> None:
    assert show_page(a_page, {}) == f"no display to open it on; its address is {a_page.as_uri()}"
    assert "%20" in a_page.as_uri()  # as a browser takes it


def test_without_a_browser_it_says_where_the_page_is(a_page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webbrowser, "_tryorder", None)
    monkeypatch.setenv("BROWSER", "no-such-browser")
    monkeypatch.setenv("PATH", str(a_page.parent))
    said = show_page(a_page, {"BROWSER": "no-such-browser"})
    assert said == f"no browser was found to open it; its address is {a_page.as_uri()}"


def test_a_run_without_a_page_is_an_error(a_page: Path) -> None:
    a_page.unlink()
    with pytest.raises(UsageError, match=r"has no report\.html"):
        show_page(a_page, {"DISPLAY": ":0"})
