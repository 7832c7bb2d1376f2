"""What the contestants have in common: how one is described, where it runs, and how its programs are found.

Each contestant forwards 127.0.0.1:PORT to one upstream over keep-alive connections, with one process (or one core's
worth of threads) that serves, no access log, and limits too high to matter; otherwise as its makers ship it.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench.processes import Server

TREE = Path(__file__).resolve().parent.parent.parent
PEERS = Path(__file__).resolve().parent
NEVER = 1_000_000_000  # requests on one connection
MANY = 32_768  # connections
KEPT = 256  # idle connections to the upstream; more than the load ever has open

# Debian keeps daemons where an ordinary user's PATH does not look, and pip its programs beside the interpreter.
SEARCH_PATH = os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"]
)


class Place(NamedTuple):
    """Where a contestant is started: its folder, its cores, and the upstream's port."""

    room: Path
    cores: frozenset[int]
    upstream: int


class Contestant(NamedTuple):
    """One way from the client to the upstream. `missing` says how to get it, or "" when it is here."""

    name: str
    title: str
    missing: Callable[[], str]
    start: Callable[[Place], Server] | None


def find(program: str) -> str | None:
    """The path of an executable, or None."""
    return shutil.which(program, path=SEARCH_PATH)


def installed(program: str) -> str:
    """The path of an executable that the caller has asked for before."""
    path = find(program)
    assert path is not None, f"{program}: callers ask `missing` first"
    return path


def how_to_get(program: str, command: str = "") -> str:
    """ "" when the program is here, else one line for the reader. `command` defaults to Debian's package."""
    return "" if find(program) else f"not installed: {command or f'apt-get install {program}'}"


def room_of(place: Place, name: str) -> Path:
    """A folder for one contestant's files."""
    room = place.room / name
    room.mkdir(exist_ok=True)
    return room
