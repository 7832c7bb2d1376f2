"""Node with the http-proxy package and an agent that keeps connections alive."""

from __future__ import annotations

from bench.peers.base import KEPT, PEERS, Contestant, Place, how_to_get, installed
from bench.processes import Server, free_port

FOLDER = PEERS / "node_proxy"


def missing() -> str:
    if (FOLDER / "node_modules" / "http-proxy").is_dir():
        return how_to_get("node", "apt-get install nodejs")
    return "not installed: npm install --no-package-lock --prefix bench/peers/node_proxy"


def start(place: Place) -> Server:
    port = free_port()
    argv = [installed("node"), str(FOLDER / "proxy.js"), str(port), str(place.upstream), str(KEPT)]
    return Server("node", argv, room=place.room, cwd=FOLDER, cores=place.cores, port=port)


NODE = Contestant("node", "Node, http-proxy", missing, start)
