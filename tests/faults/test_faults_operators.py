"""Whatever operators do in whatever order: reloads, changes, workers told to stop, workers killed; under light load."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from fleet import READY_WITHIN_S, Fleet, Process, Size, until
from traffic import Traffic

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

TOKEN = "correct-horse-battery"
STEPS = 12
CHANGES: list[dict[str, object]] = [
    {"timeouts.upstream_idle": "3s"},
    {"timeouts.request_total": "9s"},
    {"timeouts.request_total": "off"},
    {"pool.max_idle": 0},
    {"pool.max_idle": 50},
    {"pool.max_connections": 64},
    {"retry.policy": "never"},
    {"timeouts.connect": "soon"},
    {"workers": 3},
    {"nope": 1},
]


def config(rng: random.Random, upstreams: Sequence[str], token: Path) -> str:
    """One of many that serve all requests; now and then one that is wrong."""
    chosen = json.dumps(rng.sample(upstreams, rng.choice((1, 2))))
    lines = ["workers = 2", f"upstreams = {chosen}", f'balance = "{rng.choice(("round_robin", "least_busy", "hash"))}"']
    if rng.random() < 0.5:
        lines += ["[[routes]]", 'path = "/"', 'group = "api"', "[groups.api]", f"upstreams = {chosen}"]
    lines += ["[admin]", f'token_file = "{token}"', "[timeouts]", f'connect = "{rng.choice((1, 2, 3))}s"']
    return "\n".join([*lines, *(["[half"] if rng.random() < 0.1 else []), ""])


def patch(proxy: Process, changes: dict[str, object]) -> int:
    """The status."""
    admin = re.search(r"admin on (\S+)$", proxy.stderr.read_text(), re.MULTILINE)
    assert admin is not None
    fields = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"http://{admin[1]}/config", json.dumps(changes).encode(), fields, method="PATCH")
    try:
        with urllib.request.urlopen(request, timeout=READY_WITHIN_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code


async def test_no_sequence_of_orders_loses_more_than_was_in_flight_at_a_kill(fleet: Fleet, size: Size) -> None:
    seed = int(os.environ.get("KALAB_SEED", "7"))
    rng = random.Random(seed)
    upstreams = [fleet.upstream().at for _ in range(2)]
    token, file = fleet.folder / "token", fleet.folder / "proxy.toml"
    token.write_text(TOKEN)
    token.chmod(0o600)
    for _ in range(size.of(2, 30)):
        told = []
        file.write_text(config(random.Random(1), upstreams, token))
        proxy = fleet.proxy([], "--config", str(file), admin=True, log=False)
        in_flight = 0
        async with Traffic([proxy.address], rate=100, clients=10, target="/ok?delay=5ms") as traffic:
            outcomes = traffic.outcomes
            for _ in range(STEPS):
                step = rng.choice(("reload", "reload", "patch", "patch", "stop", "kill"))
                told.append(step)
                if step == "reload":
                    file.write_text(config(rng, upstreams, token))
                    proxy.signal(signal.SIGHUP)
                elif step == "patch":
                    assert await asyncio.to_thread(patch, proxy, rng.choice(CHANGES)) in (200, 400, 409, 503)
                elif workers := proxy.children():
                    victim, over = rng.choice(workers), outcomes.counts.total()
                    os.kill(victim, signal.SIGKILL if step == "kill" else signal.SIGTERM)
                    if step == "kill":
                        until(partial(is_gone, proxy, victim), 10, "it is dead")
                        for _ in range(2):  # clients whose turn it is have not heard of it yet
                            await asyncio.sleep(0)
                        in_flight += outcomes.sent - over
                await traffic.good(rng.choice((1, 10, 30)))
            outcomes = await traffic.stop()
        assert sum(outcomes.bad().values()) <= in_flight, (seed, told, outcomes)
        assert set(outcomes.bad()) <= {"lost", "truncated"}, (seed, told, outcomes)
        assert proxy.stop() == 0
        assert proxy.says("Traceback") == 0
        print(f"{' '.join(told)}: {outcomes}, {in_flight} in flight at kills")


def is_gone(proxy: Process, worker: int) -> bool:
    return worker not in proxy.children()
