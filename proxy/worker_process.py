"""One worker process as its master sees it: started, called, waited for, ended.

Rules of this file:

- A worker is this program, started anew (`--worker`). It inherits its sockets and is told the config, so that all have
  the same whatever has become of the file meanwhile.
- It is signalled and waited for by a pidfd: a number that cannot become another process's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from time import monotonic
from typing import Final

from proxy.admin.api import Unavailable
from proxy.channel import Channel, Gone
from proxy.config import ProxyConfig
from proxy.observe.metrics import WorkerSnapshot
from proxy.server import Sockets

START_S: Final = 30.0  # how long it may take until it serves


class Worker:
    """One process, from `start` to its end; the next in its place is another object with the same number."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.born = monotonic()
        self.leaves = False  # it has been told to stop
        self.last: WorkerSnapshot | None = None
        self.process: subprocess.Popen[bytes]
        self.channel: Channel
        self._handle: int  # a pidfd
        self._listeners_go_by: socket.socket

    def __repr__(self) -> str:
        return f"<Worker {self.number}, pid {self.process.pid}>"

    async def start(self, config: ProxyConfig, listening: Sockets) -> None:
        """Until it serves. Raises what kept it from that."""
        calls, its_calls = socket.socketpair()
        self._listeners_go_by, its_listeners = socket.socketpair()
        theirs = [its_calls, its_listeners, *listening]
        same = ["-P"] if sys.flags.safe_path else []  # the very package that this is
        command = [sys.executable, *same, "-m", "proxy", "--worker", ",".join(str(sock.fileno()) for sock in theirs)]
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
        """Has it do what can fail of a change. Raises what keeps it from that, or Unavailable."""
        if listening:
            try:
                socket.send_fds(self._listeners_go_by, [b"."], [sock.fileno() for sock in listening])
            except OSError:
                raise Gone from None
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

    async def stop(self) -> None:
        """Has it finish what it has begun, and end."""
        self.leaves = True
        with contextlib.suppress(Unavailable):
            await self.channel.call("stop")

    def kill(self) -> None:
        with contextlib.suppress(OSError):  # it has gone
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def close(self) -> None:
        """It has ended."""
        self.channel.close()
        self._listeners_go_by.close()
        os.close(self._handle)
