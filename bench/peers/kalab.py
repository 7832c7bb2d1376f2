"""Our proxy, as `python -m proxy` starts it: every feature at its default, but no access log, like everybody here."""

from __future__ import annotations

import sys

from bench.peers.base import TREE, Contestant, Place
from bench.processes import Server, free_port


def start(place: Place, name: str = "kalab", more: str = "") -> Server:
    file = place.room / f"{name}.toml"
    file.write_text(
        'listen = "127.0.0.1:0"\n'
        f'upstreams = ["127.0.0.1:{place.upstream}"]\n{more}\n'
        '[log]\naccess = "off"\n'
        "[limits]\nmax_downstream_connections = 20000\n"
        f'[admin]\nlisten = "127.0.0.1:{free_port()}"\n',
        "utf-8",
    )
    argv = [sys.executable, "-m", "proxy", "--config", str(file)]
    return Server(name, argv, room=place.room, cwd=TREE, cores=place.cores)


KALAB = Contestant("kalab", "**kalab**, `python -m proxy`", lambda: "", start)
