"""Ways to spoil a run on purpose, to see that its verdict notices. None of them may end in "pass".

They exist for the tests and for teaching: `kalab run idle-close --sabotage NAME`. Each function here says what one name
changes, and changes nothing for all others.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from lab.model import Ends, Scenario, Verdict
from lab.plan import BY_TIME, UPSTREAM, LanePlan

T = TypeVar("T")

WHILE_IT_RUNS = {
    "generator-throttled": "The load generator is slow: it needs 30 ms for each request that it sends.",
    "upstream-ignores-timeout": "The upstream never closes a connection, whatever it was told; no wire forgets one.",
    "fin-past-the-run": "The upstream closes in calibration, but not before the run is over.",
    "close-later": "The upstream closes half a second later than it did in calibration.",
    "proxy-always-answers": "What stands for the proxy always answers 200, without asking the upstream.",
    "fixes-answer-themselves": "Where a fix is tried, the proxy always answers 200 without asking the upstream.",
    "fixes-never-reuse": "Where a fix is tried, the proxy never reuses a connection, whatever the fix is.",
    "arms-swapped": "Each arm's requests go through the proxy of the next arm.",
    "cpu-hogged": "Every core is busy with something else, from before calibration to the end.",
}

SPOILS = {
    "drop-client-lines": "Every tenth line of the client's log is lost.",
    "drop-proxy-lines": "Every tenth line of the proxies' logs is lost.",
    "drop-upstream-lines": "Every tenth line of the upstream's log is lost.",
    "drop-wire-lines": "Every tenth line of the wire's log is lost.",
    "wire-log-truncated": "The wire's log breaks off in the middle.",
    "capture-truncated": "The captured packets break off in the middle.",
    "client-clock-wrong": "The clock of the client's log is 50 ms ahead.",
    "proxy-clock-wrong": "The clock of the proxies' logs is 50 ms ahead.",
    "wire-clock-wrong": "The clock of the wire's log is 50 ms ahead.",
    "upstream-clock-wrong": "The clock of the upstream's log is 50 ms ahead.",
}
"""Those that change nothing while it runs: the evidence is damaged afterwards."""

OF_THE_WIRE = ("drop-wire-lines", "wire-log-truncated", "capture-truncated", "wire-clock-wrong")

SABOTAGES = {**WHILE_IT_RUNS, **SPOILS}

HONEST = {"cpu-hogged": (Verdict.PASS, Verdict.INCONCLUSIVE)}
"""What a run may come to that was disturbed, not falsified: the truth, or nothing. All others must not pass."""

_LOGS = {
    "client": ("client.jsonl",),
    "proxy": ("proxy-*.jsonl",),
    "upstream": ("upstream-*.jsonl", "executions-*.jsonl"),
    "wire": ("wire.jsonl",),
}
_TIMES = re.compile(rb'"(t|t_in|t_out|sent_ns|intended_ns|first_ns|done_ns)":(\d+)')

THROTTLE_S = 0.03
CLOSE_LATER_S = 0.5
CLOCK_AHEAD_NS = 50_000_000


def allowed(name: str) -> tuple[Verdict, ...]:
    """The verdicts that a run with this sabotage may come to."""
    return HONEST.get(name, (Verdict.FAIL, Verdict.INCONCLUSIVE))


def spoil(name: str, folder: Path) -> None:
    """Damages the stored evidence, if that is what this sabotage does."""
    if name == "capture-truncated":
        _halve(folder.glob("*.pcap"))
    elif name == "wire-log-truncated":
        _halve(folder.glob("wire.jsonl"))
    elif name.startswith("drop-"):
        for path in _logs(folder, name.split("-")[1]):
            lines = path.read_bytes().splitlines(keepends=True)
            path.write_bytes(b"".join(line for n, line in enumerate(lines) if n % 10 != 5))
    elif name.endswith("-clock-wrong"):
        for path in _logs(folder, name.split("-")[0]):
            path.write_bytes(_TIMES.sub(lambda t: b'"%b":%d' % (t[1], int(t[2]) + CLOCK_AHEAD_NS), path.read_bytes()))


def _logs(folder: Path, witness: str) -> list[Path]:
    return [path for pattern in _LOGS[witness] for path in folder.glob(pattern)]


def _halve(paths: Iterable[Path]) -> None:
    for path in paths:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def pointless(name: str, scenario: Scenario, arms: Collection[str]) -> str:
    """Why this would spoil nothing in a run of these arms; "" where it does."""
    chosen = [arm for arm in scenario.arms if arm.name in arms]
    if name.startswith("fixes-") and not any(arm.is_fix for arm in chosen):
        return "it has no fix"
    if name == "close-later" and not (scenario.ends is Ends.IDLE and any(arm.aim in BY_TIME for arm in chosen)):
        return "nothing aims by the time of an idle close"
    if scenario.on == "loopback" and name in OF_THE_WIRE:
        return "it has no wire"
    return ""


def hogs(name: str) -> int:
    """How many processes compute for nothing beside the run."""
    return os.cpu_count() or 1 if name == "cpu-hogged" else 0


def throttle_s(name: str) -> float:
    """How long each send of the client is held up, in seconds; 0 unless that is this sabotage."""
    return THROTTLE_S if name == "generator-throttled" else 0.0


def idle_timeout(name: str, keep_alive_s: float, *, calibrating: bool = False) -> str:
    """What the side that is to close idle connections is told."""
    if name == "upstream-ignores-timeout":
        return "off"
    behind_its_back = "" if calibrating else keep_alive_of_lanes(name, keep_alive_s)
    return behind_its_back or f"{keep_alive_s * 1000:g}ms"


def keep_alive_of_lanes(name: str, keep_alive_s: float) -> str:
    """The idle timeout of the upstream that serves the arms, where it differs from the calibrated one; "" elsewhere."""
    if name == "fin-past-the-run":
        return "off"
    return f"{(keep_alive_s + CLOSE_LATER_S) * 1000:g}ms" if name == "close-later" else ""


def withholds_close(name: str) -> bool:
    """Whether an upstream that should end, die or recycle a worker, is never told, behind the run's back."""
    return name in ("upstream-ignores-timeout", "fin-past-the-run")


def forget_s(name: str, lane: LanePlan) -> float:
    """After how long a silence this lane's wire forgets a connection. Where nothing is to end one, it never does."""
    return 0.0 if withholds_close(name) else lane.forget_ms / 1000


def instead_of_proxy(name: str, lane: LanePlan) -> tuple[str, ...]:
    """The module and flags of what stands in for this lane's proxy; empty for the proxy itself."""
    if name == "proxy-always-answers" or (name == "fixes-answer-themselves" and _is_fix(lane)):
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
