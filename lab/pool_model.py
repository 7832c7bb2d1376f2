"""A pool of connections under random traffic, played through: how many requests meet the upstream's close.

`lab.predict` has formulas, which leave out that requests wait for each other and that a pool shrinks when it loses a
connection. Here nothing is left out but the machine: the same window, drawn requests, one event after the other.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from random import Random

import msgspec

REQUESTS = 100_000


class PoolCase(msgspec.Struct, frozen=True):
    """A pool towards one upstream, and its traffic. Times in seconds."""

    close_s: float
    """The idle age at which the upstream closes, at the proxy."""
    proxy_idle_s: float
    rtt_s: float
    rate: float
    answer_s: float
    """How long the upstream takes for an answer."""
    newest: bool
    max_connections: int


def share_lost(case: PoolCase, seed: int = 1, requests: int = REQUESTS) -> float:
    """The share of requests that are sent within a round trip before the close, in one long play."""
    draw = Random(seed)
    busy: list[tuple[float, bool]] = []  # when each connection is done, and whether it is still good then
    idle: deque[float] = deque()  # since when, the newest last
    waiting = lost = 0
    now = 0.0
    kept_s = min(case.close_s, case.proxy_idle_s)
    served_s = case.rtt_s + case.answer_s
    for _ in range(requests):
        now += draw.expovariate(case.rate)
        while busy and busy[0][0] <= now:
            done, good = heappop(busy)
            if waiting:
                waiting -= 1
                heappush(busy, (done + (served_s if good else case.rtt_s + served_s), True))
            elif good:
                idle.append(done)
        while idle and now - idle[0] >= kept_s:
            idle.popleft()
        if idle:
            age_s = now - (idle.pop() if case.newest else idle.popleft())
            meets = age_s > case.close_s - case.rtt_s
            lost += meets
            heappush(busy, (now + (case.rtt_s if meets else served_s), not meets))
        elif len(busy) < case.max_connections:
            heappush(busy, (now + case.rtt_s + served_s, True))
        else:
            waiting += 1
    return lost / requests
