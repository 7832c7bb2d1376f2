"""The model held against what was lost, as tables: it passes where it is right, and is refuted where it is not."""

from collections.abc import Sequence

import msgspec
import pytest
from evidence import RTT_MS, answered, lane, plan, trial

from lab.box import LAG_MS, Share, box, share_of_sweep
from lab.checkers import judge_lane
from lab.maps import maps
from lab.model import Aim, Expect, Exposure, Verdict
from lab.plan import LanePlan
from lab.prediction import check_totals, says_lost, totals_text
from lab.result import LossMap, MapRow
from lab.stats import interval
from lab.witness.trials import Trial

CLOSE_MS = 2000.0


def held(proxy_idle_ms: float = 60_000.0) -> LanePlan:
    """An arm that is held against the model, whose proxy gives up at this idle age."""
    return lane(
        aim=Aim.GAPS,
        expect=Expect.PREDICTED,
        proxy={"timeouts.upstream_idle": f"{proxy_idle_ms:g}ms"},
        predicted=share_of_sweep(CLOSE_MS, RTT_MS, proxy_idle_ms),
    )


NOTHING, HALF, MORE = held(), held(CLOSE_MS - RTT_MS / 2), held(CLOSE_MS - RTT_MS - 20)


@pytest.mark.parametrize(
    ("proxy_idle_ms", "expected"),
    [
        (60_000.0, (1960.0, 2000.0)),
        (2000.0, (1960.0, 2000.0)),
        (1980.0, (1960.0, 1980.0)),
        (1960.0, (1960.0, 1960.0)),
        (1940.0, (1960.0, 1940.0)),
    ],
)
def test_the_box_ends_where_the_first_of_the_two_gives_up(proxy_idle_ms: float, expected: tuple[float, float]) -> None:
    assert box(CLOSE_MS, RTT_MS, proxy_idle_ms) == pytest.approx(expected)


def test_a_late_loop_widens_the_box_at_its_end() -> None:
    assert box(CLOSE_MS, RTT_MS, 60_000.0, 3.0) == pytest.approx((1957.0, 2003.0))


@pytest.mark.parametrize(
    ("proxy_idle_ms", "low"), [(60_000.0, 0.5), (2000.0, 0.5), (1980.0, 0.25), (1960.0, 0.0), (1900.0, 0.0)]
)
def test_the_share_of_a_sweep(proxy_idle_ms: float, low: float) -> None:
    share = share_of_sweep(CLOSE_MS, RTT_MS, proxy_idle_ms)
    assert share.low == pytest.approx(low)
    assert share.high == pytest.approx(low + 2 * LAG_MS / 80 if proxy_idle_ms > 1900 else 0.0)


@pytest.mark.parametrize(
    ("lane_plan", "age_ms", "close_ms", "says"),
    [
        pytest.param(NOTHING, 1980.0, None, True, id="inside"),
        pytest.param(NOTHING, 1950.0, None, False, id="before"),
        pytest.param(NOTHING, 2010.0, None, False, id="after"),
        pytest.param(NOTHING, 1962.0, None, None, id="near the beginning"),
        pytest.param(NOTHING, 1999.0, None, None, id="near the end"),
        pytest.param(NOTHING, 2010.0, 2030.0, True, id="after the usual close, before this one"),
        pytest.param(HALF, 1970.0, None, True, id="inside what is left of the box"),
        pytest.param(HALF, 1990.0, None, False, id="the proxy has given up"),
        pytest.param(MORE, 1940.0, None, False, id="no box: at the end of the proxy's timeout"),
        pytest.param(MORE, 1980.0, None, False, id="no box: inside the window of the control"),
    ],
)
def test_what_the_model_says_of_one_request(
    lane_plan: LanePlan, age_ms: float, close_ms: float | None, says: bool | None
) -> None:
    one = trial(idle_ms=age_ms, close_ms=close_ms)
    assert says_lost(plan(lane_plan), lane_plan, one) is says


def sweep(lost_from: float, lost_to: float, n: int = 80) -> list[Trial]:
    """A request at every ms from 60 before the close; lost between these two, relative to the close."""
    trials = []
    for i in range(n):
        gap = -60 + i * 80 / n
        make = trial if lost_from < gap < lost_to else answered
        trials.append(make(i, idle_ms=CLOSE_MS + gap))
    return trials


LATE = [msgspec.structs.replace(t, lag_ms=30.0) for t in sweep(-40, 0)[:30]]


@pytest.mark.parametrize(
    ("lane_plan", "trials", "expected"),
    [
        pytest.param(NOTHING, sweep(-40, 0), Verdict.PASS, id="as the model says"),
        pytest.param(NOTHING, sweep(-42, 2), Verdict.PASS, id="blurred at the edges"),
        pytest.param(NOTHING, sweep(-20, 0), Verdict.FAIL, id="a window of half a round trip"),
        pytest.param(NOTHING, sweep(-60, 20), Verdict.FAIL, id="a window of two round trips"),
        pytest.param(NOTHING, sweep(0, 0), Verdict.FAIL, id="nothing lost"),
        pytest.param(HALF, sweep(-40, -20), Verdict.PASS, id="a margin that narrows"),
        pytest.param(HALF, sweep(0, 0), Verdict.FAIL, id="a margin that ends it, though it should only narrow"),
        pytest.param(MORE, sweep(0, 0), Verdict.PASS, id="a margin that ends it"),
        pytest.param(MORE, sweep(-40, -20), Verdict.FAIL, id="a margin that only narrows, though it should end it"),
        pytest.param(NOTHING, [*LATE, *sweep(-40, 0)[30:]], Verdict.INCONCLUSIVE, id="a peer late too often"),
        pytest.param(NOTHING, sweep(-49, 0), Verdict.INCONCLUSIVE, id="more than chance, too little to refute"),
        pytest.param(NOTHING, [], Verdict.INCONCLUSIVE, id="nothing sent"),
        pytest.param(NOTHING, sweep(-40, 0)[:25], Verdict.INCONCLUSIVE, id="nothing in the window"),
        pytest.param(
            NOTHING,
            [msgspec.structs.replace(t, exposure=Exposure.NOT_SENT) for t in sweep(-40, 0)],
            Verdict.INCONCLUSIVE,
            id="answered without asking the upstream",
        ),
    ],
)
def test_a_sweep_is_held_against_the_model(lane_plan: LanePlan, trials: Sequence[Trial], expected: Verdict) -> None:
    finding = judge_lane(plan(lane_plan), lane_plan, trials)
    assert finding.verdict is expected, finding.sentence


def row(predicted: Share, lost: int, n: int = 240) -> LossMap:
    share = interval(lost, n)
    return LossMap(40.0, (MapRow("a", "POST", None, -40, 0, *predicted, n, lost, share.low, share.high, ()),))


@pytest.mark.parametrize(
    ("lost", "expected"),
    [(120, Verdict.PASS), (105, Verdict.PASS), (60, Verdict.FAIL), (240, Verdict.FAIL), (0, Verdict.FAIL)],
)
def test_the_total_must_lie_within_the_interval(lost: int, expected: Verdict) -> None:
    check = check_totals([row(Share(0.5, 0.55), 120), row(Share(0.5, 0.55), lost)])
    assert check.verdict is expected, check.sentence


def test_the_total_is_told_with_its_interval() -> None:
    assert totals_text(row(Share(0.5, 0.55), 120)) == (
        "50.0 to 55.0 % over 40 ms of round trip, and lost were 120 of 240 (43.7–56.3 %)"
    )


def test_a_map_has_a_row_for_each_margin_and_a_cell_where_requests_were() -> None:
    lanes = [msgspec.structs.replace(each, arm=name) for each, name in ((NOTHING, "a"), (HALF, "b"))]
    trials = [msgspec.structs.replace(t, arm=name) for name in ("a", "b") for t in sweep(-40, 0)]
    the_plan = plan(*lanes, closes=(CLOSE_MS,))
    (found,) = maps(the_plan, [judge_lane(the_plan, each, trials) for each in lanes])
    assert (found.rtt_ms, [r.arm for r in found.rows]) == (RTT_MS, ["a", "b"])
    first, second = found.rows
    assert first.margin_ms is None
    assert [second.margin_ms, second.box_from_ms, second.box_to_ms] == pytest.approx([20.0, -40.0, -20.0])
    assert sum(cell.n for cell in first.cells) == 80
    assert sum(cell.lost for cell in first.cells) == first.lost == 39
    assert all(cell.lost == 0 for cell in first.cells if cell.to_ms <= -40 or cell.from_ms >= 0)


def test_arms_that_are_not_held_against_the_model_have_no_map() -> None:
    assert maps(plan(lane()), [judge_lane(plan(lane()), lane(), [])]) == ()
