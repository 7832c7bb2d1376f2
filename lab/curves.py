"""Loss against idle gap: what the model predicts and what was measured, gap by gap.

The model (docs/race.md): a request sent at idle age `a` on a connection that its upstream closes at age `c` is lost
when c - R - L_u < a < c + L_p. Here L_p is 0, for an idle proxy notices a FIN at once, and `c` comes from the
calibration: the predicted loss at `a` is the share of measured closes for which `a` lies in the window.
"""

from __future__ import annotations

from collections.abc import Sequence

from lab.box import SWEEP_FROM, SWEEP_TO
from lab.checkers import LaneFinding
from lab.model import Aim
from lab.plan import Calibration, Plan
from lab.result import GapCurve, GapPoint
from lab.stats import interval

BINS_PER_WINDOW = 8
# A bin with fewer trials says nothing about its gap.
MIN_IN_BIN = 5
WINDOWS = SWEEP_FROM + SWEEP_TO  # over which a sweep is spread


def predicted(calibration: Calibration, window_ms: float, gap_ms: float) -> float:
    """The predicted share lost at this idle gap."""
    hits = sum(close - window_ms < gap_ms < close for close in calibration.close_ms)
    return hits / len(calibration.close_ms)


def bins_per_window(n: int) -> int:
    """In how many bins a window is cut, so that a sweep of `n` trials fills each."""
    return max(2, min(BINS_PER_WINDOW, int(n / WINDOWS / (MIN_IN_BIN + 1))))


def curves(plan: Plan, findings: Sequence[LaneFinding], titles: dict[str, str]) -> tuple[GapCurve, ...]:
    """One curve for each arm that swept idle gaps, its methods taken together."""
    swept = [f for f in findings if f.lane.aim is Aim.GAPS]
    arms = list(dict.fromkeys(f.lane.arm for f in swept))
    return tuple(_curve(plan, [f for f in swept if f.lane.arm == arm], titles[arm]) for arm in arms)


def _curve(plan: Plan, findings: Sequence[LaneFinding], title: str) -> GapCurve:
    lane = findings[0].lane
    close = plan.calibration.middle
    width = lane.window_ms / bins_per_window(sum(len(finding.trials) for finding in findings))
    bins: dict[int, list[bool]] = {}
    for trial in (trial for finding in findings for trial in finding.trials):
        bins.setdefault(int((trial.age_ms - close) // width), []).append(trial.lost)
    points = []
    for number, lost in sorted((number, lost) for number, lost in bins.items() if len(lost) >= MIN_IN_BIN):
        gap = (number + 0.5) * width
        share = interval(sum(lost), len(lost))
        expected = predicted(plan.calibration, lane.window_ms, close + gap)
        points.append(GapPoint(gap, len(lost), sum(lost), share.low, share.high, expected))
    return GapCurve(
        arm=lane.arm,
        title=title,
        box_from_ms=plan.calibration.low - lane.window_ms - close,
        box_to_ms=plan.calibration.high - close,
        points=tuple(points),
    )
