"""`kalab list`: what it says is computed from the declarations. tests/race holds the durations against real runs."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from lab.asked import Asked, understand
from lab.catalogue import catalogue
from lab.cli import app
from lab.duration import estimate_s, told
from lab.list_command import listed

SCENARIOS = catalogue()


def estimate(name: str, **asked: object) -> float:
    scenario = SCENARIOS[name]
    return estimate_s(scenario, understand(scenario, Asked(seed=1, **asked)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "short", "measured_s"),
    [  # two cores, nothing else running
        ("idle-close", True, 16),
        ("idle-close", False, 45),
        ("max-requests", True, 11),
        ("max-requests", False, 20),
        ("no-race", True, 10),
        ("frozen", True, 14),
        ("black-hole", True, 10),
    ],
)
def test_the_estimate_is_near_what_was_measured(name: str, short: bool, measured_s: float) -> None:
    assert estimate(name, short=short) == pytest.approx(measured_s, rel=0.25)


def test_what_makes_a_run_longer_makes_the_estimate_longer() -> None:
    usual = estimate("idle-close", short=True)
    assert estimate("idle-close", short=True, blocks=4) > usual + 2 * 4  # two blocks more, two idle timeouts each
    assert estimate("idle-close", short=True, keep_alive="4s") > usual + 2 * 2
    assert estimate("idle-close", short=True, trials=200) > usual
    assert estimate("idle-close", short=True, arms=("control",)) < usual
    assert estimate("idle-close", short=True, methods=("POST",)) < usual
    held = estimate("idle-close", short=True, arms=("control",))  # aims by no time, so it calibrates nothing
    assert estimate("idle-close", short=True, arms=("window",)) > held + 2


def test_a_scenario_can_be_about_one_wire_and_a_busy_loop() -> None:
    pod = understand(SCENARIOS["pod"], Asked(wire="relay", seed=1))
    assert (pod.wire, pod.rtt_ms, pod.stall_ms) == ("loopback", 0.0, 100.0)
    assert understand(SCENARIOS["pod"], Asked(stall="50ms", seed=1)).stall_ms == 50.0
    busy = understand(SCENARIOS["busy"], Asked(wire="relay", seed=1))
    assert (busy.wire, busy.stall_ms) == ("relay", 150.0)


def test_arms_without_the_wanted_method_take_no_time() -> None:
    assert estimate("idle-close", arms=("crash",), methods=("GET",)) < 5


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(9.2, "10 s"), (89.5, "90 s"), (90.0, "2 min"), (151, "3 min"), (5400, "1.5 h"), (9000, "2.5 h")],
)
def test_a_duration_has_as_many_digits_as_it_deserves(seconds: float, words: str) -> None:
    assert told(seconds) == words


def test_the_list_tells_of_every_scenario_what_it_teaches_and_how_long_it_takes() -> None:
    text = CliRunner().invoke(app, ["list"]).stdout
    for scenario in SCENARIOS.values():
        found = listed(scenario)
        assert f"{scenario.name}: {scenario.sentence}\n  {scenario.teaches}\n" in text
        assert f"takes about {told(found.full.takes_s)}, with --short {told(found.short.takes_s)}" in text
        assert 0 < found.short.takes_s < found.full.takes_s
    assert text.splitlines()[-1].startswith("all of them, kalab run --all: about ")


def test_the_list_as_json_holds_the_same() -> None:
    found = json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)
    assert [each["name"] for each in found] == list(SCENARIOS)
    for each in found:
        scenario = SCENARIOS[each["name"]]
        assert [arm["name"] for arm in each["arms"]] == [arm.name for arm in scenario.arms]
        assert each["short"]["trials"] == scenario.short.trials
        assert each["full"]["takes_s"] > each["short"]["takes_s"]
