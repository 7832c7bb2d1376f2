"""The event stream: complete, numbered, bounded, and never in the way."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from io import FileIO
from pathlib import Path
from select import PIPE_BUF
from typing import Any

import pytest

from proxy import events
from proxy.events import (
    DOWNSTREAM_OPENED,
    EXCHANGE_SENT,
    EXCHANGE_STARTED,
    UPSTREAM_CLOSED,
    EventLog,
    Kind,
    LineWriter,
    connection_name,
    encode_line,
    in_batches,
)
from proxy.observe.access_log import LONGEST_LINE

WAIT_S = 30.0


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


def test_a_line_names_its_number_time_place_kind_connection_exchange_and_details(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl", "proxy")
    log.emit(EXCHANGE_SENT, "10.0.0.2:40312>10.0.0.3:8001", 7, "req-1", 1, True, 55, t_ns=123)
    log.close()
    assert lines_of(tmp_path / "events.jsonl")[0] == {
        "n": 0,
        "t": 123,
        "at": "proxy",
        "kind": "exchange.sent",
        "conn": "10.0.0.2:40312>10.0.0.3:8001",
        "exchange": 7,
        "req_id": "req-1",
        "attempt": 1,
        "reused": True,
        "bytes": 55,
    }


def test_an_event_is_stamped_with_the_monotonic_clock(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl", "proxy")
    before = time.monotonic_ns()
    log.emit(DOWNSTREAM_OPENED, "a:1>b:2", 0)
    after = time.monotonic_ns()
    log.close()
    line = lines_of(tmp_path / "events.jsonl")[0]
    assert before <= line["t"] <= after
    assert "exchange" not in line


def test_the_last_line_carries_the_counts_and_every_line_its_number(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl", "wire")
    for _ in range(1000):
        log.emit(DOWNSTREAM_OPENED, "a:1>b:2", 0)
    log.close()
    log.close()
    lines = lines_of(tmp_path / "events.jsonl")
    assert [line["n"] for line in lines] == list(range(1001))
    assert lines[-1].items() >= {"kind": "log.closed", "at": "wire", "emitted": 1000, "dropped": 0}.items()
    assert repr(log) == "<EventLog wire, 1000 emitted, 0 dropped>"


def test_events_are_written_while_the_log_is_open(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl", "proxy")
    log.emit(DOWNSTREAM_OPENED, "a:1>b:2", 0)
    wait_until(lambda: (tmp_path / "events.jsonl").stat().st_size > 0)
    log.close()


def test_a_log_starts_empty(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text("of an earlier run\n")
    EventLog(tmp_path / "events.jsonl", "proxy").close()
    assert [line["kind"] for line in lines_of(tmp_path / "events.jsonl")] == ["log.closed"]


def test_what_does_not_fit_is_dropped_and_counted(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)  # it holds 64 KiB, and nobody reads
    log = EventLog(tmp_path / "pipe", "proxy", limit=10)
    started = time.monotonic()
    for _ in range(20_000):
        log.emit(EXCHANGE_STARTED, "a:1>b:2", 1, "req", "GET", "/")
    wait_until(lambda: log.dropped > 0)
    assert time.monotonic() - started < WAIT_S
    assert log.emitted + log.dropped == 20_000
    os.close(reader)  # the writer gets EPIPE instead of waiting for ever
    log.close()
    assert log.emitted + log.dropped >= 20_000


def test_a_disk_that_is_full_is_no_error_but_counted() -> None:
    log = EventLog("/dev/full", "proxy")
    log.emit(DOWNSTREAM_OPENED, "a:1>b:2", 0)
    log.close()
    assert log.emitted == 1
    assert log.dropped == 2  # the event and the last line


def test_lines_that_a_full_disk_still_took_are_not_lost(tmp_path: Path) -> None:
    class NearlyFull(FileIO):
        room = 7

        def write(self, data: Any) -> int:
            if not self.room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            taken, self.room = self.room, 0
            return super().write(data[:taken]) or 0

    path = tmp_path / "log"
    writer: LineWriter[bytes] = LineWriter(NearlyFull(path, "w"), bytes, name="nearly-full", limit=100)
    writer._write([b"aaaa", b"bbbb", b"cccc"])
    writer.close()
    assert path.read_bytes() == b"aaaa\nbb"
    assert writer.dropped == 2


def test_closing_does_not_wait_for_a_reader_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "CLOSE_WITHIN_S", 0.2)
    reader, writer = os.pipe()
    log: LineWriter[bytes] = LineWriter(FileIO(writer, "w"), lambda line: line, name="stalled", limit=100)
    log.put(b"x" * 1_000_000)
    wait_until(lambda: not log._waiting)  # the thread has taken it, and waits in write
    log.put(b"never written")
    log.close()
    assert log.dropped == 1
    os.close(reader)
    log._thread.join(WAIT_S)
    assert not log._thread.is_alive()
    log._file.close()


@pytest.mark.parametrize("blocking", [True, False])
def test_two_who_write_to_one_slow_pipe_tear_no_line(blocking: bool) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, blocking)
    each = 1000
    writers = [LineWriter(FileIO(os.dup(writing), "w"), str.encode, name=name, limit=each) for name in ("one", "other")]
    os.close(writing)
    for number in range(each):
        for writer, letter in zip(writers, "ab", strict=True):
            writer.put(letter * (200 + number % 100))
    got = b""
    with os.fdopen(reading, "rb", buffering=0) as pipe:  # far more than it holds: both wait for room in it
        while got.count(b"\n") < 2 * each:
            got += pipe.read(1000) or b""
        for writer in writers:
            writer.close()
    lines = got.decode().splitlines()
    assert sorted(map(len, lines)) == sorted(200 + number % 100 for number in range(2 * each))
    assert {letter for line in lines for letter in set(line)} == {"a", "b"}
    assert all(len(set(line)) == 1 for line in lines)
    assert [writer.dropped for writer in writers] == [0, 0]


@pytest.mark.parametrize(
    ("lengths", "batches"),
    [
        ([], []),
        ([9], [[9]]),
        ([4, 4], [[4, 4]]),  # 10 bytes, with their ends
        ([4, 5], [[4], [5]]),
        ([4, 4, 1], [[4, 4], [1]]),
        ([30, 1, 30], [[30], [1], [30]]),  # nothing is held back because it is too long
        ([0] * 11, [[0] * 10, [0]]),
    ],
)
def test_lines_go_out_in_batches(lengths: list[int], batches: list[list[int]]) -> None:
    lines = [b"x" * length for length in lengths]
    assert [[len(line) for line in some] for some in in_batches(lines, 10)] == batches
    assert LONGEST_LINE < PIPE_BUF


def test_a_pipe_that_is_not_blocking_loses_nothing() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    log: LineWriter[bytes] = LineWriter(FileIO(writer, "w"), lambda line: line, name="pipe", limit=100)
    log.put(b"x" * 300_000)  # more than a pipe holds
    received: list[bytes] = []

    def read_all() -> None:
        while chunk := os.read(reader, 1 << 16):
            received.append(chunk)

    thread = threading.Thread(target=read_all)
    thread.start()
    log.close()
    thread.join(WAIT_S)
    os.close(reader)
    assert b"".join(received) == b"x" * 300_000 + b"\n"
    assert log.dropped == 0


@pytest.mark.parametrize(
    "text", ["a\nb\r\n", "\x1b[31mred", "\u202ereversed", "\x9b31m", '"quoted"', "\udc80 no UTF-8", "日本"]
)
def test_a_line_is_ascii_and_one_line_and_says_the_same(text: str) -> None:
    line = encode_line({"target": text})
    assert line.isascii()
    assert all(byte >= 0x20 for byte in line)
    assert json.loads(line) == {"target": text}


def test_the_number_of_details_must_be_that_of_the_kind() -> None:
    with pytest.raises(ValueError, match="zip"):
        events.Event(0, UPSTREAM_CLOSED, "", 0, ("reason",)).as_line("proxy", 0)


def test_the_proxy_has_eleven_kinds_each_with_its_own_name() -> None:
    kinds = [value for value in vars(events).values() if isinstance(value, Kind)]
    assert len(kinds) == len({kind.name for kind in kinds}) == 11


def test_both_ends_compute_the_same_name() -> None:
    assert connection_name(("10.0.0.2", 40312), ("10.0.0.3", 8001)) == "10.0.0.2:40312>10.0.0.3:8001"
    assert connection_name(("::1", 1, 0, 0), ("::1", 2, 0, 0)) == "::1:1>::1:2"


def wait_until(condition: Any) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.005)
