"""Request heads: what one means to a proxy, and the head to send to an upstream. Rules: see `http1.py`."""

from __future__ import annotations

import re
from typing import NamedTuple

from proxy.http1 import (
    CRLF,
    HOP_BY_HOP,
    PSEUDONYM,
    BadHead,
    HeadLimits,
    check_grammar,
    check_lines,
    framing,
    keeps_alive,
    lines_of,
    options,
    without_named,
)

_LINE = re.compile(rb'([!#$%&\'*+.^_`|~0-9A-Za-z-]+) ([!"$-~]+) HTTP/1\.([01])\r\n').match
_OTHER_VERSION = re.compile(rb"\S+ \S+ HTTP/(?!1\.[01]$)[0-9](?:\.[0-9])?$").match
_AUTHORITY = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?").fullmatch
_ABSOLUTE = re.compile(rb"(?i:http)://([^/?]*)(/[^?]*)?(\?.*)?").fullmatch
_HOST_LINE = re.compile(rb"\r\n(?i:host):[^\r\n]*").sub

# Written anew below, or not sent on at all: the last three would let a client forge what we vouch for.
_DROPPED = rb"host|content-length|expect|proxy-authorization|" + HOP_BY_HOP + rb"|forwarded|x-forwarded-[^:\r\n]*"
_MARKED = lines_of(_DROPPED + rb"|x-request-id").findall
_DROP = lines_of(_DROPPED).sub


class RequestFields:
    """What the field lines of a request mean to a proxy, and the lines to send on."""

    __slots__ = ("chunked", "expects_continue", "host", "keep_alive", "length", "lines", "req_id")

    host: bytes
    length: int  # of the body; 0 also when chunked
    chunked: bool
    keep_alive: bool  # the client lets its connection stay open
    expects_continue: bool
    req_id: str
    lines: bytes  # all that follows the request line, from its CRLF to the empty line


class Request(NamedTuple):
    """A request head. `target` is in origin-form, or `*`."""

    method: bytes
    target: bytes
    http10: bool
    fields: RequestFields

    def head(self) -> bytes:
        """The head to send to an upstream. Always HTTP/1.1: this proxy's own version (RFC 9110 §2.5)."""
        return b"%b %b HTTP/1.1%b" % (self.method, self.target, self.fields.lines)


def parse_request_line(data: bytes, limits: HeadLimits) -> tuple[bytes, bytes, bool, int]:
    """Method, target, whether it is HTTP/1.0, and where the line ends (its CRLF belongs to the field lines).

    `data` holds a whole head, and perhaps more.
    """
    match = _LINE(data)
    if match is None:
        line = data[: data.find(CRLF)]
        if len(line) > limits.line:
            raise BadHead(414, "the request line is too long")
        if _OTHER_VERSION(line):
            raise BadHead(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
        raise BadHead(400, "not a request line")
    end = match.end() - 2
    if end > limits.line:
        raise BadHead(414, "the request line is too long")
    method, target, minor = match.groups()
    return method, target, minor == b"0", end


def parse_request_fields(block: bytes, http10: bool, limits: HeadLimits, peer: bytes) -> RequestFields:
    """Reads the field lines: `block` reaches from the CRLF of the request line to the empty line.

    `peer` is the client's IP address, for X-Forwarded-For.
    """
    check_lines(block, limits)
    fields = RequestFields()
    hosts, lengths, codings, named, expects, req_id = [], [], [], [], [], b""
    for name, value in _MARKED(block):
        name = name.lower()
        value = value.rstrip(b" \t")
        if name == b"host":
            hosts.append(value)
        elif name == b"x-request-id":
            req_id = value
        elif name == b"content-length":
            lengths.append(value)
        elif name == b"transfer-encoding":
            codings.append(value)
        elif name == b"connection":
            named += options(value)
        elif name == b"expect":
            expects.append(value.lower())
    fields.host = _only_host(hosts, http10)
    length, fields.chunked = framing(lengths, codings, http10)
    fields.length = length or 0
    fields.keep_alive = keeps_alive(named, http10)
    fields.expects_continue = _expects_continue(expects) and not http10
    fields.req_id = req_id.decode("latin-1")
    check_grammar(block)
    kept = without_named(_DROP(b"", block), named)
    length_field = b""
    if fields.chunked:
        length_field = b"Transfer-Encoding: chunked\r\n"
    elif length is not None:
        length_field = b"Content-Length: %d\r\n" % length
    forwarded = b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: %b\r\n" % (peer, fields.host)
    via = b"Via: 1.%d %b\r\n" % (not http10, PSEUDONYM)
    fields.lines = b"".join((b"\r\nHost: ", fields.host, kept[:-2], length_field, forwarded, via, CRLF))
    return fields


def resolve_target(method: bytes, target: bytes) -> tuple[bytes, bytes | None]:
    """The target in origin-form, and the authority that overrules `Host` when it came in absolute-form.

    RFC 9112 §3.2. Which upstream is asked is decided by the config alone, never by the target.
    """
    if method == b"CONNECT":
        raise BadHead(405, "no tunnels here")
    if target.startswith(b"/"):
        return target, None
    if target == b"*":
        if method != b"OPTIONS":
            raise BadHead(400, "the target * is for OPTIONS only")
        return target, None
    match = _ABSOLUTE(target)
    if match is None or not _AUTHORITY(match[1]):
        raise BadHead(400, "not a target")
    path = match[2] or (b"*" if method == b"OPTIONS" and not match[3] else b"/")
    return path + (match[3] or b""), match[1]


def with_host(block: bytes, host: bytes) -> bytes:
    """The field lines with the value of the only `Host` replaced: the target of absolute-form overrules it."""
    return _HOST_LINE(lambda _: b"\r\nHost: " + host, block)


def _only_host(hosts: list[bytes], http10: bool) -> bytes:
    if not hosts and http10:
        return b""  # RFC 9110 §7.2: an authority that is missing is sent as an empty Host
    if len(hosts) != 1 or not _AUTHORITY(hosts[0]):
        raise BadHead(400, "exactly one valid Host is needed")
    return hosts[0]


def _expects_continue(expects: list[bytes]) -> bool:
    if any(value != b"100-continue" for value in expects):
        raise BadHead(417, "an unknown expectation")
    return bool(expects)
