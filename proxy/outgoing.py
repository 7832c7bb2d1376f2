"""The request of an exchange on its way: what of its body is sent, waits to be sent, or is kept for a repeat.

Rules of this file:

- Bodies are passed on as they come. Kept is only what has not been sent yet, while the client is paused, and a copy up
  to `retry.max_body` for a repeat.
- It is a base of `Exchange`, which makes the attempts: a request without a body costs nothing here.
"""

from __future__ import annotations

from proxy.http1.framing import Payload, chunk, last_chunk
from proxy.record import Record
from proxy.sides import UpstreamSide


class Outgoing(Record):
    """One request, as far as it has come from its client."""

    _replayable = True
    trailers = b""  # of the request's body, to send on; set before its last piece

    ended: bool
    request_complete: bool
    _connection: UpstreamSide | None  # that it is sent on
    _unsent: bytes | bytearray  # the body so far, framed; all of it from its first byte if `_replayable`
    _client_paused: bool

    def attempt(self, now: float, fresh: bool = False) -> None:
        """Sends what there is of it."""
        raise NotImplementedError

    # ---- called by the client's connection

    def attempt_with_body(self, payload: Payload, complete: bool) -> None:
        """Sends it with what there is of the body; `complete`: that is all of it."""
        self.request_complete = complete
        self._hold(self._framed(payload, complete))
        self.attempt(self.started)

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
        self._connection.send_more(data, complete)

    # ---- called by the upstream side (ResponseSink)

    def pause_request(self) -> None:
        if not self.request_complete:
            self._pause_client()

    def resume_request(self) -> None:
        self._resume_client()

    # ----

    def _framed(self, payload: Payload, complete: bool) -> bytes:
        """A piece of the request's body as it goes to the upstream."""
        self.bytes_in += len(payload)
        if not self.request.fields.chunked:
            return bytes(payload)
        return b"".join(chunk(payload)) + (last_chunk(self.trailers) if complete else b"")

    def _hold(self, data: bytes) -> None:
        """Keeps a piece of the body, to be sent or for a repeat. Past the limit it is not kept for a repeat."""
        if not self._unsent:
            self._unsent = data
        elif isinstance(self._unsent, bytes):
            self._unsent = bytearray(self._unsent + data)
        else:
            self._unsent += data
        if self._replayable and len(self._unsent) > self.group.config.retry.max_body:
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
