"""The load: wrk, one thread, and what it says about a round.

Without a rate it keeps every connection busy (closed loop), and its latency is that of a saturated server: how long a
request queues behind the other connections. With a rate, every connection pauses between two requests for a random
time whose mean gives that rate, so that requests come one by one as on a calm day.
"""

from __future__ import annotations

import json
import resource
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from bench.peers.base import installed
from bench.processes import on_cores
from bench.workloads import Workload

SCRIPT = Path(__file__).parent / "wrk.lua"
GRACE_S = 15.0
WARM_UP_NUMBER = 1_000_000_000


class LoadError(Exception):
    """The load generator itself failed; the message says how."""


class Answered(NamedTuple):
    """What came of it. Latencies in milliseconds; `errors` by kind, only those that occurred; `cpu_s` is wrk's own;
    `received` counts bytes, also of answers that the end cut off."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: dict[str, int]
    cpu_s: float
    received: int


def drive(url: str, load: Workload, seconds: int, cores: frozenset[int], *, warm_up: bool = False) -> Answered:
    """One run of wrk against `url`; it ends by itself, or is ended."""
    first = WARM_UP_NUMBER if warm_up else 0
    pause_ms = 1000 * load.connections / load.rate if load.rate else 0
    command = [installed("wrk"), "--threads", "1", "--connections", str(load.connections), "--duration", f"{seconds}s"]
    command += ["--timeout", "10s", "--script", str(SCRIPT), url, "--", load.script, str(first), f"{pause_ms:g}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        with on_cores(cores):
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + GRACE_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"wrk had not ended {GRACE_S:g} s after its time") from error
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise LoadError(f"wrk ended with status {done.returncode}: {done.stderr.strip()}")
    return read_answer(done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def read_answer(output: str, cpu_s: float) -> Answered:
    """The last line of wrk's output, written by our script."""
    try:
        result: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise LoadError("wrk printed no result") from error
    errors = {kind: count for kind, count in result["errors"].items() if count}
    return Answered(
        result["requests"],
        result["seconds"],
        result["p50_ms"],
        result["p99_ms"],
        errors,
        cpu_s,
        result["received"],
    )
