"""The access log: one JSON line per exchange, that nobody can forge and nothing waits for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from proxy.access_log import LONGEST_TEXT, AccessLog, Finished, line_of
from proxy.events import EXCHANGE_FINISHED

LOST: dict[str, object] = {
    "req_id": "r-1",
    "client": "10.0.0.9",
    "method": "POST",
    "target": "/pay",
    "status": 502,
    "cause": "closed_before_response",
    "attempts": 1,
    "retry_reason": "it may have been executed",
    "up_conn": "127.0.0.1:40312>127.0.0.1:9000",
    "up_reuse_n": 3,
    "up_idle_ms": 3999.2,
    "bytes_in": 120,
    "bytes_out": 180,
    "duration_ms": 12.5,
}
CLIENT = "127.0.0.1:55555>127.0.0.1:8080"


def detail(**changes: object) -> list[object]:
    return [{**LOST, **changes}[field] for field in EXCHANGE_FINISHED.fields]


def line(**changes: object) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(line_of(Finished(1_700_000_000.25, CLIENT, detail(**changes))))
    return parsed


def test_a_line_tells_the_exchange() -> None:
    assert json.dumps(line()) == (
        '{"ts": "2023-11-14T22:13:20.250+00:00", "req_id": "r-1", "method": "POST", "target": "/pay", "status": 502, '
        '"cause": "closed_before_response", "duration_ms": 12.5, "attempts": 1, '
        '"retry_reason": "it may have been executed", "client": "10.0.0.9", '
        '"client_conn": "127.0.0.1:55555>127.0.0.1:8080", "up_conn": "127.0.0.1:40312>127.0.0.1:9000", '
        '"up_reuse_n": 3, "up_idle_ms": 3999.2, "bytes_in": 120, "bytes_out": 180}'
    )


@pytest.mark.parametrize(
    ("target", "logged"),
    [
        ("/a?token=secret", "/a"),
        ("/?a=1?b=2", "/"),
        ("http://app/a?x", "http://app/a"),
        ("*", "*"),
        ("/" + "a" * 5000, "/" + "a" * (LONGEST_TEXT - 1) + "…"),
    ],
)
def test_the_query_is_left_out_and_the_rest_is_capped(target: str, logged: str) -> None:
    assert line(target=target)["target"] == logged


@pytest.mark.parametrize("hostile", ['x"}\n{"status": 200}', "\x1b[2J", "\u202e", "\udcff", "a" * 10_000])
def test_a_client_cannot_forge_a_line(hostile: str) -> None:
    written = line_of(Finished(0.0, CLIENT, detail(req_id=hostile, target=f"/{hostile}", method=hostile)))
    assert written.isascii()
    assert b"\n" not in written
    assert b"\x1b" not in written
    assert len(written) < 8192
    assert json.loads(written)["status"] == 502


def test_lines_are_appended_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text("of an earlier run\n")
    log = AccessLog(str(path))
    log.finished(CLIENT, *detail())
    log.finished(CLIENT, *detail(req_id="r-2"))
    assert log.on
    log.close()
    log.close()
    first, *others = path.read_text().splitlines()
    assert first == "of an earlier run"
    assert [json.loads(other)["req_id"] for other in others] == ["r-1", "r-2"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", json.loads(others[0])["ts"])
    assert repr(log) == f"<AccessLog {path}, 2 lines, 0 dropped>"


@pytest.mark.parametrize("target", ["", "off"])
def test_off_costs_nothing(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    threads = threading.active_count()
    log = AccessLog(target)
    assert not log.on
    log.finished(CLIENT, *detail())
    log.close()
    assert threading.active_count() == threads
    assert list(tmp_path.iterdir()) == []
    assert log.dropped == 0
    assert repr(log) == "<AccessLog off>"


def test_lines_on_standard_output_follow_what_was_printed_before() -> None:
    script = f"""
from proxy.access_log import AccessLog
print("listening on 127.0.0.1:1", flush=True)
log = AccessLog("-")
log.finished({CLIENT!r}, *{detail()!r})
log.close()
print("still open", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    first, second, third = done.stdout.splitlines()
    assert first == "listening on 127.0.0.1:1"
    assert json.loads(second)["req_id"] == "r-1"
    assert third == "still open"


def test_a_reader_that_does_not_read_costs_lines_not_time(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    log = AccessLog(str(tmp_path / "pipe"), limit=10)
    for _ in range(2000):
        log.finished(CLIENT, *detail())
    assert log.dropped > 0
    os.close(reader)
    log.close()
