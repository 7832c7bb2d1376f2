"""Every retry policy in every situation, as one table; and the budget."""

from __future__ import annotations

from typing import NamedTuple, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import PolicyName
from proxy.failure import Failure, Proof
from proxy.retry import IDEMPOTENT, Attempt, RetryBudget, RetryPolicy

POLICIES: tuple[PolicyName, ...] = ("never", "reused_idempotent", "when_proven", "any_idempotent", "always")

LOST_GET = Attempt(
    number=1,
    method=b"GET",
    reused=True,
    failure=Failure.CLOSED_BEFORE_RESPONSE,
    proof=Proof.UNKNOWN,
    response_started=False,
    sent_bytes=55,
    replayable=True,
)
LOST_POST = LOST_GET._replace(method=b"POST")


class Row(NamedTuple):
    """A situation, and what each policy does about it, in the order of POLICIES."""

    situation: str
    attempt: Attempt
    decisions: tuple[bool, bool, bool, bool, bool]


TABLE = [
    Row("the race, GET", LOST_GET, (False, True, True, True, True)),
    Row("the race, POST", LOST_POST, (False, False, False, False, True)),
    Row("the race, POST, proven", LOST_POST._replace(proof=Proof.UNPROCESSED), (False, False, True, False, True)),
    Row("reset, GET", LOST_GET._replace(failure=Failure.RESET_BEFORE_RESPONSE), (False, True, True, True, True)),
    Row("reset, POST", LOST_POST._replace(failure=Failure.RESET_BEFORE_RESPONSE), (False, False, False, False, True)),
    Row(
        "nothing was sent, POST",
        LOST_POST._replace(sent_bytes=0, proof=Proof.UNPROCESSED),
        (False, True, True, True, True),
    ),
    Row("fresh connection, GET", LOST_GET._replace(reused=False), (False, False, False, True, True)),
    Row(
        "fresh connection, POST, proven",
        LOST_POST._replace(reused=False, proof=Proof.UNPROCESSED),
        (False, False, False, False, True),
    ),
    Row(
        "connect refused, POST",
        LOST_POST._replace(reused=False, failure=Failure.CONNECT_REFUSED, sent_bytes=0, proof=Proof.UNPROCESSED),
        (False, True, True, True, True),
    ),
    Row(
        "no port left, GET",
        LOST_GET._replace(reused=False, failure=Failure.RESOURCES_EXHAUSTED, sent_bytes=0, proof=Proof.UNPROCESSED),
        (False, False, False, False, False),
    ),
    Row("overloaded, GET", LOST_GET._replace(overloaded=True), (False, False, False, False, False)),
    Row(
        "connect timeout, POST",
        LOST_POST._replace(reused=False, failure=Failure.CONNECT_TIMEOUT, sent_bytes=0, proof=Proof.UNPROCESSED),
        (False, False, False, True, True),
    ),
    Row("slow, GET", LOST_GET._replace(failure=Failure.RESPONSE_TIMEOUT), (False, False, False, True, True)),
    Row("slow, POST", LOST_POST._replace(failure=Failure.RESPONSE_TIMEOUT), (False, False, False, False, True)),
    Row("second failure", LOST_GET._replace(number=2), (False, False, False, False, False)),
    Row("body not kept", LOST_GET._replace(method=b"PUT", replayable=False), (False, False, False, False, False)),
    Row("half a response", LOST_GET._replace(response_started=True), (False, False, False, False, False)),
    Row(
        "half a response, as the failure tells",
        LOST_GET._replace(response_started=True, failure=Failure.TRUNCATED_RESPONSE),
        (False, False, False, False, False),
    ),
]


def test_the_table_knows_every_policy() -> None:
    assert get_args(PolicyName) == POLICIES


@pytest.mark.parametrize(
    ("name", "attempt", "retry"),
    [
        pytest.param(name, row.attempt, retry, id=f"{row.situation}: {name}")
        for row in TABLE
        for name, retry in zip(POLICIES, row.decisions, strict=True)
    ],
)
def test_decision(name: PolicyName, attempt: Attempt, retry: bool) -> None:
    assert RetryPolicy(name).decide(attempt).retry is retry


@pytest.mark.parametrize(
    ("name", "attempt", "because"),
    [
        ("always", LOST_GET._replace(response_started=True), "part of a response has arrived"),
        ("never", LOST_GET, "the policy is never"),
        ("always", LOST_GET._replace(overloaded=True), "overloaded: many wait in line"),
        ("always", LOST_GET._replace(number=2), "retries used up"),
        ("always", LOST_POST._replace(replayable=False), "the body was not kept"),
        ("always", LOST_POST, "the policy is always"),
        ("reused_idempotent", LOST_GET._replace(reused=False), "fresh connection: not the race"),
        (
            "when_proven",
            LOST_GET._replace(failure=Failure.RESPONSE_TIMEOUT),
            "the connection did not close: not the race",
        ),
        ("reused_idempotent", LOST_POST._replace(sent_bytes=0), "nothing was sent"),
        ("reused_idempotent", LOST_GET, "idempotent method"),
        ("when_proven", LOST_POST._replace(proof=Proof.UNPROCESSED), "proven unprocessed"),
        ("when_proven", LOST_POST, "it may have been executed"),
    ],
)
def test_the_reason_is_one_of_these(name: PolicyName, attempt: Attempt, because: str) -> None:
    assert RetryPolicy(name).decide(attempt).because == because


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"])
def test_idempotent_methods_are_repeated(method: bytes) -> None:
    assert RetryPolicy("reused_idempotent").decide(LOST_GET._replace(method=method)).retry


@pytest.mark.parametrize("method", [b"POST", b"PATCH", b"CONNECT", b"get", b"PROPFIND", b""])
def test_others_are_not(method: bytes) -> None:
    assert method not in IDEMPOTENT
    assert not RetryPolicy("reused_idempotent").decide(LOST_GET._replace(method=method)).retry


def test_max_retries_counts_retries_not_attempts() -> None:
    policy = RetryPolicy("reused_idempotent", max_retries=2)
    assert [policy.decide(LOST_GET._replace(number=n)).retry for n in (1, 2, 3)] == [True, True, False]
    assert not RetryPolicy("always", max_retries=0).decide(LOST_GET).retry


ATTEMPTS = st.builds(
    Attempt,
    number=st.integers(1, 3),
    method=st.sampled_from([b"GET", b"POST", b"PUT", b"PATCH"]),
    reused=st.booleans(),
    failure=st.sampled_from(list(Failure)),
    proof=st.sampled_from(list(Proof)),
    response_started=st.booleans(),
    sent_bytes=st.sampled_from([0, 1, 55]),
    replayable=st.booleans(),
    overloaded=st.booleans(),
)


@given(ATTEMPTS)
def test_a_proxy_must_not_repeat_what_may_have_been_executed(attempt: Attempt) -> None:
    """RFC 9110 §9.2.2, over all situations: two policies keep it to the letter, a third by proof."""
    safe = attempt.method in IDEMPOTENT or attempt.sent_bytes == 0
    for name in ("reused_idempotent", "any_idempotent"):
        assert safe or not RetryPolicy(name).decide(attempt).retry
    assert safe or attempt.proof is Proof.UNPROCESSED or not RetryPolicy("when_proven").decide(attempt).retry


@given(ATTEMPTS)
def test_policies_grow_from_never_to_always(attempt: Attempt) -> None:
    never, reused, proven, anything, always = (RetryPolicy(name, 2).decide(attempt).retry for name in POLICIES)
    assert never <= reused <= proven <= always
    assert reused <= anything <= always


def test_policy_repr() -> None:
    assert repr(RetryPolicy("reused_idempotent")) == "<RetryPolicy reused_idempotent, at most 1>"


# --- The budget


def test_the_budget_has_a_floor() -> None:
    budget = RetryBudget(0.2, floor=10, window_s=10)
    assert sum(budget.take(1000.0) for _ in range(100)) == 10


def test_the_budget_is_a_share_of_the_requests() -> None:
    budget = RetryBudget(0.2, floor=10, window_s=10)
    for n in range(1000):
        budget.request(1000 + n / 200)
    assert sum(budget.take(1005.0) for _ in range(1000)) == 200
    assert repr(budget) == "<RetryBudget 200 of 200 retries, 1000 requests in 10 s>"


def test_what_is_a_window_old_is_forgotten() -> None:
    budget = RetryBudget(0.2, floor=1, window_s=10)
    for _ in range(100):
        budget.request(1000.5)
    assert sum(budget.take(1000.5) for _ in range(100)) == 20
    assert not budget.take(1008.9)
    assert budget.take(1011.0)  # the floor
    assert not budget.take(1011.0)
    assert budget.take(5000.0)


def test_a_whole_budget_allows_one_retry_for_each_request() -> None:
    budget = RetryBudget(1.0, floor=0)
    for n in range(100):
        budget.request(float(n))
        assert budget.take(float(n))
        assert not budget.take(float(n))


@given(
    st.lists(st.tuples(st.floats(0, 0.5), st.booleans()), max_size=300),
    st.floats(0, 1e6),
)
def test_amplification_is_bounded_whatever_happens(steps: list[tuple[float, bool]], start: float) -> None:
    """All upstreams dead: retries stay within the share, beyond the floor, in every window."""
    budget = RetryBudget(0.2, floor=5, window_s=10)
    now, requests, retries = start, [], []
    for pause, wants_retry in steps:
        now += pause
        budget.request(now)
        requests.append(now)
        if wants_retry and budget.take(now):
            retries.append(now)
            recent_requests = sum(now - t < 10 for t in requests)
            recent_retries = sum(now - t < 9 for t in retries)
            assert recent_retries <= max(5, 0.2 * recent_requests)
