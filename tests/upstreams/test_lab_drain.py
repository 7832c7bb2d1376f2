"""How the lab upstream goes: at SIGTERM, and when a worker is recycled behind a listening socket that stays."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from lab_process import ROOT, LabProcess, lab, primed, request_bytes

BUSY = request_bytes("busy", target="/?delay=300ms")
ANNOUNCED = b"Connection: close"


def reasons(running: LabProcess) -> list[tuple[str, str, int]]:
    return sorted((e["reason"], e["how"], e["requests"]) for e in running.events("upstream.closed"))


def terminate(running: LabProcess) -> None:
    running.process.send_signal(signal.SIGTERM)
    running.wait_for("upstream.retired")


def test_idle_connections_are_cut_and_answers_finished(tmp_path: Path) -> None:
    with lab(tmp_path, "--keep-alive", "off", "--drain", "idle") as running:
        idle, busy = primed(running), running.client()
        busy.send(BUSY)
        running.wait_for("exchange.executed", 2)
        terminate(running)
        assert idle.end() == "fin"
        head, _ = busy.response()
        assert ANNOUNCED in head
        assert busy.end() == "fin"
        assert running.process.wait(20) == 0
        assert reasons(running) == [("drained", "fin", 1), ("drained", "fin", 1)]
        (retired,) = running.events("upstream.retired")
        assert (retired["reason"], retired["connections"], retired["idle"]) == ("drained", 2, 1)


def test_notice_is_given_with_the_next_answer(tmp_path: Path) -> None:
    with lab(tmp_path, "--keep-alive", "off", "--drain", "notice", "--drain-for", "1h") as running:
        client = primed(running)
        terminate(running)
        head, _ = client.ask("second")
        assert ANNOUNCED in head
        assert client.end() == "fin"
        assert running.process.wait(20) == 0
        assert [e["req_id"] for e in running.events("exchange.executed")] == ["first", "second"]


def test_who_is_not_heard_of_is_cut_when_the_drain_has_lasted_long_enough(tmp_path: Path) -> None:
    with lab(tmp_path, "--keep-alive", "off", "--drain", "notice", "--drain-for", "100ms") as running:
        client = primed(running)
        terminate(running)
        assert client.end() == "fin"
        assert running.process.wait(20) == 0
        (closed,) = running.events("upstream.closed")
        assert closed["idle_ms"] >= 100


def test_an_answer_that_takes_longer_than_the_drain_is_lost(tmp_path: Path) -> None:
    with lab(tmp_path, "--drain", "idle", "--drain-for", "50ms") as running:
        busy = running.client()
        busy.send(request_bytes("busy", target="/?delay=1h"))
        running.wait_for("exchange.executed")
        terminate(running)
        assert busy.end() in ("fin", "reset")
        assert running.process.wait(20) == 0
        assert running.events("exchange.answered") == []


@pytest.mark.parametrize(("drain", "announced"), [("idle", False), ("notice", True)])
def test_a_recycled_worker_leaves_its_connections_and_not_its_port(tmp_path: Path, drain: str, announced: bool) -> None:
    with lab(tmp_path, "--keep-alive", "off", "--recycle", "3", "--drain", drain) as running:
        first, second = primed(running, "1"), primed(running, "2")
        head, _ = first.ask("3")
        assert ANNOUNCED not in head  # it was on its way when the worker was recycled
        if announced:
            head, _ = second.ask("4")
            assert ANNOUNCED in head
        assert second.end() == "fin"
        assert primed(running, "next").ask("more")[0].startswith(b"HTTP/1.1 200")
        closed = running.wait_for("upstream.closed", 1 if announced else 2)
        assert {e["reason"] for e in closed} == {"recycled"}


def test_a_successor_on_the_same_port_gets_what_comes_next(tmp_path: Path) -> None:
    flags = ("--reuse-port", "--keep-alive", "off", "--drain", "notice")
    folders = [tmp_path / name for name in ("old", "new")]
    for folder in folders:
        folder.mkdir()
    with lab(folders[0], *flags) as old:
        told = [primed(old, str(number)) for number in range(8)]
        host, port = old.addresses[0]
        with lab(folders[1], *flags, listen=f"{host}:{port}") as new:
            terminate(old)
            for number in range(8):
                primed(old, f"late-{number}")
            late = [e for e in new.wait_for("exchange.executed", 8) if e["req_id"].startswith("late-")]
            assert len(late) == 8
            for client in told:
                client.close()
            assert new.stop() == 0


def test_an_inherited_socket_is_served_by_one_after_the_other(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        inherit = ("--inherit", str(listener.fileno()), "--keep-alive", "off")
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            with lab(tmp_path / name, *inherit, pass_fds=[listener.fileno()]) as running:
                assert running.addresses == [listener.getsockname()]
                primed(running)


def test_no_socket_can_be_inherited_where_there_is_none() -> None:
    argv = [sys.executable, "-m", "upstreams.lab", "--inherit", "77"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (3, "error: --inherit: 77 is no socket: Bad file descriptor\n")
