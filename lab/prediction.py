"""The model's prediction held against what was lost: trial by trial, and in total.

Pure. A request whose age is near an end of the box, by as much as timers and scheduling blur it, is held against
neither side; nor is one around which the witnesses say that a peer was late. In the total all count.
"""

from __future__ import annotations

from collections.abc import Sequence

from lab.box import Share, box
from lab.model import Verdict
from lab.plan import EDGE_MS, LanePlan, Plan
from lab.result import Check, LossMap
from lab.stats import interval
from lab.witness.trials import Trial
from lab.wording import range_text, share_text

# Of the requests away from the edges, so many may go otherwise: a peer or the wire was put aside at that moment. Beyond
# the second share that is no excuse any more. At least one may, however few there are.
MAX_OFF = 0.02
REFUTED = 0.1
# With more requests than these around which a peer was late, the rest is no sample.
MAX_LATE = 0.25


def says_lost(plan: Plan, lane: LanePlan, trial: Trial) -> bool | None:
    """Whether the model says that this request is lost; None where an end of the box is too near to say.

    The close is where the wire saw it on this connection, or else blurred by as much as the calibration's differed.
    """
    calibration = plan.calibration
    closes = (calibration.low, calibration.high) if trial.close_ms is None else (trial.close_ms, trial.close_ms)
    early, late = (box(close, lane.window_ms, lane.proxy_idle_ms) for close in closes)
    if late.from_ms + EDGE_MS <= trial.age_ms <= early.to_ms - EDGE_MS:
        return True
    if trial.age_ms < early.from_ms - EDGE_MS or trial.age_ms > late.to_ms + EDGE_MS:
        return False
    return None


def judge_predicted(plan: Plan, lane: LanePlan, sent: Sequence[Trial]) -> tuple[Verdict, str]:
    """What was lost of a sweep, request by request, against what the model says. `sent`: all of it that went out."""
    assert lane.predicted is not None
    lost = sum(trial.lost for trial in sent)
    bounds = interval(lost, len(sent))
    on_time = [trial for trial in sent if trial.lag_ms <= EDGE_MS]
    told = [(trial, says) for trial in on_time if (says := says_lost(plan, lane, trial)) is not None]
    off = sum(trial.lost is not says for trial, says in told)
    late = len(sent) - len(on_time)
    sentence = (
        f"{len(told) - off} of {len(told)} requests away from the edges went as the model says"
        f"{f' ({late} more met a peer that was late)' if late else ''}. Of the sweep the model had said "
        f"{range_text(*lane.predicted)}; lost: {share_text(lost, len(sent), bounds.low, bounds.high)}."
    )
    if off > max(1.0, REFUTED * len(told)):
        return Verdict.FAIL, sentence
    noisy = off > max(1.0, MAX_OFF * len(told)) or late > MAX_LATE * len(sent)
    return (Verdict.INCONCLUSIVE if noisy else Verdict.PASS), sentence


def totals(found: LossMap) -> tuple[Share, int, int]:
    """Of all rows of a map: the share that the model says is lost, how many were, and of how many."""
    n = sum(row.n for row in found.rows)
    low, high = (
        sum(share * row.n for row, share in zip(found.rows, shares, strict=True)) / n
        for shares in zip(*((row.predicted_low, row.predicted_high) for row in found.rows), strict=True)
    )
    return Share(low, high), sum(row.lost for row in found.rows), n


def check_totals(found: Sequence[LossMap]) -> Check:
    """For each round trip, what the model had said of all sweeps before the run, against what they lost."""
    verdict = Verdict.PASS
    for each in found:
        predicted, lost, n = totals(each)
        bounds = interval(lost, n)
        if bounds.high < predicted.low or bounds.low > predicted.high:
            verdict = Verdict.FAIL
    told = "; ".join(totals_text(each) for each in found)
    return Check("prediction", verdict, f"The model had said before the run {told}.", "Run again on a quieter machine.")


def totals_text(found: LossMap) -> str:
    """Both shares of a map."""
    predicted, lost, n = totals(found)
    bounds = interval(lost, n)
    share = share_text(lost, n, bounds.low, bounds.high)
    return f"{range_text(*predicted)} over {found.rtt_ms:g} ms of round trip, and lost were {share}"
