"""What the tiny apps share: the delay that a request asks for, and one line per executed request.

Each app is started by a server of its own with this folder on its path, so this file imports nothing of ours.
"""

from __future__ import annotations

import json
import os
import re
from time import monotonic_ns
from urllib.parse import parse_qs

VARIABLE = "KALAB_EXECUTIONS"
UNITS_S = {"ms": 0.001, "s": 1.0}


class Executions:
    """Appends JSON lines to one file. Each line is one write with O_APPEND, so several processes may share the file."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    @classmethod
    def from_environment(cls) -> Executions | None:
        """The file that `KALAB_EXECUTIONS` names, or None when it names none."""
        path = os.environ.get(VARIABLE)
        return cls(path) if path else None

    def add(self, req_id: str, method: str, target: str) -> None:
        """Notes one executed request, stamped now (CLOCK_MONOTONIC)."""
        line = {"t": monotonic_ns(), "kind": "exchange.executed", "req_id": req_id, "method": method, "target": target}
        os.write(self._fd, json.dumps(line).encode() + b"\n")


def delay_of(query: str) -> float:
    """Seconds that `delay=300ms` or `delay=2s` in a query asks for; 0 when it does not, or not readably."""
    asked = parse_qs(query).get("delay", [""])[0]
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)", asked)
    return float(match[1]) * UNITS_S[match[2]] if match else 0.0
