"""A sweep: its grid, its folder, its resuming, how it is shown. The runs are made up; tests/race has real ones."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sample_result import sample, sample_arm
from typer.testing import CliRunner, Result

import lab.sweep
from lab.cli import app
from lab.errors import UsageError
from lab.model import Verdict
from lab.one_run import Ended, Say
from lab.report import sweep as page
from lab.stats import interval
from lab.sweep import Axis, Cell, Definition, Share, Sweep, grid, open_sweep, store
from lab.sweep_command import axes_of, tell

MARGIN = Axis("margin", ("20ms", "60ms", "300ms"))
RTT = Axis("wire.rtt_ms", ("20", "40"))


def share(lost: int = 0, exposed: int = 48, verdict: Verdict = Verdict.PASS) -> Share:
    bounds = interval(lost, exposed)
    return Share("order-timeouts", "POST", verdict, lost, exposed, bounds.low, bounds.high, 0)


def cell(*values: str, lost: int = 0, verdict: Verdict | None = Verdict.PASS, **more: Any) -> Cell:
    shares = () if verdict is None else (share(lost, verdict=verdict),)
    return Cell(values, verdict, shares, 9.0, "" if verdict is None else f"cells/{'-'.join(values)}", **more)


def a_sweep(*cells: Cell, axes: tuple[Axis, ...] = (MARGIN, RTT)) -> Sweep:
    return Sweep(Definition("idle-close", axes, ("--short",)), cells)


# -- the grid --------------------------------------------------------------------------------------


def test_a_grid_has_every_cell_once_in_order() -> None:
    assert grid((MARGIN, RTT)) == [(m, r) for m in MARGIN.values for r in RTT.values]


def test_points_are_spread_and_more_of_them_contain_the_fewer() -> None:
    axes = (Axis("a", tuple("12345")), Axis("b", tuple("12345")))
    assert set(grid(axes, 2)) == {("1", "1"), ("5", "5")}
    assert set(grid(axes, 4)) == {(a, b) for a in "15" for b in "15"}
    assert ("3", "3") in grid(axes, 5)
    chosen = [set(grid(axes, n)) for n in range(1, 26)]
    assert all(fewer < more for fewer, more in pairwise(chosen))
    assert grid(axes, 99) == grid(axes)


def test_what_has_one_value_is_no_axis() -> None:
    assert axes_of(["margin=20ms,60ms", "trials=8"]) == ((Axis("margin", ("20ms", "60ms")),), ("trials=8",))


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["margin=20ms"], "one value is no sweep"),
        (["margin=20ms,"], "an empty value"),
        (["margin=20ms,20ms"], "a value is there twice"),
        (["margin=20ms,30ms", "margin=40ms,50ms"], "margin is there twice"),
        (["margn=20ms,30ms"], "did you mean margin?"),
        (["margin"], "give KEY=VALUE"),
    ],
)
def test_what_is_no_axis_is_one_error(sets: list[str], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        axes_of(sets)
    assert says in str(caught.value)


# -- the folder ------------------------------------------------------------------------------------


def test_a_sweep_is_opened_again_as_it_was_stored(tmp_path: Path) -> None:
    found = a_sweep(cell("20ms", "20"))
    store(tmp_path / "s", found)
    assert open_sweep(tmp_path / "s", found.definition) == found


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (Definition("hint", (MARGIN, RTT), ("--short",)), "holds another sweep (of hint)"),
        (Definition("idle-close", (RTT,), ("--short",)), "holds another sweep (of wire.rtt_ms=20,40)"),
        (Definition("idle-close", (MARGIN, RTT), ()), "holds another sweep (with no flags)"),
    ],
)
def test_another_definition_is_never_mixed_in(tmp_path: Path, other: Definition, says: str) -> None:
    store(tmp_path / "s", Sweep(other, ()))
    with pytest.raises(UsageError) as caught:
        open_sweep(tmp_path / "s", a_sweep().definition)
    assert says in str(caught.value)


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="something else than a sweep"):
        open_sweep(tmp_path, a_sweep().definition)
    with pytest.raises(UsageError, match="something else than a sweep"):
        open_sweep(tmp_path / "thesis.txt", a_sweep().definition)


def test_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(UsageError, match=r"sweep\.json: "):
        open_sweep(tmp_path, a_sweep().definition)


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([Verdict.PASS, Verdict.PASS], 0),
        ([Verdict.PASS, Verdict.INCONCLUSIVE], 2),
        ([Verdict.INCONCLUSIVE, Verdict.FAIL], 1),
        ([Verdict.FAIL, None], 4),
        ([], 2),
    ],
)
def test_the_worst_cell_counts(verdicts: list[Verdict | None], code: int) -> None:
    assert a_sweep(*(cell(str(n), verdict=verdict) for n, verdict in enumerate(verdicts))).exit_code == code


# -- running it ------------------------------------------------------------------------------------


class Runs:
    """Stands for runs: what was asked for, and what each ends in."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.flags: list[tuple[str, ...]] = []
        self.ends: dict[str, Verdict | BaseException | str] = {}
        monkeypatch.setattr(lab.sweep, "run_one", self.run)

    def run(self, _name: str, flags: Sequence[str], _runs: Path, say: Say, within_s: float) -> Ended:
        self.flags.append(tuple(flags))
        assert within_s > 60
        say("block 1 of 2")
        end = next((end for words, end in self.ends.items() if words in flags), Verdict.PASS)
        if isinstance(end, BaseException):
            raise end
        if not isinstance(end, Verdict):
            return Ended(4, 1.0, why_not=end)
        arms = (sample_arm("order-timeouts", verdict=end, lost=0, exposed=48),)
        return Ended(end.exit_code, 9.0, f"idle-close/{len(self.flags)}", sample(verdict=end, arms=arms))

    def sweep(self, *words: str) -> Result:
        sets = ("--set", "margin=20ms,60ms", "--set", "wire.rtt_ms=20,40", "--runs", str(self.folder))
        return CliRunner().invoke(app, ["sweep", "idle-close", "--arm", "order-timeouts", *sets, *words])


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


def test_every_cell_is_a_run_with_its_values(runs: Runs) -> None:
    ended = runs.sweep("--json", "--method", "POST", "--seed", "7")
    assert ended.exit_code == 0, ended.output
    common = ("--short", "--wire", "relay", "--arm", "order-timeouts", "--method", "POST", "--seed", "7")
    assert runs.flags[0] == (*common, "--set", "margin=20ms", "--set", "wire.rtt_ms=20")
    assert [flags[-3:] for flags in runs.flags] == [
        (f"margin={margin}", "--set", f"wire.rtt_ms={rtt}") for margin in ("20ms", "60ms") for rtt in ("20", "40")
    ]
    found = json.loads(ended.stdout)
    assert [(c["values"], c["verdict"]) for c in found["cells"]][3] == (["60ms", "40"], "pass")
    assert "cell 2 of 4" in ended.stderr
    assert "4 cells: about " in ended.stderr


def test_what_is_done_is_not_run_again(runs: Runs) -> None:
    runs.ends["margin=60ms"] = KeyboardInterrupt()
    interrupted = runs.sweep()
    assert interrupted.exit_code == 130
    assert len(runs.flags) == 3
    runs.ends = {}
    ended = runs.sweep("--json")
    assert ended.exit_code == 0
    assert len(runs.flags) == 3 + 2  # the third once more, and the fourth
    assert "4 cells, 2 of them done before: about " in ended.stderr
    assert len(json.loads(ended.stdout)["cells"]) == 4
    assert runs.sweep().exit_code == 0
    assert len(runs.flags) == 5


def test_what_was_inconclusive_is_run_again_when_asked_for(runs: Runs) -> None:
    runs.ends["wire.rtt_ms=40"] = Verdict.INCONCLUSIVE
    assert runs.sweep().exit_code == 2
    assert runs.sweep().exit_code == 2
    assert len(runs.flags) == 4
    runs.ends = {}
    assert runs.sweep("--again").exit_code == 0
    assert len(runs.flags) == 6


def test_a_cell_that_could_not_be_run_has_no_verdict_and_is_tried_again(runs: Runs) -> None:
    runs.ends["margin=60ms"] = "a proxy took no connection"
    ended = runs.sweep()
    assert ended.exit_code == 4
    assert "verdict of all: none, 2 could not be run" in ended.stdout
    assert "not run: 60ms 20: a proxy took no connection" in ended.stdout
    runs.ends = {}
    assert runs.sweep().exit_code == 0


def test_fewer_points_first_and_the_rest_later(runs: Runs) -> None:
    assert len(json.loads(runs.sweep("--points", "2", "--json").stdout)["cells"]) == 2
    assert len(runs.flags) == 2
    assert len(json.loads(runs.sweep("--json").stdout)["cells"]) == 4
    assert len(runs.flags) == 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--within", "5s"), "4 cells would take about "),
        (("--within", "5"), "--within 5: which unit?"),
        (("--set", "trials=" + ",".join(map(str, range(1, 200)))), "796 cells are more than 400"),
        (("--set", "upstream.keep_alive=2s,20ms"), "at most "),
        (("--arm", "order"), "unknown arm 'order'"),
        (("--wire", "relais"), "did you mean relay?"),
    ],
)
def test_a_mistake_is_told_before_anything_is_run(runs: Runs, words: tuple[str, ...], says: str) -> None:
    ended = runs.sweep(*words)
    assert isinstance(ended.exception, UsageError)
    assert says in str(ended.exception)
    assert runs.flags == []


def test_another_sweep_in_the_same_folder_is_refused(runs: Runs) -> None:
    into = ("--into", str(runs.folder / "mine"))
    assert runs.sweep(*into).exit_code == 0
    ended = runs.sweep(*into, "--method", "POST")
    assert isinstance(ended.exception, UsageError)
    assert "holds another sweep" in str(ended.exception)


# -- how it is shown -------------------------------------------------------------------------------


def told(found: Sweep) -> str:
    out = io.StringIO()
    tell(found, Console(file=out, width=80))
    return out.getvalue()


MIXED = a_sweep(
    cell("20ms", "20", lost=12, verdict=Verdict.FAIL),
    cell("20ms", "40", verdict=Verdict.INCONCLUSIVE),
    cell("60ms", "20", lost=0),
    cell("60ms", "40", verdict=None, why_not="no <room> left"),
)


def test_two_keys_make_a_table_in_which_inconclusive_is_no_zero() -> None:
    rows = [line.split() for line in told(MIXED).splitlines() if line.startswith(("margin", "20ms", "60ms", "300ms"))]
    assert rows[0] == ["margin", "\\", "wire.rtt_ms", "20", "40"]
    assert rows[1] == ["20ms", "✗", "12", "of", "48", "?", "inconclusive"]
    assert rows[2] == ["60ms", "✓", "0", "of", "48", "not", "run"]
    assert rows[3] == ["300ms"]


def test_one_key_makes_a_row_for_each_value_with_its_interval() -> None:
    text = told(a_sweep(cell("20ms", lost=12, verdict=Verdict.FAIL), cell("60ms"), axes=(MARGIN,)))
    assert "20ms    ✗ 12 of 48 (14.9–38.8 %)" in text
    assert "60ms    ✓ 0 of 48, fewer than 7.4 %" in text
    assert "verdict of all: fail" in text


def test_the_heat_map_shows_what_is_not_known_otherwise_than_a_zero() -> None:
    text = page.render(MIXED)
    assert '<td class="cell fail" style="--lost: 0.250"' in text
    assert '<td class="cell inconclusive" style="--lost: 0.000"' in text
    assert '<td class="cell pass" style="--lost: 0.000"' in text
    assert ">? not settled</a>" in text
    assert ">✓ 0 of 48</a>" in text
    assert 'title="no &lt;room&gt; left">not run</td>' in text
    assert 'href="cells/20ms-20/report.html"' in text
    assert ".cell.inconclusive { background: repeating-linear-gradient" in text
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_a_curve_has_a_mark_for_each_value_and_none_where_nothing_is_known() -> None:
    found = a_sweep(
        cell("20ms", lost=12, verdict=Verdict.FAIL),
        cell("60ms", verdict=Verdict.INCONCLUSIVE),
        cell("300ms"),
        axes=(MARGIN,),
    )
    text = page.render(found)
    assert text.count('class="sweep-fail"') == text.count('class="sweep-pass"') == text.count('class="sweep-open"') == 2
    assert "60ms: inconclusive; 300ms: pass, 0 of 48, fewer than 7.4 % lost" in text


def test_three_keys_make_a_map_for_each_value_of_the_third() -> None:
    axes = (MARGIN, RTT, Axis("blocks", ("1", "2")))
    text = page.render(a_sweep(cell("20ms", "20", "2"), axes=axes))
    assert "order-timeouts, POST, blocks=1: lost" in text
    assert "order-timeouts, POST, blocks=2: lost" in text


def test_in_a_run_that_was_no_experiment_no_arm_is_settled() -> None:
    spoilt = Cell(("20ms", "20"), Verdict.INCONCLUSIVE, (share(verdict=Verdict.PASS),), 9.0, "cells/1")
    assert "inconclusive" in told(a_sweep(spoilt))
    assert '<td class="cell pass"' not in page.render(a_sweep(spoilt))
