"""Every request of the corpus, whole, byte by byte and cut in two everywhere, through the real chain.

What a row says must happen, however the bytes arrive; and what went upstream must mean the same to three readers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import oracle
import pytest
import requests_bodies
import requests_framing
import requests_heads
import requests_routing
from rows import GET_SENT, PEER, Broken, Row, Sent, Waits, get
from stage import Seen, staged
from strict_reader import Head, Message

FAMILIES: dict[str, list[Row]] = {
    **requests_framing.FAMILIES,
    **requests_bodies.FAMILIES,
    **requests_heads.FAMILIES,
    **requests_routing.FAMILIES,
}
SHORT = 1000  # bytes; what is longer is cut in a few places only


def arrivals(data: bytes) -> Iterator[list[bytes]]:
    """The ways in which a message may come in."""
    yield [data]
    if len(data) <= SHORT:
        yield [data[at : at + 1] for at in range(len(data))]
        for at in range(1, len(data)):
            yield [data[:at], data[at:]]
    else:
        yield [data[at : at + 97] for at in range(0, len(data), 97)]
        for at in (1, 20, len(data) // 2, len(data) - 3, len(data) - 1):
            yield [data[:at], data[at:]]


def added(verdict: Sent) -> Counter[tuple[bytes, bytes]]:
    """The fields that every request is given."""
    return Counter(
        {
            (b"host", verdict.host): 1,
            (b"x-forwarded-for", PEER): 1,
            (b"x-forwarded-proto", b"http"): 1,
            (b"x-forwarded-host", verdict.host): 1,
            (b"via", b"1.%d kalab" % verdict.minor): 1,
        }
    )


def is_as_wanted(message: Message, verdict: Sent) -> bool:
    start, fields = message.head
    return (
        start == (verdict.method, verdict.target, b"HTTP/1.1")
        and Counter(fields) == added(verdict) + Counter(verdict.fields)
        and [field for field in fields if field in verdict.fields and added(verdict)[field] == 0]
        == list(verdict.fields)
        and message.body == verdict.body
    )


def problem(row: Row, seen: Seen) -> str:
    """What a play did that the row does not say; empty if nothing."""
    wanted = row.verdicts
    requests = [verdict for verdict in wanted if isinstance(verdict, Sent)]
    last = wanted[-1]
    statuses = [200] * len(requests)
    if isinstance(last, int):
        statuses.append(last)
    elif isinstance(last, Broken):
        statuses.append(last.status)
    if list(seen.statuses) != statuses:
        return f"answered {seen.statuses}, not {statuses}"
    if len(seen.sent) != len(requests):
        return f"{len(seen.sent)} requests went upstream, not {len(requests)}"
    for message, verdict in zip(seen.sent, requests, strict=True):
        if not is_as_wanted(message, verdict):
            return f"went upstream as {message}"
    if isinstance(last, int | Broken):
        if not seen.closed:
            return "refused, but the connection stays open"
        if isinstance(last, int) and seen.partial:
            return f"refused, but this went upstream: {seen.partial!r}"
    elif isinstance(last, Sent) and seen.partial:
        return f"more went upstream: {seen.partial!r}"
    elif isinstance(last, Waits) and seen.closed:
        return "closed, though the rest may come"
    return ""


@pytest.mark.parametrize("family", FAMILIES)
def test_every_request_becomes_what_its_row_says_however_it_arrives(family: str) -> None:
    problems = []
    with staged() as stage:
        for row in FAMILIES[family]:
            for pieces in arrivals(row.data):
                found = problem(row, stage.play(pieces))
                if found:
                    problems.append(f"{row.name} ({row.why}): {pieces if len(pieces) < 3 else 'by byte'}: {found}")
                    break
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_request_becomes_what_its_row_says_behind_others_on_its_connection(family: str) -> None:
    """A reader that remembers what it read last must not mistake one head for another."""
    problems = []
    with staged() as stage:
        for row in FAMILIES[family]:
            before = [get(), row.data, row.data] if is_repeatable(row) else [get(), row.data]
            verdicts = (GET_SENT, *row.verdicts * (len(before) - 1))
            found = problem(row._replace(verdict=verdicts), stage.play(before))
            if found:
                problems.append(f"{row.name} ({row.why}): {found}")
    assert not problems, "\n".join(problems)


def is_repeatable(row: Row) -> bool:
    """Whether the connection can carry the same again: all of it was taken, and nothing asked for a close."""
    taken = all(isinstance(verdict, Sent) and verdict.minor == 1 for verdict in row.verdicts)
    return taken and b"close" not in row.data.lower()


def test_the_corpus_is_as_large_as_it_should_be() -> None:
    messages = [row.data for rows in FAMILIES.values() for row in rows]
    assert len(set(messages)) >= 300
    for family, rows in FAMILIES.items():
        names = Counter(row.name for row in rows)
        assert not [name for name, count in names.items() if count > 1], family


@pytest.mark.parametrize(
    ("seen", "what"),
    [
        (Seen((200,), False, (), b"", b""), "answered (200,), not [400]"),
        (Seen((400,), False, (), b"", b""), "refused, but the connection stays open"),
        (Seen((400,), True, (), b"GET", b""), "refused, but this went upstream: b'GET'"),
        (Seen((400,), True, (Message(Head((b"GET", b"/", b"HTTP/1.1"), ()), b"", 0, 0),), b"", b""), "1 requests went"),
        (Seen((400,), True, (), b"", b""), ""),
    ],
)
def test_a_wrong_outcome_is_seen(seen: Seen, what: str) -> None:
    assert problem(Row("", get("A : b"), 400, ""), seen).startswith(what) is True


@pytest.mark.parametrize(
    "data",
    [
        b"PUT /a HTTP/1.1\r\nHost: b\r\nContent-Length: 3\r\n\r\nabc",
        b"PUT /a HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    ],
    ids=["length", "chunked"],
)
def test_any_byte_anywhere_is_understood_as_one_thing_or_refused(data: bytes) -> None:
    """Row 4: each byte put in at each place."""
    with staged() as stage:
        for at in range(len(data) + 1):
            for byte in range(256):
                odd = data[:at] + bytes((byte,)) + data[at:]
                found = oracle.problem(odd, stage.play([odd]))
                assert not found, f"{odd!r}: {found}"


def test_the_oracle_agrees_with_the_corpus() -> None:
    """It knows no row, and finds nothing wrong with what is right."""
    with staged() as stage:
        for row in (row for rows in FAMILIES.values() for row in rows):
            found = oracle.problem(row.data, stage.play([row.data]))
            assert not found, f"{row.name}: {found}"


@pytest.mark.parametrize(
    "data",
    [
        b"canary\r\n\r\n",
        b"canary /canary HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET canary HTTP/1.1\r\nHost: shop\r\n\r\n",
        b"GET /a HTTP/canary\r\nHost: shop\r\n\r\n",
        b"GET /" + b"canary" * 2000 + b" HTTP/1.1\r\nHost: shop\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: <canary>\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: shop\r\ncanary : <script>canary</script>\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: shop\r\nExpect: canary\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: canary\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\ncanary\r\n",
    ],
)
def test_a_page_never_repeats_what_was_sent(data: bytes) -> None:
    """Row 24."""
    with staged() as stage:
        seen = stage.play([data])
        assert seen.statuses[0] >= 400
        assert b"canary" not in seen.to_client.lower()
