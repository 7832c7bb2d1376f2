"""What the lab upstream did: its event kinds, the events, and how often each request was executed.

Rules of this file:

- An execution is counted when the whole request was read, before anything is answered: a request that was executed
  and then lost must show.
- Executions are joined with the other witnesses by the `X-Request-Id` field; a request without one counts as the first.
"""

from __future__ import annotations

from typing import Protocol

from proxy.events import EventLog, Kind
from upstreams.apps.executions import Executions
from upstreams.messages import Request

UPSTREAM_OPENED = Kind("upstream.opened", ("keep_alive_ms",))
EXCHANGE_EXECUTED = Kind("exchange.executed", ("req_id", "method", "target", "nth"))
EXCHANGE_ANSWERED = Kind("exchange.answered", ("req_id", "status"))
UPSTREAM_CLOSED = Kind("upstream.closed", ("reason", "how", "idle_ms", "unread_bytes", "requests"))
UPSTREAM_LINGERED = Kind("upstream.lingered", ("discarded_bytes",))
UPSTREAM_DROPPED = Kind("upstream.dropped", ("discarded_bytes",))
UPSTREAM_STALLED = Kind("upstream.stalled", ("stall_ms", "due"))
UPSTREAM_RETIRED = Kind("upstream.retired", ("reason", "connections", "idle"))

# Request ids that are remembered; beyond that the oldest is forgotten and would count as new.
IDS_KEPT = 1_000_000


class Emit(Protocol):
    """How an event is noted: `EventLog.emit`, or a fake."""

    def __call__(self, kind: Kind, conn: str, exchange: int, *detail: object, t_ns: int | None = None) -> None: ...


class Recorder:
    """The one place that writes evidence. Without a log and without a file of executions it only counts."""

    def __init__(self, log: EventLog | None, executions: Executions | None = None) -> None:
        self.emit: Emit = log.emit if log else _forget
        self._log = log
        self._executions = executions
        self._times_executed: dict[str, int] = {}
        self._exchanges = 0

    def __repr__(self) -> str:
        return f"<Recorder {self._exchanges} executed, {self._log!r}>"

    def executed(self, conn: str, request: Request) -> tuple[int, int]:
        """Notes one execution. Returns the number of this exchange, and how often its request id was executed."""
        nth = self._count(request.req_id) if request.req_id else 1
        self._exchanges += 1
        self.emit(EXCHANGE_EXECUTED, conn, self._exchanges, request.req_id, request.method, request.target, nth)
        if self._executions:
            self._executions.add(request.req_id, request.method, request.target)
        return self._exchanges, nth

    def close(self) -> None:
        """Writes what waits. Idempotent."""
        if self._log:
            self._log.close()

    def _count(self, req_id: str) -> int:
        times = self._times_executed
        nth = times[req_id] = times.get(req_id, 0) + 1
        if len(times) > IDS_KEPT:
            del times[next(iter(times))]
        return nth


def _forget(kind: Kind, conn: str, exchange: int, *detail: object, t_ns: int | None = None) -> None:
    """The `emit` of an upstream that keeps no log."""
