"""A proxy without sockets or clocks: transports that are byte buffers, timers that a test lets pass, a kernel that says
what it is told to. Bytes go in at one end and come out at the other, in the order that the test chooses."""

from __future__ import annotations

import heapq
import select
import socket
import struct
from collections.abc import Callable, Coroutine, Generator
from itertools import count
from typing import Any

import pytest

from proxy.config import GroupConfig, ProxyConfig, override
from proxy.discovery.endpoints import Endpoint
from proxy.downstream import DownstreamConnection
from proxy.events import Kind
from proxy.gateway import Gateway
from proxy.group import Group
from proxy.upstream import Upstream

PORTS = count(40000)


class FakeHandle:
    """A timer of the fake loop."""

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self._when = when
        self.callback = callback
        self.cancelled = False

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    """Time passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.dials: list[Dial] = []
        self._timers: list[tuple[float, int, FakeHandle]] = []
        self._soon: list[Callable[[], None]] = []
        self._order = count()

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> FakeHandle:
        handle = FakeHandle(self.now + delay, callback)
        heapq.heappush(self._timers, (handle.when(), next(self._order), handle))
        return handle

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)

    def turn(self) -> None:
        """Runs what was scheduled with call_soon, and what that schedules."""
        while self._soon:
            self._soon.pop(0)()

    def passes(self, seconds: float) -> None:
        """Lets time pass, firing timers on the way."""
        until = self.now + seconds
        while self._timers and self._timers[0][0] <= until:
            when, _, handle = heapq.heappop(self._timers)
            if not handle.cancelled:
                self.now = max(self.now, when)
                handle.callback()
        self.now = until

    def create_task(self, coroutine: Coroutine[Any, Any, None]) -> FakeTask:
        return FakeTask(coroutine)

    async def create_connection(self, factory: Callable[[], Any], host: str, port: int, **options: Any) -> None:
        dial = Dial(self, factory, host, port, options)
        self.dials.append(dial)
        await dial


class FakeTask:
    """Runs a coroutine up to its first wait; `Dial` takes it on from there."""

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.coroutine = coroutine
        self.cancelled = False
        dial = coroutine.send(None)
        dial.task = self

    def cancel(self) -> None:
        self.cancelled = True
        self.coroutine.close()


class Dial:
    """A connect under way."""

    task: FakeTask

    def __init__(
        self, loop: FakeLoop, factory: Callable[[], Any], host: str, port: int, options: dict[str, Any]
    ) -> None:
        self.loop, self.factory, self.address, self.options = loop, factory, (host, port), options

    def __await__(self) -> Generator[Any, None, None]:
        yield self

    def accept(self, *, reset: bool = False) -> Peer:
        """It succeeds; `reset`: and the kernel knows already that the peer has gone again."""
        self.loop.dials.remove(self)
        peer = Peer(self.factory(), ("10.0.0.2", next(PORTS)), None if reset else self.address)
        peer.protocol.connection_made(peer.transport)
        if not self.task.cancelled:
            with pytest.raises(StopIteration):
                self.task.coroutine.send(None)
        return peer

    def fail(self, problem: Exception) -> None:
        self.loop.dials.remove(self)
        with pytest.raises(StopIteration):
            self.task.coroutine.throw(problem)


class FakeTransport:
    """Keeps what is written. Behaves like uvloop's where that matters: see tests/platform."""

    def __init__(self, protocol: Any, sockname: tuple[str, int], peername: tuple[str, int] | None) -> None:
        self.protocol = protocol
        self.info: dict[str, Any] = {"socket": self, "sockname": sockname, "peername": peername}
        self.written = bytearray()
        self.reading = True
        self.closed = False
        self.lost = False
        self.eof_written = False
        self.refuses = False  # the kernel takes nothing more
        self.waiting = 0  # bytes that the kernel has not taken
        self.resets = False  # its close is an RST
        self.options: list[tuple[int, int]] = []  # that have been set
        self.most_undecoded = -1  # under TLS

    def fileno(self) -> int:
        return -1

    def setsockopt(self, level: int, option: int, value: object) -> None:
        self.options.append((level, option))
        if (level, option, value) == (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)):
            self.resets = True

    def getsockopt(self, _level: int, _option: int, _size: int) -> bytes:
        return b""  # it knows nothing

    def get_extra_info(self, name: str) -> Any:
        return self.info.get(name)

    def set_write_buffer_limits(self, high: int) -> None:
        assert high > 0

    def set_read_buffer_limits(self, high: int) -> None:
        self.most_undecoded = high

    def get_protocol(self) -> Any:
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def write(self, data: bytes) -> None:
        if self.lost or self.eof_written:
            raise RuntimeError("written to after it was lost")
        if self.refuses:
            self.closed = True
        elif not self.closed:
            self.written += data

    def writelines(self, parts: list[bytes]) -> None:
        self.write(b"".join(parts))

    def write_eof(self) -> None:
        self.eof_written = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closed = True
        self.reading = False

    abort = close


class Peer:
    """The other end of a connection of the proxy: a client or an upstream server."""

    def __init__(self, protocol: Any, sockname: tuple[str, int], peername: tuple[str, int] | None) -> None:
        self.transport = FakeTransport(protocol, sockname, peername)

    @property
    def protocol(self) -> Any:
        """Whoever the transport tells of what happens."""
        return self.transport.protocol

    def sends(self, data: bytes) -> None:
        assert self.transport.reading, "the proxy does not read from it now"
        self.protocol.data_received(data)

    def gets(self) -> bytes:
        """What the proxy has written since the last time."""
        data = bytes(self.transport.written)
        self.transport.written.clear()
        return data

    def closes(self) -> None:
        """A FIN."""
        self.protocol.eof_received()
        self.loses(None)

    def resets(self) -> None:
        """An RST."""
        self.loses(ConnectionResetError(104, "Connection reset by peer"))

    def loses(self, problem: OSError | None) -> None:
        self.transport.lost = True
        self.protocol.connection_lost(problem)

    @property
    def closed(self) -> bool:
        """Whether the proxy has closed it."""
        return self.transport.closed


class FakeKernel:
    """What the kernel would say about any upstream socket, and of any client's: what it has not acknowledged."""

    undelivered = 0
    unacked: int | None = 0
    unread = 0
    unread_by_proxy = 0  # of what clients have sent
    stirred: int = 0  # the events of a poll


class Event:
    """One event as a test wants to see it."""

    def __init__(self, kind: Kind, conn: str, exchange: int, detail: tuple[object, ...]) -> None:
        self.kind, self.conn, self.exchange = kind.name, conn, exchange
        self.detail = dict(zip(kind.fields, detail, strict=True))

    def __repr__(self) -> str:
        return f"<{self.kind} {self.detail}>"

    def __getitem__(self, field: str) -> Any:
        return self.detail[field]


class FakeProxy:
    """A whole proxy but for the server, with one upstream at 10.0.0.3:9000."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
        self.loop = FakeLoop()
        self.tls: Any = changes.pop("tls", None)
        self.kernel = kernel = FakeKernel()
        self.events: list[Event] = []
        self.config = override(ProxyConfig(), {"upstreams": ["10.0.0.3:9000"], **_dotted(changes)})
        for module in ("upstream", "upstream_life", "upstream_connection", "group", "exchange", "record", "downstream"):
            monkeypatch.setattr(f"proxy.{module}.monotonic", self.loop.time)
        monkeypatch.setattr("proxy.upstream_socket.unacked_bytes", lambda _fd: kernel.unacked)
        monkeypatch.setattr("proxy.downstream_socket.unacked_bytes", lambda _fd: kernel.undelivered)
        monkeypatch.setattr("proxy.downstream_socket.unread_bytes", lambda _fd: kernel.unread_by_proxy)
        monkeypatch.setattr("proxy.upstream_socket.unread_bytes", lambda _fd: kernel.unread)
        monkeypatch.setattr("proxy.upstream_socket.stirred", lambda _fd: self.stirred)
        loop: Any = self.loop  # as much of one as the proxy needs
        config = self.config
        (group_config,) = config.group_configs().values()
        self.group = Group(group_config, loop, self.make_upstream)
        self.group.apply([Endpoint(address) for address in config.upstreams], self.loop.now)
        (self.upstream, *_) = self.group.upstreams
        self.gateway = Gateway(config, {group_config.name: self.group}, self.emit)
        self.connections: list[DownstreamConnection] = []
        self.accepts = True

    # It is its own event log, server, and part of a kernel.

    def make_upstream(self, endpoint: Any, config: GroupConfig) -> Upstream:
        loop: Any = self.loop
        limits = self.config.limits
        return Upstream(
            *(endpoint.address, loop, config.timeouts, config.pool, limits, self.emit),
            tls=self.tls,
            sock=config.upstream_socket,
            trailers=self.config.http.trailers == "forward",
        )

    def stirred(self, timeout_ms: int) -> list[tuple[int, int]]:
        assert timeout_ms == 0
        return [(-1, self.kernel.stirred or select.POLLIN)] if self.kernel.stirred or self.kernel.unread else []

    def emit(self, kind: Kind, conn: str, exchange: int, *detail: object) -> None:
        self.events.append(Event(kind, conn, exchange, detail))

    def opened(self, connection: DownstreamConnection) -> bool:
        self.connections.append(connection)
        return self.accepts

    def closed(self, connection: DownstreamConnection) -> None:
        self.connections.remove(connection)

    # What tests ask.

    def client(self) -> Peer:
        """A client connects."""
        protocol = DownstreamConnection(self.gateway, self, self.loop)  # type: ignore[arg-type]
        peer = Peer(protocol, ("10.0.0.2", 8080), ("10.0.0.1", next(PORTS)))
        peer.protocol.connection_made(peer.transport)
        return peer

    def accept(self) -> Peer:
        """The upstream accepts the connection that the proxy is opening."""
        return self.loop.dials[0].accept()

    def pair(self) -> tuple[Peer, Peer]:
        """A client, and an upstream connection that has carried one exchange and is idle."""
        client = self.client()
        client.sends(GET)
        server = self.accept()
        server.gets()
        server.sends(OK)
        client.gets()
        self.events.clear()
        return client, server

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]

    def last(self, kind: str) -> Event:
        return self.of(kind)[-1]

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


GET = b"GET /a HTTP/1.1\r\nHost: shop\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: shop\r\nContent-Length: 4\r\n\r\nbody"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
OK_CLOSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
PASSED_OK = b"HTTP/1.1 200 OK\r\nVia: 1.1 kalab\r\nContent-Length: 2\r\n\r\nok"


def _dotted(changes: dict[str, object]) -> dict[str, object]:
    """Keyword arguments cannot hold dots: pool__max_idle is pool.max_idle."""
    return {name.replace("__", "."): value for name, value in changes.items()}


def status_of(response: bytes) -> int:
    """The status of a response that a client got; 0 if it got none."""
    return int(response[9:12] or 0)


def body_of(message: bytes) -> bytes:
    return message.partition(b"\r\n\r\n")[2]


def fields_of(message: bytes) -> dict[str, str]:
    """The fields of a head, in lower case; repeated ones are joined as RFC 9110 §5.3 allows."""
    fields: dict[str, str] = {}
    for line in message.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        name = name.lower()
        fields[name] = f"{fields[name]}, {value.strip()}" if name in fields else value.strip()
    return fields


def splits(data: bytes) -> list[tuple[bytes, bytes]]:
    """Every way to cut bytes in two."""
    return [(data[:at], data[at:]) for at in range(1, len(data))]
