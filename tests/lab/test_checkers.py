"""Verdicts as tables: what trials like these must be judged as. Never "pass" where nothing was shown."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from evidence import RTT_MS, answered, lane, plan, setup, trial

from lab.checkers import LaneFinding, credit, judge_lane
from lab.findings import conclude
from lab.model import Aim, Expect, Exposure, Verdict
from lab.plan import LanePlan
from lab.result import Check
from lab.soundness import check_run
from lab.stats import interval
from lab.witness.evidence import Evidence
from lab.witness.flows import Flow, Segment
from lab.witness.trials import Trial
from scenarios.idle_close import SCENARIO

LOST = [trial(i) for i in range(40)]
FINE = [answered(i) for i in range(40)]
RETRIED = [trial(i, status=200, executions=1, attempts=2) for i in range(40)]
CRASHED = [trial(i, exposure=Exposure.CLOSED_AFTER_ARRIVAL, executions=1) for i in range(40)]
TWICE = [trial(i, exposure=Exposure.CLOSED_AFTER_ARRIVAL, status=200, executions=2, attempts=2) for i in range(40)]
MISSED = [answered(i, exposure=Exposure.NOT_EXPOSED) for i in range(40)]
LATE_LOOP = [trial(i, exposure=Exposure.FIN_DELIVERED) for i in range(40)]
IN_WINDOW = [answered(i, idle_ms=1980.0) for i in range(40)]
BEFORE_WINDOW = [answered(i, idle_ms=1930.0) for i in range(40)]
NEVER_PRIMED = [answered(i, idle_ms=None, primed=False) for i in range(40)]
NEVER_SENT = [answered(i, idle_ms=None, exposure=Exposure.NOT_SENT) for i in range(40)]
BOX = [*LOST, *(answered(i, idle_ms=1940.0, exposure=Exposure.NOT_EXPOSED) for i in range(40, 60))]

CONTROL = lane()
BLIND = lane(aim=Aim.GAPS, expect=Expect.BOX)
CURE = lane(expect=Expect.MENDED)
PREVENTION = lane(aim=Aim.GAPS, expect=Expect.MENDED, prevents=True)
PREVENTION_HELD = lane(expect=Expect.MENDED, prevents=True)
CRASH = lane(aim=Aim.CRASH, expect=Expect.EXECUTED_ONCE)
DOUBLE = lane(aim=Aim.CRASH, expect=Expect.EXECUTED_TWICE)
LAG = lane(aim=Aim.STALLED_PROXY)
FORGOTTEN = [trial(i, exposure=Exposure.FORGOTTEN, status=504, latency_ms=1002.0) for i in range(40)]
SOONER = [trial(i, exposure=Exposure.FORGOTTEN, status=504, latency_ms=660.0) for i in range(40)]
AFTER_SILENCE = [answered(i, gap_ms=3300.0, idle_ms=None) for i in range(40)]
BEFORE_SILENCE = [answered(i, gap_ms=1400.0, idle_ms=None) for i in range(40)]

TOLD = lane(told_as="closed_before_response")
PROVEN = lane(expect=Expect.MENDED, proxy={"retry.policy": "when_proven"})
SILENT = lane(aim=Aim.FORGOTTEN, forget_ms=1500.0, waits_ms=(1000.0, 1400.0))
SILENT_PREVENTION = lane(aim=Aim.FORGOTTEN, forget_ms=1500.0, expect=Expect.MENDED, prevents=True)
FROZEN = lane(aim=Aim.FROZEN_UPSTREAM, expect=Expect.MENDED, prevents=True)
PROVEN = lane(expect=Expect.MENDED, proxy={"retry.policy": "when_proven"})
BEFORE = lane(aim=Aim.ELSEWHERE, expect=Expect.MENDED, at=0.5)
AFTER = lane(aim=Aim.ELSEWHERE, expect=Expect.MENDED, at=1.5)


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
        pytest.param(
            BLIND,
            [*BOX, trial(60, exposure=Exposure.CLOSED_AFTER_ARRIVAL)],
            Verdict.PASS,
            id="handed over just before the FIN, and not executed",
        ),
        pytest.param(
            BLIND,
            [*BOX, trial(60, exposure=Exposure.CLOSED_AFTER_ARRIVAL, executions=1)],
            Verdict.FAIL,
            id="executed, and lost",
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
        pytest.param(CURE, [*RETRIED, trial(40, status=200)], Verdict.FAIL, id="answered, yet not executed"),
        pytest.param(PREVENTION, NEVER_PRIMED, Verdict.INCONCLUSIVE, id="no idle connection to keep requests off"),
        pytest.param(PREVENTION_HELD, NEVER_PRIMED, Verdict.INCONCLUSIVE, id="no idle connection, round set"),
        pytest.param(PREVENTION, NEVER_SENT, Verdict.INCONCLUSIVE, id="answered without asking the upstream"),
        pytest.param(CRASH, CRASHED, Verdict.PASS, id="executed once and lost"),
        pytest.param(CRASH, TWICE, Verdict.FAIL, id="repeated where it must not be"),
        pytest.param(DOUBLE, TWICE, Verdict.PASS, id="executed twice"),
        pytest.param(DOUBLE, CRASHED, Verdict.FAIL, id="not executed twice"),
        pytest.param(DOUBLE, LOST, Verdict.INCONCLUSIVE, id="no crash, but the race"),
        pytest.param(LAG, LATE_LOOP, Verdict.PASS, id="FIN delivered, unnoticed"),
        pytest.param(LAG, LOST, Verdict.INCONCLUSIVE, id="crossings do not show lag"),
        pytest.param(TOLD, LOST, Verdict.PASS, id="told as expected"),
        pytest.param(TOLD, [*LOST[:-1], trial(39, cause="reset_before_response")], Verdict.FAIL, id="told as another"),
        pytest.param(PROVEN, RETRIED, Verdict.PASS, id="proven and repeated"),
        pytest.param(PROVEN, [*RETRIED[:-1], trial(39, lag_ms=28.0)], Verdict.INCONCLUSIVE, id="too late for a proof"),
        pytest.param(PROVEN, [*RETRIED[:-2], trial(38), trial(39, lag_ms=28.0)], Verdict.FAIL, id="not all were late"),
        pytest.param(CURE, [*RETRIED[:-1], trial(39, lag_ms=28.0)], Verdict.FAIL, id="late, but no proof was needed"),
        pytest.param(SILENT, FORGOTTEN, Verdict.PASS, id="dropped, and waited for"),
        pytest.param(SILENT, SOONER, Verdict.FAIL, id="heard of sooner than expected"),
        pytest.param(
            msgspec.structs.replace(SILENT, waits_ms=(200.0, 800.0)), FORGOTTEN, Verdict.FAIL, id="heard of too late"
        ),
        pytest.param(SILENT, LOST, Verdict.INCONCLUSIVE, id="closed instead of forgotten"),
        pytest.param(SILENT_PREVENTION, AFTER_SILENCE, Verdict.PASS, id="answered after the silence"),
        pytest.param(SILENT_PREVENTION, BEFORE_SILENCE, Verdict.INCONCLUSIVE, id="sent before it was long enough"),
        pytest.param(SILENT_PREVENTION, [*AFTER_SILENCE, FORGOTTEN[0]], Verdict.FAIL, id="one vanished all the same"),
        pytest.param(BEFORE, MISSED, Verdict.PASS, id="far before the close, on the same connection"),
        pytest.param(BEFORE, FINE, Verdict.INCONCLUSIVE, id="far before the close, but the connection was new"),
        pytest.param(BEFORE, [*MISSED, LOST[0]], Verdict.FAIL, id="lost far from the close"),
        pytest.param(AFTER, FINE, Verdict.PASS, id="long after the close, on a new connection"),
        pytest.param(AFTER, MISSED, Verdict.INCONCLUSIVE, id="long after, but the upstream had not closed"),
    ],
)
def test_judge_lane(lane_plan: LanePlan, trials: Sequence[Trial], expected: Verdict) -> None:
    finding = judge_lane(plan(lane_plan), lane_plan, trials)
    assert finding.verdict is expected, finding.sentence


@pytest.mark.parametrize("lane_plan", [CONTROL, CURE, PREVENTION, CRASH, DOUBLE, LAG])
def test_nothing_passes_on_almost_nothing(lane_plan: LanePlan) -> None:
    """However few requests a user asks for: with five of five, "all" and "none" cannot be told apart."""
    tiny = msgspec.structs.replace(plan(lane_plan), setup=setup(min_exposed=0))
    for trials in (LOST, RETRIED, IN_WINDOW, CRASHED, TWICE, LATE_LOOP):
        for n in range(6):
            assert judge_lane(tiny, lane_plan, trials[:n]).verdict is Verdict.INCONCLUSIVE
    assert interval(0, 6).high < interval(6, 6).low
    assert interval(0, 5).high > interval(5, 5).low


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


ROUND: dict[str, Any] = {"kind": "client.round"}
GENERATOR: dict[str, Any] = {"kind": "client.generator", "cpu_s": 1.0, "wall_s": 10.0, "stolen": 0.0, "sent_again": 0}
DIRECT: list[dict[str, Any]] = [
    {
        "kind": "client.direct",
        "req_id": f"direct.{i}",
        "intended_ns": 0,
        "sent_ns": 100_000,
        "done_ns": 41_000_000,
        "outcome": "answered",
        "status": 200,
    }
    for i in range(60)
]
WIRE: dict[str, Any] = {"kind": "client.wire", "lost": 0, "dropped": 0}
STEADY: list[dict[str, Any]] = [
    {
        "kind": "client.steady",
        "req_id": f"steady.{i}",
        "arm": "control",
        "method": "POST",
        "status": 200,
        "outcome": "answered",
        "sent_ns": 0,
        "done_ns": 41_000_000,
    }
    for i in range(3)
]


def sent(*reused: bool) -> dict[str, Any]:
    """What the proxy says of the steady requests: whether each was sent on a used connection."""
    kind = "exchange.sent"
    return {f"steady.{i}": [{"kind": kind, "t": 1, "conn": "a>b", "reused": again}] for i, again in enumerate(reused)}


def evidence(**changes: Any) -> Evidence:
    made = Evidence(
        client=[ROUND, GENERATOR, *DIRECT, *STEADY],
        proxy=sent(False, True, True),
        proxied_by={},
        executions={line["req_id"]: [1] for line in (*DIRECT, *STEADY)},
        upstream_closes={},
        flows={},
        places={},
        wire=WIRE,
    )
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
GENERATOR_BUSY = [ROUND, {**GENERATOR, "cpu_s": 9.0}]
TOLD_OF_TWO = {"steady.0": [1], "steady.2": [1]}


@pytest.mark.parametrize(
    ("check", "trials", "changes"),
    [
        ("witnesses whole", LOST, {"damage": ["wire.jsonl lacks 3 of 90 lines"]}),
        ("witnesses agree", [*LOST[:-1], trial(39, dispute="they differ")], {}),
        ("witnesses agree", LOST, {"executions": {line["req_id"]: [99_000_000] for line in STEADY}}),
        ("direct", LOST, {"client": [ROUND, GENERATOR, *STEADY]}),
        ("direct", LOST, {"client": [*DIRECT[1:], {**DIRECT[0], "status": 502}]}),
        ("direct", LOST, {"executions": {line["req_id"]: [1] for line in DIRECT[1:]}}),
        ("direct", LOST, {"client": [{**line, "done_ns": 35_000_000} for line in DIRECT]}),
        ("direct", LOST, {"client": [{**line, "done_ns": 70_000_000} for line in DIRECT]}),
        ("direct", LOST, {"client": [*DIRECT[1:], {**DIRECT[0], "sent_ns": 30_000_000}]}),
        ("generator not the limit", LOST, {"client": [{**GENERATOR, "stolen": 0.05}]}),
        ("schedule kept", LOST[:-1], {}),
        ("schedule kept", [trial(i, late_ms=300.0) for i in range(40)], {}),
        ("schedule kept", LOST, {"client": [GENERATOR_BUSY[1]]}),
        ("generator not the limit", LOST, {"client": GENERATOR_BUSY}),
        ("generator not the limit", LOST, {"client": [ROUND]}),
        ("wire", LOST, {"wire": {**WIRE, "lost": 1}}),
        ("wire", LOST, {"wire": {**WIRE, "dropped": 1}}),
        ("wire", LOST, {"wire": None}),
        ("aim", HALF_MISSED, {}),
        ("reuse", LOST, {"proxy": sent(False, False, False)}),
        ("reuse", LOST, {"proxy": sent(False, True, False)}),
        ("reuse", LOST, {"proxy": {}}),
        ("reuse", LOST, {"client": [ROUND, GENERATOR]}),
        ("witnesses whole", LOST, {"executions": TOLD_OF_TWO}),
    ],
)
def test_a_run_that_was_no_experiment_is_inconclusive(
    check: str, trials: Sequence[Trial], changes: dict[str, Any]
) -> None:
    assert run_checks(trials, **changes)[check] is Verdict.INCONCLUSIVE


def test_an_arm_that_means_not_to_reuse_must_not() -> None:
    no_reuse = lane(reuses=False)
    reusing, not_reusing = evidence(), evidence(proxy=sent(False, False, False))
    found = [{c.name: c.verdict for c in check_run(plan(no_reuse), e, LOST, [])} for e in (reusing, not_reusing)]
    assert [checks["reuse"] for checks in found] == [Verdict.INCONCLUSIVE, Verdict.PASS]


def test_an_arm_that_missed_is_not_hidden_by_many_that_did_not() -> None:
    lanes = [lane(f"arm{i}") for i in range(10)]
    found = [judge_lane(plan(*lanes), each, [trial(i, arm=each.arm) for i in range(40)]) for each in lanes]
    fewer = [*(trial(i, arm="arm0") for i in range(24)), *(answered(i, arm="arm0") for i in range(24, 40))]
    missed = judge_lane(plan(*lanes), lanes[0], fewer)
    assert missed.verdict is Verdict.PASS  # 24 are enough to judge the arm, but 40 were aimed
    checks = {check.name: check for check in check_run(plan(*lanes), evidence(), LOST, [missed, *found[1:]])}
    assert checks["aim"].verdict is Verdict.INCONCLUSIVE
    assert "arm0.POST" in checks["aim"].sentence


def equal_arms(lost: int, other_lost: int, **differs: Any) -> Check | None:
    """The check of two arms of 40 requests each, alike but for their names, and what `differs`."""
    arms = []
    for arm, count, changes in (("control", lost, {}), ("other", other_lost, differs)):
        trials = tuple(trial(i, arm) if i < count else answered(i, arm) for i in range(40))
        arms.append(LaneFinding(lane(arm, aim=Aim.GAPS, **changes), Verdict.PASS, "", trials, trials, ()))
    checks = check_run(plan(*(found.lane for found in arms)), evidence(), LOST, arms)
    return next((check for check in checks if check.name == "equal arms"), None)


@pytest.mark.parametrize(
    ("lost", "other_lost", "expected"),
    [(20, 20, Verdict.PASS), (0, 0, Verdict.PASS), (12, 28, Verdict.PASS), (5, 35, Verdict.INCONCLUSIVE)],
)
def test_arms_that_are_configured_alike_must_lose_alike(lost: int, other_lost: int, expected: Verdict) -> None:
    check = equal_arms(lost, other_lost)
    assert check is not None
    assert check.verdict is expected, check.sentence


def test_one_round_that_was_stalled_does_not_make_equal_arms_differ() -> None:
    """Ten of forty against thirty of forty, but all of it in whole rounds: two stalls, not twenty."""
    arms = []
    for arm, stalled in (("control", (0,)), ("other", (0, 1, 2))):
        made = [(i // 10, i) for i in range(40)]
        trials = tuple((trial if b in stalled else answered)(i, arm, block=b) for b, i in made)
        arms.append(LaneFinding(lane(arm, aim=Aim.GAPS), Verdict.PASS, "", trials, trials, ()))
    checks = check_run(plan(*(found.lane for found in arms)), evidence(), LOST, arms)
    assert {check.name: check.verdict for check in checks}["equal arms"] is Verdict.PASS


@pytest.mark.parametrize("differs", [{"method": "GET"}, {"rtt_ms": 60.0}, {"proxy": {"retry.policy": "always"}}])
def test_arms_that_differ_are_not_compared(differs: dict[str, Any]) -> None:
    assert equal_arms(5, 35, **differs) is None


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


@pytest.mark.parametrize(("apart_ms", "expected"), [(10.0, Verdict.PASS), (150.0, Verdict.INCONCLUSIVE)])
def test_an_upstream_that_is_stopped_must_be_so_for_all_alike(apart_ms: float, expected: Verdict) -> None:
    """Found on a busy machine: who was primed 150 ms after the first saw a longer stop than was declared."""
    primed = {"kind": "client.primed", "arm": "control", "method": "POST", "block": 0, "status": 200}
    at = [
        {**primed, "req_id": f"{i}.prime", "sent_ns": 0, "done_ns": ns, "outcome": "x"}
        for i, ns in enumerate((0, apart_ms * 1e6))
    ]
    checks = check_run(plan(FROZEN), evidence(client=at), LOST, [])
    assert {check.name: check.verdict for check in checks}["primed together"] is expected


@pytest.mark.parametrize(
    ("noticed_ms", "others_ms", "expected"),
    [
        pytest.param(22.0, 22.0, Verdict.PASS, id="when the FIN had come"),
        pytest.param(45.0, 45.0, Verdict.INCONCLUSIVE, id="when the ACK had come too"),
        pytest.param(45.0, 22.0, Verdict.PASS, id="once too late, and lost in time too"),
    ],
)
def test_a_proxy_that_was_too_late_for_its_proof_is_not_blamed(
    noticed_ms: float, others_ms: float, expected: Verdict
) -> None:
    """Found on a busy machine: behind the FIN of a staged close comes an ACK of the request."""
    places, failures = {}, {}
    for each in LOST:
        request = Segment(True, "D", 9, 0, 20_000_000, each.req_id)
        places[each.req_id] = [(Flow(each.conn, PROVEN.name, [request]), request)]
        noticed = noticed_ms if each is LOST[0] else others_ms
        failures[each.req_id] = [{"kind": "exchange.attempt_failed", "t": int(noticed * 1e6)}]
    made = evidence(places=places, proxy=failures)
    found = judge_lane(plan(PROVEN), PROVEN, LOST)
    assert found.verdict is Verdict.FAIL
    checks = check_run(plan(PROVEN), made, LOST, [found])
    assert {check.name: check.verdict for check in checks}["proof in time"] is expected


@pytest.mark.parametrize(
    ("close_ms", "expected"),
    [
        pytest.param(1.0, Verdict.PASS, id="right behind the answer"),
        pytest.param(2010.0, Verdict.INCONCLUSIVE, id="because the machine took longer than the idle timeout"),
    ],
)
def test_a_bound_on_requests_is_not_blamed_for_an_idle_close(close_ms: float, expected: Verdict) -> None:
    """Found on a busy machine: waiting for the last connections, the others idled out."""
    counted = lane(expect=Expect.MENDED, prevents=True, primes=4)
    made = closing_at(close_ms)
    flow = made.flows[LOST[0].conn][0]
    made.places = {LOST[0].req_id: [(flow, flow.segments[0])]}
    found = judge_lane(plan(counted), counted, LOST)
    checks = check_run(plan(counted), made, LOST, [found])
    assert {check.name: check.verdict for check in checks}["closed by count"] is expected


@pytest.mark.parametrize(
    ("unread_ms", "expected"),
    [
        pytest.param(35.0, Verdict.INCONCLUSIVE, id="the upstream read it later than the margin allows"),
        pytest.param(5.0, None, id="within the margin: the fix failed"),
    ],
)
def test_a_margin_is_not_blamed_for_peers_that_are_later_than_it(unread_ms: float, expected: Verdict | None) -> None:
    """Found on a busy machine: 25 ms of margin, and a request that lay unread for 35 ms."""
    thin = lane(expect=Expect.MENDED, prevents=True, rtt_ms=4.0, proxy={"timeouts.upstream_idle": "1975ms"})
    lost = trial(0, exposure=Exposure.UNREAD, idle_ms=1974.0)
    request = Segment(True, "D", 9, 0, 2_000_000, lost.req_id)
    reset = Segment(False, "R", 0, 2_000_000 + int(unread_ms * 1e6), None, "")
    finished = {"kind": "exchange.finished", "up_idle_ms": 1973.0}
    made = evidence(
        places={lost.req_id: [(Flow(lost.conn, thin.name, [request, reset]), request)]}, proxy={lost.req_id: [finished]}
    )
    trials = [lost, *(answered(i, idle_ms=1980.0) for i in range(1, 40))]
    found = judge_lane(plan(thin), thin, trials)
    assert found.verdict is Verdict.FAIL
    checks = {check.name: check.verdict for check in check_run(plan(thin), made, trials, [found])}
    assert checks["margin"] is (expected or Verdict.PASS)


def test_a_margin_below_the_round_trip_is_excused_by_nobody() -> None:
    thin = lane(expect=Expect.MENDED, prevents=True, rtt_ms=40.0, proxy={"timeouts.upstream_idle": "1990ms"})
    trials = [trial(0, idle_ms=1989.0), *(answered(i, idle_ms=1980.0) for i in range(1, 40))]
    found = judge_lane(plan(thin), thin, trials)
    checks = {check.name for check in check_run(plan(thin), evidence(), trials, [found])}
    assert (found.verdict, "margin" in checks) == (Verdict.FAIL, False)


def late_wire(late_ms: float) -> Evidence:
    """A swept arm in which every aimed request reached the upstream this much too late."""
    entered = [int(i * 1e6) for i in range(40)]
    flow = Flow("a>b", BLIND.name)
    flow.segments = [
        Segment(True, "D", 9, t, t + int((20 + late_ms) * 1e6), f"control.POST.0.{i}") for i, t in enumerate(entered)
    ]
    aimed = [{"kind": "client.trial", "req_id": f"control.POST.0.{i}"} for i in range(40)]
    return evidence(client=aimed, flows={"a>b": [flow]})


@pytest.mark.parametrize(("late_ms", "expected"), [(0.1, Verdict.PASS), (25.0, Verdict.INCONCLUSIVE)])
def test_a_late_wire_spoils_arms_that_aim_by_time(late_ms: float, expected: Verdict) -> None:
    checks = {check.name: check for check in check_run(plan(BLIND), late_wire(late_ms), LOST, [])}
    assert checks["wire"].verdict is expected


def test_a_late_wire_does_not_matter_to_arms_that_wait_for_the_fin() -> None:
    checks = {check.name: check for check in check_run(plan(CONTROL), late_wire(25.0), LOST, [])}
    assert checks["wire"].verdict is Verdict.PASS


def closing_at(close_ms: float) -> Evidence:
    """A run in which the upstream closed every connection of the control at this idle age."""
    asked = Segment(True, "D", 9, -int(RTT_MS / 2 * 1e6), 0, "control.POST.0.0.prime")
    answer = Segment(False, "D", 9, 0, int(RTT_MS / 2 * 1e6), "")
    fin = Segment(False, "F", 0, int(close_ms * 1e6), int((close_ms + RTT_MS / 2) * 1e6), "")
    return evidence(flows={LOST[0].conn: [Flow(LOST[0].conn, "control.POST", [asked, answer, fin])]})


@pytest.mark.parametrize(
    ("lane_plan", "close_ms", "expected"),
    [
        pytest.param(PREVENTION, 2001.0, Verdict.PASS, id="as calibrated"),
        pytest.param(PREVENTION, 2500.0, Verdict.INCONCLUSIVE, id="half a second later than the arms aimed"),
        pytest.param(CONTROL, 2500.0, Verdict.PASS, id="later, but nothing aims by time"),
    ],
)
def test_what_aims_by_time_must_have_aimed_at_the_real_close(
    lane_plan: LanePlan, close_ms: float, expected: Verdict
) -> None:
    result = conclude(SCENARIO, plan(lane_plan), closing_at(close_ms), LOST, duration_s=1.0, files=())
    (check,) = (check for check in result.checks if check.name == "upstream closes")
    assert check.verdict is expected, check.sentence


def test_a_run_that_was_no_experiment_praises_no_fix() -> None:
    cure = lane("order-timeouts", aim=Aim.GAPS, expect=Expect.MENDED, prevents=True)
    trials = [*LOST, *(answered(i, "order-timeouts", idle_ms=1980.0) for i in range(40))]
    told = []
    for damage in ([], ["wire.jsonl is missing"]):
        lines = [ROUND, ROUND, GENERATOR, *DIRECT, *STEADY, *({**line, "arm": "order-timeouts"} for line in STEADY)]
        made = evidence(client=lines, damage=damage)
        told.append(conclude(SCENARIO, plan(CONTROL, cure), made, trials, duration_s=1.0, files=()))
    assert [result.verdict for result in told] == [Verdict.PASS, Verdict.INCONCLUSIVE]
    assert [any("order-timeouts" in line for line in result.story) for result in told] == [True, False]


@pytest.mark.parametrize(("lane_plan", "expected"), [(BLIND, Verdict.INCONCLUSIVE), (CONTROL, Verdict.PASS)])
def test_a_late_request_spoils_only_what_aims_by_time(lane_plan: LanePlan, expected: Verdict) -> None:
    late = [trial(i, late_ms=30.0) for i in range(40)]
    checks = {check.name: check for check in check_run(plan(lane_plan), evidence(), late, [])}
    assert checks["schedule kept"].verdict is expected
