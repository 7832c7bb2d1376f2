"""What the event loop's transports are told when a connection opens, on either side."""

from __future__ import annotations

from typing import Any, Final

HIGH_WATER: Final = 256 * 1024  # bytes waiting to be written before whoever sends them is paused


def prepare(transport: Any, *, tls: bool) -> None:
    """How much may wait in it.

    Under TLS, nothing may wait to be decoded. Otherwise, while reading is paused, uvloop goes on reading below its
    decoder; and if it meets the end of the stream there, it forgets what it has not decoded yet. With a limit of one
    byte it stops below as soon as there is anything, so that the end is read after all that came before it. With none
    at all it would not do: a check of an empty buffer then pauses, and the next one resumes.
    (`tests/proxy/test_tls.py`)
    """
    transport.set_write_buffer_limits(HIGH_WATER)
    if tls:
        transport.set_read_buffer_limits(high=1)
