"""The admin address: what it shows, who may ask, who may change, and that nothing sent to it does harm."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from test_metrics import ADDRESS, worker

from proxy.admin import site as admin_module
from proxy.admin.api import ConfigRow, ConfigView, NotLive, Unavailable
from proxy.admin.guard import SHORTEST_TOKEN, Refusal, changes_of, check_change, check_sender, read_token
from proxy.admin.site import MOST_BODY, MOST_CONNECTIONS, Admin, pool_view
from proxy.config import AdminConfig, Change, ConfigError, ProxyConfig, keys, override
from proxy.http1.grammar import PSEUDONYM
from proxy.observe.metrics import MOST_SHOWN, Snapshot, build_info

WAIT_S = 30.0
TOKEN = "correct-horse-battery"
BEFORE = override(ProxyConfig(), {"groups.api.upstreams": ["127.0.0.1:9001"]})
CHANGE = b'{"timeouts.upstream_idle": "3s", "groups.api.pool.max_idle": 10}'


class FakeControl:
    """A proxy that is always well, and keeps what it is asked to change."""

    def __init__(self) -> None:
        self.asked: list[dict[str, object]] = []
        self.not_ready = ""
        self.problem: Exception | None = None
        self.snapshots = [worker(0), worker(1)]
        self.hangs = False

    async def snapshot(self, with_pool: bool) -> Snapshot:
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        if self.problem is not None:
            raise self.problem
        if not with_pool:
            for each in self.snapshots:
                each.pool = []
        return Snapshot(self.snapshots, build=build_info())

    async def config(self) -> ConfigView:
        rows = [ConfigRow("timeouts.upstream_idle", "4s", "default", "patch")]
        return ConfigView(rows, build=build_info())

    async def patch(self, changes: dict[str, object]) -> list[Change]:
        self.asked.append(changes)
        if self.problem is not None:
            raise self.problem
        override(BEFORE, changes)  # says what is wrong with keys and values
        return [Change(key, "before", str(value)) for key, value in changes.items()]

    def ready(self) -> str:
        return self.not_ready


class Running(NamedTuple):
    """An admin address, and what is behind it."""

    admin: Admin
    control: FakeControl
    port: int

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts one, with a token unless told otherwise."""
    admins: list[Admin] = []

    async def start(*, token: str = TOKEN, **changes: Any) -> Running:
        path = tmp_path / "token"
        path.write_text(token + "\n")
        path.chmod(0o600)
        control = FakeControl()
        given = {"listen": "127.0.0.1:0", "token_file": str(path) if token else "", **changes}
        admin = Admin(AdminConfig(**given), control)
        admins.append(admin)
        _, port = await admin.start()
        return Running(admin, control, port)

    yield start
    for admin in admins:
        await admin.close()
        await admin.close()


async def exchange(port: int, request: bytes) -> bytes:
    """Sends bytes, and returns all that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(WAIT_S):
        writer.write(request)
        try:
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def head(first: str = "GET /healthz HTTP/1.1", *lines: str, host: str | None = "localhost") -> bytes:
    fields = [first, *([f"Host: {host}"] if host is not None else []), *lines]
    return "".join(f"{line}\r\n" for line in [*fields, ""]).encode("latin-1")


def change(
    body: bytes = CHANGE,
    *lines: str,
    host: str = "localhost",
    token: str | None = f"Bearer {TOKEN}",
    content_type: str | None = "application/json",
    length: int | None = None,
) -> bytes:
    given = {"Authorization": token, "Content-Type": content_type}
    fields = [f"{name}: {value}" for name, value in given.items() if value is not None]
    size = len(body) if length is None else length
    return head("PATCH /config HTTP/1.1", *fields, f"Content-Length: {size}", *lines, host=host) + body


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def body_of(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


# --- What it shows


async def test_every_page_through_a_real_client(start: Start) -> None:
    running = await start()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(WAIT_S)) as session:

        async def get(path: str) -> tuple[int, str, str]:
            async with session.get(running.url(path)) as response:
                assert response.headers["Cache-Control"] == "no-store"
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                assert "Access-Control-Allow-Origin" not in response.headers
                assert response.headers["Server"] == "kalab"
                return response.status, response.headers["Content-Type"], await response.text()

        assert await get("/healthz") == (200, "text/plain; charset=utf-8", "ok\n")
        assert await get("/readyz") == (200, "text/plain; charset=utf-8", "ready\n")
        index = (await get("/"))[2]
        assert index.split() == ["/metrics", "/healthz", "/readyz", "/pool", "/config"]
        status, kind, pool = await get("/pool?anything")
        assert (status, kind) == (200, "application/json")
        shown = json.loads(pool)
        assert shown["size"] == 2
        assert shown["note"] == ""
        assert shown["connections"][0] == {
            "worker": 0,
            "group": "api",
            "upstream": ADDRESS,
            "conn": f"10.0.0.2:40312>{ADDRESS}",
            "state": "idle",
            "age_s": 12.0,
            "idle_s": 4.0,
            "requests": 1,
        }
        assert shown["upstreams"][1]["worker"] == 1
        status, kind, metrics = await get("/metrics")
        assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert len(list(text_string_to_metric_families(metrics))) > 25
        status, _, config = await get("/config")
        assert json.loads(config)["rows"] == [
            {"key": "timeouts.upstream_idle", "value": "4s", "origin": "default", "change": "patch"}
        ]
        assert TOKEN not in config


async def test_a_proxy_that_should_get_no_requests_says_why(start: Start) -> None:
    running = await start()
    running.control.not_ready = "draining"
    answer = await exchange(running.port, head("GET /readyz HTTP/1.1"))
    assert status_of(answer) == 503
    assert answer.endswith(b"\r\n\r\ndraining\n")


async def test_head_has_no_body_and_a_connection_one_request(start: Start) -> None:
    running = await start()
    answer = await exchange(running.port, head("HEAD /healthz HTTP/1.1") + head())
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert answer.count(b"HTTP/1.1") == 1
    assert b"Connection: close\r\n" in answer


def test_more_connections_than_one_can_look_at_are_cut_with_a_note() -> None:
    crowded = worker()
    crowded.pool = crowded.pool * (MOST_SHOWN + 5)
    crowded.pool_size = 4000
    view = pool_view(Snapshot([crowded, worker(1)]))
    assert len(view["connections"]) == MOST_SHOWN  # type: ignore[arg-type]
    assert view["note"] == f"{4001 - MOST_SHOWN} more are left out"


# --- Who may ask


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (head(), 200),
        (head(host="127.0.0.1:9901"), 200),
        (head(host="[::1]:9901"), 200),
        (head(host="LOCALHOST"), 200),
        (head(host="admin.internal"), 200),  # as allowed_hosts says
        (head(host="evil.example"), 421),  # rebinding: a name of theirs that leads here
        (head(host="localhost.evil.example"), 421),
        (head(host="127.0.0.1.evil.example"), 421),
        (head(host="10.0.0.1"), 421),  # an address, but not the one that was connected to
        (head(host="localhost@evil.example"), 421),
        (head(host=""), 421),
        (head(host=None), 400),
        (head("GET /healthz HTTP/1.0", host=None), 421),
        (head("GET /healthz HTTP/1.1", "Origin: http://evil.example"), 403),
        (head("GET /healthz HTTP/1.1", "Origin: null"), 403),
        (head("GET /metrics HTTP/1.1", "Origin: http://localhost:9901"), 403),
        (head("GET /healthz HTTP/1.1", f"Via: 1.1 {PSEUDONYM.decode()}"), 403),
        (head("GET /healthz HTTP/1.1", f"Via: 1.0 other, 1.1 {PSEUDONYM.decode()}"), 403),
        (head("GET /healthz HTTP/1.1", "Via: 1.1 other"), 200),
        (head("GET http://evil.example/healthz HTTP/1.1"), 404),
        (head("GET //healthz HTTP/1.1"), 404),
        (head("GET /healthz/ HTTP/1.1"), 404),
        (head("GET /../token HTTP/1.1"), 404),
        (head("GET /favicon.ico HTTP/1.1"), 404),
        (head("POST /healthz HTTP/1.1", "Content-Length: 0"), 405),
        (head("POST /config HTTP/1.1", "Content-Length: 0"), 405),
        (head("PUT /config HTTP/1.1", "Content-Length: 0"), 405),
        (head("DELETE /pool HTTP/1.1"), 405),
        (head("TRACE / HTTP/1.1"), 405),
        (head("OPTIONS /config HTTP/1.1", "Access-Control-Request-Method: PATCH"), 405),
        (head("OPTIONS /config HTTP/1.1", "Origin: http://a", "Access-Control-Request-Method: PATCH"), 403),
        (head("OPTIONS * HTTP/1.1"), 404),
        (head("CONNECT localhost:22 HTTP/1.1"), 404),
        (head("GET /healthz HTTP/1.1", "Expect: <script>"), 200),
        (head("GET /healthz HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket"), 200),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /<script>alert(1)</script>\r\n\r\n", 421),  # HTTP/0.9
        (head("GET /healthz HTTP/1.1", "X: " + "a" * 20_000), 400),
        (head("GET /healthz HTTP/1.1", *(f"X-{n}: a" for n in range(300))), 400),
        (head("GET /" + "a" * 20_000 + " HTTP/1.1"), 400),
        (head("GET /healthz HTTP/1.1", "Content-Length: 1", "Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
    ],
)
async def test_who_may_ask(start: Start, request_: bytes, status: int, capfd: pytest.CaptureFixture[str]) -> None:
    running = await start(allowed_hosts=("admin.internal",))
    answer = await exchange(running.port, request_)
    assert status_of(answer) == status
    assert b"evil" not in answer
    assert b"script" not in answer
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("headers", "local_ip", "status"),
    [
        ({"Host": ["localhost"]}, "127.0.0.1", 0),
        ({"Host": ["localhost", "localhost"]}, "127.0.0.1", 421),
        ({"Host": ["10.1.2.3:9901"]}, "10.1.2.3", 0),  # a public one, asked for by its address
        ({"Host": ["[fd00::1]:9901"]}, "fd00::1", 0),
        ({"Host": ["fd00::1"]}, "fd00::1", 421),
        ({"Host": ["localhost"], "Origin": ["http://localhost"]}, "127.0.0.1", 403),
        ({"Host": ["localhost"], "Origin": [""]}, "127.0.0.1", 403),
        ({"Host": ["localhost"], "Via": ["1.1 other", "HTTP/1.1 KALAB (x)"]}, "127.0.0.1", 403),
        ({"Host": ["localhost"], "Via": ["1.1 kalabash"]}, "127.0.0.1", 0),
    ],
)
def test_the_sender_by_its_fields(headers: dict[str, list[str]], local_ip: str, status: int) -> None:
    found = 0
    try:
        check_sender(lambda name: headers.get(name, []), local_ip, ())
    except Refusal as refusal:
        found = refusal.status
    assert found == status


def test_the_proxy_refuses_to_lead_to_its_own_admin_address() -> None:
    with pytest.raises(ConfigError, match="admin"):
        override(ProxyConfig(), {"upstreams": ["127.0.0.1:9901"]})


# --- Who may change


@pytest.mark.parametrize(
    ("request_", "status", "says"),
    [
        (change(), 200, ""),
        (change(content_type="application/json; charset=utf-8"), 200, ""),
        (change(b"{}", token=None), 401, "Bearer"),
        (change(token=""), 401, "Bearer"),
        (change(token="Bearer"), 401, "Bearer"),
        (change(token=f"Bearer {TOKEN}x"), 401, "Bearer"),
        (change(token=f"Bearer {TOKEN[:-1]}"), 401, "Bearer"),
        (change(token=f"Basic {TOKEN}"), 401, "Bearer"),
        (change(token=f"Bearer {TOKEN}\xff"), 401, "Bearer"),
        (change(CHANGE, "Authorization: Bearer other"), 401, "Bearer"),
        (change(content_type="application/x-www-form-urlencoded"), 415, "application/json"),  # what a form can send
        (change(content_type="text/plain"), 415, "application/json"),
        (change(content_type="multipart/form-data; boundary=application/json"), 415, "application/json"),
        (change(content_type=None), 415, "application/json"),
        (change(host="evil.example"), 421, "name"),
        (change(CHANGE, "Origin: http://localhost"), 403, "pages"),
        (change(b" " * (MOST_BODY + 1)), 413, "65536"),
        (change(b" " * 1000, length=MOST_BODY * 50), 413, "65536"),
        (change(b""), 400, "JSON"),
        (change(b"{"), 400, "JSON"),
        (change(b"[]"), 400, "object"),
        (change(b"{}"), 400, "object"),
        (change(b"null"), 400, "object"),
        (change(b'"timeouts"'), 400, "object"),
        (change(b"\xff\xfe"), 400, "UTF-8"),
        (change(b'{"a": 1, "a": 2}'), 400, "twice"),
        (change(b'{"timeouts.connect": NaN}'), 400, "NaN"),
        (change(b'{"timeouts.connect": ' + b"9" * 5000 + b"}"), 400, "JSON"),
        (change(b'{"a": ' + b"[" * 60_000), 400, "nested"),
        (change(b'{"routes": ' + b"[" * 900 + b"]" * 900 + b"}"), 400, "nested"),
        (change(b"\x1f\x8b\x08\x00", "Content-Encoding: gzip"), 400, "UTF-8"),
        (change(b'{"timeouts.upstream_idel": "3s"}'), 400, "timeouts.upstream_idle"),  # the nearest key
        (change(b'{"timeouts.upstream_idle": 3}'), 400, "duration"),
        (change(b'{"timeouts.upstream_idle": null}'), 400, "duration"),
        (change(b'{"timeouts.upstream_idle": "\\ud800"}'), 400, "Unicode"),
        (change(b'{"tls": {"client_ca": ["\\ud800"]}}'), 400, "Unicode"),
        (change(b'{"discovery.file": "\\u0000"}'), 400, "control"),
        (change(b'{"\\u202e": 1}'), 400, "control"),
    ],
)
async def test_who_may_change_and_what(
    start: Start, request_: bytes, status: int, says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    running = await start()
    answer = await exchange(running.port, request_)
    assert status_of(answer) == status, answer
    if status == 200:
        assert body_of(answer)["changes"][0] == {"key": "timeouts.upstream_idle", "before": "before", "after": "3s"}
        return
    assert says in body_of(answer)["error"]
    assert "\n" not in body_of(answer)["error"]
    assert TOKEN.encode() not in answer
    if status != 400:
        assert running.control.asked == []
    if status == 401:
        assert b"WWW-Authenticate: Bearer\r\n" in answer
    assert capfd.readouterr().err == ""


async def test_a_client_that_waits_to_be_asked_for_its_change_is_asked(start: Start) -> None:
    running = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    async with asyncio.timeout(WAIT_S):
        writer.write(change(b"", "Expect: 100-continue", length=len(CHANGE)))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(CHANGE)
        assert status_of(await reader.read()) == 200
    writer.close()
    assert running.control.asked == [json.loads(CHANGE)]


async def test_without_a_token_file_nothing_can_be_changed(start: Start) -> None:
    running = await start(token="")
    for given in ("Bearer ", f"Bearer {TOKEN}", None):
        answer = await exchange(running.port, change(token=given))
        assert status_of(answer) == 403
        assert "token_file" in body_of(answer)["error"]
    assert running.control.asked == []


@pytest.mark.parametrize("token", [b"", TOKEN.encode()])
def test_an_empty_token_is_never_the_right_one(token: bytes) -> None:
    fields = {"Authorization": ["Bearer "], "Content-Type": ["application/json"]}
    with pytest.raises(Refusal):
        check_change(lambda name: fields.get(name, []), token)


@pytest.mark.parametrize(
    ("problem", "status"),
    [
        (NotLive("workers: a running proxy cannot change this"), 409),
        (ConfigError("timeouts.connect: must be more than 0"), 400),
        (Unavailable("worker 1 has not answered; look at /config"), 503),
        (ConfigError("x" * 5000), 400),
    ],
)
async def test_what_the_proxy_says_of_a_change_is_passed_on(start: Start, problem: Exception, status: int) -> None:
    running = await start()
    running.control.problem = problem
    answer = await exchange(running.port, change())
    assert status_of(answer) == status
    assert body_of(answer)["error"][:1000] == str(problem)[:1000]
    assert len(answer) < 2000


async def test_a_mistake_of_ours_is_told_to_its_owner_and_not_to_the_client(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    running = await start()
    running.control.problem = RuntimeError("secret detail")
    answer = await exchange(running.port, head("GET /metrics HTTP/1.1"))
    assert status_of(answer) == 500
    assert b"secret" not in answer
    assert capfd.readouterr().err == "admin: GET failed: RuntimeError('secret detail')\n"


# --- The token's file


@pytest.mark.parametrize(
    ("content", "mode", "problem"),
    [
        (b"0123456789abcdef\n", 0o600, ""),
        (b"  0123456789abcdef  \r\n", 0o400, ""),
        (b"0123456789abcdef", 0o644, "chmod 600"),
        (b"0123456789abcde", 0o600, f"at least {SHORTEST_TOKEN}"),
        (b"", 0o600, "one line"),
        (b"0123456789 abcdef", 0o600, "one line"),
        (b"0123456789abcdef\n0123456789abcdef", 0o600, "one line"),
        (b"0123456789abcde\xff", 0o600, "one line"),
        (b"a" * 5000, 0o600, "one line"),
    ],
)
def test_the_file_of_the_token(tmp_path: Path, content: bytes, mode: int, problem: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(mode)
    said: list[str] = []
    try:
        token = read_token(str(path), said.append)
    except ConfigError as refused:
        said.append(str(refused))
    else:
        assert token == b"0123456789abcdef"
    assert len(said) == (1 if problem else 0)
    assert all(problem in each and str(path) in each and "\n" not in each for each in said)


def test_a_token_file_that_is_missing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"admin.token_file: .*nowhere: No such file"):
        read_token(str(tmp_path / "nowhere"), print)
    assert read_token("", print) == b""


# --- Who holds on


async def test_connections_that_send_nothing_make_room(start: Start) -> None:
    running = await start()
    held = [await asyncio.open_connection("127.0.0.1", running.port) for _ in range(3 * MOST_CONNECTIONS)]
    for _, writer in held:
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: local")
    answer = await exchange(running.port, head())
    assert status_of(answer) == 200
    assert len(running.admin._connections) <= MOST_CONNECTIONS
    cut = 0
    async with asyncio.timeout(WAIT_S):
        for reader, _ in held[: 2 * MOST_CONNECTIONS]:
            try:
                cut += await reader.read() == b""
            except ConnectionError:
                cut += 1
    assert cut == 2 * MOST_CONNECTIONS
    for _, writer in held:
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n", change(b"{", length=1000), head("GET /metrics HTTP/1.1")])
async def test_nobody_holds_on_for_longer_than_a_lifetime(
    start: Start, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin_module, "LIFETIME_S", 0.2)
    running = await start()
    running.control.hangs = True
    assert await exchange(running.port, sent) == b""
    async with asyncio.timeout(WAIT_S):
        while running.admin._connections:
            await asyncio.sleep(0.01)


async def test_whoever_does_not_read_its_answer_is_cut_off_too(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_module, "LIFETIME_S", 0.3)
    running = await start()
    for each in running.control.snapshots:
        each.pool = each.pool * 40_000
    monkeypatch.setattr(admin_module, "MOST_SHOWN", 80_000)
    _, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=1024)
    writer.write(head("GET /pool HTTP/1.1"))
    async with asyncio.timeout(WAIT_S):
        while not running.admin._connections:
            await asyncio.sleep(0.01)
        while running.admin._connections:
            await asyncio.sleep(0.01)
    writer.close()


async def test_closing_cuts_off_who_is_connected(start: Start) -> None:
    running = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(b"GET")
    async with asyncio.timeout(WAIT_S):
        while not running.admin._connections:
            await asyncio.sleep(0)
        assert repr(running.admin) == "<Admin 127.0.0.1:0, 1 connections, changes with a token>"
        await running.admin.close()
        with pytest.raises(ConnectionError):
            await reader.readexactly(1)
    writer.close()
    with pytest.raises(OSError, match=r"."):
        await asyncio.open_connection("127.0.0.1", running.port)


# --- Mutations


def mutated(rng: random.Random, request: bytes) -> bytes:
    """A request with a byte or a few changed, taken out, doubled or made up."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(request))
        end = at + rng.choice((0, 1, 1, 8, 40))
        junk = rng.choice((b"", rng.randbytes(2), b"\r\n", b"\x00", b'"', b"{", b"\xff", b": ", b"9", b"[" * 3000))
        again = request[at:end] * rng.choice((2, 2, 30))
        request = request[:at] + rng.choice((junk, again)) + request[end:] or b"\r\n"
    return request


ODD: tuple[object, ...] = (
    *(None, True, -1, 0, 1, 2**70, 1e400, 0.5, "", "off", "3s", "1h", "64KiB", "a:1", "\ud800", "\0", "9" * 400),
    *([], [1], ["a:1"], ["a:1", "a:1"], [[[]]], [{"path": "/a", "group": "api"}], [{"x": []}]),
    *({}, {"a": 1}, {"max_idle": 1}),
)


def odd_change(rng: random.Random) -> bytes:
    """A change that is JSON, of keys that are there or nearly, to values that fit or not."""
    changes = {}
    for _ in range(rng.choice((1, 1, 2, 5))):
        key = rng.choice([*keys(), "routes", "groups", "groups.api", "groups.new.upstreams", "groups.api.pool", "pool"])
        changes[key if rng.random() < 0.8 else key[: rng.randrange(len(key))]] = rng.choice(ODD)
    return json.dumps(changes).replace("Infinity", "1e999").encode()


async def test_three_hundred_mutated_requests_do_no_harm(
    start: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(admin_module, "LIFETIME_S", 0.3)
    running = await start()
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    seed = int(os.environ.get("KALAB_SEED", "20251120"))
    rng = random.Random(seed)
    originals = [head(f"GET {path} HTTP/1.1") for path in ("/", "/metrics", "/pool", "/config")] + [change()] * 4
    requests = [mutated(rng, rng.choice(originals)) for _ in range(120)]
    # And sound requests with odd bodies, which come further.
    requests += [change(mutated(rng, CHANGE)) for _ in range(60)] + [change(odd_change(rng)) for _ in range(120)]
    seen: dict[int, int] = {}
    for at in range(0, len(requests), 8):
        for answer in await asyncio.gather(*(exchange(running.port, each) for each in requests[at : at + 8])):
            assert b"Traceback" not in answer
            seen[status_of(answer)] = seen.get(status_of(answer), 0) + 1
    assert max(seen) < 500, (seed, seen)
    assert seen[400] > 50, (seed, seen)
    assert seen[200] > 2, (seed, seen)
    assert problems == []
    assert capfd.readouterr().err == ""
    assert status_of(await exchange(running.port, head())) == 200


@pytest.mark.parametrize("body", [b'{"a": 1}', b'{"a": {"b": [1, "x", null]}}'])
def test_a_change_is_read_as_it_is_written(body: bytes) -> None:
    assert changes_of(body) == json.loads(body)
