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

CONNECTIONS = 16
# Idle timeouts that a server checks on a tick differ by when they started, and a moment in which this process was late
# must not spoil all: so the starts are spread.
SPREAD_S = 1.0
# The lab upstream has no tick.
LAB_SPREAD_S = 0.4
# An answer that took this much longer than the fastest was stamped late, and the idle age taken from it is too short.
LATE_MS = 2.0
# How much later than told a server may close before it counts as not closing. Node adds 1 s, gunicorn up to 1 s.
GRACE_S = 3.5


class _Probe(asyncio.Protocol):
    """One request, then silence until the upstream closes."""

    def __init__(self) -> None:
        self.sent_ns = 0
        self.answered_ns = 0
        self.closed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None

    @property
    def answer_ms(self) -> float:
        return (self.answered_ns - self.sent_ns) / 1e6

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
    """Measures idle ages at the close and answer times.

    Left out are connections that were not closed in time, and those whose answer was stamped late.
    """
    probes = await asyncio.gather(
        *(_one(address, number, number * spread_s / CONNECTIONS, keep_alive_s) for number in range(CONNECTIONS))
    )
    answered = [probe for probe in probes if probe.answered_ns]
    fastest_ms = min((probe.answer_ms for probe in answered), default=0.0)
    closed = [probe for probe in answered if not probe.closed.cancelled() and probe.answer_ms < fastest_ms + LATE_MS]
    return Calibration(
        close_ms=tuple((probe.closed.result() - probe.answered_ns) / 1e6 for probe in closed),
        answer_ms=tuple(probe.answer_ms for probe in answered),
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
