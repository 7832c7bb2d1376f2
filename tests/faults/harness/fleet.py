"""The processes of a fault test: the proxy as its users start it, and upstreams behind it; all on 127.0.0.1."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[3]
EXECUTIONS = "KALAB_EXECUTIONS"  # the file to which upstreams add each execution as it happens, see upstreams/apps
READY_WITHIN_S = 30.0
ENDED_WITHIN_S = 30.0

Address = tuple[str, int]


class Size(NamedTuple):
    """How much of everything. `full` is what docs/armour.md promises."""

    full: bool

    def of(self, short: int, full: int) -> int:
        return full if self.full else short


class Upstream(Protocol):
    """Where a proxy sends requests: a process of its own, or a `scripted.Scripted`."""

    @property
    def at(self) -> str:
        """host:port"""


class Process:
    """One started process that says `listening on HOST:PORT`, on standard output or standard error."""

    def __init__(self, argv: list[str], folder: Path, name: str, *, wrapper: tuple[str, ...] = ()) -> None:
        self.stderr = folder / f"{name}.txt"
        environment = {**os.environ, EXECUTIONS: str(folder / "executions.jsonl")}
        with self.stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                [*wrapper, *argv],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
            )
        self.pid = self._process.pid
        until(lambda: self._process.poll() is not None or self._said_where() is not None, READY_WITHIN_S, name)
        found = self._said_where()
        if found is None:
            raise AssertionError(f"{name}: {self.stderr.read_text()}")
        self.address: Address = found[1], int(found[2])

    def __repr__(self) -> str:
        return f"<Process {self.pid} at {self.address[0]}:{self.address[1]}>"

    @property
    def at(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"

    def _said_where(self) -> re.Match[str] | None:
        return re.search(r"^listening on (\S+):(\d+)\b.*\n", self.stderr.read_text(), re.MULTILINE)

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
        return self._process.wait()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def rss_bytes(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def children(self) -> list[int]:
        """Their process ids."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def says(self, *words: str) -> int:
        """How many lines with all these words it has written on standard error."""
        return sum(all(word in line for word in words) for line in self.stderr.read_text().splitlines())

    def until_says(self, *words: str, times: int = 1, within_s: float = 40.0) -> float:
        """Waits for so many lines; how long it took, in seconds."""
        return until(lambda: self.says(*words) >= times, within_s, f"{' '.join(words)}, {times} times")

    def counted(self, metric: str, label: str) -> Counter[str]:
        """A counter of a proxy that was started with `admin=True`, by one of its labels; without what is 0."""
        admin = re.search(r"^listening on .*, admin on (\S+)$", self.stderr.read_text(), re.MULTILINE)
        assert admin is not None
        with urllib.request.urlopen(f"http://{admin[1]}/metrics", timeout=READY_WITHIN_S) as answer:
            page = answer.read().decode()
        samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
        counts = Counter[str]()
        for sample in samples:
            if sample.name == f"kalab_proxy_{metric}_total":
                counts[sample.labels[label]] += int(sample.value)
        assert counts, f"no {metric} with {label}"
        return +counts

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Fleet:
    """What one test has started; all of it ends with the test."""

    python = (sys.executable,)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[Process] = []

    def proxy(
        self,
        upstreams: Sequence[Upstream],
        *flags: str,
        listen: str = "127.0.0.1:0",
        program: tuple[str, ...] = ("-m", "proxy"),
        wrapper: tuple[str, ...] = (),
        log: bool = True,
        admin: bool = False,
    ) -> Process:
        """`python -m proxy` in front of these; its access log goes to access.jsonl."""
        access = str(self.folder / "access.jsonl") if log else "off"
        argv = [*self.python, *program, "--listen", listen, "--log.access", access]
        argv += ["--admin.listen", "127.0.0.1:0" if admin else "off"]
        if upstreams:
            argv += ["--upstreams", ",".join(upstream.at for upstream in upstreams)]
        return self.start([*argv, *flags], f"proxy{len(self._started)}", wrapper=wrapper)

    def upstream(self, *flags: str, listen: str = "127.0.0.1:0", wrapper: tuple[str, ...] = ()) -> Process:
        """A lab upstream; what it executes is told by `executions`."""
        argv = [*self.python, "-m", "upstreams.lab", "--listen", listen, "--keep-alive", "60s", *flags]
        return self.start(argv, f"upstream{len(self._started)}", wrapper=wrapper)

    def start(self, argv: list[str], name: str, *, wrapper: tuple[str, ...] = ()) -> Process:
        started = Process(argv, self.folder, name, wrapper=wrapper)
        self._started.append(started)
        return started

    def access(self) -> list[dict[str, Any]]:
        """The lines of the access log so far."""
        lines = (self.folder / "access.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def executions(self, method: str) -> Counter[str]:
        """How often upstreams have executed each request id, also those that were killed."""
        lines = map(json.loads, (self.folder / "executions.jsonl").read_text().splitlines())
        return Counter(line["req_id"] for line in lines if line["method"] == method)

    def executed_twice(self) -> list[str]:
        """POSTs: what is not idempotent and has been executed more than once."""
        return [req_id for req_id, times in self.executions("POST").items() if times > 1]

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
