"""Predicted and measured loss, gap by gap."""

import pytest
from evidence import answered, lane, plan, trial

from lab.checkers import LaneFinding
from lab.curves import bins_per_window, curves, predicted
from lab.model import Aim, Expect, Verdict
from lab.plan import Calibration

CLOSES = Calibration((2000.0, 2000.0, 2000.0, 2010.0), (40.0,))


@pytest.mark.parametrize(
    ("gap_ms", "share"), [(1959.0, 0.0), (1961.0, 0.75), (1980.0, 1.0), (1999.0, 1.0), (2005.0, 0.25), (2011.0, 0.0)]
)
def test_predicted_is_the_share_of_closes_whose_window_holds_the_gap(gap_ms: float, share: float) -> None:
    assert predicted(CLOSES, 40.0, gap_ms) == share


def test_bins_count_what_was_lost_at_their_gap() -> None:
    swept = lane("window", aim=Aim.GAPS, expect=Expect.BOX)
    trials = [
        *(trial(i, idle_ms=1980.0) for i in range(60)),
        *(answered(i, idle_ms=1930.0) for i in range(36)),
        trial(999, idle_ms=2030.0),  # alone in its bin
    ]
    finding = LaneFinding(swept, Verdict.PASS, "", tuple(trials), (), ())
    (curve,) = curves(plan(swept, closes=(2000.0,)), [finding], {"window": "swept"})
    assert [(p.gap_ms, p.n, p.lost, p.predicted) for p in curve.points] == [(-67.5, 36, 0, 0.0), (-17.5, 60, 60, 1.0)]
    assert (curve.box_from_ms, curve.box_to_ms) == (-40.0, 0.0)


@pytest.mark.parametrize(("n", "bins"), [(960, 8), (96, 8), (48, 4), (24, 2), (1, 2)])
def test_bins_are_as_wide_as_it_takes_to_fill_them(n: int, bins: int) -> None:
    assert bins_per_window(n) == bins


def test_arms_that_swept_nothing_have_no_curve() -> None:
    held = LaneFinding(lane(), Verdict.PASS, "", (), (), ())
    assert curves(plan(lane()), [held], {"control": "x"}) == ()
