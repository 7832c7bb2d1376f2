"""The command: `python -m proxy --config proxy.toml`."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NoReturn

import uvloop

from proxy.admin.api import Unavailable
from proxy.config import ConfigError, Loaded, keys, load, told, warnings
from proxy.config.hints import did_you_mean, near
from proxy.config.known_keys import GROUPS, ROUTES, nearest
from proxy.control import Control, Local
from proxy.discovery import SourceError
from proxy.groups import say
from proxy.observe.metrics import build_info
from proxy.preflight import check, of_keys, of_sockets, scheme, summary
from proxy.server import Server, settle
from proxy.tls import TlsError
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
again and opens the access log anew, which is all that SIGUSR1 does.
"""


class Arguments(argparse.ArgumentParser):
    """Reports a mistake as one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message.removeprefix("argument ").replace("expected one argument", "expected a value"))


def main(argv: list[str]) -> int:
    """Runs the proxy until it is told to stop; returns the exit code."""
    if argv[:1] == ["--worker"]:  # started by its master, see worker.py
        uvloop.run(work(argv[1], settle))
        return 0
    loaded = None
    try:
        arguments, flags = read_arguments(argv)

        def load_again() -> Loaded:
            return load(arguments.config, os.environ, flags)

        loaded = load_again()
        if arguments.show_config:
            print(*of_keys(loaded), sep="\n")
        elif arguments.check or arguments.check_sockets:
            suspicious = [*check(loaded), *warnings(loaded)]
            if arguments.check_sockets:
                print(*of_sockets(loaded.config), sep="\n")
            if arguments.check:
                print(*summary(loaded, arguments.config), sep="\n")
            warn(suspicious)
        else:
            check(loaded)
            uvloop.run(serve(loaded, load_again))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads what is printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to fail at exit
    except (ConfigError, TlsError, SourceError, Unavailable, OSError) as problem:
        print(f"error: {told(problem, loaded) if loaded else problem}", file=sys.stderr)
        return EXIT_BAD_CONFIG
    return 0


async def serve(loaded: Loaded, load_again: Callable[[], Loaded]) -> None:
    """Serves until SIGTERM or SIGINT, then drains; a second one ends that. SIGHUP reloads, SIGUSR1 reopens the log."""
    config = loaded.config
    loop = asyncio.get_running_loop()
    serving: Server | Master = Master(config) if config.workers > 1 else Server(config)
    control = Control(serving if isinstance(serving, Master) else Local(serving), loaded, load_again)
    stop = asyncio.Event()
    under_way: set[asyncio.Task[None]] = set()

    def on(number: signal.Signals, do: Callable[[Control], Coroutine[Any, Any, None]]) -> None:
        def begin() -> None:
            task = loop.create_task(do(control))
            under_way.add(task)
            task.add_done_callback(under_way.discard)

        loop.add_signal_handler(number, begin)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # whoever takes this for another program must not kill it
    on(signal.SIGHUP, reload)
    on(signal.SIGUSR1, reopen_logs)
    try:
        warn(warnings(loaded))
        admin, admin_at = await open_admin(loaded, control)
        host, port = await serving.start()
        settle()
        say(f"listening on {written(host, port)} ({scheme(config)}), admin {admin_at}")
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
        if control.loaded.config.tls.certificates:
            said += ", and certificates read anew"
        say(": ".join([said, "; ".join(map(str, changes))]) if changes else said)
        warn(warnings(control.loaded))


async def reopen_logs(control: Control) -> None:
    """One line tells what came of it."""
    target = control.loaded.config.log.access
    if target in ("", "-"):
        say(f"nothing to reopen: log.access is {target or 'off'}")
    else:
        problem = await control.reopen_logs()
        say(f"not reopened: {problem}" if problem else f"reopened: access log {target}")


async def open_admin(loaded: Loaded, control: Control) -> tuple[Any, str]:
    """The admin address, None if there is to be none, and where it is. What it needs is imported only then."""
    config = loaded.config.admin
    if config.listen == "off":
        return None, "off"
    try:
        from proxy.admin.site import Admin
    except ModuleNotFoundError as missing:
        if loaded.origins["admin.listen"] == "default":
            return None, f"off: it needs the package {missing.name}"  # not asked for
        raise ConfigError(f"admin.listen: it needs the package {missing.name}: pip install {missing.name}") from None
    admin = Admin(config, control)
    try:
        host, port = await admin.start()
    except OSError as problem:
        what = os.strerror(problem.errno) if problem.errno else str(problem)  # the loop's own words say it twice
        raise ConfigError(f'admin.listen: {config.listen}: {what}; choose another, or "off"') from None
    return admin, f"on {written(host, port)}"


def warn(suspicious: list[str]) -> None:
    """One line for each, on standard error."""
    for each in suspicious:
        say(f"warning: {each}")


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
    parser.add_argument("--version", action="version", version=version(), help="print the version, and exit")
    parser.add_argument(
        "--check", action="store_true", help="validate the config and what it names, tell what it amounts to, and exit"
    )
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
    """Flags of named groups, `--groups.api.pool.max_idle 3`. Raises ConfigError for what is none."""
    flags = {}
    words = iter(rest)
    for word in words:
        key, is_joined, value = word.removeprefix("--").partition("=")
        if not word.startswith("-"):
            raise ConfigError(f"{word}: a value without an option{did_you_mean(f'--config {word}')}")
        if not word.startswith("--") or not key.startswith((f"{GROUPS}.", f"{ROUTES}.")):
            raise ConfigError(f"{word.partition('=')[0]}: unknown option{meant_option(word.partition('=')[0])}")
        flags[key] = value if is_joined else next(words, "")
    return flags


def meant_option(wrong: str) -> str:
    """What an option was probably meant to be. One letter is the start of one of our own."""
    ours = ["config", "check", "check-sockets", "show-config", "version", "help"]
    name = wrong.lstrip("-")
    found = near(name, ours, 0.55) or next((option for option in ours if option[0] == name.lower()), "")
    return did_you_mean(f"--{found}") if found else nearest(name, keys(), "--")


def version() -> str:
    """Ours, and which build; what else does the work is told by `/config` and by kalab doctor."""
    try:
        return f"kalab {metadata.version('kalab')}, {build_info()['build']}"
    except metadata.PackageNotFoundError:  # run from a tree that was never installed
        return "kalab, not installed: run from its source"


def written(host: str, port: int) -> str:
    return f"{f'[{host}]' if ':' in host else host}:{port}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
