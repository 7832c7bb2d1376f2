"""What Linux knows of a TCP socket and an event loop does not say. About 0.4 µs a question.

Rules of this file:

- A descriptor is asked while its transport is open, never later: the number may by then be another socket's.
- These are questions only. What an answer means is decided elsewhere (`failure.proof_of`, `UpstreamConnection`).
"""

from __future__ import annotations

import select
import socket
import struct
import termios
from array import array
from collections.abc import Callable, Sequence
from fcntl import ioctl
from typing import Final

Stirred = Callable[[int], Sequence[tuple[int, int]]]

_answer = array("i", [0])  # reused: one thread asks
_RTT: Final = struct.Struct("=68xI")  # the beginning of struct tcp_info (linux/tcp.h), up to tcpi_rtt in µs


def unacked_bytes(fd: int) -> int | None:
    """Bytes written to the socket that the peer has not acknowledged (SIOCOUTQ, tcp(7)). None: cannot be known."""
    return _ask(fd, termios.TIOCOUTQ)


def unread_bytes(fd: int) -> int | None:
    """Bytes that have arrived and have not been read (SIOCINQ, tcp(7)). A FIN counts nothing. None: cannot be known."""
    return _ask(fd, termios.FIONREAD)


def _ask(fd: int, question: int) -> int | None:
    try:
        ioctl(fd, question, _answer)
    except OSError:
        return None
    return _answer[0]


def round_trip_s(sock: socket.socket) -> float | None:
    """What the kernel has measured (TCP_INFO, tcp(7)), for a new connection the handshake. None: cannot be known."""
    try:
        (micros,) = _RTT.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RTT.size))
    except (OSError, struct.error):
        return None
    return float(micros) / 1e6 or None


def stirred(fd: int) -> Stirred:
    """A question to ask again and again: has anything come that the event loop has not looked at, bytes, FIN or RST?

    Ask it with a timeout of 0; what it returns is empty if nothing has.
    """
    poller = select.poll()
    poller.register(fd, select.POLLIN | select.POLLRDHUP)
    return poller.poll


def nothing_stirs(_timeout: int) -> Sequence[tuple[int, int]]:
    """The answer of a connection that is not there yet."""
    return ()


def hung_up(happened: Sequence[tuple[int, int]]) -> bool:
    """Whether what a `Stirred` returned includes a FIN or RST."""
    return any(event & (select.POLLRDHUP | select.POLLHUP | select.POLLERR) for _, event in happened)
