"""The processes of a fault test: the proxy as its users start it, and upstreams behind it; all on 127.0.0.1."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[3]
READY_WITHIN_S = 30.0
ENDED_WITHIN_S = 30.0

Address = tuple[str, int]


class Size(NamedTuple):
    """How much of everything. `full` is what docs/armour.md promises."""

    full: bool

    def of(self, short: int, full: int) -> int:
        return full if self.full else short


class Process:
    """One started process that says `listening on HOST:PORT`."""

    def __init__(self, argv: list[str], folder: Path, name: str, *, wrapper: tuple[str, ...] = ()) -> None:
        self.stderr = folder / f"{name}.txt"
        with self.stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                [*wrapper, *argv], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr
            )
        self.pid = self._process.pid
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        found = re.fullmatch(r"listening on (\S+):(\d+)\n", line)
        if found is None:
            self._process.wait(READY_WITHIN_S)
            raise AssertionError(f"{name}: {line!r}, {self.stderr.read_text()}")
        self.address: Address = found[1], int(found[2])

    def __repr__(self) -> str:
        return f"<Process {self.pid} at {self.address[0]}:{self.address[1]}>"

    @property
    def at(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Its exit code."""
        return self._process.wait(ENDED_WITHIN_S)

    def stop(self) -> int:
        if self._process.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                self._process.kill()
        code = self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        return code

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def rss_bytes(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Fleet:
    """What one test has started; all of it ends with the test."""

    python = (sys.executable,)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[Process] = []

    def proxy(self, upstreams: list[Process], *flags: str, wrapper: tuple[str, ...] = (), log: bool = True) -> Process:
        """`python -m proxy` in front of these; its access log goes to access.jsonl."""
        access = str(self.folder / "access.jsonl") if log else "off"
        argv = [sys.executable, "-m", "proxy", "--listen", "127.0.0.1:0", "--admin.listen", "off"]
        argv += ["--upstreams", ",".join(upstream.at for upstream in upstreams), "--log.access", access, *flags]
        return self.start(argv, f"proxy{len(self._started)}", wrapper=wrapper)

    def upstream(self, *flags: str, listen: str = "127.0.0.1:0") -> Process:
        """A lab upstream that writes its events."""
        number = len(self._started)
        argv = [sys.executable, "-m", "upstreams.lab", "--listen", listen, "--keep-alive", "60s"]
        argv += ["--events", str(self.folder / f"upstream{number}.jsonl"), *flags]
        return self.start(argv, f"upstream{number}")

    def start(self, argv: list[str], name: str, *, wrapper: tuple[str, ...] = ()) -> Process:
        started = Process(argv, self.folder, name, wrapper=wrapper)
        self._started.append(started)
        return started

    def access(self) -> list[dict[str, Any]]:
        """The lines of the access log so far."""
        lines = (self.folder / "access.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def events(self) -> Iterator[dict[str, Any]]:
        """Of all upstreams; one that was killed may have left half a line."""
        for file in sorted(self.folder.glob("upstream*.jsonl")):
            for line in file.read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    yield json.loads(line)

    def stop(self) -> None:
        for process in reversed(self._started):
            process.stop()


def until(holds: Callable[[], bool], within_s: float, what: str) -> float:
    """Waits for something observable; how long it took, in seconds."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > within_s:
            raise AssertionError(f"{what}: not within {within_s:g} s")
        time.sleep(0.02)
    return time.monotonic() - began
