"""How often the race would hit, from a model: timeouts, round trip, traffic. Pure; nothing is measured.

Ages are seconds at the proxy, since the last byte of the last response on a connection (docs/race.md). An upstream that
closes at age C loses what is sent on a reused connection at an age between C - R - L_u and min(C, T_p) + L_p.

Rules of this file:

- The age of the connection that a request gets depends on the pool. One connection, requests at random times: it is
  exponential. The newest first, connections without number (M/M/inf): the k-th is used when k others are busy, and is
  idle for about an exponential time between two uses. The oldest first, n connections: n requests later, so Erlang.
- What must be exactly zero is exactly zero: where no age is in the window, nothing is computed.
- `C` is spread evenly from `early` before the configured timeout to `tick` after it; the margin is for the earliest.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from math import exp, expm1, inf, lgamma, log, sqrt

import msgspec

DAY_S = 86_400
CLOSES = 32  # moments at which the upstream may close, of which the mean is taken
STEPS = 256  # of an integral over the window, even
TAIL = 60.0  # a level this many standard deviations above the mean load is never reached


class Order(StrEnum):
    """Which idle connection is used next."""

    NEWEST = "newest"
    OLDEST = "oldest"
    ONE = "one"
    """There is only one connection."""


class Case(msgspec.Struct, frozen=True):
    """What is known of a proxy and its upstream. Times in seconds; `inf` is never."""

    upstream_idle_s: float
    proxy_idle_s: float
    rtt_s: float
    rate: float
    """Requests a second, of one proxy process to one upstream, at random times (Poisson)."""
    order: Order = Order.NEWEST
    service_s: float = 0.05
    """How long a request keeps its connection busy, round trip included. Counts for `newest`."""
    connections: int = 1
    """Connections in the pool. Counts for `oldest`."""
    upstream_lag_s: float = 0.0
    """How long the upstream may be blind before it closes: L_u."""
    proxy_lag_s: float = 0.0
    """How late the proxy may notice a FIN, or its own timer: L_p. A look before reuse makes it 0."""
    early_s: float = 0.0
    """How much sooner than configured the upstream may close."""
    tick_s: float = 0.0
    """How much later it may close: servers look at their connections now and then."""


class Prediction(msgspec.Struct, frozen=True):
    """What the model says. Without retries: those change what the client sees, not how often the race hits."""

    window_s: float
    """How wide the window is in which a request is lost; 0: there is none."""
    from_s: float
    """At which age it begins, at the earliest."""
    to_s: float
    """At which age it ends, at the latest."""
    share: float
    """Of all requests, how many are lost."""
    per_second: float
    per_day: float
    margin_s: float
    """How much sooner than the upstream the proxy must give up, at the least."""
    safe_idle_s: float
    """The longest idle timeout of the proxy with which nothing is lost; at most 0: there is none."""


def predict(case: Case) -> Prediction:
    """What is to be expected. Each figure is of one proxy process and one upstream."""
    margin_s = case.rtt_s + case.upstream_lag_s + case.proxy_lag_s + case.early_s
    first, last = case.upstream_idle_s - case.early_s, case.upstream_idle_s + case.tick_s
    end = min(last, case.proxy_idle_s + margin_s - case.early_s)  # a later close finds no connection in use
    dangerous = 0.0 if end <= first else (end - first) / (last - first)
    if end == last == first < inf:
        dangerous = float(margin_s > 0)
    closes = [first + (i + 0.5) / CLOSES * (end - first) for i in range(CLOSES)] if dangerous else []
    lost = dangerous * sum(_lost(case, *window(case, close)) for close in closes) / CLOSES
    per_second = case.rate * lost
    low, high = window(case, first)
    return Prediction(
        window_s=high - low if dangerous else 0.0,
        from_s=max(0.0, case.upstream_idle_s - case.early_s - case.rtt_s - case.upstream_lag_s),
        to_s=min(case.upstream_idle_s + case.tick_s, case.proxy_idle_s) + case.proxy_lag_s,
        share=lost,
        per_second=per_second,
        per_day=per_second * DAY_S,
        margin_s=margin_s,
        safe_idle_s=case.upstream_idle_s - margin_s,
    )


def window(case: Case, close_s: float) -> tuple[float, float]:
    """The ages at which a request is lost, if the upstream closes at this one."""
    low = close_s - case.rtt_s - case.upstream_lag_s
    return max(0.0, low), min(close_s, case.proxy_idle_s) + case.proxy_lag_s


def _lost(case: Case, low: float, high: float) -> float:
    """The share of requests that are sent within these ages. After a loss the next one has a new connection."""
    if case.rate <= 0:
        return 0.0
    met = _MODELS[case.order](case, low, high)
    return met / (1 + met)


def _one(case: Case, low: float, high: float) -> float:
    return _between(case.rate, low, high)


def _newest(case: Case, low: float, high: float) -> float:
    """Of each level of concurrency: how often it is reached, times how often its connection is then in the window."""
    load = case.rate * case.service_s
    met = below = 0.0
    for level in range(max(0, int(load - TAIL * sqrt(load))), int(load + TAIL * sqrt(load) + TAIL)):
        here = exp(level * log(load) - load - lgamma(level + 1)) if load > 0 else float(level == 0)
        below += here
        if below > 0:
            met += here * _between(case.rate * here / below, low, high)
    return met


def _oldest(case: Case, low: float, high: float) -> float:
    """The integral of Erlang's density, by Simpson's rule: differences of its tails would vanish."""
    n, rate = case.connections, case.rate
    reach = (12 * sqrt(n) + 40) / rate  # beyond that from the mean there is nothing to add up
    if low < n / rate + reach and high > n / rate - reach:
        low, high = max(low, n / rate - reach), min(high, n / rate + reach)
    width = (high - low) / STEPS

    def density(age: float) -> float:
        if age <= 0:
            return rate if n == 1 else 0.0
        return exp(n * log(rate) + (n - 1) * log(age) - rate * age - lgamma(n))

    inner = sum((4 if i % 2 else 2) * density(low + i * width) for i in range(1, STEPS))
    return min(1.0, (density(low) + inner + density(high)) * width / 3)


def _between(rate: float, low: float, high: float) -> float:
    """That an exponential time of this rate ends between these two."""
    return -exp(-rate * low) * expm1(-rate * (high - low)) if high < inf else exp(-rate * low)


_MODELS: dict[Order, Callable[[Case, float, float], float]] = {
    Order.ONE: _one,
    Order.NEWEST: _newest,
    Order.OLDEST: _oldest,
}
