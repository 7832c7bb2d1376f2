"""What the documentation says about the code is so: causes, metrics, fields, files, the tests that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sabotage_table import NOTHING, read, render
from spoilt_runs import SCENARIOS, spoilt_arms

from lab.sabotage import SABOTAGES, allowed, pointless
from proxy.config import change_by, keys
from proxy.failure import Failure, status_of
from proxy.observe.access_log import Line
from proxy.observe.metrics import PREFIX, Snapshot, families
from scenarios.idle_close import SCENARIO

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")])


def table_rows(page: str, *header: str) -> list[list[str]]:
    """The rows of the table with this header, cell by cell."""
    lines = iter((ROOT / "docs" / page).read_text().splitlines())
    head = f"| {' | '.join(header)} |"
    assert head in lines, f"{page} has no table {head}"
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def test_every_cause_is_told_with_its_status() -> None:
    rows = table_rows("proxy.md", "cause", "status", "when")
    assert {cause.strip("`"): status for cause, status, _ in rows} == {
        failure.value: str(status_of(failure)) for failure in Failure
    }
    assert len(rows) == len(Failure)


def test_every_metric_that_is_told_is_there() -> None:
    there = {f"{PREFIX}{family.name}" for family in families(Snapshot(workers=[]))}
    told = {name for page in PAGES for name in re.findall(rf"\b{PREFIX}[a-z_]+", page.read_text())}
    assert len(told) > 10
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in told} <= there


def test_every_field_of_the_access_log_is_told() -> None:
    rows = table_rows("proxy-operations.md", "field", "what it is")
    told = [name for field, _ in rows for name in re.findall(r"`(\w+)`", field)]
    assert sorted(told) == sorted(Line.__struct_fields__)


def test_what_it_takes_to_change_a_key_is_told() -> None:
    patch, reload, restart = (cells[1] for cells in table_rows("proxy-operations.md", "by", "keys"))
    assert patch == "all others"
    for cell, means in ((reload, "reload"), (restart, "restart")):
        patterns = re.findall(r"`([^`]+)`", cell)
        told = {key for key in keys() for pattern in patterns if re.fullmatch(pattern.replace("*", ".+"), key)}
        assert told == {key for key in keys() if change_by(key) == means}


TESTS = {path.name: path for path in (ROOT / "tests").rglob("*.py")}


def test_every_test_that_is_named_is_there() -> None:
    for page in PAGES:
        text = page.read_text()
        for file, name in re.findall(r"`(?:[\w/]+/)?(\w+\.py)::(\w+)`", text):
            assert f"def {name}(" in TESTS[file].read_text(), f"{page.name} names {file}::{name}"
        for module, family in re.findall(r"`((?:requests|responses)_\w+)\.([A-Z_]+)`", text):
            there = TESTS[f"{module}.py"].read_text()
            assert re.search(rf"^{family}\b.*=", there, re.MULTILINE), f"{page.name} names {module}.{family}"
        for file in re.findall(r"`(fuzz_\w+\.py)`", text):
            assert file in TESTS, f"{page.name} names {file}"


@pytest.mark.parametrize(
    ("header", "numbers"),
    [
        (("#", "Pitfall", "What the proxy does", "Shown by"), [str(n) for n in range(1, 30)]),
        (
            ("#", "What is done", "What must hold", "Shown by"),
            [f"{letter}{n}" for letter, most in (("A", 5), ("B", 16), ("C", 6)) for n in range(1, most + 1)],
        ),
    ],
)
def test_every_pitfall_and_every_fault_has_its_row(header: tuple[str, ...], numbers: list[str]) -> None:
    rows = table_rows("armour.md", *header)
    assert [row[0] for row in rows] == numbers
    assert [row[0] for row in rows if not re.search(r"`(\w+\.(py::\w+|[A-Z_]+)|fuzz_\w+\.py)`|\bnot\b", row[3])] == []


def test_every_rule_of_integrity_has_its_row_and_its_tests() -> None:
    rows = table_rows("verdicts.md", "#", "Rule", "What kalab does", "Shown by")
    assert [row[0] for row in rows] == [str(n) for n in range(1, 19)]
    assert [row[0] for row in rows if not re.search(r"`\w+\.py::\w+`", row[3])] == []


def test_every_file_of_the_proxy_is_in_the_plan_of_the_house() -> None:
    plan = (ROOT / "docs" / "architecture.md").read_text()
    files = (path.name for path in (ROOT / "proxy").rglob("*.py") if path.name != "__init__.py")
    assert [name for name in files if not re.search(rf"`(\w+/)?{name}`", plan)] == []


def test_the_table_of_sabotage_has_every_way_and_no_verdict_that_is_not_allowed() -> None:
    """Its rows are made and compared by tests/race; a scenario that is newer than the table is in none."""
    text = (ROOT / "docs" / "sabotage.md").read_text()
    assert [line for line in render({}).splitlines() if line not in text] == []
    cells = read(text.splitlines())
    assert {name for name, _ in cells} <= set(SCENARIOS)
    told = {at: text.partition(": ")[0] for at, text in cells.items() if text != NOTHING}
    assert [at for at, verdict in told.items() if verdict not in allowed(at[1])] == []
    assert [
        (name, sabotage)
        for (name, sabotage), text in cells.items()
        if (text == NOTHING) != bool(pointless(sabotage, SCENARIOS[name], spoilt_arms(SCENARIOS[name])))
    ] == []


def test_every_sabotage_and_every_arm_is_documented() -> None:
    verdicts = (ROOT / "docs" / "verdicts.md").read_text()
    assert all(f"`{name}`" in verdicts for name in SABOTAGES)
    ladder = (ROOT / "docs" / "idle-close.md").read_text()
    assert all(f"`{arm.name}`" in ladder for arm in SCENARIO.arms)
