"""Intervals against published values and against brute force."""

from math import comb, isclose
from random import Random

import pytest

from lab.stats import design_effect, differ_by_chance, exact, interval, of_rounds, percentile, student, wilson


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (0, 300, 0.0, 0.01222),  # "rule of three" territory: 1 - 0.025 ** (1 / 300)
        (16, 16, 0.79409, 1.0),
        (1000, 1000, 0.99632, 1.0),
        (0, 10_000, 0.0, 0.000369),
        (5, 10, 0.18709, 0.81291),  # Clopper and Pearson's own example size
        (0, 0, 0.0, 1.0),
    ],
)
def test_exact(hits: int, n: int, low: float, high: float) -> None:
    found = exact(hits, n)
    assert found.low == pytest.approx(low, abs=2e-5)
    assert found.high == pytest.approx(high, abs=2e-5)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(10, 100, 0.05523, 0.17437), (50, 100, 0.40383, 0.59617), (1, 10, 0.01788, 0.40415), (0, 0, 0.0, 1.0)],
)
def test_wilson(hits: int, n: int, low: float, high: float) -> None:
    found = wilson(hits, n)
    assert found.low == pytest.approx(low, abs=2e-5)
    assert found.high == pytest.approx(high, abs=2e-5)


@pytest.mark.parametrize(("hits", "n"), [(1, 5), (3, 12), (7, 9)])
def test_exact_bounds_leave_a_tail_of_two_and_a_half_percent(hits: int, n: int) -> None:
    low, high = exact(hits, n)[1:]

    def at_most(k: int, p: float) -> float:
        return sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))

    assert isclose(1 - at_most(hits - 1, low), 0.025, abs_tol=1e-9)
    assert isclose(at_most(hits, high), 0.025, abs_tol=1e-9)


def test_interval_is_exact_at_the_ends_and_wilson_in_between() -> None:
    assert interval(0, 40) == exact(0, 40)
    assert interval(40, 40) == exact(40, 40)
    assert interval(13, 40) == wilson(13, 40)


def test_percentile_is_by_nearest_rank() -> None:
    values = [float(i) for i in range(100, 0, -1)]
    assert percentile(values, 0.99) == 100
    assert percentile(values, 0.5) == 51
    assert percentile([3.0], 0.99) == 3


def test_percentile_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


@pytest.mark.parametrize(
    ("hits", "n", "other_hits", "other_n", "p"),
    [
        (3, 4, 1, 4, 0.4857),  # Fisher's lady tasting tea
        (1, 10, 11, 14, 0.0028),
        (0, 20, 0, 20, 1.0),
        (20, 20, 20, 20, 1.0),
        (0, 40, 40, 40, 0.0),
        (0, 0, 5, 9, 1.0),
    ],
)
def test_two_shares_differ_by_chance(hits: int, n: int, other_hits: int, other_n: int, p: float) -> None:
    assert isclose(differ_by_chance(hits, n, other_hits, other_n), p, abs_tol=0.00005)
    assert isclose(differ_by_chance(other_hits, other_n, hits, n), p, abs_tol=0.00005)


def test_equal_shares_seldom_seem_to_differ() -> None:
    """By the sum over all outcomes of two samples of 30 with a share of 0.3: less often than the level says."""
    often = [comb(30, k) * 0.3**k * 0.7 ** (30 - k) for k in range(31)]
    for level in (0.05, 0.001):
        seems = sum(often[a] * often[b] for a in range(31) for b in range(31) if differ_by_chance(a, 30, b, 30) < level)
        assert 0 < seems < level


@pytest.mark.parametrize(
    ("freedom", "confidence", "quantile"),
    [(1, 0.95, 12.706), (2, 0.95, 4.303), (3, 0.95, 3.182), (5, 0.95, 2.571), (5, 0.99, 4.032), (30, 0.95, 2.042)],
)
def test_student_is_as_in_the_tables(freedom: int, confidence: float, quantile: float) -> None:
    assert student(freedom, confidence) == pytest.approx(quantile, abs=0.0006)


def test_rounds_that_do_not_differ_are_worth_all_their_requests() -> None:
    assert design_effect([(5, 10), (5, 10)]) == 1
    assert of_rounds([(5, 10), (5, 10)]) == interval(10, 20)
    assert of_rounds([(0, 24), (0, 24)]) == exact(0, 48)
    assert of_rounds([(24, 24), (24, 24)]) == exact(48, 48)
    assert of_rounds([(3, 10)]) == interval(3, 10)
    assert of_rounds([]) == interval(0, 0)


def test_a_round_that_was_hit_whole_does_not_count_as_often_as_it_has_requests() -> None:
    rounds = [(24, 24), (0, 24), (0, 24), (0, 24), (0, 24), (0, 24)]
    assert design_effect(rounds) == pytest.approx(28.8)
    assert of_rounds(rounds).high > 0.6
    assert interval(24, 144).high < 0.25  # what single requests would have claimed


@pytest.mark.parametrize(("rounds", "likeness", "least"), [(2, 0.0, 0.93), (4, 0.2, 0.93), (6, 0.3, 0.93)])
def test_the_interval_holds_the_share_as_often_as_it_says(rounds: int, likeness: float, least: float) -> None:
    """By simulation: rounds of 24 with a share of their own, which scatters around one half (beta, then binomial)."""
    draw, share, held = Random(7), 0.5, 0
    for _ in range(400):
        spread = 0.5 * (1 / likeness - 1) if likeness else 0.0
        own = [draw.betavariate(spread, spread) if spread else share for _ in range(rounds)]
        found = of_rounds([(sum(draw.random() < p for _ in range(24)), 24) for p in own])
        held += found.low <= share <= found.high
    assert held >= least * 400
