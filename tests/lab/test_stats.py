"""Intervals against published values and against brute force."""

from math import comb, isclose

import pytest

from lab.stats import differ_by_chance, exact, interval, percentile, wilson


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
