"""The instrument tried by itself, before the run: requests straight through the wire to the upstream, without a proxy.

Each goes on a connection that has just carried its first answer, so there is no race to lose. What is lost, late or
early here is the doing of client, wire or upstream, and would have been laid at the door of a proxy.
"""

from __future__ import annotations

import asyncio
from time import monotonic_ns

from lab.processes import Address
from lab.workload import Client, finished, until
from proxy.events import EventLog, Kind

DIRECT = Kind("client.direct", ("req_id", "intended_ns", "sent_ns", "done_ns", "outcome", "status"))

LINK = "direct"
REQUESTS = 60
# Twice as fast as a burst of aimed requests (`lab.aim.PACE_NS`): the client must not be the limit.
PACE_NS = 75_000
ANSWER_WITHIN_S = 8.0


async def try_directly(address: Address, log: EventLog) -> None:
    """Sends them, and writes down what became of each. `address` leads to the upstream itself."""
    loop = asyncio.get_running_loop()
    opened = await asyncio.gather(*(loop.create_connection(Client, *address) for _ in range(REQUESTS)))
    clients = [client for _, client in opened]
    first = [client.send(f"direct.{number}.first", "GET", "/direct") for number, client in enumerate(clients)]
    await finished(first, clients, ANSWER_WITHIN_S)
    start = monotonic_ns()
    calls = []
    for number, client in enumerate(clients):
        moment = start + number * PACE_NS
        await until(moment)
        calls.append(client.send(f"direct.{number}", "GET", "/direct", moment))
    await finished(calls, clients, ANSWER_WITHIN_S)
    for call, client in zip(calls, clients, strict=True):
        client.close()
        log.emit(DIRECT, "", 0, call.req_id, call.intended_ns, call.sent_ns, call.done_ns, call.outcome, call.status)
