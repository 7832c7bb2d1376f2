"""Every scenario for real, in one go: passes in its short form, verifies, and does not with its evidence spoilt."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from kalab import INCONCLUSIVE, PASS, USAGE, conclusive, kalab, start
from sabotage_table import COPY, cell, note, read
from spoilt_runs import SCENARIOS

from lab.duration import WITHIN, estimate_s
from lab.findings import conclude
from lab.model import Verdict
from lab.sabotage import SPOILS, pointless, spoil
from lab.store import read_plan, read_result
from lab.wire import best
from lab.witness.evidence import load
from lab.witness.trials import join

pytestmark = [pytest.mark.race, pytest.mark.timeout(1300)]

SECOND = list(SCENARIOS)[1]
SPOILT = [
    (name, sabotage)
    for name, scenario in SCENARIOS.items()
    for sabotage in SPOILS
    if not pointless(sabotage, scenario, [arm.name for arm in scenario.arms])
]


ON_NETNS_ONLY = {"packets", "handshake"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `kalab run --all --short` has put what it found; scenarios that a busy machine spoilt are asked again."""
    folder = tmp_path_factory.mktemp("runs")
    wire = best()
    words = ("--short", "--wire", wire, "--runs", str(folder))
    ended = kalab("run", "--all", *words, "--json", timeout_s=900)
    assert ended.code in (PASS, INCONCLUSIVE), ended.stderr + ended.stdout
    told = json.loads(ended.stdout)
    assert [ran["scenario"] for ran in told] == list(SCENARIOS)
    page = (folder / "index.html").read_text()
    assert all(f'href="{ran["folder"]}/report.html"' in page for ran in told)
    assert all((folder / ran["folder"] / "report.html").is_file() for ran in told)
    for ran in told:
        arms = SCENARIOS[ran["scenario"]].arms
        not_here = [arm.name for arm in arms if wire != "netns" and ON_NETNS_ONLY & set(arm.needs)]
        assert [arm["arm"] for arm in ran["result"]["not_judged"]] == not_here
        if len(not_here) < len(arms) and ran["result"]["verdict"] != "pass":
            again = conclusive("run", ran["scenario"], *words)
            assert again.code == PASS, again.stderr + again.stdout
    return folder


@pytest.mark.parametrize("name", SCENARIOS)
def test_it_passes_and_verifies(runs: Path, name: str) -> None:
    ended = kalab("verify", str(runs / name / "latest"))
    assert (ended.code, "verdict: pass" in ended.stdout) == (PASS, True), ended.stdout


@pytest.mark.parametrize("name", SCENARIOS)
def test_it_takes_as_long_as_is_told_beforehand(runs: Path, name: str) -> None:
    folder = runs / name / "latest"
    took_s = read_result(folder).duration_s
    told_s = estimate_s(SCENARIOS[name], read_plan(folder).setup)
    assert told_s / WITHIN < took_s < told_s * WITHIN


@pytest.mark.parametrize(("name", "sabotage"), SPOILT)
def test_spoilt_evidence_is_never_a_pass(runs: Path, tmp_path: Path, name: str, sabotage: str) -> None:
    spoilt = Path(shutil.copytree(runs / name / "latest", tmp_path / "run"))
    spoil(sabotage, spoilt)
    plan = read_plan(spoilt)
    evidence = load(spoilt, plan)
    result = conclude(SCENARIOS[name], plan, evidence, join(evidence), duration_s=1.0, files=())
    assert result.verdict is Verdict.INCONCLUSIVE
    note({(name, sabotage): cell(result)})
    told = read(COPY.read_text().splitlines())
    assert told.get((name, sabotage), cell(result)) == cell(result), "docs/sabotage.md is out of date"


def assert_the_page_says_that_it_is_not_whole(page: Path) -> None:
    text = page.read_text()
    assert text.count("the series ended before it") == len(SCENARIOS) - 1
    assert "inconclusive" in text.partition("</header>")[0]


def test_a_mistake_ends_the_series_and_keeps_what_was_done(tmp_path: Path) -> None:
    words = ("--arm=one", "--method=POST", "--trials=8", "--blocks=1")
    ended = kalab("run", "--all", *words, "--runs", str(tmp_path))
    assert ended.code == USAGE
    assert ended.stderr.splitlines()[-1].startswith(f"error: {SECOND}: unknown arm 'one'; ")
    assert_the_page_says_that_it_is_not_whole(tmp_path / "index.html")
    assert read_plan(tmp_path / "a-a" / "latest").command == "kalab run a-a " + " ".join(
        (*words, "--runs", str(tmp_path))
    )


def test_an_interrupt_stops_everything_and_keeps_what_was_done(tmp_path: Path) -> None:
    process = start("run", "--all", "--short", "--method", "POST", "--runs", str(tmp_path))
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(f"{SECOND}: block 1"):
            break
    for _ in range(3):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.1)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "error: interrupted; everything that was started is stopped"
    assert_the_page_says_that_it_is_not_whole(tmp_path / "index.html")
    with pytest.raises(ProcessLookupError):  # the whole group is gone
        os.killpg(process.pid, 0)
