"""Who is taken out, for how long, and who comes back: as tables, with time as a number."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import HealthConfig, Seconds
from proxy.ejection import Change, Ejection, Health, counts
from proxy.failure import Failure

READY, EJECTED, HALF_OPEN, DOWN = Health
REFUSED = "connect_refused"


def ejection(names: str = "abcd", **changes: Any) -> Ejection:
    made = Ejection(HealthConfig(**{"eject_after": 3, "eject_for": Seconds(5), **changes}))
    made.apply(names)
    return made


def fail(of: Ejection, name: str, times: int, now: float = 0.0) -> Change | None:
    change = None
    for _ in range(times):
        change = of.failed(name, REFUSED, now) or change
    return change


def healths(of: Ejection, names: str = "abcd") -> str:
    """One letter each: r, e, h, d."""
    return "".join(of.health_of(name).value[0] for name in names)


# ---- what counts

COUNTED = {
    # on a fresh connection, on a reused one
    Failure.CONNECT_REFUSED: (True, True),
    Failure.CONNECT_TIMEOUT: (True, True),
    Failure.CONNECT_FAILED: (True, True),
    Failure.CLOSED_BEFORE_RESPONSE: (True, False),  # the race: the upstream is healthy
    Failure.RESET_BEFORE_RESPONSE: (True, False),
    Failure.RESPONSE_TIMEOUT: (True, True),
    Failure.TRUNCATED_RESPONSE: (True, True),
    Failure.INVALID_RESPONSE: (True, True),
}


@pytest.mark.parametrize("failure", Failure)
def test_which_failures_count(failure: Failure) -> None:
    fresh, reused = COUNTED.get(failure, (False, False))
    assert counts(failure, reused=False) is fresh
    assert counts(failure, reused=True) is reused


# ---- failures in a row


def test_so_many_in_a_row_eject() -> None:
    of = ejection()
    assert fail(of, "a", 2) is None
    assert of.failures_of("a") == 2
    assert of.failed("a", REFUSED, 1.0) == Change("a", EJECTED, "3 failures in a row, the last: connect_refused")
    assert of.ready() == ["b", "c", "d"]
    assert of.next_expiry() == 6.0


def test_one_success_sets_the_count_back() -> None:
    of = ejection()
    for _ in range(5):
        assert fail(of, "a", 2) is None
        assert of.succeeded("a", 0.0) is None
        assert of.failures_of("a") == 0


def test_never_is_never() -> None:
    of = ejection(eject_after=0)
    assert fail(of, "a", 100) is None
    assert of.failures_of("a") == 0


@pytest.mark.parametrize(
    ("size", "share", "most"),
    [
        (1, 1.0, 0),
        (2, 0.0, 1),
        (2, 1.0, 1),
        (3, 0.5, 1),
        (4, 0.5, 2),
        (4, 0.74, 2),
        (4, 0.75, 3),
        (4, 1.0, 3),
        (5, 0.5, 2),
        (10, 0.3, 3),
        (10, 0.05, 1),
        (100, 0.29, 29),
    ],
)
def test_never_more_than_the_share_and_never_all(size: int, share: float, most: int) -> None:
    of = Ejection(HealthConfig(eject_after=1, eject_share=share))
    names = [f"u{number}" for number in range(size)]
    of.apply(names)
    ejected = [name for name in names if of.failed(name, REFUSED, 0.0) is not None]
    assert ejected == names[:most]
    assert of.ready() == names[most:]


def test_who_is_half_open_or_down_counts_as_out() -> None:
    of = ejection(eject_share=0.5, check_fails=1)
    fail(of, "a", 3)
    of.expire(5.0)
    of.checked("b", False, "status 500", 5.0)
    assert healths(of) == "hdrr"
    assert fail(of, "c", 9, 5.0) is None
    assert of.failures_of("c") == 9
    assert of.succeeded("a", 6.0) == Change("a", READY, "answered on trial")
    assert of.failed("c", REFUSED, 6.0) == Change("c", EJECTED, "10 failures in a row, the last: connect_refused")


# ---- the way back


def half_open(**changes: Any) -> Ejection:
    of = ejection(**changes)
    fail(of, "a", 3, 0.0)
    assert of.expire(4.999) == []
    assert of.expire(5.0) == [Change("a", HALF_OPEN, "after 5 s")]
    assert of.ready() == ["b", "c", "d"]
    assert of.offered() == ["a"]
    assert of.next_expiry() is None
    return of


def test_one_trial_readmits() -> None:
    of = half_open()
    of.begin_trial("a", 6.0)
    assert of.offered() == []
    assert of.succeeded("a", 6.5) == Change("a", READY, "answered on trial")
    assert (of.ready(), of.failures_of("a"), of.next_expiry()) == (list("abcd"), 0, None)


def test_a_trial_that_fails_ejects_for_twice_as_long_up_to_the_longest() -> None:
    of = half_open(eject_longest=Seconds(30))
    now = 5.0
    for lasts in (10.0, 20.0, 30.0, 30.0):
        of.begin_trial("a", now)
        assert of.failed("a", "response_timeout", now) == Change("a", EJECTED, "failed on trial: response_timeout")
        assert of.next_expiry() == now + lasts
        now += lasts
        assert of.expire(now) == [Change("a", HALF_OPEN, f"after {lasts:g} s")]


def test_a_trial_without_a_verdict_is_offered_again() -> None:
    of = half_open()
    of.begin_trial("a", 6.0)
    assert of.next_expiry() == 11.0
    assert of.expire(10.9) == []
    assert of.offered() == []
    assert of.expire(11.0) == []  # it stands as it stood
    assert of.offered() == ["a"]
    assert of.succeeded("a", 12.0) == Change("a", READY, "answered on trial")  # the answer may come late


@pytest.mark.parametrize(
    ("ready_for", "lasts"),
    [(0.0, 10.0), (4.9, 10.0), (5.0, 5.0), (100.0, 5.0)],
    ids=["at once", "too soon", "as long as it was out", "long after"],
)
def test_the_row_ends_when_it_has_been_ready_as_long_as_it_was_out(ready_for: float, lasts: float) -> None:
    of = half_open()
    of.succeeded("a", 10.0)
    now = 10.0 + ready_for
    fail(of, "a", 3, now)
    assert of.next_expiry() == now + lasts


@pytest.mark.parametrize("happens", ["failed", "succeeded"])
def test_what_was_under_way_when_it_was_ejected_changes_nothing(happens: str) -> None:
    of = ejection()
    fail(of, "a", 3, 0.0)
    if happens == "failed":
        assert fail(of, "a", 20, 1.0) is None
    else:
        assert of.succeeded("a", 1.0) is None
        assert of.failures_of("a") > 0  # so that the trial's success will be told
    assert of.health_of("a") is EJECTED
    assert of.next_expiry() == 5.0


def test_when_there_is_no_room_the_one_that_is_out_longest_has_its_trial_early() -> None:
    """Servers that are restarted one after another: the first is back long before `eject_for` is over."""
    of = ejection("abcdef", eject_share=0.34)  # two of six
    fail(of, "a", 3, 0.0)
    fail(of, "b", 3, 0.5)
    assert fail(of, "c", 5, 0.99) is None
    assert of.failed("c", REFUSED, 1.0) == Change("a", HALF_OPEN, "after 1 s, because another fails")
    assert of.failed("c", REFUSED, 1.1) is None  # b is left alone for a second too, and a is on trial
    of.begin_trial("a", 1.2)
    of.succeeded("a", 1.3)
    assert of.failed("c", REFUSED, 1.4) == Change("c", EJECTED, "8 failures in a row, the last: connect_refused")


def test_an_early_trial_that_fails_is_not_repeated_at_once() -> None:
    of = ejection("ab")
    fail(of, "a", 3, 0.0)
    fail(of, "b", 3, 2.0)
    of.begin_trial("a", 2.0)
    of.failed("a", REFUSED, 2.0)
    assert of.next_expiry() == 12.0
    assert fail(of, "b", 100, 2.9) is None
    assert fail(of, "b", 1, 3.0) == Change("a", HALF_OPEN, "after 1 s, because another fails")


# ---- active checks


def checks(of: Ejection, name: str, results: str, now: float = 0.0) -> str:
    """How it stands after each result: + passed, - failed."""
    stands = ""
    for result in results:
        of.checked(name, result == "+", "status 503", now)
        stands += of.health_of(name).value[0]
    return stands


@pytest.mark.parametrize(
    ("results", "stands"),
    [
        ("--+--+--", "rrrrrrrr"),
        ("---", "rrd"),
        ("----++", "rrdddr"),
        ("---+-++", "rrddddr"),
        ("+++---++---", "rrrrrddrrrd"),
    ],
)
def test_checks_take_down_and_up(results: str, stands: str) -> None:
    assert checks(ejection(check_fails=3, check_passes=2), "a", results) == stands


def test_checks_say_why() -> None:
    of = ejection(check_fails=1, check_passes=1)
    assert of.checked("a", False, "status 503", 0.0) == Change("a", DOWN, "failed 1 checks, the last: status 503")
    assert of.checked("a", True, "", 0.0) == Change("a", READY, "passed 1 checks")


def test_checks_may_take_all_down() -> None:
    of = ejection(check_fails=1)
    for name in "abcd":
        checks(of, name, "-")
    assert (healths(of), of.ready()) == ("dddd", [])


def test_a_check_decides_for_one_that_is_half_open() -> None:
    of = half_open()
    assert of.checked("a", True, "", 6.0) == Change("a", READY, "passed a check")
    of = half_open()
    assert of.checked("a", False, "status 503", 6.0) == Change("a", EJECTED, "failed a check: status 503")
    assert of.next_expiry() == 16.0


def test_a_passed_check_does_not_end_an_ejection_nor_a_row_of_failures() -> None:
    """It may answer its checks and nothing else."""
    of = ejection()
    fail(of, "a", 2)
    checks(of, "a", "+++")
    fail(of, "a", 1)
    assert checks(of, "a", "+++") == "eee"


def test_who_is_down_stays_so_whatever_its_requests_do() -> None:
    of = ejection(check_fails=1, check_passes=2)
    fail(of, "a", 3, 0.0)
    assert checks(of, "a", "-", 1.0) == "d"
    assert of.next_expiry() is None
    assert of.succeeded("a", 6.0) is None
    assert fail(of, "a", 9, 6.0) is None
    assert checks(of, "a", "++", 7.0) == "dr"
    assert of.failures_of("a") == 0


# ---- members and config


def test_members_that_stay_stand_as_they_stood_and_those_that_leave_are_forgotten() -> None:
    of = ejection()
    fail(of, "a", 3)
    fail(of, "b", 2)
    of.apply("eab")
    assert healths(of, "eab") == "rer"
    assert (of.failures_of("b"), of.ready()) == (2, ["e", "b"])
    of.apply("eb")
    of.apply("abe")
    assert of.ready() == ["a", "b", "e"]


def test_who_is_no_member_is_not_judged() -> None:
    of = ejection()
    assert (fail(of, "z", 9), of.succeeded("z", 0.0), of.checked("z", False, "", 0.0)) == (None, None, None)
    assert (of.health_of("z"), of.failures_of("z")) == (READY, 0)


@pytest.mark.parametrize(
    ("changes", "stands"),
    [
        ({"eject_after": 0, "check_path": "/"}, "rrdr"),
        ({"eject_after": 3, "check_path": ""}, "ehrr"),
        ({"eject_after": 3, "check_path": "/"}, "ehdr"),
    ],
)
def test_what_is_switched_off_lets_its_upstreams_go(changes: dict[str, Any], stands: str) -> None:
    of = ejection(check_path="/", check_fails=1, eject_share=1.0)
    fail(of, "b", 3, -5.0)
    of.expire(0.0)
    fail(of, "a", 3, 0.0)
    checks(of, "c", "-")
    assert healths(of) == "ehdr"
    changed = of.reconfigure(HealthConfig(**changes))
    assert healths(of) == stands
    assert {change.name for change in changed} == {
        n for n, s, was in zip("abcd", stands, "ehdr", strict=True) if s != was
    }
    assert all(of.failures_of(name) == 0 for name in of.ready())


def test_how_it_looks() -> None:
    of = ejection()
    fail(of, "a", 3)
    assert repr(of) == "<Ejection 3 of 4 ready>"


# ---- whatever happens

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["failed", "succeeded", "passed", "not passed", "trial", "waits", "members"]),
        st.sampled_from("abcd"),
        st.floats(0, 20),
    ),
    max_size=80,
)


@given(STEPS, st.floats(0, 1))
def test_whatever_happens(steps: list[tuple[str, str, float]], share: float) -> None:
    """Requests alone never take out more than the share; nobody is out without an end in sight; who has failed is
    still to be told of."""
    of = ejection(eject_after=2, eject_share=share, eject_longest=Seconds(20), check_fails=2)
    now, allowed = 0.0, min(max(1, int(4 * share + 1e-9)), 3)
    for what, name, seconds in steps:
        if what == "failed":
            of.failed(name, REFUSED, now)
        elif what == "succeeded":
            of.succeeded(name, now)
        elif what in ("passed", "not passed"):
            of.checked(name, what == "passed", "", now)
        elif what == "trial" and name in of.offered():
            of.begin_trial(name, now)
        elif what == "waits":
            now += seconds
            of.expire(now)
        elif what == "members":
            of.apply(dict.fromkeys("abcd" if seconds < 15 else "abcd".replace(name, "")))
            of.apply("abcd")
        stands = healths(of)
        if "d" not in stands:
            assert stands.count("e") + stands.count("h") <= allowed
        expiry = of.next_expiry()
        assert (expiry is None) is not ("e" in stands or ("h" in stands and len(of.offered()) < stands.count("h")))
        assert expiry is None or expiry <= now + 20
        for each in "abcd":
            assert of.health_of(each) not in (EJECTED, HALF_OPEN) or of.failures_of(each) > 0
    for _ in range(2):
        of.expire(now + 20)
    for each in of.offered():
        of.succeeded(each, now + 20)
    for each in "abcd":
        of.checked(each, True, "", now + 20)
        of.checked(each, True, "", now + 20)
    assert healths(of) == "rrrr"
