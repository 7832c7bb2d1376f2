"""The delay line: what enters is due one link delay later, unless the gate holds it. Both makes are built on it.

Rules of this file:

- No sockets: a make brings segments that carry the moment they came in, and is called with those that are due.
- Order within a flow's direction is kept: one heap, equal moments in order of entry.
- A make hands over what is due and reports the end of its way with `done`. Every segment that entered is reported
  exactly once; only then is it logged, with the moment it was handed over, or null.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from time import monotonic_ns

from lab.wire.contract import Settled
from lab.wire.flow import DATA, FIN, RST, Flow, Link, Segment, request_id
from lab.wire.flowlog import FlowLog
from lab.wire.gate import ReleasedBy
from lab.wire.lateness import Lateness

HandOver = Callable[[Segment], None]


class Line:
    """The segments on their way, the gates, and the counts of the links."""

    def __init__(self, log: FlowLog, hand_over: HandOver) -> None:
        self.log = log
        self.links: dict[str, Link] = {}
        self.lateness = Lateness()
        self._hand_over = hand_over
        self._way: list[tuple[int, int, Segment]] = []
        self._holds: list[tuple[int, int, Flow]] = []
        self._entered = 0

    def __repr__(self) -> str:
        return f"<Line, {len(self.links)} links, {len(self._way)} on their way>"

    def __len__(self) -> int:
        return len(self._way)

    # --- a make brings what it read ---

    def opened(self, flow: Flow) -> None:
        """The upstream has accepted; only from now can the gate hold its close. Repeated calls count once."""
        if not flow.opened:
            flow.opened = True
            flow.link.open += 1

    def ended(self, flow: Flow) -> None:
        """A connection is over. Repeated calls count once."""
        if flow.opened:
            flow.opened = False
            flow.link.open -= 1

    def enter(self, segment: Segment) -> None:
        """Sends a segment on its way, or lets it wait at the gate."""
        flow = segment.flow
        if flow is not None:
            closes = FIN in segment.flags or RST in segment.flags
            flow.link.on_its_way += 1
            if self._is_forgotten(flow, segment.t_in):
                self._drop(flow, segment, closes)
                return
            if segment.up:
                self._goes_up(flow, segment, closes)
            elif self._must_wait(flow, segment, closes):
                return
        self._send(segment)

    def _is_forgotten(self, flow: Flow, now: int) -> bool:
        """Whether this link knows the connection no more. Every packet counts, also one without data."""
        if not flow.forgotten:
            limit, last = flow.link.forget_ns, flow.last_ns
            flow.last_ns = now
            if limit and last and now - last > limit:
                flow.forgotten = True
                self.log.forgotten(flow, last + limit)
        return flow.forgotten

    def _drop(self, flow: Flow, segment: Segment, closes: bool) -> None:
        """Ends the way of a segment here. The connection is over for this link when either side has given it up."""
        if segment.up and DATA in segment.flags:
            segment.req_id = request_id(segment.data)
        self.done(segment, None)
        if closes:
            self.ended(flow)

    def _goes_up(self, flow: Flow, segment: Segment, closes: bool) -> None:
        if closes and not flow.closed_up:
            flow.closed_up = True
            of_this_round = not flow.gate.holding or flow.held_round == flow.link.round
            if flow.opened and not flow.closed_down and of_this_round:
                flow.link.closed_by_proxy += 1
        data = DATA in segment.flags
        if data and not flow.gate.asked:
            segment.req_id = request_id(segment.data)
        by = flow.gate.goes_up(data=data, closes=closes)
        if by is not None:
            self._let_go(flow, by, segment.t_in)

    def _must_wait(self, flow: Flow, segment: Segment, closes: bool) -> bool:
        gate, link = flow.gate, flow.link
        began = not gate.holding
        if gate.goes_down(armed=link.armed and flow.opened, data=segment.data, closes=closes):
            if began:
                self._hold(flow, segment.t_in)
            link.on_its_way -= 1
            if any(segment.repeats(earlier) for earlier in flow.waiting):
                self.log.segment(segment, flow, None)
            else:
                flow.waiting.append(segment)
            return True
        if closes:
            flow.closed_down = True
        return False

    # --- time passes ---

    def next_due(self) -> int | None:
        """The moment at which `turn` has something to do, monotonic ns; None when nothing is expected."""
        due = self._way[0][0] if self._way else None
        if self._holds and (due is None or self._holds[0][0] < due):
            return self._holds[0][0]
        return due

    def turn(self, limit: int = 128) -> None:
        """Hands over up to `limit` segments that are due, and ends holds that have lasted too long."""
        now = monotonic_ns()
        while self._holds and self._holds[0][0] <= now:
            flow = heappop(self._holds)[2]
            if flow.gate.holding:
                self._let_go(flow, ReleasedBy.HOLD_LIMIT, now)
        while self._way and self._way[0][0] <= now and limit:
            due, _, segment = heappop(self._way)
            self.lateness.add(now - due)
            self._hand_over(segment)
            limit -= 1
            now = monotonic_ns()

    def done(self, segment: Segment, t_out: int | None) -> None:
        """The way of a segment has ended: handed over at `t_out`, or, with None, never."""
        flow = segment.flow
        if flow is None:
            return
        flow.link.on_its_way -= 1
        if not segment.flags:
            return
        self.log.segment(segment, flow, t_out)
        if FIN in segment.flags:
            if segment.up:
                flow.ended_up = True
            else:
                flow.ended_down = True
        if RST in segment.flags or (flow.ended_up and flow.ended_down):
            self.ended(flow)

    def abandon(self) -> None:
        """The wire ends: what is still on its way, or held, was never handed over."""
        for _, _, segment in sorted(self._way):
            self.done(segment, None)
        self._way.clear()
        for link in self.links.values():
            for flow in link.held:
                for segment in flow.waiting:
                    link.on_its_way += 1
                    self.done(segment, None)
            link.held.clear()

    # --- the lab asks ---

    def mark(self, link: Link) -> None:
        """A round starts: what is held or closed already does not count in it."""
        link.round += 1
        link.held_this_round = 0
        link.closed_by_proxy = 0

    def settled(self, link: Link) -> Settled:
        return Settled(held=link.held_this_round, closed_by_proxy=link.closed_by_proxy, open=link.open)

    def release(self, link: Link, now: int) -> int:
        """Lets everything held go now; returns of how many flows."""
        flows = list(link.held)
        for flow in flows:
            self._let_go(flow, ReleasedBy.COMMAND, now)
        return len(flows)

    # --- the gate ---

    def _hold(self, flow: Flow, t_ns: int) -> None:
        link = flow.link
        link.held[flow] = None
        flow.held_round = link.round
        link.held_this_round += 1
        heappush(self._holds, (t_ns + link.hold_limit_ns, self._next(), flow))
        self.log.held(flow, t_ns)

    def _let_go(self, flow: Flow, by: ReleasedBy, t_ns: int) -> None:
        link = flow.link
        flow.gate.open()
        flow.closed_down = True
        del link.held[flow]
        if flow.held_round == link.round:
            link.held_this_round -= 1
        flow.not_before = t_ns + link.delay_ns
        self.log.released(flow, by, t_ns)
        waiting, flow.waiting = flow.waiting, []
        for segment in waiting:
            link.on_its_way += 1
            self._send(segment)

    def _send(self, segment: Segment) -> None:
        due = segment.t_in + segment.delay_ns
        if segment.flow is not None and not segment.up and due < segment.flow.not_before:
            due = segment.flow.not_before
        heappush(self._way, (due, self._next(), segment))

    def _next(self) -> int:
        self._entered += 1
        return self._entered
