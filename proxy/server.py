"""Listens, wires the parts together, and drains."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import resource
from math import inf
from typing import Final

from proxy.access_log import AccessLog
from proxy.balancer import RoundRobin
from proxy.config import ProxyConfig, parse_address
from proxy.downstream import DownstreamConnection
from proxy.events import EventLog
from proxy.gateway import Gateway
from proxy.upstream import Upstream

BACKLOG: Final = 4096  # connections the kernel completes before they are accepted; its own limit is net.core.somaxconn
SPARE_DESCRIPTORS: Final = 64  # for logs, the loop, whatever else holds a file open, and
MOST_TURNED_AWAY: Final = 32  # connections above the limit, that have been told so and have not closed yet


class Server:
    """The proxy. `start`, then `drain`; both once."""

    def __init__(self, config: ProxyConfig) -> None:
        self.config = config
        self.max_connections = config.limits.max_downstream_connections
        self.connections: set[DownstreamConnection] = set()
        self.refused = 0  # connections above the limit
        self._turned_away: dict[DownstreamConnection, None] = {}  # of these, the ones still open; oldest first
        self._access = AccessLog(config.log.access)
        self._events = EventLog(config.log.events, "proxy") if config.log.events else None
        self._upstreams: list[Upstream] = []
        self._gateway: Gateway | None = None
        self._server: asyncio.Server | None = None
        self._empty = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Server {self.config.listen}, {len(self.connections)} connections, {self.refused} refused>"

    async def start(self) -> tuple[str, int]:
        """Listens, and returns on which address. Raises OSError if it cannot."""
        config = self.config
        loop = asyncio.get_running_loop()
        emit = self._events.emit if self._events is not None else None
        self._upstreams = [
            Upstream(address, loop, config.timeouts, config.pool, config.limits, emit) for address in config.upstreams
        ]
        finished = self._access.finished if self._access.on else None
        gateway = self._gateway = Gateway(config, RoundRobin(self._upstreams), emit, finished)
        self.max_connections = self._affordable_connections()
        host, port = parse_address(config.listen)
        self._server = await loop.create_server(
            lambda: DownstreamConnection(gateway, self, loop), host, port, backlog=BACKLOG
        )
        address = self._server.sockets[0].getsockname()
        return address[0], address[1]

    async def drain(self) -> None:
        """Stops accepting, lets what has started finish, closes the rest when the grace is over, and the logs."""
        assert self._gateway is not None
        assert self._server is not None
        self._gateway.draining = True
        await asyncio.sleep(0)  # one turn of the loop: accepts the connections that the kernel has completed
        self._server.close()
        for upstream in self._upstreams:
            upstream.drain()
        for connection in list(self.connections):
            connection.drain()
        await self._wait_until_empty(self.config.drain_grace)
        for connection in list(self.connections):
            connection.abort()
        for upstream in self._upstreams:
            upstream.close()
        await asyncio.sleep(0)  # the transports close
        self.close_logs()

    def close_logs(self) -> None:
        """Writes what the logs still hold. Idempotent."""
        self._access.close()
        if self._events is not None:
            self._events.close()

    # ---- called by its connections

    def opened(self, connection: DownstreamConnection) -> bool:
        """Counts a connection. False: one too many, which is told so and closed, and takes nobody's place meanwhile."""
        self.connections.add(connection)
        if len(self.connections) - len(self._turned_away) <= self.max_connections:
            return True
        self.refused += 1
        self._turned_away[connection] = None
        if len(self._turned_away) > MOST_TURNED_AWAY:
            next(iter(self._turned_away)).close("connection_limit")
        return False

    def closed(self, connection: DownstreamConnection) -> None:
        self.connections.discard(connection)
        self._turned_away.pop(connection, None)
        if not self.connections:
            self._empty.set()

    # ----

    async def _wait_until_empty(self, grace_s: float) -> None:
        if not self.connections:
            return
        self._empty.clear()
        try:
            async with asyncio.timeout(None if grace_s == inf else grace_s):
                await self._empty.wait()
        except TimeoutError:
            pass

    def _affordable_connections(self) -> int:
        """How many clients the descriptor limit allows, after raising it as far as it goes.

        Beyond that limit uvloop accepts and closes without a word, and a count of lost requests would lie. Each client
        may need a connection to an upstream, so at most half of the descriptors are the clients'.
        """
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        if hard == resource.RLIM_INFINITY:
            return self.config.limits.max_downstream_connections
        return max(1, min(self.config.limits.max_downstream_connections, (hard - SPARE_DESCRIPTORS) // 2))


def settle() -> None:
    """Tells the allocator and the collector how a proxy lives. Call it once, when everything is loaded.

    uvloop reads into buffers of 256 KiB. By default glibc maps and unmaps each of them, for more than half the cost of
    a large body. And what is loaded now lives as long as the process: the collector need not look at it again.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(-1, 32 << 20)  # M_TRIM_THRESHOLD
        libc.mallopt(-3, 8 << 20)  # M_MMAP_THRESHOLD
    except (OSError, AttributeError):  # another libc, with an allocator of its own
        pass
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
