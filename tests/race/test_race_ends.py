"""However a run ends: one line that says why, the exit code for it, and no process left."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kalab import CANNOT, ROOT, start

from lab.wire import best

pytestmark = [pytest.mark.race, pytest.mark.timeout(60)]

RUN = ("run", "idle-close", "--arm", "control", "--method", "POST", "--trials", "20", "--keep-alive", "1s")
INTERRUPTED = 130

Trouble = Callable[[int], None]


def session(leader: int) -> dict[int, str]:
    """The running processes of a session, with their command lines; zombies have none."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            pid, line = int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if line and os.getsid(pid) == leader:
                found[pid] = line
        except OSError:  # it ended meanwhile
            continue
    return found


def interrupt(leader: int) -> None:
    """Ctrl-C: the whole foreground group gets it."""
    os.killpg(leader, signal.SIGINT)


def interrupt_twice(leader: int) -> None:
    interrupt(leader)
    time.sleep(0.03)  # while it stops
    interrupt(leader)


def terminate(leader: int) -> None:
    """`kill`, or a service manager: only the command gets it."""
    os.kill(leader, signal.SIGTERM)


def kills(words: str) -> Trouble:
    def kill(leader: int) -> None:
        (pid,) = (pid for pid, line in session(leader).items() if words in line)
        os.kill(pid, signal.SIGKILL)

    return kill


@pytest.mark.parametrize(
    ("step", "trouble", "code", "says"),
    [
        pytest.param("building", interrupt, INTERRUPTED, "interrupted; everything", id="Ctrl-C while building"),
        pytest.param("block 1", interrupt, INTERRUPTED, "interrupted; everything", id="Ctrl-C in a block"),
        pytest.param("block 1", interrupt_twice, INTERRUPTED, "interrupted; everything", id="Ctrl-C twice"),
        pytest.param("block 1", terminate, INTERRUPTED, "interrupted; everything", id="terminated"),
        pytest.param("block 2", kills("-m proxy "), CANNOT, "proxy-control.POST ended with", id="proxy killed"),
        pytest.param("block 1", kills("lab.wire"), CANNOT, "the relay wire ended with", id="wire killed"),
    ],
)
def test_one_line_and_nothing_left(tmp_path: Path, step: str, trouble: Trouble, code: int, says: str) -> None:
    with start(*RUN, "--blocks", "2", "--runs", str(tmp_path)) as run:
        assert run.stderr is not None
        assert any(line.startswith(step) for line in run.stderr)
        trouble(run.pid)
        said = run.stderr.read().splitlines()
        run.wait()
    errors = [line for line in said if not line.startswith(("block", "building", "starting"))]
    assert len(errors) == 1, errors
    assert errors[0].startswith(f"error: {says}")
    assert run.returncode == code
    assert session(run.pid) == {}


@pytest.mark.parametrize("words", [RUN, ("run", "--all", "--short", "--method", "POST")], ids=["one", "all"])
def test_what_ignores_ctrl_c_is_still_ended_by_a_kill(tmp_path: Path, words: tuple[str, ...]) -> None:
    """A script's `&` starts it so. Ctrl-C is not meant for it then, and what is stopped is stopped whole."""
    with start(*words, "--runs", str(tmp_path), ignores_interrupts=True) as run:
        assert run.stderr is not None
        assert any("block 1" in line for line in run.stderr)
        interrupt(run.pid)
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(timeout=0.5)
        terminate(run.pid)
        time.sleep(0.03)  # while it stops
        terminate(run.pid)
        said = run.stderr.read().splitlines()
        run.wait()
    assert said[-1] == "error: interrupted; everything that was started is stopped"
    assert run.returncode == INTERRUPTED
    assert session(run.pid) == {}


@pytest.mark.parametrize(
    "words",
    [
        *(pytest.param((*RUN, "--wire", wire), id=wire) for wire in sorted({"relay", best()})),
        pytest.param((*RUN, "--upstream", "gunicorn"), id="a server with a worker"),
        pytest.param(("run", "--all", "--short"), id="all"),
    ],
)
def test_kill_9_leaves_nothing_running(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Nobody is left who could stop the wire, the upstream and the proxies: the kernel and a closed pipe do."""
    with start(*words, "--runs", str(tmp_path)) as run:
        assert run.stderr is not None
        assert any("block 1" in line for line in run.stderr)
        assert len(session(run.pid)) >= 4  # the command, the wire, the upstream, a proxy
        run.kill()
    deadline = time.monotonic() + 15
    while session(run.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert session(run.pid) == {}


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """A mount of 300 kB in a namespace of its own; the evidence of a run is larger."""
    kalab = shlex.join([sys.executable, "-m", "lab", *RUN, "--trials", "100", "--blocks", "1", "--runs", str(tmp_path)])
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    script = f"mount -t tmpfs -o size=300k tmpfs {shlex.quote(str(tmp_path))} || exit 99; exec {kalab}"
    done = subprocess.run([*words, script], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 99 or "unshare:" in done.stderr:  # this machine forbids such namespaces
        return
    assert done.returncode == CANNOT, done.stderr
    assert done.stderr.splitlines()[-1] == f"error: no space left in {tmp_path}; choose another folder with --runs"
    assert "Traceback" not in done.stderr
