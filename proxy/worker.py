"""A worker: one process that serves, as its master tells it (`workers.py`).

Rules of this file:

- Of its two sockets to the master one is for calls, answered in their order; on the other listening sockets come.
- It beats (`channel.py`) until it ends: a drain takes its time, and is no silence.
- It ends when its master tells it to, and when its master has gone; both times it drains. SIGTERM from anybody else it
  passes on: its master sees to it that somebody else still listens then. SIGINT, SIGHUP and SIGUSR1, which a terminal
  or a service manager may send to everybody, are the master's business.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from typing import Final

from proxy.channel import LAST_WORDS, TOLD_TO_STOP, beat, receive, send
from proxy.config import ProxyConfig
from proxy.discovery import SourceError
from proxy.observation import worker_snapshot
from proxy.observe.metrics import WorkerSnapshot
from proxy.server import Prepared, Server, Sockets, close_all
from proxy.tls import TlsError

REFUSALS: Final = (OSError, TlsError, SourceError)  # what keeps it from a start or a change; its master hears of it


async def work(descriptors: str, settled: Callable[[], None]) -> None:
    """Serves until it is told to stop, or until its master has gone. `descriptors`: as `Worker.start` gives them."""
    calls, listeners, *listening = (socket.socket(fileno=int(number)) for number in descriptors.split(","))
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        loop.add_signal_handler(number, lambda: None)
    reader, writer = await asyncio.open_unix_connection(sock=calls, limit=1 << 20)
    part = Part(listeners, listening, stop)
    beating = loop.create_task(beat(writer))
    obeying = loop.create_task(part.obey(reader, writer, settled))
    obeying.add_done_callback(lambda _: stop.set())

    def told_to_stop() -> None:
        if not obeying.done():
            send(writer, (TOLD_TO_STOP, None, None))
        elif part.server is not None:  # it drains, and there is no master to tell
            part.server.hurry()

    loop.add_signal_handler(signal.SIGTERM, told_to_stop)
    await stop.wait()
    if part.server is not None:
        send(writer, (LAST_WORDS, await part.server.drain(), None))
    beating.cancel()
    obeying.cancel()
    writer.close()


class Part:
    """What a worker does when it is called."""

    def __init__(self, listeners_come_by: socket.socket, listening: Sockets, stop: asyncio.Event) -> None:
        self.server: Server | None = None
        self._listeners_come_by = listeners_come_by
        self._listening = listening
        self._stop = stop
        self._prepared: Prepared | None = None

    async def obey(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, settled: Callable[[], None]
    ) -> None:
        """Until the master has gone."""
        while (message := await receive(reader)) is not None:
            number, verb, args = message
            try:
                answer = await getattr(self, f"on_{verb}")(*args)
                send(writer, (number, answer, None))
            except REFUSALS as problem:
                send(writer, (number, None, problem))
            if verb == "start":
                settled()

    async def on_start(self, number: int, config: ProxyConfig) -> None:
        self.server = Server(config, self._listening, number)
        await self.server.start()

    async def on_prepare(self, config: ProxyConfig, sockets: int) -> None:
        listening = None
        if sockets:
            _, descriptors, _, _ = socket.recv_fds(self._listeners_come_by, 1, sockets)
            listening = [socket.socket(fileno=number) for number in descriptors]
        assert self.server is not None
        self._prepared = self.server.prepare(config, listening)

    async def on_commit(self, reopen: bool) -> str:
        prepared, self._prepared = self._prepared, None
        assert self.server is not None
        assert prepared is not None
        await self.server.commit(prepared)
        return self.server.reopen_logs() if reopen else ""

    async def on_reopen(self) -> str:
        assert self.server is not None
        return self.server.reopen_logs()

    async def on_leave(self) -> None:
        assert self.server is not None
        self.server.leave()

    async def on_drain_old(self) -> None:
        assert self.server is not None
        self.server.drain_old()

    async def on_stop_listening(self) -> int:
        assert self.server is not None
        self.server.stop_listening()
        return self.server.clients.count

    async def on_stop(self) -> None:
        self._stop.set()

    async def on_hurry(self) -> None:
        assert self.server is not None
        self.server.hurry()

    async def on_abandon(self) -> None:
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            close_all(prepared.sockets or [])

    async def on_snapshot(self, with_pool: bool) -> WorkerSnapshot:
        assert self.server is not None
        return worker_snapshot(self.server, with_pool)
