"""Which upstream serves next: in what order, in what proportion, and what moves when one leaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from random import Random
from typing import get_args

import pytest

from proxy.balancer import Balancer, Choice, balancer_of, key_reader
from proxy.config import Balance

BALANCES: Sequence[Balance] = get_args(Balance)


class Item:
    """An upstream as a balancer sees it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.busy = 0

    def __repr__(self) -> str:
        return self.name


def items(count: int) -> list[Item]:
    return [Item("abcdefghijklmnopqrstuvwxyz"[at]) for at in range(count)]


def balancer(balance: Balance, some: Sequence[Item], *weights: int, seed: int = 1) -> Balancer[Item]:
    choices = [Choice(item, weight, item.name) for item, weight in zip(some, weights or (1,) * len(some), strict=True)]
    return balancer_of(balance, choices, Random(seed))


def keys(count: int) -> list[bytes]:
    return [b"198.51.%d.%d" % divmod(number, 256) for number in range(count)]


def picks(of: Balancer[Item], count: int) -> str:
    return "".join(of.pick().name for _ in range(count))


# ---- all of them


@pytest.mark.parametrize("balance", BALANCES)
def test_one_is_enough_even_if_it_is_to_be_avoided(balance: Balance) -> None:
    (only,) = items(1)
    of = balancer(balance, [only])
    assert [of.pick(), of.pick(b"key"), of.pick(avoid=only)] == [only] * 3


@pytest.mark.parametrize("balance", BALANCES)
def test_none_is_refused_and_so_are_two_of_one_name(balance: Balance) -> None:
    with pytest.raises(ValueError, match="at least one upstream"):
        balancer(balance, [])
    with pytest.raises(ValueError, match="two upstreams of one name"):
        balancer(balance, [Item("a"), Item("a")])


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("weights", [(1, 1), (1, 1, 1, 1), (1000, 1, 3)])
def test_what_is_to_be_avoided_is_avoided_and_all_others_are_picked(balance: Balance, weights: tuple[int, ...]) -> None:
    some = items(len(weights))
    of = balancer(balance, some, *weights)
    for avoid in some:
        picked = {of.pick(key, avoid) for key in keys(4000)}
        assert picked == set(some) - {avoid}


@pytest.mark.parametrize("balance", BALANCES)
def test_one_to_be_avoided_that_is_not_among_them_changes_nothing(balance: Balance) -> None:
    some = items(2)
    of = balancer(balance, some)
    assert {of.pick(key, Item("z")) for key in keys(100)} == set(some)


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 2, 3), (5, 1, 1), (90, 9, 1)])
def test_each_gets_its_share_by_weight(balance: Balance, weights: tuple[int, ...]) -> None:
    some = items(len(weights))
    of = balancer(balance, some, *weights)
    count = 6000
    counted = Counter(of.pick(key) for key in keys(count))
    for item, weight in zip(some, weights, strict=True):
        share = weight / sum(weights)
        spread = (share * (1 - share) / count) ** 0.5
        assert counted[item] / count == pytest.approx(share, abs=5 * spread)


# ---- in turn


@pytest.mark.parametrize(
    ("weights", "order"),
    [
        ((1, 1, 1), "abcabcabc"),
        ((7, 7), "ababab"),
        ((5, 1, 1), "aaabaacaaabaac"),
        ((2, 1), "aabaab"),
        ((4, 2), "aabaab"),  # the same, by the common divisor
        ((1, 1, 1, 4), "adbdcddadbdcdd"),
    ],
)
def test_in_turn(weights: tuple[int, ...], order: str) -> None:
    of = balancer("round_robin", items(len(weights)), *weights)
    assert picks(of, len(order)) == order


@pytest.mark.parametrize("weights", [(3, 2, 1), (1000, 999, 7), (1, 1, 1, 1, 13), tuple(range(1, 27))])
def test_a_turn_gives_each_exactly_its_weight_at_even_distances(weights: tuple[int, ...]) -> None:
    some = items(len(weights))
    of = balancer("round_robin", some, *weights)
    turn = sum(weights)
    for _ in range(2):
        order = [of.pick() for _ in range(turn)]
        assert Counter(order) == dict(zip(some, weights, strict=True))
        for item, weight in zip(some, weights, strict=True):
            places = [at for at, picked in enumerate(order) if picked is item]
            gaps = [later - earlier for earlier, later in pairwise(places)]
            assert max(gaps, default=0) <= turn / weight + len(weights)


# ---- by load


def test_the_least_busy_is_picked_and_among_equals_each_in_turn() -> None:
    some = a, b, c = items(3)
    of = balancer("least_busy", some)
    assert picks(of, 6) == "abcabc"
    a.busy = 1
    assert picks(of, 4) == "bcbc"
    a.busy, b.busy, c.busy = 3, 2, 3
    assert picks(of, 3) == "bbb"
    assert of.pick(avoid=b) is a


def test_busy_is_seen_in_proportion_to_the_weight() -> None:
    some = a, b = items(2)
    of = balancer("least_busy", some, 4, 1)
    a.busy, b.busy = 3, 1
    assert of.pick() is a
    a.busy = 5
    assert of.pick() is b


def test_one_that_was_busy_for_long_does_not_get_all_that_it_has_missed() -> None:
    some = a, _ = items(2)
    of = balancer("least_busy", some)
    a.busy = 1
    assert picks(of, 1000) == "b" * 1000
    a.busy = 0
    assert Counter(picks(of, 100))["a"] in (50, 51)


@pytest.mark.parametrize("seed", range(5))
def test_of_two_at_random_the_less_busy_is_picked(seed: int) -> None:
    some = items(5)
    some[0].busy = 9
    of = balancer("random_two", some, seed=seed)
    counted = Counter(of.pick() for _ in range(1000))
    assert counted[some[0]] == 0
    assert min(counted[item] for item in some[1:]) > 150
    assert picks(balancer("random_two", some, seed=seed), 50) == picks(balancer("random_two", some, seed=seed), 50)


def test_of_two_the_less_busy_for_its_weight() -> None:
    some = a, b = items(2)
    of = balancer("random_two", some, 10, 1)
    a.busy, b.busy = 9, 1
    assert picks(of, 50) == "a" * 50
    a.busy = 11
    assert picks(of, 50) == "b" * 50


@pytest.mark.parametrize(("balance", "highest"), [("least_busy", 101), ("random_two", 110)])
def test_load_is_spread_evenly(balance: Balance, highest: int) -> None:
    some = items(10)
    of = balancer(balance, some)
    for _ in range(1000):
        of.pick().busy += 1
    assert sum(item.busy for item in some) == 1000
    assert max(item.busy for item in some) < highest


# ---- by hash


def test_the_same_key_goes_to_the_same_one_whatever_the_process_and_the_order() -> None:
    some = items(4)
    there = balancer("hash", some, 1, 2, 3, 4)
    here = balancer("hash", some[::-1], 4, 3, 2, 1)
    for key in keys(500):
        assert there.pick(key) is there.pick(key)
        assert here.pick(key) is there.pick(key)
    # Written down: a change of the hash would move every session of every deployment.
    assert "".join(there.pick(key).name for key in keys(30)) == "ddbccabdbcddcaccdcddcdbdddcdaa"


@pytest.mark.parametrize("weights", [(1, 1, 1, 1, 1), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize("leaves", range(5))
def test_when_one_leaves_its_keys_move_and_no_others(weights: tuple[int, ...], leaves: int) -> None:
    some = items(5)
    before = balancer("hash", some, *weights)
    rest = [item for at, item in enumerate(some) if at != leaves]
    left = [weight for at, weight in enumerate(weights) if at != leaves]
    after = balancer("hash", rest, *left)
    moved: Counter[Item] = Counter()
    for key in keys(5000):
        was, now = before.pick(key), after.pick(key)
        if was is some[leaves]:
            moved[now] += 1
            assert before.pick(key, avoid=was) is now  # what is avoided and what has left are the same
        else:
            assert now is was
    total = sum(moved.values())
    for item, weight in zip(rest, left, strict=True):
        assert moved[item] / total == pytest.approx(weight / sum(left), abs=0.07)


def test_a_weight_that_grows_draws_keys_and_moves_no_others() -> None:
    some = items(3)
    before, after = balancer("hash", some, 1, 1, 1), balancer("hash", some, 1, 1, 2)
    moved = [key for key in keys(3000) if before.pick(key) is not after.pick(key)]
    assert {after.pick(key) for key in moved} == {some[2]}
    assert len(moved) / 3000 == pytest.approx(1 / 2 - 1 / 3, abs=0.03)


def test_without_a_key_each_is_in_turn() -> None:
    assert picks(balancer("hash", items(3)), 6) == "abcabc"


@pytest.mark.parametrize(
    ("hash_by", "lines", "key"),
    [
        ("client", b"\r\nHost: a\r\n\r\n", b"10.0.0.1"),
        ("header:x-user", b"\r\nHost: a\r\nX-User:  joe \t\r\nX-User: jim\r\n\r\n", b"joe"),
        ("header:X-User", b"\r\nhost: x-user: no\r\nNot-X-User: no\r\n\r\n", b"10.0.0.1"),
        ("header:x-user", b"\r\nX-User:\r\nHost: a\r\n\r\n", b"10.0.0.1"),
        ("header:x-user", b"\r\nX-User: \t \r\nHost: a\r\n\r\n", b"10.0.0.1"),
        ("header:x.user", b"\r\nX-User: joe\r\n\r\n", b"10.0.0.1"),
        ("header:client", b"\r\nClient: joe\r\n\r\n", b"joe"),
    ],
)
def test_what_is_hashed(hash_by: str, lines: bytes, key: bytes) -> None:
    assert key_reader(hash_by)(b"10.0.0.1", lines) == key


def test_how_they_look() -> None:
    some = items(3)
    assert [repr(balancer(balance, some)) for balance in BALANCES] == [
        "<InTurn over 3>",
        "<LeastBusy over 3>",
        "<RandomTwo over 3>",
        "<ByHash over 3>",
    ]
    assert repr(balancer("hash", some[:1])) == "<OnlyOne a>"
