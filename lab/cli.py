"""`kalab VERB`: results on stdout, progress on stderr, one clear line for what went wrong.

Exit codes: 0 pass, 1 fail, 2 inconclusive, 3 bad usage or configuration, 4 this machine cannot run it, 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import random
import signal
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer
import uvloop
from rich.console import Console
from typer._click.exceptions import ClickException  # typer shows no public name for it

import scenarios
from lab import doctor as doctor_room
from lab import predict_command
from lab.errors import CannotRunError, UsageError
from lab.flags import choice, seconds
from lab.model import Below, Scenario
from lab.plan import Setup
from lab.progress import Progress
from lab.result import RunResult
from lab.run_all import exit_code, run_all
from lab.run_all import tell as tell_all
from lab.runner import run as run_scenario
from lab.sabotage import SABOTAGES
from lab.store import read_result
from lab.story import tell
from lab.verify import verify as verify_run
from lab.wire import best, enter_private_network, probe
from proxy.config import ConfigError
from upstreams.catalogue import SERVERS

INTERRUPTED = 130
LATEST = Path("runs/idle-close/latest")
WIRES = ("relay", "netns", "loopback", "auto")

app = typer.Typer(
    name="kalab",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

RUN_EXAMPLES = """
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
  kalab run idle-close --upstream uvicorn --keep-alive 5s --arm control --method POST --blocks 1 --trials 1000

Exit codes: 0 pass, 1 fail, 2 inconclusive, 3 bad usage, 4 this machine cannot run it.
"""

WireOption = Annotated[
    str, typer.Option(help="What lies between proxy and upstream: relay, netns, loopback, or auto (the best here).")
]
RunsOption = Annotated[Path, typer.Option(help="Where run folders go.", envvar="KALAB_RUNS")]
RunArgument = Annotated[Path, typer.Argument(help="A run folder.")]
SeedOption = Annotated[int | None, typer.Option(help="Draws the order of arms and the gaps; random unless given.")]
JsonOption = Annotated[bool, typer.Option("--json", help="The result as JSON on stdout, nothing else there.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"kalab {metadata.version('kalab')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def kalab(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback prints it
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="The version, and nothing else.")
    ] = False,
) -> None:
    """The keep-alive lab: makes the keep-alive race behind sporadic 502s happen, proves it, and fixes it."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command("list")
def list_scenarios() -> None:
    """Lists the scenarios, what each asks, and its arms."""
    for scenario in _scenarios().values():
        print(f"{scenario.name}: {scenario.sentence}\n  {scenario.teaches}")
        for arm in scenario.arms:
            print(f"    {arm.name:<20} {arm.title}")


@app.command("run", help=RUN_EXAMPLES)
def run_command(
    scenario: Annotated[str | None, typer.Argument(help="The scenario; `kalab list` names them.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every scenario, with one table and one page for all.")] = False,
    wire: WireOption = "relay",
    upstream: Annotated[str, typer.Option(help="The server behind the proxy: lab, or a real one by name.")] = "lab",
    arm: Annotated[list[str] | None, typer.Option(help="Only this arm (and its control); may be repeated.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Only this method, GET or POST; may be repeated.")] = None,
    keep_alive: Annotated[str | None, typer.Option(help="The upstream's idle timeout, e.g. 2s.")] = None,
    rtt: Annotated[str | None, typer.Option(help="Round trip between proxy and upstream, e.g. 40ms.")] = None,
    stall: Annotated[str, typer.Option(help="Block the lab upstream's loop this long before each deadline.")] = "0ms",
    short: Annotated[bool, typer.Option("--short", help="Less evidence, in a third of the time.")] = False,
    blocks: Annotated[int | None, typer.Option(min=1, max=1000, help="Rounds of each arm.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, max=5000, help="Aimed requests per arm and block.")] = None,
    seed: SeedOption = None,
    runs: RunsOption = Path("runs"),
    as_json: JsonOption = False,
    sabotage: Annotated[str, typer.Option(help="Spoil the run on purpose; see docs/verdicts.md.")] = "",
) -> None:
    if every or scenario is None:
        _run_all(scenario, runs, as_json=as_json, wanted=every)
    chosen = choice("scenario", scenario, _scenarios())
    make = _wire(wire)
    idle_s = _keep_alive_s(keep_alive, chosen)
    size = chosen.short if short else chosen.full
    trials_each = trials or size.trials
    setup = Setup(
        scenario=chosen.name,
        wire=make,
        upstream=choice("upstream server", upstream, {name: name for name in SERVERS}),
        methods=tuple(choice("method", m.upper(), {"GET": "GET", "POST": "POST"}) for m in method or ("GET", "POST")),
        arms=_arms(chosen, arm),
        keep_alive_s=idle_s,
        rtt_ms=_rtt_ms(rtt, make, chosen, idle_s),
        stall_ms=_stall_ms(stall, upstream),
        blocks=blocks or size.blocks,
        trials=trials_each,
        min_exposed=min(size.min_exposed, trials_each * (blocks or size.blocks) // 4),
        seed=random.SystemRandom().randrange(2**32) if seed is None else seed,
        sabotage=choice("sabotage", sabotage, {name: name for name in SABOTAGES}) if sabotage else "",
    )
    _run(chosen, setup, runs, as_json=as_json)


@app.command()
def demo(
    wire: WireOption = "auto", runs: RunsOption = Path("runs"), seed: SeedOption = None, as_json: JsonOption = False
) -> None:
    """The main job in a minute: the race shown, proven and fixed, on the best wire that this machine can build."""
    run_command("idle-close", wire=wire, runs=runs, seed=seed, as_json=as_json)


@app.command()
def verify(run: RunArgument = LATEST, as_json: JsonOption = False) -> None:
    """Recomputes a run's verdict from its stored evidence alone, and notices what was changed since."""
    verdict, lines = verify_run(run, _scenarios())
    if as_json:
        print(msgspec.json.encode({"verdict": verdict, "findings": lines}).decode())
    else:
        print("\n".join([*lines, f"verdict: {verdict}"]))
    raise typer.Exit(verdict.exit_code)


@app.command()
def report(run: RunArgument = LATEST) -> None:
    """Tells a stored run again."""
    tell(read_result(run), Console(), report=str(run / "report.html"))


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Option(help="A proxy.toml, to see what its proxy would get here.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Tells what this machine can do: the proxy's limits and socket options, rights, wires, servers and tools."""
    findings = doctor_room.examine(config)
    if as_json:
        print(msgspec.json.encode(findings).decode())
    else:
        doctor_room.show(findings, Console())


app.command("predict", help=predict_command.HELP)(predict_command.command)


@app.command(
    "proxy",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def proxy_command(context: typer.Context) -> None:
    """Runs the reverse proxy: the same as `python -m proxy`, whose flags it takes."""
    # -P: the one that is installed, not what the folder calls so that one stands in
    os.execv(sys.executable, [sys.executable, "-P", "-m", "proxy", *context.args])


def main() -> None:
    """The entry point: turns every expected error into one line and its exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end_as_interrupted)
    try:
        code = app(standalone_mode=False)
    except ClickException as error:
        _fail(error.format_message(), UsageError.exit_code)
    except (UsageError, CannotRunError) as error:
        _fail(str(error), error.exit_code)
    except ConfigError as error:
        _fail(str(error), UsageError.exit_code)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        _fail(f"{error.strerror or error}{where}", CannotRunError.exit_code)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:  # typer's way to tell of a KeyboardInterrupt
        _fail("interrupted; everything that was started is stopped", INTERRUPTED)
    sys.exit(code or 0)


def _end_as_interrupted(*_: object) -> None:
    """A kill, or a terminal that closes, ends a run as Ctrl-C does: everything that was started is stopped."""
    signal.raise_signal(signal.SIGINT)


def _fail(sentence: str, code: int) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(code)


def _run(scenario: Scenario, setup: Setup, runs: Path, *, as_json: bool) -> None:
    if setup.wire == "netns":
        enter_private_network()
    with Progress() as progress:
        folder, result = uvloop.run(run_scenario(scenario, setup, _command_line(), runs, progress.step))
    _show(folder, result, as_json=as_json)
    raise typer.Exit(result.verdict.exit_code)


def _run_all(scenario: str | None, runs: Path, *, as_json: bool, wanted: bool) -> NoReturn:
    if not wanted:
        raise UsageError(f"name a scenario, or --all for every one; there are: {', '.join(_scenarios())}")
    if scenario is not None:
        raise UsageError(f"--all runs every scenario: leave out {scenario}")
    with Progress() as progress:
        series = run_all(list(_scenarios().values()), _flags_for_all(), runs, progress.step)
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


def _scenarios() -> dict[str, Scenario]:
    """All scenarios by name: every module in `scenarios/` declares one."""
    modules = (importlib.import_module(f"scenarios.{m.name}") for m in pkgutil.iter_modules(scenarios.__path__))
    return {module.SCENARIO.name: module.SCENARIO for module in modules}


def _arms(scenario: Scenario, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The arms asked for, in the scenario's order, with the controls that they need."""
    named = {arm.name: arm for arm in scenario.arms}
    if not wanted:
        return tuple(named)
    chosen = [choice("arm", name, named) for name in wanted]
    names = {arm.name for arm in chosen} | {arm.control for arm in chosen if arm.control}
    return tuple(name for name in named if name in names)


def _wire(name: str) -> str:
    make = choice("wire", name, {wire: wire for wire in WIRES})
    if make == "auto":
        return best()
    if make == "netns":
        found = probe()["netns"]
        if not found.ok:
            raise CannotRunError(f"the netns wire cannot be built here: {found.why_not}")
    return make


def _keep_alive_s(text: str | None, scenario: Scenario) -> float:
    if text is None:
        return scenario.keep_alive_s
    idle_s = seconds("--keep-alive", text)
    if not idle_s:
        raise UsageError(f"--keep-alive {text}: it must be longer than 0")
    margins = (v.margin_ms for arm in scenario.arms for v in arm.change.values() if isinstance(v, Below))
    widest_ms = max(margins, default=0.0)
    if idle_s * 1000 <= 2 * widest_ms:
        raise UsageError(
            f"--keep-alive {text}: too short for fixes {widest_ms:g} ms below it; give {_enough(widest_ms)}"
        )
    return idle_s


def _enough(margin_ms: float) -> str:
    return f"{2 * margin_ms / 1000 + 0.1:.1f}s or more"


def _rtt_ms(text: str | None, make: str, scenario: Scenario, keep_alive_s: float) -> float:
    if make == "loopback":
        if text:
            raise UsageError("--rtt needs something between proxy and upstream: use --wire relay or netns")
        return 0.0
    rtt_s = seconds("--rtt", text) if text else scenario.rtt_ms / 1000
    if rtt_s > keep_alive_s / 4 and not text:
        raise UsageError(
            f"--keep-alive {keep_alive_s:g}s: too short for this scenario's round trip of {rtt_s * 1000:g} ms"
        )
    if rtt_s > keep_alive_s / 4:
        raise UsageError(f"--rtt {text}: at most a quarter of the upstream's idle timeout ({keep_alive_s:g}s)")
    return rtt_s * 1000


def _stall_ms(text: str, upstream: str) -> float:
    stall_s = seconds("--stall", text)
    if stall_s and upstream != "lab":
        raise UsageError(f"--stall works on the lab upstream only, not on {upstream}")
    return stall_s * 1000


def _command_line(argv: Iterable[str] = sys.argv[1:]) -> str:
    return " ".join(["kalab", *(word for word in argv if word != "--json")])
