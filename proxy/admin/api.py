"""What operators may see and change: what `site.py` asks, and `proxy/control.py` answers. Neither knows the other."""

from __future__ import annotations

from typing import Protocol

import msgspec

from proxy.config import Change, ConfigError
from proxy.observe.metrics import Snapshot


class ConfigRow(msgspec.Struct):
    """A key, what it is, where that comes from, and what it takes to change it: "patch", "reload" or "restart"."""

    key: str
    value: str
    origin: str
    change: str


class ConfigView(msgspec.Struct):
    """The config in force: every key, what groups say otherwise, the routes. No secrets: it has none, only paths."""

    rows: list[ConfigRow]
    sockets: list[dict[str, str]] = []  # options asked for, and what the kernel made of them
    build: dict[str, str] = {}


class NotLive(ConfigError):  # noqa: N818 - it says what the key is
    """A change that a running proxy cannot take on."""


class Unavailable(Exception):  # noqa: N818 - it says what the worker is
    """A worker has not answered; what was asked for may not have happened everywhere. Its text says what to do."""


class Control(Protocol):
    """The proxy, all its workers together."""

    async def snapshot(self, with_pool: bool) -> Snapshot:
        """How it is doing; with the connections to upstreams, `metrics.MOST_SHOWN` of each worker. Or Unavailable."""

    async def config(self) -> ConfigView:
        """What is in force."""

    async def patch(self, changes: dict[str, object]) -> list[Change]:
        """Changes these keys in all workers or in none, and says what is different now.

        Raises ConfigError if they are wrong, NotLive if one needs more than this, Unavailable.
        """

    def ready(self) -> str:
        """Why it should get no requests now: it drains, or a group has no usable upstream. "" if it should."""
