"""WebSocket through a running proxy: the `websockets` library on both sides, and raw sockets where it is too polite."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from live import PATIENCE_S, LiveProxy, proxy
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus

Handler = Callable[[ServerConnection], Awaitable[None]]
LINGER_0 = struct.pack("ii", 1, 0)

ASKS = (
    b"GET /chat HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: a2FsYWIga2FsYWIga2FsYQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def echo(there: ServerConnection) -> None:
    async for message in there:
        await there.send(message)


@asynccontextmanager
async def chat(handler: Handler, *flags: str, **options: Any) -> AsyncIterator[LiveProxy]:
    """A proxy in front of a server with this handler."""
    async with (
        serve(handler, "127.0.0.1", 0, max_size=None, **options) as server,
        proxy(
            *("--upstreams", f"127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"),
            *("--http.upgrades", "websocket", *flags),
        ) as running,
    ):
        yield running


def client(running: LiveProxy, **options: Any) -> connect:
    scheme = "wss" if "ssl" in options else "ws"
    return connect(f"{scheme}://{running.host}:{running.port}/chat", proxy=None, max_size=None, **options)


@pytest.fixture(autouse=True)
async def patience() -> AsyncIterator[None]:
    async with asyncio.timeout(PATIENCE_S):
        yield


# ---- messages


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_messages_of_all_kinds_and_sizes_both_ways(compression: str | None) -> None:
    messages: list[str | bytes] = [
        "",
        "text, käse",
        b"",
        b"\x00\xff" * 100,
        os.urandom(1 << 20),
        "k" * (1 << 20),
        os.urandom(3 << 20),
    ]
    async with (
        chat(echo, compression=compression) as running,
        client(running, compression=compression) as there,
    ):
        assert bool(there.protocol.extensions) is (compression == "deflate")
        for message in messages:
            await there.send(message)
            assert await there.recv() == message


async def test_many_messages_at_once_with_both_sides_slow_now_and_then() -> None:
    async with chat(echo, compression=None) as running, client(running, compression=None) as there:

        async def send() -> None:
            for number in range(200):
                await there.send(bytes([number]) * 65_536)

        sending = asyncio.create_task(send())
        for number in range(200):
            assert await there.recv() == bytes([number]) * 65_536
        await sending


async def test_the_server_speaks_first_and_in_the_packet_of_its_answer() -> None:
    async def greet(there: ServerConnection) -> None:
        await there.send("hello")
        assert await there.recv() == "and you"

    async with chat(greet) as running, client(running) as there:
        assert await there.recv() == "hello"
        await there.send("and you")


async def test_pings_and_pongs_both_ways() -> None:
    async def pings(there: ServerConnection) -> None:
        latency = await (await there.ping(b"from the server"))
        await there.send(str(latency >= 0))
        await there.wait_closed()

    async with chat(pings) as running, client(running) as there:
        assert await (await there.ping(b"from the client")) >= 0
        assert await there.recv() == "True"


async def test_two_hundred_at_once() -> None:
    async with chat(echo) as running:

        async def talk(number: int) -> None:
            async with client(running) as there:
                for turn in range(5):
                    await there.send(f"{number}: {turn}")
                    assert await there.recv() == f"{number}: {turn}"

        await asyncio.gather(*map(talk, range(200)))


async def test_over_tls_on_both_sides(tmp_path: Path) -> None:
    authority = trustme.CA()
    mine, theirs = str(tmp_path / "mine.pem"), authority.issue_cert("127.0.0.1")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(mine)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    upstream_tls = ["--upstream_tls.enabled", "true", "--upstream_tls.ca_file", str(tmp_path / "ca.pem")]
    message = os.urandom(1 << 20)
    async with (
        chat(echo, "--tls.certificates", mine, *upstream_tls, ssl=context) as running,
        client(running, ssl=trusting) as there,
    ):
        for _ in range(3):
            await there.send(message)
            assert await there.recv() == message
        await there.close(4001, "enough")
        assert (there.close_code, there.close_reason) == (4001, "enough")


# ---- the end


async def test_the_client_closes_with_a_code(tmp_path: Path) -> None:
    heard: asyncio.Future[tuple[int | None, str | None]] = asyncio.get_running_loop().create_future()

    async def listen(there: ServerConnection) -> None:
        await there.wait_closed()
        heard.set_result((there.close_code, there.close_reason))

    log = tmp_path / "access.log"
    async with chat(listen, "--log.access", str(log)) as running:
        async with client(running) as there:
            await there.close(4242, "bye")
        assert await heard == (4242, "bye")
    (line,) = [json.loads(line) for line in log.read_text().splitlines()]
    assert (line["status"], line["cause"]) == (101, "")
    assert line["bytes_in"] >= 11
    assert line["bytes_out"] >= 7


async def test_the_server_closes_with_a_code() -> None:
    async def goodbye(there: ServerConnection) -> None:
        await there.close(1012, "restarting")

    async with chat(goodbye) as running, client(running) as there:
        with pytest.raises(ConnectionClosed) as closed:
            await there.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1012, "restarting")


async def test_a_server_that_dies_is_an_abnormal_end() -> None:
    async def dies(there: ServerConnection) -> None:
        await there.send("last words")
        there.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
        await there.recv()
        there.transport.abort()

    async with chat(dies) as running, client(running) as there:
        assert await there.recv() == "last words"
        await there.send("die")
        with pytest.raises(ConnectionClosedError) as closed:
            await there.recv()
        assert closed.value.rcvd is None


async def test_the_server_hears_when_a_client_vanishes() -> None:
    heard: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    async def listen(there: ServerConnection) -> None:
        await there.wait_closed()
        heard.set_result(there.close_code)

    def vanish(there: ClientConnection) -> None:
        there.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
        there.transport.abort()

    async with chat(listen) as running, client(running) as there:
        vanish(there)
        assert await heard == 1006


async def test_silence_ends_it() -> None:
    async with (
        chat(echo, "--http.tunnel_idle", "300ms", ping_interval=None) as running,
        client(running, ping_interval=None) as there,
    ):
        await there.send("x")
        assert await there.recv() == "x"
        with pytest.raises(ConnectionClosedError):
            await there.recv()


async def test_a_stopping_proxy_lets_it_run_until_the_grace_is_over() -> None:
    async with chat(echo, "--drain_grace", "1s") as running, client(running) as there:
        await there.send("before")
        assert await there.recv() == "before"
        running.signal(signal.SIGTERM)
        await asyncio.sleep(0.3)  # well within the grace, well after the signal
        await there.send("meanwhile")
        assert await there.recv() == "meanwhile"
        with pytest.raises(ConnectionClosedError):
            await there.recv()
        assert await running.ended() == 0


async def test_a_half_close_is_passed_on_and_the_rest_of_the_answer_comes() -> None:
    async def answer_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        said = await reader.read()
        writer.write(said[::-1] * 100_000)
        writer.close()

    server = await asyncio.start_server(answer_at_the_end, "127.0.0.1", 0)
    there = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with proxy("--upstreams", there, "--http.upgrades", "websocket") as running:
        reader, writer = await asyncio.open_connection(running.host, running.port)
        writer.write(ASKS + b"kalab")
        writer.write_eof()
        # The FIN may come before the 101, and then the client has left; so ask again with the FIN behind the 101.
        await reader.read()
        writer.close()
        reader, writer = await asyncio.open_connection(running.host, running.port)
        writer.write(ASKS + b"kal")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"ab")
        writer.write_eof()
        assert await reader.read() == b"balak" * 100_000
        writer.close()
    server.close()


# ---- no tunnel


async def test_not_allowed_it_is_a_request_like_any_other() -> None:
    async with serve(echo, "127.0.0.1", 0) as server:
        there = f"127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        async with proxy("--upstreams", there) as running:
            with pytest.raises(InvalidStatus) as refused:
                await client(running).__aenter__()
            assert refused.value.response.status_code == 426  # the server says what it wants


@pytest.mark.parametrize("answer", [b"200 OK", b"101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c"])
async def test_bytes_behind_the_request_reach_nobody_before_the_101(answer: bytes) -> None:
    """And if it does not come they are the next request, or nothing at all."""
    heads: list[bytes] = []

    async def serve_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % answer)
        if answer == b"200 OK":
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve_http, "127.0.0.1", 0)
    there = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with proxy("--upstreams", there, "--http.upgrades", "websocket") as running:
        reader, writer = await asyncio.open_connection(running.host, running.port)
        writer.write(ASKS + b"GET /second HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
        answers = await reader.read()
        writer.close()
    server.close()
    assert heads[0].startswith(b"GET /chat ")
    if answer == b"200 OK":
        assert heads[1].startswith(b"GET /second ")
        assert answers.count(b"HTTP/1.1 20") == 2
    else:
        assert answers.startswith(b"HTTP/1.1 502 ")
