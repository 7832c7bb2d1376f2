"""HTTP/1.1 as bytes: requests are read, answers are rendered. No sockets, no time.

Rules of this file:

- A request is handed out only when it was read whole.
- What is malformed, too large, or asks for something impossible raises `RequestError`: the connection answers 400 and
  closes. Nothing is repaired.
- A body is kept only where it is sent back (`/echo`).
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple
from urllib.parse import parse_qs

import httptools

from upstreams.durations import pause

HEAD_LIMIT = 64 * 1024
ECHO_LIMIT = 16 * 1024 * 1024
BYTES_LIMIT = 256 * 1024 * 1024

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
REASONS = {200: "OK", 400: "Bad Request", 408: "Request Timeout"}


class RequestError(Exception):
    """The request cannot be served; the message says why, and goes into the body of the 400."""


class Request(NamedTuple):
    """One request, read whole."""

    method: str
    target: str
    req_id: str
    keep_alive: bool
    delay_s: float
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


class RequestReader:
    """Turns bytes into requests. `feed` returns those that became whole."""

    def __init__(self) -> None:
        self.partial = False
        """Whether part of a request has been read."""
        self.wants_continue = False
        """Whether the request under way waits for `100 Continue` (RFC 9110 section 10.1.1)."""
        self._whole: deque[Request] = deque()
        self._start()

    def feed(self, data: bytes) -> list[Request]:
        """Takes what arrived. Raises RequestError; after that the reader is of no more use."""
        if self._in_head:  # counted here, because the parser itself buffers a field without limit
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:  # ignored, as a server may: RFC 9110 section 7.8
            self._start()
            rest = data[upgrade.args[0] :]
            return self._take() + (self.feed(rest) if rest else [])
        except httptools.HttpParserError as error:
            cause = error.__context__ if isinstance(error.__context__, RequestError) else error
            raise RequestError(str(cause) or type(cause).__name__) from None
        if self._in_head and self._head_bytes > HEAD_LIMIT:
            raise RequestError(f"the head is larger than {HEAD_LIMIT} bytes")
        return self._take()

    def _start(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._in_head = True
        self._head_bytes = 0

    def _take(self) -> list[Request]:
        taken = list(self._whole)
        self._whole.clear()
        return taken

    # -- called by the parser, in this order ----------------------------------------------------

    def on_message_begin(self) -> None:
        self.partial = True
        self._expects_continue = False
        self._target = b""
        self._req_id = b""
        self._body: list[bytes] = []
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"x-request-id":
            self._req_id = value
        elif name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        self.wants_continue = self._expects_continue

    def on_body(self, body: bytes) -> None:
        self.wants_continue = False
        if not self._target.startswith(b"/echo"):
            return
        self._body_bytes += len(body)
        if self._body_bytes > ECHO_LIMIT:
            raise RequestError(f"the body to echo is larger than {ECHO_LIMIT} bytes")
        self._body.append(body)

    def on_message_complete(self) -> None:
        target = self._target.decode("latin-1")
        self._whole.append(
            Request(
                method=self._parser.get_method().decode(),
                target=target,
                req_id=self._req_id.decode("latin-1"),
                keep_alive=self._parser.should_keep_alive() and self._parser.get_http_version() == "1.1",
                delay_s=_delay_of(target),
                body=b"".join(self._body),
            )
        )
        self.partial = self.wants_continue = False
        self._in_head = True


def body_for(request: Request) -> bytes:
    """What the route answers. Raises RequestError when `/bytes/N` asks for no number, or for too many."""
    if request.path.startswith("/bytes/"):
        number = request.path.removeprefix("/bytes/")
        if not (number.isascii() and number.isdigit() and int(number[:12]) <= BYTES_LIMIT):
            raise RequestError(f"/bytes/N takes a number up to {BYTES_LIMIT}")
        return bytes(int(number))
    if request.path == "/echo":
        return request.body
    return b"ok\n" + request.req_id.encode("latin-1")


def render(status: int, body: bytes, *, head_only: bool = False, hint: int | None = None, close: bool = False) -> bytes:
    """A whole response. `hint` is the value of `Keep-Alive: timeout=`; `close` announces that it is the last one."""
    head = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
    if close:
        head += "Connection: close\r\n"
    elif hint is not None:
        head += f"Connection: keep-alive\r\nKeep-Alive: timeout={hint}\r\n"
    return head.encode() + b"\r\n" + (b"" if head_only else body)


def _delay_of(target: str) -> float:
    asked = parse_qs(target.partition("?")[2]).get("delay")
    if asked is None:
        return 0.0
    try:
        return pause(asked[0])
    except ValueError as error:
        raise RequestError(f"delay: {error}") from None
