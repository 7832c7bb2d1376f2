"""How long a request says it is: rows 1, 2 and 3 of the threat list. How to read a row: `rows.py`."""

from __future__ import annotations

from rows import GET_SENT, TE, Row, Verdicts, get, message, post, posted, sent, streamed, waits

BODY = b"4\r\nbody\r\n0\r\n\r\n"

# Row 1: both Content-Length and Transfer-Encoding. RFC 9112 §6.1 lets a server refuse; a proxy that guesses, smuggles.
# name, the two lines, in this order
_BOTH: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("length first", ("Content-Length: 14", TE)),
    ("chunked first", (TE, "Content-Length: 14")),
    ("length of nothing", ("Content-Length: 0", TE)),
    ("chunked, then length of nothing", (TE, "Content-Length: 0")),
    ("short length", ("Content-Length: 3", TE)),
    ("long length", ("Content-Length: 4000", TE)),
    ("lower case", ("content-length: 14", "transfer-encoding: chunked")),
    ("upper case", ("CONTENT-LENGTH: 14", "TRANSFER-ENCODING: CHUNKED")),
    ("mixed case", ("cOnTeNt-LeNgTh: 14", "tRaNsFeR-eNcOdInG: ChUnKeD")),
    ("tabs before the values", ("Content-Length:\t14", "Transfer-Encoding:\tchunked")),
    ("tabs behind the values", ("Content-Length: 14\t", "Transfer-Encoding: chunked\t")),
    ("no space before the values", ("Content-Length:14", "Transfer-Encoding:chunked")),
    ("a field between them", ("Content-Length: 14", "A: b", TE)),
    ("two lengths", ("Content-Length: 14", TE, "Content-Length: 14")),
    ("two codings", (TE, "Content-Length: 14", TE)),
    ("identity", ("Content-Length: 14", "Transfer-Encoding: identity")),
    ("gzip", ("Content-Length: 14", "Transfer-Encoding: gzip")),
    ("gzip, chunked", ("Transfer-Encoding: gzip, chunked", "Content-Length: 14")),
    ("a coding that is none", ("Content-Length: 14", "Transfer-Encoding: xchunked")),
    ("a coding without a value", ("Content-Length: 14", "Transfer-Encoding:")),
    ("a quoted coding", ("Content-Length: 14", 'Transfer-Encoding: "chunked"')),
    ("a space before the colon of the coding", ("Content-Length: 14", "Transfer-Encoding : chunked")),
    ("a tab before the colon of the coding", ("Content-Length: 14", "Transfer-Encoding\t: chunked")),
    ("a space before the colon of the length", ("Content-Length : 14", TE)),
    ("a folded coding", ("Content-Length: 14", "Transfer-Encoding:", " chunked")),
    ("a coding folded with a tab", ("Content-Length: 14", "Transfer-Encoding:", "\tchunked")),
    ("a folded length", ("Content-Length:", " 14", TE)),
    ("a coding hidden in a folded line", ("Content-Length: 14", "A: b", " Transfer-Encoding: chunked")),
    ("a vertical tab before the coding", ("Content-Length: 14", "Transfer-Encoding: \x0bchunked")),
    ("a NUL behind the coding", ("Content-Length: 14", "Transfer-Encoding: chunked\x00")),
    ("a bare CR before the coding", ("Content-Length: 14", "A: b\rTransfer-Encoding: chunked")),
    ("a bare LF before the coding", ("Content-Length: 14", "A: b\nTransfer-Encoding: chunked")),
    ("a line that begins with a space", ("Content-Length: 14", " Transfer-Encoding: chunked")),
    ("Connection names the length", ("Connection: Content-Length", "Content-Length: 14", TE)),
    ("Connection names the coding", ("Connection: Transfer-Encoding", "Content-Length: 14", TE)),
)
CL_TE = [
    *(Row(name, post(*lines, body=BODY), 400, "row 1; RFC 9112 §6.1") for name, lines in _BOTH),
    Row(
        "both in HTTP/1.0",
        message("POST /a HTTP/1.0", "Host: shop", "Content-Length: 14", TE, body=BODY),
        400,
        "row 1; RFC 9112 §6.1",
    ),
    Row("both on a GET", get("Content-Length: 14", TE) + BODY, 400, "row 1; RFC 9112 §6.1"),
    Row(
        "CL.TE with a request behind it",
        post("Content-Length: 6", TE, body=b"0\r\n\r\nG"),
        400,
        "row 1: the G would begin the next client's request",
    ),
    Row(
        "TE.CL with a request in its chunk",
        post("Content-Length: 4", TE, body=b"1e\r\nGET /b HTTP/1.1\r\nHost: b\r\n\r\n\r\n0\r\n\r\n"),
        400,
        "row 1",
    ),
    Row(
        "a coding whose name has an underscore",
        post("Content-Length: 4", "Transfer_Encoding: chunked", body=b"body"),
        posted(b"body"),
        "row 11: such a name is dropped, so that no server can read it as the other",
    ),
    Row(
        "a length whose name has an underscore",
        post("Content_Length: 2", TE, body=BODY),
        streamed(b"body"),
        "row 11",
    ),
    Row(
        "another field whose name ends alike",
        post("X-Transfer-Encoding: chunked", "Content-Length: 4", body=b"body"),
        posted(b"body", "X-Transfer-Encoding: chunked"),
        "RFC 9110 §5.1: another name is another field",
    ),
]

# Row 2: one decimal number, written anew.
# value, verdict
_ONE_LENGTH: tuple[tuple[str, Verdicts], ...] = (
    ("4", posted(b"body")),
    ("04", posted(b"body")),
    ("000000000000004", posted(b"body")),
    ("4 ", posted(b"body")),
    ("4\t", posted(b"body")),
    ("\t 4", posted(b"body")),
    ("", 400),
    (" ", 400),
    ("+4", 400),
    ("-4", 400),
    ("-0", 400),
    ("0x4", 400),
    ("0X4", 400),
    ("0b100", 400),
    ("0o4", 400),
    ("4h", 400),
    ("4.", 400),
    ("4.0", 400),
    ("4e0", 400),
    ("1_0", 400),
    ("4 4", 400),
    ("4,", 400),
    (",4", 400),
    ("4,4", 400),
    ("4, 4", 400),
    ("4, 5", 400),
    ("4;", 400),
    ("4;q=1", 400),
    ('"4"', 400),
    ("'4'", 400),
    ("(4)", 400),
    ("four", 400),
    ("NaN", 400),
    ("inf", 400),
    ("null", 400),
    ("\xb2", 400),
    ("\xd9\xa4", 400),  # ARABIC-INDIC DIGIT FOUR in UTF-8: int() would take it
    ("\xef\xbc\x94", 400),  # FULLWIDTH DIGIT FOUR
    ("4\xa0", 400),
    ("4\x00", 400),
    ("4\x0b", 400),
    ("4\x0c", 400),
    ("\x0c4", 400),
    ("4\r", 400),
    ("4\n", 400),
    ("4\r\n 4", 400),
    ("9223372036854775808", 400),  # 2**63
    ("18446744073709551620", 400),  # 2**64 + 4
    ("4294967300" * 3, 400),
    ("999999999999999999", waits),
    ("5", waits),
)
LENGTHS = [
    *(
        Row(
            f"Content-Length: {value!r}",
            post(f"Content-Length: {value}", body=b"body"),
            verdict,
            "row 2; RFC 9112 §6.3",
        )
        for value, verdict in _ONE_LENGTH
    ),
    Row("the same twice", post("Content-Length: 4", "Content-Length: 4", body=b"body"), 400, "row 2"),
    Row("two that differ", post("Content-Length: 4", "Content-Length: 5", body=b"body"), 400, "row 2"),
    Row("the second is empty", post("Content-Length: 4", "Content-Length:", body=b"body"), 400, "CVE-2023-40225"),
    Row("the first is empty", post("Content-Length:", "Content-Length: 4", body=b"body"), 400, "CVE-2023-40225"),
    Row("twice in two cases", post("content-length: 4", "CONTENT-LENGTH: 4", body=b"body"), 400, "row 2"),
    Row("a space before the colon", post("Content-Length : 4", body=b"body"), 400, "RFC 9112 §5.1"),
    Row("a space in the name", post("Content- Length: 4", body=b"body"), 400, "RFC 9112 §5.1"),
    Row("no colon", post("Content-Length 4", body=b"body"), 400, "RFC 9112 §5"),
    Row("0 on a GET", get("Content-Length: 0"), sent("GET /a", length=0), "RFC 9110 §9.3.1"),
    Row("00 on a GET", get("Content-Length: 00"), sent("GET /a", length=0), "row 2: one canonical decimal"),
    Row(
        "a GET with a body",
        get("Content-Length: 4") + b"body",
        sent("GET /a", body=b"body", length=4),
        "RFC 9110 §9.3.1",
    ),
    Row("none, and a body all the same", post(body=b"body\r\n\r\n"), (sent("POST /a"), 400), "RFC 9112 §6.3: no body"),
    Row(
        "shorter than the body",
        post("Content-Length: 2", body=b"body\r\n\r\n"),
        (posted(b"bo"), 400),
        "row 2: the rest is the next request, and is none",
    ),
    Row(
        "in HTTP/1.0",
        message("POST /a HTTP/1.0", "Host: shop", "Content-Length: 4", body=b"body"),
        sent("POST /a", body=b"body", length=4, minor=0),
        "RFC 9112 §6.3",
    ),
]

# Row 3: exactly `chunked`, on HTTP/1.1; another coding is a 501 (RFC 9112 §6.1).
# value, verdict
_ONE_CODING: tuple[tuple[str, Verdicts], ...] = (
    ("chunked", streamed(b"body")),
    ("Chunked", streamed(b"body")),
    ("CHUNKED", streamed(b"body")),
    ("chunked ", streamed(b"body")),
    ("\tchunked\t", streamed(b"body")),
    ("", 501),
    ("identity", 501),
    ("gzip", 501),
    ("deflate", 501),
    ("compress", 501),
    ("x-chunked", 501),
    ("xchunked", 501),
    ("chunkedx", 501),
    ("chunke", 501),
    ("chun ked", 501),
    ("c\thunked", 501),
    ("chunked chunked", 501),
    ("chunked, chunked", 501),
    ("chunked,chunked", 501),
    ("gzip, chunked", 501),
    ("chunked, gzip", 501),
    ("chunked, identity", 501),
    ("identity, chunked", 501),
    ("chunked,", 501),
    (",chunked", 501),
    (", chunked", 501),
    ("chunked;", 501),
    ("chunked;q=0.5", 501),
    ("chunked;a=b", 501),
    ('"chunked"', 501),
    ("'chunked'", 501),
    ("chunked=", 501),
    ("[chunked]", 501),
    ("c\xe1unked", 501),
    ("chunked\xa0", 501),
    ("\xa0chunked", 501),
    ("\xef\xbb\xbfchunked", 501),
    ("chun\xc4\xb8ed", 501),  # LATIN SMALL LETTER KRA
    ("chunKed".replace("K", "\xe2\x84\xaa"), 501),  # KELVIN SIGN, whose lower case is k
    ("chunked\x00", 400),
    ("\x00chunked", 400),
    ("\x0bchunked", 400),
    ("chunked\x0c", 400),
    ("chunked\x7f", 400),
    ("\rchunked", 400),
    ("chunked\r", 400),
    ("\nchunked", 400),
    ("\r\n chunked", 400),
    ("chunked\r\n\t", 400),
    ("chunked,\r\n gzip", 400),
)
CODINGS = [
    *(
        Row(
            f"Transfer-Encoding: {value!r}",
            post(f"Transfer-Encoding: {value}", body=BODY),
            verdict,
            "row 3; RFC 9112 §6.1",
        )
        for value, verdict in _ONE_CODING
    ),
    Row("chunked twice", post(TE, TE, body=BODY), 501, "row 3; RFC 9112 §6.1: never more than once"),
    Row("chunked, then identity", post(TE, "Transfer-Encoding: identity", body=BODY), 501, "row 3"),
    Row("identity, then chunked", post("Transfer-Encoding: identity", TE, body=BODY), 501, "row 3"),
    Row("chunked, then nothing", post(TE, "Transfer-Encoding:", body=BODY), 501, "row 3"),
    Row("in HTTP/1.0", message("POST /a HTTP/1.0", "Host: shop", TE, body=BODY), 400, "row 3; RFC 9112 §6.1"),
    Row(
        "in HTTP/1.0, kept open",
        message("POST /a HTTP/1.0", "Host: shop", "Connection: keep-alive", TE, body=BODY),
        400,
        "row 3; RFC 9112 §6.1",
    ),
    Row("a space before the colon", post("Transfer-Encoding : chunked", body=BODY), 400, "RFC 9112 §5.1"),
    Row("a tab before the colon", post("Transfer-Encoding\t: chunked", body=BODY), 400, "RFC 9112 §5.1"),
    Row("a space in the name", post("Transfer Encoding: chunked", body=BODY), 400, "RFC 9112 §5.1"),
    Row(
        "a space before the name", message("POST /a HTTP/1.1", " " + TE, "Host: shop", body=BODY), 400, "RFC 9112 §2.2"
    ),
    Row("a NUL in the name", post("Transfer-\x00Encoding: chunked", body=BODY), 400, "row 4"),
    Row("no colon", post("Transfer-Encoding chunked", body=BODY), 400, "RFC 9112 §5"),
    Row(
        "on a GET",
        get(TE) + BODY,
        sent("GET /a", TE, body=b"body"),
        "RFC 9110 §9.3.1: allowed, and framed like any other",
    ),
    Row("TE is not Transfer-Encoding", get("TE: chunked"), GET_SENT, "row 10: TE is this connection's alone"),
]

FAMILIES = {
    "row 1: Content-Length beside Transfer-Encoding": CL_TE,
    "row 2: Content-Length": LENGTHS,
    "row 3: Transfer-Encoding": CODINGS,
}
