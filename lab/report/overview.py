"""The page over several runs: one row each, with a way to its own page. Its rules are those of `page.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from lab import wording
from lab.model import Verdict
from lab.report.page import template
from lab.result import RunResult


class Ran(Protocol):
    """What is read of one scenario of a series."""

    @property
    def scenario(self) -> str: ...
    @property
    def sentence(self) -> str: ...
    @property
    def took_s(self) -> float: ...
    @property
    def folder(self) -> str: ...
    @property
    def result(self) -> RunResult | None: ...
    @property
    def why_not(self) -> str: ...
    @property
    def missed(self) -> int: ...


def write(series: Sequence[Ran], path: Path) -> None:
    """Writes the page as UTF-8, whatever the locale."""
    path.write_text(render(series), encoding="utf-8")


def render(series: Sequence[Ran]) -> str:
    """The whole page."""
    verdict = Verdict.worst(ran.result.verdict if ran.result else Verdict.INCONCLUSIVE for ran in series)
    return template("overview.html").render(
        series=series,
        verdict=verdict,
        meaning=wording.MEANING[verdict],
        mark=wording.MARK,
        duration=wording.duration_text,
    )
