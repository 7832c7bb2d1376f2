"""Ways to spoil a run on purpose, to see that its verdict notices. None of them may end in "pass".

They exist for the tests and for teaching: `kalab run idle-close --sabotage NAME`.
"""

from __future__ import annotations

from pathlib import Path

SABOTAGES = {
    "generator-throttled": "The load generator is slow: it needs 30 ms for each request that it sends.",
    "upstream-ignores-timeout": "The upstream never closes an idle connection, whatever it was told.",
    "fin-past-the-run": "The upstream closes in calibration, but not before the run is over.",
    "drop-client-lines": "Every tenth line of the client's log is lost.",
    "drop-proxy-lines": "Every tenth line of the proxies' logs is lost.",
    "drop-upstream-lines": "Every tenth line of the upstream's log is lost.",
    "drop-wire-lines": "Every tenth line of the wire's log is lost.",
}

_DROPS = {
    "drop-client-lines": "client.jsonl",
    "drop-proxy-lines": "proxy-*.jsonl",
    "drop-upstream-lines": "upstream-*.jsonl",
    "drop-wire-lines": "wire.jsonl",
}

THROTTLE_S = 0.03


def spoil(name: str, folder: Path) -> None:
    """Damages the stored evidence, if that is what this sabotage does."""
    for path in folder.glob(_DROPS[name]) if name in _DROPS else ():
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(line for n, line in enumerate(lines) if n % 10 != 5))


def throttle_s(name: str) -> float:
    """How long each send of the client is held up, in seconds; 0 unless that is this sabotage."""
    return THROTTLE_S if name == "generator-throttled" else 0.0
