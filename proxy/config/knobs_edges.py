"""The knobs of the edges: the listener, the sockets and TLS of either side, and the admin address.

A file that is named here is opened when it is used; "" is none.
"""

from __future__ import annotations

import msgspec

from proxy.config.bounds import (
    AdminListen,
    Backlog,
    Host,
    HostOrNone,
    KeepaliveCount,
    KeepaliveSeconds,
    Linger,
    Timeout,
    TlsVersion,
)
from proxy.config.values import Seconds


class TlsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """TLS towards clients. It is on when there is a certificate."""

    certificates: tuple[str, ...] = ()
    """Files, each a certificate with its chain and its key, as PEM. Default none: plain HTTP. A client that names its
    host (SNI) is shown the one made out for it; any other client the first."""

    client_ca: str = ""
    """File of the authorities, as PEM, of which every client must show a certificate (mTLS). Default "": none is asked
    for."""

    min_version: TlsVersion = "1.2"
    """Oldest version of TLS that a client may speak, "1.2" or "1.3". Default 1.2."""


class UpstreamTls(msgspec.Struct, frozen=True, kw_only=True):
    """TLS towards upstreams."""

    enabled: bool = False
    """Speak TLS to upstreams. Default false: plain HTTP."""

    server_name: HostOrNone = ""
    """Name that an upstream's certificate must bear, and that it is asked for (SNI). Default "": the host of its
    address."""

    verify: bool = True
    """Check the upstream's certificate and its name. Default true. false: anybody on the way can pose as
    it."""

    ca_file: str = ""
    """File of the authorities, as PEM, that upstreams' certificates are checked against. Default "": the system's."""

    certificate: str = ""
    """File with the certificate that the proxy shows to upstreams, its chain and its key, as PEM (mTLS). Default "":
    none."""

    min_version: TlsVersion = "1.2"
    """Oldest version of TLS that an upstream may speak, "1.2" or "1.3". Default 1.2."""


class SocketConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of the kernel for each connection of one side; see tcp(7) and socket(7)."""

    nodelay: bool = True
    """Send small segments at once (TCP_NODELAY). Default true. false: Nagle's algorithm holds them back until what was
    sent before is acknowledged."""

    quickack: bool = False
    """Acknowledge at once (TCP_QUICKACK). Default false: the kernel may wait up to 40 ms for data to go with it. The
    kernel leaves that mode by itself, so that it is set again at each read, which costs a call."""

    keepalive: bool = False
    """Have the kernel probe silent connections (SO_KEEPALIVE). Default false. It finds a peer that has vanished without
    a word; it has nothing to do with HTTP keep-alive and does not keep a peer's idle timeout from passing."""

    keepalive_idle: KeepaliveSeconds = Seconds(60)
    """Silence before the first probe (TCP_KEEPIDLE), in whole seconds. Default 60s; it counts only with keepalive."""

    keepalive_interval: KeepaliveSeconds = Seconds(10)
    """Time between probes (TCP_KEEPINTVL), in whole seconds. Default 10s; it counts only with keepalive."""

    keepalive_count: KeepaliveCount = 3
    """Probes without an answer after which the connection is dead (TCP_KEEPCNT). Default 3; from 1 to 127."""

    user_timeout: Timeout = Seconds("inf")
    """How long sent data may stay unacknowledged before the connection is dead (TCP_USER_TIMEOUT), to the millisecond.
    Default off: the kernel's own patience, which is about 15 minutes on Linux."""

    linger: Linger = Seconds("inf")
    """What a close does with unsent data (SO_LINGER), "off" or "0s". Default off: it is sent in the background. 0s: it
    is thrown away, and the peer gets an RST instead of a FIN. Any other time would make the whole process wait."""


class ListenerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The socket that clients connect to."""

    backlog: Backlog = 4096
    """Connections that the kernel completes before they are accepted. Default 4096; the kernel's own limit,
    net.core.somaxconn, comes on top."""

    reuse_port: bool = False
    """Give each worker a listening socket of its own (SO_REUSEPORT). Default false: they share one. The kernel then
    spreads connections evenly by their addresses, also to a worker that is busy, and those that wait at a worker which
    ends are lost."""


class AdminConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The page for operators: metrics, health, the pools, and changes of the config."""

    listen: AdminListen = "127.0.0.1:9901"
    """Where operators connect, host:port. Default 127.0.0.1:9901. "off": nowhere. Beyond loopback only with
    admin.public."""

    token_file: str = ""
    """File with the secret that changes must bear, in one line. Default "": nothing can be changed from outside. The
    secret itself is never in the config, and is never shown."""

    allowed_hosts: tuple[Host, ...] = ()
    """Names by which the admin address may be asked for, beside localhost, 127.0.0.1 and [::1]. Default none. Any other
    Host is refused, so that no web page can reach it by a name of its own (DNS rebinding)."""

    public: bool = False
    """Allow admin.listen to be an address that others than this machine can reach. Default false. What it shows is not
    encrypted and asks for no password."""
