"""Who is connected, and how many may be: of all clients, and of one address.

Rules of this file:

- A client counts from the moment it is accepted, while it shakes hands too.
- Who is one too many is told so (503) and takes nobody's place meanwhile. A few at a time are: the oldest of them makes
  way for the next. A TLS handshake costs far more than that page, so beyond those few, and above the limit of an
  address, nobody gets one: the connection is closed at once, and counted.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Final

from proxy.config import Limits
from proxy.downstream import DownstreamConnection
from proxy.observe.counters import DownstreamCounters

SPARE_DESCRIPTORS: Final = 64  # for logs, the loop, whatever else holds a file open, and
MOST_TURNED_AWAY: Final = 32  # connections above a limit, that have been told so and have not closed yet


class Clients:
    """The connections of one process. `connection` makes one, `prepare` is called with each that has opened."""

    def __init__(
        self,
        limits: Limits,
        counters: DownstreamCounters,
        connection: Callable[[], DownstreamConnection],
        prepare: Callable[[DownstreamConnection], None] | None = None,
    ) -> None:
        self.connections: set[DownstreamConnection] = set()
        self.connection = connection
        self._counters = counters
        self._prepare = prepare
        self._handshakes: dict[DownstreamConnection, str] = {}  # with the address of each client
        self._turned_away: dict[DownstreamConnection, None] = {}  # of `connections`; oldest first
        self._of_address: dict[str, int] = {}  # connections and handshakes
        self._empty = asyncio.Event()
        self._waits_for_nobody = False
        self.limit(limits)

    def __repr__(self) -> str:
        return f"<Clients {len(self.connections)} connections, {len(self._handshakes)} handshakes>"

    @property
    def count(self) -> int:
        """Connections, and handshakes under way."""
        return len(self.connections) + len(self._handshakes)

    def limit(self, limits: Limits) -> None:
        """From now on, these limits. Who is there already stays."""
        self._most = affordable_connections(limits.max_downstream_connections)
        self._most_of_address = limits.max_connections_per_client or inf

    # ---- called by the listeners (Door)

    def knocked(self, connection: DownstreamConnection, ip: str) -> bool:
        """A client is there for its handshake. False: not now."""
        self._counters.accepted += 1
        if len(self.connections) + len(self._handshakes) >= self._most + MOST_TURNED_AWAY:
            self._counters.refused["connections"] += 1
            return False
        if self._of_address.get(ip, 0) >= self._most_of_address:
            self._counters.refused["per_client"] += 1
            return False
        self._handshakes[connection] = ip
        self._count(ip, 1)
        return True

    def mistaken(self, connection: DownstreamConnection) -> DownstreamConnection:
        """It speaks plain HTTP where TLS is spoken."""
        self._counters.refused["tls_plain_http"] += 1
        told = connection.mistaken()
        self._handshakes[told] = self._handshakes.pop(connection)
        return told

    def turned_away(self, connection: DownstreamConnection, why: str) -> None:
        """Its handshake has failed."""
        self._counters.refused[why] += 1
        self._count(self._handshakes.pop(connection), -1)
        self._tell_if_empty()

    # ---- called by the connections (Listener)

    def opened(self, connection: DownstreamConnection) -> bool:
        """Counts it. False: one too many."""
        self.connections.add(connection)
        ip = self._handshakes.pop(connection, None)
        if ip is None:
            self._counters.accepted += 1
            self._count(connection.ip, 1)
        else:
            connection.ip = ip  # a client that has reset meanwhile has none any more, and is counted by what it had
        if self._prepare is not None:
            self._prepare(connection)
        if len(self.connections) + len(self._handshakes) - len(self._turned_away) > self._most:
            self._counters.refused["connections"] += 1
        elif self._of_address[connection.ip] > self._most_of_address:
            self._counters.refused["per_client"] += 1
        else:
            return True
        self._turned_away[connection] = None
        if len(self._turned_away) > MOST_TURNED_AWAY:
            next(iter(self._turned_away)).close("connection_limit")
        return False

    def closed(self, connection: DownstreamConnection) -> None:
        """It is gone."""
        self.connections.discard(connection)
        self._turned_away.pop(connection, None)
        self._counters.closed[connection.close_reason] += 1
        self._count(connection.ip, -1)
        self._tell_if_empty()

    # ---- the end

    def drain(self) -> None:
        """Has each of them go when it can."""
        for connection in list(self.connections):
            connection.drain()

    def abort(self) -> int:
        """Cuts off who is left; how many."""
        left = list(self.connections)
        for connection in left:
            connection.abort()
        return len(left)

    async def until_gone(self, within_s: float) -> None:
        """Until nobody is left, for so long, or until `wait_for_nobody`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(None if within_s == inf else within_s):
                while (self.connections or self._handshakes) and not self._waits_for_nobody:
                    self._empty.clear()
                    await self._empty.wait()

    def wait_for_nobody(self) -> None:
        self._waits_for_nobody = True
        self._empty.set()

    # ----

    def _count(self, ip: str, by: int) -> None:
        count = self._of_address.get(ip, 0) + by
        if count:
            self._of_address[ip] = count
        else:
            self._of_address.pop(ip, None)

    def _tell_if_empty(self) -> None:
        if not self.connections and not self._handshakes:
            self._empty.set()


def affordable_connections(wanted: int) -> int:
    """How many clients the descriptor limit allows, after raising it as far as it goes.

    Beyond that limit uvloop accepts and closes without a word, and a count of lost requests would lie. Each client
    may need a connection to an upstream, so at most half of the descriptors are the clients'.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, (hard - SPARE_DESCRIPTORS) // 2))
