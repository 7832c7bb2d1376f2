"""One request and its attempts, until its response is out. The only file that knows both sides.

Rules of this file:

- An exchange is made for one request and forgotten after it; nothing of it is kept on a connection.
- A repeat goes to a fresh connection, and only before any byte of a response (`retry.py` decides).
- Once the head of a response is out there is no other: what fails after it closes the client's connection.
- When the client is gone the exchange lets go of both sides, and whatever still calls it finds it `ended`.
- `exchange.sent` is stamped before the write, and nothing runs between taking a connection and sending on it.
- The clock is read once for each side of a usual exchange; `now` is passed along.
"""

from __future__ import annotations

from time import monotonic

from proxy import events
from proxy.failure import Failure, phrase_of, proof_of, status_of
from proxy.gateway import Gateway
from proxy.group import Group
from proxy.http1.framing import LAST_CHUNK, WORTH_A_VIEW, Payload, chunk, last_chunk
from proxy.http1.pages import error_page
from proxy.http1.request_head import Request
from proxy.http1.response_head import ResponseHead
from proxy.outgoing import Outgoing
from proxy.pool import CloseReason
from proxy.retry import DIED, OVER_BUDGET, Attempt
from proxy.sides import ClientSide, Evidence, UpstreamSide
from proxy.tunnel import Tunnel
from proxy.upstream import Upstream

_NOTHING_SENT = Evidence(sent_bytes=0, written_bytes=0, unacked_bytes=None)

# Why an upstream connection is closed that an exchange gives up; otherwise the client has left.
_CLOSED_FOR = {Failure.DRAINING: CloseReason.DRAINED, Failure.TOTAL_TIMEOUT: CloseReason.FAILED}


class Exchange(Outgoing):
    """One request on its way to an upstream, and its response on the way back."""

    # What most exchanges never read. What they do is set below: an attribute of a class is slower to find.
    ended = False
    _avoided: Upstream | None = None  # by the next attempt, if there is another upstream
    _head_only = False
    _chunked_response = False
    _keep_alive = False
    _slow = False  # the response began later than its group bears
    _until_close = False  # for the client, only the close ends this response
    _tunnel: Tunnel | None = None

    def __init__(self, gateway: Gateway, group: Group, client: ClientSide, request: Request, now: float) -> None:
        self.gateway = gateway
        self.group = group
        self.client = client
        self.request = request
        self.request_complete = True
        self.attempts = 0
        self.started = now
        self._upstream: Upstream | None = None
        self._connection: UpstreamSide | None = None
        self._unsent: bytes | bytearray = b""
        self._client_paused = False
        self._response_paused = False
        self.number = gateway.exchanges = gateway.exchanges + 1
        budget = group.budget
        if now >= budget.step_ends:
            budget.step(now)
        budget.requests += 1
        if gateway.emit is not None:
            self.emit_started()

    def __repr__(self) -> str:
        state = "ended" if self.ended else "answering" if self.status else "waiting"
        return f"<Exchange {self.number} {self.request.method.decode()} {state}, {self.attempts} attempts>"

    @property
    def is_tunnel(self) -> bool:
        """Whether HTTP is over on both its connections."""
        return self._tunnel is not None

    # ---- called by the client's connection

    def attempt(self, now: float, fresh: bool = False) -> None:
        """Sends the request, whatever there is of it. `fresh`: again, and on a connection that nobody has used."""
        self.attempts += 1
        group = self.group
        pick = self._pick if fresh or group.wants_key else group.pick
        upstream = self._upstream = pick()
        if upstream is None:
            self._give_up(Failure.NO_UPSTREAM)
            return
        if self.gateway.watched:
            self.up_name = upstream.name
        connection = None if fresh else upstream.take_idle(now)
        if connection is not None:
            self.connected(connection, now)
            return
        upstream.promise(self, now, fresh)
        if not (self.request_complete or self._connection is not None or self.ended):
            self._pause_client()  # until a connection has come

    def cut_off(self, cause: Failure) -> None:
        """The client has left, or has been left. Its response is not read on, so the connection is used no more."""
        self._abandon(cause, status_of(cause))

    def refuse(self, status: int, failure: Failure, why: str) -> None:
        """The rest of the request turned out bad, or did not come. Answers that, if nothing has been answered yet."""
        if self.ended:
            return
        if not self.status:
            self._write_page(status, failure, why, keep_alive=False)
        self._abandon(failure, status, why)
        self.client.exchange_ended(False, monotonic())

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

    def connected(self, connection: UpstreamSide, now: float) -> None:
        request, gateway = self.request, self.gateway
        self._connection = connection
        if gateway.watched:
            self.note(connection)
        data = request.head
        upgrade = request.fields.upgrade
        if upgrade and upgrade in gateway.upgrades:
            data = request.head_with_upgrade()
        elif self.group.never_reuses:
            data = data[:-2] + b"Connection: close\r\n\r\n"  # the upstream should know
        if self._unsent:
            data += self._unsent
            if not self._replayable:
                self._unsent = b""
        if self._client_paused:
            self._resume_client()  # before the write, which may pause it again
        self._head_only = head_only = request.method == b"HEAD"
        connection.send(self, data, self.request_complete, head_only, now)
        if upgrade and upgrade in gateway.upgrades:
            connection.asked_to_switch(upgrade, head_only)
        if self._response_paused:
            connection.pause_reading()

    def not_connected(self, failure: Failure) -> None:
        if failure is Failure.POOL_EXHAUSTED:
            self._give_up(failure)
        else:
            self._retry_or_give_up(failure, _NOTHING_SENT, connection=None)

    def sending(self, size: int) -> None:
        assert self._connection is not None
        self.emit(events.EXCHANGE_SENT, self._connection.name, self.attempts, self._connection.reused, size)

    def first_byte(self) -> None:
        assert self._connection is not None
        self.emit(events.EXCHANGE_FIRST_BYTE, self._connection.name, self.attempts)

    def interim(self, head: ResponseHead) -> None:
        if not self.request.http10:  # HTTP/1.0 has no interim responses (RFC 9110 §15.2)
            self.client.write(head.head(http10=False, keep_alive=True, no_body=True))

    def response(self, head: ResponseHead, payload: Payload, done: bool) -> None:
        self.status = head.status
        slow_after = self.group.slow_after
        if slow_after and self._connection is not None:
            self._slow = monotonic() - self._connection.sent_at > slow_after
        if self.request.usual and self.request_complete and not self.gateway.draining:
            self._keep_alive = True
            out = head.usual
            self._chunked_response = chunked = head.body_length is None
        else:
            out = self._unusual_head(head)
            chunked = self._chunked_response
        if chunked:
            self.client.write(out)
            self._pass_on(payload, done)
            return
        self.bytes_out = size = len(payload)
        if size < WORTH_A_VIEW:
            write = self.client.write  # not `client.write(…)`: CPython makes a call of a method that is none slow
            write(out + payload)
        else:
            self.client.write_parts([out, payload])

    def body(self, payload: Payload, done: bool) -> None:
        self._pass_on(payload, done)

    def switched(self, head: ResponseHead, rest: bytes) -> None:
        connection, upstream, client = self._connection, self._upstream, self.client
        assert connection is not None
        assert upstream is not None
        self.status = head.status
        if upstream.failing:
            self.group.succeeded(upstream)
        client.write(head.usual)
        transport, held = client.switched()
        gateway = self.gateway
        tunnel = self._tunnel = Tunnel(
            upstream.loop, transport, connection.switched(), lambda: gateway.config.http.tunnel_idle, self._tunnel_ended
        )
        tunnel.begin(held, rest)

    def completed(self, now: float) -> None:
        self._connection = None
        upstream, group = self._upstream, self.group
        assert upstream is not None
        if self._slow:
            group.slow(upstream, now)
        elif upstream.failing:
            group.succeeded(upstream)
        self.ended = True
        group.counters.ended(self.status, now - self.started, self.bytes_in, self.bytes_out)
        if self.gateway.watched:
            self.report()
        self.client.exchange_ended(self._keep_alive, now)

    def failed(self, failure: Failure, evidence: Evidence) -> None:
        connection, self._connection = self._connection, None
        self._retry_or_give_up(failure, evidence, connection)

    # ---- the request

    def _pick(self) -> Upstream | None:
        """Where the next attempt goes, and if it can be helped not where the last one failed."""
        group = self.group
        key = group.key_of(self.client.ip.encode(), self.request.block) if group.wants_key else b""
        return group.pick(key, self._avoided)

    # ---- the response

    def _unusual_head(self, head: ResponseHead) -> bytes:
        """The head for a client of HTTP/1.0, one that asked with HEAD, or one whose connection will not be kept."""
        request = self.request
        self._keep_alive = request.fields.keep_alive and self.request_complete and not self.gateway.draining
        if head.body_length is None and not self._head_only:
            self._chunked_response = not request.http10
            self._until_close = request.http10
            self._keep_alive = self._keep_alive and self._chunked_response  # without chunks only a close can end it
        return head.head(http10=request.http10, keep_alive=self._keep_alive, no_body=self._head_only)

    def _pass_on(self, payload: Payload, done: bool) -> None:
        """A piece of the response's body as it goes to the client."""
        self.bytes_out += len(payload)
        if not self._chunked_response:
            if payload:
                self.client.write_parts([payload])
            return
        parts = chunk(payload)
        if done:
            connection = self._connection
            parts.append(last_chunk(connection.trailers) if self.gateway.trailers and connection else LAST_CHUNK)
        if parts:
            self.client.write_parts(parts)

    # ---- failure

    def _retry_or_give_up(self, failure: Failure, evidence: Evidence, connection: UpstreamSide | None) -> None:
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
            overloaded=self.group.overloaded(),
        )
        now = monotonic()
        upstream = self._upstream
        assert upstream is not None
        to_blame = self.group.failed(upstream, failure, now, reused=attempt.reused)
        # The race is nobody's fault, and where a client belongs to one upstream the repeat goes there too. Elsewhere
        # any other will do as well, and from here a race and an upstream that has just died look alike.
        if to_blame or not self.group.wants_key:
            self._avoided = upstream
        decision = self.group.policy.decide(attempt)
        if decision.retry and not self.group.budget.take(now):
            decision = OVER_BUDGET
        upstream.counters.failures[failure.value] += 1
        counters = self.group.counters
        (counters.retries if decision.retry else counters.not_retried)[decision.because] += 1
        if connection is not None and attempt.reused and failure in DIED:
            counters.lost.add(connection.idle_age)
        if self.gateway.emit is not None:
            self.emit_failed(attempt, decision, evidence, connection)
        if decision.retry:
            self.retry_reason = decision.because
            self.attempt(now, fresh=True)
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
        self._end(keep_alive, monotonic())

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

    def _abandon(self, failure: Failure, status: int, why: str = "") -> None:
        """Lets go of the upstream side, whatever it is doing. `why`: what a client that is refused was told."""
        if self.ended:
            return
        self.cause = failure.value
        self.status = self.status or status
        self.ended = True
        if self._until_close:
            self.client.break_off()
        if self._tunnel is not None:
            self._leave_tunnel().stop()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close(_CLOSED_FOR.get(failure, CloseReason.CLIENT_CLOSED))
        elif self._upstream is not None:
            self._upstream.forget(self)
        self._count(monotonic())
        if self.gateway.watched:
            self.report_refused(why)

    # ---- another protocol

    def _tunnel_ended(self, cause: Failure | None) -> None:
        self._leave_tunnel()
        self._connection = None  # it closes when it has sent what is left
        if cause is not None:
            self.cause = cause.value
        if cause is Failure.TRUNCATED_RESPONSE:
            self.client.break_off()  # who knows whether it looks whole
        self._end(False, monotonic())

    def _leave_tunnel(self) -> Tunnel:
        tunnel, self._tunnel = self._tunnel, None
        assert tunnel is not None
        self.bytes_in, self.bytes_out = tunnel.client.received, tunnel.upstream.received
        return tunnel

    # ---- the end

    def _end(self, keep_alive: bool, now: float) -> None:
        if self.ended:
            return
        self.ended = True
        self._count(now)
        if self.gateway.watched:
            self.report()
        self.client.exchange_ended(keep_alive, now)

    def _count(self, now: float) -> None:
        counters = self.group.counters
        if self.status == 101:
            counters.tunnel_ended(now - self.started, self.bytes_in, self.bytes_out)
        else:
            counters.ended(self.status, now - self.started, self.bytes_in, self.bytes_out)
        if self.cause:
            counters.causes[self.cause] += 1
