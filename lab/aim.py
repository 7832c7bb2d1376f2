"""Which instant to hit: one function per `Aim`, each running the middle of a round.

Rules of this file:

- Aim by event where the wire can tell it (held FINs), by measured offset where it cannot, never by bare sleep.
- Nothing here decides whether an aim was good: the wire's log does, trial by trial.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic_ns

from lab.box import SWEEP_FROM, SWEEP_TO
from lab.lane import Lane, Shot
from lab.model import Aim, Expect
from lab.plan import GATED
from lab.traffic import run_traffic
from lab.workload import until

# Between two requests of one burst, so that they do not queue in the client.
PACE_NS = 150_000

# How long before and after the upstream's idle timeout it is stopped, and when the requests are sent.
FREEZE_BEFORE_NS = 400_000_000
FIRE_BEFORE_NS = 350_000_000
THAW_AFTER_NS = 100_000_000
ELSEWHERE_SPREAD = 0.1  # of the idle timeout, over which shots far from the close are spread

SETTLE_SLACK_S = 3.0
DRAIN_WITHIN_S = 3.0
POLL_S = 0.001
LEFT_WITHIN_NS = 1_000_000_000
QUIET_SLACK_S = 4.0
LOOPBACK_SLACK_S = 0.5


async def run_round(lane: Lane, block: int) -> None:
    """One whole round of a lane: prime, wait for the moment, fire, gather, and leave no connection behind."""
    if lane.lane.aim is Aim.TRAFFIC:
        await run_traffic(lane, block)
        if block == lane.plan.setup.blocks - 1:
            await lane.steady()
        return
    gated = lane.lane.aim in GATED
    if gated:
        await lane.wire.gate(lane.link, True)
        await lane.wire.mark(lane.link)
    shots = await lane.prime(block)
    await _AIMS[lane.lane.aim](lane, block, shots)
    if gated:
        await lane.wire.gate(lane.link, False)
        await lane.wire.release(lane.link)
    if block == lane.plan.setup.blocks - 1:
        await lane.steady()
    else:
        await _wait_out_the_pool(lane)


async def _wait_out_the_pool(lane: Lane) -> None:
    """The next round must find no connection of this one. A loopback sees none, so there it is a matter of time."""
    if lane.wire.make == "loopback":
        await asyncio.sleep(_idle_s(lane) + LOOPBACK_SLACK_S)
    else:
        await lane.wire.quiet(lane.link, _idle_s(lane) + QUIET_SLACK_S)


async def _held_fin(lane: Lane, block: int, shots: Sequence[Shot]) -> None:
    settled = await lane.wire.settled(lane.link, len(shots), _idle_s(lane) + SETTLE_SLACK_S)
    start = monotonic_ns()
    for i, shot in enumerate(shots):
        moment = start + i * PACE_NS
        await until(moment)
        lane.fire(shot, block, i, "/", moment)
    armed = settled.held + settled.closed_by_proxy >= len(shots)
    await lane.gather(block, shots, armed=armed, held=settled.held, closed_by_proxy=settled.closed_by_proxy)


async def _gaps(lane: Lane, block: int, shots: Sequence[Shot]) -> None:
    """Each shot at its own idle gap. The answers are delayed, so that no connection comes back into the sweep."""
    offsets = sweep_offsets(lane, block, len(shots))
    close_ms = lane.plan.calibration.middle
    due = sorted(
        (shot.primed.done_ns + int((close_ms + offset) * 1e6), i)
        for i, (shot, offset) in enumerate(zip(shots, offsets, strict=True))
    )
    for moment, i in due:
        await until(moment)
        lane.fire(shots[i], block, i, "/?delay=300ms", moment)
    await lane.gather(block, shots, armed=True, held=0, closed_by_proxy=0)


def sweep_offsets(lane: Lane, block: int, n: int) -> list[float]:
    """`n` offsets from the close in ms, evenly spread over the window and its surroundings, with seeded jitter.

    Where a blind shot stands in for a held FIN, only the middle of the window is aimed at.
    """
    width = lane.lane.window_ms
    random = lane.random(block)
    stands_in = lane.plan.setup.wire == "loopback" and not lane.lane.prevents and lane.lane.expect is not Expect.BOX
    if stands_in:
        low, high = -0.8 * width, -0.3 * width
    else:
        low, high = -SWEEP_FROM * width, SWEEP_TO * width
    step = (high - low) / n
    return [low + (i + random.random()) * step for i in range(n)]


async def _stalled_proxy(lane: Lane, block: int, shots: Sequence[Shot]) -> None:
    """Stops the proxy, fills its client sockets with requests, then its upstream sockets with FINs, and wakes it.

    The requests became readable first, so its event loop comes to them first, as a late loop would.
    """
    settled = await lane.wire.settled(lane.link, len(shots), _idle_s(lane) + SETTLE_SLACK_S)
    lane.proxy.signal(signal.SIGSTOP)
    try:
        start = monotonic_ns()
        for i, shot in enumerate(shots):
            lane.fire(shot, block, i, "/", start)
        await lane.wire.release(lane.link)
        await lane.wire.drained(lane.link, DRAIN_WITHIN_S)
    finally:
        lane.proxy.signal(signal.SIGCONT)
    armed = settled.held >= len(shots)
    await lane.gather(block, shots, armed=armed, held=settled.held, closed_by_proxy=settled.closed_by_proxy)


async def _late_reader(lane: Lane, block: int, shots: Sequence[Shot]) -> None:
    """Each request crosses the FIN that it sets free; the proxy stands from then until the resets are there too."""
    await _stand_after_firing(lane, block, shots, held_back=0)


async def _late_writer(lane: Lane, block: int, shots: Sequence[Shot]) -> None:
    """The same, with the last byte of each body held back until the proxy stands: that comes first when it wakes."""
    await _stand_after_firing(lane, block, shots, held_back=1)


async def _stand_after_firing(lane: Lane, block: int, shots: Sequence[Shot], held_back: int) -> None:
    settled = await lane.wire.settled(lane.link, len(shots), _idle_s(lane) + SETTLE_SLACK_S)
    start = monotonic_ns()
    for i, shot in enumerate(shots):
        lane.fire(shot, block, i, "/", start, held_back=held_back)
    try:
        while (await lane.wire.settled(lane.link, 0, 0)).held and monotonic_ns() < start + LEFT_WITHIN_NS:
            await asyncio.sleep(POLL_S)  # until every request has left, and with it its FIN: it arrives a delay later
        lane.proxy.signal(signal.SIGSTOP)
        for shot in shots:
            shot.client.send_rest()
        await lane.wire.drained(lane.link, DRAIN_WITHIN_S)
    finally:
        lane.proxy.signal(signal.SIGCONT)
    armed = settled.held >= len(shots)
    await lane.gather(block, shots, armed=armed, held=settled.held, closed_by_proxy=settled.closed_by_proxy)


async def _crash(lane: Lane, block: int, shots: Sequence[Shot]) -> None:
    """No idle close: the upstream executes each request and dies before it answers."""
    start = monotonic_ns()
    for i, shot in enumerate(shots):
        moment = start + i * PACE_NS
        await until(moment)
        lane.fire(shot, block, i, "/crash", moment)
    await lane.gather(block, shots, armed=True, held=0, closed_by_proxy=0)


async def _frozen_upstream(lane: Lane, block: int, shots: Sequence[Shot]) -> None:
    """The upstream is stopped from before its first timeout until after its last; the requests come in between.

    When it wakes, its timers are due and its sockets are readable. Loops that run timers first close with the request
    unread, and Linux sends RST.
    """
    assert lane.upstream is not None
    close_ns = int(_idle_s(lane) * 1e9)
    first, last = (choose(shot.primed.done_ns for shot in shots) + close_ns for choose in (min, max))
    await until(first - FREEZE_BEFORE_NS)
    lane.upstream.signal(signal.SIGSTOP)
    try:
        await until(first - FIRE_BEFORE_NS)
        for i, shot in enumerate(shots):
            moment = first - FIRE_BEFORE_NS + i * PACE_NS
            await until(moment)
            lane.fire(shot, block, i, "/", moment)
        await until(last + THAW_AFTER_NS)
    finally:
        lane.upstream.signal(signal.SIGCONT)
    await lane.gather(block, shots, armed=True, held=0, closed_by_proxy=0)


async def _elsewhere(lane: Lane, block: int, shots: Sequence[Shot]) -> None:
    """Each shot at about the same idle age, where no close is. The answers are delayed as in a sweep."""
    spread_ns = int(ELSEWHERE_SPREAD * _idle_s(lane) * 1e9 / len(shots))
    for i, shot in enumerate(shots):
        moment = shot.primed.done_ns + int(lane.lane.at * _idle_s(lane) * 1e9) + i * spread_ns
        await until(moment)
        lane.fire(shot, block, i, "/?delay=300ms", moment)
    await lane.gather(block, shots, armed=True, held=0, closed_by_proxy=0)


async def _forgotten(lane: Lane, block: int, shots: Sequence[Shot]) -> None:
    """Long after the wire has forgotten what was silent. Only time tells of that, and the wire's log afterwards.

    The answers are delayed as in a sweep.
    """
    for i, shot in enumerate(shots):
        moment = shot.primed.done_ns + int(lane.lane.at * lane.lane.forget_ms * 1e6) + i * PACE_NS
        await until(moment)
        lane.fire(shot, block, i, "/?delay=300ms", moment)
    await lane.gather(block, shots, armed=True, held=0, closed_by_proxy=0)


def _idle_s(lane: Lane) -> float:
    return lane.plan.calibration.high / 1000


_AIMS: dict[Aim, Callable[[Lane, int, Sequence[Shot]], Awaitable[None]]] = {
    Aim.HELD_FIN: _held_fin,
    Aim.GAPS: _gaps,
    Aim.STALLED_PROXY: _stalled_proxy,
    Aim.CRASH: _crash,
    Aim.FROZEN_UPSTREAM: _frozen_upstream,
    Aim.ELSEWHERE: _elsewhere,
    Aim.FORGOTTEN: _forgotten,
    Aim.LATE_READER: _late_reader,
    Aim.LATE_WRITER: _late_writer,
}
