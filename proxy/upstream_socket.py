"""The socket under an upstream connection: what was given to it, and what it says of that when asked.

Rules of this file:

- It answers questions; what follows from the answers is the connection's business.
- Under TLS the queues count ciphertext, unread bytes may be a session ticket, and that a write failed is learnt too
  late. So nothing is proven there, and only the end of the stream is evidence.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from typing import Any, Final

from proxy import transports
from proxy.failure import Failure
from proxy.kernel import Stirred, hung_up, nothing_stirs, stirred, unacked_bytes, unread_bytes
from proxy.pool import CloseReason
from proxy.sides import Evidence

# How answers begin that no server says farewell with. One that sends them unasked is out of step. The usual one first.
ORDINARY: Final[tuple[bytes, ...]] = (b"HTTP/1.1 2", b"HTTP/1.1 3", b"HTTP/1.1 1", b"HTTP/1.0 2", b"HTTP/1.0 3")


class UpstreamSocket(asyncio.Protocol):
    """What the kernel and the transport know of one connection."""

    __slots__ = ("_fd", "_refused_bytes", "_sent_bytes", "_tls", "_transport", "stirred")

    def __init__(self, *, tls: bool) -> None:
        self._tls = tls
        self._transport: Any = None
        self._fd = -1
        self.stirred: Stirred = nothing_stirs
        self._sent_bytes = 0  # of the request at hand, given to the transport
        self._refused_bytes = 0  # of these, what the kernel refused; if any, there is no other request

    def open(self, transport: Any) -> socket.socket:
        """It is there."""
        self._transport = transport
        transports.prepare(transport, tls=self._tls)
        sock: socket.socket = transport.get_extra_info("socket")
        self._fd = sock.fileno()
        self.stirred = stirred(self._fd)
        return sock

    def look(self) -> CloseReason | None:
        """What has happened to this idle connection though no callback has told so yet; None: nothing.

        Unread bytes cannot answer a request that has not been sent. Under TLS they may be no answer at all but a
        session ticket, so there only the end of the stream counts.
        """
        happened = self.stirred(0)
        if not happened or (self._tls and not hung_up(happened)):
            return None
        unread = not self._tls and unread_bytes(self._fd)
        return CloseReason.UNSOLICITED_DATA if unread else CloseReason.PEER_FIN

    def evidence(self) -> Evidence:
        if self._tls:  # the queues count ciphertext, and that a write failed is learnt too late
            return Evidence(self._sent_bytes, self._sent_bytes, None)
        waiting = self._transport.get_write_buffer_size()
        unacked = unacked_bytes(self._fd)
        unwritten = waiting + self._refused_bytes
        return Evidence(
            sent_bytes=self._sent_bytes,
            written_bytes=self._sent_bytes - unwritten,
            unacked_bytes=None if unacked is None else unacked + unwritten,
        )

    def unsolicited(self, data: bytes) -> Failure | None:
        """The failure, if what arrives now was sent before any of the request had arrived, and answers something else.

        A segment acknowledges what its sender had received (RFC 9293 §3.4). If nothing of this request is acknowledged,
        the bytes left before it came: a 408 on an idle connection, say, or the second of two answers to the request
        before, that crossed it. The other way round proves nothing, which is why `look` comes first.

        What crossed a request arrives within one round trip of it. So this is asked of what comes sooner than four
        times the shortest that the kernel has measured to this upstream, and of every farewell; for the others it would
        cost a system call each.

        What remains: an answer that nobody asked for and that is read later than that; and, which no question to this
        end of the connection could settle, one that was sent while the request was on its way to an upstream that
        acknowledges requests at once.
        """
        if self._tls:
            return None
        unacked = unacked_bytes(self._fd)
        if unacked is None:
            return None
        unwritten = self._transport.get_write_buffer_size() + self._refused_bytes
        if unacked + unwritten < self._sent_bytes:
            return None
        return Failure.INVALID_RESPONSE if data.startswith(ORDINARY) else Failure.CLOSED_BEFORE_RESPONSE

    def unread(self) -> Iterator[bytes]:
        """What has arrived, though the transport no longer reads; at the end of the stream an empty piece, the last."""
        while not self._tls:  # there is no reading past its decoder
            try:
                data = os.read(self._fd, transports.HIGH_WATER)
            except OSError:
                return
            yield data
            if not data:
                return
