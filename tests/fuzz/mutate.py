"""Mutations that know the grammar: what they make is nearly HTTP, which is where parsers disagree.

All randomness comes from the `Random` that the caller passes, so a seed says everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

# Bytes that parsers disagree about, and lines that they frame messages by.
ODD = (
    *(b"\r", b"\n", b"\r\n", b"\n\r", b"\r\n\r\n", b"\n\n", b"\0", b"\t", b" ", b"\x0b", b"\x0c", b"\x1b", b"\x7f"),
    *(
        b"\x80",
        b"\x85",
        b"\xa0",
        b"\xad",
        b"\xff",
        b":",
        b",",
        b";",
        b"=",
        b'"',
        b"_",
        b"-",
        b"+",
        b"#",
        b"?",
        b"/",
        b"@",
        b"%",
    ),
    *(
        b"0",
        b"1",
        b"4",
        b"9",
        b"a",
        b"F",
        b"0x",
        b"00000000000000000",
        b"18446744073709551616",
        b"chunked",
        b"HTTP/1.1",
    ),
)
LINES = (
    *(b"Content-Length: 4", b"Content-Length: 0", b"content-length:5", b"Content-Length: 4, 4", b"Content-Length: +4"),
    *(b"Transfer-Encoding: chunked", b"transfer-encoding:chunked", b"Transfer-Encoding: gzip, chunked"),
    *(b"Transfer-Encoding : chunked", b"Transfer_Encoding: chunked", b"Transfer-Encoding: identity", b"TE: trailers"),
    *(b"Host: shop", b"Host: evil", b"Host:", b"Connection: close", b"Connection: keep-alive", b"Connection: Host"),
    *(b"Connection: X-A", b"X-A: b", b"Connection: Upgrade", b"Upgrade: websocket", b"Upgrade: h2c", b"Trailer: X-A"),
    *(b"Expect: 100-continue", b"Expect: x", b"X-Forwarded-For: 1.2.3.4", b"X_Forwarded_For: 1.2.3.4", b"Via: 1.1 x"),
    *(b" folded", b"\tfolded", b": empty", b"no colon", b"", b"GET /b HTTP/1.1", b"Keep-Alive: timeout=5, max=1"),
    *(b"0", b"4", b"4;a=b", b"0;a", b"ffffffffffffffff", b"body", b"HTTP/1.1 200 OK", b"HTTP/1.1 100 Continue"),
)
NUMBERS = (b"0", b"1", b"2", b"3", b"5", b"10", b"-1", b"+1", b"1e1", b"0x1", b"01", b"99999999999999999999", b"")

Mutation = Callable[[Random, bytes, bytes], bytes]


def _at(random: Random, data: bytes) -> int:
    """A place, mostly next to a delimiter."""
    if data and random.random() < 0.6:
        near = [at for at, byte in enumerate(data) if byte in b"\r\n: ;,"]
        if near:
            return random.choice(near) + random.randrange(2)
    return random.randrange(len(data) + 1)


def _insert(random: Random, data: bytes, _: bytes) -> bytes:
    at = _at(random, data)
    return data[:at] + random.choice(ODD) + data[at:]


def _insert_any(random: Random, data: bytes, _: bytes) -> bytes:
    at = _at(random, data)
    return data[:at] + bytes((random.randrange(256),)) + data[at:]


def _replace(random: Random, data: bytes, _: bytes) -> bytes:
    at = _at(random, data)
    return data[:at] + random.choice(ODD) + data[at + 1 :]


def _flip(random: Random, data: bytes, _: bytes) -> bytes:
    at = random.randrange(len(data))
    return data[:at] + bytes((data[at] ^ (1 << random.randrange(8)),)) + data[at + 1 :]


def _delete(random: Random, data: bytes, _: bytes) -> bytes:
    at = _at(random, data)
    return data[:at] + data[at + random.randint(1, 4) :]


def _truncate(random: Random, data: bytes, _: bytes) -> bytes:
    return data[: _at(random, data)]


def _case(random: Random, data: bytes, _: bytes) -> bytes:
    at = random.randrange(len(data))
    return data[:at] + data[at : at + 8].swapcase() + data[at + 8 :]


def _on_lines(change: Callable[[Random, list[bytes]], None]) -> Mutation:
    def mutation(random: Random, data: bytes, _: bytes) -> bytes:
        lines = data.split(b"\r\n")
        change(random, lines)
        return b"\r\n".join(lines)

    return mutation


def _add_line(random: Random, lines: list[bytes]) -> None:
    lines.insert(random.randint(1, len(lines)), random.choice(LINES))


def _repeat_line(random: Random, lines: list[bytes]) -> None:
    lines.insert(random.randrange(len(lines)), random.choice(lines))


def _drop_line(random: Random, lines: list[bytes]) -> None:
    del lines[random.randrange(len(lines))]


def _swap_lines(random: Random, lines: list[bytes]) -> None:
    a, b = random.randrange(len(lines)), random.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]


def _number(random: Random, lines: list[bytes]) -> None:
    at = random.randrange(len(lines))
    name, colon, _ = lines[at].partition(b": ")
    lines[at] = name + colon + random.choice(NUMBERS) if colon else random.choice(NUMBERS)


def _line_end(random: Random, data: bytes, _: bytes) -> bytes:
    """Another end for one line, or for all."""
    end = random.choice((b"\n", b"\r", b"\r\r\n", b"\n\r", b" \r\n", b"\r\n ", b""))
    if random.random() < 0.1:
        return data.replace(b"\r\n", end)
    pieces = data.split(b"\r\n")
    at = random.randrange(len(pieces))
    return b"\r\n".join(pieces[:at]) + end + b"\r\n".join(pieces[at:])


def _behind(_: Random, data: bytes, other: bytes) -> bytes:
    return data + other


def _before(_: Random, data: bytes, other: bytes) -> bytes:
    return other + data


def _twice(_: Random, data: bytes, __: bytes) -> bytes:
    return data + data


def _splice(random: Random, data: bytes, other: bytes) -> bytes:
    return data[: _at(random, data)] + other[_at(random, other) :]


MUTATIONS: Sequence[Mutation] = (
    *(_insert, _insert_any, _replace, _flip, _delete, _truncate, _case, _line_end, _behind, _before, _twice, _splice),
    *map(_on_lines, (_add_line, _repeat_line, _drop_line, _swap_lines, _number)),
)
LONGEST = 4000  # bytes; longer ones are for the limits, and those have rows of their own


def mutated(random: Random, data: bytes, other: bytes, most: int = 4) -> bytes:
    """`data` after one to `most` mutations; `other` is another message, to splice with."""
    for _ in range(random.randint(1, most)):
        if not data:
            return other
        data = random.choice(MUTATIONS)(random, data, other)
    return data[:LONGEST]


def pieces(random: Random, data: bytes) -> list[bytes]:
    """The bytes as a few pieces that arrive one after the other; often each message's head begins one."""
    cuts = [random.randrange(len(data) + 1) for _ in range(random.choice((0, 0, 1, 1, 2, 3)))]
    if random.random() < 0.3:
        cuts += [at + 4 for at in range(len(data)) if data.startswith(b"\r\n\r\n", at)]
    cuts.sort()
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
