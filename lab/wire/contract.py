"""What every make of the wire promises, and the words it answers in.

A *link* is a named way to one upstream port, with a one-way delay and a gate of its own. The proxy dials the address
that `link` returns, and reaches the upstream's port with every byte, FIN and RST `delay_s` late, in order.

The *gate* of a link keeps an upstream's close on an idle connection until a request has gone the other way, then lets
it travel. So the two always cross, whatever the timers of the peers do.

A link can *forget* connections as a firewall or a NAT does: where nothing has passed for a while, what comes then is
dropped without a word, either way and for good. Only a new connection passes.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from lab.errors import CannotRunError, UsageError

HOLD_LIMIT_S = 30.0
BACKLOG = 4096


class WireError(CannotRunError):
    """The wire could not be built, or it ended by itself."""


class UnsupportedError(UsageError):
    """This make of the wire cannot do what was asked."""


class Address(NamedTuple):
    """What the proxy dials to reach an upstream through a link."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Settled(msgspec.Struct, frozen=True):
    """Where a link's connections stand, counted since its last `mark`.

    `held`: connections whose upstream close waits at the gate now. `closed_by_proxy`: connections on which the proxy's
    FIN or RST came before any close of the upstream had passed the gate. `open`: connections now open, of any age.
    """

    held: int
    closed_by_proxy: int
    open: int

    @property
    def accounted(self) -> int:
        """Connections that are ready to be aimed at, or out of reach: what `settled` waits for."""
        return self.held + self.closed_by_proxy


class WireStats(msgspec.Struct, frozen=True):
    """How well the wire did its work; a run whose wire lost or dropped something is inconclusive.

    `forwarded`: packets (netns), or data chunks, SYNs, FINs and RSTs (relay), handed to the other host. `lost`: what
    the wire itself failed to forward. `late_*_ms`: actual hand-over minus the moment it was due, in milliseconds; None
    when nothing was forwarded.
    """

    make: str
    forwarded: int = 0
    lost: int = 0
    late_p50_ms: float | None = None
    late_p99_ms: float | None = None
    late_max_ms: float | None = None
    log_emitted: int = 0
    log_dropped: int = 0
    pcap_packets: int = 0
    pcap_dropped: int = 0


class Wire(Protocol):
    """What lies between the proxy and its upstreams. One make at a time; start it, make links, stop it."""

    make: str
    """"relay" | "netns" | "loopback"."""

    bind_host: str
    """The address on which an upstream must listen to be reached through a link."""

    async def start(self) -> None:
        """Builds the wire. Raises WireError with a remedy when this machine cannot."""

    async def stop(self) -> WireStats:
        """Closes everything, also the logs. Safe to repeat. Raises WireError when the wire had ended by itself."""

    async def link(self, name: str, port: int, *, delay_s: float, gate: bool) -> Address:
        """Makes a link to the upstream's `port`. Several links may lead to one port."""

    async def gate(self, name: str, on: bool) -> None:
        """Arms or disarms the gate for closes to come. What it holds already stays held until `release`."""

    async def hold(self, name: str, limit_s: float) -> None:
        """Sets how long the gate keeps a close to come when no request follows (30 s unless set)."""

    async def forget(self, name: str, after_s: float) -> None:
        """Sets after how long a silence a connection is forgotten; 0: never, which is so unless set."""

    async def mark(self, name: str) -> None:
        """Forgets the counts: a round starts."""

    async def settled(self, name: str, n: int, timeout_s: float) -> Settled:
        """Waits until held + closed_by_proxy >= n since the last mark; at the timeout, answers as things stand."""

    async def release(self, name: str) -> int:
        """Lets held closes go now; they still take the delay. Returns of how many connections."""

    async def drained(self, name: str, timeout_s: float) -> bool:
        """Waits until nothing of this link is on its way. What the gate holds is not on its way."""

    async def quiet(self, name: str, timeout_s: float) -> bool:
        """Waits until no connection of this link is open."""

    def listen(self) -> socket.socket:
        """A listening socket on the far side, for upstream processes that inherit it one after the other."""

    def tell_kernel(self, setting: str, value: str) -> None:
        """Sets a `net.` setting of the far side's kernel. Raises UnsupportedError where that is this machine's own."""

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Starts an upstream process on the far side; `options` are those of subprocess.Popen."""
