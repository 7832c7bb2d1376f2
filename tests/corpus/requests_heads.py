"""How a head is spelled, and how long it is: rows 4, 5, 12 and 18 of the threat list. How to read a row: `rows.py`."""

from __future__ import annotations

from rows import GET_SENT, Row, Verdicts, get, message, sent, waits

HOST = "Host: shop"

# Row 4: lines end in CRLF, and nothing else steers a terminal, a log or another parser.
_CONTROLS = (0x00, 0x01, 0x07, 0x08, 0x0A, 0x0B, 0x0C, 0x0D, 0x0E, 0x1B, 0x1F, 0x7F)
# where, the head with a place for one byte
_PLACES: tuple[tuple[str, bytes], ...] = (
    ("before the method", b"%bGET /a HTTP/1.1\r\nHost: shop\r\n\r\n"),
    ("in the method", b"G%bET /a HTTP/1.1\r\nHost: shop\r\n\r\n"),
    ("in the target", b"GET /%ba HTTP/1.1\r\nHost: shop\r\n\r\n"),
    ("in the version", b"GET /a HTTP/1%b.1\r\nHost: shop\r\n\r\n"),
    ("in a name", b"GET /a HTTP/1.1\r\nHost: shop\r\nA%bB: c\r\n\r\n"),
    ("in a value", b"GET /a HTTP/1.1\r\nHost: shop\r\nA: b%bc\r\n\r\n"),
    ("in Host", b"GET /a HTTP/1.1\r\nHost: sh%bop\r\n\r\n"),
)
# name, bytes, verdict, why
_LINES: tuple[tuple[str, bytes, Verdicts, str], ...] = (
    ("LF everywhere", b"GET /a HTTP/1.1\nHost: shop\n\n", 400, "RFC 9112 §2.2"),
    ("LF behind the request line", b"GET /a HTTP/1.1\nHost: shop\r\n\r\n", 400, "llhttp issue 877"),
    ("LF behind a field", b"GET /a HTTP/1.1\r\nHost: shop\n\r\n", 400, "RFC 9112 §2.2"),
    ("LF at the end", b"GET /a HTTP/1.1\r\nHost: shop\r\n\n", 400, "RFC 9112 §2.2"),
    ("CR everywhere", b"GET /a HTTP/1.1\rHost: shop\r\r", 400, "RFC 9112 §2.2"),
    ("CR at the end", b"GET /a HTTP/1.1\r\nHost: shop\r\n\rA", 400, "RFC 9112 §2.2"),
    ("CR CR LF", b"GET /a HTTP/1.1\r\r\nHost: shop\r\n\r\n", 400, "RFC 9112 §2.2"),
    ("LF CR", b"GET /a HTTP/1.1\n\rHost: shop\n\r\n\r", 400, "RFC 9112 §2.2"),
    ("a folded line", get("A: b", " c"), 400, "RFC 9112 §5.2"),
    ("a line folded with a tab", get("A: b", "\tc"), 400, "RFC 9112 §5.2"),
    ("a folded line that is empty", get("A: b", " "), 400, "RFC 9112 §5.2"),
    ("a folded Host", message("GET /a HTTP/1.1", "Host:", " shop"), 400, "RFC 9112 §5.2"),
    ("the first line is folded", message("GET /a HTTP/1.1", " A: b", HOST), 400, "RFC 9112 §2.2"),
    ("a space before the colon", get("A : b"), 400, "RFC 9112 §5.1"),
    ("no colon", get("A"), 400, "RFC 9112 §5"),
    ("no name", get(": b"), 400, "CVE-2023-25725"),
    ("only a colon", get(":"), 400, "CVE-2023-25725"),
    ("no value", get("A:"), sent("GET /a", "A:"), "RFC 9110 §5.5"),
    ("a colon in the value", get("A: b:c"), sent("GET /a", "A: b:c"), "RFC 9110 §5.5"),
    ("a tab in the value", get("A: b\tc"), sent("GET /a", "A: b\tc"), "RFC 9110 §5.5"),
    ("bytes above 127 in the value", get("A: \xe9\xff"), sent("GET /a", "A: \xe9\xff"), "RFC 9110 §5.5"),
    ("bytes above 127 in the name", get("\xe9: b"), 400, "RFC 9110 §5.1"),
    ("a parenthesis in the name", get("A(b): c"), 400, "RFC 9110 §5.1"),
    ("a quote in the name", get('A"b: c'), 400, "RFC 9110 §5.1"),
    ("a slash in the name", get("A/b: c"), 400, "RFC 9110 §5.1"),
    ("all that a name may be", get("!#$%&'*+-.^`|~0aZ: b"), sent("GET /a", "!#$%&'*+-.^`|~0aZ: b"), "RFC 9110 §5.6.2"),
    ("a request line where a field should be", get("GET /b HTTP/1.1"), 400, "RFC 9112 §5"),
    ("two spaces", message("GET  /a HTTP/1.1", HOST), 400, "RFC 9112 §3"),
    ("a tab for a space", message("GET\t/a HTTP/1.1", HOST), 400, "RFC 9112 §3"),
    ("a space before the method", message(" GET /a HTTP/1.1", HOST), 400, "RFC 9112 §2.2"),
    ("a space behind the version", message("GET /a HTTP/1.1 ", HOST), 400, "RFC 9112 §3"),
    ("four words", message("GET /a b HTTP/1.1", HOST), 400, "RFC 9112 §3"),
    ("a method that is no token", message("G@T /a HTTP/1.1", HOST), 400, "RFC 9110 §9.1"),
    ("a method with bytes above 127", message("G\xe9T /a HTTP/1.1", HOST), 400, "RFC 9110 §9.1"),
    ("only a method", message("GET", HOST), 400, "RFC 9112 §3"),
    ("only a line", b"GET /a HTTP/1.1\r\n", waits, "RFC 9112 §2.1"),
    ("no end", get()[:-2], waits, "RFC 9112 §2.1"),
    ("half an end", get()[:-1], waits, "RFC 9112 §2.1"),
)
CONTROLS = [
    *(
        Row(f"0x{byte:02x} {where}", head % bytes((byte,)), 400, "rows 4 and 12; RFC 9112 §2.2, RFC 9110 §5.5")
        for where, head in _PLACES
        for byte in _CONTROLS
    ),
    *(Row(name, data, verdict, f"row 4; {why}") for name, data, verdict, why in _LINES),
]

# Row 5: HTTP/1.0 and HTTP/1.1, spelled so.
# version, verdict
_VERSIONS: tuple[tuple[str, Verdicts], ...] = (
    ("HTTP/1.1", GET_SENT),
    ("HTTP/1.0", sent("GET /a", minor=0)),
    ("HTTP/0.9", 505),
    ("HTTP/1.2", 505),
    ("HTTP/1.9", 505),
    ("HTTP/2", 505),
    ("HTTP/2.0", 505),
    ("HTTP/3", 505),
    ("HTTP/9.9", 505),
    ("HTTP/1", 505),
    ("HTTP/1.", 400),
    ("HTTP/1.10", 400),
    ("HTTP/1.01", 400),
    ("HTTP/01.1", 400),
    ("HTTP/11", 400),
    ("HTTP/11.1", 400),
    ("HTTP/1,1", 400),
    ("HTTP/1.1a", 400),
    ("HTTP/a.b", 400),
    ("HTTP/-1.1", 400),
    ("HTTP/ 1.1", 400),
    ("HTTP /1.1", 400),
    ("HTTP1.1", 400),
    ("HTTP\\1.1", 400),
    ("HTTP//1.1", 400),
    ("http/1.1", 400),
    ("Http/1.1", 400),
    ("HTTPS/1.1", 400),
    ("HTP/1.1", 400),
    ("ICE/1.0", 400),
    ("RTSP/1.0", 400),
    ("", 400),
    ("1.1", 400),
    ("HTTP/\xb9.1", 400),
)
VERSIONS = [
    *(
        Row(f"version {version!r}", message(f"GET /a {version}", HOST), verdict, "row 5; RFC 9112 §2.3")
        for version, verdict in _VERSIONS
    ),
    Row("HTTP/0.9", b"GET /a\r\n\r\n", 400, "row 5: no version, no fields"),
    Row("no version, but fields", message("GET /a", HOST), 400, "row 5; llhttp issue 877"),
    Row(
        "no version, LF, fields and a body",
        b"POST /a\nHost: shop\r\nContent-Length: 4\r\n\r\nbody",
        400,
        "llhttp issue 877",
    ),
    Row("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "row 5; RFC 9113 §3.4"),
    Row("a TLS ClientHello", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03\r\n\r\n", 400, "row 5"),
    Row(
        "a PROXY header", b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n" + get(), 400, "row 11: nobody may say who the peer is"
    ),
    Row("a response", b"HTTP/1.1 200 OK\r\nHost: shop\r\n\r\n", 400, "RFC 9112 §3"),
    Row("SMTP", b"EHLO shop\r\nMAIL FROM:<a@b>\r\n\r\n", 400, "row 5"),
]

# Row 18: limits, the defaults: 8 KiB a line, 64 KiB a head, 100 fields.
LONG_LINE = 8 * 1024
LIMITS = [
    Row(
        "a target near the limit",
        message("GET /" + "a" * (LONG_LINE - 20) + " HTTP/1.1", HOST),
        sent("GET /" + "a" * (LONG_LINE - 20)),
        "row 18",
    ),
    Row(
        "a target past the limit",
        message("GET /" + "a" * LONG_LINE + " HTTP/1.1", HOST),
        414,
        "row 18; RFC 9110 §15.5.15",
    ),
    Row("a target without an end", b"GET /" + b"a" * 10_000, 414, "row 18"),
    Row("a method without an end", b"A" * 10_000, 414, "row 18"),
    Row(
        "a value near the limit",
        get("A: " + "b" * (LONG_LINE - 10)),
        sent("GET /a", "A: " + "b" * (LONG_LINE - 10)),
        "row 18",
    ),
    Row("a value past the limit", get("A: " + "b" * LONG_LINE), 431, "row 18; RFC 6585 §5"),
    Row("a name past the limit", get("A" * LONG_LINE + ": b"), 431, "row 18; RFC 6585 §5"),
    Row("a value without an end", get()[:-2] + b"A: " + b"b" * 70_000, 431, "row 18; RFC 6585 §5"),
    Row("100 fields", get(*["A: b"] * 99), sent("GET /a", *["A: b"] * 99), "row 18"),
    Row("101 fields", get(*["A: b"] * 100), 431, "row 18; RFC 6585 §5"),
    Row("empty lines without an end", b"A: b\r\n" * 20_000, 431, "row 18"),
    Row("a head past the limit", get(*["A: " + "b" * 7000] * 10), 431, "row 18; RFC 6585 §5"),
]

FAMILIES = {
    "row 4: line ends and controls": CONTROLS,
    "row 5: versions": VERSIONS,
    "row 18: limits": LIMITS,
}
