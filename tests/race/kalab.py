"""Runs `kalab` as its user does: a process, its exit code, its output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

PASS, FAIL, INCONCLUSIVE, USAGE, CANNOT = 0, 1, 2, 3, 4

# A busy machine may spoil an experiment, and then kalab says so: "inconclusive" is an honest answer but none to the
# question, so the question is put again. "fail" and "pass" are answers and are never asked twice.
ATTEMPTS = 3


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        """What `--json` printed."""
        found: dict[str, Any] = json.loads(self.stdout)
        return found

    def arms(self) -> dict[str, dict[str, Any]]:
        """The arms of the result by "name.METHOD"."""
        return {f"{arm['arm']}.{arm['method']}": arm for arm in self.result["arms"]}


# A user namespace: the rights that an ordinary user can give themselves, and no others.
UNPRIVILEGED = ("unshare", "--user", "--map-root-user", "--net", "--")


def kalab(*words: str, rights: bool = True, env: Mapping[str, str] | None = None, timeout_s: float = 100) -> Ended:
    """Runs one command to its end. `rights`: False leaves it those of a user namespace only."""
    drop = () if rights else UNPRIVILEGED
    done = subprocess.run(
        [*drop, sys.executable, "-m", "lab", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def start(*words: str, ignores_interrupts: bool = False) -> subprocess.Popen[str]:
    """Starts one command in a session of its own, as a terminal does, and leaves it running.

    `ignores_interrupts`: as a shell without job control does it with `&`.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "lab", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_ignore_interrupts if ignores_interrupts else None,
    )


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def conclusive(*words: str, rights: bool = True, timeout_s: float = 100) -> Ended:
    """Runs a scenario with `--json` until its verdict is pass or fail; a last "inconclusive" is returned as it is."""
    for _ in range(ATTEMPTS - 1):
        ended = kalab(*words, "--json", rights=rights, timeout_s=timeout_s)
        if ended.code != INCONCLUSIVE:
            return ended
    return kalab(*words, "--json", rights=rights, timeout_s=timeout_s)
