"""The three that an exchange consists of, as they see each other: the client's side, the exchange, the upstream's side.

Each is written against these, so that it can be read, and tested, without the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from proxy.failure import Failure
from proxy.http1.framing import Payload
from proxy.http1.response_reader import ResponseHandler
from proxy.pool import CloseReason

Emit = Callable[..., None]  # EventLog.emit


class Evidence(NamedTuple):
    """How far a request had come when its connection failed."""

    sent_bytes: int  # given to the transport
    written_bytes: int  # of these, what the kernel took
    unacked_bytes: int | None  # of the sent ones, what the upstream has not acknowledged; None: cannot be known


class ClientSide(Protocol):
    """What an exchange needs of the connection that its request came on."""

    name: str
    ip: str
    write: Callable[[bytes], None]  # sends to the client; does nothing once it has left

    def write_parts(self, parts: list[Payload]) -> None:
        """The same, without joining them first."""

    def pause_reading(self) -> None:
        """No more of the request's body for now."""

    def resume_reading(self) -> None:
        """More of it, please."""

    def break_off(self) -> None:
        """Closes the connection with RST: a FIN would make a broken response look whole."""

    def switched(self) -> tuple[Any, bytes]:
        """HTTP is over on this connection. Gives away its transport, and what has come behind the request."""

    def exchange_ended(self, keep_alive: bool, now: float) -> None:
        """The exchange is over; the connection closes unless it may be kept."""


class UpstreamSide(Protocol):
    """What an exchange needs of the connection that it sends its request on."""

    name: str
    requests: int  # that it has carried, with the one at hand
    received: bool  # a byte of the response
    idle_age: float  # seconds, when it was taken for this request
    sent_at: float  # the request, or the last of it; monotonic seconds

    @property
    def reused(self) -> bool:
        """Whether it had carried an exchange before the one at hand."""

    def idle_ms(self) -> float:
        """How long it has been idle."""

    def send(self, sink: ResponseSink, data: bytes, complete: bool, head_only: bool, now: float) -> None:
        """Begins a request. `complete`: and ends it; `head_only`: it is a HEAD."""

    def send_more(self, data: bytes, complete: bool) -> None:
        """Goes on with it."""

    def asked_to_switch(self, protocol: bytes, head_only: bool) -> None:
        """The request that has been sent asks for this protocol, in lower case."""

    def switched(self) -> Any:
        """HTTP is over on this connection, and it is the exchange's until that closes it. Gives away its transport."""

    @property
    def trailers(self) -> bytes:
        """Those of a response that is complete, to send on."""

    def pause_reading(self) -> None:
        """No more of the response for now."""

    def resume_reading(self) -> None:
        """More of it, please."""

    def close(self, reason: CloseReason) -> None:
        """There is no use for it any more."""


class ResponseSink(ResponseHandler, Protocol):
    """What an exchange hears from the upstream side; and of the response itself, what a `ResponseHandler` hears.

    `now` is `time.monotonic()`, read once and passed along.
    """

    def connected(self, connection: UpstreamSide, now: float) -> None:
        """A connection has come for it; it sends on it now."""

    def not_connected(self, failure: Failure) -> None:
        """None came, or none will."""

    def sending(self, size: int) -> None:
        """So many bytes are about to be sent. Told only if there is an event log, as is the next."""

    def first_byte(self) -> None:
        """Something has arrived."""

    def completed(self, now: float) -> None:
        """The response has been passed on, the connection is parked or closed."""

    def failed(self, failure: Failure, evidence: Evidence) -> None:
        """There will be no response, or no more of it. The connection is closed."""

    def pause_request(self) -> None:
        """The upstream reads slower than the client sends."""

    def resume_request(self) -> None:
        """It has caught up."""
