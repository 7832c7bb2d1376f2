"""One process that serves: it listens, wires the parts together, changes them while it runs, and drains.

Rules of this file:

- A change has two steps, so that all of it happens or nothing: `prepare` does what can fail and touches nothing that
  serves, `commit` cannot fail. What was prepared and is not wanted is given to `abandon`.
- If the address changes, the new listener accepts before the old one stops, and that before anybody is sent away. Who
  came in by the old one is drained by what drains everybody: its gateway, so that its next answer says
  `Connection: close`, and nothing is cut off.
- What is set on the listening socket every accepted one inherits. Two options it cannot inherit, because the loop and
  the kernel set them anew: those cost a call for each connection, and only where they are asked for.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import socket
import ssl
from contextlib import suppress
from math import inf
from time import monotonic
from typing import Final, NamedTuple

from proxy import sockets
from proxy.clients import Clients
from proxy.config import ProxyConfig, Seconds, parse_address
from proxy.downstream import DownstreamConnection, QuickAckConnection
from proxy.events import EventLog
from proxy.gateway import Gateway
from proxy.groups import Groups, Step, say
from proxy.listener import PlainListener, TlsListener
from proxy.observe.access_log import AccessLog
from proxy.observe.counters import Counters
from proxy.observe.loop_lag import LoopLag
from proxy.tls import ServerTls, server_context

BETWEEN_GATEWAYS: Final = 1 << 32  # exchanges are numbered by their gateway; no two may have the same number

Sockets = list[socket.socket]


class Prepared(NamedTuple):
    """What `commit` puts in force."""

    config: ProxyConfig
    steps: list[Step]
    tls: ServerTls | None
    sockets: Sockets | None  # None: it goes on listening where it does


class Server:
    """One process. Made on its loop; `start`, any number of changes, `drain`; the first and the last once.

    `listening`: sockets that somebody else has opened; without them it opens its own. `worker`: its number, None for
    the only one.
    """

    def __init__(self, config: ProxyConfig, listening: Sockets | None = None, worker: int | None = None) -> None:
        self.config = config
        self.worker = worker
        self.started = monotonic()
        self.counters = Counters()
        self._options = sockets.not_inherited(config.downstream_socket)
        self._kind = QuickAckConnection if config.downstream_socket.quickack else DownstreamConnection
        self.clients = Clients(
            config.limits, self.counters.downstream, self._connection, self._set_options if self._options else None
        )
        self._access = AccessLog(config.log.access, config.log.format)
        self._events = EventLog(_events_path(config, worker), "proxy") if config.log.events else None
        self._emit = self._events.emit if self._events is not None else None
        self._loop = asyncio.get_running_loop()
        self.loop_lag = LoopLag(self._loop)
        self.groups = Groups(self._emit, self.counters)
        self.gateway = self._new_gateway()
        self._gateways = [self.gateway]  # also of listeners that have closed
        self._listening = listening
        self._listeners: list[PlainListener | TlsListener] = []
        self._tls: ServerTls | None = None
        self._left: list[PlainListener | TlsListener] = []
        self.stopping = False

    def __repr__(self) -> str:
        return f"<Server {self.config.listen}, {len(self.clients.connections)} connections, {self.refused} refused>"

    @property
    def refused(self) -> int:
        """Connections above a limit, and handshakes that failed."""
        return sum(self.counters.downstream.refused.values())

    @property
    def log_dropped(self) -> dict[str, int]:
        """Lines that are missing, by log."""
        return {"access": self._access.dropped, "events": self._events.dropped if self._events is not None else 0}

    async def start(self) -> tuple[str, int]:
        """Listens, and returns on which address. Raises OSError, TlsError or SourceError if it cannot."""
        config = self.config
        prepared = self.prepare(config, self._listening or open_sockets(config))
        assert prepared.sockets is not None
        address = prepared.sockets[0].getsockname()
        self.loop_lag.start()
        await self.groups.take(prepared.steps, config)
        await self._take(prepared)
        return address[0], address[1]

    # ---- changes

    def prepare(self, config: ProxyConfig, listening: Sockets | None = None) -> Prepared:
        """All that a change to `config` needs; `listening`: where from now on. On TlsError or SourceError, nothing."""
        try:
            tls = server_context(config.tls) if config.tls.certificates else None
            steps = self.groups.plan(config)
            if listening is None and (tls is None) is not (self._tls is None):  # the same address, met otherwise
                listening = [listener.socket.dup() for listener in self._listeners]
            for sock in listening or ():
                sockets.inherit(sock, config.downstream_socket)
        except BaseException:
            close_all(listening or [])
            raise
        return Prepared(config, steps, tls, listening)

    async def commit(self, prepared: Prepared) -> None:
        """Puts it in force for what begins from now on. If it then listens elsewhere, `leave`, `drain_old` follow."""
        await self.groups.take(prepared.steps, prepared.config)  # this may take a while
        if self.stopping:
            close_all(prepared.sockets or [])
            prepared = prepared._replace(sockets=None)
        if prepared.sockets is not None:
            self._left, self._listeners = self._listeners, []
            self.gateway = self._new_gateway(self.gateway.exchanges + BETWEEN_GATEWAYS)
            self._gateways.append(self.gateway)
        await self._take(prepared)

    def leave(self) -> None:
        """Listens no more where it listened before."""
        for listener in self._left:
            listener.close()
        self._left = []

    def drain_old(self) -> None:
        """Has those go who came in there; nobody listens there any more."""
        for gateway in self._gateways:
            gateway.draining = self.stopping or gateway is not self.gateway

    async def _take(self, prepared: Prepared) -> None:
        config = self.config = prepared.config
        self._tls = prepared.tls
        for certificate in prepared.tls.certificates if prepared.tls else ():
            if certificate.expired:
                say(f"tls.certificates: {certificate.file}: it has expired")
        for gateway in self._gateways:
            gateway.take(config, self.groups.by_name)
        self._access.line_format = config.log.format
        self.clients.limit(config.limits)
        for sock in prepared.sockets or ():
            listener = self._listener_on(sock)
            await listener.start()
            self._listeners.append(listener)

    def _listener_on(self, sock: socket.socket) -> PlainListener | TlsListener:
        if self._tls is None:
            return PlainListener(self.clients, sock, self.config.listener.backlog)
        return TlsListener(self.clients, sock, self._tls_context, lambda: self.config.timeouts.tls_handshake)

    def _tls_context(self) -> ssl.SSLContext:
        assert self._tls is not None
        return self._tls.context

    def _new_gateway(self, exchanges: int = 0) -> Gateway:
        finished = self._access.finished if self._access.on else None
        gateway = Gateway(self.config, self.groups.by_name, self._emit, finished, self.counters)
        gateway.exchanges = exchanges
        return gateway

    def reopen_logs(self) -> str:
        """Has the access log go on in the file that has its name now; what kept it from that, "" if nothing."""
        return self._access.reopen()

    def listening(self) -> list[sockets.Setting]:
        """What the kernel made of the socket that listens; nothing before there is one, and after."""
        return [
            setting
            for listener in self._listeners[:1]
            for setting in sockets.verify_listener(listener.socket, self.config.listener)
        ]

    def why_not_ready(self) -> str:
        """Why no requests should come here now; "" if they should."""
        if not self._listeners:
            return "draining" if self.stopping else "not listening yet"
        return self.groups.why_not_ready()

    # ---- the end

    def stop_listening(self) -> None:
        """The first step of a drain. With others on the same socket, all take it before anybody takes the next."""
        self.stopping = True
        self._left += self._listeners
        self._listeners = []
        self.leave()

    async def drain(self) -> int:
        """Stops accepting, lets what has started finish, closes the rest when the grace is over, and the logs.

        Returns how many it has cut off. It says so, and that it begins, unless somebody else speaks for all.
        """
        listeners = self._listeners
        self.stop_listening()
        for listener in listeners:
            if isinstance(listener, PlainListener):  # a handshake counts from its beginning
                await listener.settle()
        if self.worker is None:
            say_draining(self.clients.count, self.config.drain_grace)
        for gateway in self._gateways:
            gateway.draining = True
        self.groups.drain()
        self.clients.drain()
        await self.clients.until_gone(self.config.drain_grace)
        cut_off = self.clients.abort()
        self.groups.close()
        self.loop_lag.close()
        await asyncio.sleep(0)  # the transports close
        self.close_logs()
        if self.worker is None:
            say_drained(cut_off)
        return cut_off

    def hurry(self) -> None:
        """Lets a drain wait for nobody any more."""
        self.clients.wait_for_nobody()

    def close_logs(self) -> None:
        """Writes what the logs still hold. Idempotent."""
        self._access.close()
        if self._events is not None:
            self._events.close()

    # ---- parts

    def _connection(self) -> DownstreamConnection:
        return self._kind(self.gateway, self.clients, self._loop)

    def _set_options(self, connection: DownstreamConnection) -> None:
        with suppress(OSError):  # it has been reset already
            connection.set_options(self._options)


# ---- what does not depend on it


def open_sockets(config: ProxyConfig) -> Sockets:
    """Sockets that listen where it says. Raises OSError; says what the kernel gave less of than was asked for."""
    opened = sockets.listen(*parse_address(config.listen), config.listener)
    for setting in sockets.verify_listener(opened[0], config.listener):
        if not setting.granted:
            say(f"{setting.key}: asked for {setting.asked}, got {setting.got} ({sockets.SOMAXCONN} is the limit)")
    return opened


def say_draining(connections: int, grace: Seconds) -> None:
    """What a drain begins with."""
    within = "as long as they need" if grace == inf else f"at most {grace}"
    say(f"draining: {_connections(connections)} to finish, {within}")


def say_drained(cut_off: int, killed: int = 0) -> None:
    """How it has ended; `killed`: workers that did not end by themselves."""
    if killed:
        say(f"drained: {_connections(cut_off)} cut off, beside those of {killed} worker{'s'[: killed > 1]} that died")
    else:
        say(f"drained: {f'{_connections(cut_off)} cut off' if cut_off else 'nobody was cut off'}")


def _connections(count: int) -> str:
    return f"{count} connection{'' if count == 1 else 's'}"


def close_all(opened: Sockets) -> None:
    for sock in opened:
        sock.close()


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


def _events_path(config: ProxyConfig, worker: int | None) -> str:
    """Of several workers each has a file of its own: a vantage point numbers its events."""
    return config.log.events if worker is None else f"{config.log.events}.{worker}"
