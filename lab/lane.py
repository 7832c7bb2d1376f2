"""One lane at work: its rounds, from priming to the last outcome, all written to the client's log.

A round has the same five steps whatever it aims at: open client connections, prime (each takes an upstream connection
of its own), wait for the moment, fire, gather. `lab.aim` holds what differs: the moment.

Priming sends all requests at once with a delayed answer, so that no two can share an upstream connection. Where a
connection must have carried several answers, it does so as often; the last of these requests is the one that counts.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from lab.model import Outcome
from lab.plan import LanePlan, Plan
from lab.processes import Address, Child
from lab.sabotage import throttle_s
from lab.stage import Stage
from lab.wire import Wire
from lab.workload import Call, Client, connect, finished
from proxy.events import EventLog, Kind

PRIMED = Kind("client.primed", ("req_id", "arm", "method", "block", "sent_ns", "done_ns", "outcome", "status"))
STEADY = Kind("client.steady", ("req_id", "arm", "method", "sent_ns", "done_ns", "outcome", "status"))
ROUND = Kind("client.round", ("arm", "method", "block", "planned", "primed", "held", "closed_by_proxy"))
TRIAL = Kind(
    "client.trial",
    (
        "req_id",
        "arm",
        "method",
        "block",
        "armed",
        "gap_ms",
        "intended_ns",
        "sent_ns",
        "first_ns",
        "done_ns",
        "outcome",
        "status",
        "cause",
    ),
)

ANSWER_WITHIN_S = 8.0
STEADY_REQUESTS = 6


@dataclass
class Shot:
    """A primed client connection and the request that it will send."""

    client: Client
    primed: Call
    call: Call | None = None


class Lane:
    """One arm with one method: its proxy, its link, its share of the client's log."""

    def __init__(
        self,
        plan: Plan,
        lane: LanePlan,
        proxy: Child,
        upstream: Child | None,
        address: Address,
        wire: Wire,
        log: EventLog,
    ) -> None:
        self.plan = plan
        self.lane = lane
        self.proxy = proxy
        self.upstream = upstream  # other lanes may have the same, unless this one stops it; None: the stage has them
        self.wire = wire
        self.stage: Stage | None = None
        self.address = address
        self._log = log
        self._throttle_s = throttle_s(plan.setup.sabotage)

    def __repr__(self) -> str:
        return f"<Lane {self.lane.name}, {self.lane.aim}>"

    @property
    def link(self) -> str:
        """The name of this lane's way through the wire."""
        return self.lane.name

    def random(self, block: int) -> random.Random:
        """This round's own stream of random numbers, derived from the run's seed."""
        return random.Random(f"{self.plan.setup.seed}/{self.lane.name}/{block}")

    async def prime(self, block: int) -> list[Shot]:
        """Gives each of the round's client connections its answered requests, all upstream at the same time."""
        n = self.plan.setup.trials
        clients = await connect(self.address, n)
        target = f"/prime?delay={300 + n}ms"
        calls: list[Call] = []
        for left in reversed(range(self.lane.primes)):
            name = f"prime.{left}" if left else "prime"
            ids = [f"{self.lane.name}.{block}.{i}.{name}" for i in range(n)]
            calls = [client.send(req_id, "GET", target) for client, req_id in zip(clients, ids, strict=True)]
            await finished(calls, clients, ANSWER_WITHIN_S)
            for call in calls:
                self._emit(PRIMED, call, block)
        return [Shot(client, call) for client, call in zip(clients, calls, strict=True)]

    async def steady(self) -> None:
        """A few requests one after the other: what this configuration costs when nothing goes wrong."""
        clients = await connect(self.address, 1)
        for i in range(STEADY_REQUESTS):
            call = clients[0].send(f"{self.lane.name}.steady.{i}", self.lane.method, "/steady")
            await finished([call], clients, ANSWER_WITHIN_S)
            self._log.emit(
                STEADY,
                "",
                0,
                call.req_id,
                self.lane.arm,
                self.lane.method,
                call.sent_ns,
                call.done_ns,
                call.outcome,
                call.status,
            )
        clients[0].close()

    def fire(
        self, shot: Shot, block: int, number: int, target: str, intended_ns: int | None = None, held_back: int = 0
    ) -> Call:
        """Sends one aimed request now, but for its last `held_back` bytes."""
        shot.call = self.send(shot.client, block, number, target, intended_ns, held_back)
        return shot.call

    def send(
        self,
        client: Client,
        block: int,
        number: int,
        target: str,
        intended_ns: int | None = None,
        held_back: int = 0,
    ) -> Call:
        """Sends one of the round's requests now."""
        if self._throttle_s:
            time.sleep(self._throttle_s)
        req_id = f"{self.lane.name}.{block}.{number}"
        return client.send(req_id, self.lane.method, target, intended_ns, held_back, self.lane.body)

    async def gather(self, block: int, shots: Sequence[Shot], *, armed: bool, held: int, closed_by_proxy: int) -> None:
        """Waits for every outcome and writes the round down."""
        fired = [(shot.call, shot.client) for shot in shots if shot.call is not None]
        await finished([call for call, _ in fired], [client for _, client in fired], ANSWER_WITHIN_S)
        for shot in shots:
            if shot.call is not None:
                gap_ms = (shot.call.sent_ns - shot.primed.done_ns) / 1e6
                self.log_trial(shot.call, block, armed=armed, gap_ms=gap_ms)
            shot.client.close()
        primed = sum(shot.primed.outcome is Outcome.ANSWERED and shot.primed.status == 200 for shot in shots)
        self.log_round(block, primed, held, closed_by_proxy)

    def log_round(self, block: int, primed: int = 0, held: int = 0, closed_by_proxy: int = 0) -> None:
        """Writes down that a round is over."""
        planned = self.plan.setup.trials
        arm, method = self.lane.arm, self.lane.method
        self._log.emit(ROUND, "", 0, arm, method, block, planned, primed, held, closed_by_proxy)

    def log_trial(self, call: Call, block: int, *, armed: bool, gap_ms: float) -> None:
        """Writes down what became of one request. `gap_ms`: how long its client connection had been idle."""
        self._log.emit(
            TRIAL,
            "",
            0,
            call.req_id,
            self.lane.arm,
            self.lane.method,
            block,
            armed,
            gap_ms,
            call.intended_ns,
            call.sent_ns,
            call.first_ns or None,
            call.done_ns,
            call.outcome,
            call.status,
            call.cause,
        )

    def _emit(self, kind: Kind, call: Call, block: int) -> None:
        arm, method = self.lane.arm, self.lane.method
        self._log.emit(
            kind, "", 0, call.req_id, arm, method, block, call.sent_ns, call.done_ns, call.outcome, call.status
        )
