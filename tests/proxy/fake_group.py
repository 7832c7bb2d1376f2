"""The other end of a source's callbacks: keeps what it is told, and waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from proxy.config import DiscoveryConfig, ProxyConfig, Seconds
from proxy.config.knobs import GroupConfig
from proxy.discovery import Endpoint, Source

ENOUGH_S = 20.0


class FakeGroup:
    """`told` and `problems` are everything that was told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[Endpoint, ...]] = []
        self.problems: list[str] = []
        self._changed = asyncio.Event()

    def on_endpoints(self, endpoints: Sequence[Endpoint]) -> None:
        asyncio.get_running_loop()  # raises elsewhere than on the loop
        self.told.append(tuple(endpoints))
        self._changed.set()

    def on_problem(self, problem: str) -> None:
        asyncio.get_running_loop()
        self.problems.append(problem)
        self._changed.set()

    @property
    def addresses(self) -> list[str]:
        """Of the set that was told last."""
        return sorted(endpoint.address for endpoint in self.told[-1])

    async def until(self, holds: Callable[[], bool]) -> None:
        """Until something holds that can only change when this is told something."""
        try:
            async with asyncio.timeout(ENOUGH_S):
                while not holds():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"told {self.told}, problems {self.problems}") from None

    async def until_told(self, *addresses: str) -> None:
        await self.until(lambda: bool(self.told) and self.addresses == sorted(addresses))

    async def until_problem(self, *words: str) -> None:
        await self.until(lambda: any(all(word in problem for word in words) for problem in self.problems))


@contextmanager
def running(source: Source) -> Iterator[Source]:
    source.start()
    try:
        yield source
    finally:
        source.close()


def group_config(upstreams: Iterable[str] = (), /, **discovery: object) -> GroupConfig:
    """The default group with these values of `discovery`, where a number is seconds if it has a fraction."""
    values = {key: Seconds(value) if isinstance(value, float) else value for key, value in discovery.items()}
    config = ProxyConfig(upstreams=tuple(upstreams), discovery=DiscoveryConfig(**values))  # type: ignore[arg-type]
    return config.group_configs()["default"]
