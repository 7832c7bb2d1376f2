"""Where a request ends, and what is behind it: rows 6, 7, 16 and 17 of the threat list. How to read it: `rows.py`."""

from __future__ import annotations

from rows import GET_SENT, TE, Row, Verdicts, broken, chunked, get, message, post, posted, sent, streamed, waits

BODY = b"4\r\nbody\r\n0\r\n\r\n"

# Row 6: the sizes of chunks, their extensions and their ends. What is wrong there is no longer a head: see `broken`.
# name, the body on the wire, verdict
_CHUNKS: tuple[tuple[str, bytes, Verdicts], ...] = (
    ("one", b"4\r\nbody\r\n0\r\n\r\n", streamed(b"body")),
    ("two", b"2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n", streamed(b"body")),
    ("none", b"0\r\n\r\n", streamed(b"")),
    ("lower case", b"a\r\n0123456789\r\n0\r\n\r\n", streamed(b"0123456789")),
    ("upper case", b"A\r\n0123456789\r\n0\r\n\r\n", streamed(b"0123456789")),
    ("leading zeros", b"0004\r\nbody\r\n000\r\n\r\n", streamed(b"body")),
    ("sixteen digits", b"0000000000000004\r\nbody\r\n0\r\n\r\n", streamed(b"body")),
    ("payload that looks like framing", b"7\r\n0\r\n\r\nab\r\n0\r\n\r\n", streamed(b"0\r\n\r\nab")),
    ("extension without a value", b"4;a\r\nbody\r\n0;b\r\n\r\n", streamed(b"body")),
    ("extension", b"4;a=b\r\nbody\r\n0\r\n\r\n", streamed(b"body")),
    ("quoted extension", b'4;a="b;c"\r\nbody\r\n0\r\n\r\n', streamed(b"body")),
    ("extension of 200 bytes", b"4;" + b"a" * 200 + b"\r\nbody\r\n0\r\n\r\n", streamed(b"body")),
    ("extension of 300 bytes", b"4;" + b"a" * 300 + b"\r\nbody\r\n0\r\n\r\n", broken(400)),
    ("extension without an end", b"4;" + b"a" * 400, broken(400)),
    ("extension with a bare CR", b"4;a\rb\r\nbody\r\n0\r\n\r\n", broken(400)),
    ("extension with a bare LF", b"4;a\nbody\r\n0\r\n\r\n", broken(400)),
    ("extension with a NUL", b"4;a\x00\r\nbody\r\n0\r\n\r\n", broken(400)),
    ("size and a bare LF", b"4\nbody\r\n0\r\n\r\n", broken(400)),
    ("size and a bare CR", b"4\rbody\r\n0\r\n\r\n", broken(400)),
    ("size and two CRs", b"4\r\r\nbody\r\n0\r\n\r\n", broken(400)),
    ("no size", b"\r\nbody\r\n0\r\n\r\n", broken(400)),
    ("only an extension", b";a\r\nbody\r\n0\r\n\r\n", broken(400)),
    ("a space before the size", b" 4\r\nbody\r\n0\r\n\r\n", broken(400)),
    ("a space behind the size", b"4 \r\nbody\r\n0\r\n\r\n", broken(400)),
    ("a space before the extension", b"4 ;a\r\nbody\r\n0\r\n\r\n", broken(400)),
    ("a tab behind the size", b"4\t\r\nbody\r\n0\r\n\r\n", broken(400)),
    ("a plus", b"+4\r\nbody\r\n0\r\n\r\n", broken(400)),
    ("a minus", b"-4\r\nbody\r\n0\r\n\r\n", broken(400)),
    ("minus nothing", b"4\r\nbody\r\n-0\r\n\r\n", broken(400)),
    ("hex with a prefix", b"0x4\r\nbody\r\n0\r\n\r\n", broken(400)),
    ("an underscore", b"0_4\r\nbody\r\n0\r\n\r\n", broken(400)),
    ("a letter that is no digit", b"g\r\nbody\r\n0\r\n\r\n", broken(400)),
    ("a digit of another script", b"\xd9\xa4\r\nbody\r\n0\r\n\r\n", broken(400)),
    ("seventeen digits", b"00000000000000004\r\nbody\r\n0\r\n\r\n", broken(400)),
    ("2**64 + 4", b"10000000000000004\r\nbody\r\n0\r\n\r\n", broken(400)),
    ("2**64 - 1", b"ffffffffffffffff\r\nbody\r\n0\r\n\r\n", waits),
    ("longer than it says", b"2\r\nbody\r\n0\r\n\r\n", broken(400)),
    ("shorter than it says", b"6\r\nbody\r\n0\r\n\r\n", broken(400)),
    ("no line end behind the payload", b"4\r\nbody0\r\n\r\n", broken(400)),
    ("LF behind the payload", b"4\r\nbody\n0\r\n\r\n", broken(400)),
    ("CR behind the payload", b"4\r\nbody\r0\r\n\r\n", broken(400)),
    ("LF at the end", b"4\r\nbody\r\n0\r\n\n", broken(400)),
    ("LFs at the end", b"4\r\nbody\r\n0\n\n", broken(400)),
    ("two CRs at the end", b"4\r\nbody\r\n0\r\n\r\r\n", broken(400)),
    ("no last chunk", b"4\r\nbody\r\n", waits),
    ("no empty line at the end", b"4\r\nbody\r\n0\r\n", waits),
    ("the half of the empty line", b"4\r\nbody\r\n0\r\n\r", waits),
)
CHUNKS = [Row(name, chunked(body), verdict, "row 6; RFC 9112 §7.1") for name, body, verdict in _CHUNKS]

# Row 7: trailers are read, checked and dropped.
# name, the trailer section, verdict
_TRAILERS: tuple[tuple[str, bytes, Verdicts], ...] = (
    ("one", b"A: b\r\n", streamed(b"body")),
    ("Host", b"Host: evil\r\n", streamed(b"body")),
    ("Content-Length", b"Content-Length: 400\r\n", streamed(b"body")),
    ("Transfer-Encoding", b"Transfer-Encoding: chunked\r\n", streamed(b"body")),
    ("Authorization", b"Authorization: Basic eDp5\r\n", streamed(b"body")),
    ("X-Forwarded-For", b"X-Forwarded-For: 127.0.0.1\r\n", streamed(b"body")),
    ("Connection", b"Connection: close\r\n", streamed(b"body")),
    ("a space before the colon", b"A : b\r\n", broken(400)),
    ("no colon", b"GET /b HTTP/1.1\r\n", broken(400)),
    ("no name", b": b\r\n", broken(400)),
    ("a folded line", b"A: b\r\n c\r\n", broken(400)),
    ("a bare LF", b"A: b\nB: c\r\n", broken(400)),
    ("a bare CR", b"A: b\rB: c\r\n", broken(400)),
    ("a NUL", b"A: \x00\r\n", broken(400)),
    ("9 KiB", b"A: " + b"b" * 9000 + b"\r\n", broken(400)),
)
TRAILERS = [
    *(
        Row(name, chunked(b"4\r\nbody\r\n0\r\n" + lines + b"\r\n"), verdict, "row 7; RFC 9112 §7.1.2")
        for name, lines, verdict in _TRAILERS
    ),
    Row(
        "announced",
        post(TE, "Trailer: A", body=b"4\r\nbody\r\n0\r\nA: b\r\n\r\n"),
        streamed(b"body"),
        "row 10: Trailer is this connection's alone",
    ),
    Row(
        "a request behind them",
        chunked(b"0\r\nA: b\r\n\r\n") + get(),
        (streamed(b""), GET_SENT),
        "row 7: they end with the empty line",
    ),
]

# Row 16: Expect, and lengths that only one side believes ("0.CL").
EXPECT = [
    Row(
        "100-continue",
        post("Expect: 100-continue", "Content-Length: 4", body=b"body"),
        posted(b"body"),
        "RFC 9110 §10.1.1",
    ),
    Row(
        "in capitals",
        post("Expect: 100-CONTINUE", "Content-Length: 4", body=b"body"),
        posted(b"body"),
        "RFC 9110 §10.1.1",
    ),
    Row("chunked", post("Expect: 100-continue", TE, body=BODY), streamed(b"body"), "RFC 9110 §10.1.1"),
    Row(
        "twice",
        post("Expect: 100-continue", "Expect: 100-continue", "Content-Length: 4", body=b"body"),
        posted(b"body"),
        "row 16",
    ),
    Row("without a body", get("Expect: 100-continue"), GET_SENT, "RFC 9110 §10.1.1: nothing to wait for"),
    Row("of nothing", post("Expect: 100-continue", "Content-Length: 0"), posted(b""), "row 16"),
    Row("unknown", post("Expect: magic", "Content-Length: 4", body=b"body"), 417, "RFC 9110 §10.1.1"),
    Row("empty", post("Expect:", "Content-Length: 4", body=b"body"), 417, "row 16"),
    Row("two words", post("Expect: y 100-continue", "Content-Length: 4", body=b"body"), 417, "row 16"),
    Row("a list", post("Expect: 100-continue, x", "Content-Length: 4", body=b"body"), 417, "row 16"),
    Row(
        "known, then unknown",
        post("Expect: 100-continue", "Expect: x", "Content-Length: 4", body=b"body"),
        417,
        "row 16",
    ),
    Row("folded", post("Expect:", " 100-continue", "Content-Length: 4", body=b"body"), 400, "RFC 9112 §5.2"),
    Row(
        "in HTTP/1.0",
        message("POST /a HTTP/1.0", "Host: shop", "Expect: 100-continue", "Content-Length: 4", body=b"body"),
        sent("POST /a", body=b"body", length=4, minor=0),
        "RFC 9110 §10.1.1: ignored in 1.0",
    ),
    Row("the body never comes", post("Expect: 100-continue", "Content-Length: 4"), waits, "row 16"),
    Row(
        "a request where the body should be",
        post("Expect: 100-continue", f"Content-Length: {len(get())}") + get() + get(),
        (posted(get()), GET_SENT),
        "row 16: what was announced is body, whatever it looks like",
    ),
]

# Row 17: one at a time, in order, none swallowed and none made up.
PIPELINED = [
    Row("two", get() + get(), (GET_SENT, GET_SENT), "RFC 9112 §9.3.2"),
    Row("five", get() * 5, (GET_SENT,) * 5, "RFC 9112 §9.3.2"),
    Row(
        "behind a length", post("Content-Length: 4", body=b"body") + get(), (posted(b"body"), GET_SENT), "RFC 9112 §6.3"
    ),
    Row("behind chunks", chunked(BODY) + get(), (streamed(b"body"), GET_SENT), "RFC 9112 §7.1"),
    Row("behind a HEAD", message("HEAD /a HTTP/1.1", "Host: shop") + get(), (sent("HEAD /a"), GET_SENT), "row 14"),
    Row("behind the last", get("Connection: close") + get(), GET_SENT, "RFC 9112 §9.6: the rest is not read"),
    Row("behind HTTP/1.0", message("GET /a HTTP/1.0", "Host: shop") + get(), sent("GET /a", minor=0), "RFC 9112 §9.3"),
    Row("garbage", get() + b"garbage\r\n\r\n", (GET_SENT, 400), "RFC 9112 §3"),
    Row("then one refused", get() + get("A: b\x00") + get(), (GET_SENT, 400), "row 4: nothing behind it is read"),
    Row("one refused first", get("A: b\x00") + get(), 400, "row 4: nothing behind it is read"),
    Row("half of one", get() + get()[:20], (GET_SENT, waits), "row 17"),
    Row("an empty line before", b"\r\n" + get(), GET_SENT, "RFC 9112 §2.2"),
    Row("two empty lines before", b"\r\n\r\n" + get(), GET_SENT, "RFC 9112 §2.2: at least one"),
    Row("three empty lines before", b"\r\n\r\n\r\n" + get(), GET_SENT, "RFC 9112 §2.2: at least one"),
    Row("an empty line between", get() + b"\r\n" + get(), (GET_SENT, GET_SENT), "RFC 9112 §2.2"),
    Row("an empty line behind", get() + b"\r\n", GET_SENT, "RFC 9112 §2.2"),
    Row("a bare LF between", get() + b"\n" + get(), (GET_SENT, 400), "row 4"),
    Row("a bare CR between", get() + b"\r" + get(), (GET_SENT, 400), "row 4"),
    Row("a NUL between", get() + b"\x00" + get(), (GET_SENT, 400), "row 4"),
    Row("a space between", get() + b" " + get(), (GET_SENT, 400), "RFC 9112 §2.2"),
]

FAMILIES = {
    "row 6: chunks": CHUNKS,
    "row 7: trailers": TRAILERS,
    "row 16: Expect": EXPECT,
    "row 17: pipelining": PIPELINED,
}
