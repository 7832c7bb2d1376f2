"""Child processes of a run: started by argv, awaited until they listen, stopped by pid.

Rules of this file:

- Readiness is something observed: a line that says so, or a port that accepts. Never a sleep.
- Whatever was started is stopped, also when the run fails: `Children` is an async context manager.
- A child is a process group of its own: a terminal's Ctrl-C reaches only the command, which then stops the children.
  Children that ended by themselves at that moment would look like ones that died.
- The kernel ends the children of a command that can no longer do it, because it was killed (`kill -9`, out of memory).
- A child's stderr goes to a file of the run folder; when it dies early, its last lines are in the error.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from signal import Signals
from time import monotonic

from lab.errors import CannotRunError

Popen = Callable[..., "subprocess.Popen[bytes]"]
Address = tuple[str, int]

READY_WITHIN_S = 30.0
STOP_WITHIN_S = 10.0
# What is measured yields to what measures: the client and the wire must be on time when many proxies want a core.
NICENESS = 10

PR_SET_PDEATHSIG = 1  # linux/prctl.h
_libc = ctypes.CDLL(None)


def end_with_us(number: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    """What a child calls between fork and exec, so that it gets this signal when this thread ends, however it ends."""
    ours = os.getpid()

    def ask() -> None:
        if sys.platform == "linux":
            _libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
            if os.getppid() != ours:  # it ended before it was asked
                os.kill(os.getpid(), number)

    return ask


class Child:
    """One started process."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.dismissed = False
        """It was told to end during the run, so that it did is no accident."""
        self._log = log

    def __repr__(self) -> str:
        return f"<Child {self.name}, pid {self.process.pid}, {self.process.poll()}>"

    def signal(self, number: Signals) -> None:
        self.process.send_signal(number)

    def dismiss(self, number: Signals) -> None:
        """Tells it to end, as part of the run."""
        self.dismissed = True
        self.signal(number)

    async def ended(self, within_s: float) -> None:
        """Waits until it has ended. Raises CannotRunError when it does not."""
        try:
            await asyncio.to_thread(self.process.wait, within_s)
        except subprocess.TimeoutExpired:
            raise CannotRunError(f"{self.name} was told to end, and did not within {within_s:.0f} s") from None

    async def listening(self) -> list[Address]:
        """Waits for the child's "listening on HOST:PORT" line. Raises CannotRunError when it ends instead."""
        line = await self._first_line()
        return [_address(word) for word in line.removeprefix("listening on ").split()]

    async def announced(self) -> Address:
        """Waits for that line among others that the child logs. Raises CannotRunError when it ends instead."""
        deadline = monotonic() + READY_WITHIN_S
        while monotonic() < deadline:
            found = re.search(r"^listening on (\S+).*\n", self._log.read_text(errors="replace"), re.MULTILINE)
            if found is not None:
                return _address(found[1])
            if self.process.poll() is not None:
                raise self.died()
            await asyncio.sleep(0.01)
        raise CannotRunError(f"{self.name} did not say that it listens within {READY_WITHIN_S:.0f} s")

    async def accepts(self, address: Address) -> None:
        """Waits until the child's port takes a connection. For servers that do not say when they are ready."""
        deadline = monotonic() + READY_WITHIN_S
        while monotonic() < deadline:
            if self.process.poll() is not None:
                raise self.died()
            try:
                _, writer = await asyncio.wait_for(asyncio.open_connection(*address), 1.0)
            except (OSError, TimeoutError):
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return
        raise CannotRunError(f"{self.name} took no connection within {READY_WITHIN_S:.0f} s{self._last_words()}")

    def died(self) -> CannotRunError:
        return CannotRunError(f"{self.name} ended with exit code {self.process.returncode}{self._last_words()}")

    async def _first_line(self) -> str:
        stdout = self.process.stdout
        assert stdout is not None
        try:
            raw = await asyncio.wait_for(asyncio.to_thread(stdout.readline), READY_WITHIN_S)
        except TimeoutError:
            raise CannotRunError(f"{self.name} did not say that it listens within {READY_WITHIN_S:.0f} s") from None
        line = raw.decode().strip()
        if not line.startswith("listening on "):
            await asyncio.to_thread(self.process.wait)
            raise self.died()
        return line

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""


class Children:
    """The processes of one run."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: list[Child] = []

    async def __aenter__(self) -> Children:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        popen: Popen = subprocess.Popen,
        env: Mapping[str, str] | None = None,
        says_ready: bool = True,
        inherited: Sequence[int] = (),
        niceness: int = NICENESS,
    ) -> Child:
        """Starts `argv`, with the descriptors `inherited`.

        `says_ready`: its stdout is a pipe that tells when it listens; otherwise stdout is logged.
        """
        log = self._logs / f"{name}.txt"
        with log.open("wb") as stderr:
            process = popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if says_ready else stderr,
                stderr=stderr,
                env={**os.environ, **(env or {})},
                process_group=0,
                pass_fds=inherited,
                preexec_fn=end_with_us(),
            )
        os.setpriority(os.PRIO_PROCESS, process.pid, niceness)
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def raise_if_any_died(self) -> None:
        """A child that ended during the run makes the run worthless."""
        for child in self._children:
            if child.process.poll() is not None and not child.dismissed:
                raise child.died()

    async def raise_if_any_dies(self, within_s: float = 1.0) -> None:
        """The same, giving a child that is about to be gone (its port is already) the time to be counted as ended."""
        deadline = monotonic() + within_s
        while monotonic() < deadline:
            self.raise_if_any_died()
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Asks all to end, waits, and kills what does not. Idempotent."""
        children, self._children = self._children, []
        for child in children:
            if child.process.poll() is None:
                child.signal(signal.SIGCONT)
                child.signal(signal.SIGTERM)
        for child in children:
            try:
                await asyncio.to_thread(child.process.wait, STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                child.process.kill()
                await asyncio.to_thread(child.process.wait)
            if child.process.stdout is not None:
                child.process.stdout.close()


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host, int(port)
