"""Our proxy, as `python -m proxy` starts it: every feature at its default, but no access log, like everybody here.

Twice: as it is, and as `make compiled` leaves it in `build/compiled`. And once for each of a few features in another
position, to see what they cost who does not use them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from filecmp import cmpfiles
from functools import partial
from pathlib import Path

from bench.peers.base import TREE, Contestant, Place
from bench.processes import Server, free_port

COMPILED = TREE / "build" / "compiled"


def start(place: Place, name: str = "kalab", options: Sequence[str] = (), tree: Path = TREE) -> Server:
    """`options`: of its command line, with `{room}` for its folder. `tree`: the folder that has the package."""
    file = place.room / f"{name}.toml"
    file.write_text(
        'listen = "127.0.0.1:0"\n'
        f'upstreams = ["127.0.0.1:{place.upstream}"]\n'
        '[log]\naccess = "off"\n'
        "[limits]\nmax_downstream_connections = 20000\n"
        f'[admin]\nlisten = "127.0.0.1:{free_port()}"\n',
        "utf-8",
    )
    argv = [sys.executable, "-m", "proxy", "--config", str(file), *(each.format(room=place.room) for each in options)]
    return Server(name, argv, room=place.room, cwd=tree, cores=place.cores)


def _start_compiled(place: Place) -> Server:
    return start(place, "kalab-compiled", tree=COMPILED)


def _not_compiled() -> str:
    """Whether there is a compiled build of these very sources; "" if so."""
    sources = [str(file.relative_to(TREE)) for file in (TREE / "proxy").rglob("*.py")]
    _, changed, unknown = cmpfiles(TREE, COMPILED, sources, shallow=False)
    return "not installed: make compiled" if changed or unknown else ""


KALAB = Contestant("kalab", "**kalab**, `python -m proxy`", lambda: "", start)
KALAB_COMPILED = Contestant("kalab-compiled", "**kalab**, compiled", _not_compiled, _start_compiled)


def _with(name: str, title: str, *options: str) -> Contestant:
    return Contestant(name, title, lambda: "", partial(start, name=name, options=options))


FEATURES = (
    _with("no-admin", "kalab without the admin page and its metrics", "--admin.listen", "off"),
    _with("log", "kalab with its access log, JSON, to a file", "--log.access", "{room}/access.log"),
    _with("look", "kalab with look_before_reuse", "--pool.look_before_reuse", "true"),
    _with("no-hint", "kalab without honour_hint", "--pool.honour_hint", "false"),
)
