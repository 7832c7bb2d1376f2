"""The admin address of a real proxy: changes that make no sense, and clients that look for it behind the proxy."""

from __future__ import annotations

import json
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
from live import ask, upstream
from test_admin import TOKEN, body_of, change, exchange, head, odd_change, status_of

from proxy.admin.site import Admin
from proxy.config import AdminConfig, Loaded, keys, load, rows
from proxy.control import Control, Local
from proxy.server import Server


class Live(NamedTuple):
    """A proxy, in this process, with the address that it listens on and its admin address."""

    server: Server
    control: Control
    upstream: str
    at: tuple[str, int]
    admin_port: int

    async def patch(self, body: bytes) -> tuple[int, bytes]:
        answer = await exchange(self.admin_port, change(body))
        return status_of(answer), answer


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)

    async with upstream() as there:
        flags = {"listen": "127.0.0.1:0", "upstreams": there, "log.access": "off", "admin.listen": "127.0.0.1:0"}

        def from_flags() -> Loaded:
            return load(None, {}, {**flags, "groups.api.upstreams": there})

        loaded = from_flags()
        server = Server(loaded.config)
        control = Control(Local(server), loaded, from_flags)
        admin = Admin(AdminConfig(listen="127.0.0.1:0", token_file=str(token)), control)
        at = await server.start()
        _, port = await admin.start()
        yield Live(server, control, there, at, port)
        await admin.close()
        await server.drain()


FITS_SOMEWHERE: tuple[object, ...] = (
    *(True, False, 0, 1, 3, 0.5, "3s", "1h", "off", "4KiB", "1MiB", "/up", ["127.0.0.1:9"], ["10.0.0.0/8"]),
    *("least_busy", "hash", "newest", "oldest", "never", "always", "forward", "combined", ["websocket"], "client", ""),
)


def nearly_sound(rng: random.Random) -> bytes:
    """A change of one or two keys, to values that would do for some."""
    known = [*keys(), "groups.api.pool.max_idle", "groups.api.balance", "groups.api.retry.policy"]
    chosen = rng.sample(known, rng.choice((1, 1, 1, 2)))
    return json.dumps({key: rng.choice(FITS_SOMEWHERE) for key in chosen}).encode()


async def test_odd_changes_are_refused_or_in_force(live: Live, capfd: pytest.CaptureFixture[str]) -> None:
    """All or nothing: what /config says is what the proxy goes by; and a reload brings it back, whatever it was."""
    seed = int(os.environ.get("KALAB_SEED", "20261120"))
    rng = random.Random(seed)
    seen: dict[int, int] = {}
    for number in range(1, 601):
        body = odd_change(rng) if number % 3 == 0 else nearly_sound(rng)
        before = live.server.config
        status, answer = await live.patch(body)
        seen[status] = seen.get(status, 0) + 1
        if status == 200:
            assert "changes" in body_of(answer)
        else:
            assert status in (400, 409), (seed, body, answer)
            assert "\n" not in body_of(answer)["error"]
            assert live.server.config is before, (seed, body)
        assert live.control.loaded.config == live.server.config, (seed, body)
        if number % 20 == 0:
            page = await exchange(live.admin_port, head("GET /config HTTP/1.1"))
            shown = {row["key"]: row["value"] for row in body_of(page)["rows"]}
            assert shown == {row.key: row.value for row in rows(live.control.loaded)}
            for path in ("/pool", "/metrics", "/readyz"):
                assert status_of(await exchange(live.admin_port, head(f"GET {path} HTTP/1.1"))) in (200, 503)
            await live.control.reload()
            assert (await ask(*live.at)).endswith(b"ok"), (seed, body)
    assert seen[200] > 10, (seed, seen)
    assert seen[400] > 200, (seed, seen)
    assert seen[409] > 2, (seed, seen)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1"])
async def test_no_client_of_the_proxy_reaches_it_whatever_the_upstream_is_called(live: Live, host: str) -> None:
    status, _ = await live.patch(f'{{"upstreams": ["{host}:{live.admin_port}"]}}'.encode())
    assert status == 200
    for target, name in (("/config", "localhost"), ("/config", "shop"), ("http://localhost/config", "localhost")):
        answer = await exchange(live.at[1], head(f"GET {target} HTTP/1.1", "Connection: close, Via", host=name))
        assert status_of(answer) in (403, 421), answer
        assert b"upstreams" not in answer


@pytest.mark.parametrize(
    ("line", "host", "status"),
    [
        ("GET {admin}/config HTTP/1.1", "shop", 200),
        ("GET /config HTTP/1.1", "{admin}", 200),
        ("CONNECT {admin} HTTP/1.1", "{admin}", 405),
        ("GET @{admin}/config HTTP/1.1", "shop", 400),
        ("GET http://shop@{admin}/config HTTP/1.1", "shop", 400),
    ],
)
async def test_a_target_does_not_lead_there(live: Live, line: str, host: str, status: int) -> None:
    """Whatever it names, requests go where the config says, or nowhere."""
    admin = f"127.0.0.1:{live.admin_port}"
    target = line.format(admin=f"http://{admin}" if line.startswith("GET {") else admin)
    answer = await exchange(live.at[1], head(target, "Connection: close", host=host.format(admin=admin)))
    assert status_of(answer) == status, answer
    assert b"upstreams" not in answer


async def test_what_is_changed_is_told_on_standard_error(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    assert (await live.patch(b'{"timeouts.connect": "1s"}'))[0] == 200
    assert (await live.patch(b'{"timeouts.connect": "1s"}'))[0] == 200
    assert capsys.readouterr().err == "changed by PATCH: timeouts.connect: 5s -> 1s\n"
