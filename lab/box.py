"""The model's box on one wire: between which idle ages a request is lost, and what share of a sweep that is.

Ages and widths are ms, at the proxy, as in docs/race.md. The model itself is `lab.predict`.
"""

from __future__ import annotations

from typing import NamedTuple

from lab.predict import Case, window

# How far a sweep reaches beyond the close, in window widths before and after it.
SWEEP_FROM = 1.5
SWEEP_TO = 0.5

# By how much either side's event loop may come late to what is due, in a burst as the lab makes them: L_u and L_p.
LAG_MS = 2.0


class Box(NamedTuple):
    """A request is lost when its idle age lies between these two. Where `to_ms` is not the greater, none is."""

    from_ms: float
    to_ms: float


class Share(NamedTuple):
    """A share that the model says, 0 to 1: with both event loops on time, and with both late by `LAG_MS`."""

    low: float
    high: float


def box(close_ms: float, window_ms: float, proxy_idle_ms: float, lag_ms: float = 0.0) -> Box:
    """Of an upstream that closes at this age, over a wire whose window is this wide, before this proxy."""
    lag_s = lag_ms / 1000
    case = Case(
        upstream_idle_s=close_ms / 1000,
        proxy_idle_s=proxy_idle_ms / 1000,
        rtt_s=window_ms / 1000,
        rate=0.0,
        upstream_lag_s=lag_s,
        proxy_lag_s=lag_s,
    )
    low, high = window(case, case.upstream_idle_s)
    return Box(low * 1000, high * 1000)


def share_of_sweep(close_ms: float, window_ms: float, proxy_idle_ms: float) -> Share:
    """Of requests spread evenly over a sweep around this close, the share that is lost."""
    low, high = close_ms - SWEEP_FROM * window_ms, close_ms + SWEEP_TO * window_ms

    def share(lag_ms: float) -> float:
        found = box(close_ms, window_ms, proxy_idle_ms, lag_ms)
        return max(0.0, min(high, found.to_ms) - max(low, found.from_ms)) / (high - low)

    return Share(share(0.0), share(LAG_MS))
