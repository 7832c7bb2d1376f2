"""What repeats cost when nothing answers: how often each request was sent and executed, against policy and budget.

Pure: trials in, a verdict out.
"""

from __future__ import annotations

from collections.abc import Sequence

from lab.model import Expect, Verdict
from lab.plan import LanePlan, Plan
from lab.witness.trials import Trial
from proxy.config import ProxyConfig

# Retries that the proxy grants in ten seconds however few requests there are (docs/proxy.md).
BUDGET_FLOOR = 10


def judge_repeats(plan: Plan, lane: LanePlan, mine: Sequence[Trial], exposed: Sequence[Trial]) -> tuple[Verdict, str]:
    """Every request lost, executed as often as it was sent, and sent as often as policy or budget allow."""
    answered = sum(not t.lost for t in exposed)
    if answered:
        return Verdict.FAIL, f"{answered} of {len(exposed)} requests were answered all the same."
    unlike = sum(t.executions != t.attempts for t in exposed)
    if unlike:
        return Verdict.FAIL, f"{unlike} of {len(exposed)} requests were not executed as often as they were sent."
    told = f"All {len(exposed)} requests were lost, and sent {mean_attempts(exposed):.2f} times each"
    if lane.expect is Expect.BUDGETED:
        return _budgeted(plan, lane, mine, told)
    others = [t for t in exposed if t.attempts != lane.attempts]
    if others:
        seen = sorted({t.attempts for t in others})
        times = " or ".join(map(str, seen))
        return Verdict.FAIL, f"{len(others)} of {len(exposed)} were sent {times} times, not {lane.attempts}."
    return Verdict.PASS, f"{told}; executed as often."


def _budgeted(plan: Plan, lane: LanePlan, mine: Sequence[Trial], told: str) -> tuple[Verdict, str]:
    """Within the budget, and up to it: a proxy that repeats nothing shows nothing of a budget."""
    retries = sum(max(0, t.attempts - 1) for t in mine)
    wanted = (lane.attempts - 1) * len(mine)
    least, most = min(BUDGET_FLOOR, wanted), allowed(plan, lane)
    told = (
        f"{told}. Of {wanted} repeats that the policy wants the budget allows {least} to {most}; there were {retries}"
    )
    return (Verdict.PASS if least <= retries <= most else Verdict.FAIL), f"{told}."


def allowed(plan: Plan, lane: LanePlan) -> int:
    """The most retries that the budget can grant in a run.

    The window slides over all requests, also those that primed. Each block may have it to itself: that is the most, for
    two blocks in one window share its floor, or add up their shares.
    """
    share = float(lane.proxy.get("retry.budget", ProxyConfig().retry.budget))
    requests = plan.setup.trials * (1 + lane.primes)
    return plan.setup.blocks * max(BUDGET_FLOOR, int(share * requests))


def mean_attempts(trials: Sequence[Trial]) -> float:
    """How often one of them was sent."""
    return sum(t.attempts for t in trials) / len(trials)
