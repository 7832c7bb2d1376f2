"""What this proxy says itself. Its pages never repeat what a client or an upstream sent."""

from __future__ import annotations

from functools import lru_cache
from http import HTTPStatus
from time import gmtime, strftime, time
from typing import Final

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

# The fields that a status calls for.
_ALLOW = b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"  # RFC 9110 §15.5.6: a 405 must say
_RETRY_AFTER = b"Retry-After: 1\r\n"  # seconds; what is full now will hardly be so then
_EXTRA: Final = {405: _ALLOW, 429: _RETRY_AFTER, 503: _RETRY_AFTER}


def error_page(status: int, cause: str, why: str, *, keep_alive: bool, http10: bool, head_only: bool) -> bytes:
    """A whole response. `cause` is the value of a Failure, `why` a phrase of ours; `head_only` answers HEAD."""
    reason = HTTPStatus(status).phrase
    body = f"{status} {reason}: {why}\n".encode()
    connection = b""
    if not keep_alive:
        connection = b"Connection: close\r\n"
    elif http10:
        connection = b"Connection: keep-alive\r\n"
    return b"".join(
        (
            f"HTTP/1.1 {status} {reason}\r\nDate: {http_date(int(time()))}\r\nX-Kalab-Cause: {cause}\r\n".encode(),
            _EXTRA.get(status, b""),
            b"Content-Type: text/plain\r\nContent-Length: %d\r\n" % len(body),
            connection,
            b"\r\n",
            b"" if head_only else body,
        )
    )


@lru_cache(maxsize=2)
def http_date(second: int) -> str:
    """A moment, in seconds since 1970, as Date has it (RFC 9110 §5.6.7); in English whatever the locale."""
    at = gmtime(second)
    return f"{_DAYS[at.tm_wday]}, {at.tm_mday:02} {_MONTHS[at.tm_mon - 1]} {strftime('%Y %H:%M:%S', at)} GMT"


_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
