"""Who runs in the benchmark: one row each, `direct` first. Adding one is writing its file in `peers/` and its row."""

from __future__ import annotations

from bench.peers.aiohttp_proxy import AIOHTTP
from bench.peers.apache import APACHE
from bench.peers.base import Contestant
from bench.peers.caddy import CADDY
from bench.peers.envoy import ENVOY
from bench.peers.go import GO
from bench.peers.haproxy import HAPROXY
from bench.peers.kalab import FEATURES, KALAB, KALAB_COMPILED
from bench.peers.nginx import PLAIN, WITH_BUFFERS
from bench.peers.node import NODE

CONTESTANTS = (
    Contestant("direct", "no proxy (control)", lambda: "", None),
    PLAIN,
    WITH_BUFFERS,
    KALAB,
    KALAB_COMPILED,
    HAPROXY,
    ENVOY,
    CADDY,
    APACHE,
    GO,
    NODE,
    AIOHTTP,
)

# Ours once more, with something switched on or off: `--features`.
VARIANTS = (*CONTESTANTS[:2], KALAB, *FEATURES)
