"""What happened, as one stream. The access log, metrics, timeline and checkers read it; nothing else is instrumented.

Rules of this file:

- It imports nothing of ours: the lab upstream and the wire write the same stream.
- Time is `time.monotonic_ns()` (CLOCK_MONOTONIC), which processes and network namespaces of one machine share.
- A connection's name is its 4-tuple, the connecting side first: "10.0.0.2:40312>10.0.0.3:8001". Both ends and a
  packet capture compute the same name without coordination.
- On a pipe, which several may write to, whole lines go out in writes of PIPE_BUF bytes at most: those are not torn
  (pipe(7)).
- The buffer is bounded. What does not fit is dropped and counted, never waited for. Every line carries its number,
  and the last line carries the counts, so a reader can tell a whole log from a damaged one.
"""

from __future__ import annotations

import json
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from select import PIPE_BUF
from time import monotonic_ns, sleep
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

FLUSH_EVERY_S = 0.05
CLOSE_WITHIN_S = 5.0  # how long closing waits for a reader that does not read

_encode = msgspec.json.Encoder().encode


class Kind(NamedTuple):
    """One kind of event: its name, and the names of the details that follow the connection and the exchange."""

    name: str
    fields: tuple[str, ...] = ()


DOWNSTREAM_OPENED = Kind("downstream.opened")
DOWNSTREAM_CLOSED = Kind("downstream.closed", ("reason", "requests"))

EXCHANGE_STARTED = Kind("exchange.started", ("req_id", "method", "target"))
EXCHANGE_SENT = Kind("exchange.sent", ("req_id", "attempt", "reused", "bytes"))
EXCHANGE_FIRST_BYTE = Kind("exchange.first_byte", ("req_id", "attempt"))
EXCHANGE_ATTEMPT_FAILED = Kind(
    "exchange.attempt_failed",
    ("req_id", "attempt", "failure", "proof", "reused", "sent_bytes", "unacked_bytes", "retry", "because"),
)
EXCHANGE_FINISHED = Kind(
    "exchange.finished",
    (
        "req_id",
        "client",
        "method",
        "target",
        "status",
        "cause",
        "attempts",
        "retry_reason",
        "group",
        "upstream",
        "up_conn",
        "up_reuse_n",
        "up_idle_ms",
        "bytes_in",
        "bytes_out",
        "duration_ms",
    ),
)

UPSTREAM_OPENED = Kind("upstream.opened", ("connect_ms",))
UPSTREAM_ACQUIRED = Kind("upstream.acquired", ("reused", "idle_ms", "requests"))
UPSTREAM_IDLE = Kind("upstream.idle", ("requests",))
UPSTREAM_CLOSED = Kind("upstream.closed", ("reason", "idle_ms", "requests"))

LOG_CLOSED = "log.closed"


class Event(NamedTuple):
    """One event, as it waits to be written."""

    t_ns: int
    kind: Kind
    conn: str
    exchange: int
    detail: Sequence[object]

    def as_line(self, at: str, number: int) -> dict[str, Any]:
        """The JSON object of this event: number, time, vantage point, kind, names, details."""
        line: dict[str, Any] = {"n": number, "t": self.t_ns, "at": at, "kind": self.kind.name}
        if self.conn:
            line["conn"] = self.conn
        if self.exchange:
            line["exchange"] = self.exchange
        line.update(zip(self.kind.fields, self.detail, strict=True))
        return line


T = TypeVar("T")


class LineWriter(Generic[T]):
    """Writes items as lines from a thread of its own, so that the path that puts them never waits for a disk or a pipe.

    `file` is unbuffered, and closed at the end. `encode` makes a line of an item, in the thread.
    `limit` bounds the items that wait to be written; more are dropped and counted.
    """

    def __init__(self, file: FileIO, encode: Callable[[T], bytes], *, name: str, limit: int) -> None:
        self.accepted = 0
        self._refused = 0  # by put: the two counters of drops belong to a thread each
        self._unwritten = 0  # by the writer
        self._limit = limit
        self._waiting: deque[T] = deque()
        self._file = file
        self._encode = encode
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write_until_stopped, name=name, daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Items that were not written: the buffer was full, or writing failed."""
        return self._refused + self._unwritten

    def put(self, item: T) -> None:
        """Adds one item. Never blocks, never raises."""
        if len(self._waiting) >= self._limit:
            self._refused += 1
            return
        self.accepted += 1
        self._waiting.append(item)

    def close(self, last_line: Callable[[], bytes] | None = None) -> None:
        """Writes what waits, then a last line. Idempotent. Whoever does not read for seconds gets no more."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join(CLOSE_WITHIN_S)
        if self._thread.is_alive():
            self._refused += len(self._waiting)
            return
        if last_line is not None:
            self._write([last_line()])
        self._file.close()

    def _write_until_stopped(self) -> None:
        while not self._stop.wait(FLUSH_EVERY_S):
            self._drain()
        self._drain()

    def _drain(self) -> None:
        lines = []
        while self._waiting:
            lines.append(self._encode(self._waiting.popleft()))
        if lines:
            self._write(lines)

    def _write(self, lines: list[bytes]) -> None:
        if not stat.S_ISFIFO(os.fstat(self._file.fileno()).st_mode):  # asked each time: the file may be changed
            self._write_at_once(lines)
            return
        for some in in_batches(lines, PIPE_BUF):
            self._write_at_once(some)

    def _write_at_once(self, lines: list[bytes]) -> None:
        left = memoryview(b"\n".join(lines) + b"\n")
        try:
            while left:
                written = self._file.write(left)
                if written is None:  # a pipe that is full, and that somebody has made non-blocking
                    sleep(FLUSH_EVERY_S)
                else:
                    left = left[written:]
        except OSError:  # a full disk must not stop the traffic
            self._unwritten += left.tobytes().count(b"\n")  # those before it are there, whole


def in_batches(lines: list[bytes], size: int) -> Iterator[list[bytes]]:
    """As many lines at a time as are at most so long, their ends included; one that is longer by itself is alone."""
    some: list[bytes] = []
    room = size
    for line in lines:
        if some and len(line) >= room:
            yield some
            some, room = [], size
        some.append(line)
        room -= len(line) + 1
    if some:
        yield some


class EventLog:
    """The event stream of one vantage point, as a file of JSON lines.

    `at` is the vantage point: "proxy", "upstream", "wire", "client".
    `limit` bounds the events that wait to be written; more are dropped and counted in `dropped`.
    """

    def __init__(self, path: Path | str, at: str, *, limit: int = 200_000) -> None:
        self.at = at
        self._numbered = 0
        self._writer = LineWriter(FileIO(path, "w"), self._line, name=f"events-{at}", limit=limit)

    def __repr__(self) -> str:
        return f"<EventLog {self.at}, {self.emitted} emitted, {self.dropped} dropped>"

    @property
    def emitted(self) -> int:
        """Events accepted to be written."""
        return self._writer.accepted

    @property
    def dropped(self) -> int:
        """Events that are missing from the file: the buffer was full, or writing failed."""
        return self._writer.dropped

    def emit(self, kind: Kind, conn: str, exchange: int, *detail: object, t_ns: int | None = None) -> None:
        """Adds one event, stamped now unless the moment is given. Never blocks, never raises."""
        self._writer.put(Event(t_ns or monotonic_ns(), kind, conn, exchange, detail))

    def close(self) -> None:
        """Writes what waits, then a last line with the counts. Idempotent."""
        self._writer.close(self._last_line)

    def _line(self, event: Event) -> bytes:
        line = event.as_line(self.at, self._numbered)
        self._numbered += 1  # also when writing fails: the gap shows
        return encode_line(line)

    def _last_line(self) -> bytes:
        line = {"n": self._numbered, "t": monotonic_ns(), "at": self.at, "kind": LOG_CLOSED}
        return encode_line({**line, "emitted": self.emitted, "dropped": self.dropped})


def encode_line(line: dict[str, Any] | msgspec.Struct) -> bytes:
    """One JSON object in ASCII: what a client sent can neither end the line nor steer the terminal that shows it."""
    try:
        encoded = _encode(line)
    except UnicodeEncodeError:  # bytes that were no UTF-8, as lone surrogates
        return _escaped(line)
    return encoded if encoded.isascii() else _escaped(line)


def _escaped(line: dict[str, Any] | msgspec.Struct) -> bytes:
    return json.dumps(msgspec.to_builtins(line)).encode()


def connection_name(client: tuple[Any, ...], server: tuple[Any, ...]) -> str:
    """The 4-tuple as a name, from two socket addresses; the side that connected comes first."""
    return f"{client[0]}:{client[1]}>{server[0]}:{server[1]}"
