"""A spoilt run must never end in "pass". Each way to spoil one, against the race shown, mapped and fixed."""

import shutil
from pathlib import Path

import pytest
from kalab import FAIL, INCONCLUSIVE, PASS, conclusive, kalab

from lab.findings import conclude
from lab.model import Verdict
from lab.sabotage import SABOTAGES, SPOILS, spoil
from lab.store import read_plan
from lab.witness.evidence import load
from lab.witness.trials import join
from scenarios.idle_close import SCENARIO

pytestmark = [pytest.mark.race, pytest.mark.timeout(120)]

ARMS = ("--arm", "control", "--arm", "window", "--arm", "order-timeouts", "--method", "POST")
RUN = ("run", "idle-close", "--blocks", "1", "--trials", "32", "--keep-alive", "1s", *ARMS)


@pytest.mark.parametrize("name", [name for name in SABOTAGES if name not in SPOILS])
def test_sabotage_is_never_a_pass(tmp_path: Path, name: str) -> None:
    ended = kalab(*RUN, "--runs", str(tmp_path), "--json", "--sabotage", name)
    assert ended.code in (FAIL, INCONCLUSIVE), ended.stderr + ended.stdout
    assert ended.result["verdict"] != "pass"
    unwell = [check for check in ended.result["checks"] if check["verdict"] != "pass"]
    unsettled = [arm for arm in ended.result["arms"] if arm["verdict"] != "pass"]
    assert unwell or unsettled
    assert all(check["remedy"] for check in unwell)


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    ended = conclusive(*RUN, "--runs", str(runs))
    assert ended.code == PASS, ended.stderr + ended.stdout
    return runs / "idle-close" / "latest"


@pytest.mark.parametrize("name", SPOILS)
def test_a_run_that_passes_does_not_with_its_evidence_spoilt(passed: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(passed, tmp_path / "run"))
    spoil(name, folder)
    plan = read_plan(folder)
    evidence = load(folder, plan)
    result = conclude(SCENARIO, plan, evidence, join(evidence), duration_s=1.0, files=())
    assert result.verdict is Verdict.INCONCLUSIVE
