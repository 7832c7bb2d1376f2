"""The access log: one line per exchange, for people and their log pipelines, as JSON or in Apache's combined format.

Rules of this file:

- It reads the event stream: a line is an `exchange.finished` event, its connection, its fields and the time of day.
- It never blocks. Lines are made and written by a thread; what does not fit its buffer, and what cannot be written, is
  dropped and counted, and told once. Off, it is an `if` in the caller.
- What a client chose is escaped and capped, so that a line is at most `LONGEST_LINE` bytes of ASCII. The query string
  is left out, of a Referer too, because people put secrets there; and so is every field that is not named here.
- On "-", lines follow whatever the process printed on standard output before.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from functools import lru_cache
from io import FileIO
from time import gmtime, strftime, time
from typing import Any, Final, NamedTuple

import msgspec

from proxy.config.bounds import LogFormat
from proxy.events import EXCHANGE_FINISHED, LineWriter, encode_line
from proxy.http1.grammar import finder

STANDARD_OUTPUT: Final = 1
LONGEST_LINE: Final = 2048  # bytes
LIMIT: Final = 50_000  # lines that may wait to be written


class Line(msgspec.Struct, gc=False):
    """A line as JSON. Its order is that of these: what is read first comes first."""

    ts: str
    req_id: str
    method: str | None
    target: str | None
    status: int
    cause: str
    reason: str
    duration_ms: float
    attempts: int
    retry_reason: str
    client: str
    client_conn: str
    group: str
    upstream: str
    up_conn: str
    up_reuse_n: int
    up_idle_ms: float
    bytes_in: int
    bytes_out: int
    traceparent: str | msgspec.UnsetType = msgspec.UNSET


# How long the texts may be that others choose, in bytes as they are written.
LONGEST: Final = {
    "req_id": 200,
    "method": 40,
    "target": 800,
    "group": 60,
    "upstream": 120,
    "referer": 400,
    "user_agent": 400,
}

_referer, _user_agent, _traceparent = finder(b"referer"), finder(b"user-agent"), finder(b"traceparent")
# Ids that are not all zeros; what a later version may append is left out (W3C Trace Context §3.2).
_IDS = rb"-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
_TRACEPARENT = re.compile(rb"00%b$|(?!00|ff)[0-9a-f]{2}%b(?=$|-)" % (_IDS, _IDS))


class Finished(NamedTuple):
    """An `exchange.finished` event, as it waits to be written. `at` is the time of day in seconds since 1970."""

    at: float
    client_conn: str
    http10: bool
    fields: bytes  # the field lines of the request, as the client sent them
    detail: Sequence[object]
    reason: str = ""  # of one that was refused, in the words that its client was told


class AccessLog:
    """Where the lines go: "-" is standard output, "off" or "" is nowhere, anything else a path that is appended to."""

    def __init__(self, target: str, line_format: LogFormat = "json", *, limit: int = LIMIT) -> None:
        self.target = target
        self.line_format: LogFormat = line_format  # may be set at any time
        self.on = target not in ("", "off")
        self._file: LogFile | None = None
        self._writer: LineWriter[Finished] | None = None
        if self.on:
            self._file = LogFile(target)
            self._writer = LineWriter(self._file, self._line, name="access-log", limit=limit)

    def __repr__(self) -> str:
        if self._writer is None:
            return "<AccessLog off>"
        return f"<AccessLog {self.target}, {self._writer.accepted} lines, {self._writer.dropped} dropped>"

    @property
    def dropped(self) -> int:
        """Lines that were not written."""
        return self._writer.dropped if self._writer else 0

    def finished(
        self, client_conn: str, *detail: object, http10: bool = False, fields: bytes = b"", reason: str = ""
    ) -> None:
        """Adds the line of an exchange; `detail` is that of EXCHANGE_FINISHED. Ask `on` first to save the call.

        `fields`: the field lines as they came, in which the writer looks for the few that are logged. `reason`: of
        what the proxy has refused.
        """
        if self._writer is not None:
            self._writer.put(Finished(time(), client_conn, http10, fields, detail, reason))

    def reopen(self) -> str:
        """Goes on in the file that has the name now, after a rotation; what kept it from that, "" if nothing."""
        return self._file.reopen() if self._file is not None else ""

    def close(self) -> None:
        """Writes what waits. Idempotent."""
        if self._writer is not None:
            self._writer.close()

    def _line(self, finished: Finished) -> bytes:
        return combined_line(finished) if self.line_format == "combined" else json_line(finished)


class LogFile(FileIO):
    """A file that lines are appended to, that can be changed for another while it is written, and that complains once.

    "-" is standard output. A line that was torn by a full disk ends where it was torn: the next is whole again.
    """

    def __init__(self, target: str) -> None:
        if target == "-":
            super().__init__(STANDARD_OUTPUT, "w", closefd=False)
        else:
            super().__init__(target, "a")
        self._target = target
        self._begun = False  # a line that has not been ended
        self._torn = False
        self._told = False

    def write(self, data: Any, /) -> int:
        """As FileIO's: how many bytes were written, None for a pipe that is full."""
        try:
            if self._torn:
                super().write(b"\n")
                self._torn = self._begun = False
            written = super().write(data)
        except OSError as problem:
            self._torn = self._begun
            self._tell(problem.strerror or str(problem))
            raise
        if written:
            self._begun = data[written - 1] != ord("\n")
        return written

    def reopen(self) -> str:
        """Opens the file of this name anew; if that fails it goes on with the old one, and returns why."""
        if self._target == "-":
            return ""
        try:
            # Without waiting, in case that it is a pipe that nobody reads. For what is a file, that means nothing.
            new = os.open(self._target, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        except OSError as problem:
            what = problem.strerror or str(problem)
            return f"access log {self._target}: {what}; it could not be opened anew and goes on in the old file"
        os.dup2(new, self.fileno(), inheritable=False)  # under the writer's hands: it sees one file or the other
        os.close(new)
        self._begun = self._torn = self._told = False
        return ""

    def _tell(self, what: str) -> None:
        if not self._told:
            self._told = True
            then = "its lines are lost, and counted, until this ends"
            print(f"access log {self._target}: {what}; {then}", file=sys.stderr, flush=True)


# --- A line


def json_line(finished: Finished) -> bytes:
    """As JSON, with all there is."""
    second = int(finished.at)
    detail: Any = finished.detail
    req_id, client, method, target, status, cause, attempts, retry_reason, group, upstream, up_conn, *numbers = detail
    up_reuse_n, up_idle_ms, bytes_in, bytes_out, duration_ms = numbers
    line = Line(
        f"{_second(second)}.{int((finished.at - second) * 1000):03}+00:00",
        _capped(req_id, LONGEST["req_id"]),
        _capped(method, LONGEST["method"]) or None,  # none: there was no request line, or none that could be read
        _capped(target.partition("?")[0], LONGEST["target"]) if method else None,
        status,
        cause,
        finished.reason,
        duration_ms,
        attempts,
        retry_reason,
        client,
        finished.client_conn,
        _capped(group, LONGEST["group"]),
        _capped(upstream, LONGEST["upstream"]),
        up_conn,
        up_reuse_n,
        up_idle_ms,
        bytes_in,
        bytes_out,
    )
    if finished.fields and (match := _TRACEPARENT.match(_value(_traceparent, finished.fields))) is not None:
        line.traceparent = match[0].decode()
    return encode_line(line)


def combined_line(finished: Finished) -> bytes:
    """As Apache's LogFormat "%h %l %u %t \\"%r\\" %>s %b \\"%{Referer}i\\" \\"%{User-agent}i\\"", in UTC."""
    values: dict[str, Any] = dict(zip(EXCHANGE_FINISHED.fields, finished.detail, strict=True))
    request = "-"
    if values["method"]:
        method = _escaped(values["method"], LONGEST["method"])
        target = _escaped(values["target"].partition("?")[0], LONGEST["target"])
        request = f"{method} {target} HTTP/1.{0 if finished.http10 else 1}"
    referer = _escaped(_value(_referer, finished.fields).partition(b"?")[0].decode("latin-1"), LONGEST["referer"])
    agent = _escaped(_value(_user_agent, finished.fields).decode("latin-1"), LONGEST["user_agent"])
    when = _combined_second(int(finished.at))
    head = f'{values["client"] or "-"} - - [{when}] "{request}" {values["status"]} {values["bytes_out"] or "-"}'
    return f'{head} "{referer or "-"}" "{agent or "-"}"'.encode("ascii", "replace")


@lru_cache(maxsize=4)
def _second(at: int) -> str:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(at))


@lru_cache(maxsize=4)
def _combined_second(at: int) -> str:
    moment = gmtime(at)
    return f"{moment.tm_mday:02}/{_MONTHS[moment.tm_mon - 1]}/{strftime('%Y:%H:%M:%S', moment)} +0000"


def _value(find: Any, fields: bytes) -> bytes:
    match = find(fields)
    value: bytes = match[1].rstrip(b" \t") if match is not None else b""
    return value


def _capped(text: str, limit: int) -> str:
    """The text, cut if it would be longer than this in JSON, where a character can take twelve bytes."""
    if len(text) * 12 <= limit:  # as most are
        return text
    plain = _PLAIN(text) is not None
    if len(text if plain else json.dumps(text)) <= limit:
        return text
    return text[: limit if plain else limit // 12] + "…"


_PLAIN: Final = re.compile(r"[ !#-\[\]-~]*").fullmatch  # what JSON does not escape

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# Apache's: https://httpd.apache.org/docs/2.4/mod/mod_log_config.html#format-notes
_ESCAPES: Final = {
    **{code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0x100))},
    **{
        ord(char): escape
        for char, escape in zip('\b\n\r\t\v"\\', ("\\b", "\\n", "\\r", "\\t", "\\v", '\\"', "\\\\"), strict=True)
    },
}


def _escaped(text: str, limit: int) -> str:
    """Bytes read as latin-1, escaped as Apache does, and cut if that is longer than this."""
    escaped = text.translate(_ESCAPES)
    if len(escaped) <= limit:
        return escaped
    plain = len(escaped) == len(text)
    return text[: limit if plain else limit // 4].translate(_ESCAPES) + "..."
