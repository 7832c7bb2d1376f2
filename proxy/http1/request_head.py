"""Request heads: what one means to a proxy, and the head to send to an upstream. Rules: see `grammar.py`.

Any method goes through, known or not, but for two that are answered 405: CONNECT, which would make this proxy a tunnel
to anywhere, and TRACE, whose answer repeats the fields that this proxy adds.
"""

from __future__ import annotations

import re
from typing import Final

from proxy.http1.forwarding import Forwarding
from proxy.http1.grammar import (
    CRLF,
    HOP_BY_HOP,
    OWS,
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
    read_again,
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
    """What the field lines of a request mean to a proxy, and the lines to send on."""

    __slots__ = (
        "_req_id",
        "block",
        "chunked",
        "expects_continue",
        "host",
        "keep_alive",
        "length",
        "lines",
        "named",
        "upgrade",
    )

    block: bytes  # the field lines as they came
    host: bytes
    length: int  # of the body; 0 also when chunked
    chunked: bool
    keep_alive: bool  # the client lets its connection stay open
    expects_continue: bool
    named: tuple[bytes, ...]  # the members of Connection, in lower case
    upgrade: bytes  # the protocol asked for by Upgrade, in lower case; "": none
    lines: bytes  # all that follows the request line, from its CRLF to the empty line

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


class Request:
    """A request head. `target` is in origin-form, or `*`."""

    __slots__ = ("_head", "fields", "http10", "method", "target")

    def __init__(self, method: bytes, target: bytes, http10: bool, fields: RequestFields) -> None:
        self.method = method
        self.target = target
        self.http10 = http10
        self.fields = fields
        self._head = b""

    def __repr__(self) -> str:
        return f"<Request {self.method.decode()} {self.target.decode()}>"

    def head(self, *, upgrade: bool = False) -> bytes:
        """The head to send to an upstream. Always HTTP/1.1: this proxy's own version (RFC 9110 §2.5).

        `upgrade` passes on that the client asks for another protocol.
        """
        head = self._head
        if not head:
            head = self._head = b"%b %b HTTP/1.1%b" % (self.method, self.target, self.fields.lines)
        if upgrade:
            return b"%bConnection: Upgrade\r\nUpgrade: %b\r\n\r\n" % (head[:-2], self.fields.upgrade)
        return head


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


def parse_request_fields(
    block: bytes,
    http10: bool,
    forwarding: Forwarding,
    *,
    authority: bytes | None = None,
    trailers: bool = False,
) -> RequestFields:
    """Reads the field lines: `block`, which is sound, reaches from the CRLF of the request line to the empty line.

    `authority` is the target's, which overrules Host. `trailers`: whether those of a body will be passed on.
    """
    parts = _split(block[:-2])
    said = said_in(parts)
    kept = b"".join(parts[::3])
    fields = RequestFields()
    fields.block = block
    fields.host = host = _only_host(said, http10) if authority is None else _overruled_host(said, http10, authority)
    fields.named = ()
    fields.keep_alive = not http10
    if b"connection" in said:
        fields.named, unwanted = connection_options(said[b"connection"])
        fields.keep_alive = keeps_alive(fields.named, http10)
        if unwanted:
            kept = without_named(kept, unwanted)
    length, fields.chunked = framing(said, http10)
    fields.length = length or 0
    fields.expects_continue = b"expect" in said and _expects_continue(said) and not http10
    fields.upgrade = b""
    if b"upgrade" in said and not (length or fields.chunked or http10):
        fields.upgrade = asked_protocol(said, fields.named)
    read_again(block)
    own = b""  # lines written anew, beside those that every request gets
    if length is not None:
        own = b"Content-Length: %d\r\n" % length
    elif fields.chunked:
        own = b"Transfer-Encoding: chunked\r\n"
    if trailers and not http10:
        own += _of_trailers(said, fields)
    fields.lines = b"\r\nHost: %b%b%b%b" % (host, kept, own, forwarding.lines(host, said, http10=http10))
    return fields


def _only_host(said: Said, http10: bool) -> bytes:
    host = said.get(b"host")
    if host is None and http10:
        return b""  # RFC 9110 §7.2: an authority that is missing is sent as an empty Host
    if host is None or not is_authority(host):  # no list is
        raise BadHead(400, "exactly one valid Host is needed")
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
