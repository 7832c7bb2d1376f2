"""The lab's side of a wire that runs as a process: starts it, asks it, and makes sure that it ends."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

import lab
from lab.wire import messages
from lab.wire.contract import BACKLOG, Address, Settled, UnsupportedError, WireError, WireStats
from lab.wire.namespaces import enter_network

READY_WITHIN_S = 20.0
STOP_WITHIN_S = 20.0
ANSWER_WITHIN_S = 20.0  # beyond the time that the question itself allows
LAST_WORDS = "wire.stderr.txt"
SOURCE_ROOT = str(Path(lab.__file__).parents[1])

T = TypeVar("T")


class ProcessWire:
    """A wire of make "relay" or "netns". Writes wire.jsonl, proxy-side.pcap and upstream-side.pcap to `run_dir`."""

    def __init__(self, make: str, run_dir: Path) -> None:
        self.make = make
        self.bind_host = ""
        self._run_dir = run_dir
        self._process: subprocess.Popen[bytes] | None = None
        self._upstream_network: int | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reader_task: asyncio.Task[None] | None = None
        self._asked: dict[int, asyncio.Future[messages.Answer]] = {}
        self._numbers = 0
        self._stats: WireStats | None = None

    def __repr__(self) -> str:
        pid = self._process.pid if self._process else None
        return f"<ProcessWire {self.make}, pid {pid}, {len(self._asked)} questions open>"

    async def start(self) -> None:
        if not self._run_dir.is_dir():
            raise WireError(f"the wire has nowhere to write: there is no folder {self._run_dir}")
        ours, theirs = socket.socketpair()
        with theirs, open(self._run_dir / LAST_WORDS, "wb") as stderr:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "lab.wire", self.make),
                    *("--control-fd", str(theirs.fileno()), "--dir", str(self._run_dir)),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env={**os.environ, "PYTHONPATH": _with_source_root()},
                process_group=0,  # a terminal's Ctrl-C must reach only the command, which then stops the wire
            )
        ours.settimeout(READY_WITHIN_S)
        try:
            line, fds, _, _ = await asyncio.to_thread(socket.recv_fds, ours, 1 << 16, 1)
            self.bind_host = msgspec.json.decode(line, type=messages.Ready).bind_host
        except (OSError, msgspec.DecodeError) as error:
            ours.close()
            raise await self._failed() from error
        self._upstream_network = fds[0] if fds else None
        reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        self._reader_task = asyncio.create_task(self._read_answers(reader))

    async def stop(self) -> WireStats:
        if self._stats is None and self._process is not None:
            try:
                self._stats = await self._ask(messages.Stop(self._next()), WireStats, STOP_WITHIN_S)
            finally:
                await self._end()
        if self._stats is None:
            raise WireError(f"the {self.make} wire is not running")
        return self._stats

    async def link(self, name: str, port: int, *, delay_s: float, gate: bool) -> Address:
        return await self._ask(messages.AddLink(self._next(), name, port, delay_s, gate), Address)

    async def gate(self, name: str, on: bool) -> None:
        await self._ask(messages.SetGate(self._next(), name, on), type(None))

    async def hold(self, name: str, limit_s: float) -> None:
        await self._ask(messages.SetHold(self._next(), name, limit_s), type(None))

    async def forget(self, name: str, after_s: float) -> None:
        await self._ask(messages.SetForget(self._next(), name, after_s), type(None))

    async def mark(self, name: str) -> None:
        await self._ask(messages.Mark(self._next(), name), type(None))

    async def settled(self, name: str, n: int, timeout_s: float) -> Settled:
        return await self._ask(messages.Settle(self._next(), name, n, timeout_s), Settled, timeout_s)

    async def release(self, name: str) -> int:
        return await self._ask(messages.Release(self._next(), name), int)

    async def drained(self, name: str, timeout_s: float) -> bool:
        return await self._ask(messages.Drain(self._next(), name, timeout_s), bool, timeout_s)

    async def quiet(self, name: str, timeout_s: float) -> bool:
        return await self._ask(messages.Quieten(self._next(), name, timeout_s), bool, timeout_s)

    def listen(self) -> socket.socket:
        return self._there(lambda: socket.create_server((self.bind_host, 0), backlog=BACKLOG))

    def tell_kernel(self, setting: str, value: str) -> None:
        if self._upstream_network is None:
            raise UnsupportedError(f"the {self.make} wire cannot set {setting}: that is this machine's own kernel")
        self._there(lambda: Path("/proc/sys", *setting.split(".")).write_text(value))

    def _there(self, act: Callable[[], T]) -> T:
        """Does something in the upstream's network."""
        network = self._upstream_network
        if network is None:
            return act()
        with ThreadPoolExecutor(1) as aside:  # a thread changes its own network only, and this one then ends
            aside.submit(enter_network, network).result()
            return aside.submit(act).result()

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        network = self._upstream_network
        if network is None:
            return subprocess.Popen(argv, **options)
        given: Callable[[], object] | None = options.pop("preexec_fn", None)

        def enter() -> None:
            enter_network(network)
            if given is not None:
                given()

        return subprocess.Popen(argv, preexec_fn=enter, **options)

    def _next(self) -> int:
        self._numbers += 1
        return self._numbers

    async def _ask(self, question: messages.Question, answer_type: type[T], within_s: float = 0.0) -> T:
        if self._writer is None or self._reader_task is None or self._reader_task.done():
            raise await self._failed()
        answered: asyncio.Future[messages.Answer] = asyncio.get_running_loop().create_future()
        self._asked[question.id] = answered
        try:
            self._writer.write(messages.write_line(question))
            answer = await asyncio.wait_for(answered, within_s + ANSWER_WITHIN_S)
        except TimeoutError:
            raise WireError(f"the {self.make} wire did not answer; is this machine overloaded?") from None
        except ConnectionError as error:
            raise await self._failed() from error
        finally:
            del self._asked[question.id]
        if answer.error:
            raise UnsupportedError(answer.error)
        return msgspec.json.decode(answer.result, type=answer_type)

    async def _read_answers(self, reader: asyncio.StreamReader) -> None:
        """Until the wire closes its end; whoever still waits then learns that it did."""
        try:
            while line := await reader.readline():
                answer = messages.read_answer(line)
                asked = self._asked.get(answer.id)
                if asked is not None and not asked.done():
                    asked.set_result(answer)
        finally:
            for asked in self._asked.values():
                if not asked.done():
                    asked.set_exception(ConnectionResetError("the wire ended"))

    async def _failed(self) -> WireError:
        """Ends the process, and says what it said last."""
        if self._process is None:
            return WireError(f"the {self.make} wire has not been started")
        await self._end()
        lines = (self._run_dir / LAST_WORDS).read_text(errors="replace").strip().splitlines()
        return WireError(lines[-1] if lines else f"the {self.make} wire ended with {self._process.returncode}")

    async def _end(self) -> None:
        if self._writer is not None:
            self._writer.close()  # the wire ends when it sees this
        process = self._process
        assert process is not None
        try:
            await asyncio.to_thread(process.wait, STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)
        if self._reader_task is not None:
            await asyncio.gather(self._reader_task, return_exceptions=True)
        if self._upstream_network is not None:
            os.close(self._upstream_network)
            self._upstream_network = None


def _with_source_root() -> str:
    """PYTHONPATH with our own folder in it: the lab may have been started from anywhere."""
    return os.pathsep.join(filter(None, (SOURCE_ROOT, os.environ.get("PYTHONPATH"))))
