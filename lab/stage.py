"""The upstreams behind lanes with traffic, and what happens to them: some leave, others take their place.

Lanes whose upstreams are told the same and have the same happen to them share one stage, so that all of them live
through the very same moment; each has its own proxy and its own links.

Rules of this file:

- What happens is declared (`Arm.acts`); here is only how. Each act is logged with when it began and ended, and whether
  it succeeded, and a run in which one did not is no experiment.
- A block begins and ends with as many members as were asked for.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic_ns

import msgspec

from lab.model import CLOSING, LISTED, Act
from lab.plan import LanePlan, link_of
from lab.processes import Child
from lab.upstreams import Upstreams
from lab.wire import Wire
from lab.wire.contract import Address
from lab.workload import until
from proxy.events import EventLog, Kind

ACT = Kind("client.act", ("stage", "block", "act", "began_ns", "ended_ns", "done"))

# When the first act begins, and when the upstream closes at the earliest, in the length of the traffic.
BEGIN_AT, CLOSE_AT, MIGRATE_AT = 0.25, 0.5, 0.75
LATER_S = 0.5
QUIET_WITHIN_S = 5.0
ENDS_WITHIN_S = 15.0
AHEAD_NS = 50_000_000
BEFOREHAND = (Act.SUCCEED, Act.SHARE, Act.JOIN)
MIGRATE = "net.ipv4.tcp_migrate_req"


@dataclass
class Member:
    """One upstream address, and the process that answers there."""

    number: int
    port: int
    child: Child
    listener: socket.socket | None = None
    """The socket that it has inherited, and a successor will; None where it has one of its own."""
    withdrawn: bool = False
    gone: bool = False


class Stage:
    """The upstreams of some lanes. See the rules of this file."""

    def __init__(
        self, lanes: Sequence[LanePlan], wire: Wire, upstreams: Upstreams, folder: Path, log: EventLog
    ) -> None:
        first = lanes[0]
        assert first.traffic is not None
        self.name = first.stage
        self.start_ns = 0
        """When the traffic of this block begins, for all lanes at once."""
        self.closing_ns: int | None = None
        """When a member was told to end in this block."""
        self._lanes = lanes
        self._traffic = first.traffic
        self._acts = first.acts
        self._told = first.upstream
        self._wire = wire
        self._upstreams = upstreams
        self._folder = folder
        self._log = log
        self._members: list[Member] = []
        self._dials: dict[tuple[str, int], Address] = {}
        self._started = 0
        self._listeners: list[socket.socket] = []
        self._meeting = asyncio.Barrier(len(lanes))

    def __repr__(self) -> str:
        return f"<Stage {self.name}, {len(self._members)} members, {len(self._lanes)} lanes>"

    @property
    def acts(self) -> bool:
        return bool(self._acts)

    async def open(self) -> None:
        """Starts the members, and makes every lane's links to them."""
        await self._fill()

    def close(self) -> None:
        """Closes the sockets that members have inherited."""
        for listener in self._listeners:
            listener.close()

    def dials(self, lane: LanePlan) -> list[Address]:
        """What this lane's proxy dials."""
        return [self._dials[lane.name, member.number] for member in self._members]

    def endpoints(self, lane: LanePlan) -> Path | None:
        """The file by which this lane's proxy learns of its upstreams; None: by its configuration."""
        if not any(act in LISTED for act in self._acts):
            return None
        return self._folder / "logs" / f"endpoints-{lane.name}.json"

    # -- one block -------------------------------------------------------------------------------

    async def begin(self, block: int, length_ns: int) -> asyncio.Task[None] | None:
        """Waits for all lanes; then their traffic begins. The lane that gets a task waits for it after its traffic."""
        chief = await self._meeting.wait() == 0
        if chief:
            await self._prepare(block)
        await self._meeting.wait()
        return asyncio.create_task(self._act(block, length_ns)) if chief else None

    async def end(self, acting: asyncio.Task[None] | None) -> None:
        """Waits for all lanes, and makes the stage ready for the next block."""
        if acting is not None:
            await acting
        chief = await self._meeting.wait() == 0
        if chief:
            if Act.MIGRATE in self._acts:
                self._wire.tell_kernel(MIGRATE, "0")
            await self._clear()
            await self._fill()
        await self._meeting.wait()

    async def _prepare(self, block: int) -> None:
        self.closing_ns = None
        for act in self._acts:
            if act in BEFOREHAND:
                await self._do(act, block)
        self.start_ns = monotonic_ns() + AHEAD_NS

    async def _act(self, block: int, length_ns: int) -> None:
        await until(self.start_ns + int(BEGIN_AT * length_ns))
        for act in self._acts:
            if act in BEFOREHAND:
                continue
            if act is Act.MIGRATE:
                await until(self.start_ns + int(MIGRATE_AT * length_ns))
            if act in CLOSING:
                await until(self.start_ns + int(CLOSE_AT * length_ns))
            await self._do(act, block)

    async def _do(self, act: Act, block: int) -> None:
        began_ns = monotonic_ns()
        done = await _ACTS[act](self, self._members[0])
        self._log.emit(ACT, "", 0, self.name, block, act, began_ns, monotonic_ns(), done)

    # -- the acts --------------------------------------------------------------------------------

    async def _succeed(self, leaver: Member) -> bool:
        self._members.insert(1, await self._start(leaver.number, leaver.listener))
        return True

    async def _share(self, leaver: Member) -> bool:
        self._members.insert(1, await self._start(leaver.number, None, leaver.port))
        return True

    async def _migrate(self, _: Member) -> bool:
        self._wire.tell_kernel(MIGRATE, "1")
        return True

    async def _join(self, _: Member) -> bool:
        await self._add()
        self._list()
        return True

    async def _withdraw(self, leaver: Member) -> bool:
        leaver.withdrawn = True
        self._list()
        return True

    async def _quiet(self, leaver: Member) -> bool:
        links = [link_of(lane.name, leaver.number) for lane in self._lanes]
        return all(await asyncio.gather(*(self._wire.quiet(link, QUIET_WITHIN_S) for link in links)))

    async def _terminate(self, leaver: Member) -> bool:
        return self._dismiss(leaver, signal.SIGTERM)

    async def _kill(self, leaver: Member) -> bool:
        return self._dismiss(leaver, signal.SIGKILL)

    def _dismiss(self, leaver: Member, number: signal.Signals) -> bool:
        self.closing_ns = monotonic_ns()
        leaver.gone = self._upstreams.dismiss(leaver.child, number)
        return True

    async def _later(self, _: Member) -> bool:
        await asyncio.sleep(LATER_S)
        return True

    # -- the members -----------------------------------------------------------------------------

    async def _fill(self) -> None:
        while len(self._members) < self._traffic.members:
            await self._add()
        self._list()

    async def _clear(self) -> None:
        """Waits for those that were told to end, so that their logs are whole, and forgets them."""
        for member in self._members:
            if member.gone:
                await member.child.ended(ENDS_WITHIN_S)
        self._members = [member for member in self._members if not member.gone]

    async def _add(self) -> None:
        number = self._started
        member = await self._start(number, self._listen())
        for lane in self._lanes:
            link = link_of(lane.name, number)
            dial = await self._wire.link(link, member.port, delay_s=lane.rtt_ms / 2000, gate=False)
            self._dials[lane.name, number] = dial
        self._members.append(member)

    def _listen(self) -> socket.socket | None:
        if Act.SUCCEED not in self._acts:
            return None  # held open here, it would take connections that nobody accepts once the member is gone
        self._listeners.append(self._wire.listen())
        return self._listeners[-1]

    async def _start(self, number: int, listener: socket.socket | None, port: int = 0) -> Member:
        name, lane = f"{self.name}-{self._started}", self._lanes[0].name
        self._started += 1
        if self._traffic.apart:
            return Member(number, *await self._upstreams.serving(lane, self._told))
        killed = Act.KILL in self._acts
        on: socket.socket | int | None = port if Act.SHARE in self._acts else listener
        port, child = await self._upstreams.member(name, lane, self._told, on, killed=killed)
        return Member(number, port, child, listener)

    def _list(self) -> None:
        """Writes each lane's file of endpoints, elsewhere and then into place."""
        for lane in self._lanes:
            path = self.endpoints(lane)
            if path is None:
                continue
            slices = [_slice(self._dials[lane.name, m.number], m) for m in self._members]
            fresh = path.with_suffix(".new")
            fresh.write_bytes(msgspec.json.encode({"kind": "List", "items": slices}))
            fresh.rename(path)


def _slice(dial: Address, member: Member) -> dict[str, object]:
    """An EndpointSlice of one endpoint, as Kubernetes writes it when a pod begins to terminate."""
    serves = not member.withdrawn
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"member-{member.number}"},
        "addressType": "IPv4",
        "ports": [{"port": dial.port}],
        "endpoints": [
            {
                "addresses": [dial.host],
                "conditions": {"ready": serves, "serving": serves, "terminating": not serves},
            }
        ],
    }


_ACTS: dict[Act, Callable[[Stage, Member], Awaitable[bool]]] = {
    Act.SUCCEED: Stage._succeed,
    Act.SHARE: Stage._share,
    Act.MIGRATE: Stage._migrate,
    Act.JOIN: Stage._join,
    Act.WITHDRAW: Stage._withdraw,
    Act.QUIET: Stage._quiet,
    Act.TERMINATE: Stage._terminate,
    Act.KILL: Stage._kill,
    Act.LATER: Stage._later,
}
