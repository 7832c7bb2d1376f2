"""The command: `python -m proxy --config proxy.toml`."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Final, NoReturn

import uvloop

from proxy.config import ConfigError, Loaded, ProxyConfig, keys, load, text_of
from proxy.server import Server, settle

EXIT_BAD_CONFIG: Final = 3

EXAMPLES: Final = """examples:
  python -m proxy --listen 127.0.0.1:8080 --upstreams 127.0.0.1:9000
  python -m proxy --config proxy.toml --timeouts.upstream_idle 4s
  KALAB_RETRY_POLICY=never python -m proxy --config proxy.toml --show-config

Every key of the config is a flag and an environment variable: timeouts.connect is --timeouts.connect and
KALAB_TIMEOUTS_CONNECT. Flags override the environment, which overrides the file.
"""


class Arguments(argparse.ArgumentParser):
    """Reports a mistake as one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def main(argv: list[str]) -> int:
    """Runs the proxy until it is told to stop; returns the exit code."""
    try:
        arguments, flags = read_arguments(argv)
        loaded = load(arguments.config, os.environ, flags)
    except ConfigError as problem:
        return complain(str(problem))
    if arguments.show_config:
        show(loaded)
        return 0
    if arguments.check:
        print("the config is valid")
        return 0
    try:
        uvloop.run(serve(loaded.config))
    except OSError as problem:
        what = os.strerror(problem.errno) if problem.errno else str(problem)
        return complain(f"{problem.filename or loaded.config.listen}: {what}")
    return 0


async def serve(config: ProxyConfig) -> None:
    """Serves until SIGTERM or SIGINT, then drains."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = Server(config)
    try:
        host, port = await server.start()
        settle()
        print(f"listening on {f'[{host}]' if ':' in host else host}:{port}", flush=True)
        await stop.wait()
        await server.drain()
    finally:
        server.close_logs()


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
    parser.add_argument("--check", action="store_true", help="validate the config and exit")
    parser.add_argument("--show-config", action="store_true", help="print each key, its value and its origin, and exit")
    group = parser.add_argument_group("keys of the config")
    known = keys()
    for key in known:
        group.add_argument(f"--{key}", metavar="VALUE", dest=key)
    arguments, rest = parser.parse_known_args(argv)
    flags = {key: value for key in known if (value := getattr(arguments, key)) is not None}
    return arguments, flags | unknown_flags(rest)


def unknown_flags(rest: list[str]) -> dict[str, str]:
    """What no key is known for, as flags all the same: `load` says which key was probably meant."""
    for word in rest:
        if word.startswith("--"):
            return {word[2:].partition("=")[0]: ""}
        raise ConfigError(f"{word}: a value without a flag")
    return {}


def show(loaded: Loaded) -> None:
    """Prints each key, its value and where that comes from."""
    rows = []
    for key in keys():
        value: object = loaded.config
        for part in key.split("."):
            value = getattr(value, part)
        rows.append((key, text_of(value), loaded.origins[key]))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for key, value, origin in rows:
        print(f"{key:<{widths[0]}}  {value:<{widths[1]}}  {origin}")


def complain(problem: str) -> int:
    print(f"error: {problem}", file=sys.stderr)
    return EXIT_BAD_CONFIG


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
