"""The command: `python -m proxy --config proxy.toml`."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

import uvloop

from proxy.admin.api import Unavailable
from proxy.config import ConfigError, Loaded, keys, load, rows
from proxy.control import Control, Local, socket_settings
from proxy.discovery import SourceError
from proxy.groups import say
from proxy.server import Server, settle
from proxy.tls import TlsError, client_context, server_context
from proxy.worker import work
from proxy.workers import Master

EXIT_BAD_CONFIG: Final = 3

EXAMPLES: Final = """examples:
  python -m proxy --listen 127.0.0.1:8080 --upstreams 127.0.0.1:9000
  python -m proxy --config proxy.toml --timeouts.upstream_idle 4s --workers 2
  KALAB_RETRY_POLICY=never python -m proxy --config proxy.toml --show-config

Every key of the config is a flag and an environment variable: timeouts.connect is --timeouts.connect and
KALAB_TIMEOUTS_CONNECT. Flags override the environment, which overrides the file.

signals: SIGTERM and SIGINT drain it, a second one ends it at once. SIGHUP reads file, environment, flags, certificates
again and opens the logs anew.
"""


class Arguments(argparse.ArgumentParser):
    """Reports a mistake as one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def main(argv: list[str]) -> int:
    """Runs the proxy until it is told to stop; returns the exit code."""
    if argv[:1] == ["--worker"]:  # started by its master, see worker.py
        uvloop.run(work(argv[1], settle))
        return 0
    try:
        arguments, flags = read_arguments(argv)

        def load_again() -> Loaded:
            return load(arguments.config, os.environ, flags)

        loaded = load_again()
        if arguments.show_config:
            show(loaded)
            return 0
        check(loaded, show_sockets=arguments.check_sockets)
        if arguments.check or arguments.check_sockets:
            print("the config is valid")
            return 0
        uvloop.run(serve(loaded, load_again))
    except (ConfigError, TlsError, SourceError, Unavailable) as problem:
        return complain(str(problem))
    except OSError as problem:
        what = os.strerror(problem.errno) if problem.errno else str(problem)
        return complain(f"{place_of(problem.filename or loaded.config.listen, loaded)}: {what}")
    return 0


async def serve(loaded: Loaded, load_again: Callable[[], Loaded]) -> None:
    """Serves until SIGTERM or SIGINT, then drains; a second one ends that. SIGHUP reloads."""
    config = loaded.config
    loop = asyncio.get_running_loop()
    serving: Server | Master = Master(config) if config.workers > 1 else Server(config)
    control = Control(serving if isinstance(serving, Master) else Local(serving), loaded, load_again)
    stop = asyncio.Event()
    reloads: set[asyncio.Task[None]] = set()

    def on_hangup() -> None:
        task = loop.create_task(reload(control))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    try:
        admin = await open_admin(loaded, control)
        host, port = await serving.start()
        settle()
        print(f"listening on {written(host, port)}", flush=True)
        await stop.wait()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, serving.hurry)
        await serving.drain()
        if admin is not None:
            await admin.close()
    finally:
        serving.close_logs()


async def reload(control: Control) -> None:
    """One line tells what came of it, and what has changed: what was patched live is undone."""
    try:
        changes = await control.reload()
    except (ConfigError, Unavailable) as problem:
        say(f"not reloaded: {problem}")
    else:
        said = f"reloaded: {len(changes)} change{'' if len(changes) == 1 else 's'}"
        say(": ".join([said, "; ".join(map(str, changes))]) if changes else said)


async def open_admin(loaded: Loaded, control: Control) -> Any:
    """The admin address, if there is to be one. What it needs is imported only then."""
    config = loaded.config.admin
    if config.listen == "off":
        return None
    try:
        from proxy.admin.site import Admin
    except ModuleNotFoundError as missing:
        if loaded.origins["admin.listen"] == "default":
            return None  # not asked for
        raise ConfigError(f"admin.listen: it needs the package {missing.name}: pip install {missing.name}") from None
    admin = Admin(config, control)
    try:
        host, port = await admin.start()
    except OSError as problem:
        what = os.strerror(problem.errno) if problem.errno else str(problem)  # the loop's own words say it twice
        raise ConfigError(f'admin.listen: {config.listen}: {what}; choose another, or "off"') from None
    if config.listen.endswith(":0"):
        say(f"admin on {written(host, port)}")
    return admin


def place_of(name: object, loaded: Loaded) -> str:
    """What could not be opened, behind the key that names it and where that is said."""
    config = loaded.config
    named = {"listen": config.listen, "log.access": config.log.access, "log.events": config.log.events}
    for key, value in named.items():
        if value == name:
            origin = loaded.origins[key]
            return f"{key}: {name}" if origin.startswith(("--", "default")) else f"{origin}: {key}: {name}"
    return str(name)


def check(loaded: Loaded, *, show_sockets: bool) -> None:
    """What can be known to be wrong before anything is opened. Raises ConfigError or TlsError."""
    config = loaded.config
    try:
        settings = socket_settings(config)
    except OSError as problem:
        raise ConfigError(str(problem.strerror or problem)) from None
    if config.tls.certificates:
        server_context(config.tls)
    for group in config.group_configs().values():
        if group.upstream_tls.enabled:
            client_context(group.upstream_tls)
    for setting in settings if show_sockets else ():
        print(f"{setting.key:<42}  {setting.asked:<8}  {setting.got}")


def read_arguments(argv: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The arguments, and apart from them the flags that are keys of the config."""
    parser = Arguments(
        prog="python -m proxy",
        description="An HTTP/1.1 reverse proxy with tunable keep-alive.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="a TOML file; default: none")
    parser.add_argument("--check", action="store_true", help="validate the config and what it names, and exit")
    parser.add_argument(
        "--check-sockets", action="store_true", help="print each socket option, as asked for and as got, and exit"
    )
    parser.add_argument("--show-config", action="store_true", help="print each key, its value and its origin, and exit")
    group = parser.add_argument_group("keys of the config")
    known = keys()
    for key in known:
        group.add_argument(f"--{key}", metavar="VALUE", dest=key)
    arguments, rest = parser.parse_known_args(argv)
    flags = {key: value for key in known if (value := getattr(arguments, key)) is not None}
    return arguments, flags | other_flags(rest)


def other_flags(rest: list[str]) -> dict[str, str]:
    """Flags of named groups, `--groups.api.pool.max_idle 3`; and what no key is known for, which `load` will refuse."""
    flags = {}
    words = iter(rest)
    for word in words:
        if not word.startswith("--"):
            raise ConfigError(f"{word}: a value without a flag")
        key, is_joined, value = word[2:].partition("=")
        flags[key] = value if is_joined or not key.startswith("groups.") else next(words, "")
        if not key.startswith("groups."):
            break
    return flags


def show(loaded: Loaded) -> None:
    """Prints each key, its value and where that comes from."""
    table = rows(loaded)
    widths = [max(len(row[column]) for row in table) for column in (0, 1)]
    for key, value, origin in table:
        print(f"{key:<{widths[0]}}  {value:<{widths[1]}}  {origin}")


def written(host: str, port: int) -> str:
    return f"{f'[{host}]' if ':' in host else host}:{port}"


def complain(problem: str) -> int:
    print(f"error: {problem}", file=sys.stderr)
    return EXIT_BAD_CONFIG


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
