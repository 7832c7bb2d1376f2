"""`kalab VERB`: results on stdout, progress on stderr, one clear line for what went wrong.

Exit codes: 0 pass, 1 fail, 2 inconclusive, 3 bad usage or configuration, 4 this machine cannot run it, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer
from rich.console import Console
from typer._click.exceptions import ClickException  # typer shows no public name for it

from lab import compare_command, interrupts, list_command, predict_command, report_command, run_command, sweep_command
from lab import doctor as doctor_room
from lab.errors import CannotRunError, UsageError
from lab.options import JsonOption
from proxy.config import ConfigError

INTERRUPTED = 130

app = typer.Typer(
    name="kalab",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


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


app.command("list", help=list_command.HELP)(list_command.command)
app.command("run", help=run_command.HELP)(run_command.command)
app.command()(run_command.demo)
app.command()(report_command.verify)
app.command()(report_command.report)
app.command("sweep", help=sweep_command.HELP)(sweep_command.command)
app.command("compare", help=compare_command.HELP)(compare_command.command)
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
    interrupts.listen()
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


def _fail(sentence: str, code: int) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(code)
