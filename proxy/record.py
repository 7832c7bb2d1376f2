"""What is told of an exchange: to the event log as it happens, to the access log at its end.

Rules of this file:

- Nothing here decides anything. Ask first whether anybody listens: what is told costs as much as telling it.
- It is the base of `Exchange`, so that telling needs no second object for each request.
"""

from __future__ import annotations

from time import monotonic

from proxy import events
from proxy.gateway import Gateway
from proxy.group import Group
from proxy.http1.request_head import Request
from proxy.retry import Attempt, Decision
from proxy.sides import ClientSide, Evidence, UpstreamSide


class Record:
    """One request, and what has become of it so far."""

    # What most exchanges never touch.
    cause = ""
    status = 0
    retry_reason = ""
    bytes_in = 0
    bytes_out = 0
    up_name = ""  # the upstream of the last attempt
    up_conn = ""
    up_reuse_n = 0
    up_idle_ms = 0.0

    gateway: Gateway
    group: Group
    client: ClientSide
    request: Request
    number: int
    attempts: int
    started: float  # monotonic seconds

    def emit(self, kind: events.Kind, conn: str, *detail: object) -> None:
        """Emits with the request's id."""
        if self.gateway.emit is not None:
            self.gateway.emit(kind, conn, self.number, self.request.req_id, *detail)

    def emit_started(self) -> None:
        request = self.request
        method, target = request.method.decode("latin-1"), request.target.decode("latin-1")
        self.emit(events.EXCHANGE_STARTED, self.client.name, method, target)

    def emit_failed(
        self, attempt: Attempt, decision: Decision, evidence: Evidence, connection: UpstreamSide | None
    ) -> None:
        self.emit(
            events.EXCHANGE_ATTEMPT_FAILED,
            connection.name if connection is not None else "",
            attempt.number,
            attempt.failure.value,
            attempt.proof.value,
            attempt.reused,
            evidence.sent_bytes,
            evidence.unacked_bytes,
            decision.retry,
            decision.because,
        )

    def note(self, connection: UpstreamSide) -> None:
        """What is known of the connection only before it is used."""
        self.up_conn = connection.name
        self.up_reuse_n = connection.requests
        self.up_idle_ms = connection.idle_ms() if connection.requests else 0.0

    def report_refused(self, why: str) -> None:
        """Tells the end of one that was refused while it came; `why`: in the words that its client was told."""
        course = (
            *(self.attempts, self.retry_reason, self.group.name, self.up_name, self.up_conn, self.up_reuse_n),
            *(self.up_idle_ms, self.bytes_in, self.bytes_out, round((monotonic() - self.started) * 1e3, 3)),
        )
        self.gateway.report_refused(self.client, self.number, self.status, self.cause, why, self.request, course)

    def report(self) -> None:
        """Tells the end."""
        request = self.request
        self.gateway.report(
            self.client.name,
            self.number,
            request.req_id,
            self.client.ip,
            request.method.decode("latin-1"),
            request.target.decode("latin-1"),
            self.status,
            self.cause,
            self.attempts,
            self.retry_reason,
            self.group.name,
            self.up_name,
            self.up_conn,
            self.up_reuse_n,
            self.up_idle_ms,
            self.bytes_in,
            self.bytes_out,
            round((monotonic() - self.started) * 1e3, 3),
            http10=request.http10,
            fields=request.block,
        )
