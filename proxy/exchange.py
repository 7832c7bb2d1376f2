"""One request and its attempts, until its response is out. The only file that knows both sides.

Rules of this file:

- An exchange is made for one request and forgotten after it; nothing of it is kept on a connection.
- Bodies are passed on as they come. Kept is only what has not been sent yet, while the client is paused, and a copy up
  to `retry.max_body` for a repeat.
- A repeat goes to a fresh connection, and only before any byte of a response (`retry.py` decides).
- Once the head of a response is out there is no other: what fails after it closes the client's connection.
- When the client is gone the exchange lets go of both sides, and whatever still calls it finds it `ended`.
- `exchange.sent` is stamped before the write, and nothing runs between taking a connection and sending on it.
"""

from __future__ import annotations

from time import monotonic
from typing import Protocol

from proxy import events
from proxy.failure import Failure, phrase_of, proof_of, status_of
from proxy.framing import LAST_CHUNK, WORTH_A_VIEW, Payload, chunk
from proxy.gateway import Gateway
from proxy.pages import error_page
from proxy.pool import CloseReason
from proxy.request_head import Request
from proxy.response_head import BODILESS, ResponseHead
from proxy.retry import OVER_BUDGET, Attempt, Decision
from proxy.upstream import Upstream
from proxy.upstream_connection import Evidence, UpstreamConnection


class ClientSide(Protocol):
    """What an exchange needs of the connection that its request came on."""

    name: str
    ip: str

    def write(self, data: bytes) -> None:
        """Sends to the client; does nothing once it has left."""

    def write_parts(self, parts: list[Payload]) -> None:
        """The same, without joining them first."""

    def pause_reading(self) -> None:
        """No more of the request's body for now."""

    def resume_reading(self) -> None:
        """More of it, please."""

    def break_off(self) -> None:
        """Closes the connection with RST: a FIN would make a broken response look whole."""

    def exchange_ended(self, *, keep_alive: bool) -> None:
        """The exchange is over; the connection closes unless it may be kept."""


class Exchange:
    """One request on its way to an upstream, and its response on the way back."""

    # What most exchanges never touch.
    attempts = 0
    ended = False
    retry_reason = ""
    cause = ""
    status = 0
    bytes_in = 0
    bytes_out = 0
    _upstream: Upstream | None = None
    _connection: UpstreamConnection | None = None
    _unsent: bytes | bytearray = b""  # the body so far, framed; all of it from its first byte while `_replayable`
    _replayable = True
    _chunked_response = False
    _keep_alive = False
    _client_paused = False
    _response_paused = False
    _until_close = False  # for the client, only the close ends this response
    _up_conn = ""
    _up_reuse_n = 0
    _up_idle_ms = 0.0

    def __init__(self, gateway: Gateway, client: ClientSide, request: Request) -> None:
        self.gateway = gateway
        self.client = client
        self.request = request
        self.request_complete = False
        self.started = monotonic()
        gateway.exchanges += 1
        self.number = gateway.exchanges

    def __repr__(self) -> str:
        state = "ended" if self.ended else "answering" if self.status else "waiting"
        return f"<Exchange {self.number} {self.request.method.decode()} {state}, {self.attempts} attempts>"

    # ---- called by the client's connection

    def start(self, payload: Payload, complete: bool) -> None:
        """Begins, with what there is of the body; `complete`: that is all of it."""
        gateway = self.gateway
        if gateway.emit is not None:
            request = self.request
            self._emit(
                events.EXCHANGE_STARTED,
                self.client.name,
                request.method.decode("latin-1"),
                request.target.decode("latin-1"),
            )
        gateway.budget.request(self.started)
        self.request_complete = complete
        if payload or not complete or self.request.fields.chunked:
            self._hold(self._framed(payload, complete))
        self._attempt(fresh=False)

    def request_body(self, payload: Payload, complete: bool) -> None:
        """More of the request's body."""
        if self.ended:
            return
        self.request_complete = complete
        data = self._framed(payload, complete)
        if self._connection is None:
            self._hold(data)
            return
        if self._replayable:
            self._hold(data)
        self._connection.write(data, complete)

    def cut_off(self, cause: Failure) -> None:
        """The client has left, or has been left. Its response is not read on, so the connection is used no more."""
        self._abandon(cause, status_of(cause))

    def refuse(self, status: int, failure: Failure, why: str) -> None:
        """The rest of the request turned out bad, or did not come. Answers that, if nothing has been answered yet."""
        if self.ended:
            return
        if not self.status:
            self._write_page(status, failure, why, keep_alive=False)
        self._abandon(failure, status)
        self.client.exchange_ended(keep_alive=False)

    def pause_response(self) -> None:
        """The client reads slower than the upstream sends."""
        self._response_paused = True
        if self._connection is not None:
            self._connection.pause_reading()

    def resume_response(self) -> None:
        """It has caught up."""
        self._response_paused = False
        if self._connection is not None:
            self._connection.resume_reading()

    # ---- called by the upstream side (ResponseSink)

    def connected(self, connection: UpstreamConnection) -> None:
        request, gateway = self.request, self.gateway
        self._connection = connection
        if gateway.watched:
            self._note(connection)
        head = request.head()
        if gateway.never_reuses:
            head = head[:-2] + b"Connection: close\r\n\r\n"  # the upstream should know
        data = head + self._unsent if self._unsent else head
        if not self._replayable:
            self._unsent = b""
        if self._client_paused:
            self._resume_client()  # before the write, which may pause it again
        connection.begin(self, head_only=request.method == b"HEAD")
        if gateway.emit is not None:
            self._emit(events.EXCHANGE_SENT, connection.name, self.attempts, connection.reused, len(data))
        connection.write(data, self.request_complete)
        if self._response_paused:
            connection.pause_reading()

    def not_connected(self, failure: Failure) -> None:
        nothing = Evidence(sent_bytes=0, written_bytes=0, unacked_bytes=None)
        if failure is Failure.POOL_EXHAUSTED:
            self._give_up(failure)
        else:
            self._retry_or_give_up(failure, nothing, connection=None)

    def first_byte(self) -> None:
        if self.gateway.emit is not None and self._connection is not None:
            self._emit(events.EXCHANGE_FIRST_BYTE, self._connection.name, self.attempts)

    def interim(self, head: ResponseHead) -> None:
        if not self.request.http10:  # HTTP/1.0 has no interim responses (RFC 9110 §15.2)
            self.client.write(head.head(http10=False, keep_alive=True, no_body=True))

    def response(self, head: ResponseHead, payload: Payload, done: bool) -> None:
        request = self.request
        self.status = head.status
        self._keep_alive = keep_alive = (
            request.fields.keep_alive and self.request_complete and not self.gateway.draining
        )
        if keep_alive and not request.http10 and request.method != b"HEAD":
            out = head.usual
            self._chunked_response = head.length is None and head.status not in BODILESS
        else:
            out = self._unusual_head(head)
        if self._chunked_response:
            self.client.write(out)
            self._pass_on(payload, done)
            return
        self.bytes_out += len(payload)
        if len(payload) < WORTH_A_VIEW:
            self.client.write(out + payload)
        else:
            self.client.write_parts([out, payload])

    def body(self, payload: Payload, done: bool) -> None:
        self._pass_on(payload, done)

    def completed(self) -> None:
        self._connection = None
        self._end(keep_alive=self._keep_alive)

    def failed(self, failure: Failure, evidence: Evidence) -> None:
        connection, self._connection = self._connection, None
        self._retry_or_give_up(failure, evidence, connection)

    def pause_request(self) -> None:
        if not self.request_complete:
            self._pause_client()

    def resume_request(self) -> None:
        self._resume_client()

    # ---- the request

    def _attempt(self, *, fresh: bool) -> None:
        self.attempts += 1
        self._upstream = upstream = self.gateway.balancer.pick()
        connection = upstream.acquire(self, fresh=fresh)
        if connection is not None:
            self.connected(connection)
        elif not self.request_complete and not self.ended:
            self._pause_client()  # until a connection has come

    def _framed(self, payload: Payload, complete: bool) -> bytes:
        """A piece of the request's body as it goes to the upstream."""
        self.bytes_in += len(payload)
        if not self.request.fields.chunked:
            return bytes(payload)
        return b"".join(chunk(payload)) + (LAST_CHUNK if complete else b"")

    def _hold(self, data: bytes) -> None:
        """Keeps a piece of the body, to be sent or for a repeat. Past the limit it is not kept for a repeat."""
        if not self._unsent:
            self._unsent = bytearray()
        self._unsent += data
        if self._replayable and len(self._unsent) > self.gateway.config.retry.max_body:
            self._replayable = False
            if self._connection is not None:
                self._unsent = b""

    def _pause_client(self) -> None:
        if not self._client_paused:
            self._client_paused = True
            self.client.pause_reading()

    def _resume_client(self) -> None:
        if self._client_paused:
            self._client_paused = False
            self.client.resume_reading()

    # ---- the response

    def _unusual_head(self, head: ResponseHead) -> bytes:
        """The head for a client of HTTP/1.0, one that asked with HEAD, or one whose connection will not be kept."""
        request = self.request
        head_only = request.method == b"HEAD"
        if head.length is None and not head_only and head.status not in BODILESS:
            self._chunked_response = not request.http10
            self._until_close = request.http10
            self._keep_alive = self._keep_alive and self._chunked_response  # without chunks only a close can end it
        return head.head(http10=request.http10, keep_alive=self._keep_alive, no_body=head_only)

    def _pass_on(self, payload: Payload, done: bool) -> None:
        """A piece of the response's body as it goes to the client."""
        self.bytes_out += len(payload)
        if not self._chunked_response:
            if payload:
                self.client.write_parts([payload])
            return
        parts = chunk(payload)
        if done:
            parts.append(LAST_CHUNK)
        if parts:
            self.client.write_parts(parts)

    # ---- failure

    def _retry_or_give_up(self, failure: Failure, evidence: Evidence, connection: UpstreamConnection | None) -> None:
        proof = proof_of(
            failure,
            request_bytes=evidence.sent_bytes,
            unacked_bytes=evidence.unacked_bytes,
            written_bytes=evidence.written_bytes,
        )
        attempt = Attempt(
            number=self.attempts,
            method=self.request.method,
            reused=connection is not None and connection.reused,
            failure=failure,
            proof=proof,
            response_started=connection is not None and connection.received,
            sent_bytes=evidence.written_bytes,
            replayable=self._replayable,
        )
        decision = self.gateway.policy.decide(attempt)
        if decision.retry and not self.gateway.budget.take(monotonic()):
            decision = OVER_BUDGET
        if self.gateway.emit is not None:
            self._emit_failed(attempt, decision, evidence, connection)
        if decision.retry:
            self.retry_reason = decision.because
            self._attempt(fresh=True)
        else:
            self._give_up(failure)

    def _give_up(self, failure: Failure) -> None:
        """There will be no response. Says so, unless one has begun; then closing is all that can be said."""
        self.cause = failure.value
        keep_alive = False
        if self._until_close:
            self.client.break_off()
        if not self.status:
            keep_alive = self.request.fields.keep_alive and self.request_complete and not self.gateway.draining
            self._write_page(status_of(failure), failure, phrase_of(failure), keep_alive=keep_alive)
        self._end(keep_alive=keep_alive)

    def _write_page(self, status: int, failure: Failure, why: str, *, keep_alive: bool) -> None:
        self.status = status
        request = self.request
        page = error_page(
            status,
            failure.value,
            why,
            keep_alive=keep_alive,
            http10=request.http10,
            head_only=request.method == b"HEAD",
        )
        self.client.write(page)

    def _abandon(self, failure: Failure, status: int) -> None:
        """Lets go of the upstream side, whatever it is doing."""
        if self.ended:
            return
        self.cause = failure.value
        self.status = self.status or status
        self.ended = True
        if self._until_close:
            self.client.break_off()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close(CloseReason.DRAINED if failure is Failure.DRAINING else CloseReason.CLIENT_CLOSED)
        elif self._upstream is not None:
            self._upstream.forget(self)
        if self.gateway.watched:
            self._report()

    # ---- the end

    def _end(self, *, keep_alive: bool) -> None:
        if self.ended:
            return
        self.ended = True
        if self.gateway.watched:
            self._report()
        self.client.exchange_ended(keep_alive=keep_alive)

    # ---- events

    def _emit(self, kind: events.Kind, conn: str, *detail: object) -> None:
        """Emits with the request's id. Ask first whether the log is on: what is passed costs as much as the call."""
        if self.gateway.emit is not None:
            self.gateway.emit(kind, conn, self.number, self.request.fields.req_id, *detail)

    def _note(self, connection: UpstreamConnection) -> None:
        """What is known of the connection only before it is used."""
        self._up_conn = connection.name
        self._up_reuse_n = connection.requests
        self._up_idle_ms = connection.idle_ms() if connection.requests else 0.0

    def _emit_failed(
        self, attempt: Attempt, decision: Decision, evidence: Evidence, connection: UpstreamConnection | None
    ) -> None:
        self._emit(
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

    def _report(self) -> None:
        request = self.request
        self.gateway.report(
            self.client.name,
            self.number,
            request.fields.req_id,
            self.client.ip,
            request.method.decode("latin-1"),
            request.target.decode("latin-1"),
            self.status,
            self.cause,
            self.attempts,
            self.retry_reason,
            self._up_conn,
            self._up_reuse_n,
            self._up_idle_ms,
            self.bytes_in,
            self.bytes_out,
            round((monotonic() - self.started) * 1e3, 3),
        )
