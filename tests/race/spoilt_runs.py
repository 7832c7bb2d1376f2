"""Every scenario that there is, and which ways of spoiling a run each of them meets."""

from __future__ import annotations

from collections import Counter

from lab.catalogue import catalogue
from lab.model import Scenario
from lab.sabotage import WHILE_IT_RUNS, pointless

SCENARIOS = catalogue()

MEETS_ALL = "idle-close"
SHARE = 2


def spoilt_arms(scenario: Scenario) -> list[str]:
    """The arms of a run that is spoilt while it runs: one fix will do, with its control; otherwise all."""
    fix = next((arm for arm in scenario.arms if arm.is_fix), None)
    return [arm.name for arm in scenario.arms if fix is None or arm.name in (fix.name, fix.control)]


def whole_table() -> list[tuple[str, str]]:
    """Every scenario with every way to spoil a run of it while it runs."""
    return [
        (name, sabotage)
        for name, scenario in SCENARIOS.items()
        for sabotage in WHILE_IT_RUNS
        if not pointless(sabotage, scenario, spoilt_arms(scenario))
    ]


def fair_share() -> list[tuple[str, str]]:
    """Of that table all of one scenario, and of each other the ways that had been met least often until then."""
    table = whole_table()
    chosen = [cell for cell in table if cell[0] == MEETS_ALL]
    met = Counter(sabotage for _, sabotage in chosen)
    for name in SCENARIOS:
        possible = [] if name == MEETS_ALL else [sabotage for scenario, sabotage in table if scenario == name]
        for sabotage in sorted(possible, key=lambda sabotage: met[sabotage])[:SHARE]:
            met[sabotage] += 1
            chosen.append((name, sabotage))
    return chosen
