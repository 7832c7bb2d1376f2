"""From a declared scenario to lanes."""

import pytest
from evidence import setup

from lab.model import Aim, Expect, Verdict
from lab.plan import Calibration, LanePlan, lay_out, window_ms
from scenarios.black_hole import SCENARIO as BLACK_HOLE
from scenarios.close_forms import SCENARIO as CLOSE_FORMS
from scenarios.downstream_idle import SCENARIO as DOWNSTREAM_IDLE
from scenarios.hint import SCENARIO as HINT
from scenarios.idle_close import SCENARIO
from scenarios.margin import SCENARIO as MARGIN
from scenarios.max_requests import SCENARIO as MAX_REQUESTS
from scenarios.retry_post import SCENARIO as RETRY_POST

STEADY = Calibration((2000.2, 2000.9, 2001.4), (40.2,))
TICKING = Calibration((2000.2, 2400.0, 2960.0), (40.2,))
ONE_LATE = Calibration((*(2000.0 + i / 10 for i in range(15)), 2055.0), (40.2,))
ALL_ARMS = tuple(arm.name for arm in SCENARIO.arms)


def lanes(calibration: Calibration = STEADY, **changes: object) -> dict[str, LanePlan]:
    found, _ = lay_out(SCENARIO, setup(arms=ALL_ARMS, **changes), calibration)
    return {lane.name: lane for lane in found}


def not_judged(calibration: Calibration = STEADY, **changes: object) -> dict[str, str]:
    _, found = lay_out(SCENARIO, setup(arms=ALL_ARMS, **changes), calibration)
    return {arm.arm: arm.because for arm in found}


def test_every_arm_is_judged_on_a_wire_with_the_lab_upstream() -> None:
    assert not_judged() == {}
    assert {lane.arm for lane in lanes().values()} == set(ALL_ARMS)


def test_one_late_moment_is_no_habit_of_the_server() -> None:
    assert ONE_LATE.high < 2002
    assert "window" not in not_judged(ONE_LATE)


def test_margins_become_durations() -> None:
    assert lanes()["order-timeouts.POST"].proxy["timeouts.upstream_idle"] == "1700ms"
    assert lanes()["thin-margin-far.POST"].proxy["timeouts.upstream_idle"] == "1975ms"
    assert lanes(keep_alive_s=5.0)["order-timeouts.POST"].proxy["timeouts.upstream_idle"] == "4700ms"


def test_a_margin_can_be_counted_in_round_trips() -> None:
    arms = tuple(arm.name for arm in MARGIN.arms)
    found, _ = lay_out(MARGIN, setup(scenario="margin", arms=arms), STEADY)
    idle = {each.arm: each.proxy["timeouts.upstream_idle"] for each in found}
    assert (idle["none"], idle["half"], idle["whole"], idle["more"]) == ("2000ms", "1980ms", "1960ms", "1940ms")
    assert (idle["far-none"], idle["far-half"], idle["far-more"]) == ("2000ms", "1950ms", "1880ms")
    predicted = {each.arm: each.predicted.low for each in found if each.predicted}
    assert predicted["far"] == pytest.approx(0.5)
    assert predicted["far-half"] == pytest.approx(0.25, abs=0.01)
    assert predicted["far-more"] == 0.0


def test_a_change_is_told_with_its_before() -> None:
    (change,) = lanes()["retry-safe.GET"].changes
    assert (change.key, change.before, change.after) == ("proxy.retry.policy", "never", "reused_idempotent")
    keys = {c.key: (c.before, c.after) for c in lanes()["thin-margin-far.POST"].changes}
    assert keys["wire.rtt_ms"] == ("40", "60")


def test_a_fix_is_tried_where_its_control_is_lost() -> None:
    near = lanes()["thin-margin-near.POST"]
    assert (near.rtt_ms, near.window_ms) == (4, 40)


def test_an_arm_can_have_a_round_trip_of_its_own() -> None:
    assert lanes()["thin-margin-far.POST"].rtt_ms == 60
    assert lanes()["thin-margin-far.POST"].window_ms == 60
    assert lanes()["control.POST"].rtt_ms == 40


@pytest.mark.parametrize(
    ("wire", "expected"), [("netns", Expect.MENDED), ("relay", Expect.LOST), ("loopback", Expect.LOST)]
)
def test_the_proof_needs_real_packets(wire: str, expected: Expect) -> None:
    found = lanes(wire=wire, stall_ms=200.0)
    assert found["retry-proven.POST"].expect is expected
    assert found["retry-proven.GET"].expect is Expect.MENDED


def test_an_upstream_that_closes_on_a_tick_has_no_window_to_map() -> None:
    missing = not_judged(TICKING, upstream="gunicorn")
    assert "differ by 959.8 ms" in missing["window"]
    assert missing["honour-hint"] == "gunicorn sends no Keep-Alive: timeout field"
    assert "crash" not in missing
    assert lanes(TICKING, upstream="gunicorn")["order-timeouts.POST"].aim is Aim.HELD_FIN


def test_a_hint_that_leaves_no_time_to_reuse_is_no_fix_to_try() -> None:
    """One second, less the proxy's safety second, is a proxy that never reuses: another fix."""
    assert not_judged(keep_alive_s=1.9)["honour-hint"].startswith("of a hint of 1 s nothing is left")
    assert "honour-hint" not in not_judged(keep_alive_s=2.0)


def test_of_an_upstream_that_never_closed_nothing_can_be_shown() -> None:
    assert lay_out(SCENARIO, setup(arms=ALL_ARMS), Calibration((), ())) == ((), ())


def test_a_loopback_can_hold_nothing_so_shots_are_blind() -> None:
    found = lanes(wire="loopback", rtt_ms=0.0, stall_ms=200.0)
    assert found["control.POST"].aim is Aim.GAPS
    assert found["control.POST"].window_ms == 200
    assert {"lag", "lag-look", "thin-margin-far"} <= set(not_judged(wire="loopback", rtt_ms=0.0, stall_ms=200.0))


def test_a_loopback_without_a_stall_has_next_to_no_window() -> None:
    assert window_ms(setup(wire="loopback", rtt_ms=0.0), 0.0) == 1.0


def test_only_the_methods_asked_for() -> None:
    assert {lane.method for lane in lanes(methods=("GET",)).values()} == {"GET"}


def test_every_control_exists_and_is_no_fix_itself() -> None:
    named = {arm.name: arm for arm in SCENARIO.arms}
    for arm in SCENARIO.arms:
        if arm.control is not None:
            assert not named[arm.control].is_fix
            assert arm.why
            assert arm.change


def test_verdicts_are_strings_in_json() -> None:
    assert [str(v) for v in Verdict] == ["pass", "fail", "inconclusive"]


def close_forms(**changes: object) -> tuple[dict[str, LanePlan], dict[str, str]]:
    arms = tuple(arm.name for arm in CLOSE_FORMS.arms)
    found, not_shown = lay_out(CLOSE_FORMS, setup(scenario="close-forms", arms=arms, **changes), STEADY)
    return {lane.name: lane for lane in found}, {arm.arm: arm.because for arm in not_shown}


def test_an_arm_can_have_an_upstream_that_is_told_something_else() -> None:
    found, _ = close_forms()
    assert found["control.POST"].upstream == {}
    assert found["reset-ordered.POST"].upstream == {"close": "rst"}
    assert found["reset-ordered.POST"].proxy["timeouts.upstream_idle"] == "1700ms"
    keys = {change.key: (change.before, change.after) for change in found["reset-ordered.POST"].changes}
    assert keys["upstream.close"] == ("fin", "rst")


def test_only_the_lab_upstream_can_be_told() -> None:
    found, not_shown = close_forms(upstream="node")
    assert {lane.arm for lane in found.values()} == {"control", "late-reader", "late-writer"}
    assert not_shown["farewell"] == "node cannot be told to do this, the lab upstream can"


@pytest.mark.parametrize(("keep_alive_s", "hints"), [(3.0, ("2", "4", "63")), (5.0, ("4", "6", "65"))])
def test_hints_move_along_with_the_timeout(keep_alive_s: float, hints: tuple[str, ...]) -> None:
    arms = ("early", "late", "lie")
    closes = Calibration((keep_alive_s * 1000,), ())
    found, _ = lay_out(HINT, setup(scenario="hint", arms=arms, methods=("POST",), keep_alive_s=keep_alive_s), closes)
    assert tuple(lane.upstream["hint"] for lane in found) == hints


@pytest.mark.parametrize(
    ("keep_alive_s", "arms", "because"),
    [
        (2.0, {"early"}, "of a hint of 1 s nothing is left after 1 s of margin"),
        (2.5, {"early", "late", "late-margin", "lie", "lie-ordered"}, "hints count whole seconds, and 2.5 s is none"),
        (3.0, set(), ""),
    ],
)
def test_a_hint_that_cannot_be_told_is_not_judged(keep_alive_s: float, arms: set[str], because: str) -> None:
    everything = setup(scenario="hint", arms=tuple(arm.name for arm in HINT.arms), keep_alive_s=keep_alive_s)
    _, not_shown = lay_out(HINT, everything, Calibration((keep_alive_s * 1000,), ()))
    assert {arm.arm for arm in not_shown} == arms
    assert {arm.because for arm in not_shown} <= {because}


def test_what_a_request_carries_and_how_often_it_is_sent_is_declared() -> None:
    arms = ("large-always", "down-always", "down-reused-idempotent")
    laid, _ = lay_out(RETRY_POST, setup(arms=arms), STEADY)
    found = {lane.name: (lane.body, lane.attempts, lane.primes, lane.upstream) for lane in laid}
    assert found == {
        "large-always.GET": (2048, 1, 1, {}),
        "large-always.POST": (2048, 1, 1, {}),
        "down-reused-idempotent.GET": (None, 2, 2, {"crash": "always"}),
        "down-reused-idempotent.POST": (None, 1, 2, {"crash": "always"}),
        "down-always.POST": (None, 3, 2, {"crash": "always"}),
    }


def test_a_connection_that_ends_by_its_answers_is_primed_with_as_many() -> None:
    everything = setup(scenario="max-requests", arms=tuple(arm.name for arm in MAX_REQUESTS.arms))
    found, not_shown = lay_out(MAX_REQUESTS, everything, STEADY)
    assert {lane.primes for lane in found} == {4}
    assert not_shown == ()
    assert {lane.primes for lane in lanes().values()} == {1}


def test_what_needs_a_held_fin_is_not_judged_without_a_wire() -> None:
    arms = tuple(arm.name for arm in MAX_REQUESTS.arms)
    found, not_shown = lay_out(MAX_REQUESTS, setup(arms=arms, wire="loopback", rtt_ms=0.0), STEADY)
    assert found == ()
    assert tuple(arm.arm for arm in not_shown) == arms


@pytest.mark.parametrize(
    ("wire", "arms", "because"),
    [
        ("netns", set(), ""),
        ("relay", {"probes-refresh", "probes-detect", "user-timeout", "user-timeout-retry"}, "the relay's kernel"),
        ("loopback", {arm.name for arm in BLACK_HOLE.arms}, "a plain loopback"),
    ],
)
def test_what_kernels_find_out_needs_real_packets(wire: str, arms: set[str], because: str) -> None:
    everything = setup(scenario="black-hole", arms=tuple(arm.name for arm in BLACK_HOLE.arms), wire=wire)
    found, not_shown = lay_out(BLACK_HOLE, everything, STEADY)
    assert {arm.arm for arm in not_shown} == arms
    assert all(arm.because.startswith(because) for arm in not_shown)
    assert {(each.forget_ms, each.at) for each in found} <= {(1500.0, 2.2)}


def test_a_chain_has_a_proxy_in_the_middle_that_arms_can_change() -> None:
    arms = tuple(arm.name for arm in DOWNSTREAM_IDLE.arms)
    found, not_shown = lay_out(DOWNSTREAM_IDLE, setup(arms=arms, keep_alive_s=1.2), Calibration((1200.0,), ()))
    named = {lane.name: lane for lane in found}
    assert not_shown == ()
    assert named["control.POST"].middle == {}
    waits = named["proxy-waits.POST"]
    assert waits.middle == {"timeouts.downstream_idle": "4s"}
    assert waits.proxy["timeouts.upstream_idle"] == "1600ms"
    before = {change.key: change.before for change in waits.changes}
    assert before == {"middle.timeouts.downstream_idle": "1.2s", "proxy.timeouts.upstream_idle": "60s"}
    assert named["upstream-hints.POST"].upstream == {"hint": "2"}


def test_a_chain_ends_at_the_lab_upstream_and_needs_a_wire() -> None:
    arms = tuple(arm.name for arm in DOWNSTREAM_IDLE.arms)
    for changes in ({"upstream": "node"}, {"wire": "loopback", "rtt_ms": 0.0}):
        found, not_shown = lay_out(DOWNSTREAM_IDLE, setup(arms=arms, **changes), STEADY)
        assert (found, len(not_shown)) == ((), len(arms))
