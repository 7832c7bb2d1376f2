"""Go's httputil.ReverseProxy in the least program that uses it; built once for each run of the benchmark."""

from __future__ import annotations

import os
import subprocess

from bench.peers.base import KEPT, PEERS, Contestant, Place, how_to_get, installed, room_of
from bench.processes import Server, StartError, free_port

BUILD_WITHIN_S = 180


def start(place: Place) -> Server:
    room, port = room_of(place, "go"), free_port()
    program = room / "go_proxy"
    if not program.exists():
        build = [installed("go"), "build", "-o", str(program), str(PEERS / "go_proxy" / "main.go")]
        done = subprocess.run(
            build,
            capture_output=True,
            text=True,
            timeout=BUILD_WITHIN_S,
            check=False,
            env={**os.environ, "GO111MODULE": "off", "GOCACHE": str(room / "cache")},
        )
        if done.returncode:
            raise StartError(f"go build: {done.stderr.strip().splitlines()[-1]}")
    argv = [str(program), f"127.0.0.1:{port}", f"http://127.0.0.1:{place.upstream}", str(KEPT)]
    return Server("go", argv, room=place.room, cwd=room, cores=place.cores, port=port)


GO = Contestant("go", "Go, httputil.ReverseProxy", lambda: how_to_get("go", "apt-get install golang-go"), start)
