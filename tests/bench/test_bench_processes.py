"""What the benchmark starts, measures and stops, with real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.processes import TICKS_PER_S, Server, StartError, Usage, on_cores

CORES = frozenset(os.sched_getaffinity(0))
LISTEN = """
import socket, subprocess, sys
listener = socket.create_server(("127.0.0.1", 0))
child = subprocess.Popen([sys.executable, "-c", {child!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, file=sys.stderr, flush=True)
print("listening on 127.0.0.1:%d" % listener.getsockname()[1], flush=True)
while True:
    listener.accept()[0].close()
"""
BURN_THEN_STAY = """
import time
while time.process_time() < 0.3: pass
print("burnt", flush=True)
time.sleep(600)
"""


def server(room: Path, program: str, port: int = 0) -> Server:
    return Server("stub", [sys.executable, "-c", program], room=room, cwd=room, cores=CORES, port=port)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_usage_counts_children_and_stop_ends_them(tmp_path: Path) -> None:
    with server(tmp_path, LISTEN.format(child=BURN_THEN_STAY)) as running:
        child = int((tmp_path / "stub.out").read_text().split()[0])
        used = running.usage()
        # The kernel rounds user and system time of each process down to whole ticks (proc(5)).
        assert used.user_s + used.system_s > 0.3 - 4 / TICKS_PER_S
        assert used.waiting_s >= 0.0
        assert alive(child)
    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(child)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import sys; sys.exit('error: port in use')", "stub did not start: error: port in use"),
        ("raise SystemExit(3)", "stub did not start: it wrote nothing"),
    ],
)
def test_a_server_that_dies_says_why(tmp_path: Path, program: str, message: str) -> None:
    with pytest.raises(StartError) as error, server(tmp_path, program):
        pass
    assert str(error.value) == message


def test_usage_subtracts() -> None:
    assert Usage(3.0, 2.0, 1.0) - Usage(1.0, 0.5, 0.25) == Usage(2.0, 1.5, 0.75)


def test_cores_are_inherited_and_given_back() -> None:
    before = os.sched_getaffinity(0)
    one = frozenset({max(before)})
    with on_cores(one):
        program = "import os; print(*os.sched_getaffinity(0))"
        said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert {int(core) for core in said.split()} == one
    assert os.sched_getaffinity(0) == before
