"""Every scenario beside idle-close for real: passes in its short form, and does not when it is spoilt."""

import importlib
import pkgutil
import shutil
from pathlib import Path

import pytest
from kalab import FAIL, INCONCLUSIVE, PASS, conclusive, kalab

import scenarios
from lab.findings import conclude
from lab.model import Scenario, Verdict
from lab.sabotage import SPOILS, spoil
from lab.store import read_plan
from lab.wire import best
from lab.witness.evidence import load
from lab.witness.trials import join

pytestmark = [pytest.mark.race, pytest.mark.timeout(200)]

MODULES = [importlib.import_module(f"scenarios.{module.name}") for module in pkgutil.iter_modules(scenarios.__path__)]
SCENARIOS: dict[str, Scenario] = {module.SCENARIO.name: module.SCENARIO for module in MODULES}
OTHERS = [name for name in SCENARIOS if name != "idle-close"]  # that one has files of its own


@pytest.fixture(scope="module", params=OTHERS)
def passed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Scenario, Path]:
    """A scenario, and the folder of a short run of it that has passed."""
    name: str = request.param
    runs = tmp_path_factory.mktemp(name)
    ended = conclusive("run", name, "--short", "--wire", best(), "--runs", str(runs))
    assert ended.code == PASS, ended.stderr + ended.stdout
    assert ended.result["not_judged"] == []
    return SCENARIOS[name], runs / name / "latest"


def test_it_passes_and_verifies(passed: tuple[Scenario, Path]) -> None:
    _, folder = passed
    ended = kalab("verify", str(folder))
    assert (ended.code, "verdict: pass" in ended.stdout) == (PASS, True), ended.stdout


@pytest.mark.parametrize("name", SPOILS)
def test_it_does_not_with_its_evidence_spoilt(passed: tuple[Scenario, Path], tmp_path: Path, name: str) -> None:
    scenario, folder = passed
    spoilt = Path(shutil.copytree(folder, tmp_path / "run"))
    spoil(name, spoilt)
    plan = read_plan(spoilt)
    evidence = load(spoilt, plan)
    result = conclude(scenario, plan, evidence, join(evidence), duration_s=1.0, files=())
    assert result.verdict is Verdict.INCONCLUSIVE


WHATEVER = ("upstream-ignores-timeout", "arms-swapped")
OF_FIXES = ("fixes-answer-themselves", "fixes-never-reuse")  # where there is none, nothing would be spoilt
SPOILT = [
    (name, sabotage)
    for name in OTHERS
    for sabotage in (*WHATEVER, *(OF_FIXES if any(arm.is_fix for arm in SCENARIOS[name].arms) else ()))
]


@pytest.mark.parametrize(("name", "sabotage"), SPOILT)
def test_it_does_not_when_the_run_is_spoilt(tmp_path: Path, name: str, sabotage: str) -> None:
    fix = [f"--arm={arm.name}" for arm in SCENARIOS[name].arms if arm.is_fix][:1]  # one will do, with its control
    words = ("--blocks", "1", "--trials", "16", "--method", "POST", *fix, "--runs", str(tmp_path))
    ended = kalab("run", name, *words, "--json", "--sabotage", sabotage)
    assert ended.code in (FAIL, INCONCLUSIVE), ended.stderr + ended.stdout
    assert ended.result["verdict"] != "pass"
