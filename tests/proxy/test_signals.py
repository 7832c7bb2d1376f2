"""What signals do beside ending it, and what is said of that: one line, however many workers there are."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from pathlib import Path

import pytest
from live import GET, PATIENCE_S, LiveProxy, ask, proxy, upstream

from proxy.server import say_drained


async def idle_clients(running: LiveProxy, count: int) -> list[asyncio.StreamWriter]:
    """Clients that have been answered, and stay."""
    writers = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection(running.host, running.port)
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\nok")
        writers.append(writer)
    return writers


def about_the_end(running: LiveProxy) -> list[str]:
    return [line for line in running.said if line.startswith("drain")]


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_drain_says_that_it_begins_and_how_it_ended(workers: str) -> None:
    async with upstream() as there, proxy("--upstreams", there, "--workers", workers) as running:
        clients = await idle_clients(running, 3)
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0
        assert about_the_end(running) == [
            "draining: 3 connections to finish, at most 10s",
            "drained: nobody was cut off",
        ]
        for client in clients:
            client.close()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_drain_says_how_many_it_has_cut_off(workers: str) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    silent.setblocking(False)
    there = f"127.0.0.1:{silent.getsockname()[1]}"
    async with proxy("--upstreams", there, "--workers", workers, "--drain_grace", "300ms") as running:
        clients = [await asyncio.open_connection(running.host, running.port) for _ in range(2)]
        asked = []
        async with asyncio.timeout(PATIENCE_S):
            for _, writer in clients:
                writer.write(GET)
                asked.append((await asyncio.get_running_loop().sock_accept(silent))[0])
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0
        assert about_the_end(running) == [
            "draining: 2 connections to finish, at most 300ms",
            "drained: 2 connections cut off",
        ]
        for _, writer in clients:
            writer.close()
        for connection in asked:
            connection.close()
    silent.close()


@pytest.mark.parametrize(
    ("cut_off", "killed", "said"),
    [
        (0, 0, "nobody was cut off"),
        (1, 0, "1 connection cut off"),
        (12, 0, "12 connections cut off"),
        (0, 1, "0 connections cut off, beside those of 1 worker that died"),
        (1, 2, "1 connection cut off, beside those of 2 workers that died"),
    ],
)
def test_how_a_drain_has_ended(cut_off: int, killed: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    say_drained(cut_off, killed)
    assert capsys.readouterr().err == f"drained: {said}\n"


async def test_a_drain_does_not_speak_for_a_worker_that_died() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        there = f"127.0.0.1:{silent.getsockname()[1]}"
        async with proxy("--upstreams", there, "--workers", "2", "--drain_grace", "off") as running:
            _, client = await asyncio.open_connection(running.host, running.port)
            client.write(GET)
            silent.setblocking(False)
            asked, _ = await asyncio.get_running_loop().sock_accept(silent)
            running.signal(signal.SIGTERM)
            await running.says("draining: 1 connection to finish, as long as they need")
            for child in running.workers():  # the one with the client, and the other if it is still there
                os.kill(child, signal.SIGKILL)
            assert await running.ended() == 0
            assert "that died" in about_the_end(running)[1]
            client.close()
            asked.close()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_sigusr1_opens_the_log_anew_and_does_nothing_else(workers: str, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    flags = ("--log.access", str(log), "--workers", workers)
    async with upstream() as there, proxy("--upstreams", there, *flags) as running:
        children = running.workers()
        await ask(running.host, running.port)
        async with asyncio.timeout(PATIENCE_S):
            while not log.read_text():
                await asyncio.sleep(0.01)
        log.rename(tmp_path / "access.log.1")
        running.signal(signal.SIGUSR1)
        assert await running.says("reopened") == f"reopened: access log {log}"
        assert log.exists()
        for child in children:  # as when a service manager sends it to everybody
            os.kill(child, signal.SIGUSR1)
        await ask(running.host, running.port)
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0
        assert [json.loads(line)["status"] for line in log.read_text().splitlines()] == [200]
        assert len((tmp_path / "access.log.1").read_text().splitlines()) == 1
        assert running.said[0] == f"reopened: access log {log}"
        assert len(running.said) == 3  # and two of its end


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(("number", "before"), [(signal.SIGUSR1, "not reopened: "), (signal.SIGHUP, "")])
async def test_a_log_that_cannot_be_opened_anew_is_told_once(
    workers: str, number: signal.Signals, before: str, tmp_path: Path
) -> None:
    log = tmp_path / "access.log"
    flags = ("--log.access", str(log), "--workers", workers)
    async with upstream() as there, proxy("--upstreams", there, *flags) as running:
        log.rename(tmp_path / "access.log.1")
        log.mkdir()
        running.signal(number)
        line = await running.says("access log")
        assert line == (
            f"{before}access log {log}: Is a directory; it could not be opened anew and goes on in the old file"
        )
        await ask(running.host, running.port)
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0
        assert len([line for line in running.said if "access log" in line]) == 1
    assert len((tmp_path / "access.log.1").read_text().splitlines()) == 1


async def test_without_a_file_there_is_nothing_to_reopen() -> None:
    async with proxy("--upstreams", "127.0.0.1:1") as running:
        running.signal(signal.SIGUSR1)
        assert await running.says("reopen") == "nothing to reopen: log.access is off"


async def test_a_signal_that_means_nothing_here_does_nothing() -> None:
    async with upstream() as there, proxy("--upstreams", there) as running:
        running.signal(signal.SIGUSR2)
        assert await ask(running.host, running.port)
    assert [line.partition(":")[0] for line in running.said] == ["draining", "drained"]
