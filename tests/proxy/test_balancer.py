"""Which upstream serves next."""

from __future__ import annotations

import pytest

from proxy.balancer import RoundRobin


def test_each_in_turn() -> None:
    balancer = RoundRobin(["a:1", "b:1", "c:1"])
    assert [balancer.pick() for _ in range(7)] == ["a:1", "b:1", "c:1", "a:1", "b:1", "c:1", "a:1"]
    assert repr(balancer) == "<RoundRobin over 3, next b:1>"


def test_one_is_enough() -> None:
    balancer = RoundRobin([9])
    assert [balancer.pick(), balancer.pick()] == [9, 9]


def test_none_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one upstream"):
        RoundRobin([])
