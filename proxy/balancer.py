"""Which upstream serves the next attempt.

Rules of this file:

- A balancer knows the upstreams that are fit to serve and nothing of why; whenever that set changes, its owner makes
  another one. So `pick` asks nobody's health.
- All respect weights: twice the weight, twice the requests, or twice as many under way.
- `avoid` is an upstream that has just failed. It is not picked if there is another.
- No clock. Chance comes from a `Random` that is passed in, so that a test can repeat it.

What a pick costs, n upstreams: OnlyOne and InTurn O(1), RandomTwo O(log n), LeastBusy and ByHash O(n).
"""

# ruff: noqa: ARG002 - every balancer is called alike; where there is no choice, the arguments have nothing to say

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from heapq import heapify, heapreplace
from itertools import accumulate, cycle
from math import gcd, inf, log
from random import Random
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from proxy.config import Balance
from proxy.http1.grammar import finder


class Busy(Protocol):
    """What is read of an upstream."""

    @property
    def busy(self) -> int:
        """Requests that it has under way."""


U = TypeVar("U", bound=Busy)

_STEP: Final = 2.0**-64  # makes a hash of 64 bits a number below 1


class Choice(NamedTuple, Generic[U]):
    """One that may be picked. `name` tells it from the others, here and in every other process."""

    item: U
    weight: int
    name: str


class Balancer(Protocol[U]):
    """Picks one of several."""

    def pick(self, key: bytes = b"", avoid: U | None = None) -> U:
        """The next one. `key` is what the request has in common with those that should go to the same one."""


def balancer_of(balance: Balance, choices: Sequence[Choice[U]], rng: Random | None = None) -> Balancer[U]:
    """The balancer that a config asks for. There must be at least one choice, and no two of one name."""
    if not choices:
        raise ValueError("a balancer needs at least one upstream")
    if len({choice.name for choice in choices}) < len(choices):
        raise ValueError("two upstreams of one name")
    if len(choices) == 1:
        return OnlyOne(choices)
    if balance == "round_robin":
        return InTurn(choices)
    if balance == "least_busy":
        return LeastBusy(choices)
    if balance == "random_two":
        return RandomTwo(choices, rng or Random())
    return ByHash(choices)


class OnlyOne(Generic[U]):
    """The one there is."""

    __slots__ = ("_item",)

    def __init__(self, choices: Sequence[Choice[U]]) -> None:
        self._item = choices[0].item

    def __repr__(self) -> str:
        return f"<OnlyOne {self._item}>"

    def pick(self, key: bytes = b"", avoid: U | None = None) -> U:
        return self._item


class InTurn(Generic[U]):
    """Each in turn, as often as its weight says and as evenly spread as that allows (`_one_turn`)."""

    __slots__ = ("_count", "_next")

    def __init__(self, choices: Sequence[Choice[U]]) -> None:
        self._count = len(choices)
        self._next = cycle(_one_turn(choices)).__next__  # the first time around it is worked out, then remembered

    def __repr__(self) -> str:
        return f"<InTurn over {self._count}>"

    def pick(self, key: bytes = b"", avoid: U | None = None) -> U:
        picked = self._next()
        while picked is avoid:
            picked = self._next()
        return picked


class LeastBusy(Generic[U]):
    """The one with the fewest requests under way for its weight.

    Among equals it is whoever's turn it is: each has a tag that a pick moves on by 1/weight, and the lowest tag wins
    (start-time fair queueing). A tag that has fallen behind is brought up to that of the last pick, or an upstream that
    was busier than the rest for an hour would have all of the next hour's requests.
    """

    __slots__ = ("_items", "_now", "_shares", "_tags")

    def __init__(self, choices: Sequence[Choice[U]]) -> None:
        self._items = [choice.item for choice in choices]
        self._shares = [1 / choice.weight for choice in choices]
        self._tags = [0.0] * len(choices)
        self._now = 0.0  # the tag that the last one had when it was picked

    def __repr__(self) -> str:
        return f"<LeastBusy over {len(self._items)}>"

    def pick(self, key: bytes = b"", avoid: U | None = None) -> U:
        best, least, lowest = 0, inf, inf
        for at, item in enumerate(self._items):
            load = item.busy * self._shares[at]
            if (load < least or (load == least and self._tags[at] < lowest)) and item is not avoid:
                best, least, lowest = at, load, self._tags[at]
        self._now = max(self._now, self._tags[best])
        self._tags[best] = self._now + self._shares[best]
        return self._items[best]


class RandomTwo(Generic[U]):
    """The less busy of two that are drawn by weight (the power of two choices).

    Nearly as even as LeastBusy at a cost that hardly grows with n; and proxies that do not know of each other do not
    all run to the same idle upstream.
    """

    __slots__ = ("_choices", "_ends", "_random")

    def __init__(self, choices: Sequence[Choice[U]], rng: Random) -> None:
        self._choices = tuple(choices)
        self._ends = list(accumulate(choice.weight for choice in choices))  # laid end to end, where each one ends
        self._random = rng.random

    def __repr__(self) -> str:
        return f"<RandomTwo over {len(self._choices)}>"

    def pick(self, key: bytes = b"", avoid: U | None = None) -> U:
        ends = self._ends
        total = ends[-1]
        first = bisect_right(ends, self._random() * total)
        one, weight, _ = self._choices[first]
        point = self._random() * (total - weight)  # of what is left without the first
        if point >= ends[first] - weight:
            point += weight
        other, other_weight, _ = self._choices[min(bisect_right(ends, point), len(ends) - 1)]
        if one is avoid or (other.busy * weight < one.busy * other_weight and other is not avoid):
            return other
        return one


class ByHash(Generic[U]):
    """Always the same one for the same key; in turn, if there is no key.

    Weighted rendezvous hashing: each upstream draws a number from its name and the key, and the best one wins. When an
    upstream leaves, its keys alone move, spread over all others by weight; when it comes back, they return. A ring
    needs a hundred points for each upstream to come near that, has them laid out anew whenever one is ejected, and is
    even to some 10 % only. It would be faster from some ten upstreams on.

    The hash is keyed by nothing but names, so that all workers and all replicas of a proxy agree.
    """

    __slots__ = ("_choices", "_in_turn")

    def __init__(self, choices: Sequence[Choice[U]]) -> None:
        self._in_turn = InTurn(choices)
        self._choices = [
            (choice.item, blake2b(choice.name.encode() + b"\0", digest_size=8), -1 / choice.weight)
            for choice in choices
        ]

    def __repr__(self) -> str:
        return f"<ByHash over {len(self._choices)}>"

    def pick(self, key: bytes = b"", avoid: U | None = None) -> U:
        if not key:
            return self._in_turn.pick(key, avoid)
        best, least = self._choices[0][0], inf
        for item, of_name, share in self._choices:
            drawing = of_name.copy()
            drawing.update(key)
            # An exponential draw with the weight as its rate: the least of several is each one's as often as its
            # weight says. Half a step keeps the number above 0.
            drawn = log((int.from_bytes(drawing.digest(), "big") + 0.5) * _STEP) * share
            if drawn < least and item is not avoid:
                best, least = item, drawn
        return best


def key_reader(hash_by: str) -> Callable[[bytes, bytes], bytes]:
    """What tells the key of a request from the client's address and the field lines: "client" or "header:NAME".

    The lines begin with CRLF. Without that field, or if it is empty, the key is the address.
    """
    name = hash_by.removeprefix("header:")
    if name == hash_by:
        return lambda client, _lines: client
    line = finder(name.encode())

    def key_of(client: bytes, lines: bytes) -> bytes:
        found = line(lines)
        return (found[1].rstrip(b" \t") if found else b"") or client

    return key_of


def _one_turn(choices: Sequence[Choice[U]]) -> Iterator[U]:
    """As many items as the weights add up to, without their common divisor; each as often as its weight.

    One of weight w is due w times, at equal distances; what is due first is next. The first due times are staggered, so
    that equal weights come in the order given and light ones do not follow on each other.
    """
    common = gcd(*(choice.weight for choice in choices))
    count = len(choices)
    weights = [choice.weight // common for choice in choices]
    due = [
        ((at + 0.5) / count / weight, at, 1 / weight, choice.item)
        for at, (choice, weight) in enumerate(zip(choices, weights, strict=True))
    ]
    heapify(due)
    for _ in range(sum(weights)):
        when, at, distance, item = due[0]
        yield item
        heapreplace(due, (when + distance, at, distance, item))
