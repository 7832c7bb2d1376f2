"""Loss over idle gap and margin: one map for each round trip, from the arms that are held against the model.

A cell is an eighth of a window wide, or wider where there are too few requests to fill such cells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import floor

from lab.box import SWEEP_FROM, SWEEP_TO, Share, box
from lab.checkers import LaneFinding
from lab.curves import bins_per_window
from lab.model import Expect
from lab.plan import Plan
from lab.result import LossMap, MapCell, MapRow
from lab.stats import interval


def maps(plan: Plan, findings: Sequence[LaneFinding]) -> tuple[LossMap, ...]:
    """The maps of a run, the shortest round trip first; none where no arm is held against the model."""
    held = [f for f in findings if f.lane.expect is Expect.PREDICTED]
    trips = sorted({f.lane.rtt_ms for f in held})
    return tuple(LossMap(rtt, tuple(_row(plan, f) for f in held if f.lane.rtt_ms == rtt)) for rtt in trips)


def _row(plan: Plan, finding: LaneFinding) -> MapRow:
    lane, close = finding.lane, plan.calibration.middle
    predicted = box(close, lane.window_ms, lane.proxy_idle_ms)
    margin = close - lane.proxy_idle_ms
    said = lane.predicted or Share(0.0, 0.0)
    share = interval(finding.lost, len(finding.exposed))
    return MapRow(
        arm=lane.arm,
        method=lane.method,
        margin_ms=margin if margin > -lane.window_ms else None,
        box_from_ms=predicted.from_ms - close,
        box_to_ms=predicted.to_ms - close,
        predicted_low=said.low,
        predicted_high=said.high,
        n=len(finding.exposed),
        lost=finding.lost,
        low=share.low,
        high=share.high,
        cells=_cells(finding, close),
    )


def _cells(finding: LaneFinding, close_ms: float) -> tuple[MapCell, ...]:
    window_ms = finding.lane.window_ms
    width = window_ms / bins_per_window(len(finding.exposed))
    n: Counter[int] = Counter()
    lost: Counter[int] = Counter()
    for trial in finding.exposed:
        cell = floor((trial.age_ms - close_ms) / width)
        if -SWEEP_FROM * window_ms <= cell * width < SWEEP_TO * window_ms:
            n[cell] += 1
            lost[cell] += trial.lost
    return tuple(MapCell(cell * width, (cell + 1) * width, n[cell], lost[cell]) for cell in sorted(n))
