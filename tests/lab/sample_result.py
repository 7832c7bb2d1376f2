"""A realistic `RunResult`, built from the arms of idle-close, to test what shows results."""

from __future__ import annotations

from typing import Any

import msgspec

from lab.model import Arm, Below, Expect, Verdict
from lab.result import ArmResult, Change, Check, GapCurve, GapPoint, Ladder, NotJudged, RunResult, Step
from lab.stats import interval
from scenarios.idle_close import SCENARIO

N = 240
"""Exposed requests per arm and method."""


def sample(**changes: Any) -> RunResult:
    """The sample, with the given fields changed."""
    return msgspec.structs.replace(_whole(), **changes)


def sample_arm(name: str = "control", method: str = "POST", **changes: Any) -> ArmResult:
    """One arm of the sample, with the given fields changed."""
    return msgspec.structs.replace(_arm_result(SCENARIO.arm(name), method), **changes)


def sample_ladder() -> Ladder:
    """A crossing over a round trip of 40 ms, with the reuse 2 s after the connection's last response."""
    return Ladder(
        req_id="7c1e-0042",
        conn="10.77.0.1:41234>10.77.0.2:9000",
        caption="The request left the proxy 0.1 ms after the upstream had closed; the FIN was still on its way.",
        steps=(
            Step(-2041.3, -2021.2, "proxy", "upstream", "GET /prime", "D"),
            Step(-2020.9, -2000.8, "upstream", "proxy", "200, the connection goes idle", "D"),
            Step(0.0, None, "upstream", "upstream", "idle timeout: close()"),
            Step(0.0, 20.1, "upstream", "proxy", "FIN", "F"),
            Step(0.02, 0.07, "client", "proxy", "POST /orders", "D"),
            Step(0.1, 20.2, "proxy", "upstream", "POST /orders on the idle connection, 182 bytes", "D"),
            Step(20.15, 20.15, "proxy", "proxy", "EOF: closed before any response"),
            Step(20.25, 40.35, "upstream", "proxy", "RST: no such connection", "R"),
            Step(20.3, 20.4, "proxy", "client", "502 closed_before_response", "D"),
        ),
    )


def sample_curves() -> tuple[GapCurve, ...]:
    """Nothing done: all lost inside the box. Timeouts in order: none lost. A thin margin, on a longer wire: lost."""
    gaps = [-300, -200, -120, -80, -60, -50, -45, -41, -39, -35, -30, -25, -20, -15, -10, -5, -2, 2, 5, 10, 25, 60]
    return (
        GapCurve("window", "Nothing done, idle gaps swept", -40.0, 0.0, tuple(_point(g, -40 < g < 0, g) for g in gaps)),
        GapCurve(
            "order-timeouts", "Order the timeouts, with margin", -40.0, 0.0, tuple(_point(g, False) for g in gaps)
        ),
        GapCurve(
            "thin-margin-far", "The same 25 ms, round trip 60 ms", -60.0, 0.0, (_point(-40.0, True), _point(-30, True))
        ),
    )


def _point(gap_ms: float, inside: bool, seed: int = 0) -> GapPoint:
    n = 24
    lost = 0
    if inside:
        lost = n - (7 if gap_ms == -39 else 3 if gap_ms == -2 else seed % 3 == 0)
    elif gap_ms == -41 and seed:
        lost = 4
    found = interval(lost, n)
    return GapPoint(gap_ms, n, lost, found.low, found.high, 1.0 if inside else 0.0)


def _changes(arm: Arm) -> tuple[Change, ...]:
    base = {f"proxy.{key}": value for key, value in SCENARIO.proxy.items()} | {"wire.rtt_ms": "40"}
    made = []
    for key, value in arm.change.items():
        after = f"{SCENARIO.keep_alive_s * 1000 - value.margin_ms:g}ms" if isinstance(value, Below) else str(value)
        made.append(Change(key, base.get(key, ""), after))
    return tuple(made)


def _arm_result(arm: Arm, method: str) -> ArmResult:
    expected = arm.expected(method, "netns")
    lost = {Expect.MENDED: 0, Expect.BOX: 118, Expect.EXECUTED_TWICE: 0}.get(expected, N)
    found = interval(lost, N)
    answered = N - lost
    outcomes = {"200": answered, "502 closed_before_response": lost}
    no_reuse = arm.name == "no-keep-alive"
    return ArmResult(
        arm=arm.name,
        method=method,
        title=arm.title,
        why=arm.why,
        is_fix=arm.is_fix,
        control=arm.control,
        expected=expected.value,
        verdict=Verdict.PASS,
        sentence=f"{lost} of {N} exposed {method} requests were lost; expected: {expected.value}.",
        changes=_changes(arm),
        aimed=N + 2,
        exposed=N,
        exposed_as="crossed",
        lost=lost,
        lost_low=found.low,
        lost_high=found.high,
        executed_twice=N if expected is Expect.EXECUTED_TWICE else 0,
        outcomes={name: n for name, n in outcomes.items() if n},
        exposures={"crossed": N, "not_exposed": 2},
        proven=lost if arm.name != "crash" else 0,
        latency_ms=81.4 if no_reuse else 41.2,
        connects_per_request=1.0 if no_reuse else 0.02,
    )


def _whole() -> RunResult:
    return RunResult(
        scenario=SCENARIO.name,
        sentence=SCENARIO.sentence,
        teaches=SCENARIO.teaches,
        command="kalab run idle-close --wire netns --seed 7",
        started="2025-03-04T10:11:12Z",
        duration_s=94.6,
        seed=7,
        wire="netns",
        upstream="lab",
        keep_alive_s=SCENARIO.keep_alive_s,
        rtt_ms=SCENARIO.rtt_ms,
        close_low_ms=1998.2,
        close_high_ms=2003.9,
        verdict=Verdict.PASS,
        story=(
            "The upstream closes idle connections after 2.0 s; the proxy would keep them for 60 s.",
            "240 of 240 requests that crossed the upstream's FIN were lost (98.4–100 %). Each client got a 502.",
            "The upstream executed none of them: its log has no line, as in production.",
            "With the proxy's idle timeout 300 ms below the upstream's: 0 of 240, fewer than 1.6 %.",
        ),
        checks=(
            Check("aim", Verdict.PASS, "242 of 242 held FINs met a request."),
            Check("witnesses", Verdict.PASS, "Client, proxy, wire and upstream agree on all 6,292 requests."),
            Check("logs whole", Verdict.PASS, "No witness dropped a line.", "Raise the limit of the event log."),
            Check("generator", Verdict.PASS, "The client used 31 % of a core; its sends were 0.4 ms late at p99."),
        ),
        arms=tuple(_arm_result(arm, method) for arm in SCENARIO.arms for method in arm.expect),
        not_judged=(NotJudged("lag", "Nothing done, the proxy's loop late", "This wire has no gate."),),
        curves=sample_curves(),
        ladder=sample_ladder(),
        environment={"kernel": "Linux 6.8.0", "cpu": "2 × Example CPU", "python": "3.11.7", "uvloop": "0.23.0"},
        real=("Linux' TCP on both sides, with real FIN and RST", "proxy and upstream as processes of their own"),
        emulated=("the distance: each packet is kept for 20 ms", "the instant: FINs wait until a request has left"),
        files=(
            "manifest.json",
            "plan.json",
            "trials.jsonl",
            "wire.jsonl",
            "proxy-side.pcap",
            "verdict.json",
            "report.html",
        ),
    )
