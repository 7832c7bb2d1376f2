"""The life of an upstream connection: its states, the steps between them, and what is told of each.

One setter changes the state. It checks the step and emits the event, so the log is complete by construction.
"""

from __future__ import annotations

from enum import IntEnum
from math import inf
from time import monotonic
from typing import Final

from proxy import events
from proxy.pool import CloseReason
from proxy.sides import Emit
from proxy.upstream_socket import UpstreamSocket


class State(IntEnum):
    CONNECTING = 0
    IDLE = 1
    ACTIVE = 2
    CLOSED = 3
    SWITCHED = 4  # it carries another protocol


# Plain numbers are cheaper than members, eight times a request; as constants they cost a compiled proxy nothing.
CONNECTING: Final = 0
IDLE: Final = 1
ACTIVE: Final = 2
CLOSED: Final = 3
SWITCHED: Final = 4
assert list(State) == [CONNECTING, IDLE, ACTIVE, CLOSED, SWITCHED]

# The steps there are: from each state, to CONNECTING, IDLE, ACTIVE, CLOSED, SWITCHED.
_STEPS: Final[tuple[tuple[bool, ...], ...]] = (
    (False, True, False, True, False),
    (False, False, True, True, False),
    (False, True, False, True, True),
    (False, False, False, False, False),
    (False, False, False, True, False),
)


class UpstreamLife(UpstreamSocket):
    """A connection from its connect to its close, whatever goes over it."""

    __slots__ = (
        "_emit",
        "_state",
        "close_reason",
        "idle_age",
        "idle_limit",
        "idle_since",
        "name",
        "opened_at",
        "requests",
    )

    def __init__(self, emit: Emit | None, *, tls: bool) -> None:
        super().__init__(tls=tls)
        self._emit = emit
        self._state = CONNECTING
        self.close_reason: CloseReason = CloseReason.FAILED
        self.name = ""
        # For the pool.
        self.opened_at = monotonic()
        self.idle_since = self.opened_at
        self.idle_limit = inf
        self.idle_age = 0.0  # seconds, when it was taken for the exchange at hand
        self.requests = 0

    def __repr__(self) -> str:
        return f"<UpstreamConnection {self.state.name} {self.name or '-'}, {self.requests} requests>"

    @property
    def state(self) -> State:
        return State(self._state)

    def _enter(self, state: int) -> None:
        before = self._state
        if not _STEPS[before][state]:
            raise RuntimeError(f"{self!r} cannot become {State(state).name}")
        self._state = state
        if self._emit is not None:
            self._tell(before, state)

    def _tell(self, before: int, state: int) -> None:
        """Emits a step. Of a connection that never was the attempt tells."""
        assert self._emit is not None
        reused = self.requests > 0
        if state == ACTIVE:
            idle_ms = self.idle_ms() if reused else 0.0
            self._emit(events.UPSTREAM_ACQUIRED, self.name, 0, reused, idle_ms, self.requests)
        elif state == IDLE and before == CONNECTING:
            self._emit(events.UPSTREAM_OPENED, self.name, 0, round((monotonic() - self.opened_at) * 1e3, 3))
        elif state == IDLE:
            self._emit(events.UPSTREAM_IDLE, self.name, 0, self.requests)
        elif state == CLOSED and before != CONNECTING:
            idle_ms = self.idle_ms() if before == IDLE else 0.0
            self._emit(events.UPSTREAM_CLOSED, self.name, 0, self.close_reason, idle_ms, self.requests)

    @property
    def reused(self) -> bool:
        """Whether it had carried an exchange before the one at hand."""
        return self.requests > 1

    def idle_ms(self) -> float:
        return round((monotonic() - self.idle_since) * 1e3, 3)
