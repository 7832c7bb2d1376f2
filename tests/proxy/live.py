"""Proxies as processes, upstreams and clients on the loop of the test, all over loopback. For what only shows so."""

from __future__ import annotations

import asyncio
import re
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE_S = 30

GET = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"


class LiveProxy:
    """A running `python -m proxy`, with what it says beside that it listens."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[str] = []  # lines on standard error
        self.host, self.port, self.admin_port = "127.0.0.1", 0, 0
        self.first_line = ""
        self._listening = asyncio.get_running_loop().create_task(self._listen_to_it())
        self._news = asyncio.Event()

    async def begun(self) -> None:
        saying = asyncio.get_running_loop().create_task(self.says("listening on "))
        await asyncio.wait({saying, self._listening}, return_when=asyncio.FIRST_COMPLETED)
        if not saying.done() and not any("listening on " in line for line in self.said):
            saying.cancel()
            raise AssertionError(f"it ended, and said {self.said}")
        line = await saying
        found = re.fullmatch(r"listening on (\S+):(\d+) \(HTTPS?\), admin (?:off|on \S+:(\d+))", line)
        assert found, self.said
        self.said.remove(line)
        self.host, self.port, self.admin_port = found[1], int(found[2]), int(found[3] or 0)
        self.first_line = line

    async def says(self, *words: str, times: int = 1) -> str:
        """The line with all these words, once there are so many such lines."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = [line for line in self.said if all(word in line for word in words)]
                if len(found) >= times:
                    return found[-1]
                self._news.clear()
                await self._news.wait()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        async with asyncio.timeout(PATIENCE_S):
            code = await self.process.wait()
            await self._listening
            return code

    def workers(self) -> list[int]:
        """The process ids of its children."""
        pid = self.process.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    async def _listen_to_it(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.said.append(line.decode().rstrip("\n"))
            self._news.set()


@asynccontextmanager
async def proxy(*flags: str, listen: str | None = "127.0.0.1:0", ends_with: int = 0) -> AsyncIterator[LiveProxy]:
    """One that ends with the block. `listen`: None if the flags or their file say it."""
    command = [sys.executable, "-m", "proxy", "--admin.listen", "off"]
    if listen is not None:
        command += ["--listen", listen]
    if "--log.access" not in flags:
        command += ["--log.access", "off"]
    process = await asyncio.create_subprocess_exec(
        *command, *flags, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    running = LiveProxy(process)
    try:
        await running.begun()
        yield running
    finally:
        if process.returncode is None:
            process.terminate()
        assert await running.ended() == ends_with, running.said


@asynccontextmanager
async def upstream(body: Callable[[], bytes] = lambda: b"ok", tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server that answers every request with this body; its address."""

    serving: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving[asyncio.current_task()] = writer
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                answer = body()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))
        writer.close()
        del serving[asyncio.current_task()]

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    async with asyncio.timeout(PATIENCE_S):
        while serving:
            for writer in serving.values():
                writer.close()
            await asyncio.sleep(0.001)


class Crowd:
    """Clients that ask, each on its connection, as fast as they are answered, until told to stop.

    An answer that says so ends a connection, and another is made; if nobody listens there any more, the client leaves.
    A connection that closes where an answer should begin, at once when it was idle, is a loss unless the proxy drains.
    """

    def __init__(self, port: int, size: int, *, draining_is_fine: bool = False) -> None:
        self.answers: list[bytes] = []
        self.losses: list[str] = []
        self._port = port
        self._draining_is_fine = draining_is_fine
        self._stop = False
        self._tasks = [asyncio.get_running_loop().create_task(self._ask_and_ask()) for _ in range(size)]

    async def answered(self, count: int) -> None:
        """So many more."""
        until = len(self.answers) + count
        async with asyncio.timeout(PATIENCE_S):
            while len(self.answers) < until and not all(task.done() for task in self._tasks):
                await asyncio.sleep(0.005)

    async def stop(self) -> None:
        self._stop = True
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*self._tasks)

    async def _ask_and_ask(self) -> None:
        while not self._stop:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except ConnectionRefusedError:
                if not self._draining_is_fine:
                    self.losses.append("refused")
                return
            try:
                await self._use(reader, writer)
            except (OSError, asyncio.IncompleteReadError) as problem:
                self.losses.append(repr(problem))
            finally:
                writer.close()

    async def _use(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = 0
        while not self._stop:
            try:
                writer.write(GET)
                head = await reader.readuntil(b"\r\n\r\n")
            except (ConnectionError, asyncio.IncompleteReadError) as problem:
                partial = getattr(problem, "partial", b"")
                if asked and not partial and self._draining_is_fine:
                    return  # it was idle; RFC 9112 section 9.3.1 says to ask again elsewhere
                raise
            asked += 1
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            self.answers.append(await reader.readexactly(length))
            if b" 200 OK" not in head:
                self.losses.append(head.decode())
            if b"connection: close" in head.lower():
                return


async def ask(host: str, port: int, tls: ssl.SSLContext | None = None, name: str | None = None) -> bytes:
    """One request on a connection of its own; the whole answer."""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection(host, port, ssl=tls, server_hostname=name)
        writer.write(b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return answer


async def metrics(running: LiveProxy) -> str:
    """What Prometheus would read; the proxy needs `--admin.listen 127.0.0.1:0`."""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection(running.host, running.admin_port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return answer.decode()
