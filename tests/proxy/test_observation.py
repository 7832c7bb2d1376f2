"""What a running proxy shows of itself: its sources of endpoints, its upstreams that come and go, its tunnels."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from time import time

from live import PATIENCE_S, LiveProxy, ask, metrics, proxy, upstream

ADMIN = ("--admin.listen", "127.0.0.1:0")


def value(page: str, sample: str) -> float:
    """Of the one sample that is written so, but for the prefix."""
    (found,) = re.findall(rf"^kalab_proxy_{re.escape(sample)} (\S+)$", page, re.MULTILINE)
    return float(found)


async def shown(running: LiveProxy, sample: str, holds: Callable[[float], bool]) -> str:
    """The page once this holds of a sample."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds(value(page := await metrics(running), sample)):
            await asyncio.sleep(0.02)
    return page


async def test_a_source_that_fails_is_counted_and_told_and_so_is_its_recovery(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.json"
    source = 'group="default",kind="file"'
    flags = ("--discovery.kind", "file", "--discovery.file", str(path), "--discovery.poll_every", "20ms")
    async with upstream() as there:
        path.write_text(f'["{there}"]')
        began = time()
        async with proxy(*flags, *ADMIN) as running:
            page = await metrics(running)
            good = value(page, f'discovery_last_success_timestamp_seconds{{{source},worker="0"}}')
            assert began - 1 < good <= time()
            assert value(page, f"discovery_failures_total{{{source}}}") == 0
            assert value(page, f'discovery_endpoints{{{source},worker="0",state="known"}}') == 1
            path.write_text("[")
            await running.says(f"group default: {path}:", "not valid JSON")
            page = await shown(running, f"discovery_failures_total{{{source}}}", lambda count: count > 0)
            assert value(page, f'discovery_problems{{{source},worker="0"}}') == 1
            failed = value(page, f'discovery_last_success_timestamp_seconds{{{source},worker="0"}}')
            assert (await ask(running.host, running.port)).endswith(b"ok")  # the last good set
            path.write_text(f'["{there}"] ')
            assert await running.says("well again") == f"group default: {path}: well again"
            page = await metrics(running)
            assert value(page, f'discovery_problems{{{source},worker="0"}}') == 0
            assert value(page, f'discovery_last_success_timestamp_seconds{{{source},worker="0"}}') > failed


async def test_upstreams_of_the_config_are_known_and_nobody_is_asked() -> None:
    async with proxy("--upstreams", "127.0.0.1:1, 127.0.0.1:2", *ADMIN) as running:
        page = await metrics(running)
        source = 'group="default",kind="static",worker="0"'
        assert value(page, f'discovery_endpoints{{{source},state="serving"}}') == 2
        assert "discovery_failures_total" not in page
        assert value(page, 'errors_total{group="",cause="bad_request"}') == 0


async def test_an_upstream_that_goes_and_comes_back_is_counted_and_told() -> None:
    status = b"200 OK"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    there = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    checks = ("--health.check_path", "/", "--health.check_every", "20ms", "--health.check_fails", "1")
    async with proxy("--upstreams", there, *checks, *ADMIN) as running:
        who = f'group="default",upstream="{there}"'
        page = await shown(running, f'upstream_checks_total{{{who},result="passed"}}', lambda count: count > 0)
        assert value(page, f"upstream_returns_total{{{who}}}") == 0
        status = b"503 Gone"
        assert (
            await running.says(" is down: ") == f"group default: {there} is down: failed 1 checks, the last: status 503"
        )
        page = await shown(running, f'upstream_checks_total{{{who},result="failed"}}', lambda count: count > 0)
        status = b"200 OK"
        await running.says(f"group default: {there} is ready: passed ")
        await shown(running, f"upstream_returns_total{{{who}}}", lambda count: count == 1)
    server.close()


async def test_a_tunnel_is_seen_as_one_and_is_no_slow_request() -> None:
    async def agree(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        writer.write(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(agree, "127.0.0.1", 0)
    there = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with proxy("--upstreams", there, "--http.upgrades", "websocket", *ADMIN) as running:
        reader, writer = await asyncio.open_connection(running.host, running.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await shown(running, 'downstream_connections{state="tunnel"}', lambda count: count == 1)
        writer.write(b"hello")
        assert await reader.read() == b"hello"
        writer.close()
        page = await shown(running, 'tunnel_duration_seconds_count{group="default"}', lambda count: count == 1)
        assert value(page, 'request_duration_seconds_count{group="default"}') == 0
        assert value(page, 'requests_total{group="default",code="101"}') == 1
        assert value(page, 'request_body_bytes_total{group="default"}') == 5
    server.close()
