"""`kalab sweep` for real: a margin that is too small and one that is not, and a sweep that is interrupted."""

import json
import os
import signal
from pathlib import Path

import pytest
from kalab import ATTEMPTS, FAIL, INCONCLUSIVE, kalab, start

pytestmark = [pytest.mark.race, pytest.mark.timeout(240)]

SWEEP = ("sweep", "idle-close", "--arm", "order-timeouts", "--method", "POST", "--set", "upstream.keep_alive=1s")


def test_a_margin_below_the_round_trip_loses_and_one_above_does_not(tmp_path: Path) -> None:
    words = (*SWEEP, "--set", "margin=10ms,300ms", "--into", str(tmp_path / "s"), "--json")
    ended = kalab(*words)
    for _ in range(ATTEMPTS - 1):
        if ended.code == INCONCLUSIVE:
            ended = kalab(*words, "--again")
    assert ended.code == FAIL, ended.stderr + ended.stdout
    thin, wide = json.loads(ended.stdout)["cells"]
    lost = {
        cell["values"][0]: next(s["lost"] for s in cell["shares"] if s["arm"] == "order-timeouts")
        for cell in (thin, wide)
    }
    assert (thin["verdict"], lost["10ms"] > 0) == ("fail", True)
    assert (wide["verdict"], lost["300ms"]) == ("pass", 0)
    for cell in (thin, wide):  # evidence that verifies, with the setting in it
        folder = tmp_path / "s" / cell["folder"]
        verified = kalab("verify", str(folder), "--json")
        assert json.loads(verified.stdout)["verdict"] == cell["verdict"]
        assert json.loads((folder / "plan.json").read_text())["setup"]["settings"] == {"margin": cell["values"][0]}
    page = (tmp_path / "s" / "sweep.html").read_text()
    assert all((tmp_path / "s" / cell["folder"] / "report.html").is_file() for cell in (thin, wide))
    assert all(f'href="{cell["folder"]}/report.html"' in page for cell in (thin, wide))


def test_an_interrupted_sweep_keeps_what_is_done_and_goes_on_from_there(tmp_path: Path) -> None:
    small = ("--set", "trials=8", "--set", "blocks=1", "--set", "margin=200ms,300ms", "--into", str(tmp_path / "s"))
    process = start(*SWEEP, *small)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("cell 2 of 2") and "block 1" in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "error: interrupted; everything that was started is stopped"
    with pytest.raises(ProcessLookupError):  # the whole group is gone
        os.killpg(process.pid, 0)
    (kept,) = json.loads((tmp_path / "s" / "sweep.json").read_text())["cells"]
    ended = kalab(*SWEEP, *small, "--json")
    assert "2 cells, 1 of them done before: about " in ended.stderr
    cells = json.loads(ended.stdout)["cells"]
    assert cells[0] == kept
    assert len(cells) == 2
