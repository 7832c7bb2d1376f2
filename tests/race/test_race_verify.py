"""`kalab verify`: the same verdict from stored evidence, and no change goes unnoticed."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from kalab import FAIL, PASS, USAGE, conclusive, kalab

PROXY_CONFIG = "logs/proxy-retry-safe.GET.toml"

pytestmark = [pytest.mark.race, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    words = ("--blocks", "1", "--trials", "32", "--keep-alive", "1s", "--arm", "retry-safe", "--runs", str(runs))
    ended = conclusive("run", "idle-close", *words)
    assert ended.code == PASS, ended.stderr + ended.stdout
    return runs / "idle-close" / "latest"


@pytest.fixture
def run(stored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stored, tmp_path / "run"))


def test_the_same_verdict(run: Path) -> None:
    ended = kalab("verify", str(run))
    assert ended.code == PASS, ended.stdout
    assert ended.stdout.splitlines()[-1] == "verdict: pass"


def test_a_run_folder_is_complete(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    expected = {"plan.json", "client.jsonl", "wire.jsonl", "trials.jsonl", "verdict.json", "manifest.json"}
    assert expected | {"report.html", "proxy-side.pcap", "upstream-side.pcap", "logs"} <= names
    assert "http://" not in (run / "report.html").read_text().replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize(
    "name", ["client.jsonl", "wire.jsonl", "trials.jsonl", "plan.json", "proxy-side.pcap", "report.html", PROXY_CONFIG]
)
def test_a_changed_byte_is_noticed(run: Path, name: str) -> None:
    path = run / name
    data = bytearray(path.read_bytes())
    digit = next(i for i in range(len(data) // 2, len(data)) if data[i : i + 1].isdigit() or name.endswith("pcap"))
    data[digit] ^= 1
    path.write_bytes(bytes(data))
    ended = kalab("verify", str(run))
    assert ended.code != PASS
    assert f"{name} was changed after the run" in ended.stdout + ended.stderr


def seal_again(run: Path, name: str) -> None:
    """What a forger does who knows the manifest."""
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["sha256"][name] = hashlib.sha256((run / name).read_bytes()).hexdigest()
    (run / "manifest.json").write_text(json.dumps(manifest))


def test_a_trial_edited_with_its_hash_is_noticed_all_the_same(run: Path) -> None:
    path = run / "trials.jsonl"
    lines = path.read_text().splitlines()
    trial = json.loads(lines[0])
    trial["status"] = 200 if trial["status"] != 200 else 502
    lines[0] = json.dumps(trial)
    path.write_text("\n".join(lines) + "\n")
    seal_again(run, "trials.jsonl")
    ended = kalab("verify", str(run))
    assert ended.code == FAIL
    assert "trials.jsonl does not follow from what the witnesses wrote" in ended.stdout


def test_an_expectation_edited_with_its_hash_is_noticed_all_the_same(run: Path) -> None:
    path = run / "plan.json"
    plan = json.loads(path.read_text())
    plan["lanes"][0]["expect"] = "none is lost, each is executed once"
    path.write_text(json.dumps(plan))
    seal_again(run, "plan.json")
    ended = kalab("verify", str(run))
    assert ended.code == FAIL
    assert "plan.json does not follow from the scenario and the measured close" in ended.stdout


def test_a_log_that_is_json_but_no_log_is_one_line(run: Path) -> None:
    (run / "client.jsonl").write_text('{"n": 0}\n')
    ended = kalab("verify", str(run))
    assert ended.code == FAIL
    assert "the evidence cannot be joined again" in ended.stdout
    assert ended.stderr == ""


def test_a_missing_log_is_noticed(run: Path) -> None:
    (run / "wire.jsonl").unlink()
    ended = kalab("verify", str(run))
    assert ended.code != PASS
    assert "wire.jsonl is gone" in ended.stdout


@pytest.mark.parametrize("where", ["nowhere", "."])
def test_what_is_no_run_folder_is_one_line(tmp_path: Path, where: str) -> None:
    ended = kalab("verify", str(tmp_path / where))
    assert ended.code == USAGE
    assert ended.stderr.startswith("error: ")
    assert "Traceback" not in ended.stderr


def test_report_tells_a_stored_run_again(run: Path) -> None:
    ended = kalab("report", str(run))
    assert ended.code == PASS
    assert "retry-safe" in ended.stdout
