"""The load: wrk, closed loop, one thread, and what it says about a round.

It keeps every connection busy, so its latency is that of a saturated server: how long a request queues behind the
other connections. It compares contestants under the same pressure; it is not what a user would wait on a calm day.
"""

from __future__ import annotations

import json
import resource
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from bench.processes import on_cores

SCRIPT = Path(__file__).parent / "wrk.lua"
GRACE_S = 15.0
WARM_UP_NUMBER = 1_000_000_000


class LoadError(Exception):
    """The load generator itself failed; the message says how."""


class Load(NamedTuple):
    """What is asked of a contestant. `heads`: "same" or "varying"."""

    heads: str
    connections: int
    seconds: int


class Answered(NamedTuple):
    """What came of it. Latencies in milliseconds; `errors` by kind, only those that occurred; `cpu_s` is wrk's own."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: dict[str, int]
    cpu_s: float


def drive(wrk: str, url: str, load: Load, cores: frozenset[int], *, warm_up: bool = False) -> Answered:
    """One run of wrk against `url`; it ends by itself, or is ended."""
    first = WARM_UP_NUMBER if warm_up else 0
    command = [wrk, "--threads", "1", "--connections", str(load.connections), "--duration", f"{load.seconds}s"]
    command += ["--timeout", "5s", "--script", str(SCRIPT), url, "--", load.heads, str(first)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        with on_cores(cores):
            done = subprocess.run(command, capture_output=True, text=True, timeout=load.seconds + GRACE_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"wrk had not ended {GRACE_S:g} s after its time") from error
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise LoadError(f"wrk ended with status {done.returncode}: {done.stderr.strip()}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return read_answer(done.stdout, cpu_s)


def read_answer(output: str, cpu_s: float) -> Answered:
    """The last line of wrk's output, written by our script."""
    try:
        result: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise LoadError("wrk printed no result") from error
    errors = {kind: count for kind, count in result["errors"].items() if count}
    return Answered(result["requests"], result["seconds"], result["p50_ms"], result["p99_ms"], errors, cpu_s)
