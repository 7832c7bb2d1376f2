"""What the connections of one lab upstream share, whichever listener they came by, and the stall that hits them all."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from random import Random
from typing import TYPE_CHECKING

from upstreams.options import Behaviour
from upstreams.recorder import UPSTREAM_RETIRED, UPSTREAM_STALLED, Recorder

if TYPE_CHECKING:
    from upstreams.connection import LabConnection


@dataclass
class Upstream:
    """The behaviour, the evidence and the open connections of one process."""

    behaviour: Behaviour
    recorder: Recorder
    random: Random
    connections: set[LabConnection] = field(default_factory=set)
    answers: int = 0
    _last: asyncio.Event | None = None

    def stall(self, first: LabConnection) -> None:
        """Blocks the loop until the idle deadline of `first`, then closes what is due before anything is read.

        One stall covers the connections whose deadlines lie within its length of the first; it lasts until the latest
        of these. What arrived meanwhile stays unread in the kernel, which therefore answers the close by RST.
        """
        began_s = time.monotonic()
        latest_s = first.idle_until_s + self.behaviour.stall_s
        due = [c for c in self.connections if c.is_idle and c.idle_until_s <= latest_s]
        time.sleep(max(0.0, max(c.idle_until_s for c in due) - began_s))
        stall_ms = (time.monotonic() - began_s) * 1000
        self.recorder.emit(UPSTREAM_STALLED, "", 0, stall_ms, len(due))
        for connection in due:
            connection.close_idle()

    def answered(self) -> None:
        """Counts answers, and recycles when it is time."""
        self.answers += 1
        if self.behaviour.recycle and self.answers % self.behaviour.recycle == 0:
            self.retire("recycled")

    def retire(self, reason: str) -> list[LabConnection]:
        """Begins to drain the connections that there are, and returns them; new ones are served on."""
        leaving = list(self.connections)
        self.recorder.emit(UPSTREAM_RETIRED, "", 0, reason, len(leaving), sum(c.is_idle for c in leaving))
        for connection in leaving:
            connection.retire(reason, self.behaviour.drain)
        if self.behaviour.drain == "notice" and self.behaviour.drain_for_s < inf:
            asyncio.get_running_loop().call_later(self.behaviour.drain_for_s, _close_idle_of, leaving, reason)
        return leaving

    async def drain(self) -> None:
        """Drains every connection, at most as long as that may take; what is left then is cut."""
        self.retire("drained")
        longest_s = self.behaviour.drain_for_s
        with suppress(TimeoutError):
            await asyncio.wait_for(self._emptied(), None if longest_s == inf else longest_s)
        for connection in list(self.connections):
            connection.cut("drained")
        await self._emptied()

    def lost(self, connection: LabConnection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        if not self.connections and self._last is not None:
            self._last.set()

    async def _emptied(self) -> None:
        self._last = asyncio.Event()
        if self.connections:
            await self._last.wait()


def _close_idle_of(connections: list[LabConnection], reason: str) -> None:
    for connection in connections:
        connection.retire(reason, "idle")
