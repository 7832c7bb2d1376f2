"""Several processes that serve: a master that binds, keeps workers (`worker_process.py`), and speaks for all of them.

Rules of this file:

- The master binds, the workers inherit: one listening socket for all, or with `listener.reuse_port` one for each. It
  stays open in the master, so that a worker that dies takes nobody along who was waiting for it to accept.
- With `reuse_port` the kernel deals every connection to one socket before any has accepted it. What waits at a socket
  when it is closed, at the end and after a change of `listen`, is reset; one that is shared has no such queue of its
  own. net.ipv4.tcp_migrate_req=1 (Linux 5.14) hands it on to the others.
- All or none: every worker prepares a change before one commits it. One that dies meanwhile comes back with the config
  that is then in force.
- What ends a connection is done in steps that all workers take together. One that had already sent its clients away
  would send them to a socket that another is about to close.
- One that dies is replaced; at once if it had lived for a while, and ever more slowly if it had not.
- One that others tell to stop (SIGTERM) is let go only while another listens: what waits would be reset with the socket
  if the master ended meanwhile.
- One that hangs is killed, and so replaced. How long it is silent is counted in looks of the master's, not in seconds:
  where everything has stood still, the master has not looked either.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable
from math import inf
from time import monotonic
from typing import Any, Final

import msgspec

from proxy import sockets
from proxy.admin.api import Unavailable
from proxy.channel import ANSWER_S, BEAT_S, Gone
from proxy.config import ProxyConfig
from proxy.control import Draining
from proxy.groups import USABLE, say
from proxy.observe.counters import Counters, added
from proxy.observe.metrics import WorkerSnapshot
from proxy.server import Sockets, close_all, open_sockets, say_drained, say_draining
from proxy.worker import REFUSALS
from proxy.worker_process import Worker

COMMIT_S: Final = 10.0  # how long a worker may take to put a change in force, which may wait for endpoints
LATE_S: Final = 3.0  # how long after its time it may still be there, before it is killed
MOST_SILENT: Final = 10  # looks, BEAT_S apart, at a worker of which nothing is heard; then it hangs
STEADY_S: Final = 10.0  # who lives as long has started well; the next to take its place starts at once
LONGEST_PAUSE_S: Final = 10.0  # between two starts of one that dies again and again
FIRST_PAUSE_S: Final = 0.1
COUNTED_EVERY_S: Final = 2.0  # how often counts are fetched, so that few are lost with one that dies


class Master:
    """All workers (control.Fleet). `start`, any number of changes, `drain`; the first and the last once."""

    def __init__(self, config: ProxyConfig) -> None:
        self.config = config
        self.restarts = 0
        self.gone = Counters()
        self.workers: dict[int, Worker] = {}
        self._listening: list[Sockets] = []  # by worker; the same for all unless each has its own
        self._keeping: list[asyncio.Task[None]] = []
        self._watching: asyncio.Task[None] | None = None
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
        self._watching = loop.create_task(self._watch())
        return address[0], address[1]

    # ---- control.Fleet

    async def snapshots(self, with_pool: bool) -> list[WorkerSnapshot]:
        """Of one that does not answer, the last that is known: without it the counts would fall."""
        await asyncio.gather(*(worker.snapshot(with_pool) for worker in self.workers.values()), return_exceptions=True)
        return [worker.last for worker in self.workers.values() if worker.last is not None]

    async def change(self, config: ProxyConfig, *, elsewhere: bool, reopen: bool) -> None:
        async with self._changing:
            if self._draining:
                raise Draining
            listening = self._bind(config) if elsewhere else None
            workers = list(self.workers.values())
            prepared = await asyncio.gather(
                *(worker.prepare(config, listening[worker.number] if listening else None) for worker in workers),
                return_exceptions=True,
            )
            problems = [each for each in prepared if isinstance(each, BaseException)]
            problem = next((each for each in problems if not isinstance(each, Gone)), None)
            if problem is None and len(problems) == len(workers):
                problem = Gone()  # nobody has said that it can be done
            if problem is not None:
                await self._tell_all("abandon")
                self._unbind(listening or [])
                raise problem
            for complaint in _different(await self._tell_all("commit", reopen, within_s=COMMIT_S)):
                say(complaint)
            self.config = config
            if self._draining:  # meanwhile
                self._unbind(listening or [])
            elif listening:
                self._unbind(self._listening)
                self._listening = listening
                await self._tell_all("leave")
                await self._tell_all("drain_old")

    def listening(self) -> list[sockets.Setting]:
        if self._draining:
            return []
        return [
            setting
            for opened in self._listening[:1]
            for setting in sockets.verify_listener(opened[0], self.config.listener)
        ]

    async def reopen_logs(self) -> str:
        return "; ".join(_different(await self._tell_all("reopen")))

    def why_not_ready(self) -> str:
        if self._draining:
            return "draining"
        known = [worker.last for worker in self.workers.values() if worker.last is not None]
        seen = [each for each in known if not each.draining]  # one that drains alone is about to be replaced
        if not self.workers or (known and not seen):
            return "no worker serves"
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
        connections = await self._tell_all("stop_listening")
        say_draining(sum(each for each in connections if isinstance(each, int)), self.config.drain_grace)
        ends = [asyncio.create_task(worker.ended()) for worker in workers]
        late = asyncio.create_task(self._kill_who_stays(self.config.drain_grace))
        await asyncio.gather(*(worker.stop() for worker in workers), *ends)
        for waiting in (late, self._hurrying, self._watching):
            if waiting is not None:
                waiting.cancel()
        cut_off = [await worker.channel.last_words() for worker in workers]
        say_drained(sum(filter(None, cut_off)), killed=cut_off.count(None))
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

    async def _tell_all(self, verb: str, *args: object, within_s: float = ANSWER_S) -> list[Any]:
        """One step of all of them; the next waits until the last has taken it. Who has died need not.

        Returns what they answer, or the exception in place of that.
        """
        calls = (worker.channel.call(verb, *args, within_s=within_s) for worker in self.workers.values())
        return await asyncio.gather(*calls, return_exceptions=True)

    # ---- keeping them

    def _bind(self, config: ProxyConfig) -> list[Sockets]:
        first = open_sockets(config)
        if not config.listener.reuse_port:
            return [first] * config.workers
        host, port = first[0].getsockname()[:2]
        there = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        same = msgspec.structs.replace(config, listen=there)
        opened = [first]
        try:
            opened += (open_sockets(same) for _ in range(config.workers - 1))
        except OSError:
            self._unbind(opened)
            raise
        return opened

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

    async def _watch(self) -> None:
        """Kills who hangs: nothing is heard of it, though its master listens. And lets go of who was told to stop."""
        while True:
            await asyncio.sleep(BEAT_S)
            for worker in list(self.workers.values()):
                if worker.channel.silence() >= MOST_SILENT and worker.process.poll() is None:
                    silence = f"has been silent for {MOST_SILENT * BEAT_S:g}s"
                    say(f"worker {worker.number} (pid {worker.process.pid}) {silence}: it hangs, and is killed")
                    worker.kill()
                elif worker.channel.told_to_stop and not worker.leaves and self._serve() > 1:
                    await worker.stop()

    def _serve(self) -> int:
        """How many have not been told to stop."""
        return sum(not worker.leaves for worker in self.workers.values())

    async def _keep_counts(self) -> None:
        while True:
            await asyncio.sleep(COUNTED_EVERY_S)
            await self.snapshots(with_pool=False)


def _different(answers: Iterable[Any]) -> list[str]:
    """What the workers complain of, each complaint once: all write to the same file. One that has gone has none."""
    complaints = (str(answer) for answer in answers if answer is not None and not isinstance(answer, Gone))
    return list(dict.fromkeys(filter(None, complaints)))
