"""The access log: one JSON line per exchange, for people and their log pipelines.

Rules of this file:

- It reads the event stream: a line is an `exchange.finished` event, its connection and the time of day.
- It never blocks. Lines are made and written by a thread; what does not fit its buffer is dropped and counted. Off, it
  is an `if` in the caller.
- What a client chose is escaped and capped. The query string is left out, because people put secrets there.
- On "-", lines follow whatever the process printed on standard output before.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from io import FileIO
from time import time
from typing import Any, Final, NamedTuple

from proxy.events import EXCHANGE_FINISHED, LineWriter, encode_line

STANDARD_OUTPUT: Final = 1
LONGEST_TEXT: Final = 1024  # characters of a request id or target; longer ones are cut
LIMIT: Final = 50_000  # lines that may wait to be written

# The order of a line: what is read first comes first.
FIELDS: Final = (
    "ts",
    "req_id",
    "method",
    "target",
    "status",
    "cause",
    "duration_ms",
    "attempts",
    "retry_reason",
    "client",
    "client_conn",
    "up_conn",
    "up_reuse_n",
    "up_idle_ms",
    "bytes_in",
    "bytes_out",
)


class Finished(NamedTuple):
    """An `exchange.finished` event, as it waits to be written. `at` is the time of day in seconds since 1970."""

    at: float
    client_conn: str
    detail: Sequence[object]


class AccessLog:
    """Where the lines go: "-" is standard output, "off" or "" is nowhere, anything else a path that is appended to."""

    def __init__(self, target: str, *, limit: int = LIMIT) -> None:
        self.target = target
        self._writer: LineWriter[Finished] | None = None
        name = "access-log"
        if target == "-":
            self._writer = LineWriter(FileIO(STANDARD_OUTPUT, "w", closefd=False), line_of, name=name, limit=limit)
        elif target not in ("", "off"):
            self._writer = LineWriter(FileIO(target, "a"), line_of, name=name, limit=limit)
        self.on = self._writer is not None

    def __repr__(self) -> str:
        if self._writer is None:
            return "<AccessLog off>"
        return f"<AccessLog {self.target}, {self._writer.accepted} lines, {self._writer.dropped} dropped>"

    @property
    def dropped(self) -> int:
        """Lines that were not written."""
        return self._writer.dropped if self._writer else 0

    def finished(self, client_conn: str, *detail: object) -> None:
        """Adds the line of an exchange; `detail` is that of EXCHANGE_FINISHED. Ask `on` first to save the call."""
        if self._writer is not None:
            self._writer.put(Finished(time(), client_conn, detail))

    def close(self) -> None:
        """Writes what waits. Idempotent."""
        if self._writer is not None:
            self._writer.close()


def line_of(finished: Finished) -> bytes:
    """The line of an exchange."""
    values: dict[str, Any] = dict(zip(EXCHANGE_FINISHED.fields, finished.detail, strict=True))
    values["ts"] = datetime.fromtimestamp(finished.at, UTC).isoformat(timespec="milliseconds")
    values["client_conn"] = finished.client_conn
    values["target"] = values["target"].partition("?")[0]
    return encode_line({name: _capped(values[name]) for name in FIELDS})


def _capped(value: object) -> object:
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return value[:LONGEST_TEXT] + "…"
    return value
