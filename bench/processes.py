"""The processes of a benchmark: started on chosen cores, stopped by pid, and what they have cost so far.

Rules of this file:

- Each server leads a session of its own. Its cost is that of every process of the session, so a master and its
  workers count together, and what it forks meanwhile counts too.
- Cost is read from the kernel (proc(5)), never from the server's own word.
- A server that is not ready in time, or died, is an error that carries the last line it wrote.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

READY_WITHIN_S = 15.0
STOP_WITHIN_S = 5.0
POLL_S = 0.02
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class StartError(Exception):
    """A server did not come up; the message says why."""


class Usage(NamedTuple):
    """CPU time in seconds: spent in user mode, in the kernel, and spent runnable but waiting for a core."""

    user_s: float
    system_s: float
    waiting_s: float

    def __sub__(self, before: Usage) -> Usage:
        return Usage(*(now - then for now, then in zip(self, before, strict=True)))


NOTHING = Usage(0.0, 0.0, 0.0)


def usage_of_session(session: int) -> Usage:
    """What the living processes of a session, and the children that they have reaped, have used since they began."""
    user = system = waiting = 0.0
    for process in _of_session(session):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            tasks = [task.read_text() for task in process.glob("task/*/schedstat")]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        user += (int(fields[11]) + int(fields[13])) / TICKS_PER_S
        system += (int(fields[12]) + int(fields[14])) / TICKS_PER_S
        waiting += sum(int(task.split()[1]) for task in tasks) / 1e9
    return Usage(user, system, waiting)


def resident_bytes_of_session(session: int) -> int:
    """The resident memory of the living processes of a session; what they share is counted in each (proc(5), statm)."""
    total = 0
    for process in _of_session(session):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total += int((process / "statm").read_text().split()[1])
    return total * os.sysconf("SC_PAGE_SIZE")


def _of_session(session: int) -> Iterator[Path]:
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if int((process / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                    yield process


class Machine(NamedTuple):
    """CPU time in seconds since boot, summed over all cores: `used` by whoever, `stolen` by the hypervisor."""

    used_s: float
    stolen_s: float


def machine_usage() -> Machine:
    """What the whole machine has used since boot."""
    user, nice, system, _, _, irq, soft, stolen, *_ = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return Machine(sum(map(int, (user, nice, system, irq, soft))) / TICKS_PER_S, int(stolen) / TICKS_PER_S)


@contextlib.contextmanager
def on_cores(cores: frozenset[int]) -> Iterator[None]:
    """What is started inside inherits these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def descriptors(wanted: int = 1 << 16) -> int:
    """Raises the limit of open descriptors of this process, and so of what it starts, towards `wanted`; what it is now.

    Beyond the hard limit only root gets.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        wanted = min(wanted, hard) if hard != resource.RLIM_INFINITY else wanted
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    except (OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    return wanted


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listened on a moment ago, for servers that cannot choose one themselves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A server process on 127.0.0.1. Without a port it must announce one, in a line: `listening on 127.0.0.1:PORT`."""

    def __init__(
        self, name: str, argv: Sequence[str], *, room: Path, cwd: Path, cores: frozenset[int], port: int = 0
    ) -> None:
        self.name = name
        self.port = port
        self._out = room / f"{name}.out"
        with on_cores(cores), self._out.open("wb") as out:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=cwd, start_new_session=True
            )

    def __repr__(self) -> str:
        return f"<Server {self.name} on port {self.port}, pid {self._process.pid}>"

    def __enter__(self) -> Server:
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def usage(self) -> Usage:
        """What all its processes have used since it began."""
        return usage_of_session(self._process.pid)

    def resident_bytes(self) -> int:
        """The resident memory of all its processes."""
        return resident_bytes_of_session(self._process.pid)

    def stop(self) -> None:
        """Asks it to end, then ends it with all that it started. Idempotent."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_WITHIN_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._is_ready():
            if self._process.poll() is not None:
                raise StartError(f"{self.name} did not start: {self._last_line()}")
            if time.monotonic() > deadline:
                raise StartError(f"{self.name} was not ready within {READY_WITHIN_S:g} s: {self._last_line()}")
            time.sleep(POLL_S)

    def _is_ready(self) -> bool:
        if not self.port:
            announced = re.search(r"listening on 127\.0\.0\.1:(\d+)\b.*\n", self._out.read_text(errors="replace"))
            if announced is None:
                return False
            self.port = int(announced[1])
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1.0).close()
        except OSError:
            return False
        return True

    def _last_line(self) -> str:
        lines = self._out.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it wrote nothing"
