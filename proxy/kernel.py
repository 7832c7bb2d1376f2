"""What Linux knows of a TCP socket and an event loop does not say. About 0.4 µs a question.

Rules of this file:

- A descriptor is asked while its transport is open, never later: the number may by then be another socket's.
- These are questions only. What an answer means is decided elsewhere (`failure.proof_of`, `UpstreamConnection`).
"""

from __future__ import annotations

import select
import termios
from array import array
from fcntl import ioctl

_answer = array("i", [0])  # reused: one thread asks


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


class Probe:
    """Tells whether anything has come to a socket that the event loop has not looked at since: bytes, FIN, or RST."""

    __slots__ = ("_poll",)

    def __init__(self, fd: int) -> None:
        poller = select.poll()
        poller.register(fd, select.POLLIN | select.POLLRDHUP)
        self._poll = poller.poll

    def stirred(self) -> bool:
        return bool(self._poll(0))
