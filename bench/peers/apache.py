"""Apache with mod_proxy on its event engine: one process, a thread for each request under way."""

from __future__ import annotations

from pathlib import Path

from bench.peers.base import KEPT, Contestant, Place, how_to_get, installed, room_of
from bench.processes import Server, free_port

MODULES = Path("/usr/lib/apache2/modules")
CONFIG = """\
ServerRoot {room}
ServerName 127.0.0.1
PidFile {room}/pid
ErrorLog {room}/error.log
LogLevel crit
Listen 127.0.0.1:{port}
ListenBacklog 4096
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule proxy_module {modules}/mod_proxy.so
LoadModule proxy_http_module {modules}/mod_proxy_http.so
ServerLimit 1
StartServers 1
ThreadsPerChild 128
ThreadLimit 128
MaxRequestWorkers 128
AsyncRequestWorkerFactor 200
KeepAlive On
KeepAliveTimeout 300
MaxKeepAliveRequests 0
ProxyPass "/" "http://127.0.0.1:{upstream}/" max={kept}
"""


def start(place: Place) -> Server:
    room, port = room_of(place, "apache"), free_port()
    file = room / "apache.conf"
    file.write_text(CONFIG.format(room=room, port=port, upstream=place.upstream, kept=KEPT, modules=MODULES))
    argv = [installed("apache2"), "-f", str(file), "-DFOREGROUND"]
    return Server("apache", argv, room=place.room, cwd=room, cores=place.cores, port=port)


APACHE = Contestant("apache", "Apache, mod_proxy", lambda: how_to_get("apache2", "apt-get install apache2-bin"), start)
