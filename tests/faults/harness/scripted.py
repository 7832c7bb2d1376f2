"""An upstream on the loop of the test, which answers each request as a function says: for what no server would do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]  # to a head; it may close


class Scripted:
    """`at` is its address; `answer` may be changed while it runs. It does not read request bodies."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.at = ""
        self.connections = 0  # so far
        self._serving: set[asyncio.Task[None]] = set()

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def answers(self, head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.answer(head, writer)

    async def end(self) -> None:
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while not writer.is_closing():
                    head = await reader.readuntil(b"\r\n\r\n")
                    await self.answers(head, reader, writer)
                    await writer.drain()
        finally:
            if not writer.is_closing():
                writer.transport.abort()


def scripted(answer: Answer) -> AbstractAsyncContextManager[Scripted]:
    """One that runs, until the block ends."""
    return running(Scripted(answer))


@asynccontextmanager
async def running(upstream: Scripted) -> AsyncIterator[Scripted]:
    server = await asyncio.start_server(upstream.connected, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    upstream.at = f"{host}:{port}"
    try:
        yield upstream
    finally:
        server.close()
        await upstream.end()
        await server.wait_closed()


async def well(head: bytes, writer: asyncio.StreamWriter) -> None:
    """What the lab's upstream answers to a GET."""
    req_id = head.partition(b"X-Request-Id: ")[2].split(b"\r\n")[0]
    body = b"ok " + req_id + b"\n"
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
