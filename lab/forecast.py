"""What the model of a pool (`lab.pool_model`) says of a lane's traffic, and whether what was lost agrees with it.

Rules of this file:

- The model is told what was measured before the traffic (the close) and what was configured, never what was lost.
- They agree if the interval of what was lost overlaps the prediction and what the model may be off by. The interval is
  wide enough that chance alone parts them in fewer than one run of 10,000.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lab.model import Verdict
from lab.plan import LanePlan, Plan
from lab.pool_model import PoolCase, share_lost
from lab.stats import interval
from lab.witness.trials import Trial
from lab.wording import percent
from proxy.config import parse_duration

CONFIDENCE = 0.9999
# By how much the model may be off, as a factor: it knows no timer and no scheduler.
OFF_BY = 1.25
# An interval wider than this, as a factor, says too little; unless next to nothing was to be lost.
WIDEST = 16.0
NEXT_TO_NONE = 0.5  # losses


class Forecast(NamedTuple):
    """The share of requests that the model says are lost, between its bounds."""

    share: float
    low: float
    high: float


def forecast(plan: Plan, lane: LanePlan) -> Forecast:
    """What is to be expected of this lane."""
    traffic = lane.traffic
    assert traffic is not None
    case = PoolCase(
        close_s=plan.calibration.middle / 1000,
        proxy_idle_s=float(parse_duration(lane.proxy["timeouts.upstream_idle"])),
        rtt_s=lane.rtt_ms / 1000,
        rate=traffic.rate,
        answer_s=traffic.answer_ms / 1000,
        newest=lane.proxy["pool.order"] == "newest",
        max_connections=int(lane.proxy["pool.max_connections"]),
    )
    share = share_lost(case, plan.setup.seed)
    return Forecast(share, share / OFF_BY, share * OFF_BY)


def agrees(plan: Plan, lane: LanePlan, sent: Sequence[Trial]) -> tuple[Verdict, str]:
    """Compares what was lost with the forecast."""
    expected = forecast(plan, lane)
    lost = sum(t.lost for t in sent)
    found = interval(lost, len(sent), CONFIDENCE)
    told = f"{lost} of {len(sent)} were lost ({_bounds(found.low, found.high)}); the model says {_model(expected)}."
    if found.low > expected.high or found.high < expected.low:
        return Verdict.FAIL, told
    next_to_none = expected.high * len(sent) < NEXT_TO_NONE
    if not next_to_none and found.high > WIDEST * max(found.low, 1e-9):
        return Verdict.INCONCLUSIVE, f"{told} That is too few to tell."
    return Verdict.PASS, told


def _model(expected: Forecast) -> str:
    if not expected.share:
        return "none"
    return f"{percent(expected.share, up=False)} % ({_bounds(expected.low, expected.high)})"


def _bounds(low: float, high: float) -> str:
    return f"{percent(low, up=False)}–{percent(high, up=True)} %"
