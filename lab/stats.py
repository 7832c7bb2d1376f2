"""Intervals for shares. Small, and checked in the tests against published values and by brute force.

`wilson` is Wilson's score interval (1927), good for shares in the middle. `exact` is Clopper and Pearson's (1934),
used at the ends, where every trial or none was lost. Both are two-sided; `confidence` is 0.95 unless told.

Requests of one round share what happens to that round, so they are not independent. `of_rounds` counts fewer of them
where rounds differ more than chance makes them: by the design effect, as Korn and Graubard (1998) do for surveys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import cos, exp, lgamma, log, pi, sin, sqrt, tan
from statistics import NormalDist
from typing import NamedTuple


class Interval(NamedTuple):
    """A share with its bounds, all between 0 and 1."""

    share: float
    low: float
    high: float


def wilson(hits: float, n: float, confidence: float = 0.95) -> Interval:
    """`n` = 0 tells nothing: the bounds are 0 and 1."""
    if n == 0:
        return Interval(0.0, 0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def exact(hits: int, n: int, confidence: float = 0.95) -> Interval:
    """`n` = 0 tells nothing: the bounds are 0 and 1. A result of 0 of n has the bound "fewer than `high`"."""
    if n == 0:
        return Interval(0.0, 0.0, 1.0)
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else _solve(lambda p: 1 - _at_most(hits - 1, n, p) - tail)
    high = 1.0 if hits == n else _solve(lambda p: tail - _at_most(hits, n, p))
    return Interval(hits / n, low, high)


def interval(hits: int, n: int, confidence: float = 0.95) -> Interval:
    """Exact at the ends, Wilson in between."""
    return exact(hits, n, confidence) if hits in (0, n) else wilson(hits, n, confidence)


def of_rounds(rounds: Sequence[tuple[int, int]], confidence: float = 0.95) -> Interval:
    """The interval for samples that came in rounds, each as (hits, n).

    Where all or none were hits, rounds do not differ, and the interval is that of single requests. A cause that strikes
    whole rounds, and has struck none, is bounded by their number only: `exact(0, len(rounds))`.
    """
    hits, n = sum(x for x, _ in rounds), sum(m for _, m in rounds)
    effect = design_effect(rounds)
    if effect <= 1:
        return interval(hits, n, confidence)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    worth = n / effect * (z / student(len(rounds) - 1, confidence)) ** 2  # few rounds tell little of how rounds differ
    return wilson(hits / n * worth, worth, confidence)


def design_effect(rounds: Sequence[tuple[int, int]]) -> float:
    """How much more the share varies from round to round than between independent samples: a factor of at least 1."""
    rounds = [(x, m) for x, m in rounds if m]
    hits, n = sum(x for x, _ in rounds), sum(m for _, m in rounds)
    if len(rounds) < 2 or hits in (0, n):
        return 1.0
    share = hits / n
    between = sum((x - share * m) ** 2 for x, m in rounds) * len(rounds) / (len(rounds) - 1)
    return max(1.0, between / (n * share * (1 - share)))


def student(freedom: int, confidence: float = 0.95) -> float:
    """The two-sided quantile of Student's distribution, by its closed form (Abramowitz and Stegun 26.7.3, 26.7.4)."""

    def within(quarter: float) -> float:
        angle = quarter * pi / 2
        term, total = (cos(angle), 0.0) if freedom % 2 else (1.0, 0.0)
        for i in range(1, freedom // 2 + 1):
            total += term
            term *= cos(angle) ** 2 * ((2 * i) / (2 * i + 1) if freedom % 2 else (2 * i - 1) / (2 * i))
        return 2 / pi * (angle + sin(angle) * total) if freedom % 2 else sin(angle) * total

    return sqrt(freedom) * tan(_solve(lambda quarter: within(quarter) - confidence) * pi / 2)


def differ_by_chance(hits: int, n: int, other_hits: int, other_n: int) -> float:
    """How likely two samples with one share behind them differ at least as much as these (Fisher's exact test, 1935).

    Two-sided: the sum over all tables that are no likelier than this one. 1 when either sample is empty.
    """
    total, both = n + other_n, hits + other_hits
    if not n or not other_n:
        return 1.0

    def likelihood(count: int) -> float:
        return exp(_log_choose(n, count) + _log_choose(other_n, both - count) - _log_choose(total, both))

    seen = likelihood(hits) * (1 + 1e-9)  # tables that are as likely differ in the last bits
    tables = (likelihood(count) for count in range(max(0, both - other_n), min(n, both) + 1))
    return min(1.0, sum(table for table in tables if table <= seen))


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` (0..1) of the values lie, by nearest rank. ValueError when there are none."""
    if not values:
        raise ValueError("no values, no percentile")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def _at_most(k: int, n: int, p: float) -> float:
    """P(X <= k) for X binomial(n, p), 0 < p < 1, summed in logarithms so that large n does not overflow."""
    return sum(
        exp(lgamma(n + 1) - lgamma(i + 1) - lgamma(n - i + 1) + i * log(p) + (n - i) * log(1 - p)) for i in range(k + 1)
    )


def _solve(rising: Callable[[float], float]) -> float:
    """The zero between 0 and 1 of a function that rises there, by halving."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2
