"""The client: keep-alive connections to the proxy on raw protocols, each request sent when the schedule says so.

Rules of this file:

- It shares no code with the proxy: an instrument must not share code with what it measures.
- Nothing is retried, and nothing is hidden: a request ends in exactly one `Outcome`.
- Open loop: the moment a request was meant to go is kept beside the moment it went.
- Times are `time.monotonic_ns()`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic_ns
from typing import cast

from lab.model import Outcome

BODY = b"amount=1"


class Call:
    """One request and what became of it."""

    __slots__ = ("cause", "done", "done_ns", "first_ns", "intended_ns", "outcome", "req_id", "sent_ns", "status")

    def __init__(self, req_id: str, intended_ns: int, done: asyncio.Future[None]) -> None:
        self.req_id = req_id
        self.intended_ns = intended_ns
        self.sent_ns = 0
        self.first_ns = 0
        self.done_ns = 0
        self.outcome: Outcome | None = None
        self.status = 0
        self.cause = ""
        self.done = done

    def __repr__(self) -> str:
        return f"<Call {self.req_id}, {self.outcome or 'waiting'} {self.status or ''}>"

    def finish(self, outcome: Outcome) -> None:
        if self.outcome is None:
            self.outcome = outcome
            self.done_ns = monotonic_ns()
            if not self.done.done():
                self.done.set_result(None)


class Client(asyncio.Protocol):
    """One client connection; one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._call: Call | None = None
        self._received = bytearray()
        self._held_back = b""
        self.answered_ns = 0
        """When its last request had its outcome; 0: it has carried none."""

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    # Called by the run.

    def send(
        self,
        req_id: str,
        method: str,
        target: str,
        intended_ns: int | None = None,
        held_back: int = 0,
        body: int | None = None,
    ) -> Call:
        """Sends a request now, but for its last `held_back` bytes. Its fate is in the returned call: `call.done`.

        `body`: how many bytes it has; None: a POST has a few, others have none.
        """
        assert self._call is None, "one request at a time"
        now = monotonic_ns()
        call = Call(req_id, intended_ns or now, asyncio.get_running_loop().create_future())
        if not self.is_open:
            call.sent_ns = now
            call.finish(Outcome.CLOSED_WITHOUT_RESPONSE)
            return call
        self._call = call
        self._received.clear()
        request = _request(req_id, method, target, body)
        assert self._transport is not None
        call.sent_ns = monotonic_ns()
        whole = len(request) - held_back
        self._held_back = request[whole:]
        self._transport.write(request[:whole])
        return call

    def send_rest(self) -> None:
        """Sends what was held back of the request, if anything was, and if there is still somebody to send it to."""
        rest, self._held_back = self._held_back, b""
        if rest and self.is_open and self._transport is not None:
            self._transport.write(rest)

    def give_up(self) -> None:
        """The answer did not come in time."""
        if self._call is not None:
            self._end(Outcome.TIMED_OUT)
        self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        call = self._call
        if call is None:
            return
        if not call.first_ns:
            call.first_ns = monotonic_ns()
        self._received += data
        answer = parse_answer(bytes(self._received))
        if answer is not None:
            call.status, call.cause = answer
            self._end(Outcome.ANSWERED)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._call is None:
            return
        if self._received:
            self._end(Outcome.TRUNCATED)
        else:
            self._end(Outcome.CLOSED_WITHOUT_RESPONSE if exc is None else Outcome.RESET)

    def _end(self, outcome: Outcome) -> None:
        call, self._call = self._call, None
        assert call is not None
        call.finish(outcome)
        self.answered_ns = call.done_ns


def parse_answer(received: bytes) -> tuple[int, str] | None:
    """Status and cause of a complete final response, or None while more must come.

    Knows just what the proxies under test send: Content-Length or chunked bodies. 1xx responses are skipped.
    """
    while True:
        head, separator, body = received.partition(b"\r\n\r\n")
        if not separator:
            return None
        lines = head.split(b"\r\n")
        status = int(lines[0][9:12])
        if status >= 200:
            break
        received = body
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
    if b"content-length" in fields:
        complete = len(body) >= int(fields[b"content-length"])
    elif fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        complete = body.endswith(b"0\r\n\r\n")
    else:
        complete = status in (204, 304)
    return (status, fields.get(b"x-kalab-cause", b"").decode()) if complete else None


async def connect(address: tuple[str, int], n: int, pace_s: float = 0.0005) -> list[Client]:
    """Opens `n` client connections, one per `pace_s`: a burst would overflow listen backlogs."""
    loop = asyncio.get_running_loop()
    clients: list[Client] = []
    start = loop.time()
    for i in range(n):
        _, client = await loop.create_connection(Client, *address)
        clients.append(client)
        ahead = start + i * pace_s - loop.time()
        if ahead > 0:
            await asyncio.sleep(ahead)
    return clients


async def finished(calls: Sequence[Call], clients: Sequence[Client], timeout_s: float) -> None:
    """Waits until every call has its outcome; those without one after `timeout_s` have timed out."""
    await asyncio.wait([asyncio.ensure_future(call.done) for call in calls], timeout=timeout_s)
    for call, client in zip(calls, clients, strict=True):
        if call.outcome is None:
            client.give_up()


async def until(moment_ns: int) -> None:
    """Sleeps until about `moment_ns`; loops here are exact to about a millisecond (the trial's own stamp is not)."""
    ahead = (moment_ns - monotonic_ns()) / 1e9
    if ahead > 0:
        await asyncio.sleep(ahead)


def _request(req_id: str, method: str, target: str, size: int | None) -> bytes:
    head = f"{method} {target} HTTP/1.1\r\nHost: lab\r\nX-Request-Id: {req_id}\r\n"
    body = b"x" * size if size is not None else BODY if method == "POST" else b""
    if body:
        head += f"Content-Length: {len(body)}\r\n"
    return f"{head}\r\n".encode() + body
