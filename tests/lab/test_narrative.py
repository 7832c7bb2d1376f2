"""The plain lines of a run, from made-up findings."""

from collections.abc import Sequence
from typing import Any

import pytest
from evidence import answered, lane, plan, trial

from lab.box import Share
from lab.checkers import LaneFinding
from lab.model import Act, Aim, Expect, Exposure, Scenario, Verdict
from lab.narrative import NOTHING, RELAY_PROVES_NOTHING, narrate
from lab.plan import LanePlan, Plan
from lab.result import Change
from lab.witness.trials import Trial
from scenarios.black_hole import SCENARIO as BLACK_HOLE
from scenarios.downstream_idle import SCENARIO as DOWNSTREAM_IDLE
from scenarios.idle_close import SCENARIO
from scenarios.max_requests import SCENARIO as MAX_REQUESTS
from scenarios.rolling_restart import SCENARIO as ROLLING

LOST = tuple(trial(i) for i in range(40))
OTHERS = tuple(answered(i) for i in range(40, 60))
CONTROLS = {"order-timeouts": "control", "thin-margin-near": "control", "retry-safe": "control", "lag-look": "lag"}


def finding(lane_plan: LanePlan, exposed: Sequence[Trial] = LOST, **changes: Any) -> LaneFinding:
    ordinary = {"verdict": Verdict.PASS, "sentence": "", "outside": OTHERS}
    return LaneFinding(lane=lane_plan, trials=tuple(exposed), exposed=tuple(exposed), **{**ordinary, **changes})


def fix(arm: str, expect: Expect, *, key: str = "proxy.x", **of_lane: Any) -> LaneFinding:
    return finding(lane(arm, expect=expect, changes=(Change(key, "a", "b"),), **of_lane), OTHERS)


CONTROL = finding(lane())
SWEPT = finding(lane("window", aim=Aim.GAPS, expect=Expect.BOX))


def told(
    *findings: LaneFinding,
    the_plan: Plan | None = None,
    closes: Sequence[float] = (2000.0, 2001.0),
    sound: bool = True,
    scenario: Scenario = SCENARIO,
) -> str:
    return "\n".join(narrate(scenario, the_plan or plan(), findings, closes, CONTROLS, sound=sound))


LEAVING = {
    # how it met the close, and what is done to the upstream -> what is said
    (Exposure.CROSSED, (Act.TERMINATE,)): "closed it because it was told to end, not because it was idle. Its FIN",
    (Exposure.UNREAD, ()): "closed it because a worker of it made room for the next, not because it was idle. The req",
    (Exposure.NEVER_ACCEPTED, (Act.TERMINATE,)): "on a new connection.\nThe upstream's kernel had taken it at its SYN",
}


@pytest.mark.parametrize(("exposure", "acts"), LEAVING)
def test_an_upstream_that_leaves_is_not_said_to_be_idle(exposure: Exposure, acts: tuple[Act, ...]) -> None:
    lost = [trial(i, exposure=exposure) for i in range(12)]
    text = told(finding(lane(aim=Aim.TRAFFIC, acts=acts), lost), scenario=ROLLING)
    assert LEAVING[exposure, acts] in text
    assert "Traffic, nothing aimed: 12 of 12" in text


def test_held_and_swept_losses_are_told_apart() -> None:
    text = told(CONTROL, SWEPT)
    assert "Aimed, each FIN held until the request had left: 40 of 40 (91.1–100 %) POSTs were lost." in text
    assert "nothing held: 40 of 40 (91.1–100 %) POSTs that met the close were lost, and 0 of the 20 others." in text


def test_only_fixes_of_the_plain_race_are_praised() -> None:
    text = told(
        CONTROL,
        fix("order-timeouts", Expect.MENDED, prevents=True),
        fix("thin-margin-near", Expect.MENDED, prevents=True, key="wire.rtt_ms"),
        fix("lag-look", Expect.MENDED, prevents=True, aim=Aim.STALLED_PROXY),
        fix("retry-safe", Expect.MENDED, method="GET"),
        fix("retry-safe", Expect.LOST),
    )
    assert "What ended it: order-timeouts." in text
    assert "What did not: retry-safe (POST)." in text


def test_an_unsound_run_praises_nothing() -> None:
    assert "What ended it" not in told(CONTROL, fix("order-timeouts", Expect.MENDED, prevents=True), sound=False)


def test_a_server_that_closes_later_than_told_is_named() -> None:
    assert "after 3.000 s, though told 2 s" in told(CONTROL, closes=(3000.0, 3001.0))
    assert "after 2.002 to 2.900 s, counted" in told(CONTROL, closes=(2002.0, 2900.0))


def test_unread_requests_are_told_as_such() -> None:
    unread = tuple(trial(i, exposure=Exposure.UNREAD) for i in range(40))
    assert "lay unread in its kernel" in told(finding(lane(), unread))


@pytest.mark.parametrize(("wire", "told_so"), [("relay", True), ("netns", False)])
def test_what_a_relay_hides_is_said(wire: str, told_so: bool) -> None:
    proven = lane("retry-proven", proxy={"retry.policy": "when_proven"})
    crash = lane("crash-retry-proven", aim=Aim.CRASH, proxy={"retry.policy": "when_proven"})
    text = told(CONTROL, the_plan=plan(proven, crash, wire=wire))
    assert (RELAY_PROVES_NOTHING.format("retry-proven") in text) is told_so


def test_a_run_without_losses_shows_nothing() -> None:
    assert told(finding(lane(), OTHERS)) == NOTHING


def test_in_a_chain_the_balancer_sends_and_the_proxy_closes() -> None:
    text = told(CONTROL, closes=(1200.0, 1201.0), scenario=DOWNSTREAM_IDLE, the_plan=plan(keep_alive_s=1.2))
    assert "The balancer sent a POST on a connection" in text
    assert "The proxy behind it is a server too: as such it closes idle connections after 1.200 s, counted" in text
    assert "20 ms before the balancer had it" in text
    assert "the proxy and the upstream have nothing to log" in text


def test_a_close_behind_an_answer_is_not_told_as_an_idle_one() -> None:
    text = told(CONTROL, closes=(), scenario=MAX_REQUESTS)
    assert "closes a connection behind its answer number 4, without announcing it" in text
    assert "closes idle connections" not in text


def test_what_was_held_against_the_model_is_told_with_its_total() -> None:
    idle = {"timeouts.upstream_idle": "60s"}
    swept = finding(lane(aim=Aim.GAPS, expect=Expect.PREDICTED, predicted=Share(0.5, 0.55), proxy=idle))
    ended = fix("order-timeouts", Expect.PREDICTED, aim=Aim.GAPS, predicted=Share(0.0, 0.0), proxy=idle)
    edge = fix("thin-margin-near", Expect.PREDICTED, aim=Aim.GAPS, predicted=Share(0.0, 0.05), proxy=idle)
    text = told(swept, ended, edge)
    assert "Of the sweeps the model had said before the run 25.0 to 28.7 % over 40 ms of round trip, and lost " in text
    assert "What ended it: order-timeouts." in text
    assert "thin-margin-near" not in text
    assert "met the close" not in text


def test_what_vanished_is_not_told_as_a_close() -> None:
    vanished = tuple(trial(i, exposure=Exposure.FORGOTTEN, status=504, latency_ms=1002.0) for i in range(40))
    text = told(finding(lane(aim=Aim.FORGOTTEN), vanished), closes=(), scenario=BLACK_HOLE)
    assert "forgets a connection after 1.5 s of silence" in text
    assert "1002 ms later" in text
    assert "Sent after that silence: 40 of 40 (91.1–100 %) POSTs were lost." in text
    assert "closes" not in text
