"""The tests of the tests: a run that is spoilt on purpose never passes, and says what it noticed.

Here runs are spoilt while they run, which costs a run each: one scenario meets all ways, each other a share of two that
goes round, and with `--full` (`make faults`) the whole table is done. Evidence is spoilt in test_race_catalogue.py, in
every way for every scenario.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import pytest
from kalab import kalab
from sabotage_table import cell, note
from spoilt_runs import MEETS_ALL, SCENARIOS, SHARE, fair_share, spoilt_arms, whole_table

from lab.model import Verdict
from lab.result import RunResult
from lab.sabotage import WHILE_IT_RUNS, allowed

pytestmark = pytest.mark.timeout(1300)

SMALL = ("--blocks", "1", "--trials", "24", "--method", "POST")


def test_every_way_is_met_by_several_scenarios() -> None:
    met = Counter(sabotage for _, sabotage in fair_share())
    assert set(met) == set(WHILE_IT_RUNS)
    assert min(met.values()) >= 2
    shares = Counter(name for name, _ in fair_share())
    assert {name: n for name, n in shares.items() if name != MEETS_ALL} == dict.fromkeys(
        (name for name in SCENARIOS if name != MEETS_ALL), SHARE
    )
    assert set(fair_share()) <= set(whole_table())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Selects instead of skipping: what an ordinary run leaves out of the table is no test of it."""
    if "spoilt_run" in metafunc.fixturenames:
        cells = whole_table() if metafunc.config.getoption("--full") else fair_share()
        metafunc.parametrize("spoilt_run", cells, ids="-".join)


@pytest.mark.race
@pytest.mark.faults
def test_sabotage_is_never_a_pass(tmp_path: Path, spoilt_run: tuple[str, str]) -> None:
    name, sabotage = spoilt_run
    arms = [f"--arm={arm}" for arm in spoilt_arms(SCENARIOS[name])]
    ended = kalab("run", name, *SMALL, *arms, "--runs", str(tmp_path), "--json", "--sabotage", sabotage)
    result = msgspec.json.decode(ended.stdout, type=RunResult)
    assert result.verdict in allowed(sabotage), ended.stderr + ended.stdout
    assert ended.code == result.verdict.exit_code
    assert all(check.remedy for check in result.checks if check.verdict is Verdict.INCONCLUSIVE)
    note({spoilt_run: cell(result)})
