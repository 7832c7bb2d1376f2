"""What an upstream may say, and what becomes of it: rows 12, 13 and 14 of the threat list, and the framing of rows 1
to 7 seen from the other side.

A verdict on a response is one of:

- `passed(200, b"ok")`: the client gets this status and body. `kept` says whether the upstream connection may carry
  another request; `fields` must be among the client's.
- `bad`: a 502 if nothing had been passed on yet, otherwise the client's connection is cut where the response broke; the
  upstream connection is used no more.
- `unfinished`: the end has not come, and may still.

`ends` says that the upstream closes behind it.
"""

from __future__ import annotations

from typing import NamedTuple

from rows import message


class Passed(NamedTuple):
    status: int
    body: bytes
    kept: bool
    fields: tuple[tuple[bytes, bytes], ...]


class Bad(NamedTuple):
    pass


class Unfinished(NamedTuple):
    pass


Outcome = Passed | Bad | Unfinished
bad = Bad()
unfinished = Unfinished()


def passed(status: int = 200, body: bytes = b"ok", *fields: tuple[bytes, bytes], kept: bool = True) -> Passed:
    return Passed(status, body, kept, fields)


class Answer(NamedTuple):
    """One response of the corpus, or several."""

    name: str
    data: bytes
    outcome: Outcome
    why: str
    method: bytes = b"GET"
    ends: bool = False


LENGTH = "Content-Length: 2"
TE = "Transfer-Encoding: chunked"
CHUNKED_OK = b"2\r\nok\r\n0\r\n\r\n"
OK = message("HTTP/1.1 200 OK", LENGTH, body=b"ok")
KEPT = passed()
ONCE = passed(kept=False)


def ok(*fields: str, body: bytes = b"ok") -> bytes:
    return message("HTTP/1.1 200 OK", LENGTH, *fields, body=body)


def streamed(body: bytes) -> bytes:
    return message("HTTP/1.1 200 OK", TE, body=body)


# Rows 1 to 3 from the other side: where a response ends (RFC 9112 §6.3).
# name, the framing fields, body on the wire, outcome, whether the upstream closes then
_FRAMING: tuple[tuple[str, tuple[str, ...], bytes, Outcome, bool], ...] = (
    ("a length", (LENGTH,), b"ok", KEPT, False),
    ("leading zeros", ("Content-Length: 002",), b"ok", KEPT, False),
    ("a length of 0", ("Content-Length: 0",), b"", passed(body=b""), False),
    ("chunked", (TE,), CHUNKED_OK, KEPT, False),
    ("chunked in capitals", ("Transfer-Encoding: CHUNKED",), CHUNKED_OK, KEPT, False),
    ("until the close", (), b"ok", ONCE, True),
    ("until the close, empty", (), b"", passed(body=b"", kept=False), True),
    ("until a close that does not come", (), b"ok", unfinished, False),
    ("both", (LENGTH, TE), CHUNKED_OK, bad, False),
    ("both, the other way round", (TE, LENGTH), CHUNKED_OK, bad, False),
    ("two lengths", (LENGTH, "Content-Length: 3"), b"ok", bad, False),
    ("the same length twice", (LENGTH, LENGTH), b"ok", bad, False),
    ("a list of lengths", ("Content-Length: 2, 2",), b"ok", bad, False),
    ("no length", ("Content-Length:",), b"ok", bad, False),
    ("a negative length", ("Content-Length: -2",), b"ok", bad, False),
    ("a signed length", ("Content-Length: +2",), b"ok", bad, False),
    ("a hex length", ("Content-Length: 0x2",), b"ok", bad, False),
    ("a length of 2**64 + 2", ("Content-Length: 18446744073709551618",), b"ok", bad, False),
    ("a length of another script", ("Content-Length: \xd9\xa2",), b"ok", bad, False),
    ("a space before the colon", ("Content-Length : 2",), b"ok", bad, False),
    ("gzip", ("Transfer-Encoding: gzip",), b"ok", bad, True),
    ("gzip, chunked", ("Transfer-Encoding: gzip, chunked",), CHUNKED_OK, bad, False),
    ("chunked twice", (TE, TE), CHUNKED_OK, bad, False),
    ("identity", ("Transfer-Encoding: identity",), b"ok", bad, True),
    ("a folded coding", ("Transfer-Encoding:", " chunked"), CHUNKED_OK, bad, False),
    ("a vertical tab and chunked", ("Transfer-Encoding: \x0bchunked",), CHUNKED_OK, bad, False),
    ("shorter than its length", ("Content-Length: 3",), b"ok", bad, True),
    ("much shorter than its length", ("Content-Length: 3000",), b"", bad, True),
    ("not yet as long as its length", ("Content-Length: 3",), b"ok", unfinished, False),
    ("the close before the head's end", (LENGTH + "\r\nA",), b"", bad, True),
)
FRAMING = [
    Answer(name, message("HTTP/1.1 200 OK", *fields, body=body), outcome, "RFC 9112 §6.3", ends=ends)
    for name, fields, body, outcome, ends in _FRAMING
]

# Rows 6 and 7 from the other side.
# name, body on the wire, outcome
_CHUNKS: tuple[tuple[str, bytes, Outcome], ...] = (
    ("two chunks", b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n", KEPT),
    ("none", b"0\r\n\r\n", passed(body=b"")),
    ("an extension", b"2;a=b\r\nok\r\n0;c\r\n\r\n", KEPT),
    ("a trailer", b"2\r\nok\r\n0\r\nA: b\r\n\r\n", KEPT),
    ("Content-Length in a trailer", b"2\r\nok\r\n0\r\nContent-Length: 9\r\n\r\n", KEPT),
    ("Connection in a trailer", b"2\r\nok\r\n0\r\nConnection: close\r\n\r\n", KEPT),
    ("a trailer without a colon", b"2\r\nok\r\n0\r\nA\r\n\r\n", bad),
    ("a trailer with a NUL", b"2\r\nok\r\n0\r\nA: \x00\r\n\r\n", bad),
    ("9 KiB of trailers", b"2\r\nok\r\n0\r\nA: " + b"b" * 9000 + b"\r\n\r\n", bad),
    ("an extension of 300 bytes", b"2;" + b"a" * 300 + b"\r\nok\r\n0\r\n\r\n", bad),
    ("LF behind the size", b"2\nok\r\n0\r\n\r\n", bad),
    ("LF behind the payload", b"2\r\nok\n0\r\n\r\n", bad),
    ("nothing behind the payload", b"2\r\nok0\r\n\r\n", bad),
    ("longer than it says", b"1\r\nok\r\n0\r\n\r\n", bad),
    ("a size that is none", b"ok\r\n0\r\n\r\n", bad),
    ("a negative size", b"-2\r\nok\r\n0\r\n\r\n", bad),
    ("a space behind the size", b"2 \r\nok\r\n0\r\n\r\n", bad),
    ("no size", b"\r\nok\r\n0\r\n\r\n", bad),
    ("no last chunk yet", b"2\r\nok\r\n", unfinished),
)
CHUNKS = [Answer(name, streamed(body), outcome, "rows 6, 7; RFC 9112 §7.1") for name, body, outcome in _CHUNKS] + [
    Answer("the close before the last chunk", streamed(b"2\r\nok\r\n"), bad, "RFC 9112 §8", ends=True),
    Answer("the close in a chunk", streamed(b"4\r\nok"), bad, "RFC 9112 §8", ends=True),
    Answer("the close before the last empty line", streamed(b"2\r\nok\r\n0\r\n"), bad, "RFC 9112 §8", ends=True),
]

# Row 12 from the other side: no line end, NUL or escape sequence of an upstream reaches a client.
_CONTROLS = (0x00, 0x01, 0x08, 0x0A, 0x0B, 0x0C, 0x0D, 0x0E, 0x1B, 0x7F)
_PLACES: tuple[tuple[str, bytes], ...] = (
    ("in the reason", b"HTTP/1.1 200 O%bK\r\nContent-Length: 2\r\n\r\nok"),
    ("in a name", b"HTTP/1.1 200 OK\r\nA%bB: c\r\nContent-Length: 2\r\n\r\nok"),
    ("in a value", b"HTTP/1.1 200 OK\r\nA: b%bc\r\nContent-Length: 2\r\n\r\nok"),
    ("in the version", b"HTTP/1%b.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
)
# the status line, outcome
_STATUS_LINES: tuple[tuple[str, Outcome], ...] = (
    ("HTTP/1.1 200 OK", KEPT),
    ("HTTP/1.1 200 ", KEPT),
    ("HTTP/1.1 200", KEPT),  # without the space, which RFC 9112 §4 wants: common, and clear
    ("HTTP/1.1 200 All is  well", KEPT),
    ("HTTP/1.1 200 \xe9", KEPT),
    ("HTTP/1.1 599 ", passed(599)),
    ("HTTP/1.0 200 OK", ONCE),
    ("HTTP/1.1 099 ", bad),
    ("HTTP/1.1 000 ", bad),
    ("HTTP/1.1 20 OK", bad),
    ("HTTP/1.1 2000 OK", bad),
    ("HTTP/1.1 +20 OK", bad),
    ("HTTP/1.1 2e2 OK", bad),
    ("HTTP/1.1  200 OK", bad),
    ("HTTP/1.1\t200 OK", bad),
    ("HTTP/1.1 200OK", bad),
    ("HTTP/1.1 \xb2\xb0\xb0 OK", bad),
    ("HTTP/2 200 OK", bad),
    ("HTTP/2.0 200 OK", bad),
    ("HTTP/1.2 200 OK", bad),
    ("HTTP/0.9 200 OK", bad),
    ("HTTP/1.10 200 OK", bad),
    ("http/1.1 200 OK", bad),
    (" HTTP/1.1 200 OK", bad),
    ("HTTP/1.1", bad),
    ("ICY 200 OK", bad),
    ("200 OK", bad),
    ("GET / HTTP/1.1", bad),
    ("<html>", bad),
    ("", bad),
)
HEADS = [
    *(
        Answer(f"0x{byte:02x} {where}", head % bytes((byte,)), bad, "row 12; RFC 9112 §2.2")
        for where, head in _PLACES
        for byte in _CONTROLS
    ),
    *(
        Answer(f"line {line!r}", message(line, LENGTH, body=b"ok"), outcome, "RFC 9112 §4")
        for line, outcome in _STATUS_LINES
    ),
    Answer("LF everywhere", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", bad, "RFC 9112 §2.2", ends=True),
    Answer("LF at the end", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nok", bad, "RFC 9112 §2.2", ends=True),
    Answer("a folded line", ok("A: b", " c"), bad, "RFC 9112 §5.2"),
    Answer("a space before the colon", ok("A : b"), bad, "RFC 9112 §5.1"),
    Answer("no colon", ok("A"), bad, "RFC 9112 §5"),
    Answer("no name", ok(": b"), bad, "RFC 9112 §5"),
    Answer("no value", ok("A:"), passed(200, b"ok", (b"a", b"")), "RFC 9110 §5.5"),
    Answer("bytes above 127", ok("A: \xe9"), passed(200, b"ok", (b"a", b"\xe9")), "RFC 9110 §5.5"),
    Answer(
        "two cookies",
        ok("Set-Cookie: a", "Set-Cookie: b"),
        passed(200, b"ok", (b"set-cookie", b"a"), (b"set-cookie", b"b")),
        "RFC 9110 §5.3",
    ),
    Answer("a value past the limit", ok("A: " + "b" * 9000), bad, "row 18"),
    Answer("101 fields", ok(*["A: b"] * 101), bad, "row 18"),
    Answer("a head without an end", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 12_000, bad, "row 18"),
    Answer("nothing", b"", bad, "RFC 9110 §15.6.3", ends=True),
    Answer("half a status line", b"HTTP/1.1 2", bad, "RFC 9112 §8", ends=True),
    Answer("half a head", OK[:30], unfinished, "RFC 9112 §2.1"),
]

# Row 13: what must never be reused, and never reach another request.
REUSE = [
    Answer("close", ok("Connection: close"), ONCE, "row 13; RFC 9112 §9.6"),
    Answer("CLOSE", ok("Connection: CLOSE"), ONCE, "row 13; RFC 9110 §7.6.1"),
    Answer("close in a list", ok("Connection: A, close", "A: b"), ONCE, "row 13"),
    Answer("close and keep-alive", ok("Connection: keep-alive, close"), ONCE, "row 13: close wins"),
    Answer("close in a second line", ok("Connection: keep-alive", "Connection: close"), ONCE, "row 13"),
    Answer("keep-alive", ok("Connection: keep-alive"), KEPT, "RFC 9112 §9.3"),
    Answer("a hint of 0", ok("Keep-Alive: timeout=0"), ONCE, "row 13: it says it will close"),
    Answer("a hint of an hour", ok("Keep-Alive: timeout=3600"), KEPT, "RFC 9112 §9.3"),
    Answer("close names a field", ok("Connection: A", "A: b"), KEPT, "RFC 9110 §7.6.1"),
    Answer(
        "HTTP/1.0, kept open",
        message("HTTP/1.0 200 OK", LENGTH, "Connection: keep-alive", body=b"ok"),
        KEPT,
        "RFC 9112 §9.3",
    ),
    Answer("the close right behind it", OK, ONCE, "row 13", ends=True),
    Answer("two answers", OK + OK, ONCE, "row 13: response queue poisoning"),
    Answer("two answers, the second a 404", OK + message("HTTP/1.1 404 ", LENGTH, body=b"no"), ONCE, "row 13"),
    Answer("half of a second answer", OK + OK[:20], ONCE, "row 13"),
    Answer("one byte too many", OK + b"!", ONCE, "row 13"),
    Answer("an empty line too many", OK + b"\r\n", ONCE, "row 13"),
    Answer("a NUL too many", OK + b"\x00", ONCE, "row 13"),
    Answer("longer than its length", ok(body=b"okay"), ONCE, "row 13"),
    Answer("two chunked answers", streamed(CHUNKED_OK) * 2, ONCE, "row 13"),
    Answer("bytes behind the last chunk", streamed(CHUNKED_OK + b"0\r\n\r\n"), ONCE, "row 13"),
    Answer("a 408 behind it", OK + message("HTTP/1.1 408 ", "Content-Length: 0", "Connection: close"), ONCE, "row 13"),
    Answer("a 100 behind it", OK + message("HTTP/1.1 100 "), ONCE, "row 13: Go's 100-continue"),
    Answer("an underscore in a name", ok("A_b: c"), KEPT, "row 11: dropped"),
]

# Row 14: what the answer means depends on the question.
BODILESS = [
    Answer("HEAD with a length", ok(body=b""), passed(body=b""), "RFC 9110 §9.3.2", b"HEAD"),
    Answer(
        "HEAD with a long length",
        message("HTTP/1.1 200 OK", "Content-Length: 999999"),
        passed(body=b""),
        "RFC 9110 §9.3.2",
        b"HEAD",
    ),
    Answer("HEAD with chunked", message("HTTP/1.1 200 OK", TE), passed(body=b""), "RFC 9110 §9.3.2", b"HEAD"),
    Answer("HEAD with nothing", message("HTTP/1.1 200 OK"), passed(body=b""), "RFC 9110 §9.3.2", b"HEAD"),
    Answer("HEAD with a body", ok(), passed(body=b"", kept=False), "row 14: the body is not the next answer", b"HEAD"),
    Answer("HEAD with chunks", streamed(CHUNKED_OK), passed(body=b"", kept=False), "row 14", b"HEAD"),
    Answer("HEAD with an answer behind it", ok(body=b"") + OK, passed(body=b"", kept=False), "row 14", b"HEAD"),
    Answer("204", message("HTTP/1.1 204 "), passed(204, b""), "RFC 9110 §15.3.5"),
    Answer("204 with a body", message("HTTP/1.1 204 ", body=b"no"), passed(204, b"", kept=False), "row 14"),
    Answer(
        "204 with a length and a body",
        message("HTTP/1.1 204 ", LENGTH, body=b"no"),
        passed(204, b"", kept=False),
        "row 14",
    ),
    Answer("204 with chunks", message("HTTP/1.1 204 ", TE, body=CHUNKED_OK), passed(204, b"", kept=False), "row 14"),
    Answer("204 with an answer behind it", message("HTTP/1.1 204 ") + OK, passed(204, b"", kept=False), "row 14"),
    Answer("304", message("HTTP/1.1 304 ", "ETag: a"), passed(304, b"", (b"etag", b"a")), "RFC 9110 §15.4.5"),
    Answer("304 with a length", message("HTTP/1.1 304 ", "Content-Length: 9"), passed(304, b""), "RFC 9112 §6.3"),
    Answer("304 with a body", message("HTTP/1.1 304 ", LENGTH, body=b"no"), passed(304, b"", kept=False), "row 14"),
    Answer("205", message("HTTP/1.1 205 ", "Content-Length: 0"), passed(205, b""), "RFC 9110 §15.3.6"),
    Answer("100 and an answer", message("HTTP/1.1 100 Continue") + OK, KEPT, "RFC 9110 §15.2"),
    Answer("103 and an answer", message("HTTP/1.1 103 ", "Link: a") + OK, KEPT, "RFC 8297 §2"),
    Answer("102 ten times and an answer", message("HTTP/1.1 102 ") * 10 + OK, KEPT, "RFC 9110 §15.2"),
    Answer("199 and an answer", message("HTTP/1.1 199 ") + OK, KEPT, "RFC 9110 §15.2: treated as any 1xx"),
    Answer("100 without an end", message("HTTP/1.1 100 ", "A: " + "b" * 1000) * 80, bad, "row 14: a flood of them"),
    Answer("only a 100", message("HTTP/1.1 100 "), unfinished, "RFC 9110 §15.2"),
    Answer("a 100 and the close", message("HTTP/1.1 100 "), bad, "RFC 9110 §15.2", ends=True),
    Answer("a 100 with a bare LF", b"HTTP/1.1 100 \n\r\n" + OK, bad, "RFC 9112 §2.2"),
    Answer(
        "101 unasked",
        message("HTTP/1.1 101 ", "Connection: Upgrade", "Upgrade: websocket"),
        bad,
        "row 15; RFC 9110 §15.2.2",
    ),
    Answer("101 unasked, and bytes", message("HTTP/1.1 101 ", "Upgrade: h2c", body=b"\x00\x00\x00"), bad, "row 15"),
    Answer("a 100, then a 101", message("HTTP/1.1 100 ") + message("HTTP/1.1 101 "), bad, "row 15"),
    Answer("200 with Upgrade", ok("Connection: Upgrade", "Upgrade: websocket"), KEPT, "row 15: dropped, no tunnel"),
    Answer(
        "426",
        message("HTTP/1.1 426 ", LENGTH, "Connection: Upgrade", "Upgrade: TLS/1.0", body=b"no"),
        passed(426, b"no"),
        "RFC 9110 §15.5.22",
    ),
]

FAMILIES = {
    "rows 1 to 3: framing": FRAMING,
    "rows 6 and 7: chunks and trailers": CHUNKS,
    "row 12: heads": HEADS,
    "row 13: reuse": REUSE,
    "row 14: answers without a body": BODILESS,
}
