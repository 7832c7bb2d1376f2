"""C3: mutated requests over real sockets to `python -m proxy`, with an upstream that writes down what arrives.

The same bytes are played in process first. What the client is told, and what the upstream gets, must be the same both
ways; and what arrives is read alike by three readers. A traceback of the proxy is a finding, and so is another exit
code than 0.
"""

from __future__ import annotations

import asyncio
import re
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL, Process
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

from findings import Result, Run
from fuzz_requests import PLAYS_PER_STAGE, message
from mutate import pieces
from oracle import OWN_STATUSES
from rows import PEER
from stage import Seen, Stage, says_ok, staged
from strict_reader import Message, Unsound, read_requests, read_responses
from three_readers import Disagreement, agreed

from proxy.config import keys

TREE = Path(__file__).resolve().parent.parent.parent
CLIENTS = 16
PATIENCE_S = 10.0  # for an answer on loopback, on a machine that does something else
START_S = 30.0

Meaning = tuple[tuple[bytes, ...], tuple[tuple[bytes, bytes], ...], bytes]


def meaning(message: Message, peer: bytes) -> Meaning:
    """A request as it went upstream, whichever address it came from."""
    fields = tuple(
        (name, b"peer" if name == b"x-forwarded-for" and value == peer else value)
        for name, value in message.head.fields
    )
    return message.head.start, fields, message.body


class Recorder(asyncio.Protocol):
    """One upstream connection: answers each whole request, and keeps what the three readers make of it."""

    def __init__(self, arrived: Counter[Meaning], problems: list[str]) -> None:
        self.arrived, self.problems = arrived, problems
        self.data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        try:
            _, end = read_requests(self.data)
            for request in agreed(self.data[:end])[0]:
                self.arrived[meaning(request, b"127.0.0.1")] += 1
                self.transport.write(says_ok(request))
        except (Unsound, Disagreement) as problem:
            self.problems.append(str(problem))
            self.transport.abort()
            return
        self.data = self.data[end:]


class Expected:
    """What each message comes to in process, one after the other on a stage."""

    def __init__(self) -> None:
        self._manager = staged()
        self._stage: Stage = self._manager.__enter__()
        self.sent: Counter[Meaning] = Counter()

    def play(self, data: bytes) -> Seen:
        if self._stage.plays >= PLAYS_PER_STAGE:
            self.close()
            self._manager = staged()
            self._stage = self._manager.__enter__()
        seen = self._stage.play([data])
        self.sent.update(meaning(request, PEER) for request in seen.sent)
        return seen

    def close(self) -> None:
        self._manager.__exit__(None, None, None)


async def converse(port: int, data: bytes, seed: int, seen: Seen) -> str:
    """Says it over a socket, in pieces, and compares the answers."""
    client = socket.socket()  # no stream: that forgets what has come when it may not send
    client.setblocking(False)
    got = b""
    methods = [*(request.head.start[0] for request in seen.sent), b"GET"]
    try:
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
            await send(client, pieces(Random(~seed), data))
            while True:
                closed = not (piece := await receive(client)) if seen.statuses or seen.closed else False
                got += piece if seen.statuses or seen.closed else b""
                found, end = read_responses(got, methods, closed=closed)
                statuses = tuple(answer.status for answer in found if answer.status >= 200)
                if closed or (len(statuses) >= len(seen.statuses) and not seen.closed):
                    break
    except TimeoutError:
        return f"no answer but {got!r}, expected {seen.statuses}"
    except Unsound as problem:
        return f"the client got what is no response, {problem}: {got!r}"
    finally:
        client.close()
    if not alike(statuses, seen.statuses) or closed is not seen.closed or end != len(got):
        return f"answered {statuses}{' and closed' if closed else ''}, in process {seen.statuses}: {got!r}"
    return ""


async def send(client: socket.socket, parts: list[bytes]) -> None:
    """All of it, or as much as is wanted: what comes behind a client's last request may be answered with RST."""
    with suppress(ConnectionError):
        for piece in parts:
            await asyncio.get_running_loop().sock_sendall(client, piece)
            await asyncio.sleep(0)


async def receive(client: socket.socket) -> bytes:
    """What has come; nothing if it is closed, in whichever way. An RST takes away nothing that came before it."""
    with suppress(ConnectionError):
        return await asyncio.get_running_loop().sock_recv(client, 65536)
    return b""


def alike(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether the answers are the same. A message with two faults may be refused for either: whichever came first."""
    return a == b or (len(a) == len(b) and a[:-1] == b[:-1] and {a[-1], b[-1]} <= OWN_STATUSES)


async def start_proxy(upstream_port: int, errors: Path) -> tuple[Process, int]:
    """The proxy as a process, and where it listens."""
    argv = ["--listen", "127.0.0.1:0", "--upstreams", f"127.0.0.1:{upstream_port}", "--log.access", "off"]
    if "admin.listen" in keys():
        argv += ["--admin.listen", "off"]
    with errors.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "proxy", *argv, stdout=DEVNULL, stderr=stderr, cwd=TREE
        )
    try:
        async with asyncio.timeout(START_S):
            while (listens := re.search(r"^listening on \S+:(\d+) ", errors.read_text(), re.MULTILINE)) is None:
                if process.returncode is not None:
                    raise ValueError
                await asyncio.sleep(0.01)
        return process, int(listens[1])
    except (TimeoutError, ValueError):
        await stop_proxy(process)
        raise RuntimeError(f"the proxy does not start: {errors.read_text()}") from None


async def stop_proxy(process: Process) -> int:
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(START_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode


async def talk(run: Run, port: int, seeds: Iterator[int], expected: Expected) -> None:
    """One client after another."""
    for seed in seeds:
        data = message(seed)
        what = await converse(port, data, seed, expected.play(data))
        if what:
            run.found(seed, what, data)


async def fuzz(run: Run, errors: Path) -> None:
    arrived: Counter[Meaning] = Counter()
    problems: list[str] = []
    loop = asyncio.get_running_loop()
    upstream = await loop.create_server(lambda: Recorder(arrived, problems), "127.0.0.1", 0)
    process, port = await start_proxy(upstream.sockets[0].getsockname()[1], errors)
    expected = Expected()
    seeds = run.seeds()
    try:
        await asyncio.gather(*(talk(run, port, seeds, expected) for _ in range(CLIENTS)))
    finally:
        code = await stop_proxy(process)
        upstream.close()
        expected.close()
    for problem in problems:
        run.found(run.seed, problem, b"")
    for request, times in ((arrived - expected.sent) + (expected.sent - arrived)).items():
        run.found(run.seed, f"{times} times more, or less, than in process: {request}", b"")
    lines = errors.read_text().splitlines(keepends=True)
    said = "".join(line for line in lines if not line.startswith(("listening on ", "draining: ", "drained: ")))
    if code or said:
        run.found(run.seed, f"the proxy ended with {code} and said {said[-2000:]!r}", b"")


def run(seed: int, seconds: float | None = None, count: int | None = None) -> Result:
    run = Run(seed, seconds, count)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(fuzz(run, Path(folder) / "stderr"))
    return run.result()
