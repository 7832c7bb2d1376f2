"""Caddy; the Go runtime sees one core and serves with it."""

from __future__ import annotations

import json
from typing import Any

from bench.peers.base import KEPT, Contestant, Place, how_to_get, installed, room_of
from bench.processes import Server, free_port


def config(port: int, upstream: int) -> dict[str, Any]:
    forward = {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": f"127.0.0.1:{upstream}"}],
        "transport": {"protocol": "http", "keep_alive": {"max_idle_conns_per_host": KEPT}},
    }
    server = {
        "listen": [f"127.0.0.1:{port}"],
        "automatic_https": {"disable": True},
        "routes": [{"handle": [forward]}],
    }
    return {
        "admin": {"disabled": True, "config": {"persist": False}},
        "apps": {"http": {"servers": {"in": server}}},
    }


def start(place: Place) -> Server:
    room, port = room_of(place, "caddy"), free_port()
    file = room / "caddy.json"
    file.write_text(json.dumps(config(port, place.upstream)))
    argv = [installed("caddy"), "run", "--config", str(file)]
    return Server("caddy", argv, room=place.room, cwd=room, cores=place.cores, port=port)


CADDY = Contestant("caddy", "Caddy", lambda: how_to_get("caddy"), start)
