"""Active checks: what passes, what fails and why, when they are made; against real sockets that answer as told."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from typing import Any

import pytest
import trustme

from proxy.config import GroupConfig, ProxyConfig, override
from proxy.health import CheckTls, HealthChecks

PATIENCE_S = 20
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def config_of(**changes: object) -> GroupConfig:
    """A group's config with checks, and some of their keys changed."""
    keys = {"check_path": "/up", "check_every": "10ms", "check_timeout": "10s", **changes}
    dotted = {f"health.{name}": value for name, value in keys.items()}
    return override(ProxyConfig(), dotted).group_configs()["default"]


NO_CHECKS = ProxyConfig().group_configs()["default"]


class FakeGroup:
    """A group as its checks see it."""

    def __init__(self, *addresses: str, **changes: object) -> None:
        self.config = config_of(**changes)
        self.members: dict[str, object] = dict.fromkeys(addresses)
        self.results: asyncio.Queue[tuple[str, bool, str]] = asyncio.Queue()
        self.on_members: Callable[[], None] = lambda: None

    def check_result(self, address: str, ok: bool, why: str) -> None:
        self.results.put_nowait((address, ok, why))

    async def next(self) -> tuple[str, bool, str]:
        async with asyncio.timeout(PATIENCE_S):
            return await self.results.get()

    def forget(self) -> None:
        while not self.results.empty():
            self.results.get_nowait()


class Target:
    """An upstream that answers each check with the same bytes and closes; None: it never answers."""

    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer
        self.asked: list[bytes] = []
        self.open = self.most_open = 0
        self.gone = asyncio.Event()  # a client has left
        self.address = ""
        self._server: asyncio.Server | None = None

    async def start(self, context: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        try:
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            if self.answer is None:
                await reader.read()
            else:
                writer.write(self.answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            self.gone.set()
            writer.close()


Starts = Callable[..., Awaitable[Target]]


@pytest.fixture
async def target() -> AsyncIterator[Starts]:
    targets: list[Target] = []

    async def start(answer: bytes | None = OK, context: ssl.SSLContext | None = None) -> Target:
        targets.append(Target(answer))
        await targets[-1].start(context)
        return targets[-1]

    yield start
    for each in targets:
        await each.stop()


@pytest.fixture
async def start_checks() -> AsyncIterator[Callable[..., HealthChecks]]:
    started: list[HealthChecks] = []

    def start(group: FakeGroup, *args: Any) -> HealthChecks:
        started.append(HealthChecks(group, *args))
        started[-1].start()
        return started[-1]

    yield start
    for checks in started:
        checks.close()
    await asyncio.sleep(0)  # the tasks end


Checks = Callable[..., HealthChecks]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (OK, ""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.0 399 Odd\r\n\r\n", ""),
        (b"HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n", ""),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK, ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000, ""),  # its body is not waited for
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "status 400"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "status 503"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 20, "an invalid answer: too many interim responses"),
        (b"HTTP/1.1 200 OK\r\n", "no whole head of an answer"),
        (b"", "no whole head of an answer"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "an invalid answer: not a status line"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", "no whole head of an answer"),
    ],
    ids=lambda value: repr(value[:40]),
)
async def test_what_passes_and_what_fails(target: Starts, start_checks: Checks, answer: bytes, problem: str) -> None:
    upstream = await target(answer)
    group = FakeGroup(upstream.address)
    start_checks(group)
    assert await group.next() == (upstream.address, not problem, problem)


async def test_one_that_does_not_answer_fails_in_time(target: Starts, start_checks: Checks) -> None:
    upstream = await target(None)
    group = FakeGroup(upstream.address, check_timeout="20ms")
    start_checks(group)
    assert await group.next() == (upstream.address, False, "no answer within 20ms")
    async with asyncio.timeout(PATIENCE_S):
        await upstream.gone.wait()


async def test_one_that_is_not_there_fails(target: Starts, start_checks: Checks) -> None:
    upstream = await target()
    await upstream.stop()
    group = FakeGroup(upstream.address)
    start_checks(group)
    address, ok, why = await group.next()
    assert (address, ok) == (upstream.address, False)
    assert "refused" in why.lower() or "connect" in why.lower()


async def test_a_check_that_finds_no_port_here_is_no_result(
    target: Starts, start_checks: Checks, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = await target()
    lacking, asked = 3, 0

    async def open_connection(*args: Any, **more: Any) -> Any:
        nonlocal lacking, asked
        asked += 1
        if asked > 1 and lacking:  # who has never been reached may be whom it cannot reach
            lacking -= 1
            raise OSError(99, "Cannot assign requested address")
        return await real(*args, **more)

    real = asyncio.open_connection
    monkeypatch.setattr("proxy.health.asyncio.open_connection", open_connection)
    group = FakeGroup(upstream.address)
    start_checks(group)
    assert [await group.next(), await group.next()] == [(upstream.address, True, "")] * 2
    assert lacking == 0


async def test_a_check_that_never_found_a_way_is_a_failed_one(
    start_checks: Checks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for IPv6 on a machine that has none."""

    async def open_connection(*_: Any, **__: Any) -> Any:
        raise OSError(99, "Cannot assign requested address")

    monkeypatch.setattr("proxy.health.asyncio.open_connection", open_connection)
    group = FakeGroup("[::1]:9000")
    start_checks(group)
    assert await group.next() == ("[::1]:9000", False, "Cannot assign requested address")


@pytest.mark.parametrize(("host", "field"), [("", None), ("shop.example", b"shop.example")])
async def test_what_is_asked(target: Starts, start_checks: Checks, host: str, field: bytes | None) -> None:
    upstream = await target()
    group = FakeGroup(upstream.address, check_path="/up?deep=1", check_host=host)
    start_checks(group)
    await group.next()
    named = field or upstream.address.encode()
    assert upstream.asked[0] == (
        b"GET /up?deep=1 HTTP/1.1\r\nHost: %b\r\nUser-Agent: kalab-check\r\nConnection: close\r\n\r\n" % named
    )


async def test_never_two_at_a_time_of_one_upstream(target: Starts, start_checks: Checks) -> None:
    upstream = await target(None)
    group = FakeGroup(upstream.address, check_every="1ms", check_timeout="20ms")
    start_checks(group)
    for _ in range(3):
        await group.next()
    assert upstream.most_open <= 2  # the second may have come before the first one's end was noticed here
    assert len(upstream.asked) <= 5


async def test_all_are_checked_each_at_its_own_time(target: Starts, start_checks: Checks) -> None:
    upstreams = [await target() for _ in range(3)]
    group = FakeGroup(*(upstream.address for upstream in upstreams))
    checks = start_checks(group, lambda _: None, Random(7))
    assert repr(checks) == "<HealthChecks of 3 upstreams>"
    seen: set[str] = set()
    while len(seen) < 3:
        seen.add((await group.next())[0])


async def test_checks_are_spread_and_jittered(monkeypatch: pytest.MonkeyPatch, start_checks: Checks) -> None:
    """With the waits recorded instead of waited for, and the checks answered by hand."""
    waits: dict[str, list[float]] = {}
    enough = asyncio.Event()

    async def checked(_self: HealthChecks, _address: str) -> str:
        return ""

    async def sleep(seconds: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        waited = waits.setdefault(task.get_name(), [])
        waited.append(seconds)
        if len(waited) == 50:
            enough.set()
        await real_sleep(0)

    real_sleep = asyncio.sleep
    monkeypatch.setattr(HealthChecks, "_check", checked)
    monkeypatch.setattr("proxy.health.asyncio.sleep", sleep)
    group = FakeGroup(*(f"u{number}:1" for number in range(20)), check_every="10s")
    checks = start_checks(group, lambda _: None, Random(3))
    async with asyncio.timeout(PATIENCE_S):
        await enough.wait()
    checks.close()
    firsts = sorted(waited[0] for waited in waits.values())
    assert len(firsts) == 20
    assert firsts[0] < 2
    assert firsts[-1] > 8
    later = [wait for waited in waits.values() for wait in waited[1:]]
    assert 9 <= min(later) < 9.5
    assert 10.5 < max(later) <= 11


async def test_it_follows_the_group(target: Starts, start_checks: Checks) -> None:
    one, other = await target(), await target()
    group = FakeGroup(one.address)
    group.config = NO_CHECKS
    checks = start_checks(group)
    assert repr(checks) == "<HealthChecks of 0 upstreams>"
    group.config = config_of()
    group.on_members()
    assert (await group.next())[0] == one.address
    group.members = {other.address: None}
    group.on_members()
    group.forget()
    for _ in range(3):
        assert (await group.next())[0] == other.address
    group.config = NO_CHECKS
    group.on_members()
    assert repr(checks) == "<HealthChecks of 0 upstreams>"


async def test_closing_ends_a_check_under_way(target: Starts, start_checks: Checks) -> None:
    upstream = await target(None)
    group = FakeGroup(upstream.address)
    checks = start_checks(group)
    async with asyncio.timeout(PATIENCE_S):
        while not upstream.asked:
            await asyncio.sleep(0.001)
        checks.close()
        await upstream.gone.wait()
    assert group.results.empty()
    group.on_members()
    assert repr(checks) == "<HealthChecks of 0 upstreams>"


@pytest.mark.parametrize(("name", "problem"), [("shop.example", ""), ("other.example", "TLS: ")])
async def test_over_tls_the_name_is_verified(target: Starts, start_checks: Checks, name: str, problem: str) -> None:
    authority = trustme.CA()
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("shop.example").configure_cert(theirs)
    ours = ssl.create_default_context()
    authority.configure_trust(ours)
    upstream = await target(OK, theirs)
    group = FakeGroup(upstream.address)
    start_checks(group, lambda _: CheckTls(ours, name))
    _, ok, why = await group.next()
    assert ok is not bool(problem)
    assert why.startswith(problem)
