"""Which upstream serves the next attempt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

U = TypeVar("U")


class RoundRobin(Generic[U]):
    """Each upstream in turn, in the order of the config."""

    __slots__ = ("_next", "upstreams")

    def __init__(self, upstreams: Sequence[U]) -> None:
        if not upstreams:
            raise ValueError("a balancer needs at least one upstream")
        self.upstreams = tuple(upstreams)
        self._next = 0

    def __repr__(self) -> str:
        return f"<RoundRobin over {len(self.upstreams)}, next {self.upstreams[self._next]}>"

    def pick(self) -> U:
        """The upstream whose turn it is."""
        picked = self.upstreams[self._next]
        self._next = (self._next + 1) % len(self.upstreams)
        return picked
