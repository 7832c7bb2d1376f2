"""nginx: as a contestant, with its default proxy buffers and with larger ones, and as the upstream behind everybody."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from bench.peers.base import KEPT, MANY, NEVER, Contestant, Place, how_to_get, installed
from bench.processes import Server, free_port

MAIN = """\
{user}worker_processes 1;
daemon off;
pid nginx.pid;
error_log stderr crit;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
{temporary}
    keepalive_requests {never};
    keepalive_timeout 300s;
    client_max_body_size 0;
    client_body_buffer_size 64k;
{site}
}}
"""
PROXY = """\
    upstream behind {{
        server 127.0.0.1:{upstream};
        keepalive {kept};
        keepalive_requests {never};
        keepalive_timeout 60s;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://behind;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
{buffers}
        }}
    }}"""
# By default a response that is larger than eight pages, and faster than its client, is written to a file on its way.
TUNED = (
    "            proxy_buffers 16 64k; proxy_buffer_size 64k; proxy_busy_buffers_size 128k; proxy_max_temp_file_size 0;"
)

# Ten fields in a response, six of which are new every time: Date changes once a second, the rest are constant.
VARYING_FIELDS = """\
            add_header ETag '"$request_id"';
            add_header Set-Cookie "visit=$request_id; Path=/; HttpOnly";
            add_header X-Request-Id $request_id;
            add_header Server-Timing "app;dur=$msec";
            add_header X-Served "$connection-$connection_requests";
            add_header Vary "Accept-Encoding, Cookie";
            add_header Cache-Control "private, max-age=$connection_requests";"""
UPSTREAM = """\
    sendfile on;
    open_file_cache max=16 inactive=600s;
    open_file_cache_valid 600s;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        root {files};
        location /small {{ return 200 "{small}"; }}
        location /varying {{
{varying}
            return 200 "{small}";
        }}
        location /upload {{ return 200 "{small}"; }}
    }}"""


def config(site: str, *, build: str) -> str:
    """A whole nginx configuration that writes only under its own prefix. `build` is what `nginx -V` prints."""
    modules = [m for m in ("fastcgi", "uwsgi", "scgi") if f"--without-http_{m}_module" not in build]
    folders = ["client_body", "proxy", *modules]
    temporary = "\n".join(f"    {name}_temp_path {name}_temp;" for name in folders)
    # Started by root it would serve as somebody else, who may not read a private folder.
    user = "user root;\n" if os.geteuid() == 0 else ""
    return MAIN.format(user=user, temporary=temporary, never=NEVER, connections=MANY, site=site)


def start(name: str, site: str, port: int, room: Path, cores: frozenset[int]) -> Server:
    """An nginx of our own, told by one file, in the foreground."""
    nginx = installed("nginx")
    build = subprocess.run([nginx, "-V"], capture_output=True, text=True, timeout=10, check=False).stderr
    prefix = room / name
    prefix.mkdir(exist_ok=True)
    (prefix / "nginx.conf").write_text(config(site, build=build))
    argv = [nginx, "-p", f"{prefix}{os.sep}", "-c", "nginx.conf", "-e", "stderr"]
    return Server(name, argv, room=room, cwd=prefix, cores=cores, port=port)


def proxy_site(upstream: int, port: int, buffers: str = "") -> str:
    return PROXY.format(upstream=upstream, port=port, never=NEVER, kept=KEPT, buffers=buffers)


def _start_proxy(place: Place, name: str, buffers: str = "") -> Server:
    port = free_port()
    return start(name, proxy_site(place.upstream, port, buffers), port, place.room, place.cores)


def start_upstream(room: Path, cores: frozenset[int], files: Path, small: int) -> Server:
    """Answers `small` bytes from memory, and files from a folder."""
    port = free_port()
    site = UPSTREAM.format(port=port, small="k" * small, files=files, varying=VARYING_FIELDS)
    return start("upstream", site, port, room, cores)


PLAIN = Contestant("nginx", "nginx", lambda: how_to_get("nginx"), lambda place: _start_proxy(place, "nginx"))
WITH_BUFFERS = Contestant(
    "nginx-tuned",
    "nginx, larger proxy buffers",
    lambda: how_to_get("nginx"),
    lambda place: _start_proxy(place, "nginx-tuned", TUNED),
)
