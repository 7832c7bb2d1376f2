"""The model of the race: against what was measured and simulated, and where it must be exactly zero."""

from __future__ import annotations

import heapq
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from math import inf, isclose
from pathlib import Path

import msgspec
import pytest

from lab.predict import Case, Order, predict
from lab.predict_command import length, moment, told

CLOSED_AFTER = Case(upstream_idle_s=5.0, proxy_idle_s=60.0, rtt_s=0.05, rate=20.0)


def case(**changes: object) -> Case:
    return msgspec.structs.replace(CLOSED_AFTER, **changes)


# One connection, an upstream that closes after 1 s, 40 ms of round trip: the share of requests lost, and how many were
# sent, over a real wire.
MEASURED = [(0.5, 0.0106, 3_583), (1.0, 0.0171, 6_900), (2.0, 0.0097, 12_936), (4.0, 0.0034, 24_215)]


@pytest.mark.parametrize(("rate", "measured", "sent"), MEASURED)
def test_one_connection_is_as_measured(rate: float, measured: float, sent: int) -> None:
    share = predict(case(upstream_idle_s=1.0, proxy_idle_s=inf, rtt_s=0.04, rate=rate, order=Order.ONE)).share
    deviation = (share * (1 - share) / sent) ** 0.5
    assert abs(share - measured) < 3 * deviation


def newest_first(rate: float, service_s: float, arrivals: int) -> Iterator[float]:
    """The idle ages at which connections are reused."""
    chance, now = random.Random(5), 0.0
    idle: list[float] = []
    busy: list[float] = []
    for _ in range(arrivals):
        now += chance.expovariate(rate)
        while busy and busy[0] <= now:
            idle.append(heapq.heappop(busy))
        if idle:
            yield now - idle.pop()
        heapq.heappush(busy, now + chance.expovariate(1 / service_s))


def oldest_first(rate: float, connections: int, arrivals: int) -> Iterator[float]:
    chance, now = random.Random(6), 0.0
    sent: list[float] = []
    for _ in range(arrivals):
        now += chance.expovariate(rate)
        sent.append(now)
        if len(sent) > connections:
            yield now - sent[-1 - connections]


def share_of(ages: Iterator[float], low: float, high: float, arrivals: int) -> float:
    return sum(low < age < high for age in ages) / arrivals


@pytest.mark.parametrize("rate", [2.0, 20.0])
def test_the_newest_first_is_as_simulated(rate: float) -> None:
    """Within a factor of 1.6: the idle times of a connection are not quite exponential."""
    arrivals = 200_000
    simulated = share_of(newest_first(rate, 0.5, arrivals), 1.5, 2.0, arrivals)
    found = predict(case(upstream_idle_s=2.0, rtt_s=0.5, rate=rate, service_s=0.5)).share
    assert simulated / 1.6 < found < simulated * 1.6


@pytest.mark.parametrize("connections", [1, 3, 10])
def test_the_oldest_first_is_as_simulated(connections: int) -> None:
    arrivals = 100_000
    simulated = share_of(oldest_first(5.0, connections, arrivals), 1.8, 2.0, arrivals)
    found = predict(case(upstream_idle_s=2.0, rtt_s=0.2, rate=5.0, order=Order.OLDEST, connections=connections)).share
    met = found / (1 - found)  # the simulation loses nothing, so each request has a used connection
    assert isclose(met, simulated, rel_tol=0.1, abs_tol=0.0005)


def test_one_connection_is_a_pool_of_one() -> None:
    one, oldest = (predict(case(rate=0.3, order=order, connections=1)).share for order in (Order.ONE, Order.OLDEST))
    assert isclose(one, oldest, rel_tol=1e-6)


@pytest.mark.parametrize("order", Order)
def test_it_is_exactly_zero_when_the_proxy_gives_up_early_enough_and_not_before(order: Order) -> None:
    slow = case(order=order, rate=1.0, upstream_lag_s=0.1, proxy_lag_s=0.02, early_s=0.01)
    found = predict(slow)
    assert isclose(found.margin_s, 0.18)
    assert found.share > 0
    at_the_limit = predict(msgspec.structs.replace(slow, proxy_idle_s=found.safe_idle_s - 1e-9))
    assert (at_the_limit.share, at_the_limit.per_day, at_the_limit.window_s) == (0.0, 0.0, 0.0)
    assert predict(msgspec.structs.replace(slow, proxy_idle_s=found.safe_idle_s + 0.01)).share > 0


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("rate", [0.0, 1e-9, 1.0, 1e4])
@pytest.mark.parametrize("upstream_idle_s", [0.001, 5.0, 3600.0, inf])
def test_whatever_is_asked_the_answer_is_a_share(order: Order, rate: float, upstream_idle_s: float) -> None:
    for changes in ({}, {"tick_s": 30.0}, {"proxy_idle_s": inf}, {"connections": 100_000}, {"service_s": 0.0}):
        found = predict(case(order=order, rate=rate, upstream_idle_s=upstream_idle_s, **changes))
        assert 0.0 <= found.share <= 0.5
        assert found.share == 0.0 or (rate > 0 and upstream_idle_s < inf)


def test_more_traffic_means_fewer_losses_per_request() -> None:
    shares = [predict(case(rate=rate)).share for rate in (2.0, 20.0, 100.0, 300.0)]
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "Expected: 1 request in 15,"),
        ({"proxy_idle_s": 4.0}, "Nothing is lost: the proxy gives up first, by at least the 50 ms that it takes."),
        ({"rate": 0.0}, "Expected: nothing, as nothing is sent."),
        ({"upstream_idle_s": inf}, "An upstream that never closes an idle connection loses nothing to this race."),
        ({"upstream_idle_s": 0.04}, "No idle timeout of the proxy is short enough: raise the upstream's, or do not "),
        ({"tick_s": 1.0}, "in a window of 50 ms, somewhere from 4.95 s to 6 s after the last answer."),
        ({"rate": 1e-3, "order": Order.ONE}, "Expected: 1 request in 20,101, one in 233 days."),
        ({"rate": 1e-5, "order": Order.ONE}, "Expected: practically never, less than one in 100 years."),
        ({"order": Order.OLDEST, "connections": 100, "rtt_s": 0.2}, "Expected: 14% of the requests, 2.7 a second."),
    ],
)
def test_it_is_told_in_sentences(changes: dict[str, object], sentence: str) -> None:
    asked = case(**changes)
    assert sentence in "\n".join(told(asked, predict(asked)))


@pytest.mark.parametrize(
    ("age_s", "text"),
    [(4.998, "4.998 s"), (299.999, "299.999 s"), (3599.9999996, "3599.999999 s"), (0.5, "0.5 s"), (inf, "any time")],
)
def test_a_limit_is_never_rounded_up(age_s: float, text: str) -> None:
    assert moment(age_s) == text


def test_a_busy_proxy_is_predicted_at_once() -> None:
    found = predict(case(rate=1e6))
    assert 0 < found.share < 1e-6


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (0.00005, "0.05 ms"),
        (0.04, "40 ms"),
        (4.998, "4.998 s"),
        (75.0, "75 s"),
        (172_800.0, "2 days"),
        (inf, "any time"),
    ],
)
def test_lengths_of_time(duration_s: float, text: str) -> None:
    assert length(duration_s) == text


def kalab(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "lab", "predict", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_tells_json_too() -> None:
    done = kalab("--upstream-idle", "5s", "--proxy-idle", "off", "--rate", "20", "--rtt", "50ms", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["prediction"]["share"] == predict(case(proxy_idle_s=inf)).share


def test_the_docs_show_what_it_says() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "predict.md").read_text()
    words, shown = re.findall(r"```sh\nkalab predict (.*?)\n```\n\n```\n(.*?)```", page, re.DOTALL)[0]
    assert kalab(*words.split()).stdout == shown


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--upstream-idle 5 --proxy-idle 4s --rate 1", "error: --upstream-idle 5: which unit? 5ms or 5s"),
        ("--upstream-idle 5s --proxy-idle 4s --rate 1 --rtt off", "error: --rtt off: give a length of time, such as "),
        (
            "--upstream-idle 5s --proxy-idle 4s --rate inf",
            "error: Invalid value for '--rate'",
        ),
        (
            "--upstream-idle 5s --proxy-idle 4s --rate 1 --order newst",
            "error: unknown order 'newst'; did you mean newest?",
        ),
        ("--upstream-idle 5s --proxy-idle 4s", "error: Missing option '--rate'."),
        ("--upstream-idle 0s --proxy-idle 4s --rate 1", "error: --upstream-idle 0s: it must be longer than 0"),
        ("--upstream-idle 5s --proxy-idle 4s --rate 1e9", "error: Invalid value for '--rate'"),
        (
            "--upstream-idle 5s --proxy-idle 9s --rate 1 --order oldest",
            "error: --order oldest: say how many connections",
        ),
        (
            "--upstream-idle 5s --proxy-idle 9s --rate 1 --connections 9",
            "error: --connections 9: they count with --order",
        ),
        (
            "--upstream-idle 5s --proxy-idle 9s --rate 1 --order one --service 1s",
            "error: --service 1s: it counts with ",
        ),
        (
            "--upstream-idle 5s --upstream-early 5s --proxy-idle 4s --rate 1",
            "error: --upstream-early 5s: it must be shorter than --upstream-idle",
        ),
    ],
)
def test_a_mistake_is_one_line(words: str, complaint: str) -> None:
    done = kalab(*words.split())
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(complaint)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("tick_s", [0.0, 0.5, 30.0])
@pytest.mark.parametrize("early_s", [0.0, 0.3])
def test_nothing_is_lost_exactly_up_to_the_safe_timeout(order: Order, tick_s: float, early_s: float) -> None:
    """However little it is beyond: the earliest close is the one that counts."""
    spread = case(order=order, rate=0.2, tick_s=tick_s, early_s=early_s, proxy_lag_s=0.01, connections=2)
    safe_s = predict(spread).safe_idle_s
    for beyond_s, lost in ((-0.001, False), (0.001, True), (0.1, True), (10.0, True)):
        found = predict(msgspec.structs.replace(spread, proxy_idle_s=safe_s + beyond_s))
        assert ((found.share > 0), (found.window_s > 0)) == (lost, lost), beyond_s


@pytest.mark.parametrize(("rate", "connections"), [(1e4, 1), (1e5, 8), (1e4, 100)])
def test_a_window_much_wider_than_the_idle_ages_holds_all_of_them(rate: float, connections: int) -> None:
    wide = case(upstream_idle_s=1.0, upstream_lag_s=1.0, rate=rate, order=Order.OLDEST, connections=connections)
    assert isclose(predict(wide).share, 0.5, rel_tol=1e-3)


def test_a_way_without_length_and_a_rate_next_to_none() -> None:
    no_way = case(rtt_s=0.0)
    assert "give --rtt" in "\n".join(told(no_way, predict(no_way)))
    seldom = case(rate=1e-200, order=Order.ONE)
    assert "practically never" in "\n".join(told(seldom, predict(seldom)))
