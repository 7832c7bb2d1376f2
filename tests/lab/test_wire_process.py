"""The wire's process: however it is told to end, its log is whole; a thousand connections at once are no trouble."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from wire_peers import events, segments

ROOT = Path(__file__).parents[2]
CONNECTIONS = 1000


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(30)
        process = subprocess.Popen(
            [sys.executable, "-m", "lab.wire", "relay", "--control-fd", str(theirs.fileno()), "--dir", str(tmp_path)],
            pass_fds=[theirs.fileno()],
            cwd=ROOT,
        )
        theirs.close()
        assert msgspec.json.decode(ours.recv(4096)) == {"bind_host": "127.0.0.1"}
        yield process, ours
        process.kill()
        process.wait()


@pytest.mark.parametrize("way", ["the lab is gone", "SIGTERM"])
def test_it_ends_with_a_whole_log(
    started: tuple[subprocess.Popen[bytes], socket.socket], tmp_path: Path, way: str
) -> None:
    process, control = started
    if way == "SIGTERM":
        process.send_signal(signal.SIGINT)  # ignored: the terminal sends it to the whole group
        process.send_signal(signal.SIGTERM)
    else:
        control.close()
    assert process.wait(30) == 0
    assert [event["kind"] for event in events(tmp_path)] == ["log.closed"]


def test_questions_may_come_together_or_in_pieces(started: tuple[subprocess.Popen[bytes], socket.socket]) -> None:
    _, control = started
    control.sendall(
        b'{"op":"link","id":1,"name":"a","port":9,"delay_s":0.1,"gate":true}\n'
        b'{"op":"settled","id":2,"name":"a","n":1,"timeout_s":0.2}\n{"op":"settled","id":3,"name":"a","n":0,'
    )
    control.sendall(b'"timeout_s":9}\n')
    answers = control.makefile("rb")
    by_id = [msgspec.json.decode(answers.readline()) for _ in range(3)]
    assert [answer["id"] for answer in by_id] == [1, 3, 2]  # 3 holds at once, 2 waits for its timeout
    assert by_id[2]["result"] == {"held": 0, "closed_by_proxy": 0, "open": 0}
    answers.close()


def test_a_thousand_connections_at_once_are_held_and_fired(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("wire_trial.py")), "relay", str(tmp_path), str(CONNECTIONS)],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    said = msgspec.json.decode(done.stdout)
    assert (said["crossing"]["held"], said["crossing"]["eofs"]) == (CONNECTIONS, CONNECTIONS)
    assert said["crossing"]["proofs"] == 0  # the relay's kernel has acknowledged the requests
    assert said["crossing"]["took_s"] < 20
    assert said["crossing"]["quiet"]
    assert said["stats"]["log_dropped"] == 0
    assert len(segments(tmp_path, link="gated", flags="R", dir="down")) == CONNECTIONS
