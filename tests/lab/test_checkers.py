"""Verdicts as tables: what trials like these must be judged as. Never "pass" where nothing was shown."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from evidence import answered, lane, plan, trial

from lab.checkers import LaneFinding, check_run, credit, judge_lane
from lab.model import Aim, Expect, Exposure, Verdict
from lab.plan import LanePlan
from lab.witness.flows import Flow, Segment
from lab.witness.trials import Evidence, Trial

LOST = [trial(i) for i in range(40)]
FINE = [answered(i) for i in range(40)]
RETRIED = [trial(i, status=200, executions=1, attempts=2) for i in range(40)]
CRASHED = [trial(i, exposure=Exposure.CLOSED_AFTER_ARRIVAL, executions=1) for i in range(40)]
TWICE = [trial(i, exposure=Exposure.CLOSED_AFTER_ARRIVAL, status=200, executions=2, attempts=2) for i in range(40)]
MISSED = [answered(i, exposure=Exposure.NOT_EXPOSED) for i in range(40)]
LATE_LOOP = [trial(i, exposure=Exposure.FIN_DELIVERED) for i in range(40)]
IN_WINDOW = [answered(i, idle_ms=1980.0) for i in range(40)]
BEFORE_WINDOW = [answered(i, idle_ms=1930.0) for i in range(40)]
BOX = [*LOST, *(answered(i, idle_ms=1940.0, exposure=Exposure.NOT_EXPOSED) for i in range(40, 60))]

CONTROL = lane()
BLIND = lane(aim=Aim.GAPS, expect=Expect.BOX)
CURE = lane(expect=Expect.MENDED)
PREVENTION = lane(aim=Aim.GAPS, expect=Expect.MENDED, prevents=True)
PREVENTION_HELD = lane(expect=Expect.MENDED, prevents=True)
CRASH = lane(aim=Aim.CRASH, expect=Expect.EXECUTED_ONCE)
DOUBLE = lane(aim=Aim.CRASH, expect=Expect.EXECUTED_TWICE)
LAG = lane(aim=Aim.STALLED_PROXY)


@pytest.mark.parametrize(
    ("lane_plan", "trials", "expected"),
    [
        pytest.param(CONTROL, LOST, Verdict.PASS, id="every crossing lost"),
        pytest.param(CONTROL, [*LOST[:-1], answered(39, exposure=Exposure.CROSSED)], Verdict.FAIL, id="one survived"),
        pytest.param(CONTROL, [*LOST[:-1], trial(39, executions=1)], Verdict.FAIL, id="lost, yet executed"),
        pytest.param(CONTROL, [], Verdict.INCONCLUSIVE, id="the load never ran"),
        pytest.param(CONTROL, MISSED, Verdict.INCONCLUSIVE, id="nothing crossed"),
        pytest.param(CONTROL, FINE, Verdict.INCONCLUSIVE, id="all on new connections"),
        pytest.param(CONTROL, LOST[:19], Verdict.INCONCLUSIVE, id="one short of enough"),
        pytest.param(CONTROL, LOST[:20], Verdict.PASS, id="just enough"),
        pytest.param(BLIND, BOX, Verdict.PASS, id="lost inside, answered outside"),
        pytest.param(BLIND, LOST, Verdict.INCONCLUSIVE, id="nothing outside to compare with"),
        pytest.param(
            BLIND, [*BOX, trial(60, exposure=Exposure.NOT_EXPOSED)], Verdict.FAIL, id="lost to something else"
        ),
        pytest.param(CURE, RETRIED, Verdict.PASS, id="repeated and answered"),
        pytest.param(CURE, LOST, Verdict.FAIL, id="a cure that cures nothing"),
        pytest.param(CURE, FINE, Verdict.INCONCLUSIVE, id="a cure that had nothing to cure"),
        pytest.param(CURE, [*RETRIED, trial(40, status=200, executions=2)], Verdict.FAIL, id="executed twice"),
        pytest.param(PREVENTION, IN_WINDOW, Verdict.PASS, id="answered where the control is lost"),
        pytest.param(PREVENTION, BEFORE_WINDOW, Verdict.INCONCLUSIVE, id="never aimed at the window"),
        pytest.param(PREVENTION, [*IN_WINDOW, trial(40, idle_ms=1700.0)], Verdict.FAIL, id="lost somewhere else"),
        pytest.param(PREVENTION_HELD, FINE, Verdict.PASS, id="all closed by the proxy before"),
        pytest.param(
            PREVENTION_HELD, [answered(i, armed=False) for i in range(40)], Verdict.INCONCLUSIVE, id="round not set"
        ),
        pytest.param(CRASH, CRASHED, Verdict.PASS, id="executed once and lost"),
        pytest.param(CRASH, TWICE, Verdict.FAIL, id="repeated where it must not be"),
        pytest.param(DOUBLE, TWICE, Verdict.PASS, id="executed twice"),
        pytest.param(DOUBLE, CRASHED, Verdict.FAIL, id="not executed twice"),
        pytest.param(DOUBLE, LOST, Verdict.INCONCLUSIVE, id="no crash, but the race"),
        pytest.param(LAG, LATE_LOOP, Verdict.PASS, id="FIN delivered, unnoticed"),
        pytest.param(LAG, LOST, Verdict.INCONCLUSIVE, id="crossings do not show lag"),
    ],
)
def test_judge_lane(lane_plan: LanePlan, trials: Sequence[Trial], expected: Verdict) -> None:
    finding = judge_lane(plan(lane_plan), lane_plan, trials)
    assert finding.verdict is expected, finding.sentence


def test_trials_of_other_arms_and_methods_do_not_count() -> None:
    strangers = [*(trial(i, arm="other") for i in range(40)), *(trial(i, method="GET") for i in range(40))]
    assert judge_lane(plan(CONTROL), CONTROL, strangers).trials == ()


def finding(arm: str, verdict: Verdict, method: str = "POST") -> LaneFinding:
    return LaneFinding(lane(arm, method=method), verdict, "", (), (), ())


@pytest.mark.parametrize(
    ("control", "fix", "expected"),
    [
        (Verdict.PASS, Verdict.PASS, Verdict.PASS),
        (Verdict.FAIL, Verdict.PASS, Verdict.INCONCLUSIVE),
        (Verdict.INCONCLUSIVE, Verdict.PASS, Verdict.INCONCLUSIVE),
        (None, Verdict.PASS, Verdict.INCONCLUSIVE),
        (Verdict.PASS, Verdict.FAIL, Verdict.FAIL),
        (Verdict.FAIL, Verdict.FAIL, Verdict.FAIL),
    ],
)
def test_a_fix_is_credited_only_if_its_control_broke(control: Verdict | None, fix: Verdict, expected: Verdict) -> None:
    findings = [finding("fix", fix)] + ([finding("control", control)] if control else [])
    assert credit(findings, {"fix": "control"})[0].verdict is expected


def test_each_method_has_its_own_control() -> None:
    findings = [
        finding("control", Verdict.PASS, "POST"),
        finding("control", Verdict.FAIL, "GET"),
        finding("fix", Verdict.PASS, "GET"),
    ]
    assert credit(findings, {"fix": "control"})[2].verdict is Verdict.INCONCLUSIVE


def evidence(**changes: Any) -> Evidence:
    lines: list[Any] = [{"kind": "client.round"}, {"kind": "client.generator", "cpu_s": 1.0, "wall_s": 10.0}]
    made = Evidence(client=lines, proxy={}, executions=Counter(), upstream_closes={}, flows={}, wire=None)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def run_checks(trials: Sequence[Trial] = LOST, **changes: Any) -> dict[str, Verdict]:
    the_plan = plan(CONTROL)
    findings = [judge_lane(the_plan, CONTROL, trials)]
    return {check.name: check.verdict for check in check_run(the_plan, evidence(**changes), trials, findings)}


def test_an_orderly_run_passes_all_checks() -> None:
    assert set(run_checks().values()) == {Verdict.PASS}


HALF_MISSED = [*LOST[:20], *(msgspec.structs.replace(t, exposure=Exposure.NEW_CONNECTION) for t in LOST[20:])]
GENERATOR_BUSY = [{"kind": "client.round"}, {"kind": "client.generator", "cpu_s": 9.0, "wall_s": 10.0}]
WIRE_LOST = {"kind": "client.wire", "lost": 1, "dropped": 0}
WIRE_DROPPED = {"kind": "client.wire", "lost": 0, "dropped": 1}


@pytest.mark.parametrize(
    ("check", "trials", "changes"),
    [
        ("witnesses whole", LOST, {"damage": ["wire.jsonl lacks 3 of 90 lines"]}),
        ("witnesses agree", [*LOST[:-1], trial(39, dispute="they differ")], {}),
        ("schedule kept", LOST[:-1], {}),
        ("schedule kept", [trial(i, late_ms=30.0) for i in range(40)], {}),
        ("schedule kept", LOST, {"client": [GENERATOR_BUSY[1]]}),
        ("generator not the limit", LOST, {"client": GENERATOR_BUSY}),
        ("generator not the limit", LOST, {"client": [{"kind": "client.round"}]}),
        ("wire", LOST, {"wire": WIRE_LOST}),
        ("wire", LOST, {"wire": WIRE_DROPPED}),
        ("aim", HALF_MISSED, {}),
    ],
)
def test_a_run_that_was_no_experiment_is_inconclusive(
    check: str, trials: Sequence[Trial], changes: dict[str, Any]
) -> None:
    assert run_checks(trials, **changes)[check] is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        ([Verdict.PASS, Verdict.PASS], Verdict.PASS),
        ([Verdict.PASS, Verdict.INCONCLUSIVE], Verdict.INCONCLUSIVE),
        ([Verdict.INCONCLUSIVE, Verdict.FAIL, Verdict.PASS], Verdict.FAIL),
        ([], Verdict.INCONCLUSIVE),
    ],
)
def test_verdicts_compose_by_the_worst(verdicts: list[Verdict], worst: Verdict) -> None:
    assert Verdict.worst(verdicts) is worst


def test_exit_codes() -> None:
    assert [v.exit_code for v in (Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE)] == [0, 1, 2]


def late_wire(late_ms: float) -> Evidence:
    """A swept arm in which every aimed request reached the upstream this much too late."""
    entered = [int(i * 1e6) for i in range(40)]
    flow = Flow("a>b", BLIND.name)
    flow.segments = [
        Segment(True, "D", 9, t, t + int((20 + late_ms) * 1e6), f"control.POST.0.{i}") for i, t in enumerate(entered)
    ]
    aimed = [{"kind": "client.trial", "req_id": f"control.POST.0.{i}"} for i in range(40)]
    return evidence(client=aimed, flows={"a>b": [flow]}, wire={"lost": 0, "dropped": 0})


@pytest.mark.parametrize(("late_ms", "expected"), [(0.1, Verdict.PASS), (25.0, Verdict.INCONCLUSIVE)])
def test_a_late_wire_spoils_arms_that_aim_by_time(late_ms: float, expected: Verdict) -> None:
    checks = {check.name: check for check in check_run(plan(BLIND), late_wire(late_ms), LOST, [])}
    assert checks["wire"].verdict is expected


def test_a_late_wire_does_not_matter_to_arms_that_wait_for_the_fin() -> None:
    checks = {check.name: check for check in check_run(plan(CONTROL), late_wire(25.0), LOST, [])}
    assert checks["wire"].verdict is Verdict.PASS
