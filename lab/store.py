"""The folder of a run: everything needed to argue about it later.

    runs/idle-close/20261120-133000/
        plan.json        what was going to be run and what was expected, written before the first aimed request
        client.jsonl     what clients sent and got            proxy-*.jsonl     what each proxy did
        wire.jsonl       every segment, with both its times    upstream-*.jsonl  executions and closes
        *.pcap           the packets, at both ends of the wire
        trials.jsonl     the witnesses joined, one line per aimed request
        verdict.json     what follows from them                report.html       the same, to read
        logs/            the configuration of each proxy, and what the processes printed
        manifest.json    SHA-256 of each of the files above

`runs/idle-close/latest` points to the newest that was finished.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from lab.errors import UsageError
from lab.plan import Plan
from lab.result import RunResult
from lab.witness.trials import Trial

T = TypeVar("T")

FORMAT = 1
LITTLE_SPACE = 65_536
MANIFEST = "manifest.json"
PLAN = "plan.json"
RESULT = "verdict.json"


class Manifest(msgspec.Struct, frozen=True):
    """The hashes of a run's files, so that a later change is noticed."""

    format: int
    sha256: dict[str, str]


def create(root: Path, scenario: str) -> Path:
    """Makes the folder of a new run. Raises UsageError when it cannot be written."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    parent = root / scenario
    try:
        folder = _fresh(parent, stamp)
        (folder / "logs").mkdir()
    except OSError as error:
        raise UsageError(f"cannot write to {root}: {error.strerror}; choose another folder with --runs") from error
    return folder


def _fresh(parent: Path, stamp: str) -> Path:
    for suffix in ("", *(f"-{n}" for n in range(2, 100))):
        folder = parent / (stamp + suffix)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise OSError(0, f"too many runs named {stamp}")


def is_full(folder: Path) -> bool:
    """Whether next to nothing more can be written there."""
    return shutil.disk_usage(folder).free < LITTLE_SPACE


def write_plan(folder: Path, plan: Plan) -> None:
    (folder / PLAN).write_bytes(_pretty(plan))


def read_plan(folder: Path) -> Plan:
    return _read(folder / PLAN, Plan)


def write_trials(folder: Path, trials: Sequence[Trial]) -> None:
    (folder / "trials.jsonl").write_bytes(b"".join(msgspec.json.encode(trial) + b"\n" for trial in trials))


def read_trials(folder: Path) -> list[Trial]:
    path = folder / "trials.jsonl"
    try:
        return [msgspec.json.decode(line, type=Trial) for line in path.read_bytes().splitlines()]
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{path}: {error}") from error


def write_result(folder: Path, result: RunResult) -> None:
    (folder / RESULT).write_bytes(_pretty(result))


def read_result(folder: Path) -> RunResult:
    return _read(folder / RESULT, RunResult)


def listing(folder: Path) -> list[str]:
    """The names of the evidence files, for the report."""
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def seal(folder: Path) -> None:
    """Writes the manifest, and points `latest` to this run. Done last, so `latest` is always a whole run."""
    (folder / MANIFEST).write_bytes(_pretty(Manifest(FORMAT, _hashes(folder))))
    latest = folder.parent / "latest"
    latest.unlink(missing_ok=True)
    latest.symlink_to(folder.name)


def tampered(folder: Path) -> list[str]:
    """Which sealed files were changed, removed or added since, one sentence each."""
    manifest = _read(folder / MANIFEST, Manifest)
    now = _hashes(folder)
    changed = [name for name, digest in manifest.sha256.items() if name in now and now[name] != digest]
    gone = [name for name in manifest.sha256 if name not in now]
    new = [name for name in now if name not in manifest.sha256]
    return (
        [f"{name} was changed after the run" for name in changed]
        + [f"{name} is gone" for name in gone]
        + [f"{name} was added after the run" for name in new]
    )


def _hashes(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _read(path: Path, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=type_)
    except (FileNotFoundError, NotADirectoryError):
        stopped = (path.parent / "logs").is_dir()
        what = "was stopped before its verdict" if stopped else "is not a run folder"
        raise UsageError(f"{path.parent} {what}: it has no {path.name}") from None
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{path}: {error}") from error


def _pretty(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
