"""What operators may see and do, over all processes that serve: the one at hand, or several workers.

Rules of this file:

- One change at a time. It is checked whole before anybody is asked to make it, and then made by all or by none.
- A reload reads the file, the environment and the flags again, as the start did: what was patched and not written down
  is gone with it. What needs a restart makes the whole of it fail, with the key named.
- While it drains nothing is changed any more.
- Files that the config only names, certificates and logs, are read or opened again by a reload even if no key changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Literal, Protocol

from proxy import sockets
from proxy.admin.api import ConfigRow, ConfigView, NotLive, Unavailable
from proxy.config import Change, ConfigError, Loaded, ProxyConfig, change_by, live_changes, patched, rows, told
from proxy.discovery import SourceError
from proxy.groups import say
from proxy.observation import worker_snapshot
from proxy.observe.counters import Counters
from proxy.observe.metrics import Snapshot, WorkerSnapshot, build_info
from proxy.server import Server, open_sockets
from proxy.tls import TlsError

PATCHED: Final = "PATCH /config"  # where a value comes from, as shown with it


class Draining(Unavailable):
    """It is too late for a change."""

    def __init__(self) -> None:
        super().__init__("it drains, so nothing was changed")


class Fleet(Protocol):
    """The processes that serve."""

    restarts: int
    gone: Counters

    async def snapshots(self, with_pool: bool) -> list[WorkerSnapshot]:
        """Of all of them. Raises `Unavailable`."""

    async def change(self, config: ProxyConfig, *, elsewhere: bool, reopen: bool) -> None:
        """Puts it in force everywhere; `elsewhere`: it listens on another address; `reopen`: the logs' files.

        Raises OSError, TlsError, SourceError or Unavailable, and then nothing has changed.
        """

    def listening(self) -> list[sockets.Setting]:
        """What the kernel made of the socket that listens; nothing before there is one, and after."""

    async def reopen_logs(self) -> str:
        """Has the access log go on in the file that has its name now; what kept it from that, "" if nothing."""

    def why_not_ready(self) -> str:
        """Why no requests should come; "" if they should."""


class Control:
    """Over one `Fleet`. `load` reads the config anew, as it was read at the start."""

    def __init__(self, fleet: Fleet, loaded: Loaded, load: Callable[[], Loaded]) -> None:
        self.loaded = loaded
        self._fleet = fleet
        self._load = load
        self._one_at_a_time = asyncio.Lock()
        self._reloads = {"applied": 0, "refused": 0}
        self._build = build_info()
        self._sockets = socket_settings(loaded.config)

    def __repr__(self) -> str:
        return f"<Control of {self._fleet!r}, {self._reloads['applied']} changes>"

    # ---- what the admin pages ask (admin/api.py)

    async def snapshot(self, with_pool: bool) -> Snapshot:
        workers = await self._fleet.snapshots(with_pool)
        return Snapshot(
            workers=workers,
            gone=self._fleet.gone,
            restarts=self._fleet.restarts,
            reloads=dict(self._reloads),
            build=self._build,
        )

    async def config(self) -> ConfigView:
        shown = [ConfigRow(row.key, row.value, row.origin, change_by(row.key)) for row in rows(self.loaded)]
        settings = [*self._sockets, *self._fleet.listening()]
        return ConfigView(rows=shown, sockets=[setting._asdict() for setting in settings], build=self._build)

    async def patch(self, changes: dict[str, object]) -> list[Change]:
        async with self._one_at_a_time:
            with _Counted(self._reloads):
                changed = await self._change(patched(self.loaded, changes, PATCHED), "patch")
        if changed:
            say(f"changed by PATCH: {'; '.join(map(str, changed))}")
        return changed

    def ready(self) -> str:
        return self._fleet.why_not_ready()

    # ---- what SIGHUP asks

    async def reload(self) -> list[Change]:
        """What is different now. Raises ConfigError or Unavailable, and then nothing is."""
        async with self._one_at_a_time:
            with _Counted(self._reloads):
                return await self._change(self._load(), "reload")

    # ---- what SIGUSR1 asks

    async def reopen_logs(self) -> str:
        """What kept it from that, "" if nothing."""
        return await self._fleet.reopen_logs()

    # ----

    async def _change(self, loaded: Loaded, by: Literal["patch", "reload"]) -> list[Change]:
        old, new = self.loaded.config, loaded.config
        changes, fixed = live_changes(old, new, by)
        if fixed:
            needs = "a restart" if any(change_by(change.key) == "restart" for change in fixed) else "a reload (SIGHUP)"
            raise NotLive(f"{fixed[0]}: this needs {needs}, so nothing was changed")
        if changes or by == "reload":
            try:
                await self._fleet.change(new, elsewhere=old.listen != new.listen, reopen=by == "reload")
            except (TlsError, SourceError, OSError) as problem:
                raise ConfigError(told(problem, loaded)) from None
        self.loaded = loaded
        return changes


class Local:
    """A `Fleet` of one: this process."""

    restarts = 0

    def __init__(self, server: Server) -> None:
        self.gone = Counters()
        self._server = server

    def __repr__(self) -> str:
        return repr(self._server)

    async def snapshots(self, with_pool: bool) -> list[WorkerSnapshot]:
        return [worker_snapshot(self._server, with_pool)]

    async def change(self, config: ProxyConfig, *, elsewhere: bool, reopen: bool) -> None:
        if self._server.stopping:
            raise Draining
        prepared = self._server.prepare(config, open_sockets(config) if elsewhere else None)
        await self._server.commit(prepared)
        self._server.leave()
        self._server.drain_old()
        if reopen and (problem := self._server.reopen_logs()):
            say(problem)

    async def reopen_logs(self) -> str:
        return self._server.reopen_logs()

    def listening(self) -> list[sockets.Setting]:
        return self._server.listening()

    def why_not_ready(self) -> str:
        return self._server.why_not_ready()


class _Counted:
    """Counts a change by its outcome."""

    def __init__(self, outcomes: dict[str, int]) -> None:
        self._outcomes = outcomes

    def __enter__(self) -> None:
        pass

    def __exit__(self, problem: type[BaseException] | None, *_: object) -> None:
        self._outcomes["refused" if problem else "applied"] += 1


def socket_settings(config: ProxyConfig) -> list[sockets.Setting]:
    """What the sections on sockets ask for, and what the kernel makes of it. Raises OSError: it refuses."""
    settings = [
        *sockets.verify("downstream_socket", config.downstream_socket),
        *sockets.verify("upstream_socket", config.upstream_socket),
    ]
    for name, group in config.group_configs().items():
        if group.upstream_socket != config.upstream_socket:
            settings += sockets.verify(f"groups.{name}.upstream_socket", group.upstream_socket)
    return settings
