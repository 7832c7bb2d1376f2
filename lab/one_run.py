"""One run of a series, in a process of its own: a run must not inherit what another has left."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from threading import Timer
from time import monotonic
from typing import NamedTuple

import msgspec

from lab import interrupts
from lab.errors import CannotRunError, UsageError
from lab.processes import end_with_us
from lab.result import RunResult

Say = Callable[[str], None]


class Ended(NamedTuple):
    """What became of it. Without a result, `code` is 3 or 4 and `why_not` is in the words of the run."""

    code: int
    took_s: float
    folder: str = ""
    """Below the folder of runs; "" if there is no result."""
    result: RunResult | None = None
    why_not: str = ""


def run_one(scenario: str, flags: Sequence[str], runs: Path, say: Say, within_s: float | None = None) -> Ended:
    """Runs it as if it were typed, and says what it says. It is ended after `within_s`, if it takes so long."""
    argv = [sys.executable, "-P", "-m", "lab", "run", scenario, *flags, "--runs", str(runs), "--json"]
    began, said = monotonic(), ""
    with TemporaryFile("w+") as out:
        # A process group of its own: Ctrl-C reaches this command only, which passes it on.
        with subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
            preexec_fn=end_with_us(signal.SIGTERM),
        ) as process:
            assert process.stderr is not None
            too_long = Timer(within_s, process.terminate) if within_s else None
            if too_long:
                too_long.daemon = True
                too_long.start()
            try:
                for line in process.stderr:
                    said = line.strip() or said
                    say(said)
            except KeyboardInterrupt:
                before = interrupts.ignore()
                process.terminate()  # it stops what it has started, also where Ctrl-C is ignored
                process.wait()
                interrupts.restore(before)
                raise
            finally:
                if too_long:
                    too_long.cancel()
        out.seek(0)
        stdout = out.read()
    return _ended(process.returncode, monotonic() - began, stdout, said, runs / scenario / "latest", runs)


def _ended(code: int, took_s: float, stdout: str, said: str, latest: Path, runs: Path) -> Ended:
    try:
        result = msgspec.json.decode(stdout, type=RunResult)
    except msgspec.MsgspecError:
        why_not = (
            said.removeprefix("error: ") if said.startswith("error: ") else f"it ended with exit code {code}: {said}"
        )
        return Ended(code if code == UsageError.exit_code else CannotRunError.exit_code, took_s, why_not=why_not)
    return Ended(code, took_s, str(latest.resolve().relative_to(runs.resolve())), result)
