"""The benchmark as a user runs it, in its short form."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from bench.peers.base import find

TREE = Path(__file__).resolve().parent.parent.parent
MISSING = [program for program in ("wrk", "nginx") if not find(program)]
needs_tools = pytest.mark.skipif(bool(MISSING), reason=f"not installed: apt-get install {' '.join(MISSING)}")


def bench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench.run", *arguments],
        cwd=TREE,
        env=environment or None,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def commands_with(text: str) -> list[str]:
    """The command lines of living processes that contain the text."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(process.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [command for command in found if text in command and "bench.run" not in command]


@needs_tools
@pytest.mark.parametrize(
    ("load", "turns"),
    [
        ("same", ["direct", "nginx", "kalab", "nginx", "kalab", "direct"]),
        ("varying", ["kalab", "kalab"]),
        ("upload", ["kalab", "kalab"]),
        ("download", ["kalab", "kalab"]),
    ],
)
def test_a_short_run_measures_in_turn_and_concludes_nothing(tmp_path: Path, load: str, turns: list[str]) -> None:
    done = bench("--short", "--load", load, "--only", *set(turns), "--out", str(tmp_path))

    result = json.loads((tmp_path / "rounds.json").read_text())
    assert [(r["contestant"], r["failed"], r["errors"]) for r in result["rounds"]] == [(name, "", {}) for name in turns]
    assert all(r["units"] > 50 for r in result["rounds"])
    assert all(r["user_s"] + r["system_s"] > 0 for r in result["rounds"] if r["contestant"] != "direct")
    assert "| **kalab**, `python -m proxy` |" in done.stdout
    assert "2 whole rounds, a measurement takes 5" in done.stdout
    assert (tmp_path / "tables.md").read_text().strip() in done.stdout
    assert (tmp_path / "cost.svg").read_text().startswith("<svg ")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)


@needs_tools
def test_a_short_run_of_the_calm_and_the_idle(tmp_path: Path) -> None:
    done = bench("--short", "--load", "calm", "idle", "--only", "direct", "nginx", "kalab", "--out", str(tmp_path))

    result = json.loads((tmp_path / "rounds.json").read_text())
    assert all(not r["failed"] and 100 < r["requests"] < 600 for r in result["rounds"])
    assert [(one["contestant"], one["clients"], one["failed"]) for one in result["idle"]] == [
        ("nginx", 200, ""),
        ("kalab", 200, ""),
    ]
    assert "added p99 ms" in done.stdout


@needs_tools
@pytest.mark.parametrize(("stop", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_in_the_middle_it_leaves_nothing_running(tmp_path: Path, stop: signal.Signals, status: int) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "bench.run", "--seconds", "1", "--load", "same", "--only", "direct", "nginx"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # whoever runs the tests in the background ignores it
    with subprocess.Popen(
        command, cwd=TREE, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=heard
    ) as running:
        assert running.stderr is not None
        assert "direct" in running.stderr.readline()
        assert commands_with(str(tmp_path))
        running.send_signal(stop)
        assert "Traceback" not in running.stderr.read()
    assert running.returncode == status
    # This run's own processes and folders carry the test's folder in their names.
    assert not commands_with(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_without_a_load_generator_it_says_how_to_get_one(tmp_path: Path) -> None:
    done = bench("--short", PATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (
        4,
        "error: wrk, which every measurement needs, is not installed: apt-get install wrk\n",
    )


@pytest.mark.parametrize("arguments", [("--rounds", "0"), ("--seconds", "soon"), ("--only", "squid")])
def test_bad_usage(arguments: tuple[str, ...]) -> None:
    done = bench(*arguments)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
