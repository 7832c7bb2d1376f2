"""Every known form of losing a request has an arm that shows it (docs/forms.md)."""

from __future__ import annotations

import re
from pathlib import Path

from lab.catalogue import catalogue

FORMS = {*(f"F{number}" for number in range(1, 10)), *"abcdefghi", "a'"}
PAGE = Path(__file__).resolve().parents[2] / "docs" / "forms.md"
ROW = re.compile(r"^\| ([^|]+) \|.*\| `([a-z-]+)` `([a-z-]+)` \|$", re.MULTILINE)


def rows() -> list[tuple[str, str, str]]:
    """The forms of each row, and its scenario and arm."""
    return ROW.findall(PAGE.read_text())


def test_every_form_has_an_arm() -> None:
    named = {form.strip() for forms, _, _ in rows() for form in forms.split(",")}
    assert named >= FORMS


def test_every_arm_that_is_named_exists_and_is_no_fix() -> None:
    scenarios = catalogue()
    found = rows()
    assert len(found) == PAGE.read_text().count("\n| ") - 1  # but for the head
    for _, scenario, arm in found:
        assert not scenarios[scenario].arm(arm).is_fix
