"""What the proxy finds on this machine: its parser, how many clients it has room for, its socket options.

The lab shares no code with the proxy, so that it is asked in a process of its own, as it would be started.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec

WITHIN_S = 20.0

EVERY_OPTION = {"quickack": "true", "keepalive": "true", "user_timeout": "30s", "linger": "0s"}
"""Socket options that are off by default. TCP_NODELAY is on."""

ASK = """
import json, os, sys
from pathlib import Path
from proxy.clients import affordable_connections
from proxy.config import load
from proxy.observe.metrics import Process, build_info
config = load(Path(sys.argv[1]) if sys.argv[1] else None, os.environ, {}).config
wanted = config.limits.max_downstream_connections
print(json.dumps({
    "build": build_info(),
    "wanted_clients": wanted,
    "clients": affordable_connections(wanted),
    "descriptors": Process.own().max_fds,
}))
"""


class ProxyError(Exception):
    """Why the proxy does not start, in its own words."""


class Setting(NamedTuple):
    """A key, what was asked for, and what the kernel made of it."""

    key: str
    asked: str
    got: str


class ProxyFacts(msgspec.Struct):
    """What the proxy says of itself, with a config."""

    build: dict[str, str]
    wanted_clients: int
    clients: int  # that it can have at a time, with the descriptors that there are
    descriptors: int  # after it has raised the limit; -1: no limit
    listener: list[Setting] = []
    sockets: list[Setting] = []
    refused: list[Setting] = []  # options that the kernel would not take as they are asked for


def ask_proxy(config: Path | None) -> ProxyFacts:
    """What it is with this config, None for its defaults. Raises ProxyError."""
    settings = _settings(*(("--config", str(config)) if config else ()))
    facts = msgspec.convert(json.loads(_said("-c", ASK, str(config or ""))), ProxyFacts)
    facts.listener = [setting for setting in settings if setting.key.startswith("listener.")]
    facts.sockets = [setting for setting in settings if setting not in facts.listener]
    sides = ("--downstream_socket.", "--upstream_socket.")
    every = _settings(*(word for side in sides for key, value in EVERY_OPTION.items() for word in (side + key, value)))
    facts.refused = [each for each in every if each.asked != each.got and not each.key.startswith("listener.")]
    return facts


def _settings(*flags: str) -> list[Setting]:
    lines = _said("-m", "proxy", *flags, "--check-sockets").splitlines()
    return [Setting(*words) for line in lines if len(words := line.split()) == len(Setting._fields) and "." in words[0]]


def _said(*words: str) -> str:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=WITHIN_S, check=False)
    if done.returncode:
        raise ProxyError((done.stderr.strip() or "no reason given").splitlines()[-1].removeprefix("error: "))
    return done.stdout
