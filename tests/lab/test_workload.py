"""The client: every way in which a request can end, over real sockets."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from lab.model import Outcome
from lab.workload import Call, connect, finished, parse_answer

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[tuple[str, int]]:
    served = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await answer(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        served.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[:2]
    finally:
        await asyncio.wait_for(served.wait(), 10)
        server.close()
        await server.wait_closed()


async def ask(answer: Answer, timeout_s: float = 10.0) -> Call:
    async with serving(answer) as address:
        clients = await connect(address, 1)
        call = clients[0].send("it.1", "POST", "/")
        await finished([call], clients, timeout_s)
        clients[0].close()
        return call


def says(data: bytes) -> Answer:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return answer


async def resets(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def hangs(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    while await reader.read(1024):
        pass


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BAD = b"HTTP/1.1 502 Bad Gateway\r\nX-Kalab-Cause: closed_before_response\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "outcome", "status"),
    [
        (says(OK), Outcome.ANSWERED, 200),
        (says(BAD), Outcome.ANSWERED, 502),
        (says(b""), Outcome.CLOSED_WITHOUT_RESPONSE, 0),
        (says(OK[:-1]), Outcome.TRUNCATED, 0),
        (says(b"HTTP/1.1 200"), Outcome.TRUNCATED, 0),
        (resets, Outcome.RESET, 0),
    ],
)
async def test_outcomes(answer: Answer, outcome: Outcome, status: int) -> None:
    call = await ask(answer)
    assert (call.outcome, call.status) == (outcome, status)
    assert 0 < call.sent_ns <= call.done_ns


@pytest.mark.parametrize(
    ("method", "size", "bytes_"), [("POST", None, 8), ("GET", None, 0), ("GET", 2048, 2048), ("POST", 0, 0)]
)
async def test_a_request_has_the_body_that_was_asked_for(method: str, size: int | None, bytes_: int) -> None:
    body = b""

    async def counts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal body
        body = await reader.readexactly(bytes_)
        writer.write(OK)

    async with serving(counts) as address:
        clients = await connect(address, 1)
        call = clients[0].send("it.1", method, "/", body=size)
        await finished([call], clients, 10)
        clients[0].close()
    assert (call.status, len(body)) == (200, bytes_)


async def test_no_answer_in_time() -> None:
    call = await ask(hangs, timeout_s=0.05)
    assert call.outcome is Outcome.TIMED_OUT


async def test_a_client_that_lost_its_connection_says_so_when_it_sends() -> None:
    async with serving(says(OK)) as address:
        clients = await connect(address, 1)
        first = clients[0].send("it.1", "GET", "/")
        await finished([first], clients, 10)
        while clients[0]._transport is not None:
            await asyncio.sleep(0.001)
        second = clients[0].send("it.2", "GET", "/")
        await finished([second], clients, 10)
    assert second.outcome is Outcome.CLOSED_WITHOUT_RESPONSE


@pytest.mark.parametrize(
    ("received", "answer"),
    [
        (OK, (200, "")),
        (BAD, (502, "closed_before_response")),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, (200, "")),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", (200, "")),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", None),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, "")),
        (b"HTTP/1.1 100 Continue\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil close", None),
        (b"", None),
    ],
)
def test_parse_answer(received: bytes, answer: tuple[int, str] | None) -> None:
    assert parse_answer(received) == answer


def test_no_prefix_of_an_answer_is_an_answer() -> None:
    assert all(parse_answer(OK[:n]) is None for n in range(len(OK)))


async def test_the_rest_of_a_request_can_come_later() -> None:
    came: list[bytes] = []

    async def reads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(await reader.readexactly(7))
        clients[0].send_rest()
        clients[0].send_rest()  # once only
        came.append(await reader.readexactly(1))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with serving(reads) as address:
        clients = await connect(address, 1)
        call = clients[0].send("it.1", "POST", "/", held_back=1)
        await finished([call], clients, 10)
        clients[0].send_rest()  # nothing is left
        clients[0].close()
    assert (call.status, came) == (200, [b"amount=", b"1"])
