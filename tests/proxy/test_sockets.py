"""What a socket is told, what the kernel makes of it, and what of that an accepted connection inherits."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import uvloop

from proxy import sockets
from proxy.config import ListenerConfig, Seconds, SocketConfig

TCP = socket.IPPROTO_TCP

ALL = SocketConfig(
    nodelay=False,
    quickack=True,
    keepalive=True,
    keepalive_idle=Seconds(7),
    keepalive_interval=Seconds(3),
    keepalive_count=2,
    user_timeout=Seconds("1.5"),
    linger=Seconds(0),
)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        client = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
        with client, accepted:
            yield client, accepted


def test_the_default_costs_nothing() -> None:
    assert sockets.options_of(SocketConfig()) == ()
    assert sockets.not_inherited(SocketConfig()) == ()


def test_every_option_reaches_the_kernel(pair: tuple[socket.socket, socket.socket]) -> None:
    client, _ = pair
    sockets.apply(client, ALL)
    assert client.getsockopt(TCP, socket.TCP_NODELAY) == 0
    assert client.getsockopt(TCP, socket.TCP_QUICKACK) == 1
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert client.getsockopt(TCP, socket.TCP_KEEPIDLE) == 7
    assert client.getsockopt(TCP, socket.TCP_KEEPINTVL) == 3
    assert client.getsockopt(TCP, socket.TCP_KEEPCNT) == 2
    assert client.getsockopt(TCP, socket.TCP_USER_TIMEOUT) == 1500
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == struct.pack("ii", 1, 0)


def test_what_was_asked_for_and_what_was_got() -> None:
    settings = {setting.key: setting for setting in sockets.verify("upstream_socket", ALL)}
    assert settings["upstream_socket.keepalive_idle"] == ("upstream_socket.keepalive_idle", "7s", "7s")
    assert settings["upstream_socket.user_timeout"].got == "1.5s"
    assert settings["upstream_socket.linger"].got == "0s"
    assert settings["upstream_socket.nodelay"].got == "false"
    assert all(setting.granted for setting in settings.values())
    assert [setting.key for setting in sockets.verify("x", SocketConfig())] == ["x.nodelay", "x.keepalive", "x.linger"]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (SocketConfig(keepalive=True, keepalive_idle=Seconds(40_000)), "x.keepalive_idle: the kernel refuses it"),
        (SocketConfig(keepalive=True, keepalive_interval=Seconds(0)), "x.keepalive_interval: the kernel refuses it"),
        (SocketConfig(keepalive=True, keepalive_count=128), "x.keepalive_count: the kernel refuses it"),
        (SocketConfig(user_timeout=Seconds(1e12)), "x.user_timeout: the kernel refuses it"),
        (SocketConfig(linger=Seconds(2)), 'x.linger: expected "off" or "0s"'),
    ],
)
def test_what_the_kernel_refuses_names_the_key(config: SocketConfig, says: str) -> None:
    with pytest.raises(OSError, match=says):
        sockets.verify("x", config)


def test_why_linger_has_no_time() -> None:
    """close() waits for it, on a non-blocking socket too, and the event loop with it."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        client = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1))
        with suppress(BlockingIOError):
            while True:
                client.send(bytes(1 << 16))
        began = time.monotonic()
        client.close()
        assert time.monotonic() - began > 0.9
        accepted.close()


def test_quick_acks_are_forgotten_by_the_kernel(pair: tuple[socket.socket, socket.socket]) -> None:
    """It leaves that mode when data goes both ways, which is what a connection of a proxy does."""
    client, server = pair
    client.setsockopt(*sockets.QUICKACK)
    for _ in range(20):
        server.sendall(b"x")
        client.recv(1)
        client.sendall(b"y")
        server.recv(1)
    assert client.getsockopt(TCP, socket.TCP_QUICKACK) == 0
    client.setsockopt(*sockets.QUICKACK)
    assert client.getsockopt(TCP, socket.TCP_QUICKACK) == 1


# ---- what is accepted inherits


def test_an_accepted_socket_inherits_what_does_not_have_to_be_set_again() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        sockets.inherit(listening, ALL)
        client = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
        with client, accepted:
            for key, level, name, value in sockets.options_of(ALL):
                if isinstance(value, bytes):
                    assert accepted.getsockopt(level, name, len(value)) == value
                elif key not in ("nodelay", "quickack"):
                    assert accepted.getsockopt(level, name) == value
    assert [option.key for option in sockets.not_inherited(ALL)] == ["nodelay", "quickack"]


def test_the_loop_sets_nodelay_itself() -> None:
    """So it is what has to be undone, and by each connection."""

    async def nodelay() -> tuple[int, int]:
        made: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        class Server(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                made.set_result(transport.get_extra_info("socket").getsockopt(TCP, socket.TCP_NODELAY))
                transport.close()

        loop = asyncio.get_running_loop()
        server = await loop.create_server(Server, "127.0.0.1", 0)
        transport, _ = await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
        ours = transport.get_extra_info("socket").getsockopt(TCP, socket.TCP_NODELAY)
        theirs = await made
        transport.close()
        server.close()
        await server.wait_closed()
        return ours, theirs

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(nodelay()) == (1, 1)


# ---- listening


def test_the_backlog_is_what_the_kernel_grants() -> None:
    most = int(Path("/proc/sys/net/core/somaxconn").read_text())
    for asked in (1, most, most + 1):
        config = ListenerConfig(backlog=asked)
        (listening,) = sockets.listen("127.0.0.1", 0, config)
        with listening:
            backlog, shared = sockets.verify_listener(listening, config)
            assert backlog == ("listener.backlog", str(asked), str(min(asked, most)))
            assert backlog.granted is (asked <= most)
            assert shared.granted


def test_an_address_that_is_taken_is_named() -> None:
    (listening,) = sockets.listen("127.0.0.1", 0, ListenerConfig())
    with listening:
        port = listening.getsockname()[1]
        with pytest.raises(OSError, match="Address already in use") as caught:
            sockets.listen("127.0.0.1", port, ListenerConfig())
    assert caught.value.filename == f"127.0.0.1:{port}"


def test_several_can_listen_with_reuse_port() -> None:
    config = ListenerConfig(reuse_port=True)
    (first,) = sockets.listen("127.0.0.1", 0, config)
    (second,) = sockets.listen("127.0.0.1", first.getsockname()[1], config)
    with first, second:
        assert first.getsockname() == second.getsockname()


def test_a_name_with_several_addresses_is_listened_on_at_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def both(*_args: object, **_kwargs: object) -> list[object]:
        kind = (socket.SOCK_STREAM, TCP, "")
        return [(socket.AF_INET, *kind, ("127.0.0.1", 0)), (socket.AF_INET, *kind, ("127.0.0.2", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    first, second = sockets.listen("both.test", 0, ListenerConfig())
    with first, second:
        assert first.getsockname()[1] == second.getsockname()[1]
        assert {first.getsockname()[0], second.getsockname()[0]} == {"127.0.0.1", "127.0.0.2"}
