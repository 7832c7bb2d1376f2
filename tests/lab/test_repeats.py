"""How often a request may be sent and executed when nothing answers: verdicts and words, from made-up trials."""

from collections.abc import Sequence
from typing import Any

import pytest
from evidence import lane, plan, trial

from lab.checkers import LaneFinding, judge_lane
from lab.model import Aim, Expect, Exposure, Verdict
from lab.narrative import narrate
from lab.plan import LanePlan
from lab.repeats import allowed
from lab.repeats_told import LOOKS_LIKE, NOTHING
from lab.witness.trials import Trial
from scenarios.retry_post import SCENARIO


def sent(times: int, n: int = 40, **changes: Any) -> list[Trial]:
    """Requests that were sent so many times, executed as often, and lost."""
    died = {"exposure": Exposure.CLOSED_AFTER_ARRIVAL, "attempts": times, "executions": times}
    return [trial(i, **{**died, **changes}) for i in range(n)]


THRICE = lane(aim=Aim.CRASH, expect=Expect.REPEATED, attempts=3)
BUDGET = lane(aim=Aim.CRASH, expect=Expect.BUDGETED, attempts=3, proxy={"retry.budget": "0.2"})


@pytest.mark.parametrize(
    ("lane_plan", "trials", "expected"),
    [
        pytest.param(THRICE, sent(3), Verdict.PASS, id="until the retries are used up"),
        pytest.param(THRICE, [*sent(3, 39), *sent(2, 1)], Verdict.FAIL, id="one was given up sooner"),
        pytest.param(THRICE, sent(4), Verdict.FAIL, id="once more than allowed"),
        pytest.param(THRICE, sent(3, executions=2), Verdict.FAIL, id="not executed as often as sent"),
        pytest.param(THRICE, [*sent(3), *sent(3, 1, status=200)], Verdict.FAIL, id="one was answered"),
        pytest.param(THRICE, sent(3, exposure=Exposure.CROSSED), Verdict.INCONCLUSIVE, id="no crash, but the race"),
        pytest.param(THRICE, [], Verdict.INCONCLUSIVE, id="the load never ran"),
        pytest.param(BUDGET, [*sent(1, 35), *sent(3, 5)], Verdict.PASS, id="ten repeats, which are always granted"),
        pytest.param(BUDGET, [*sent(1, 32), *sent(3, 8)], Verdict.PASS, id="a fifth of all requests"),
        pytest.param(BUDGET, [*sent(1, 31), *sent(3, 8), *sent(2, 1)], Verdict.FAIL, id="one over the budget"),
        pytest.param(BUDGET, [*sent(1, 36), *sent(3, 4), *sent(2, 1)], Verdict.FAIL, id="budget not used"),
        pytest.param(BUDGET, sent(1), Verdict.FAIL, id="nothing repeated"),
        pytest.param(BUDGET, sent(3), Verdict.FAIL, id="no budget at all"),
    ],
)
def test_judge_repeats(lane_plan: LanePlan, trials: Sequence[Trial], expected: Verdict) -> None:
    finding = judge_lane(plan(lane_plan), lane_plan, trials)
    assert finding.verdict is expected, finding.sentence


@pytest.mark.parametrize(
    ("blocks", "trials", "share", "most"),
    [(1, 40, "0.2", 16), (4, 40, "0.2", 64), (2, 20, "0.2", 20), (1, 40, "0", 10), (1, 40, "1", 80)],
)
def test_the_budget_is_a_share_of_all_requests_and_ten_at_least(
    blocks: int, trials: int, share: str, most: int
) -> None:
    bounded = lane(expect=Expect.BUDGETED, proxy={"retry.budget": share})
    assert allowed(plan(bounded, blocks=blocks, trials=trials), bounded) == most


def finding(arm: str, expect: Expect, exposed: Sequence[Trial], **of_lane: Any) -> LaneFinding:
    lane_plan = lane(arm, aim=Aim.CRASH, expect=expect, **of_lane)
    return LaneFinding(lane_plan, Verdict.PASS, "", tuple(exposed), tuple(exposed), ())


def told(*findings: LaneFinding) -> tuple[str, ...]:
    return narrate(SCENARIO, plan(), findings, [], {}, sound=True)


def test_what_was_executed_twice_is_told_by_method() -> None:
    twice = sent(2, status=200)
    found = told(
        finding("never", Expect.EXECUTED_ONCE, sent(1)),
        finding("always", Expect.EXECUTED_TWICE, twice, method="GET"),
        finding("always", Expect.EXECUTED_TWICE, twice),
        finding("down", Expect.REPEATED, sent(3)),
        finding("bounded", Expect.BUDGETED, [*sent(1, 30), *sent(3, 10)]),
    )
    assert found == (
        LOOKS_LIKE,
        "Executed twice, and answered: POST with always; GET with always.",
        "Executed once, and lost: POST with never.",
        "Down for good, so often was each request sent: 3 (down, POST), 1.5 (bounded, POST).",
    )


def test_what_did_not_come_out_is_not_told() -> None:
    mixed = finding("always", Expect.EXECUTED_TWICE, [*sent(2, 39, status=200), *sent(1, 1)])
    assert told(mixed) == (LOOKS_LIKE,)
    assert told(finding("never", Expect.EXECUTED_ONCE, [])) == (NOTHING,)
