"""Two runs side by side: what counts as a difference, and what two runs cannot tell."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from evidence import plan
from rich.console import Console
from sample_result import sample, sample_arm
from typer.testing import CliRunner

from lab.cli import app
from lab.compare import LEVEL, Comparison, Outcome, Stored, compare
from lab.compare_command import tell
from lab.errors import UsageError
from lab.model import Verdict
from lab.result import ArmResult, Change, Check
from lab.stats import interval
from lab.store import create, seal, write_plan, write_result


def arm(name: str = "order-timeouts", lost: int = 0, exposed: int = 100, **changes: Any) -> ArmResult:
    bounds = interval(lost, exposed)
    counts = {"lost": lost, "exposed": exposed, "aimed": exposed, "lost_low": bounds.low, "lost_high": bounds.high}
    return sample_arm(name, **{**counts, "executed_twice": 0, **changes})


def stored(*arms: ArmResult, name: str = "first", checks: tuple[Check, ...] = (), **setup: Any) -> Stored:
    return Stored(name, plan(**setup), sample(arms=arms, checks=checks))


def against(one: ArmResult, other: ArmResult) -> Comparison:
    return compare(stored(one), stored(other, name="second"))


@pytest.mark.parametrize(
    ("one", "other", "outcome", "code"),
    [
        (arm(lost=0), arm(lost=0), Outcome.ALIKE, 0),
        (arm(lost=50), arm(lost=55), Outcome.ALIKE, 0),  # chance 0.57
        (arm(lost=50), arm(lost=20), Outcome.BETTER, 0),
        (arm(lost=20), arm(lost=50), Outcome.WORSE, 1),
        (arm(executed_twice=0), arm(executed_twice=20), Outcome.WORSE, 1),
        (arm(executed_twice=20), arm(executed_twice=0), Outcome.BETTER, 0),
        # fewer lost, but twice as many bookings: worse
        (arm(lost=100), arm(lost=0, executed_twice=100), Outcome.WORSE, 1),
        # a control that does not break any more: it was as expected, and is not
        (arm("control", lost=100), arm("control", lost=20, verdict=Verdict.FAIL), Outcome.WORSE, 1),
        # one loss is enough for "fail" where none may be, and is too few for "worse"
        (arm(lost=0), arm(lost=1, verdict=Verdict.FAIL), Outcome.INCONCLUSIVE, 2),
        (arm(lost=1, verdict=Verdict.FAIL), arm(lost=1, verdict=Verdict.FAIL), Outcome.ALIKE, 0),
        (arm(lost=1, verdict=Verdict.FAIL), arm(lost=0), Outcome.ALIKE, 0),
        (arm(), arm(verdict=Verdict.INCONCLUSIVE), Outcome.INCONCLUSIVE, 2),
        (arm(verdict=Verdict.INCONCLUSIVE), arm(), Outcome.INCONCLUSIVE, 2),
        # three of each: all and none would differ by chance once in ten
        (arm(exposed=3), arm(exposed=3), Outcome.INCONCLUSIVE, 2),
        (arm(exposed=6), arm(exposed=6), Outcome.ALIKE, 0),
        (arm(exposed=0), arm(exposed=100), Outcome.INCONCLUSIVE, 2),
    ],
)
def test_one_arm(one: ArmResult, other: ArmResult, outcome: Outcome, code: int) -> None:
    found = against(one, other)
    assert found.pairs[0].outcome is outcome
    assert (found.outcome, found.verdict.exit_code) == (outcome, code)


def test_of_many_arms_one_may_differ_by_chance() -> None:
    """0 and 6 of 100 differ once in 34 by chance: in one arm that is believed, in one of ten it is not."""
    names = [f"arm-{n}" for n in range(9)]
    rest = [sample_arm(arm=name, executed_twice=0, lost=0, exposed=100) for name in names]
    alone = against(arm(lost=0), arm(lost=6))
    among = compare(stored(arm(lost=0), *rest), stored(arm(lost=6), *rest, name="second"))
    assert (alone.outcome, alone.tests, alone.level) == (Outcome.WORSE, 1, LEVEL)
    assert (among.outcome, among.tests) == (Outcome.ALIKE, 10)
    assert among.level == pytest.approx(LEVEL / 10)
    assert among.pairs[0].chance == alone.pairs[0].chance


def test_requests_that_share_a_fate_count_as_fewer() -> None:
    """20 and 50 of 100 in rounds that differ so much that the intervals are three times as wide: 2 and 6 of 11."""
    wide = [
        msgspec.structs.replace(found, lost_low=found.lost / 100 - 0.29, lost_high=found.lost / 100 + 0.29)
        for found in (arm(lost=20), arm(lost=50))
    ]
    assert against(arm(lost=20), arm(lost=50)).outcome is Outcome.WORSE
    assert against(*wide).outcome is Outcome.ALIKE
    wider = [msgspec.structs.replace(found, lost_low=0.0, lost_high=1.0) for found in wide]  # worth 4 requests each
    assert against(*wider).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(
    ("outcomes", "all_of_them"),
    [
        ([Outcome.ALIKE, Outcome.BETTER], Outcome.BETTER),
        ([Outcome.BETTER, Outcome.INCONCLUSIVE], Outcome.INCONCLUSIVE),
        ([Outcome.INCONCLUSIVE, Outcome.WORSE, Outcome.BETTER], Outcome.WORSE),
        ([], Outcome.INCONCLUSIVE),
    ],
)
def test_what_is_worse_outweighs_the_rest(outcomes: list[Outcome], all_of_them: Outcome) -> None:
    assert Outcome.of_all(outcomes) is all_of_them


@pytest.mark.parametrize("spoilt", [0, 1])
def test_a_run_that_was_no_experiment_is_compared_with_none(spoilt: int) -> None:
    late = (Check("schedule kept", Verdict.INCONCLUSIVE, "Requests went out late."),)
    runs = [stored(arm(lost=n * 100), checks=late if n == spoilt else (), name=f"run {n}") for n in range(2)]
    found = compare(*runs)
    assert found.outcome is Outcome.INCONCLUSIVE
    assert found.story[0] == f"run {spoilt} was no experiment (schedule kept): Requests went out late."


def test_a_run_that_was_changed_since_is_compared_with_none() -> None:
    other = msgspec.structs.replace(stored(arm(lost=100), name="second"), changed=("plan.json was changed",))
    assert compare(stored(arm()), other).outcome is Outcome.INCONCLUSIVE


def test_runs_without_a_common_arm_tell_nothing() -> None:
    found = compare(stored(arm("control")), stored(arm("retry-always"), name="second"))
    assert (found.outcome, found.only_first, found.only_second) == (
        Outcome.INCONCLUSIVE,
        ("control.POST",),
        ("retry-always.POST",),
    )


def test_two_scenarios_are_not_compared() -> None:
    other = Stored("hint/1", plan(), sample(scenario="hint"))
    with pytest.raises(UsageError, match="first is a run of idle-close and hint/1 one of hint: only runs of the same"):
        compare(stored(arm()), other)


def test_what_was_set_up_otherwise_is_told_and_the_seed_is_not() -> None:
    changed = arm(changes=(Change("proxy.timeouts.upstream_idle", "60s", "1950ms"),))
    one = stored(arm(changes=(Change("proxy.timeouts.upstream_idle", "60s", "1700ms"),)), seed=1, rtt_ms=40.0)
    other = stored(changed, name="second", seed=2, rtt_ms=100.0)
    told = [(each.what, each.first, each.second) for each in compare(one, other).setup]
    assert told == [
        ("rtt_ms", "40", "100"),
        ("order-timeouts: proxy.timeouts.upstream_idle", "1700ms", "1950ms"),
    ]


def test_the_environment_is_told_apart() -> None:
    runs = [
        Stored(name, msgspec.structs.replace(plan(), environment=env), sample(arms=(arm(),)))
        for name, env in (("first", {"kernel": "6.1", "cpus": "2"}), ("second", {"kernel": "6.8", "cpus": "2"}))
    ]
    found = compare(*runs)
    assert [(each.what, each.first, each.second) for each in found.environment] == [("kernel", "6.1", "6.8")]
    assert found.setup == ()


def test_it_is_told_in_a_table_and_in_words() -> None:
    out = io.StringIO()
    found = compare(
        stored(arm(lost=0), arm("retry-always", lost=0)),
        stored(arm(lost=40, verdict=Verdict.FAIL), arm("retry-always", lost=0, executed_twice=90), name="second"),
    )
    tell(found, Console(file=out, width=70))
    text = out.getvalue()
    assert "set up otherwise: nothing\n" in text
    row = next(line for line in text.splitlines() if line.startswith("order-timeouts POST"))
    assert " ".join(row.split()).startswith("order-timeouts POST 0 of 100, fewer than 3.7 % 40 of 100 (30.9–49.8 %) ")
    assert "90 executed twice" in text
    assert "order-timeouts, POST: worse; more were lost.\n" in text
    assert "retry-always, POST: worse; more were executed twice.\n" in text
    assert text.endswith("comparison: worse\n")


def on_disk(runs: Path, *arms: ArmResult, scenario: str = "idle-close") -> Path:
    folder = create(runs, scenario)
    write_plan(folder, plan(scenario=scenario))
    write_result(folder, sample(scenario=scenario, arms=arms, checks=()))
    seal(folder)
    return folder


def test_the_command_ends_as_the_comparison_does(tmp_path: Path) -> None:
    good, bad = on_disk(tmp_path, arm(lost=0)), on_disk(tmp_path, arm(lost=100))
    kalab = CliRunner().invoke
    words = ["compare", f"idle-close/{good.name}", "latest", "--runs", str(tmp_path)]
    ended = kalab(app, words)
    assert (ended.exit_code, ended.stdout.splitlines()[-1]) == (1, "comparison: worse")
    ended = kalab(app, [*words, "--json"])
    assert (ended.exit_code, json.loads(ended.stdout)["outcome"]) == (1, "worse")
    ended = kalab(app, ["compare", str(bad), str(good)])
    assert (ended.exit_code, ended.stdout.splitlines()[-1]) == (0, "comparison: better")
    (good / "verdict.json").write_bytes((bad / "verdict.json").read_bytes())
    ended = kalab(app, words)
    assert ended.exit_code == 2
    assert f"idle-close/{good.name} is not what it was: verdict.json was changed after the run." in ended.stdout


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ("idle-close/latest", "are the same run"),
        ("hint", "only runs of the same scenario"),
        ("idle-clsoe", "did you mean"),
    ],
)
def test_what_cannot_be_compared_is_one_error(tmp_path: Path, second: str, says: str) -> None:
    on_disk(tmp_path, arm(), scenario="hint")
    first = on_disk(tmp_path, arm())
    with pytest.raises(UsageError, match=says):
        CliRunner().invoke(
            app, ["compare", str(first), second, "--runs", str(tmp_path)], catch_exceptions=False, standalone_mode=False
        )
