"""A tunnel: what a client and an upstream say to each other when they have agreed to speak another protocol (RFC 9110
§7.8), WebSocket for one. Bytes in at one end, out at the other.

Rules of this file:

- It takes both transports over from the protocols that had them. Those still hear when their connection is lost.
- Whoever reads slowly pauses whoever sends.
- An end that sends FIN is passed on as one, and the other direction goes on until its own. TLS has no half-close, so
  where one side speaks TLS the first end is that of both directions, after what was on its way has been delivered.
- Nothing is known of what is said, so only silence in both directions is bounded.
- It ends once, and tells why. What is still to be delivered to the client then is its connection's business; what is to
  the upstream, is delivered from here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from proxy.deadline import Deadline
from proxy.failure import Failure

LAST_BYTES_S: Final = 60.0  # how long an upstream may take what is left for it when the tunnel has ended


class Tunnel:
    """Two transports, joined. `ended` is called once, with the cause unless both sides had finished.

    `idle_s` is asked for how long it may be silent, in seconds.
    """

    __slots__ = ("_deadline", "_ended", "_idle_s", "_over", "client", "upstream")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        client: Any,
        upstream: Any,
        idle_s: Callable[[], float],
        ended: Callable[[Failure | None], None],
    ) -> None:
        self._idle_s = idle_s
        self._ended = ended
        self._over = False
        self._deadline = Deadline(loop, self._expired)
        self.client = End(self, client)
        self.upstream = End(self, upstream)
        self.client.other, self.upstream.other = self.upstream, self.client

    def __repr__(self) -> str:
        state = "over" if self._over else "open"
        return f"<Tunnel {state}, {self.client.received} bytes up, {self.upstream.received} down>"

    @property
    def over(self) -> bool:
        return self._over

    def begin(self, held: bytes, rest: bytes) -> None:
        """From now on. `held` has come from the client so far, `rest` from the upstream."""
        self.client.transport.set_protocol(self.client)
        self.upstream.transport.set_protocol(self.upstream)
        self.stirred()
        for end, data in ((self.client, held), (self.upstream, rest)):
            if data:
                end.data_received(data)

    def stirred(self) -> None:
        """A byte has moved."""
        self._deadline.set(self._idle_s())

    def stop(self) -> None:
        """Nothing is passed on any more. Idempotent."""
        self._over = True
        self._deadline.close()

    # ---- called by its ends

    def finished(self, end: End) -> bool:
        """An end has sent FIN; whether its transport stays open."""
        other = end.other
        if other.finished or end.tls or other.tls:
            self._end(None)
            return False
        if not other.transport.is_closing():
            other.transport.write_eof()
        self.stirred()
        return True

    def lost(self, end: End) -> None:
        """The connection of an end is gone."""
        if end is self.upstream:
            if not self._over:
                self._end(Failure.TRUNCATED_RESPONSE)
            self._deadline.close()

    # ----

    def _end(self, cause: Failure | None) -> None:
        self._over = True
        self._deadline.set(LAST_BYTES_S)
        self.upstream.transport.close()
        self._ended(cause)

    def _expired(self) -> None:
        if self._over:
            self.upstream.transport.abort()
        else:
            self._end(Failure.TUNNEL_IDLE)


class End(asyncio.Protocol):
    """One side of a tunnel. `received`: bytes that have come from there."""

    other: End

    def __init__(self, tunnel: Tunnel, transport: Any) -> None:
        self._tunnel = tunnel
        self._before: asyncio.BaseProtocol = transport.get_protocol()
        self.transport = transport
        self.tls = transport.get_extra_info("sslcontext") is not None
        self.finished = False  # it has sent FIN
        self.received = 0

    def data_received(self, data: bytes) -> None:
        tunnel = self._tunnel
        if tunnel.over:
            return
        self.received += len(data)
        tunnel.stirred()
        self.other.transport.write(data)

    def eof_received(self) -> bool:
        if self._tunnel.over:
            return False
        self.finished = True
        return self._tunnel.finished(self)

    def pause_writing(self) -> None:
        self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """Not of one that has finished: it would read its end again."""
        if not (self.other.finished or self._tunnel.over):
            self._tunnel.stirred()
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._tunnel.lost(self)
        self._before.connection_lost(exc)
