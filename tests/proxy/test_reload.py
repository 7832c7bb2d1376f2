"""SIGHUP: another config while requests are under way, all of it or nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import closing
from pathlib import Path

import pytest
from live import GET, PATIENCE_S, Crowd, ask, metrics, proxy, upstream

from proxy.config import ProxyConfig, override
from proxy.observation import worker_snapshot
from proxy.server import Server, open_sockets


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_reloads_under_load_lose_nothing(tmp_path: Path, workers: str) -> None:
    file = tmp_path / "proxy.toml"
    async with upstream(lambda: b"one") as one, upstream(lambda: b"two") as two:
        where = [f'upstreams = ["{one}"]\n', f'upstreams = ["{two}", "{one}"]\nbalance = "random_two"\n']
        async with proxy("--config", written(file, where[0]), "--workers", workers) as running:
            crowd = Crowd(running.port, 8)
            await crowd.answered(50)
            for number in range(1, 51):
                file.write_text(where[number % 2] + f"[timeouts]\nupstream_idle = '{number}s'\n")
                running.signal(signal.SIGHUP)
                await running.says("reloaded: ", times=number)
                await crowd.answered(5)
            await crowd.stop()
            assert crowd.losses == []
            assert set(crowd.answers) == {b"one", b"two"}
            assert running.said == [line for line in running.said if line.startswith("reloaded: ")]


async def test_a_bad_file_changes_nothing_and_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "proxy.toml"
    async with upstream() as there, proxy("--config", written(file, f'upstreams = ["{there}"]\n')) as running:
        for bad, says in [
            ('upstreams = ["10.255.255.1:1"]\n[timeouts]\nconnect = "soon"\n', f"{file}:3: timeouts.connect: "),
            (f'upstreams = ["{there}"]\nworkers = 4\n', "workers: 1 -> 4: this needs a restart"),
            (f'upstreams = ["{there}"]\n[tls]\ncertificates = ["/nowhere.pem"]\n', f"{file}:3: tls.certificates: /now"),
            (f'upstreams = ["{there}"', f"{file}:1: "),
        ]:
            file.write_text(bad)
            running.signal(signal.SIGHUP)
            await running.says("not reloaded: ", says)
            assert (await ask(running.host, running.port)).endswith(b"ok")
        file.unlink()
        running.signal(signal.SIGHUP)
        await running.says("not reloaded: ", f"{file}: No such file")
        file.write_text(f'upstreams = ["{there}"]\n[timeouts]\nconnect = "1s"\n')
        running.signal(signal.SIGHUP)
        assert await running.says("reloaded: 1") == "reloaded: 1 change: timeouts.connect: 5s -> 1s"


async def test_what_did_not_change_keeps_its_connections(tmp_path: Path) -> None:
    file = tmp_path / "proxy.toml"
    connections = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while await reader.read(65536):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(count, "127.0.0.1", 0)
    there = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    routes = '[[routes]]\npath = "/api"\ngroup = "api"\n[groups.api]\nupstreams = ["127.0.0.1:9"]\n'
    async with proxy("--config", written(file, f'upstreams = ["{there}"]\n')) as running:
        for number, text in enumerate([routes, "[retry]\nmax_retries = 0\n", "[timeouts]\nconnect = '1s'\n"], start=1):
            await ask(running.host, running.port)
            file.write_text(f'upstreams = ["{there}"]\n{text}')
            running.signal(signal.SIGHUP)
            await running.says("reloaded: ", times=number)
        assert (await ask(running.host, running.port)).endswith(b"ok")
    assert connections == 1
    server.close()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_another_address_is_listened_on_before_the_old_one_is_left(tmp_path: Path, workers: str) -> None:
    file = tmp_path / "proxy.toml"
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        elsewhere = free.getsockname()[1]
    async with upstream() as there:
        text = f'upstreams = ["{there}"]\nworkers = {workers}\n'
        file.write_text('listen = "127.0.0.1:0"\n' + text)
        async with proxy("--config", str(file), listen=None) as running:
            crowd = Crowd(running.port, 4, draining_is_fine=True)
            await crowd.answered(20)
            file.write_text(f'listen = "127.0.0.1:{elsewhere}"\n' + text)
            running.signal(signal.SIGHUP)
            await running.says("reloaded: 1")
            assert (await ask("127.0.0.1", elsewhere)).endswith(b"ok")
            with pytest.raises(ConnectionRefusedError):
                await ask("127.0.0.1", running.port)
            await crowd.stop()
            assert crowd.losses == []


async def test_an_address_that_is_taken_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "proxy.toml"
    async with upstream() as there:
        text = f'upstreams = ["{there}"]\n'
        file.write_text('listen = "127.0.0.1:0"\n' + text)
        async with proxy("--config", str(file), listen=None) as running:
            file.write_text(f'listen = "{there}"\nupstreams = ["127.0.0.1:9"]\n')
            running.signal(signal.SIGHUP)
            await running.says("not reloaded: ", there, "Address already in use")
            assert (await ask(running.host, running.port)).endswith(b"ok")


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_while_it_drains_nothing_is_reloaded(tmp_path: Path, workers: str) -> None:
    """And it goes on draining: the last answers say so."""
    file = tmp_path / "proxy.toml"
    async with upstream() as there:
        text = written(file, f'upstreams = ["{there}"]\n')
        async with proxy("--config", text, "--workers", workers) as running:
            reader, writer = await asyncio.open_connection(running.host, running.port)
            writer.write(GET)
            await reader.readuntil(b"ok")
            writer.write(GET[:5])
            running.signal(signal.SIGTERM)
            await running.says("draining: ")
            file.write_text(f'upstreams = ["{there}"]\n[timeouts]\nconnect = "1s"\n')
            running.signal(signal.SIGHUP)
            assert await running.says("not reloaded: ") == "not reloaded: it drains, so nothing was changed"
            writer.write(GET[5:])
            assert b"\r\nConnection: close\r\n" in await reader.read()
            writer.close()
            assert await running.ended() == 0


async def test_a_reload_that_a_drain_overtakes_does_not_end_it() -> None:
    server = Server(override(ProxyConfig(), {"listen": "127.0.0.1:0", "upstreams": "127.0.0.1:9", "log.access": "off"}))
    await server.start()
    prepared = server.prepare(server.config, open_sockets(server.config))
    await server.drain()
    await server.commit(prepared)
    server.leave()
    server.drain_old()
    assert server.gateway.draining
    assert server.listening() == []


async def test_a_group_that_has_gone_drains_beside_one_of_its_name() -> None:
    """Operators see both, as they are, and nothing that one of them has counted is lost."""
    answer = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await answer.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        writer.close()

    slow = await asyncio.start_server(serve, "127.0.0.1", 0)
    first = f"127.0.0.1:{slow.sockets[0].getsockname()[1]}"
    async with upstream() as second:
        without = override(ProxyConfig(), {"listen": "127.0.0.1:0", "upstreams": "127.0.0.1:9", "log.access": "off"})
        routes = [{"path": "/", "group": "api"}]
        before, after = (
            override(without, {"groups.api.upstreams": [each], "routes": routes}) for each in (first, second)
        )
        server = Server(before)
        host, port = await server.start()
        asking = asyncio.create_task(ask(host, port))
        async with asyncio.timeout(PATIENCE_S):
            while not sum(each.busy for each in worker_snapshot(server, False).upstreams):
                await asyncio.sleep(0.001)
        for config in (without, after):
            await server.commit(server.prepare(config))
        assert (await ask(host, port)).endswith(b"ok")
        assert server.why_not_ready() == ""
        for _ in range(2):
            snapshot = worker_snapshot(server, False)
            seen = [(each.address, each.state) for each in snapshot.upstreams if each.group == "api"]
            assert seen == [(second, "ready"), (first, "draining")]
            counted = snapshot.counters.upstreams["api"]
            assert {address: each.opened for address, each in counted.items()} == {first: 1, second: 1}
        answer.set()
        assert (await asking).endswith(b"ok")
        await server.drain()
        assert {each.state for each in worker_snapshot(server, False).upstreams} == {"draining"}
    slow.close()


async def test_a_worker_that_dies_meanwhile_keeps_no_reload_from_the_others(tmp_path: Path) -> None:
    """It comes back with what is in force then."""
    file = tmp_path / "proxy.toml"
    async with upstream(lambda: b"one") as one, upstream(lambda: b"two") as two:
        text = written(file, f'upstreams = ["{one}"]\n')
        async with proxy("--config", text, "--workers", "2", "--admin.listen", "127.0.0.1:0") as running:
            for number, (where, body) in enumerate([(two, b"two"), (one, b"one"), (two, b"two")], start=1):
                file.write_text(f'upstreams = ["{where}"]\n')
                os.kill(running.workers()[0], signal.SIGKILL)
                running.signal(signal.SIGHUP)
                await running.says("reloaded: ", times=number)
                await running.says("another takes its place", times=number)
                async with asyncio.timeout(PATIENCE_S):
                    while f"worker_restarts_total {number}\n" not in await metrics(running):
                        await asyncio.sleep(0.01)
                for _ in range(8):
                    assert (await ask(running.host, running.port)).endswith(body)
            assert [line for line in running.said if "not reloaded" in line] == []


async def test_the_log_goes_on_in_the_file_that_has_its_name(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    async with upstream() as there, proxy("--upstreams", there, "--log.access", str(log)) as running:
        await ask(running.host, running.port)
        log.rename(tmp_path / "access.log.1")
        running.signal(signal.SIGHUP)
        await running.says("reloaded: 0 changes")
        await ask(running.host, running.port)
    assert len(log.read_text().splitlines()) >= 1
    lines = log.read_text() + (tmp_path / "access.log.1").read_text()
    assert len(lines.splitlines()) == 2
