"""Where a benchmark ran: what one must know to judge its figures later."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.peers.base import find

# How each program says its version; the first number with a dot in what it prints is taken.
ASKED = {
    "nginx": ["nginx", "-v"],
    "haproxy": ["haproxy", "-v"],
    "envoy": ["envoy", "--version"],
    "caddy": ["caddy", "version"],
    "apache": ["apache2", "-v"],
    "go": ["go", "version"],
    "node": ["node", "--version"],
    "wrk": ["wrk", "-v"],
}
OURS = ("uvloop", "httptools", "msgspec", "aiohttp")


def where() -> dict[str, Any]:
    """Kernel, processor, load, and the versions of everybody."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "kernel": platform.release(),
        "cpu": model[0].partition(":")[2].strip() if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        **{name: version(name) for name in OURS},
        **{name: version_of(command) for name, command in ASKED.items()},
        "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def version_of(command: list[str]) -> str:
    """The version that a program tells, or "none" when it is not here."""
    program = find(command[0])
    if program is None:
        return "none"
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=20, check=False)
    number = re.search(r"\d+\.\d+[\w.-]*", done.stdout + done.stderr)
    return number[0] if number else "unknown"
