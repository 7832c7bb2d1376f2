"""Builders for made-up evidence: plans, lanes and trials with everything ordinary unless told."""

from typing import Any

import msgspec

from lab.model import Aim, Expect, Exposure, Outcome
from lab.plan import Calibration, LanePlan, Plan, Setup
from lab.witness.trials import Trial

KEEP_ALIVE_MS = 2000.0
RTT_MS = 40.0


def setup(**changes: Any) -> Setup:
    ordinary = Setup(
        scenario="idle-close",
        wire="netns",
        upstream="lab",
        methods=("GET", "POST"),
        arms=("control",),
        keep_alive_s=KEEP_ALIVE_MS / 1000,
        rtt_ms=RTT_MS,
        stall_ms=0.0,
        blocks=1,
        trials=40,
        min_exposed=20,
        seed=1,
    )
    return msgspec.structs.replace(ordinary, **changes)


def lane(arm: str = "control", **changes: Any) -> LanePlan:
    ordinary = LanePlan(
        arm=arm,
        method="POST",
        aim=Aim.HELD_FIN,
        expect=Expect.LOST,
        prevents=False,
        reuses=True,
        rtt_ms=RTT_MS,
        window_ms=RTT_MS,
        proxy={},
        changes=(),
    )
    return msgspec.structs.replace(ordinary, **changes)


def plan(*lanes: LanePlan, closes: tuple[float, ...] = (2000.0, 2001.0), **changes: Any) -> Plan:
    return Plan(
        setup=setup(**changes),
        command="kalab run idle-close",
        started="2026-01-01T00:00:00+00:00",
        calibration=Calibration(closes, (RTT_MS,)),
        lanes=lanes,
        not_judged=(),
        environment={},
    )


def trial(number: int = 0, arm: str = "control", **changes: Any) -> Trial:
    """A POST that crossed the FIN and was lost."""
    ordinary = Trial(
        req_id=f"{arm}.POST.0.{number}",
        arm=arm,
        method="POST",
        block=0,
        outcome=Outcome.ANSWERED,
        status=502,
        cause="closed_before_response",
        exposure=Exposure.CROSSED,
        gap_ms=1980.0,
        idle_ms=1980.0,
        close_ms=None,
        lag_ms=0.0,
        late_ms=0.2,
        latency_ms=41.0,
        attempts=1,
        executions=0,
        proof="unprocessed",
        unacked_bytes=93,
        because="policy never",
        conn="10.77.0.1:40000>10.77.1.1:9000",
        primed=True,
        armed=True,
    )
    return msgspec.structs.replace(ordinary, **changes)


def answered(number: int = 0, arm: str = "control", **changes: Any) -> Trial:
    """A request that was answered and executed once."""
    fine = {"status": 200, "cause": "", "executions": 1, "proof": "", "unacked_bytes": None, "because": ""}
    return trial(number, arm, **{**fine, "exposure": Exposure.NEW_CONNECTION, **changes})
