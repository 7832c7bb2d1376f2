"""Good traffic: clients that ask all the time, and what became of every request.

Rules of this file:

- Requests come on a schedule, whatever becomes of those before (open model). One that cannot be sent in time because
  its connection is busy is sent late and counted, never dropped.
- Each carries an id of its own, and the answer must name it: an answer to somebody else's request is an outcome too.
- A connection that the proxy closes between two requests is replaced, as any client does. A request that was sent on it
  and got no answer is lost: there are no hidden retries.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count, cycle
from typing import NamedTuple

Address = tuple[str, int]

ANSWER_WITHIN_S = 20.0


class Failed(NamedTuple):
    """A request that was not answered with 200."""

    at: float  # when that was known, in monotonic seconds
    took_s: float  # since it was sent
    outcome: str
    req_id: str


@dataclass
class Outcomes:
    """What became of the requests: "ok", a status with its cause, "lost", "truncated", "wrong answer", "refused"."""

    counts: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    told_to_close: int = 0  # answers with `Connection: close`
    took_s: list[float] = field(default_factory=list)  # from the intended start, of what was answered with 200
    failed: list[Failed] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<Outcomes {self.sent} sent, {dict(self.counts)}>"

    @property
    def ok(self) -> int:
        return self.counts["ok"]

    def bad(self) -> dict[str, int]:
        """All that is not ok."""
        return {outcome: number for outcome, number in self.counts.items() if outcome != "ok"}

    def note(self, outcome: str, req_id: str, intended: float, sent: float) -> None:
        now = time.monotonic()
        self.counts[outcome] += 1
        if outcome == "ok":
            self.took_s.append(now - intended)
        else:
            self.failed.append(Failed(now, now - sent, outcome, req_id))

    def percentile_ms(self, percent: float, *, since: int = 0) -> float:
        """Of the good answers but for the first so many."""
        ordered = sorted(self.took_s[since:])
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] * 1e3


class Connection(asyncio.Protocol):
    """One client connection: a request at a time, and its answer."""

    def __init__(self) -> None:
        self._ended = False  # by the proxy
        self._transport: asyncio.Transport | None = None
        self._read = bytearray()
        self._answer: asyncio.Future[tuple[bytes, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    @property
    def open(self) -> bool:
        """Nothing is known against sending on it."""
        return not self._ended and self._transport is not None and not self._transport.is_closing()

    def data_received(self, data: bytes) -> None:
        self._read += data
        end = self._read.find(b"\r\n\r\n")
        if end < 0 or self._answer is None:
            return
        head = bytes(self._read[:end])
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        if len(self._read) >= end + 4 + length and not self._answer.done():
            self._answer.set_result((head, bytes(self._read[end + 4 :])))
            self._read.clear()

    def eof_received(self) -> None:
        self._ended = True

    def connection_lost(self, _: Exception | None) -> None:
        self._ended = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("truncated" if self._read else "lost"))

    async def ask(self, request: bytes) -> tuple[bytes, bytes]:
        """Head and body of the answer. Raises ConnectionError("lost" | "truncated"), TimeoutError."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        async with asyncio.timeout(ANSWER_WITHIN_S):
            return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Traffic:
    """`rate` requests a second over `clients` connections to these addresses, in turn, until it is stopped."""

    def __init__(
        self,
        addresses: list[Address],
        *,
        rate: float,
        clients: int,
        methods: tuple[str, ...] = ("GET", "POST"),
        target: str = "/ok",
        most: int = 0,
    ) -> None:
        self.outcomes = Outcomes()
        self._addresses = cycle(addresses)
        self._interval_s = clients / rate
        self._clients = clients
        self._methods = methods
        self._target = target
        self._most = most  # requests in all; 0: until stopped
        self._numbers = count(1)
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Traffic:
        self._tasks = [asyncio.create_task(self._client(number)) for number in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> Outcomes:
        """Sends nothing new, and waits for what was sent."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        return self.outcomes

    async def finished(self) -> Outcomes:
        """Waits until `most` requests have been sent and answered."""
        await asyncio.gather(*self._tasks)
        return self.outcomes

    async def good(self, more: int, within_s: float = 30.0) -> None:
        """Waits for so many more good answers."""
        wanted = self.outcomes.ok + more
        async with asyncio.timeout(within_s):
            while self.outcomes.ok < wanted:
                await asyncio.sleep(0.01)

    def to(self, addresses: list[Address]) -> None:
        """From now on new connections go there."""
        self._addresses = cycle(addresses)

    async def _client(self, number: int) -> None:
        connection: Connection | None = None
        due = time.monotonic() + self._interval_s * number / self._clients
        for method in cycle(self._methods):
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if self._stopping or (self._most and self.outcomes.sent >= self._most):
                break
            if connection is None or not connection.open:
                connection = await self._connect(due)
            if connection is not None:
                await self._ask(connection, method, due)
            due += self._interval_s
        if connection is not None:
            connection.close()

    async def _connect(self, due: float) -> Connection | None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(Connection, *next(self._addresses))
        except OSError:
            self.outcomes.note("refused", "", due, due)
            return None
        return connection

    async def _ask(self, connection: Connection, method: str, due: float) -> None:
        outcomes = self.outcomes
        outcomes.sent += 1
        req_id = f"r{next(self._numbers)}"
        body = f"for {req_id}".encode() if method == "POST" else b""
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {self._target} HTTP/1.1\r\nHost: test\r\nX-Request-Id: {req_id}\r\n{length}\r\n"
        sent = time.monotonic()
        try:
            answer, content = await connection.ask(head.encode() + body)
        except TimeoutError:
            outcomes.note("no answer", req_id, due, sent)
            connection.close()
            return
        except ConnectionError as problem:
            outcomes.note(str(problem), req_id, due, sent)
            return
        outcomes.note(outcome_of(answer, content, req_id), req_id, due, sent)
        if b"\r\nconnection: close" in answer.lower():
            outcomes.told_to_close += 1
            connection.close()


def outcome_of(head: bytes, body: bytes, req_id: str) -> str:
    """ "ok", "wrong answer", or the status and the cause that the proxy gave."""
    status = head[9:12].decode()
    if status == "200":
        return "ok" if body.split() == [b"ok", req_id.encode()] else "wrong answer"
    cause = head.partition(b"\r\nX-Kalab-Cause: ")[2].split(b"\r\n")[0].decode()
    return f"{status} {cause or 'of the upstream'}"
