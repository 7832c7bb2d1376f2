"""A spoilt run must never end in "pass". Each way to spoil one, against the race shown, mapped and fixed."""

from pathlib import Path

import pytest
from kalab import FAIL, INCONCLUSIVE, kalab

from lab.sabotage import SABOTAGES

pytestmark = [pytest.mark.race, pytest.mark.timeout(120)]

ARMS = ("--arm", "control", "--arm", "window", "--arm", "order-timeouts", "--method", "POST")


@pytest.mark.parametrize("name", SABOTAGES)
def test_sabotage_is_never_a_pass(tmp_path: Path, name: str) -> None:
    size = ("--blocks", "1", "--trials", "40", "--keep-alive", "1s")
    words = ("run", "idle-close", *size, *ARMS, "--runs", str(tmp_path), "--json")
    ended = kalab(*words, "--sabotage", name)
    assert ended.code in (FAIL, INCONCLUSIVE), ended.stderr + ended.stdout
    assert ended.result["verdict"] != "pass"
    unwell = [check for check in ended.result["checks"] if check["verdict"] != "pass"]
    unsettled = [arm for arm in ended.result["arms"] if arm["verdict"] != "pass"]
    assert unwell or unsettled
    assert all(check["remedy"] for check in unwell)
