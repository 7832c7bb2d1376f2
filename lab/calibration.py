"""When does this upstream really close? Measured, never computed: servers close late, on a tick, or early.

Connections go straight through the wire to the upstream, without the proxy. Both the answer and the close travel the
same way, so the difference of their arrivals is the upstream's own idle age, whatever the delay.
"""

from __future__ import annotations

import asyncio
from time import monotonic_ns
from typing import cast

from lab.plan import Calibration
from lab.processes import Address

CONNECTIONS = 10
# Idle timeouts that a server checks on a tick differ by when they started; so the starts are spread.
SPREAD_S = 1.0
# How much later than told a server may close before it counts as not closing. Node adds 1 s, gunicorn up to 1 s.
GRACE_S = 3.5


class _Probe(asyncio.Protocol):
    """One request, then silence until the upstream closes."""

    def __init__(self) -> None:
        self.sent_ns = 0
        self.answered_ns = 0
        self.closed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def ask(self, number: int) -> None:
        assert self._transport is not None
        self.sent_ns = monotonic_ns()
        self._transport.write(f"GET / HTTP/1.1\r\nHost: lab\r\nX-Request-Id: calibration.{number}\r\n\r\n".encode())

    def data_received(self, _data: bytes) -> None:
        self.answered_ns = monotonic_ns()

    def eof_received(self) -> None:
        self._end()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self.closed.done():
            self.closed.set_result(monotonic_ns())


async def calibrate(address: Address, keep_alive_s: float, *, spread_s: float = SPREAD_S) -> Calibration:
    """Measures idle ages at the close and answer times. Connections that were not closed in time are left out."""
    probes = await asyncio.gather(
        *(_one(address, number, number * spread_s / CONNECTIONS, keep_alive_s) for number in range(CONNECTIONS))
    )
    closed = [probe for probe in probes if probe.closed.done() and not probe.closed.cancelled()]
    return Calibration(
        close_ms=tuple((probe.closed.result() - probe.answered_ns) / 1e6 for probe in closed),
        answer_ms=tuple((probe.answered_ns - probe.sent_ns) / 1e6 for probe in probes if probe.answered_ns),
    )


async def _one(address: Address, number: int, start_after_s: float, keep_alive_s: float) -> _Probe:
    await asyncio.sleep(start_after_s)
    transport, probe = await asyncio.get_running_loop().create_connection(_Probe, *address)
    probe.ask(number)
    await asyncio.wait([probe.closed], timeout=keep_alive_s + GRACE_S)
    if not probe.closed.done():
        probe.closed.cancel()
    transport.abort()
    return probe
