"""The lab upstream as a process: refusing, ending, many connections, and what it says about bad usage."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from lab_process import ROOT, closes, lab, primed, request_bytes

NOT_A_DURATION = "is not a duration: write a number and a unit (ms, s, m, h), or off"


def test_refuse(tmp_path: Path) -> None:
    with lab(tmp_path, "--refuse") as running, pytest.raises(ConnectionRefusedError):
        running.client()


def test_sigterm_closes_all_and_the_log_is_whole(tmp_path: Path) -> None:
    with lab(tmp_path, "--keep-alive", "off") as running:
        primed(running)
        busy = running.client()
        busy.send(request_bytes("busy", target="/?delay=1h"))
        running.wait_for("exchange.executed", 2)
        assert running.stop() == 0
        lines = [json.loads(line) for line in running.log.read_text().splitlines()]
        assert [line["n"] for line in lines] == list(range(len(lines)))
        assert (lines[-1]["kind"], lines[-1]["emitted"], lines[-1]["dropped"]) == ("log.closed", len(lines) - 1, 0)
        assert [e["reason"] for e in running.events("upstream.closed")] == ["drained", "drained"]


def test_2000_connections(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip("this account may not open 2,000 connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    with lab(tmp_path, "--keep-alive", "3s") as running:
        clients = [running.client() for _ in range(2000)]
        for number, client in enumerate(clients):
            client.send(request_bytes(str(number)))
        for client in clients:
            client.response()
        assert {how for how, _ in closes(clients)} == {"fin"}
        idle_ms = [e["idle_ms"] for e in running.wait_for("upstream.closed", 2000)]
        assert min(idle_ms) >= 3000


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--close", "finn"], "error: --close: 'finn' is not one of fin, linger, rst, 408, drop; did you mean fin?"),
        (["--drain", "idel"], "error: --drain: 'idel' is not one of now, idle, notice; did you mean idle?"),
        (["--keepalive", "2s"], "error: --keepalive: unknown flag; did you mean --keep-alive?"),
        (["--keep-alive", "2"], f"error: --keep-alive: '2' {NOT_A_DURATION}; did you mean 2s?"),
        (["--delay", "soon"], f"error: --delay: 'soon' {NOT_A_DURATION}"),
        (["--keep-alive", "0s"], "error: --keep-alive: it must be longer than 0; off means never"),
        (["--hint", "tru"], "error: --hint: 'tru' is not none, true, or whole seconds; did you mean true?"),
        (["--listen", "9000"], "error: --listen: '9000' is not HOST:PORT, like 127.0.0.1:9000"),
        (["--max-requests", "many"], "error: --max-requests: 'many' is not a whole number"),
        (
            ["--stall", "2s", "--keep-alive", "1s"],
            "error: --stall: it must be shorter than --keep-alive, or the loop would be blocked always",
        ),
        (
            ["--events", "/no/such/folder/f"],
            "error: --events: cannot write /no/such/folder/f: No such file or directory",
        ),
        (["--close"], "error: --close: expected one argument"),
    ],
)
def test_bad_usage_is_one_line_and_exit_3(flags: list[str], sentence: str) -> None:
    assert failed(["--listen", "127.0.0.1:0", *flags]) == sentence


def test_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = failed(["--listen", address])
    assert said == f"error: --listen: cannot listen on {address}: Address already in use; port 0 takes a free one"


def failed(flags: list[str]) -> str:
    """The one line that a bad command leaves."""
    argv = [sys.executable, "-m", "upstreams.lab", *flags]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert done.returncode == 3
    assert done.stdout == ""
    return done.stderr.removesuffix("\n")
