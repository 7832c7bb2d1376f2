"""Request heads: what one means to a proxy, and the head to send to an upstream. Rules: see `grammar.py`.

Any method goes through, known or not, but for two that are answered 405: CONNECT, which would make this proxy a tunnel
to anywhere, and TRACE, whose answer repeats the fields that this proxy adds.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from proxy.http1.grammar import (
    CRLF,
    HOP_BY_HOP,
    MEANINGS,
    OWS,
    REMEMBERED_LINES,
    TOKEN,
    BadHead,
    HeadLimits,
    Said,
    asked_protocol,
    connection_options,
    finder,
    framing,
    is_authority,
    keeps_alive,
    members,
    said_in,
    splitter,
    without_named,
)
from proxy.http1.trailers import permitted

# A request line as nearly all are. Groups: method, target in origin-form, minor version.
usual_line: Final = re.compile(rb"(?!CONNECT |TRACE )(" + TOKEN + rb'++) (/[!"$-~]*+) HTTP/1\.([01])\r\n').match

_LINE = re.compile(rb"(" + TOKEN + rb'++) ([!"$-~]++) HTTP/1\.([01])\r\n').match
_OTHER_VERSION = re.compile(rb"\S+ \S+ HTTP/(?!1\.[01]$)[0-9](?:\.[0-9])?$").match
_EXPECTATIONS = (b"100-continue", b"100-continue, 100-continue")
_ABSOLUTE = re.compile(rb"(?i:http)://([^/?]*)(/[^?]*)?(\?.*)?").fullmatch

# Written anew below, or not sent on at all: the last two would let a client forge what we vouch for.
_split = splitter(
    *(b"host", b"content-length", b"expect", b"proxy-authorization"),
    *HOP_BY_HOP,
    *(b"forwarded", b"x-forwarded(?:-[^:]*)?"),
)


class RequestFields:
    """What the marked field lines of a request mean to a proxy. Heads that share these share it."""

    __slots__ = (
        "begin",
        "chunked",
        "expects_continue",
        "host",
        "http10",
        "keep_alive",
        "length",
        "named",
        "own",
        "said",
        "unwanted",
        "upgrade",
        "usual",
    )

    http10: bool
    said: Said
    host: bytes
    length: int  # of the body; 0 also when chunked
    chunked: bool
    keep_alive: bool  # the client lets its connection stay open
    usual: bool  # that, and it speaks HTTP/1.1
    expects_continue: bool
    named: tuple[bytes, ...]  # the members of Connection, in lower case
    unwanted: frozenset[bytes]  # of these, the fields that must not be sent on
    upgrade: bytes  # the protocol asked for by Upgrade, in lower case; "": none
    begin: bytes  # the Host line to send, without the CRLF at its end
    own: bytes  # the lines behind those that are kept, up to what is said of where the request came from


class Request:
    """A request head. `target` is in origin-form, or `*`. `head` is the one to send to an upstream."""

    __slots__ = ("_req_id", "block", "fields", "head", "http10", "method", "target", "usual")

    def __init__(self, method: bytes, target: bytes, fields: RequestFields, block: bytes, head: bytes) -> None:
        self.method = method
        self.target = target
        self.fields = fields
        self.http10 = fields.http10
        self.usual = fields.usual and method != b"HEAD"  # so is its response: see `ResponseHead.usual`
        self.block = block  # as it came
        self.head = head

    def __repr__(self) -> str:
        return f"<Request {self.method.decode()} {self.target.decode()}>"

    def head_with_upgrade(self) -> bytes:
        """The same, but it passes on that the client asks for another protocol."""
        return b"%bConnection: Upgrade\r\nUpgrade: %b\r\n\r\n" % (self.head[:-2], self.fields.upgrade)

    @property
    def req_id(self) -> str:
        """The client's X-Request-Id."""
        try:
            return self._req_id
        except AttributeError:
            self._req_id: str = self.value_of(b"x-request-id").decode("latin-1")
            return self._req_id

    def value_of(self, name: bytes) -> bytes:
        """The value of the first field with this name, as the client sent it; "" if there is none."""
        match = finder(name)(self.block)
        return match[1].rstrip(OWS) if match is not None else b""


def parse_request_line(data: bytes, limits: HeadLimits) -> tuple[bytes, bytes, bool, int]:
    """Method, target, whether it is HTTP/1.0, and where the line ends (its CRLF belongs to the field lines).

    `data` holds a whole head, and perhaps more.
    """
    match = _LINE(data)
    line = data[: data.find(CRLF)]
    if len(line) > limits.line:
        raise BadHead(414, "the request line is too long")
    if match is None:
        if _OTHER_VERSION(line):
            raise BadHead(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
        raise BadHead(400, "not a request line")
    method, target, minor = match.groups()
    return method, target, minor == b"0", len(line)


def resolve_target(method: bytes, target: bytes) -> tuple[bytes, bytes | None]:
    """The target in origin-form, and the authority that overrules `Host` when it came in absolute-form.

    RFC 9112 §3.2. Which upstream is asked is decided by the config alone, never by the target.
    """
    if method in (b"CONNECT", b"TRACE"):
        raise BadHead(405, "this method is not passed on")
    if target.startswith(b"/"):
        return target, None
    if target == b"*":
        if method != b"OPTIONS":
            raise BadHead(400, "the target * is for OPTIONS only")
        return target, None
    match = _ABSOLUTE(target)
    if match is None or not is_authority(match[1]):
        raise BadHead(400, "not a target")
    path = match[2] or (b"*" if method == b"OPTIONS" and not match[3] else b"/")
    return path + (match[3] or b""), match[1]


def read_fields(
    block: bytes, http10: bool, trailers: bool, authority: bytes | None = None
) -> tuple[RequestFields, list[bytes]]:
    """What the lines of a block mean, and pieces of it with those that are sent on as they came.

    `trailers`: whether those of a body will be passed on. `authority` is the target's, which overrules Host.
    """
    parts = _split(block)
    marked = b"".join(parts[1::2])
    meaning = _known_meaning if len(marked) <= REMEMBERED_LINES else _meaning
    fields = meaning(marked, http10, trailers, authority)
    kept = parts[::2]
    return fields, [without_named(b"".join(kept), fields.unwanted)] if fields.unwanted else kept


def _meaning(marked: bytes, http10: bool, trailers: bool, authority: bytes | None) -> RequestFields:
    said = said_in(marked)
    fields = RequestFields()
    fields.said = said
    fields.http10 = http10
    fields.host = _only_host(said, http10) if authority is None else _overruled_host(said, http10, authority)
    fields.named, fields.unwanted = connection_options(said.get(b"connection", b""))
    fields.keep_alive = keeps_alive(fields.named, http10)
    fields.usual = fields.keep_alive and not http10
    length, fields.chunked = framing(said, http10)
    fields.length = length or 0
    fields.expects_continue = b"expect" in said and _expects_continue(said) and not http10
    fields.upgrade = b""
    if b"upgrade" in said and not (length or fields.chunked or http10):
        fields.upgrade = asked_protocol(said, fields.named)
    fields.begin = b"\r\nHost: %b" % fields.host
    fields.own = b""
    if length is not None:
        fields.own = b"Content-Length: %d\r\n" % length
    elif fields.chunked:
        fields.own = b"Transfer-Encoding: chunked\r\n"
    if trailers and not http10:
        fields.own += _of_trailers(said, fields)
    return fields


_known_meaning = lru_cache(MEANINGS)(_meaning)


def _only_host(said: Said, http10: bool) -> bytes:
    host = said.get(b"host")
    if host is None and http10:
        return b""  # RFC 9110 §7.2: an authority that is missing is sent as an empty Host
    if host is None:
        raise BadHead(400, "no Host")
    if not is_authority(host):  # no list is
        raise BadHead(400, "more than one Host" if b"," in host else "not a valid Host")
    return host


def _overruled_host(said: Said, http10: bool, authority: bytes) -> bytes:
    """RFC 9112 §3.2.2: the target's authority replaces Host, which must be sound all the same."""
    _only_host(said, http10)
    return authority


def _expects_continue(said: Said) -> bool:
    if said[b"expect"].lower() not in _EXPECTATIONS:
        raise BadHead(417, "an unknown expectation")
    return True


def _of_trailers(said: Said, fields: RequestFields) -> bytes:
    """The lines about trailers: whether the client wants them (RFC 9110 §10.1.4), and which it will send itself."""
    lines = b""
    if any(member.partition(b";")[0].rstrip(OWS) == b"trailers" for member in members(said.get(b"te", b""))):
        lines = b"Connection: TE\r\nTE: trailers\r\n"
    names = permitted(said.get(b"trailer", b""), fields.named) if fields.chunked else b""
    return b"%bTrailer: %b\r\n" % (lines, names) if names else lines
