"""Ways to spoil a run on purpose, to see that its verdict notices. None of them may end in "pass".

They exist for the tests and for teaching: `kalab run idle-close --sabotage NAME`. Each function here says what one name
changes, and changes nothing for all others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from lab.plan import UPSTREAM, LanePlan

T = TypeVar("T")

SABOTAGES = {
    "generator-throttled": "The load generator is slow: it needs 30 ms for each request that it sends.",
    "upstream-ignores-timeout": "The upstream never closes a connection, whatever it was told; no wire forgets one.",
    "fin-past-the-run": "The upstream closes in calibration, but not before the run is over.",
    "close-later": "The upstream closes half a second later than it did in calibration.",
    "fixes-answer-themselves": "Where a fix is tried, the proxy always answers 200 without asking the upstream.",
    "fixes-never-reuse": "Where a fix is tried, the proxy never reuses a connection, whatever the fix is.",
    "arms-swapped": "Each arm's requests go through the proxy of the next arm.",
    "proxy-clock-wrong": "The clock of the proxies' logs is 50 ms ahead.",
    "drop-client-lines": "Every tenth line of the client's log is lost.",
    "drop-proxy-lines": "Every tenth line of the proxies' logs is lost.",
    "drop-upstream-lines": "Every tenth line of the upstream's log is lost.",
    "drop-wire-lines": "Every tenth line of the wire's log is lost.",
}

_DROPPED_FROM = {
    "drop-client-lines": "client.jsonl",
    "drop-proxy-lines": "proxy-*.jsonl",
    "drop-upstream-lines": "upstream-*.jsonl",
    "drop-wire-lines": "wire.jsonl",
}

SPOILS = (*_DROPPED_FROM, "proxy-clock-wrong")
"""Those that change nothing while it runs: the evidence is damaged afterwards."""

THROTTLE_S = 0.03
CLOSE_LATER_S = 0.5
CLOCK_AHEAD_NS = 50_000_000


def spoil(name: str, folder: Path) -> None:
    """Damages the stored evidence, if that is what this sabotage does."""
    for path in folder.glob(_DROPPED_FROM[name]) if name in _DROPPED_FROM else ():
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(line for n, line in enumerate(lines) if n % 10 != 5))
    for path in folder.glob("proxy-*.jsonl") if name == "proxy-clock-wrong" else ():
        path.write_bytes(re.sub(rb'"t":(\d+)', lambda t: b'"t":%d' % (int(t[1]) + CLOCK_AHEAD_NS), path.read_bytes()))


def throttle_s(name: str) -> float:
    """How long each send of the client is held up, in seconds; 0 unless that is this sabotage."""
    return THROTTLE_S if name == "generator-throttled" else 0.0


def keep_alive_of_lanes(name: str, keep_alive_s: float) -> str:
    """The idle timeout of the upstream that serves the arms, where it differs from the calibrated one; "" elsewhere."""
    if name == "fin-past-the-run":
        return "off"
    return f"{(keep_alive_s + CLOSE_LATER_S) * 1000:g}ms" if name == "close-later" else ""


def withholds_close(name: str) -> bool:
    """Whether an upstream that should end, or recycle a worker, is never told, behind the run's back."""
    return name in ("upstream-ignores-timeout", "fin-past-the-run")


def forget_s(name: str, lane: LanePlan) -> float:
    """After how long a silence this lane's wire forgets a connection. Where nothing is to end one, it never does."""
    return 0.0 if withholds_close(name) else lane.forget_ms / 1000


def instead_of_proxy(name: str, lane: LanePlan) -> tuple[str, ...]:
    """The module and flags of what stands in for this lane's proxy; empty for the proxy itself."""
    if name == "fixes-answer-themselves" and _is_fix(lane):
        return ("upstreams.lab", "--listen", "127.0.0.1:0", "--keep-alive", "60s")
    return ()


def proxy_changes(name: str, lane: LanePlan) -> dict[str, str]:
    """What is changed in this lane's proxy without the plan knowing."""
    return {"pool.max_idle": "0"} if name == "fixes-never-reuse" and _is_fix(lane) else {}


def _is_fix(lane: LanePlan) -> bool:
    """Whether it changes more than what its upstream does, or the order in which things happen to that."""
    return lane.prevents or any(not change.key.startswith(UPSTREAM) for change in lane.changes)


def swapped(name: str, proxies: Sequence[T]) -> list[T]:
    """The proxies in the order of the lanes that will use them."""
    return [*proxies[1:], *proxies[:1]] if name == "arms-swapped" else list(proxies)
