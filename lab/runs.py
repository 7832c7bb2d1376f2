"""Which run is meant by a word on the command line: a folder, `scenario/time`, a scenario, `latest`, or nothing at all.

A word that names no run is one error, with the nearest that does.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from lab.errors import UsageError
from lab.store import MANIFEST, PLAN, RESULT

LATEST = "latest"


def find_run(word: str | None, runs: Path) -> Path:
    """The folder of the run that is meant; nothing and "latest" mean the newest finished one. Raises UsageError."""
    if word is None or word == LATEST:
        return latest_of_all(runs)
    for folder in (Path(word), runs / word):
        for found in (folder, folder / LATEST):
            if (found / RESULT).is_file():
                return found
    there = next((path for path in (Path(word), runs / word) if path.exists()), None)
    raise UsageError(_no_run(there) if there else f"there is no run {word}{_nearest(word, runs)}")


def latest_of_all(runs: Path) -> Path:
    """The newest finished run of any scenario. Raises UsageError when there is none."""
    links = [link for link in runs.glob(f"*/{LATEST}") if (link / MANIFEST).is_file()]
    if not links:
        raise UsageError(f"there is no finished run in {runs}; make one: kalab run idle-close --short")
    newest = max(links, key=lambda link: (link / MANIFEST).stat().st_mtime_ns)
    return newest.parent / newest.readlink()


def _no_run(path: Path) -> str:
    if not path.is_dir():
        meant = f"; did you mean {path.parent}?" if (path.parent / RESULT).is_file() else ""
        return f"{path} is a file, not a run folder{meant}"
    if (path / "logs").is_dir() or (path / PLAN).is_file():
        return f"{path} was stopped before its verdict: it has no {RESULT}"
    return f"{path} is not a run folder: it has no {RESULT}"


def _nearest(word: str, runs: Path) -> str:
    """The finished run whose name is nearest, as it would be typed."""
    finished = sorted(path.parent for path in runs.glob(f"*/*/{RESULT}"))
    names = {str(path.relative_to(runs)): path for path in finished}
    names |= {path.parent.name: path.parent for path in finished}
    names |= {str(path): path for path in names.values()}
    near = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {near[0]}?" if near else ""
