"""What a TCP socket is told when it opens, and what the kernel made of it.

Rules of this file:

- What is as the event loop sets it anyway costs nothing: `options_of` is empty for the default config.
- A refusal is an `OSError` whose message begins with the key, so that it can be an error at start: `verify` asks on a
  scratch socket, before anybody connects.
- TCP_QUICKACK is not kept by the kernel (tcp(7)): a connection that begins to answer leaves quick-ACK mode by itself.
  It is set when a connection opens, and must be set again, with `QUICKACK`, whenever it waits for data anew.
- SO_LINGER with a time makes close() wait, even on a non-blocking socket (socket(7), and tests/proxy/test_sockets.py),
  and with it every other connection. So there are two values: the kernel's way, and 0s, which is RST.
"""

from __future__ import annotations

import socket
import struct
from functools import cache
from math import inf
from typing import Any, Final, NamedTuple, Protocol

from proxy.config import ListenerConfig, SocketConfig

QUICKACK: Final = (socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # for setsockopt
SOMAXCONN: Final = "net.core.somaxconn"

_LINGER: Final = struct.Struct("ii")  # struct linger: on, seconds
_MAX_BACKLOG_IN_TCP_INFO: Final = 28  # tcpi_sacked, where the kernel puts it for a socket that listens (tcp_get_info)


class Option(NamedTuple):
    """One socket option, and the key that asks for it."""

    key: str
    level: int
    name: int
    value: int | bytes


class Setting(NamedTuple):
    """One key of a section: what was asked for, and what the kernel says."""

    key: str
    asked: str
    got: str

    @property
    def granted(self) -> bool:
        return self.asked == self.got


class TakesOptions(Protocol):
    """A socket, or what a transport shows of its own."""

    def setsockopt(self, level: int, name: int, value: Any, /) -> None: ...


@cache
def options_of(config: SocketConfig) -> tuple[Option, ...]:
    """What has to be set for it on a connection of the event loop's, which has TCP_NODELAY already."""
    tcp = socket.IPPROTO_TCP
    options = []
    if not config.nodelay:
        options.append(Option("nodelay", tcp, socket.TCP_NODELAY, 0))
    if config.quickack:
        options.append(Option("quickack", *QUICKACK))
    if config.keepalive:
        options += [
            Option("keepalive", socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            Option("keepalive_idle", tcp, socket.TCP_KEEPIDLE, round(config.keepalive_idle)),
            Option("keepalive_interval", tcp, socket.TCP_KEEPINTVL, round(config.keepalive_interval)),
            Option("keepalive_count", tcp, socket.TCP_KEEPCNT, config.keepalive_count),
        ]
    if config.user_timeout != inf:
        options.append(Option("user_timeout", tcp, socket.TCP_USER_TIMEOUT, round(config.user_timeout * 1000)))
    if config.linger != inf:
        options.append(Option("linger", socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.pack(1, round(config.linger))))
    return tuple(options)


def apply(sock: TakesOptions, config: SocketConfig) -> None:
    """Sets them on a connection that has just opened. An OSError names the key that the kernel refused."""
    set_all(sock, options_of(config))


def set_all(sock: TakesOptions, options: tuple[Option, ...]) -> None:
    """The same, of some."""
    for key, level, name, value in options:
        try:
            sock.setsockopt(level, name, value)
        except OSError as problem:
            raise OSError(problem.errno, f"{key}: the kernel refuses it: {problem.strerror}") from None
        except (OverflowError, TypeError):  # as Python says of an int that C has none for
            raise OSError(None, f"{key}: the kernel refuses it: out of range") from None


def inherit(listening: TakesOptions, config: SocketConfig) -> None:
    """Sets on a listening socket what each connection accepted there then has from it, at no cost."""
    set_all(listening, tuple(option for option in options_of(config) if option not in not_inherited(config)))


def not_inherited(config: SocketConfig) -> tuple[Option, ...]:
    """What is left to set on each connection: the loop sets TCP_NODELAY itself, the kernel begins with quick ACKs."""
    return tuple(option for option in options_of(config) if option.key in ("nodelay", "quickack"))


def verify(section: str, config: SocketConfig) -> list[Setting]:
    """Sets them on a socket that nobody uses, and reads them back. Raises OSError as `apply` does."""
    if 0 < config.linger < inf:
        raise OSError(None, f'{section}.linger: expected "off" or "0s", got "{config.linger}": close() would wait')
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as scratch:
        scratch.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            apply(scratch, config)
        except OSError as problem:
            raise OSError(problem.errno, f"{section}.{problem.strerror}") from None
        return _read_back(scratch, section, config)


def _read_back(sock: socket.socket, section: str, config: SocketConfig) -> list[Setting]:
    def got(level: int, name: int) -> int:
        return sock.getsockopt(level, name)

    def flag(name: str, asked: bool, answer: int) -> Setting:
        return Setting(f"{section}.{name}", str(asked).lower(), str(bool(answer)).lower())

    tcp = socket.IPPROTO_TCP
    settings = [
        flag("nodelay", config.nodelay, got(tcp, socket.TCP_NODELAY)),
        flag("keepalive", config.keepalive, got(socket.SOL_SOCKET, socket.SO_KEEPALIVE)),
    ]
    if config.quickack:
        settings.append(flag("quickack", True, got(tcp, socket.TCP_QUICKACK)))
    if config.keepalive:
        settings += [
            Setting(f"{section}.keepalive_idle", str(config.keepalive_idle), f"{got(tcp, socket.TCP_KEEPIDLE)}s"),
            Setting(
                f"{section}.keepalive_interval", str(config.keepalive_interval), f"{got(tcp, socket.TCP_KEEPINTVL)}s"
            ),
            Setting(f"{section}.keepalive_count", str(config.keepalive_count), str(got(tcp, socket.TCP_KEEPCNT))),
        ]
    if config.user_timeout != inf:
        kept_s = type(config.user_timeout)(got(tcp, socket.TCP_USER_TIMEOUT) / 1000)
        settings.append(Setting(f"{section}.user_timeout", str(config.user_timeout), str(kept_s)))
    on, seconds = _LINGER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.size))
    settings.append(Setting(f"{section}.linger", str(config.linger), f"{seconds}s" if on else "off"))
    return settings


# ---- listening


def listen(host: str, port: int, config: ListenerConfig) -> list[socket.socket]:
    """Sockets that listen, one for each address that the host's name has. Raises OSError with the address as its file.

    With `reuse_port` others may listen on the same address, and the kernel spreads connections over them by the hash of
    their addresses. It then gives each connection to one of them before any has accepted it, so those that wait at a
    socket that closes are reset, unless net.ipv4.tcp_migrate_req is 1 (Linux 5.14).
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    opened: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            opened.append(sock := socket.socket(family, kind, protocol))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if config.reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # the name's IPv4 address has its own
            if opened[0] is not sock and port == 0:  # the same free one for all
                address = (address[0], opened[0].getsockname()[1], *address[2:])
            sock.bind(address)
            sock.listen(config.backlog)
            sock.setblocking(False)
    except OSError as problem:
        for sock in opened:
            sock.close()
        raise OSError(problem.errno, problem.strerror, f"{f'[{host}]' if ':' in host else host}:{port}") from None
    return opened


def verify_listener(sock: socket.socket, config: ListenerConfig) -> list[Setting]:
    """What a socket that listens was given. Its backlog is clamped by net.core.somaxconn without a word."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    (backlog,) = struct.unpack_from("I", info, _MAX_BACKLOG_IN_TCP_INFO)
    shared = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))
    return [
        Setting("listener.backlog", str(config.backlog), str(backlog)),
        Setting("listener.reuse_port", str(config.reuse_port).lower(), str(shared).lower()),
    ]
