"""`kalab run` and `kalab demo`: what was typed, a run of it, and what came out."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer
import uvloop
from rich.console import Console

from lab.asked import Asked, understand
from lab.catalogue import catalogue
from lab.errors import UsageError
from lab.flags import choice
from lab.model import Scenario
from lab.options import (
    ArmOption,
    JsonOption,
    MethodOption,
    RunsOption,
    SeedOption,
    SetOption,
    UpstreamOption,
    WireOption,
)
from lab.plan import Setup
from lab.progress import Progress
from lab.result import RunResult
from lab.run_all import exit_code, run_all
from lab.run_all import tell as tell_all
from lab.runner import run as run_scenario
from lab.settings import settled
from lab.story import tell
from lab.wire import enter_private_network

HELP = """
Runs a scenario: makes the race happen, classes every request by what the wire saw, tries each fix, and judges.

\b
Examples:
  kalab run idle-close
  kalab run idle-close --short
  kalab run --all --short
  kalab run idle-close --upstream node --method POST
  kalab run idle-close --wire netns
  kalab run idle-close --wire loopback --stall 200ms
  kalab run idle-close --rtt 100ms --arm order-timeouts
  kalab run idle-close --arm order-timeouts --set margin=30ms
  kalab run idle-close --upstream uvicorn --keep-alive 5s --arm control --method POST --blocks 1 --trials 1000

Exit codes: 0 pass, 1 fail, 2 inconclusive, 3 bad usage, 4 this machine cannot run it.
"""


def command(
    scenario: Annotated[str | None, typer.Argument(help="The scenario; `kalab list` names them.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every scenario, with one table and one page for all.")] = False,
    wire: WireOption = "relay",
    upstream: UpstreamOption = "lab",
    arm: ArmOption = None,
    method: MethodOption = None,
    keep_alive: Annotated[str | None, typer.Option(help="The upstream's idle timeout, e.g. 2s.")] = None,
    rtt: Annotated[str | None, typer.Option(help="Round trip between proxy and upstream, e.g. 40ms.")] = None,
    stall: Annotated[str, typer.Option(help="Block the lab upstream's loop this long before each deadline.")] = "0ms",
    short: Annotated[bool, typer.Option("--short", help="Less evidence, in a third of the time.")] = False,
    blocks: Annotated[int | None, typer.Option(min=1, max=1000, help="Rounds of each arm.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, max=5000, help="Aimed requests per arm and block.")] = None,
    settings: SetOption = None,
    seed: SeedOption = None,
    runs: RunsOption = Path("runs"),
    as_json: JsonOption = False,
    sabotage: Annotated[str, typer.Option(help="Spoil the run on purpose; see docs/verdicts.md.")] = "",
) -> None:
    if every or scenario is None:
        _run_all(scenario, runs, as_json=as_json, wanted=every)
    chosen = choice("scenario", scenario, catalogue())
    asked = Asked(
        wire=wire,
        upstream=upstream,
        arms=arm or (),
        methods=method or (),
        keep_alive=keep_alive,
        rtt=rtt,
        stall=stall,
        short=short,
        blocks=blocks,
        trials=trials,
        seed=seed,
        sabotage=sabotage,
        settings=settings or (),
    )
    setup = understand(chosen, asked)
    _run(settled(chosen, setup), setup, runs, as_json=as_json)


def demo(
    wire: WireOption = "auto", runs: RunsOption = Path("runs"), seed: SeedOption = None, as_json: JsonOption = False
) -> None:
    """The main job in a minute: the race shown, proven and fixed, on the best wire that this machine can build."""
    command("idle-close", wire=wire, runs=runs, seed=seed, as_json=as_json)


def _run(scenario: Scenario, setup: Setup, runs: Path, *, as_json: bool) -> None:
    if setup.wire == "netns":
        enter_private_network()
    with Progress() as progress:
        folder, result = uvloop.run(run_scenario(scenario, setup, _command_line(), runs, progress.step))
    _show(folder, result, as_json=as_json)
    raise typer.Exit(result.verdict.exit_code)


def _run_all(scenario: str | None, runs: Path, *, as_json: bool, wanted: bool) -> NoReturn:
    if not wanted:
        raise UsageError(f"name a scenario, or --all for every one; there are: {', '.join(catalogue())}")
    if scenario is not None:
        raise UsageError(f"--all runs every scenario: leave out {scenario}")
    with Progress() as progress:
        series = run_all(list(catalogue().values()), _flags_for_all(), runs, progress.step)
    if as_json:
        print(msgspec.json.encode(series).decode())
    else:
        tell_all(series, Console(), runs)
    raise typer.Exit(exit_code(series))


def _flags_for_all(argv: Sequence[str] = sys.argv[2:]) -> list[str]:
    """What was typed behind `run` and is meant for each scenario; their folder is told them anew."""
    words = [word for word in argv if word not in ("--all", "--json") and not word.startswith("--runs=")]
    return [word for before, word in zip(["", *words], words, strict=False) if "--runs" not in (before, word)]


def _show(folder: Path, result: RunResult, *, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(result).decode())
    else:
        tell(result, Console(), report=str(folder / "report.html"))


def _command_line(argv: Iterable[str] = sys.argv[1:]) -> str:
    return " ".join(["kalab", *(word for word in argv if word != "--json")])
