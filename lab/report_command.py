"""`kalab report` and `kalab verify`: what is told of a run that is over, and which run is meant."""

from __future__ import annotations

import os
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from lab.catalogue import catalogue
from lab.errors import UsageError
from lab.options import JsonOption, StoredRunsOption
from lab.runs import find_run
from lab.store import read_result
from lab.story import tell
from lab.verify import verify as verify_run

PAGE = "report.html"
# Without one of these a browser has no screen to open a window on.
SCREENS = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")

RunArgument = Annotated[
    str | None, typer.Argument(help="A run folder, scenario/time, or a scenario; the latest of all when left out.")
]
OpenOption = Annotated[bool, typer.Option("--open", help="Show its page in a browser, where there is one.")]


def verify(run: RunArgument = None, runs: StoredRunsOption = Path("runs"), as_json: JsonOption = False) -> None:
    """Recomputes a run's verdict from its stored evidence alone, and notices what was changed since."""
    verdict, lines = verify_run(find_run(run, runs), catalogue())
    if as_json:
        print(msgspec.json.encode({"verdict": verdict, "findings": lines}).decode())
    else:
        print("\n".join([*lines, f"verdict: {verdict}"]))
    raise typer.Exit(verdict.exit_code)


def report(run: RunArgument = None, runs: StoredRunsOption = Path("runs"), shows_page: OpenOption = False) -> None:
    """Tells a stored run again, the latest if none is named. --open shows its page in a browser."""
    folder = find_run(run, runs)
    page = folder / PAGE
    tell(read_result(folder), Console(), report=str(page))
    if shows_page:
        print(show_page(page, os.environ))


def show_page(page: Path, environment: Mapping[str, str]) -> str:
    """Opens a page in the user's browser. Returns what came of that; where there is none, nothing is wrong."""
    if not page.is_file():
        raise UsageError(f"{page.parent} has no {page.name}")
    address = page.resolve().as_uri()
    if not any(environment.get(name) for name in SCREENS):
        return f"no display to open it on; its address is {address}"
    if not _opened(address):
        return f"no browser was found to open it; its address is {address}"
    return "opened in the browser"


def _opened(address: str) -> bool:
    """Whether a browser took it. What the browser prints is no result of ours."""
    kept = os.dup(1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 1)
        return webbrowser.open(address)
    except webbrowser.Error:
        return False
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)
