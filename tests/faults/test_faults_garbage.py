"""Upstreams that answer with anything but HTTP, without end or not to the end (target B14)."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from fleet import Fleet, Size
from scripted import scripted, well
from traffic import Traffic

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

GROWS_AT_MOST = 16 << 20  # bytes of RSS
ENOUGH = 1 << 30  # bytes: what "without end" is here, if nobody stops it


async def endless(writer: asyncio.StreamWriter, begin: bytes, then: bytes) -> None:
    writer.write(begin)
    for _ in range(ENOUGH // len(then)):
        writer.write(then)
        await writer.drain()


async def interim_flood(_head: bytes, writer: asyncio.StreamWriter) -> None:
    await endless(writer, b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 200)


async def endless_fields(_head: bytes, writer: asyncio.StreamWriter) -> None:
    await endless(writer, b"HTTP/1.1 200 OK\r\n", b"X-Field: a value\r\n" * 1000)


async def endless_line(_head: bytes, writer: asyncio.StreamWriter) -> None:
    await endless(writer, b"HTTP/1.1 200 OK\r\nX-Field: ", b"a" * 16_384)


async def endless_chunk_size(_head: bytes, writer: asyncio.StreamWriter) -> None:
    await endless(writer, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0" * 16_384)


async def endless_trailers(_head: bytes, writer: asyncio.StreamWriter) -> None:
    begin = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    await endless(writer, begin, b"X-Field: a value\r\n" * 1000)


async def no_http(_head: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(bytes(range(256)) * 64)


async def two_lengths(_head: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok\n")


async def nothing(_head: bytes, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def half_a_head(_head: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
    writer.close()


async def half_a_body(_head: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nten bytes.")
    writer.close()


async def half_a_chunk(_head: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nten bytes.")
    writer.close()


INVALID = "502 invalid_response"
BROKEN_OFF = "200 truncated_response"

# The status that a client gets, and the cause that the log has. What has been passed on cannot be taken back, so which
# of two it is depends on what had come when it was found out.
GARBAGE = {
    interim_flood: {INVALID},
    endless_fields: {INVALID},
    endless_line: {INVALID},
    endless_chunk_size: {INVALID, BROKEN_OFF},
    endless_trailers: {INVALID, BROKEN_OFF},
    no_http: {INVALID},
    two_lengths: {INVALID},
    nothing: {"502 closed_before_response"},
    half_a_head: {"502 truncated_response"},
    half_a_body: {BROKEN_OFF},
    half_a_chunk: {BROKEN_OFF},
}


async def asked(address: tuple[str, int], req_id: str) -> bytes:
    """All that a client gets."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(f"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: {req_id}\r\nConnection: close\r\n\r\n".encode())
    came = b""
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(20):
            while more := await reader.read(1 << 16):
                came += more
    writer.transport.abort()
    return came


async def test_garbage_is_told_with_its_cause_and_costs_no_memory(fleet: Fleet, size: Size) -> None:
    times = size.of(5, 50)
    statuses: dict[str, str] = {}  # by request
    async with scripted(well) as upstream:
        proxy = fleet.proxy([upstream], "--health.eject_after", "0")
        for _ in range(3):  # as many at a time as will get garbage
            answers = await asyncio.gather(*(asked(proxy.address, "well") for _ in range(times)))
            assert all(came.endswith(b"\r\n\r\nok well\n") for came in answers)
        before = proxy.rss_bytes()
        for answer in GARBAGE:
            upstream.answer = answer
            ids = [f"{answer.__name__}-{number}" for number in range(times)]
            for req_id, came in zip(
                ids, await asyncio.gather(*(asked(proxy.address, each) for each in ids)), strict=True
            ):
                statuses[req_id] = came[came.rfind(b"HTTP/1.1") :][9:12].decode()
        assert upstream.connections >= times * len(GARBAGE)  # none was used again
        upstream.answer = well
        grown = proxy.rss_bytes() - before
        assert (await asked(proxy.address, "after")).endswith(b"\r\n\r\nok after\n")
    assert proxy.stop() == 0
    found: dict[str, set[str]] = {answer.__name__: set() for answer in GARBAGE}
    for line in fleet.access():
        if line["req_id"] in statuses:
            assert statuses[line["req_id"]] == str(line["status"])
            found[line["req_id"].partition("-")[0]].add(f"{line['status']} {line['cause']}")
    for answer, expected in GARBAGE.items():
        assert found[answer.__name__], answer.__name__
        assert found[answer.__name__] <= expected, answer.__name__
    print(f"{len(statuses)} answers, RSS {grown / (1 << 20):+.1f} MiB")
    assert grown <= GROWS_AT_MOST


async def test_a_second_answer_reaches_nobody(fleet: Fleet, size: Size) -> None:
    """Behind each answer comes another one, in a segment of its own.

    At once: one that comes when the next request has been received cannot be told from its answer, by anybody.
    """

    async def twice(head: bytes, writer: asyncio.StreamWriter) -> None:
        await well(head, writer)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nok evil")

    async with scripted(twice) as upstream:
        proxy = fleet.proxy([upstream])
        most = size.of(300, 20_000)
        async with Traffic([proxy.address], rate=size.of(200, 400), clients=20, methods=("GET",), most=most) as traffic:
            outcomes = await traffic.finished()
    assert outcomes.counts["wrong answer"] == 0, outcomes
    assert set(outcomes.bad()) <= {"502 invalid_response", "502 closed_before_response"}, outcomes
    print(outcomes)
