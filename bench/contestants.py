"""Who runs in the benchmark: one row each, `direct` first. Adding one is writing its command and adding its row.

Each contestant forwards 127.0.0.1:PORT to one upstream over keep-alive connections, with one process that serves,
no access log, and limits too high to matter; otherwise as its makers ship it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench.processes import Server, free_port

TREE = Path(__file__).resolve().parent.parent
BODY_BYTES = 1024
PATH = f"/bytes/{BODY_BYTES}"
NEVER = 1_000_000_000

# Debian keeps daemons where an ordinary user's PATH does not look.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


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


def how_to_get(program: str) -> str:
    """ "" when the program is here, else one line for the reader."""
    return "" if find(program) else f"not installed: apt-get install {program}"


NGINX = """\
worker_processes 1;
daemon off;
pid nginx.pid;
error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
    access_log off;
{temporary}
    keepalive_requests {never};
    keepalive_timeout 75s;
{site}
}}
"""
NGINX_PROXY = """\
    upstream behind {{
        server 127.0.0.1:{upstream};
        keepalive 128;
        keepalive_requests {never};
        keepalive_timeout 60s;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{
            proxy_pass http://behind;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}"""
NGINX_STATIC = """\
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{ return 200 "{body}"; }}
    }}"""


def nginx_config(site: str, *, build: str) -> str:
    """A whole nginx configuration that writes only under its own prefix. `build` is what `nginx -V` prints."""
    modules = [m for m in ("fastcgi", "uwsgi", "scgi") if f"--without-http_{m}_module" not in build]
    folders = ["client_body", "proxy", *modules]
    temporary = "\n".join(f"    {name}_temp_path {name}_temp;" for name in folders)
    return NGINX.format(temporary=temporary, never=NEVER, site=site)


def start_nginx(name: str, site: str, port: int, room: Path, cores: frozenset[int]) -> Server:
    """An nginx of our own, told by one file, in the foreground."""
    nginx = find("nginx")
    assert nginx is not None, "callers ask first"
    build = subprocess.run([nginx, "-V"], capture_output=True, text=True, timeout=10, check=False).stderr
    prefix = room / name
    prefix.mkdir(exist_ok=True)
    (prefix / "nginx.conf").write_text(nginx_config(site, build=build))
    argv = [nginx, "-p", f"{prefix}{os.sep}", "-c", "nginx.conf", "-e", "stderr"]
    return Server(name, argv, room=room, cwd=prefix, cores=cores, port=port)


def proxying_nginx(place: Place) -> Server:
    """nginx as a reverse proxy with kept upstream connections."""
    port = free_port()
    site = NGINX_PROXY.format(upstream=place.upstream, port=port, never=NEVER)
    return start_nginx("nginx", site, port, place.room, place.cores)


def proxying_kalab(place: Place) -> Server:
    """Our proxy, as `python -m proxy` starts it."""
    config = place.room / "kalab.toml"
    config.write_text(
        f'listen = "127.0.0.1:0"\nupstreams = ["127.0.0.1:{place.upstream}"]\n\n[log]\naccess = "off"\n', "utf-8"
    )
    argv = [sys.executable, "-m", "proxy", "--config", str(config)]
    return Server("kalab", argv, room=place.room, cwd=TREE, cores=place.cores)


def start_upstream(room: Path, cores: frozenset[int]) -> Server:
    """What lies behind every contestant: nginx answering from memory; without nginx, the lab's own upstream."""
    if not find("nginx"):
        argv = [sys.executable, "-m", "upstreams.lab", "--listen", "127.0.0.1:0", "--keep-alive", "off"]
        return Server("upstream", argv, room=room, cwd=TREE, cores=cores)
    port = free_port()
    return start_nginx("upstream", NGINX_STATIC.format(port=port, body="k" * BODY_BYTES), port, room, cores)


CONTESTANTS = (
    Contestant("direct", "no proxy (control)", lambda: "", None),
    Contestant("nginx", "nginx, one worker", lambda: how_to_get("nginx"), proxying_nginx),
    Contestant("kalab", "kalab, `python -m proxy`", lambda: "", proxying_kalab),
)
