"""Several processes that serve: a master that binds, starts workers (`worker.py`), and speaks for all of them.

Rules of this file:

- The master binds, the workers inherit: one listening socket for all, or with `listener.reuse_port` one for each. It
  stays open in the master, so that a worker that dies takes nobody along who was waiting for it to accept.
- With `reuse_port` the kernel deals every connection to one socket before any has accepted it. What waits at a socket
  when it is closed, at the end and after a change of `listen`, is reset; one that is shared has no such queue of its
  own. net.ipv4.tcp_migrate_req=1 (Linux 5.14) hands it on to the others.
- A worker is this program, started anew (`--worker`). It inherits its sockets and is told the config, so that all have
  the same whatever has become of the file meanwhile.
- All or none: every worker prepares a change before one commits it. One that dies meanwhile comes back with the config
  that is then in force.
- What ends a connection is done in steps that all workers take together. One that had already sent its clients away
  would send them to a socket that another is about to close.
- One that dies is replaced; at once if it had lived for a while, and ever more slowly if it had not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from math import inf
from time import monotonic
from typing import Any, Final

import msgspec

from proxy.admin.api import Unavailable
from proxy.config import ProxyConfig
from proxy.groups import USABLE, say
from proxy.observe.counters import Counters, added
from proxy.observe.metrics import WorkerSnapshot
from proxy.server import Sockets, close_all, open_sockets
from proxy.worker import REFUSALS, receive, send

ANSWER_S: Final = 4.0  # how long a worker may take for an answer; two of them are less than an admin page may take
COMMIT_S: Final = 10.0  # and to put a change in force, which may wait for endpoints
LATE_S: Final = 3.0  # how long after its time it may still be there, before it is killed
START_S: Final = 30.0  # and for its start
STEADY_S: Final = 10.0  # who lives as long has started well; the next to take its place starts at once
LONGEST_PAUSE_S: Final = 10.0  # between two starts of one that dies again and again
FIRST_PAUSE_S: Final = 0.1
COUNTED_EVERY_S: Final = 2.0  # how often counts are fetched, so that few are lost with one that dies


class Channel:
    """Calls to one process, and their answers; the other end is `worker.Part`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self._answers = asyncio.get_running_loop().create_task(self._read())

    async def call(self, verb: str, *args: object, within_s: float = ANSWER_S) -> Any:
        """What it answers. Raises what it raised, or Unavailable."""
        self._number += 1
        number = self._number
        answer = self._calls[number] = asyncio.get_running_loop().create_future()
        try:
            send(self._writer, (number, verb, args))
            async with asyncio.timeout(within_s):
                return await answer
        except TimeoutError:
            raise Unavailable(f"a worker has not answered within {within_s:g}s; ask again") from None
        finally:
            self._calls.pop(number, None)

    def close(self) -> None:
        self._answers.cancel()
        self._writer.close()
        self._lost()

    async def _read(self) -> None:
        while (message := await receive(self._reader)) is not None:
            number, answer, problem = message
            call = self._calls.get(number)
            if call is not None and not call.done():
                if problem is None:
                    call.set_result(answer)
                else:
                    call.set_exception(problem)
        self._lost()

    def _lost(self) -> None:
        for call in self._calls.values():
            if not call.done():
                call.set_exception(Unavailable("a worker has gone; ask again"))


class Worker:
    """One process, from `start` to its end; the next in its place is another object with the same number."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.born = monotonic()
        self.last: WorkerSnapshot | None = None
        self.process: subprocess.Popen[bytes]
        self.channel: Channel
        self._handle: int  # a pidfd: a number that cannot become another process's
        self._listeners_go_by: socket.socket

    def __repr__(self) -> str:
        return f"<Worker {self.number}, pid {self.process.pid}>"

    async def start(self, config: ProxyConfig, listening: Sockets) -> None:
        """Until it serves. Raises what kept it from that."""
        calls, its_calls = socket.socketpair()
        self._listeners_go_by, its_listeners = socket.socketpair()
        theirs = [its_calls, its_listeners, *listening]
        command = [sys.executable, "-m", "proxy", "--worker", ",".join(str(sock.fileno()) for sock in theirs)]
        try:
            self.process = subprocess.Popen(
                command,
                pass_fds=[sock.fileno() for sock in theirs],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
            )
            self._handle = os.pidfd_open(self.process.pid)
        finally:
            its_calls.close()
            its_listeners.close()
        self.channel = Channel(*await asyncio.open_unix_connection(sock=calls))
        try:
            await self.channel.call("start", self.number, config, within_s=START_S)
        except BaseException:
            self.kill()
            self.process.wait()
            self.close()
            raise

    async def prepare(self, config: ProxyConfig, listening: Sockets | None) -> None:
        if listening:
            socket.send_fds(self._listeners_go_by, [b"."], [sock.fileno() for sock in listening])
        await self.channel.call("prepare", config, len(listening or ()))

    async def snapshot(self, with_pool: bool) -> WorkerSnapshot:
        snapshot: WorkerSnapshot = await self.channel.call("snapshot", with_pool)
        self.last = snapshot
        return snapshot

    async def ended(self) -> int:
        """Its exit code, as subprocess has it: negative is a signal."""
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(self._handle, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(self._handle)
        return self.process.wait()

    def stop(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        """It has ended."""
        self.channel.close()
        self._listeners_go_by.close()
        os.close(self._handle)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, number)


class Master:
    """All workers (control.Fleet). `start`, any number of changes, `drain`; the first and the last once."""

    def __init__(self, config: ProxyConfig) -> None:
        self.config = config
        self.restarts = 0
        self.gone = Counters()
        self.workers: dict[int, Worker] = {}
        self._listening: list[Sockets] = []  # by worker; the same for all unless each has its own
        self._keeping: list[asyncio.Task[None]] = []
        self._draining = False
        self._hurrying: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()  # who starts meanwhile waits, for the config that is in force then

    def __repr__(self) -> str:
        return f"<Master of {len(self.workers)} workers, {self.restarts} restarts>"

    async def start(self) -> tuple[str, int]:
        """Until all serve; where. Raises OSError, TlsError, SourceError or Unavailable."""
        self._listening = self._bind(self.config)
        address = self._listening[0][0].getsockname()
        starting = [self._started(number) for number in range(self.config.workers)]
        results = await asyncio.gather(*starting, return_exceptions=True)
        for problem in results:
            if isinstance(problem, BaseException):
                for worker in self.workers.values():
                    worker.kill()
                raise problem
        loop = asyncio.get_running_loop()
        self._keeping = [loop.create_task(self._keep(number)) for number in list(self.workers)]
        self._keeping.append(loop.create_task(self._keep_counts()))
        return address[0], address[1]

    # ---- control.Fleet

    async def snapshots(self, with_pool: bool) -> list[WorkerSnapshot]:
        """Of one that does not answer, the last that is known: without it the counts would fall."""
        await asyncio.gather(*(worker.snapshot(with_pool) for worker in self.workers.values()), return_exceptions=True)
        return [worker.last for worker in self.workers.values() if worker.last is not None]

    async def change(self, config: ProxyConfig, *, elsewhere: bool, reopen: bool) -> None:
        async with self._changing:
            listening = self._bind(config) if elsewhere else None
            workers = list(self.workers.values())
            prepared = await asyncio.gather(
                *(worker.prepare(config, listening[worker.number] if listening else None) for worker in workers),
                return_exceptions=True,
            )
            problem = next((each for each in prepared if isinstance(each, BaseException)), None)
            if problem is not None:
                await self._tell_all("abandon")
                self._unbind(listening or [])
                raise problem
            await self._tell_all("commit", reopen, within_s=COMMIT_S)
            self.config = config
            if listening:
                self._unbind(self._listening)
                self._listening = listening
                await self._tell_all("leave")
                await self._tell_all("drain_old")

    def why_not_ready(self) -> str:
        if self._draining:
            return "draining"
        if not self.workers:
            return "no worker serves"
        seen = [worker.last for worker in self.workers.values() if worker.last is not None]
        for snapshot in seen:
            states = {upstream.state for upstream in snapshot.upstreams}
            if states and states.isdisjoint(USABLE):  # as in Groups: one group that has nobody leaves the others theirs
                return f"worker {snapshot.worker}: no group has a usable upstream"
        return ""

    # ---- the end

    async def drain(self) -> None:
        """Has all of them finish what has started. The sockets go first, so that nobody waits at one of ours."""
        self._draining = True
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        workers = list(self.workers.values())
        self._unbind(self._listening)
        await self._tell_all("stop_listening")
        ends = [asyncio.create_task(worker.ended()) for worker in workers]
        for worker in workers:
            worker.stop()
        late = asyncio.create_task(self._kill_who_stays(self.config.drain_grace))
        await asyncio.gather(*ends)
        late.cancel()
        if self._hurrying is not None:
            self._hurrying.cancel()
        for worker in workers:
            worker.close()

    def hurry(self) -> None:
        """Waits for nobody any more. It is a call: two SIGTERMs may become one on the way."""
        if self._hurrying is None:
            self._hurrying = asyncio.get_running_loop().create_task(self._hurry())

    def close_logs(self) -> None:
        """The workers have them."""

    async def _hurry(self) -> None:
        await self._tell_all("hurry")
        await self._kill_who_stays(0)

    async def _kill_who_stays(self, after_s: float) -> None:
        """One that hangs does not hear that it should end; nor does anybody else then who waits for all."""
        if after_s == inf:
            return
        await asyncio.sleep(after_s + LATE_S)
        for worker in self.workers.values():
            if worker.process.poll() is None:
                say(f"worker {worker.number} (pid {worker.process.pid}) does not end, and is killed")
                worker.kill()

    async def _tell_all(self, verb: str, *args: object, within_s: float = ANSWER_S) -> None:
        """One step of all of them; the next waits until the last has taken it. Who has died need not."""
        calls = (worker.channel.call(verb, *args, within_s=within_s) for worker in self.workers.values())
        await asyncio.gather(*calls, return_exceptions=True)

    # ---- keeping them

    def _bind(self, config: ProxyConfig) -> list[Sockets]:
        if not config.listener.reuse_port:
            return [open_sockets(config)] * config.workers
        first = open_sockets(config)
        host, port = first[0].getsockname()[:2]
        there = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        same = msgspec.structs.replace(config, listen=there)
        return [first, *(open_sockets(same) for _ in range(config.workers - 1))]

    def _unbind(self, listening: list[Sockets]) -> None:
        for opened in listening:
            close_all(opened)

    async def _started(self, number: int) -> None:
        worker = Worker(number)
        await worker.start(self.config, self._listening[number])
        self.workers[number] = worker

    async def _keep(self, number: int) -> None:
        """Sees to it that there is a worker of this number."""
        pause = 0.0
        while True:
            worker = self.workers[number]
            code = await worker.ended()
            del self.workers[number]
            worker.close()
            if worker.last is not None:
                self.gone = added(self.gone, worker.last.counters)
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            say(f"worker {number} (pid {worker.process.pid}) {how}; another takes its place")
            if monotonic() - worker.born > STEADY_S:
                pause = 0.0
            while number not in self.workers:
                await asyncio.sleep(pause)
                pause = min(LONGEST_PAUSE_S, pause * 2 or FIRST_PAUSE_S)
                try:
                    async with self._changing:
                        await self._started(number)
                    self.restarts += 1
                except (*REFUSALS, Unavailable) as problem:
                    say(f"worker {number} could not start: {problem}; again in {pause:g}s")

    async def _keep_counts(self) -> None:
        while True:
            await asyncio.sleep(COUNTED_EVERY_S)
            await self.snapshots(with_pool=False)
