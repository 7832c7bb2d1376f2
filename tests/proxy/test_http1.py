"""What heads have in common: the grammar of field lines, their limits, framing, and heads that arrive in pieces."""

from __future__ import annotations

import httptools
import pytest

from proxy.http1.grammar import (
    HEAD_END,
    BadHead,
    HeadLimits,
    PartialHead,
    connection_options,
    finder,
    framing,
    is_authority,
    said_in,
    sound,
    splitter,
)

LIMITS = HeadLimits()
BLOCK = b"\r\nHost: a.b\r\nX-Ab: v w\r\nConnection: close\r\nE:\r\n\r\n"


def is_sound(block: bytes, limits: HeadLimits = LIMITS) -> bool:
    try:
        sound(block, limits)
    except BadHead:
        return False
    return True


def is_usual(block: bytes, limits: HeadLimits = LIMITS) -> bool:
    """Whether the short way takes it: sound, and nothing is to be left out."""
    found = limits.sound_block(b"GET" + block + b"body", 3)
    return found is not None and found[0] == block


def llhttp_takes(block: bytes) -> bool:
    """A response's, with a fixed start line: there llhttp is strict, and does not wait for a body."""
    try:
        httptools.HttpResponseParser(None).feed_data(b"HTTP/1.1 200 OK" + block)
    except httptools.HttpParserUpgrade:
        return True  # it would switch protocols here; the lines are sound
    except httptools.HttpParserError:
        return False
    return True


def rfc_takes(block: bytes) -> bool:
    """RFC 9112 §5 and RFC 9110 §5.5, read one byte after the other: lines without folding, and the empty line."""
    if not block.startswith(b"\r\n") or not block.endswith(HEAD_END):
        return False
    lines = block[2:-4].split(b"\r\n") if len(block) > 4 else []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not name or not colon:
            return False
        if not all(chr(byte).isascii() and (chr(byte).isalnum() or byte in b"!#$%&'*+-.^_`|~") for byte in name):
            return False
        if any((byte < 0x20 and byte != 0x09) or byte == 0x7F for byte in value):
            return False
    return True


def mutations(insert: bool) -> list[bytes]:
    """Every byte at every place of a block, inserted or in place of another, up to the first empty line."""
    found = []
    for at in range(len(BLOCK)):
        for byte in range(256):
            block = BLOCK[:at] + bytes([byte]) + BLOCK[at + (not insert) :]
            found.append(block[: block.find(HEAD_END) + 4])
    return found


@pytest.mark.parametrize("insert", [True, False])
def test_the_grammar_is_that_of_the_rfc_byte_by_byte(insert: bool) -> None:
    for block in mutations(insert):
        assert is_sound(block) is rfc_takes(block), block
        underscored = any(b"_" in line.partition(b":")[0] for line in block.split(b"\r\n"))
        assert is_usual(block) is (rfc_takes(block) and not underscored), block


@pytest.mark.parametrize("insert", [True, False])
def test_llhttp_agrees_on_the_grammar_byte_by_byte(insert: bool) -> None:
    for block in mutations(insert):
        if block.startswith(b"\r\n") and block.endswith(HEAD_END):
            assert is_sound(block) is llhttp_takes(block), block


def test_many_lines_do_not_make_the_grammar_slow() -> None:
    limits = HeadLimits(head=10**7, fields=10**6)
    block = b"\r\n" + b"A: b\r\n" * 100_000
    assert is_sound(block + b"\r\n", limits)
    assert not is_sound(block + b"\x00\r\n\r\n", limits)
    assert not is_sound(b"\r\n" + b"A" * 1_000_000 + b"\r\n\r\n", limits)


def test_lines_with_an_underscore_in_their_name_are_left_out() -> None:
    assert sound(b"\r\nA_B: c\r\nA-B: c_d\r\n_: x\r\nE: _:\r\nF_: \r\n\r\n", LIMITS) == b"\r\nA-B: c_d\r\nE: _:\r\n\r\n"
    assert not is_usual(b"\r\nA_B: c\r\n\r\n")
    assert is_usual(b"\r\nA-B: c_d\r\n\r\n")


def test_a_limit_on_fields_is_exact() -> None:
    limits = HeadLimits(fields=3)
    assert is_sound(b"\r\n" + b"A: b\r\n" * 3 + b"\r\n", limits)
    assert is_usual(b"\r\n" + b"A: b\r\n" * 3 + b"\r\n", limits)
    assert not is_usual(b"\r\n" + b"A: b\r\n" * 4 + b"\r\n", limits)
    with pytest.raises(BadHead, match="too many fields") as refused:
        sound(b"\r\n" + b"A: b\r\n" * 4 + b"\r\n", limits)
    assert refused.value.status == 431


# ---- what a split finds


def test_a_split_takes_out_the_fields_that_matter_and_leaves_the_rest() -> None:
    split = splitter(b"host", b"te", b"x-own-[^:]*")
    parts = split(b"\r\nA: te: 1\r\nHOST: \t a b \r\nTEA: 2\r\nTe:3\r\nX-Own-Thing:\r\nte: 4\r\nB: 5\r\n")
    assert b"".join(parts[::3]) == b"\r\nA: te: 1\r\nTEA: 2\r\nB: 5\r\n"
    assert said_in(parts) == {b"host": b"a b", b"te": b"3, 4", b"x-own-thing": b""}


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
