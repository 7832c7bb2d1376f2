"""Several workers under one master: they share the load, one that dies is replaced, and all end as one."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from live import GET, PATIENCE_S, Crowd, LiveProxy, ask, proxy, upstream

from proxy.config import ListenerConfig
from proxy.sockets import listen


async def page(port: int, path: str) -> str:
    """One of the admin address."""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        text = (await reader.read()).decode()
        writer.close()
    return text.partition("\r\n\r\n")[2]


async def metrics(port: int) -> dict[str, float]:
    text = await page(port, "/metrics")
    return {name: float(value) for name, value in re.findall(r"^(kalab\S+) (\S+)$", text, re.MULTILINE)}


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until_gone(pids: list[int]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while any(map(is_alive, pids)):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("reuse_port", ["false", "true"])
async def test_workers_share_the_load(tmp_path: Path, reuse_port: str) -> None:
    """Each has written a log of its own; connections have gone to more than one of them."""
    log = tmp_path / "events.jsonl"
    flags = ["--log.events", str(log), "--listener.reuse_port", reuse_port]
    async with upstream() as there, proxy("--upstreams", there, "--workers", "2", *flags) as running:
        assert len(running.workers()) == 2
        await asyncio.gather(*(ask(running.host, running.port) for _ in range(64)))
    finished = Counter[str]()
    for each in tmp_path.iterdir():
        finished[each.name] += each.read_text().count('"exchange.finished"')
    assert set(finished) == {"events.jsonl.0", "events.jsonl.1"}
    assert sum(finished.values()) == 64
    assert min(finished.values()) > 0


async def test_one_that_is_killed_is_replaced_and_the_others_go_on() -> None:
    async with upstream() as there, proxy("--upstreams", there, "--workers", "2") as running:
        before = running.workers()
        os.kill(before[0], signal.SIGKILL)
        line = await running.says("was killed by SIGKILL; another takes its place")
        assert f"(pid {before[0]})" in line
        for _ in range(20):
            assert (await ask(running.host, running.port)).endswith(b"ok")
        async with asyncio.timeout(PATIENCE_S):
            while len(running.workers()) < 2:
                await asyncio.sleep(0.01)
        assert before[0] not in running.workers()
        assert before[1] in running.workers()


async def test_one_that_is_told_to_stop_drains_and_is_replaced() -> None:
    async with upstream() as there, proxy("--upstreams", there, "--workers", "2") as running:
        crowd = Crowd(running.port, 4, draining_is_fine=True)
        await crowd.answered(20)
        os.kill(running.workers()[0], signal.SIGTERM)
        await running.says("ended with exit code 0; another takes its place")
        await crowd.answered(20)
        await crowd.stop()
        assert crowd.losses == []


async def test_who_is_told_to_stop_is_let_go_of_while_another_serves() -> None:
    """Both are told, and somebody listens all the time."""
    flags = ["--workers", "2", "--admin.listen", "127.0.0.1:0"]
    async with upstream() as there, proxy("--upstreams", there, *flags) as running:
        held = [await half_a_request(running) for _ in range(64)]  # so that each worker has some
        told = running.workers()
        for worker in told:
            os.kill(worker, signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            while not await draining_workers(running.admin_port):
                await asyncio.sleep(0.05)
        assert await page(running.admin_port, "/readyz") == "ready\n"
        assert (await ask(running.host, running.port)).endswith(b"ok")
        assert await draining_workers(running.admin_port) == 1
        for reader, writer in held:
            writer.write(GET[5:])
            assert (await reader.readuntil(b"ok")).endswith(b"ok")
            writer.close()
        await running.says("ended with exit code 0; another takes its place", times=2)
        assert set(running.workers()).isdisjoint(told)


async def draining_workers(port: int) -> float:
    """In how many workers the upstream drains."""
    found = await metrics(port)
    return sum(found[name] for name in found if "upstream_workers{" in name and 'state="draining"' in name)


async def test_who_is_told_twice_to_stop_does_not_hurry() -> None:
    """A service manager that signals everybody is followed by the master."""
    async with upstream() as there, proxy("--upstreams", there, "--workers", "2") as running:
        held = [await half_a_request(running) for _ in range(8)]
        for pid in (*running.workers(), running.process.pid):
            os.kill(pid, signal.SIGTERM)
        await running.says("draining: 8 connections")
        await until_refused(running.port)
        for reader, writer in held:
            assert (await finished(reader, writer)).endswith(b"ok")
        assert await running.ended() == 0
        assert running.said[-1] == "drained: nobody was cut off"


async def half_a_request(running: LiveProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """One that a drain waits for: the proxy has read the first byte of it."""
    reader, writer = await asyncio.open_connection(running.host, running.port)
    writer.write(GET)
    await reader.readuntil(b"ok")
    writer.write(GET[:5])
    await asyncio.sleep(0)
    return reader, writer


async def finished(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    async with asyncio.timeout(PATIENCE_S):
        writer.write(GET[5:])
        answer = await reader.read()
        writer.close()
        return answer


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_end_under_load_loses_nothing(workers: str, number: signal.Signals) -> None:
    async with upstream() as there, proxy("--upstreams", there, "--workers", workers) as running:
        children = running.workers()
        crowd = Crowd(running.port, 16, draining_is_fine=True)
        await crowd.answered(200)
        running.signal(number)
        assert await running.ended() == 0
        await crowd.stop()
        assert crowd.losses == []
        assert [line.partition(":")[0] for line in running.said] == ["draining", "drained"]
        await until_gone(children)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_second_signal_ends_it_at_once(workers: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        there = f"127.0.0.1:{silent.getsockname()[1]}"
        await end_it_twice("--upstreams", there, "--workers", workers, "--drain_grace", "off")


async def end_it_twice(*flags: str) -> None:
    async with proxy(*flags) as running:
        reader, writer = await asyncio.open_connection(running.host, running.port)
        writer.write(GET)
        running.signal(signal.SIGTERM)
        await until_refused(running.port)
        assert running.process.returncode is None
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0
        assert await reader.read() == b""
        writer.close()


async def until_refused(port: int) -> None:
    """Nobody listens there any more."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                return
            writer.close()
            await asyncio.sleep(0.01)


async def test_workers_end_when_their_master_has_gone() -> None:
    async with upstream() as there, proxy("--upstreams", there, "--workers", "2", ends_with=-9) as running:
        children = running.workers()
        assert len(children) == 2
        running.signal(signal.SIGKILL)
        await until_gone(children)


async def test_a_worker_that_cannot_start_is_one_line_and_exit_3(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="No such file"):
        async with proxy("--workers", "2", "--log.access", str(tmp_path / "no" / "access.log")):
            pass


@pytest.mark.parametrize("flags", [["1"], ["2"], ["2", "--listener.reuse_port", "true"]])
async def test_operators_see_what_the_kernel_made_of_the_listening_socket(flags: list[str]) -> None:
    somaxconn = int(Path("/proc/sys/net/core/somaxconn").read_text())
    flags = ["--workers", *flags, "--admin.listen", "127.0.0.1:0", "--listener.backlog", str(somaxconn + 1)]
    async with proxy(*flags) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.admin_port)
        writer.write(b"GET /config HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        page = json.loads((await reader.read()).partition(b"\r\n\r\n")[2])
        writer.close()
        rows = {row["key"]: (row["asked"], row["got"]) for row in page["sockets"]}
        shared = "true" if "--listener.reuse_port" in flags else "false"
        assert rows["listener.backlog"] == (str(somaxconn + 1), str(somaxconn))
        assert rows["listener.reuse_port"] == (shared, shared)
        assert rows["downstream_socket.nodelay"] == ("true", "true")


async def test_the_master_adds_up_what_its_workers_count() -> None:
    async with upstream() as there:
        flags = ["--workers", "2", "--admin.listen", "127.0.0.1:0"]
        async with proxy("--upstreams", there, *flags) as running:
            admin = running.admin_port
            await asyncio.gather(*(ask(running.host, running.port) for _ in range(20)))
            assert (await metrics(admin))["kalab_proxy_downstream_accepted_total"] == 20
            assert (await metrics(admin))["kalab_proxy_workers"] == 2
            os.kill(running.workers()[0], signal.SIGKILL)
            await running.says("another takes its place")
            async with asyncio.timeout(PATIENCE_S):
                while (found := await metrics(admin))["kalab_proxy_worker_restarts_total"] < 1:
                    await asyncio.sleep(0.01)
            assert found["kalab_proxy_downstream_accepted_total"] == 20


# ---- what sockets of their own cost


def test_what_waits_at_a_socket_of_its_own_is_reset_when_it_closes() -> None:
    """Of several sockets with SO_REUSEPORT each has its own queue. It dies with it, though others listen there still.

    Unless net.ipv4.tcp_migrate_req is 1: then another one of them takes it over.
    """
    migrates = Path("/proc/sys/net/ipv4/tcp_migrate_req").read_text().strip() == "1"
    own = ListenerConfig(reuse_port=True)
    (first,) = listen("127.0.0.1", 0, own)
    port = first.getsockname()[1]
    (second,) = listen("127.0.0.1", port, own)
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(64)]
    at_first = 0
    while True:
        try:
            first.accept()[0].close()
            at_first += 1
        except BlockingIOError:
            break
    assert 0 < at_first < 64  # the kernel has dealt them out before anybody accepted
    waiting = 64 - at_first
    second.close()
    lost = 0
    for client in clients:
        client.settimeout(PATIENCE_S)
        try:
            while client.recv(1):
                pass
        except ConnectionResetError:
            lost += 1
        except TimeoutError:
            pass
        client.close()
    assert lost == (0 if migrates else waiting)
    first.close()


def test_what_waits_at_a_shared_socket_stays_when_one_of_its_holders_goes() -> None:
    (shared,) = listen("127.0.0.1", 0, ListenerConfig())
    held_by_another = shared.dup()
    client = socket.create_connection(shared.getsockname())
    held_by_another.close()
    accepted, _ = shared.accept()
    client.sendall(b"x")
    assert accepted.recv(1) == b"x"
    for each in (client, accepted, shared):
        each.close()
