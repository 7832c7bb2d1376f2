"""The make "loopback": nothing in between. The control, in which the race nearly vanishes."""

# ruff: noqa: ARG002 - the contract names the arguments; where nothing is in between, some have nothing to say

from __future__ import annotations

import socket
import subprocess
from collections.abc import Sequence
from typing import Any, NoReturn

from lab.wire.contract import BACKLOG, Address, Settled, UnsupportedError, WireStats


class LoopbackWire:
    """Links are the upstreams' own addresses. What needs something in between raises UnsupportedError."""

    make = "loopback"
    bind_host = "127.0.0.1"

    def __repr__(self) -> str:
        return "<LoopbackWire>"

    async def start(self) -> None:
        """Nothing to build."""

    async def stop(self) -> WireStats:
        return WireStats(make=self.make)

    async def link(self, name: str, port: int, *, delay_s: float, gate: bool) -> Address:
        if gate:
            _cannot(f"gate {name}")
        if delay_s:
            _cannot(f"delay {name} by {delay_s * 1e3:g} ms")
        return Address(self.bind_host, port)

    async def gate(self, name: str, on: bool) -> None:
        if on:
            _cannot(f"gate {name}")

    async def hold(self, name: str, limit_s: float) -> None:
        _cannot(f"hold anything of {name} for {limit_s:g} s")

    async def forget(self, name: str, after_s: float) -> None:
        if after_s:
            _cannot(f"forget connections of {name}")

    async def mark(self, name: str) -> None:
        """Nothing is counted."""

    async def settled(self, name: str, n: int, timeout_s: float) -> Settled:
        _cannot(f"see {n} closes of {name} within {timeout_s:g} s")

    async def release(self, name: str) -> int:
        """Nothing of any link is held."""
        return 0

    async def drained(self, name: str, timeout_s: float) -> bool:
        """Nothing of any link is ever on its way."""
        return True

    async def quiet(self, name: str, timeout_s: float) -> bool:
        _cannot(f"see within {timeout_s:g} s whether {name} is quiet")

    def listen(self) -> socket.socket:
        return socket.create_server((self.bind_host, 0), backlog=BACKLOG)

    def tell_kernel(self, setting: str, value: str) -> None:
        _cannot(f"set {setting} to {value}")

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(argv, **options)


def _cannot(what: str) -> NoReturn:
    raise UnsupportedError(f"loopback cannot {what}: there is nothing in between; use the relay or netns wire")
