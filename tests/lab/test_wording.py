"""Wording: what is said of numbers may never claim more than the numbers do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_result import sample, sample_arm

from lab.model import Expect, Verdict
from lab.stats import interval
from lab.wording import (
    control_of,
    cost_parts,
    decimals_for,
    duration_text,
    effect,
    encodable,
    harmful_changes,
    percent,
    share_text,
    time_text,
)


@pytest.mark.parametrize(
    ("lost", "n", "says"),
    [
        (0, 0, "none exposed"),
        (0, 240, "0 of 240, fewer than 1.6 %"),
        (0, 30_000, "0 of 30000, fewer than 0.013 %"),
        (240, 240, "240 of 240 (98.4–100 %)"),
        (3, 240, "3 of 240 (0.4–3.7 %)"),
        (1, 1, "1 of 1 (2.5–100 %)"),
    ],
)
def test_share(lost: int, n: int, says: str) -> None:
    found = interval(lost, n)
    assert share_text(lost, n, found.low, found.high) == says


@given(share=st.floats(min_value=1e-6, max_value=1.0))
def test_bounds_are_rounded_outwards(share: float) -> None:
    assert float(percent(share, up=True)) >= share * 100 - 1e-5
    assert float(percent(share, up=False)) <= share * 100 + 1e-5


def test_a_bound_above_zero_is_never_written_as_zero() -> None:
    assert percent(1e-7, up=True) == "0.000010"


@pytest.mark.parametrize(
    ("expected", "is_fix", "verdict", "tone", "words"),
    [
        (Expect.LOST, False, Verdict.PASS, "plain", "breaks, as it must"),
        (Expect.BOX, False, Verdict.PASS, "plain", "breaks where it meets the close only"),
        (Expect.LOST, True, Verdict.PASS, "bad", "does not help"),
        (Expect.MENDED, True, Verdict.PASS, "good", "mends it"),
        (Expect.EXECUTED_ONCE, True, Verdict.PASS, "plain", "lost, but executed once only"),
        (Expect.EXECUTED_TWICE, True, Verdict.PASS, "harm", "executes twice"),
        (Expect.REPEATED, True, Verdict.PASS, "plain", "lost"),
        (Expect.MENDED, True, Verdict.FAIL, "bad", "not as expected"),
        (Expect.MENDED, True, Verdict.INCONCLUSIVE, "open", "not settled"),
    ],
)
def test_effect(expected: Expect, is_fix: bool, verdict: Verdict, tone: str, words: str) -> None:
    arm = sample_arm(expected=expected.value, is_fix=is_fix, verdict=verdict)
    assert effect(arm) == (tone, words)


@pytest.mark.parametrize(
    ("expected", "method", "attempts", "tone", "words"),
    [
        (Expect.EXECUTED_TWICE, "GET", 2.0, "plain", "answered, executed twice, which is safe"),
        (Expect.EXECUTED_TWICE, "POST", 2.0, "harm", "executes twice"),
        (Expect.REPEATED, "POST", 3.0, "harm", "lost, sent 3 times each"),
        (Expect.REPEATED, "POST", 1.0, "plain", "lost, sent once"),
        (Expect.BUDGETED, "POST", 1.4, "good", "lost, repeats bounded, sent 1.40 times each"),
    ],
)
def test_what_repeats_did_is_told_with_their_number(
    expected: Expect, method: str, attempts: float, tone: str, words: str
) -> None:
    arm = sample_arm(expected=expected.value, is_fix=True, method=method, attempts=attempts)
    assert effect(arm) == (tone, words)


def test_an_expectation_that_is_not_known_is_not_praised() -> None:
    assert effect(sample_arm(expected="something new")).words == "as expected"


def test_a_change_that_executed_twice_in_one_arm_is_not_praised_in_another() -> None:
    arms = sample().arms
    always = next(arm for arm in arms if arm.arm == "retry-always")
    assert effect(always, harmful_changes(arms)).tone == "harm"
    assert effect(always).tone == "good"


def test_the_cost_is_compared_with_the_control_of_the_same_method() -> None:
    arms = sample().arms
    get = next(arm for arm in arms if (arm.arm, arm.method) == ("no-keep-alive", "GET"))
    control = control_of(get, arms)
    assert control is not None
    assert (control.arm, control.method) == ("control", "GET")
    assert cost_parts(get, control) == ["81.4 ms (+40.2)", "1.00 connects"]
    assert cost_parts(control, control_of(control, arms)) == ["41.2 ms", "0.02 connects"]


def test_a_longer_way_is_not_called_a_cost_of_the_fix() -> None:
    far = sample_arm("thin-margin-far", latency_ms=61.2, connects_per_request=None)
    assert cost_parts(far, sample_arm()) == ["61.2 ms"]


def test_a_cost_that_was_not_measured_is_not_zero() -> None:
    assert cost_parts(sample_arm(latency_ms=None, connects_per_request=None), None) == ["not measured"]


@pytest.mark.parametrize(("ms", "says"), [(20.1, "+20.1"), (-2000.0, "−2000.0"), (0.0, "0.0"), (-0.04, "0.0")])
def test_time(ms: float, says: str) -> None:
    assert time_text(ms) == says


@pytest.mark.parametrize(("ms", "says"), [(40.0, "40 ms"), (0.25, "0.25 ms"), (2000.7, "2 s"), (94_600, "94.6 s")])
def test_duration(ms: float, says: str) -> None:
    assert duration_text(ms) == says


@pytest.mark.parametrize(
    ("times", "decimals"), [([0, 20], 1), ([0, 0.1], 1), ([0, 0.05], 2), ([0, 0.004], 3), ([5], 1)]
)
def test_neighbours_are_told_apart(times: list[float], decimals: int) -> None:
    assert decimals_for(times) == decimals


def test_text_that_a_stream_cannot_take_is_made_plain() -> None:
    assert encodable("98.4–100 %, 1 → 2", "utf-8") == "98.4–100 %, 1 → 2"
    assert encodable("98.4–100 %, 1 → 2, ü", "ascii") == "98.4-100 %, 1 -> 2, ?"
    assert encodable("clear \x1b[2J the screen\n", "utf-8") == "clear  [2J the screen "
