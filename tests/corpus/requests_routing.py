"""Whom a head is for, and what it may carry there: rows 8 to 11 and 15 of the threats. How to read it: `rows.py`."""

from __future__ import annotations

from rows import GET_SENT, TE, Row, Verdicts, get, message, post, posted, sent

HOST = "Host: shop"

# Row 8: one Host, and it is one (RFC 9112 §3.2, RFC 3986 §3.2.2).
# value, verdict
_HOSTS: tuple[tuple[str, Verdicts], ...] = (
    ("shop", GET_SENT),
    ("SHOP", sent("GET /a", host="SHOP")),
    ("shop:80", sent("GET /a", host="shop:80")),
    ("shop.example.", sent("GET /a", host="shop.example.")),
    ("127.0.0.1:8080", sent("GET /a", host="127.0.0.1:8080")),
    ("[::1]:8080", sent("GET /a", host="[::1]:8080")),
    ("shop\t", GET_SENT),
    ("", 400),
    (" ", 400),
    (":80", 400),
    ("shop:80:90", 400),
    ("shop:http", 400),
    ("shop:-80", 400),
    ("::1", 400),
    ("[::1", 400),
    ("::1]", 400),
    ("[::1]x", 400),
    ("[shop]", 400),
    ("a b", 400),
    ("a\tb", 400),
    ("a/b", 400),
    ("a\\b", 400),
    ("a?b", 400),
    ("a#b", 400),
    ("user@shop", 400),
    ("user:pass@shop", 400),
    ("http://shop", 400),
    ("<shop>", 400),
    ('"shop"', 400),
    ("shop\xe9", 400),
    ("sh\x00op", 400),
    ("shop, evil", 400),
)
HOSTS = [
    *(
        Row(f"Host: {value!r}", message("GET /a HTTP/1.1", f"Host: {value}"), verdict, "row 8; RFC 9112 §3.2")
        for value, verdict in _HOSTS
    ),
    Row("none", message("GET /a HTTP/1.1", "A: b"), 400, "row 8; RFC 9112 §3.2"),
    Row("no field at all", b"GET /a HTTP/1.1\r\n\r\n", 400, "row 8; RFC 9112 §3.2"),
    Row(
        "none in HTTP/1.0", b"GET /a HTTP/1.0\r\n\r\n", sent("GET /a", host="", minor=0), "RFC 9110 §7.2: sent on empty"
    ),
    Row("the same twice", get(HOST), 400, "row 8; RFC 9112 §3.2"),
    Row("two that differ", get("Host: evil"), 400, "row 8; RFC 9112 §3.2"),
    Row("two in two cases", get("HOST: evil"), 400, "row 8; RFC 9112 §3.2"),
    Row("two in HTTP/1.0", message("GET /a HTTP/1.0", HOST, "Host: evil"), 400, "row 8; RFC 9112 §3.2"),
    Row("the second is empty", get("Host:"), 400, "row 8"),
    Row("a space before the colon", message("GET /a HTTP/1.1", "Host : shop"), 400, "RFC 9112 §5.1"),
    Row("a space before the name", message("GET /a HTTP/1.1", "A: b", " Host: shop"), 400, "RFC 9112 §5.2"),
    Row("another name that ends alike", message("GET /a HTTP/1.1", "X-Host: shop"), 400, "row 8"),
    Row(
        "the target overrules it",
        message("GET http://other/a HTTP/1.1", HOST),
        sent("GET /a", host="other"),
        "RFC 9112 §3.2.2",
    ),
    Row(
        "the target does not replace it",
        message("GET http://shop/a HTTP/1.1", "A: b"),
        400,
        "RFC 9112 §3.2: still needed",
    ),
    *(
        Row(
            f"the target does not mend Host: {value!r}",
            message("GET http://shop/a HTTP/1.1", f"Host: {value}"),
            400,
            "RFC 9112 §3.2",
        )
        for value in ("sh\x00op", "shop\x7f", "a b", "user@shop", "")
    ),
    Row(
        "the target does not choose one of two",
        message("GET http://shop/a HTTP/1.1", HOST, "Host: evil"),
        400,
        "RFC 9112 §3.2",
    ),
]

# Row 9: the target names a resource, never the machine that is asked.
# target, verdict
_TARGETS: tuple[tuple[str, Verdicts], ...] = (
    ("/", sent("GET /")),
    ("/a?b=c&d", sent("GET /a?b=c&d")),
    ("/%00%0d%0a", sent("GET /%00%0d%0a")),
    ("/../../etc/passwd", sent("GET /../../etc/passwd")),
    ("//evil/a", sent("GET //evil/a")),
    ("/http://evil/", sent("GET /http://evil/")),
    ("/a?http://evil/", sent("GET /a?http://evil/")),
    ("http://shop/a", GET_SENT),
    ("HTTP://shop/a", GET_SENT),
    ("http://shop", sent("GET /")),
    ("http://shop?b", sent("GET /?b")),
    ("http://169.254.169.254/latest/", sent("GET /latest/", host="169.254.169.254")),
    ("http://127.0.0.1:9901/config", sent("GET /config", host="127.0.0.1:9901")),
    ("http://[::1]:9901/", sent("GET /", host="[::1]:9901")),
    ("https://shop/a", 400),
    ("ftp://shop/a", 400),
    ("file:///etc/passwd", 400),
    ("unix:/run/docker.sock", 400),
    ("http:/shop/a", 400),
    ("http:///a", 400),
    ("http://", 400),
    ("http://:80/a", 400),
    ("http://user@evil/a", 400),
    ("http://shop@evil/a", 400),
    ("http://shop:80@evil/a", 400),
    ("http://shop\\@evil/a", 400),
    ("http://shop#@evil/a", 400),
    ("http://sh op/a", 400),
    ("http://shop/a#b", 400),
    ("shop:80", 400),
    ("127.0.0.1:9901", 400),
    ("evil/a", 400),
    ("a", 400),
    ("?a", 400),
    ("#", 400),
    ("/a#b", 400),
    ("\\\\evil\\a", 400),
    (".", 400),
    ("*", 400),
    ("*/a", 400),
    ("/a b", 400),
    ("/a\tb", 400),
    ("/\xe9", 400),
    ("/\x00", 400),
)
TARGETS = [
    *(
        Row(f"target {target!r}", message(f"GET {target} HTTP/1.1", HOST), verdict, "row 9; RFC 9112 §3.2")
        for target, verdict in _TARGETS
    ),
    Row("OPTIONS *", message("OPTIONS * HTTP/1.1", HOST), sent("OPTIONS *"), "RFC 9112 §3.2.4"),
    Row("OPTIONS http://shop", message("OPTIONS http://shop HTTP/1.1", HOST), sent("OPTIONS *"), "RFC 9112 §3.2.4"),
    Row("OPTIONS **", message("OPTIONS ** HTTP/1.1", HOST), 400, "RFC 9112 §3.2.4"),
    Row("CONNECT", message("CONNECT shop:443 HTTP/1.1", HOST), 405, "row 9; RFC 9110 §9.3.6"),
    Row("CONNECT to the admin port", message("CONNECT 127.0.0.1:9901 HTTP/1.1", HOST), 405, "row 9"),
    Row("CONNECT /", message("CONNECT / HTTP/1.1", HOST), 405, "row 9"),
    Row(
        "CONNECT with a body",
        message("CONNECT shop:443 HTTP/1.1", HOST, "Content-Length: 4", body=b"body"),
        405,
        "row 9",
    ),
    Row("CONNECT in HTTP/1.0", message("CONNECT shop:443 HTTP/1.0", HOST), 405, "row 9"),
    Row("connect, another method", message("connect shop:443 HTTP/1.1", HOST), 400, "RFC 9110 §9.1: its case matters"),
]

# Row 10: what concerns this connection stays here, and nobody can make a field disappear that others rely on.
HOP_BY_HOP = [
    Row(
        "the fixed ones",
        get("Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "TE: trailers", "Trailer: A"),
        GET_SENT,
        "RFC 9110 §7.6.1",
    ),
    Row(
        "in capitals",
        get("KEEP-ALIVE: timeout=5", "PROXY-CONNECTION: close", "TRAILER: A"),
        GET_SENT,
        "RFC 9110 §7.6.1",
    ),
    Row("Proxy-Authorization", get("Proxy-Authorization: Basic eDp5"), GET_SENT, "RFC 9110 §11.7.2: it was for us"),
    Row("a named one", get("Connection: A", "A: b", "C: d"), sent("GET /a", "C: d"), "RFC 9110 §7.6.1"),
    Row("a named one in another case", get("Connection: x-a", "X-A: b"), GET_SENT, "RFC 9110 §7.6.1"),
    Row("named behind it", get("X-A: b", "Connection: x-a"), GET_SENT, "RFC 9110 §7.6.1"),
    Row("named twice over", get("Connection: A", "A: b", "Connection: C", "C: d"), GET_SENT, "RFC 9110 §7.6.1"),
    Row("a list with holes", get("Connection: , ,A,,", "A: b"), GET_SENT, "RFC 9110 §5.6.1"),
    Row("keep-alive", get("Connection: keep-alive, A", "A: b"), GET_SENT, "RFC 9110 §7.6.1"),
    Row("a named one that is not there", get("Connection: A"), GET_SENT, "RFC 9110 §7.6.1"),
    Row(
        "the framing",
        post("Connection: Transfer-Encoding", TE, body=b"0\r\n\r\n"),
        sent("POST /a", TE),
        "row 10: framing is written anew",
    ),
    Row("itself", get("Connection: Connection"), GET_SENT, "RFC 9110 §7.6.1"),
    Row("Via", get("Connection: Via", "Via: 1.1 other"), GET_SENT, "row 10: what we add arrives all the same"),
    *(
        Row(
            f"naming {name}",
            post(f"Connection: {name}", "Content-Length: 4", body=b"body"),
            400,
            "row 10; CVE-2024-45410",
        )
        for name in (
            *(
                "Host",
                "host",
                "Content-Length",
                "CONTENT-LENGTH",
                "Authorization",
                "X-Forwarded-For",
                "X-Forwarded-Host",
            ),
            *("X-Forwarded-Proto", "x-forwarded-anything", "close, Host", "Host, close", "A,Content-Length"),
        )
    ),
]

# Row 11: who asked is said by us alone.
FORGED = [
    *(
        Row(f"forged {line}", get(line), GET_SENT, "row 11: written anew")
        for line in (
            "X-Forwarded-For: 127.0.0.1",
            "x-forwarded-for: 127.0.0.1",
            "X-FORWARDED-FOR: 127.0.0.1, 10.0.0.9",
            "X-Forwarded-Host: evil",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Port: 443",
            "X-Forwarded-Server: evil",
            "X-Forwarded-Prefix: /admin",
            "X-Forwarded-: a",
            "Forwarded: for=127.0.0.1;host=evil",
            "X_Forwarded_For: 127.0.0.1",
            "X-Forwarded_For: 127.0.0.1",
            "X_FORWARDED-HOST: evil",
            "Content_Length: 4",
            "_: a",
            "a_: b",
            "_a: b",
        )
    ),
    Row("forged twice", get("X-Forwarded-For: 1.1.1.1", "X-Forwarded-For: 2.2.2.2"), GET_SENT, "row 11"),
    Row("forged behind a space", get("X-Forwarded-For : 127.0.0.1"), 400, "RFC 9112 §5.1"),
    Row("forged in a folded line", get("A: b", " X-Forwarded-For: 127.0.0.1"), 400, "RFC 9112 §5.2"),
    Row("an underscore in a value stays", get("A: b_c"), sent("GET /a", "A: b_c"), "row 11: names only"),
    Row(
        "an underscore and a colon in a value stay", get("A: b_c: d"), sent("GET /a", "A: b_c: d"), "row 11: names only"
    ),
    Row("a Via of others stays", get("Via: 1.0 other"), sent("GET /a", "Via: 1.0 other"), "RFC 9110 §7.6.3"),
    Row("a dropped line between others", get("A: b", "c_d: e", "F: g"), sent("GET /a", "A: b", "F: g"), "row 11"),
]

# Row 15: no upgrade unless the config names it; nothing of it reaches an upstream.
UPGRADES = [
    Row("websocket", get("Connection: Upgrade", "Upgrade: websocket"), GET_SENT, "row 15; RFC 9110 §7.8"),
    Row(
        "h2c",
        get("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"),
        GET_SENT,
        "row 15",
    ),
    Row("h2c, unnamed settings", get("Connection: Upgrade", "Upgrade: h2c", "A: b"), sent("GET /a", "A: b"), "row 15"),
    Row(
        "TLS",
        message("OPTIONS * HTTP/1.1", HOST, "Connection: Upgrade", "Upgrade: TLS/1.0"),
        sent("OPTIONS *"),
        "row 15",
    ),
    Row("not named in Connection", get("Upgrade: websocket"), GET_SENT, "RFC 9110 §7.8"),
    Row("named, but not there", get("Connection: Upgrade"), GET_SENT, "row 15"),
    Row(
        "in HTTP/1.0",
        message("GET /a HTTP/1.0", HOST, "Connection: Upgrade", "Upgrade: websocket"),
        sent("GET /a", minor=0),
        "RFC 9110 §7.8",
    ),
    Row("two", get("Connection: Upgrade", "Upgrade: a, websocket", "Upgrade: b"), GET_SENT, "row 15"),
    Row(
        "with a request behind it",
        get("Connection: Upgrade", "Upgrade: websocket") + get(),
        (GET_SENT, GET_SENT),
        "CVE-2026-2833",
    ),
    Row(
        "with a body",
        post("Connection: Upgrade", "Upgrade: websocket", "Content-Length: 4", body=b"body"),
        posted(b"body"),
        "row 15",
    ),
    Row(
        "an upgrade and garbage",
        get("Connection: Upgrade", "Upgrade: websocket") + b"\x81\x05hello\r\n\r\n",
        (GET_SENT, 400),
        "row 15",
    ),
]

FAMILIES = {
    "row 8: Host": HOSTS,
    "row 9: targets": TARGETS,
    "row 10: hop-by-hop fields": HOP_BY_HOP,
    "row 11: forged fields": FORGED,
    "row 15: upgrades": UPGRADES,
}
