"""Progress on stderr: one line that is rewritten on a terminal, plain lines in a log. Nothing moves by itself."""

from __future__ import annotations

import os
import shutil
import sys
from types import TracebackType
from typing import TextIO

from lab.wording import encodable


class Progress:
    """Says what is being done. The same step said twice is written once.

    `stream` is stderr unless given; with TERM=dumb a terminal is treated as a log.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._rewrites = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._last = ""

    def __repr__(self) -> str:
        return f"<Progress {'line' if self._rewrites else 'log'}, {self._last!r}>"

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.done()

    def step(self, text: str) -> None:
        """What is being done now."""
        text = encodable(text, self._stream.encoding or "utf-8")
        if text == self._last:
            return
        self._last = text
        if self._rewrites:
            width = shutil.get_terminal_size().columns - 1
            self._write(f"\r\x1b[K{text[:width]}")
        else:
            self._write(f"{text}\n")

    def done(self) -> None:
        """Leaves a terminal's line empty for what comes next. Idempotent."""
        if self._rewrites and self._last:
            self._write("\r\x1b[K")
        self._last = ""

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:  # progress that nobody can read must not end a run
            self._rewrites = False
