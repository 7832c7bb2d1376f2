"""The access log: one line per exchange, that nobody can forge and nothing waits for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from proxy.events import EXCHANGE_FINISHED
from proxy.observe.access_log import LONGEST, LONGEST_LINE, AccessLog, Finished, combined_line, json_line

WAIT_S = 30.0

LOST: dict[str, object] = {
    "req_id": "r-1",
    "client": "10.0.0.9",
    "method": "POST",
    "target": "/pay",
    "status": 502,
    "cause": "closed_before_response",
    "attempts": 1,
    "retry_reason": "it may have been executed",
    "group": "api",
    "upstream": "app:9000",
    "up_conn": "127.0.0.1:40312>127.0.0.1:9000",
    "up_reuse_n": 3,
    "up_idle_ms": 3999.2,
    "bytes_in": 120,
    "bytes_out": 180,
    "duration_ms": 12.5,
}
CLIENT = "127.0.0.1:55555>127.0.0.1:8080"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def detail(**changes: object) -> list[object]:
    return [{**LOST, **changes}[field] for field in EXCHANGE_FINISHED.fields]


def finished(*fields: str, at: float = 1_700_000_000.25, http10: bool = False, **changes: object) -> Finished:
    block = "".join(f"\r\n{field}" for field in ("Host: app", *fields)) + "\r\n"
    return Finished(at, CLIENT, http10, block.encode("latin-1"), detail(**changes))


def line(*fields: str, **changes: Any) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(json_line(finished(*fields, **changes)))
    return parsed


def combined(*fields: str, **changes: Any) -> str:
    return combined_line(finished(*fields, **changes)).decode("ascii")


# --- JSON


def test_a_line_tells_the_exchange() -> None:
    told = line()
    assert list(told)[:9] == [
        *("ts", "req_id", "method", "target", "status", "cause", "reason", "duration_ms", "attempts")
    ]
    assert told == {
        "ts": "2023-11-14T22:13:20.250+00:00",
        "client_conn": CLIENT,
        "reason": "",
        **{name: value for name, value in LOST.items() if name in EXCHANGE_FINISHED.fields},
    }


@pytest.mark.parametrize(
    ("at", "written"),
    [
        (0.0, "1970-01-01T00:00:00.000+00:00"),
        (1_700_000_000.9999, "2023-11-14T22:13:20.999+00:00"),
        (1_700_000_001.0, "2023-11-14T22:13:21.000+00:00"),
        (4_102_444_800.5, "2100-01-01T00:00:00.500+00:00"),
    ],
)
def test_the_time_of_day_is_written_with_milliseconds(at: float, written: str) -> None:
    assert line(at=at)["ts"] == written


@pytest.mark.parametrize(
    ("target", "logged"),
    [
        ("/a?token=secret", "/a"),
        ("/?a=1?b=2", "/"),
        ("http://app/a?x", "http://app/a"),
        ("*", "*"),
        ("/" + "a" * 5000, "/" + "a" * (LONGEST["target"] - 1) + "…"),
        ("/" + "a" * (LONGEST["target"] - 1), "/" + "a" * (LONGEST["target"] - 1)),
        ('/"', '/"'),
        ("/" + '"' * 5000, "/" + '"' * (LONGEST["target"] // 12 - 1) + "…"),
    ],
)
def test_the_query_is_left_out_and_the_rest_is_capped(target: str, logged: str) -> None:
    assert line(target=target)["target"] == logged


HOSTILE = [
    'x"}\n{"status": 200}',
    "\x1b[2J",
    "\u202e",
    "\udcff",
    "a" * 10_000,
    '"' * 5000,
    "\xff" * 5000,
    "\U0001f600" * 999,
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_client_cannot_forge_a_line(hostile: str) -> None:
    fields = [
        f"{name}: {hostile}".encode("latin-1", "replace").decode("latin-1").replace("\n", "") for name in ("A", "B")
    ]
    written = json_line(finished(*fields, req_id=hostile, target=f"/{hostile}", method=hostile, http10=True))
    assert written.isascii()
    assert b"\n" not in written
    assert b"\x1b" not in written
    assert len(written) <= LONGEST_LINE
    assert json.loads(written)["status"] == 502


@pytest.mark.parametrize(
    ("sent", "logged"),
    [
        (f"traceparent: {PARENT}", PARENT),
        (f"Traceparent:{PARENT} \t", PARENT),
        (f"traceparent: cc{PARENT[2:]}-what-the-future-will-be-like", f"cc{PARENT[2:]}"),
        (f"traceparent: {PARENT}-more", None),  # version 00 has no more
        (f"traceparent: ff{PARENT[2:]}", None),
        (f"traceparent: {PARENT.upper()}", None),
        (f"traceparent: {PARENT[:-1]}", None),
        (f"traceparent: {PARENT}0", None),
        ("traceparent: 00-" + "0" * 32 + "-b7ad6b7169203331-01", None),
        ("traceparent: 00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01", None),
        ('traceparent: "}', None),
        ("traceparent:", None),
        (f"x-traceparent: {PARENT}", None),
        (f"X: traceparent: {PARENT}", None),
    ],
)
def test_the_trace_that_a_request_belongs_to(sent: str, logged: str | None) -> None:
    assert line("Accept: */*", sent, "Accept-Encoding: gzip").get("traceparent") == logged


def test_nothing_else_that_a_client_sent_is_logged() -> None:
    written = json_line(finished("Authorization: Bearer secret", "Cookie: secret", "Referer: http://a/secret"))
    assert b"secret" not in written
    assert b"secret" not in combined_line(finished("Authorization: Basic secret", "Cookie: secret"))


# --- Combined


def test_a_combined_line() -> None:
    fields = ("Referer: http://shop/cart?token=secret", "User-Agent: Mozilla/5.0 (X11; Linux x86_64)")
    assert combined(*fields, target="/pay?card=1", status=200) == (
        '10.0.0.9 - - [14/Nov/2023:22:13:20 +0000] "POST /pay HTTP/1.1" 200 180 '
        '"http://shop/cart" "Mozilla/5.0 (X11; Linux x86_64)"'
    )


def test_what_is_missing_is_a_hyphen() -> None:
    refused = Finished(1.7e9, CLIENT, False, b"", detail(method="", target="", status=408, bytes_out=0))
    assert combined_line(refused) == b'10.0.0.9 - - [14/Nov/2023:22:13:20 +0000] "-" 408 - "-" "-"'
    assert combined(http10=True).split('"')[1] == "POST /pay HTTP/1.0"


@pytest.mark.parametrize(
    ("sent", "logged"),
    [
        ('a "b" \\c', 'a \\"b\\" \\\\c'),
        ("tab\there", "tab\\there"),
        ("\x1b[2J\x00\x7f", "\\x1b[2J\\x00\\x7f"),
        ("na\xc3\xafve", "na\\xc3\\xafve"),
        ("a" * 401, "a" * 400 + "..."),
        ("\xff" * 101, "\\xff" * 100 + "..."),
        ("\\" * 201, "\\\\" * 100 + "..."),
    ],
)
def test_a_combined_line_is_escaped_as_apache_does(sent: str, logged: str) -> None:
    assert combined(f"User-Agent: {sent}").endswith(f' "-" "{logged}"')


COMBINED = re.compile(r'\S+ - - \[[^]]+\] "((?:[^"\\]|\\.)*)" (\d{3}) (\d+|-) "((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)"')


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_client_cannot_forge_a_combined_line(hostile: str) -> None:
    sent = hostile.encode("latin-1", "replace").decode("latin-1").replace("\n", "")
    written = combined(f"Referer: {sent}", f"User-Agent: {sent}", target=f"/{hostile}", method=hostile)
    assert COMBINED.fullmatch(written)
    assert written.isprintable()
    assert len(written) <= LONGEST_LINE


# --- Where they go


def settled(log: AccessLog, path: Path, lines: int) -> list[str]:
    """What the file holds once it has that many lines."""
    deadline = time.monotonic() + WAIT_S
    while len(found := path.read_text().splitlines()) < lines:
        assert time.monotonic() < deadline, repr(log)
        time.sleep(0.005)
    return found


def test_lines_are_appended_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text("of an earlier run\n")
    log = AccessLog(str(path))
    log.finished(CLIENT, *detail())
    log.finished(CLIENT, *detail(req_id="r-2"), http10=True, fields=f"\r\ntraceparent: {PARENT}\r\n".encode())
    assert log.on
    log.close()
    log.close()
    first, *others = path.read_text().splitlines()
    assert first == "of an earlier run"
    assert [json.loads(other)["req_id"] for other in others] == ["r-1", "r-2"]
    assert json.loads(others[1])["traceparent"] == PARENT
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", json.loads(others[0])["ts"])
    assert repr(log) == f"<AccessLog {path}, 2 lines, 0 dropped>"


def test_the_format_may_change_between_two_lines(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(str(path), "combined")
    log.finished(CLIENT, *detail())
    assert settled(log, path, 1)[0].startswith("10.0.0.9 - - [")
    log.line_format = "json"
    log.finished(CLIENT, *detail())
    log.close()
    assert json.loads(path.read_text().splitlines()[1])["client"] == "10.0.0.9"


@pytest.mark.parametrize("target", ["", "off"])
def test_off_costs_nothing(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    threads = threading.active_count()
    log = AccessLog(target)
    assert not log.on
    log.finished(CLIENT, *detail())
    log.reopen()
    log.close()
    assert threading.active_count() == threads
    assert list(tmp_path.iterdir()) == []
    assert log.dropped == 0
    assert repr(log) == "<AccessLog off>"


def test_lines_on_standard_output_follow_what_was_printed_before() -> None:
    script = f"""
from proxy.observe.access_log import AccessLog
print("listening on 127.0.0.1:1", flush=True)
log = AccessLog("-")
log.reopen()
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


# --- Rotation


def test_after_a_rotation_lines_go_to_the_new_file(tmp_path: Path) -> None:
    path, rotated = tmp_path / "access.log", tmp_path / "access.log.1"
    log = AccessLog(str(path))
    log.finished(CLIENT, *detail(req_id="before"))
    settled(log, path, 1)
    path.rename(rotated)
    log.finished(CLIENT, *detail(req_id="between"))
    settled(log, rotated, 2)
    log.reopen()
    assert path.exists()  # at once: whoever rotates may compress the old one now
    log.finished(CLIENT, *detail(req_id="after"))
    log.close()
    assert [json.loads(each)["req_id"] for each in rotated.read_text().splitlines()] == ["before", "between"]
    assert [json.loads(each)["req_id"] for each in path.read_text().splitlines()] == ["after"]
    assert log.dropped == 0


def test_if_the_new_file_cannot_be_opened_the_old_one_goes_on(tmp_path: Path) -> None:
    path, rotated = tmp_path / "access.log", tmp_path / "access.log.1"
    log = AccessLog(str(path))
    path.rename(rotated)
    path.mkdir()
    problem = log.reopen()
    log.finished(CLIENT, *detail())
    log.close()
    assert len(rotated.read_text().splitlines()) == 1
    assert problem == f"access log {path}: Is a directory; it could not be opened anew and goes on in the old file"


def test_a_pipe_that_nobody_reads_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(str(path))
    path.unlink()
    os.mkfifo(path)
    assert "No such device or address" in log.reopen()
    log.close()


def test_a_rotation_under_fire_loses_no_line_and_tears_none(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(str(path))
    for number in range(2000):
        log.finished(CLIENT, *detail(req_id=str(number)))
        if number % 100 == 99:
            path.rename(tmp_path / f"access.log.{number}")
            log.reopen()
            time.sleep(0.005)  # lets the writer in
    log.close()
    written = [json.loads(each) for file in tmp_path.iterdir() for each in file.read_text().splitlines()]
    assert sorted(int(each["req_id"]) for each in written) == list(range(2000))


# --- When it cannot be written


def test_a_full_disk_costs_lines_and_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    log = AccessLog("/dev/full")
    log.finished(CLIENT, *detail())
    deadline = time.monotonic() + WAIT_S
    while not log.dropped:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    log.finished(CLIENT, *detail())
    log.close()
    assert log.dropped == 2
    assert capfd.readouterr().err == (
        "access log /dev/full: No space left on device; its lines are lost, and counted, until this ends\n"
    )


def test_a_line_that_was_torn_does_not_spoil_the_next(tmp_path: Path) -> None:
    script = """
import sys
from resource import RLIMIT_FSIZE, getrlimit, setrlimit
from proxy.observe.access_log import LogFile

file = LogFile(sys.argv[1])
hard = getrlimit(RLIMIT_FSIZE)[1]
setrlimit(RLIMIT_FSIZE, (5, hard))
assert file.write(memoryview(b"whole line\\n")) == 5
for lost in (b" line\\n", b"lost\\n"):
    try:
        file.write(memoryview(lost))
    except OSError:
        continue
    raise AssertionError
setrlimit(RLIMIT_FSIZE, (hard, hard))
file.write(memoryview(b"next line\\n"))
file.write(memoryview(b"and next\\n"))
"""
    path = tmp_path / "access.log"
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert path.read_text().splitlines() == ["whole", "next line", "and next"]
    assert done.stderr == f"access log {path}: File too large; its lines are lost, and counted, until this ends\n"
