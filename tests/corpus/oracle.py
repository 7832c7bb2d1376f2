"""What must be true of any bytes that a client may send, without knowing what they are meant to be.

The strict reader reads what came in. The proxy may refuse more than it does; it must not let through what that reader
calls unsound, nor understand a message in another way.
"""

from __future__ import annotations

from rows import PEER
from stage import Seen
from strict_reader import HOP_BY_HOP, Message, Unsound, read_requests

# Given by the proxy to every request, whatever the client says.
GIVEN = (b"host", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"via")
FRAMING = (b"content-length", b"transfer-encoding")
OWN_STATUSES = frozenset({400, 405, 408, 413, 414, 417, 431, 501, 505})  # with which the proxy refuses a request


def problem(data: bytes, seen: Seen) -> str:
    """What is wrong with what became of these bytes; empty if nothing."""
    try:
        found, _ = read_requests(data)
        sound = True
    except Unsound as unsound:
        found, sound = list(unsound.found), False
    except ValueError:
        return ""  # a length of more digits than Python converts: the reader has no opinion
    return _answers(seen) or _meanings(found, seen) or _ends(data, found, sound, seen)


def _answers(seen: Seen) -> str:
    ok = seen.statuses.count(200)
    if seen.statuses[:ok] != (200,) * ok or len(seen.statuses) > ok + 1:
        return f"answered {seen.statuses}"
    if ok != len(seen.sent):
        return f"{ok} answers to {len(seen.sent)} requests"
    if len(seen.statuses) > ok:
        if seen.statuses[-1] not in OWN_STATUSES:
            return f"answered {seen.statuses[-1]}"
        if not seen.closed:
            return "refused, but the connection stays open"
        if seen.partial and b"\r\n\r\n" not in seen.partial:
            return f"refused, but part of a head went upstream: {seen.partial!r}"
    return ""


def _meanings(found: list[Message], seen: Seen) -> str:
    if len(seen.sent) > len(found):
        return f"{len(seen.sent)} requests went upstream, but {len(found)} came: {seen.sent[-1]}"
    for came, went in zip(found, seen.sent, strict=False):
        if (came.head.start[0], came.body) != (went.head.start[0], went.body):
            return f"{came} went upstream as {went}"
        target = came.head.start[1]
        if target != went.head.start[1] and not target.lower().startswith(b"http://"):
            return f"{target!r} became {went.head.start[1]!r}"
        made_up = [field for field in went.head.fields if not _explained(field, came)]
        if made_up:
            return f"{made_up} were made up, or should not have been sent on"
        if PEER not in went.head.all(b"x-forwarded-for") or len(went.head.all(b"x-forwarded-for")) != 1:
            return f"X-Forwarded-For is {went.head.all(b'x-forwarded-for')}"
        if not all(map(went.head.all, GIVEN)):
            return f"a field that is always added is missing: {went.head}"
    return ""


def _explained(field: tuple[bytes, bytes], came: Message) -> bool:
    name, _ = field
    if name in GIVEN or name in FRAMING:
        return True  # the strict reader has judged these already
    return field in came.head.fields and name not in HOP_BY_HOP and b"_" not in name


def _ends(data: bytes, found: list[Message], sound: bool, seen: Seen) -> str:
    if seen.closed:
        return ""
    if len(seen.sent) < len(found):
        return f"{len(found) - len(seen.sent)} requests were swallowed"
    behind = data[found[-1].end :] if found else data
    if sound or b"\r\n\r\n" not in behind.lstrip(b"\r\n"):
        return ""  # a head is judged when it is whole, at the latest
    return "unsound bytes were swallowed"
