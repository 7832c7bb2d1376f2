"""What the run cost the process that made the load, and what the machine did to it meanwhile."""

from __future__ import annotations

import time

from lab.machine import processor_ticks, segments_sent_again
from proxy.events import EventLog, Kind

GENERATOR = Kind("client.generator", ("cpu_s", "wall_s", "stolen", "sent_again"))
"""`stolen`: the share of all processor time that the hypervisor gave to others. `sent_again`: segments of TCP, in the
whole of this network namespace. None where the kernel does not tell."""


class Watch:
    """Counts from when it is made until `write`."""

    def __init__(self) -> None:
        self._cpu_s, self._wall_s = time.process_time(), time.monotonic()
        self._ticks, self._sent_again = processor_ticks(), segments_sent_again()

    def __repr__(self) -> str:
        return f"<Watch for {time.monotonic() - self._wall_s:.1f} s>"

    def write(self, log: EventLog) -> None:
        ticks, again = processor_ticks(), segments_sent_again()
        stolen = None
        if self._ticks is not None and ticks is not None and ticks[0] > self._ticks[0]:
            stolen = (ticks[1] - self._ticks[1]) / (ticks[0] - self._ticks[0])
        sent_again = None if self._sent_again is None or again is None else again - self._sent_again
        cpu_s, wall_s = time.process_time() - self._cpu_s, max(time.monotonic() - self._wall_s, 1e-9)
        log.emit(GENERATOR, "", 0, cpu_s, wall_s, stolen, sent_again)
