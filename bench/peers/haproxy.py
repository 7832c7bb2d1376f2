"""HAProxy with one thread, which reuses connections to its server as aggressively as it can."""

from __future__ import annotations

from bench.peers.base import Contestant, Place, how_to_get, installed, room_of
from bench.processes import Server, descriptors, free_port

SPARE = 100  # descriptors that are no connections

CONFIG = """\
global
    nbthread 1
    maxconn {connections}
defaults
    mode http
    timeout connect 5s
    timeout client 300s
    timeout server 300s
    timeout http-keep-alive 300s
    http-reuse always
    option http-keep-alive
    maxconn {connections}
frontend in
    bind 127.0.0.1:{port} backlog 4096
    default_backend behind
backend behind
    server upstream 127.0.0.1:{upstream}
"""


def start(place: Place) -> Server:
    room, port = room_of(place, "haproxy"), free_port()
    file = room / "haproxy.cfg"
    file.write_text(CONFIG.format(port=port, upstream=place.upstream, connections=descriptors() // 2 - SPARE))
    argv = [installed("haproxy"), "-db", "-f", str(file)]
    return Server("haproxy", argv, room=place.room, cwd=room, cores=place.cores, port=port)


HAPROXY = Contestant("haproxy", "HAProxy", lambda: how_to_get("haproxy"), start)
