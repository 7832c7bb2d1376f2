"""Traffic: when requests are due, what counts, what is credited, and what the model of a pool says."""

from __future__ import annotations

from math import exp, isclose
from random import Random
from typing import Any

import msgspec
import pytest
from evidence import answered, lane, plan, setup, trial

from lab.checkers import LaneFinding, credit, judge_lane
from lab.forecast import agrees, forecast
from lab.model import Act, Aim, Expect, Exposure, Scenario, Traffic, Verdict
from lab.plan import Calibration, LanePlan, lane_of, lay_out, link_of
from lab.pool_model import PoolCase, share_lost
from lab.soundness import check_run
from lab.traffic import arrivals
from lab.wire.netns import LINKS_LIMIT
from lab.witness.evidence import Evidence
from lab.witness.trials import Trial
from scenarios.discovery import SCENARIO as DISCOVERY
from scenarios.poisson import SCENARIO as POISSON
from scenarios.recycle import SCENARIO as RECYCLE
from scenarios.rolling_restart import SCENARIO as ROLLING

ASKED = Traffic(rate=100.0)
TOLD = Calibration((60_000.0,), (), measured=False)


def flow(arm: str = "control", **changes: object) -> LanePlan:
    ordinary = {"aim": Aim.TRAFFIC, "traffic": ASKED, "acts": (Act.TERMINATE,), "stage": "control"}
    return lane(arm, **{**ordinary, **changes})


# -- when requests are due ---------------------------------------------------------------------------


def test_requests_come_at_random_moments_at_the_rate_that_was_asked_for() -> None:
    moments = list(arrivals(ASKED, 20_000, Random(1)))
    gaps = [b - a for a, b in zip([0, *moments], moments, strict=False)]
    assert moments == sorted(moments)
    assert isclose(moments[-1] / 1e9, 200.0, rel_tol=0.03)
    longer = sum(gap > 10_000_000 for gap in gaps) / len(gaps)
    assert isclose(longer, exp(-1), abs_tol=0.02)  # exponential: the chance to outlast the mean
    assert moments == list(arrivals(ASKED, 20_000, Random(1)))


def test_members_apart_have_the_rate_each() -> None:
    together = list(arrivals(Traffic(rate=10.0, members=5), 1000, Random(1)))
    apart = list(arrivals(Traffic(rate=10.0, members=5, apart=True), 1000, Random(1)))
    assert isclose(together[-1], 5 * apart[-1], rel_tol=1e-6)


# -- lanes and stages --------------------------------------------------------------------------------


def test_lanes_share_a_stage_when_the_same_happens_to_the_same_upstreams() -> None:
    found, _ = lay_out(ROLLING, setup(arms=tuple(arm.name for arm in ROLLING.arms)), TOLD)
    stages = {lane.name: lane.stage for lane in found}
    assert stages["control.GET"] == stages["retry-safe.POST"] == stages["ordered.POST"] == "control"
    assert stages["killed.POST"] == stages["killed-retry-safe.GET"] == "killed"
    assert stages["notice.POST"] == "notice"
    assert stages["withdrawn-first.POST"] == "withdrawn-first"


def test_without_the_first_arm_the_next_names_the_stage() -> None:
    found, _ = lay_out(ROLLING, setup(arms=("retry-safe", "ordered")), TOLD)
    assert {lane.stage for lane in found} == {"retry-safe"}


def test_traffic_needs_a_distance_and_an_upstream_that_does_as_it_is_told() -> None:
    for changes, word in (({"wire": "loopback"}, "plain loopback"), ({"upstream": "node"}, "cannot be told")):
        found, not_judged = lay_out(RECYCLE, setup(arms=("control",), **changes), TOLD)
        assert not found
        assert word in not_judged[0].because


def test_a_link_knows_its_lane() -> None:
    assert lane_of(link_of("control.POST", 3)) == lane_of("control.POST") == "control.POST"


# -- what counts, and what is said of it ---------------------------------------------------------------

CLASSES = {
    # class -> whether it counts for LOST, for DAMAGED
    Exposure.CROSSED: (True, True),
    Exposure.UNREAD: (True, True),
    Exposure.FIN_DELIVERED: (True, True),
    Exposure.CLOSED_AFTER_ARRIVAL: (False, True),
    Exposure.NOT_EXPOSED: (False, False),
    Exposure.NEW_CONNECTION: (False, False),
    Exposure.NOT_SENT: (False, False),
}


@pytest.mark.parametrize("exposure", CLASSES)
def test_what_met_the_close_counts(exposure: Exposure) -> None:
    for expect, counts in zip((Expect.LOST, Expect.DAMAGED), CLASSES[exposure], strict=True):
        found = judge(flow(expect=expect), [trial(0, exposure=exposure)])
        assert bool(found.exposed) is counts


def test_a_fix_that_prevents_counts_what_was_sent_meanwhile() -> None:
    trials = [answered(0), answered(1, armed=False), answered(2, exposure=Exposure.NOT_SENT)]
    found = judge(flow(prevents=True, expect=Expect.MENDED), trials)
    assert [t.req_id for t in found.exposed] == ["control.POST.0.0"]


def judge(judged: LanePlan, trials: list[Trial], **changes: Any) -> LaneFinding:
    return judge_lane(plan(judged, min_exposed=6, **changes), judged, trials)


KILLED = [trial(n, exposure=Exposure.CLOSED_AFTER_ARRIVAL, executions=1) for n in range(10)]
FINE = [answered(100 + n) for n in range(200)]

JUDGED = [
    # expected, trials, verdict, said
    (Expect.DAMAGED, [*KILLED, *FINE], Verdict.PASS, "All 10 exposed requests were lost, 10 of them executed"),
    (Expect.DAMAGED, [*KILLED, *FINE, *(trial(300 + n, exposure=Exposure.NEW_CONNECTION) for n in range(5))],
     Verdict.FAIL, "5 of 205 requests that met no close were lost too"),
    (Expect.DAMAGED, [*KILLED, answered(50, exposure=Exposure.CROSSED, attempts=2)], Verdict.FAIL, "1 of 11 exposed"),
    (Expect.ANSWERED, [*(answered(n, exposure=Exposure.CLOSED_AFTER_ARRIVAL, executions=2) for n in range(10)), *FINE],
     Verdict.PASS, "None of 10 exposed requests was lost, and 10 were executed twice."),
    (Expect.ANSWERED, [*KILLED, *FINE], Verdict.FAIL, "10 of 10 exposed requests were still lost"),
    (Expect.LOST, [*KILLED, *FINE], Verdict.INCONCLUSIVE, "Only 0 of 210"),
]  # fmt: skip


@pytest.mark.parametrize(("expect", "trials", "verdict", "said"), JUDGED)
def test_an_expectation_is_judged(expect: Expect, trials: list[Trial], verdict: Verdict, said: str) -> None:
    found = judge(flow(expect=expect), trials)
    assert (found.verdict, said in found.sentence) == (verdict, True), found.sentence


@pytest.mark.parametrize(("lost", "verdict"), [(12, Verdict.INCONCLUSIVE), (20, Verdict.PASS)])
def test_a_fix_is_credited_only_if_chance_does_not_explain_it(lost: int, verdict: Verdict) -> None:
    control, fix = flow(), flow("fix", prevents=True, expect=Expect.MENDED)
    trials = [
        *(trial(n) for n in range(lost)),
        *(answered(100 + n) for n in range(60 - lost)),
        *(answered(n, "fix") for n in range(60)),
    ]
    found = [judge_lane(plan(control, fix, min_exposed=6), each, trials) for each in (control, fix)]
    assert [f.verdict for f in found] == [Verdict.PASS, Verdict.PASS]
    _, credited = credit(found, {"fix": "control"})
    assert credited.verdict is verdict
    assert verdict is Verdict.PASS or f"lost {lost} of 60 requests and this 0 of 60" in credited.sentence


# -- the model of a pool ---------------------------------------------------------------------------------

ALONE = PoolCase(close_s=1.0, proxy_idle_s=60.0, rtt_s=0.05, rate=1.0, answer_s=0.0, newest=True, max_connections=1)


@pytest.mark.parametrize("rate", [0.3, 1.0, 2.0])
def test_one_connection_that_is_seldom_busy_follows_the_formula(rate: float) -> None:
    case = msgspec.structs.replace(ALONE, rtt_s=0.02, rate=rate)
    met = (exp(-rate * 0.98) - exp(-rate)) * (1 - rate * 0.02)  # idle for so long, and found idle at all
    assert isclose(share_lost(case, requests=400_000), met / (1 + met), rel_tol=0.06)


def test_a_proxy_that_gives_up_first_loses_nothing() -> None:
    assert share_lost(msgspec.structs.replace(ALONE, proxy_idle_s=0.95)) == 0.0
    assert share_lost(msgspec.structs.replace(ALONE, proxy_idle_s=0.96)) > 0.0


def test_the_order_of_a_small_pool_counts() -> None:
    pool = msgspec.structs.replace(ALONE, rate=4.0, answer_s=0.25, max_connections=64)
    newest, oldest = (share_lost(msgspec.structs.replace(pool, newest=newest)) for newest in (True, False))
    assert oldest > 1.5 * newest > 0


def test_requests_that_wait_find_a_connection_that_was_just_used() -> None:
    crowded = msgspec.structs.replace(ALONE, rate=30.0)
    assert share_lost(crowded) < share_lost(msgspec.structs.replace(ALONE, rate=3.0)) / 20


# -- the forecast ----------------------------------------------------------------------------------------

KNOBS = {"timeouts.upstream_idle": "60s", "pool.order": "newest", "pool.max_connections": "1"}
PREDICTED = flow(
    expect=Expect.FORECAST,
    acts=(),
    proxy=KNOBS,
    rtt_ms=60.0,
    traffic=Traffic(rate=2.5, members=60, apart=True),
)
CLOSES = (400.0, 401.0)


def sent(lost: int, n: int) -> list[Trial]:
    return [*(trial(i) for i in range(lost)), *(answered(i + lost) for i in range(n - lost))]


def test_the_forecast_is_of_what_was_configured_and_measured() -> None:
    found = forecast(plan(PREDICTED, closes=CLOSES), PREDICTED)
    assert 0.040 < found.share < 0.050
    assert found.low < found.share < found.high
    safe = msgspec.structs.replace(PREDICTED, proxy={**KNOBS, "timeouts.upstream_idle": "300ms"})
    assert forecast(plan(safe, closes=CLOSES), safe).share == 0.0


@pytest.mark.parametrize(
    ("lost", "n", "verdict"),
    [
        (45, 1000, Verdict.PASS),
        (0, 1000, Verdict.FAIL),
        (150, 1000, Verdict.FAIL),
        (1, 45, Verdict.INCONCLUSIVE),
    ],
)
def test_what_was_lost_agrees_with_the_forecast_or_not(lost: int, n: int, verdict: Verdict) -> None:
    found, sentence = agrees(plan(PREDICTED, closes=CLOSES), PREDICTED, sent(lost, n))
    assert found is verdict, sentence


def test_a_forecast_of_none_is_met_by_none_only() -> None:
    safe = msgspec.structs.replace(PREDICTED, proxy={**KNOBS, "timeouts.upstream_idle": "300ms"})
    for lost, verdict in ((0, Verdict.PASS), (1, Verdict.FAIL)):
        found, sentence = agrees(plan(safe, closes=CLOSES), safe, sent(lost, 1000))
        assert (found, "the model says none" in sentence) == (verdict, True)


def test_what_is_lost_to_something_else_is_no_agreement() -> None:
    trials = [trial(n, exposure=Exposure.NEW_CONNECTION) for n in range(45)] + [answered(100 + n) for n in range(955)]
    found = judge(PREDICTED, trials, closes=CLOSES)
    assert (found.verdict, "met no close" in found.sentence) == (Verdict.FAIL, True)


@pytest.mark.parametrize("scenario", [ROLLING, RECYCLE, DISCOVERY, POISSON], ids=lambda scenario: scenario.name)
def test_arms_with_traffic_say_what_flows(scenario: Scenario) -> None:
    assert all(arm.aim is Aim.TRAFFIC and (arm.traffic or scenario.traffic) for arm in scenario.arms)


@pytest.mark.parametrize(("late_ms", "verdict"), [(1.0, Verdict.PASS), (60.0, Verdict.INCONCLUSIVE)])
def test_requests_that_are_late_are_no_traffic_that_a_model_knows(late_ms: float, verdict: Verdict) -> None:
    trials = [answered(n, late_ms=late_ms) for n in range(40)]
    judged = plan(PREDICTED)
    round_over = {"kind": "client.round"}
    evidence = Evidence([round_over], {}, {}, {}, {}, {}, {}, None)
    (check,) = (c for c in check_run(judged, evidence, trials, []) if c.name == "schedule kept")
    assert check.verdict is verdict, check.sentence


def test_the_netns_wire_has_an_address_for_each_pool() -> None:
    members = sum((arm.traffic.members if arm.traffic else 0) * len(arm.expect) for arm in POISSON.arms)
    assert members + 1 <= LINKS_LIMIT  # and one for the calibration
