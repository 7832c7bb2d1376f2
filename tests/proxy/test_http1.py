"""What heads have in common: the grammar of field lines, their limits, framing, and heads that arrive in pieces."""

from __future__ import annotations

import random
import re
from itertools import product

import pytest

from proxy.http1.grammar import (
    HEAD_END,
    TOKEN,
    VALUE,
    BadHead,
    HeadLimits,
    Llhttp,
    PartialHead,
    connection_options,
    finder,
    framing,
    is_authority,
    read_block,
    said_in,
    splitter,
)

LIMITS = HeadLimits()
LINES = (
    b"Host: a.b",
    b"X-Ab: v w",
    b"Connection: close",
    b"Connection: keep-alive, x",
    b"Content-Length: 12",
    b"Transfer-Encoding: chunked",
    b"Upgrade: h2c",
    b"Proxy-Connection: close",
    b"E:",
)

# RFC 9112 §5 and RFC 9110 §5.5: lines without folding.
GRAMMAR = re.compile(rb"(?:\r\n" + TOKEN + rb"++:" + VALUE + rb"*+)*\r\n").fullmatch


def read(block: bytes, limits: HeadLimits = LIMITS, near: int = 0) -> tuple[bytes, int] | None:
    """Of a block, in a head."""
    return read_block(b"GET" + block + b"\r\n", 3, limits, near)


def is_sound(block: bytes, limits: HeadLimits = LIMITS) -> bool:
    try:
        return read(block, limits) is not None
    except BadHead:
        return False


def rfc_takes(block: bytes) -> bool:
    """The same grammar, read one byte after the other."""
    if not block.startswith(b"\r\n") or not block.endswith(b"\r\n"):
        return False
    for line in block[2:-2].split(b"\r\n") if len(block) > 2 else []:
        name, colon, value = line.partition(b":")
        if not name or not colon:
            return False
        if not all(chr(byte).isascii() and (chr(byte).isalnum() or byte in b"!#$%&'*+-.^_`|~") for byte in name):
            return False
        if any((byte < 0x20 and byte != 0x09) or byte == 0x7F for byte in value):
            return False
    return True


def mutations(line: bytes, insert: bool) -> list[bytes]:
    """Every byte at every place of a block with this line, inserted or in place of another; up to its first empty line.

    But for its first CRLF: whoever asks has found that.
    """
    found = []
    block = b"\r\nA: b\r\n" + line + b"\r\nC: d\r\n"
    for at in range(2, len(block)):
        for byte in range(256):
            mutant = block[:at] + bytes([byte]) + block[at + (not insert) :] + b"\r\n"
            found.append(mutant[: mutant.find(HEAD_END) + 2])
    return found


@pytest.mark.parametrize("insert", [True, False])
@pytest.mark.parametrize("line", LINES)
def test_the_grammar_is_that_of_the_rfc_byte_by_byte(line: bytes, insert: bool) -> None:
    """Of fields that frame a message llhttp refuses more: they have a grammar of their own."""
    kept, frames = Llhttp(), line.startswith((b"Content-Length", b"Transfer-Encoding"))
    for block in mutations(line, insert):
        takes = rfc_takes(block)
        assert bool(GRAMMAR(block)) is takes, block
        new = Llhttp().admits(block)
        assert new is takes or (takes and frames), block
        assert (kept.admits(block) or kept.admits(block)) is new, block


def test_a_parser_that_is_kept_judges_as_a_new_one_does() -> None:
    """Whatever it has read before. Two refusals are one: see `Llhttp.admits`."""
    chance = random.Random(4)
    kept = Llhttp()
    pieces = (*LINES, b"", b" x", b"A: b\r", b"\nA: b", b"HTTP/1.1 304 X", b"HTTP/1.1 200 OK", b"0", b"A", b"A: \x00")
    for _ in range(20_000):
        block = b"\r\n" + b"".join(chance.choice(pieces) + b"\r\n" for _ in range(chance.randrange(5)))
        new = Llhttp().admits(block)
        assert (kept.admits(block) or kept.admits(block)) is new, block
        if new and HEAD_END not in block:
            assert GRAMMAR(block), block


@pytest.mark.parametrize("status", [b"100", b"101", b"200", b"204", b"304"])
@pytest.mark.parametrize("framed", [b"", *LINES])
def test_two_blocks_are_not_taken_for_one(status: bytes, framed: bytes) -> None:
    for first in (b"A: b", b"Connection: close", b"Content-Length: 5", b"Transfer-Encoding: chunked"):
        for between in (b"\r\n\r\n", b"\r\n\r\n\r\n"):
            second = b"HTTP/1.1 " + status + b" X\r\n" + (framed + b"\r\n" if framed else b"")
            assert not Llhttp().admits(b"\r\n" + first + between + second)


@pytest.mark.parametrize(
    "behind", [b"", b"\r\n", b"\r\n\r\n", b"\n\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 304 X\r\n\r\n"]
)
def test_a_guess_where_a_head_ends_never_changes_what_is_read(behind: bytes) -> None:
    block = b"\r\nA: b\r\nC:\r\n"
    for near in range(60):
        for end, found in ((b"\r\n", (block, 3 + len(block) + 2)), (b"", None)):
            data = b"GET" + block + end + (behind if end else b"")
            assert read_block(data, 3, LIMITS, near) == found, (near, data)
    assert read_block(b"GET" + HEAD_END + behind, 3, LIMITS, 4) == (b"\r\n", 7)


def test_many_lines_do_not_make_the_grammar_slow() -> None:
    limits = HeadLimits(head=10**7, fields=10**6)
    block = b"\r\n" + b"A: b\r\n" * 100_000
    assert is_sound(block, limits)
    assert not is_sound(block + b"\x00\r\n", limits)
    assert not is_sound(b"\r\n" + b"A" * 1_000_000 + b"\r\n", limits)


def test_lines_with_an_underscore_in_their_name_are_left_out() -> None:
    block = b"\r\nA_B: c\r\nA-B: c_d\r\n_: x\r\nE: _:\r\nF_: \r\n"
    assert read(block) == (b"\r\nA-B: c_d\r\nE: _:\r\n", 3 + len(block) + 2)
    lines = (b"A: b", b"A: _", b"C: _d_", b"_:", b"E_: _", b"F:")
    for block_of in product(lines, repeat=4):
        kept = [line for line in block_of if b"_" not in line.partition(b":")[0]]
        found = read(b"\r\n" + b"".join(line + b"\r\n" for line in block_of))
        assert found is not None
        assert found[0] == b"\r\n" + b"".join(line + b"\r\n" for line in kept)


def test_a_limit_on_fields_is_exact() -> None:
    limits = HeadLimits(fields=3)
    assert is_sound(b"\r\n" + b"A: b\r\n" * 3, limits)
    for lines in (b"A: b\r\n" * 4, b"A_: b\r\n" * 4):
        for near in (0, len(lines)):
            with pytest.raises(BadHead, match="too many fields") as refused:
                read(b"\r\n" + lines, limits, near)
            assert refused.value.status == 431


# ---- what a split finds


def test_a_split_takes_out_the_fields_that_matter_and_leaves_the_rest() -> None:
    split = splitter(b"host", b"te", b"x-own-[^:]*")
    parts = split(b"\r\nA: te: 1\r\nHOST: \t a b \r\nTEA: 2\r\nTe:3\r\nX-Own-Thing:\r\nte: 4\r\nB: 5\r\n")
    assert b"".join(parts[::2]) == b"\r\nA: te: 1\r\nTEA: 2\r\nB: 5\r\n"
    assert said_in(b"".join(parts[1::2])) == {b"host": b"a b", b"te": b"3, 4", b"x-own-thing": b""}


def test_the_first_field_with_a_name_is_found() -> None:
    block = b"\r\nXA: 0\r\nA: 1\r\na: 2\r\n\r\n"
    for name, value in ((b"a", b"1"), (b"A", b"1"), (b"xa", b"0")):
        found = finder(name)(block)
        assert found is not None
        assert found[1] == value
    assert finder(b"b")(block) is None
    assert finder(b".")(block) is None


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({}, (None, False)),
        ({b"content-length": b"0"}, (0, False)),
        ({b"content-length": b"007"}, (7, False)),
        ({b"content-length": b"9" * 18}, (10**18 - 1, False)),
        ({b"transfer-encoding": b"Chunked"}, (None, True)),
        ({b"content-length": b"9" * 19}, 400),
        ({b"content-length": "٣".encode()}, 400),
        ({b"content-length": b"\xb2"}, 400),
        ({b"content-length": b""}, 400),
        ({b"content-length": b"1, 1"}, 400),
        ({b"content-length": b"1", b"transfer-encoding": b"chunked"}, 400),
        ({b"transfer-encoding": b"chunked, chunked"}, 501),
        ({b"transfer-encoding": b""}, 501),
    ],
)
def test_framing(said: dict[bytes, bytes], found: object) -> None:
    if isinstance(found, int):
        with pytest.raises(BadHead) as refused:
            framing(said, http10=False)
        assert refused.value.status == found
    else:
        assert framing(said, http10=False) == found


def test_what_connection_names() -> None:
    named, unwanted = connection_options(b"Close, X-Mine,, TE")
    assert named == (b"close", b"x-mine", b"te")
    assert unwanted == {b"x-mine"}
    for protected in (b"Host", b"content-length", b"X-Forwarded-For", b"x-forwarded-", b"AUTHORIZATION"):
        with pytest.raises(BadHead, match="Connection names"):
            connection_options(b"close, " + protected)


@pytest.mark.parametrize(
    ("value", "fine"),
    [
        (b"shop", True),
        (b"shop:81", True),
        (b"[::1]:81", True),
        (b"127.0.0.1", True),
        (b"xn--a.example", True),
        (b"", False),
        (b"a,b", False),
        (b"a b", False),
        (b"a@b", False),
        (b"a/b", False),
        (b"a:b", False),
        (b"a:1:2", False),
        (b"::1", False),
        (b"a" * 256, False),
        (b"a\x00", False),
    ],
)
def test_what_an_authority_is(value: bytes, fine: bool) -> None:
    assert is_authority(value) is fine


# ---- heads in pieces


@pytest.mark.parametrize("size", [1, 2, 7, 4096])
def test_limits_count_across_the_pieces_of_a_head(size: int) -> None:
    def feed(data: bytes) -> int:
        head = PartialHead(HeadLimits(line=100, head=500, fields=100))
        try:
            for at in range(0, len(data), size):
                head.feed(data[at : at + size])
        except BadHead as refused:
            return refused.status
        return 0

    assert feed(b"GET /" + b"a" * 10_000) == 414
    assert feed(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 10_000) == 431
    assert feed(b"GET / HTTP/1.1\nHost: a\n\n" + b" " * 60) == 400
    assert feed(b"GET / HTTP/1.1\r\nA: \x00" + b" " * 60) == 400
    assert feed(b"GET / HTTP/1.1\r\nA: \rb" + b" " * 60) == 400


def test_a_head_in_pieces_comes_out_whole() -> None:
    whole = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest"
    for at in range(len(whole)):
        head = PartialHead(LIMITS)
        came = head.feed(whole[:at]) or head.feed(whole[at:])
        assert came is not None
        assert came.startswith(whole[: whole.find(b"rest")])


def test_one_line_reprs() -> None:
    head = PartialHead(LIMITS)
    head.feed(b"GET")
    assert repr(head) == "<PartialHead 3 bytes>"
    assert repr(LIMITS) == "<HeadLimits line 8192, head 65536, fields 100>"
