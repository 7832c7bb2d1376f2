"""Traffic: an open model of requests at random moments, over as many client connections as it takes.

Rules of this file:

- A request goes when it is due, whatever became of those before. The moments are drawn from the run's seed.
- Every request is a trial. What happens meanwhile is the stage's; whether a request met it, the wire's log says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random

from lab.lane import ANSWER_WITHIN_S, Lane
from lab.model import Traffic
from lab.processes import Address
from lab.stage import Stage
from lab.workload import Call, Client, connect, finished, until

# Connections that are open before the first request; more are opened when all are busy.
CLIENTS = 8
# A request counts as sent while a member closed from so many round trips before it was told to until so many after.
BEFORE, AFTER = 1.5, 4.0


class Crowd:
    """Client connections that take turns, the last used first; one request at a time on each."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._free: list[Client] = []
        self._all: list[Client] = []

    def __repr__(self) -> str:
        return f"<Crowd, {len(self._free)} of {len(self._all)} free>"

    async def open(self, n: int) -> None:
        clients = await connect(self._address, n)
        self._free += clients
        self._all += clients

    async def take(self) -> Client:
        """One that is free and open; a new one if there is none."""
        while self._free:
            client = self._free.pop()
            if client.is_open:
                return client
        await self.open(1)
        return self._free.pop()

    def give_back(self, client: Client) -> None:
        self._free.append(client)

    def close(self) -> None:
        for client in self._all:
            client.close()


async def run_traffic(lane: Lane, block: int) -> None:
    """One block: all requests of a lane, and what happens while they flow."""
    traffic, stage = lane.lane.traffic, lane.stage
    assert traffic is not None
    assert stage is not None
    random = lane.random(block)
    offsets = list(arrivals(traffic, lane.plan.setup.trials, random))
    crowd = Crowd(lane.address)
    await crowd.open(CLIENTS)
    acting = await stage.begin(block, offsets[-1])
    sending: list[asyncio.Task[tuple[Call, Client, float]]] = []
    for number, offset in enumerate(offsets):
        due = stage.start_ns + offset
        await until(due)
        target = _target(traffic, random)
        sending.append(asyncio.create_task(_send(lane, crowd, block, number, target, due)))
    sent = await asyncio.gather(*sending)
    await finished([call for call, _, _ in sent], [client for _, client, _ in sent], ANSWER_WITHIN_S)
    for call, _, gap_ms in sent:
        lane.log_trial(call, block, armed=_is_near(call, stage, lane.lane.rtt_ms), gap_ms=gap_ms)
    lane.log_round(block)
    crowd.close()
    await stage.end(acting)


def arrivals(traffic: Traffic, n: int, random: Random) -> Iterator[int]:
    """When each of `n` requests is due, ns from the start: a Poisson process."""
    rate = traffic.rate * (traffic.members if traffic.apart else 1)
    moment_s = 0.0
    for _ in range(n):
        moment_s += random.expovariate(rate)
        yield int(moment_s * 1e9)


def _target(traffic: Traffic, random: Random) -> str:
    path = f"/{random.randrange(traffic.members)}" if traffic.apart else "/"
    return f"{path}?delay={traffic.answer_ms:g}ms" if traffic.answer_ms else path


async def _send(lane: Lane, crowd: Crowd, block: int, number: int, target: str, due: int) -> tuple[Call, Client, float]:
    """Sends one request now, and gives its connection back when it is done. Returns the idle time of that, in ms."""
    client = await crowd.take()
    call = lane.send(client, block, number, target, due)
    gap_ms = (call.sent_ns - client.answered_ns) / 1e6 if client.answered_ns else 0.0
    call.done.add_done_callback(lambda _: crowd.give_back(client))
    return call, client, gap_ms


def _is_near(call: Call, stage: Stage, rtt_ms: float) -> bool:
    """Whether it was sent while a member closed; where nothing is made to happen, every request counts."""
    if not stage.acts:
        return True
    if stage.closing_ns is None:
        return False
    return -BEFORE * rtt_ms <= (call.sent_ns - stage.closing_ns) / 1e6 <= AFTER * rtt_ms
