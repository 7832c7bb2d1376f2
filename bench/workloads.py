"""What is asked of every contestant: one row each.

`unit` is what the cost is counted per. `target`: the most that we allow ourselves, as a multiple of the yardstick's
cost, or at a fixed rate of the latency that the yardstick adds.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

SMALL = 1024  # bytes
MEDIUM = 100 * 1024
LARGE = 1 << 30
MIB = 1 << 20


class Workload(NamedTuple):
    """One kind of load, driven as fast as it is answered, or at a fixed rate."""

    name: str
    title: str
    path: str
    size: int  # of one answer's body, bytes
    script: str = "same"  # which requests wrk.lua sends: same | varying | upload
    connections: int = 64
    unit: str = "request"  # or "MiB", of what was downloaded
    rate: int = 0  # requests a second on a fixed schedule; 0: as fast as they are answered
    yardstick: str = "nginx"
    target: float = 0.0  # 0: none


WORKLOADS = (
    Workload("same", "GET, 1 KiB, the same head every time", "/small", SMALL, target=1.15),
    Workload(
        "varying",
        "GET, 1 KiB, 15 browser-like request fields and 10 response fields, new every time",
        "/varying",
        SMALL,
        script="varying",
        target=1.6,
    ),
    Workload("medium", "GET, 100 KiB", "/medium", MEDIUM, yardstick="nginx-tuned", target=1.2),
    Workload(
        "download",
        "GET, 1 GiB, four at a time",
        "/large",
        LARGE,
        connections=4,
        unit="MiB",
        yardstick="nginx-tuned",
        target=1.2,
    ),
    Workload("upload", "POST, 16 KiB, 1 KiB back", "/upload", SMALL, script="upload", target=1.5),
    Workload("calm", "GET, 1 KiB, 500 a second on schedule", "/small", SMALL, connections=50, rate=500, target=1.5),
)


def write_files(folder: Path) -> None:
    """What the upstream serves from disk; the large one is a hole, which costs no disk."""
    folder.mkdir()
    (folder / "medium").write_bytes(b"k" * MEDIUM)
    with (folder / "large").open("wb") as large:
        large.truncate(LARGE)
