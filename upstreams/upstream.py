"""What the connections of one lab upstream share, whichever listener they came by, and the stall that hits them all."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from upstreams.options import Behaviour
from upstreams.recorder import UPSTREAM_STALLED, Recorder

if TYPE_CHECKING:
    from upstreams.connection import LabConnection


@dataclass
class Upstream:
    """The behaviour, the evidence and the open connections of one process."""

    behaviour: Behaviour
    recorder: Recorder
    random: Random
    connections: set[LabConnection] = field(default_factory=set)

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

    async def drain(self) -> None:
        """Closes every connection. Each is lost within one turn of the loop."""
        for connection in list(self.connections):
            connection.drain()
        while self.connections:
            await asyncio.sleep(0)
