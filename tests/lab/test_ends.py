"""What must have ended the connections of a run, or it was none."""

from typing import Any

import pytest
from evidence import lane, plan, trial

from lab.ends import check_ends, closed_after, closes_seen
from lab.model import Verdict
from lab.witness.evidence import Evidence
from lab.witness.flows import Flow
from scenarios.black_hole import SCENARIO as SILENCE
from scenarios.downstream_idle import SCENARIO as CHAIN
from scenarios.idle_close import SCENARIO as IDLE
from scenarios.max_requests import SCENARIO as COUNT
from scenarios.retry_post import SCENARIO as CRASH


def evidence(*closes: tuple[str, int]) -> Evidence:
    """An upstream that closed connections for these reasons, behind as many answers."""
    lines: list[dict[str, Any]] = [{"reason": reason, "requests": requests} for reason, requests in closes]
    return Evidence([], {}, {}, {}, {f"conn{i}": line for i, line in enumerate(lines)}, {}, {}, None)


@pytest.mark.parametrize(
    ("closes", "expected"),
    [
        pytest.param([("max_requests", 4), ("max_requests", 4)], Verdict.PASS, id="as told"),
        pytest.param([("max_requests", 4), ("idle_timeout", 1)], Verdict.PASS, id="others ended otherwise"),
        pytest.param([("max_requests", 4), ("max_requests", 3)], Verdict.INCONCLUSIVE, id="one behind another answer"),
        pytest.param([("idle_timeout", 4)], Verdict.INCONCLUSIVE, id="all by their idle timeout"),
        pytest.param([], Verdict.INCONCLUSIVE, id="none"),
    ],
)
def test_the_upstream_must_close_behind_the_answer_that_was_told(
    closes: list[tuple[str, int]], expected: Verdict
) -> None:
    assert check_ends(COUNT, plan(lane()), evidence(*closes), [], [], []).verdict is expected


@pytest.mark.parametrize(("forgotten_ns", "expected"), [(1, Verdict.PASS), (None, Verdict.INCONCLUSIVE)])
def test_the_wire_must_have_forgotten_a_connection(forgotten_ns: int | None, expected: Verdict) -> None:
    silent = lane(forget_ms=1500.0)
    seen = evidence()
    seen.flows = {"a>b": [Flow("a>b", silent.name, forgotten_ns=forgotten_ns), Flow("a>b", "ready")]}
    assert check_ends(SILENCE, plan(silent), seen, [], [], []).verdict is expected
    assert closed_after(SILENCE) == "nothing: the wire forgets after 1.5 s"


@pytest.mark.parametrize(
    ("said", "crossed", "expected"),
    [
        pytest.param(["idle_timeout"] * 3, 3, Verdict.PASS, id="as many as the wire saw"),
        pytest.param(["idle_timeout"] * 3 + ["client_closed"], 2, Verdict.PASS, id="more than requests crossed"),
        pytest.param(["idle_timeout"] * 2 + ["client_closed"], 3, Verdict.INCONCLUSIVE, id="fewer"),
        pytest.param(["client_closed"], 0, Verdict.INCONCLUSIVE, id="none"),
    ],
)
def test_the_proxy_in_the_middle_must_have_made_the_closes_that_the_wire_saw(
    said: list[str], crossed: int, expected: Verdict
) -> None:
    closes = evidence(*((reason, 1) for reason in said))
    check = check_ends(CHAIN, plan(lane()), closes, [trial(i) for i in range(crossed)], [2000.0], [2000.0])
    assert check.verdict is expected, check.sentence


@pytest.mark.parametrize(("reason", "expected"), [("crashed", Verdict.PASS), ("idle_timeout", Verdict.INCONCLUSIVE)])
def test_the_upstream_must_have_died_over_a_request(reason: str, expected: Verdict) -> None:
    assert check_ends(CRASH, plan(lane()), evidence((reason, 1)), [], [], []).verdict is expected
    assert closed_after(CRASH) == "executing a request, without an answer"


def test_a_close_by_count_is_no_idle_close() -> None:
    assert closes_seen(COUNT, plan(lane()), evidence(("max_requests", 4)), []) == []
    assert (closed_after(COUNT), closed_after(IDLE)) == ("4 answers", "")
