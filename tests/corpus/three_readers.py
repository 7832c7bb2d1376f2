"""Reads what the proxy sent to an upstream with three readers that share no code, and says where they disagree.

The strict reader finds the messages; llhttp and h11 must then find the same ones: complete at the same byte and not one
before it, with the same method, target, fields and body.
"""

from __future__ import annotations

from functools import lru_cache

import h11
import httptools
from strict_reader import Fields, Message, Unsound, read_requests

# llhttp knows its methods by name, and no others (RFC 9110 §9.1 lets anybody define one).
KNOWN_TO_LLHTTP = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"PATCH"})
LARGEST_HEAD = 1 << 20


class Disagreement(Exception):  # noqa: N818 - it says what the readers are in
    """The same bytes mean different things to different readers: what request smuggling lives on."""


@lru_cache(maxsize=50_000)
def agreed(data: bytes) -> tuple[tuple[Message, ...], bytes]:
    """The whole requests in what a proxy sent, and what is behind them: the start of another."""
    try:
        messages, end = read_requests(data, canonical=True)
    except Unsound as problem:
        raise Disagreement(f"strict: {problem}: {data!r}") from None
    for message in messages:
        piece = data[message.begin : message.end]
        for name, read in (("llhttp", _read_llhttp), ("h11", _read_h11)):
            wrong = read(piece, message)
            if wrong:
                raise Disagreement(f"{name}: {wrong}: {piece!r}")
    return tuple(messages), data[end:]


def _differs(message: Message, method: bytes, target: bytes, fields: Fields, body: bytes) -> str:
    if (method, target) != message.head.start[:2]:
        return f"reads {method!r} {target!r}"
    if fields != message.head.fields:
        return f"reads the fields {fields!r}"
    return f"reads the body {body!r}" if body != message.body else ""


class _Llhttp:
    """What llhttp reports."""

    def __init__(self) -> None:
        self.target = self.body = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.completed = 0

    def on_url(self, piece: bytes) -> None:
        self.target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.strip(b" \t")))

    def on_body(self, piece: bytes) -> None:
        self.body += piece

    def on_message_complete(self) -> None:
        self.completed += 1


def _read_llhttp(piece: bytes, message: Message) -> str:
    method = message.head.start[0]
    known = method if method in KNOWN_TO_LLHTTP else b"PUT"
    piece = known + piece[len(method) :]
    seen = _Llhttp()
    parser = httptools.HttpRequestParser(seen)
    try:
        parser.feed_data(piece[:-1])
        early = seen.completed
        parser.feed_data(piece[-1:])
        if early or seen.completed != 1:
            return f"{early} messages before the last byte, {seen.completed} after it"
        if parser.get_method() != known:
            return "reads another method"
    except (httptools.HttpParserError, httptools.HttpParserUpgrade) as problem:
        return f"refuses it: {problem!r}"
    return _differs(message, method, seen.target, tuple(seen.fields), seen.body)


def _read_h11(piece: bytes, message: Message) -> str:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=LARGEST_HEAD)
    try:
        connection.receive_data(piece[:-1])
        events = _events(connection)
        if any(isinstance(event, h11.EndOfMessage) for event in events):
            return "it ends before its last byte"
        connection.receive_data(piece[-1:])
        events += _events(connection)
    except h11.ProtocolError as problem:
        return f"refuses it: {problem}"
    request, end = events[0], events[-1]
    if not isinstance(request, h11.Request) or not isinstance(end, h11.EndOfMessage):
        return "it does not end with its last byte"
    if end.headers:
        return "it has trailers"
    body = b"".join(bytes(event.data) for event in events if isinstance(event, h11.Data))
    return _differs(message, request.method, request.target, tuple(request.headers), body)


def _events(connection: h11.Connection) -> list[object]:
    events: list[object] = []
    while not isinstance(event := connection.next_event(), type):  # NEED_DATA and PAUSED are types
        events.append(event)
        if isinstance(event, h11.EndOfMessage):
            break
    return events
