"""A machine that has something else to do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hogs(each: int = 1) -> Iterator[None]:
    """Processes that do nothing but compute: so many for each core."""
    many = each * (os.cpu_count() or 1)
    running = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(many)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()
