"""The proxies in the middle of a chain: what a lane tries is then the balancer in front, and one of these answers it.

    client -> balancer (the lane's proxy) -> wire -> proxy in the middle -> lab upstream

Rules of this file:

- It is the same proxy, a process of its own on the upstream's side of the wire, with a configuration of its own.
- The idle timeout of the run is its `timeouts.downstream_idle`, unless the scenario or the arm says otherwise.
- Lanes that tell it the same, and have the same upstream, share one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from lab.model import Scenario
from lab.plan import CLOSES_AFTER, Setup
from lab.processes import Children
from lab.sabotage import idle_timeout
from lab.wire import Wire
from proxy.config import ProxyConfig, override, to_toml


class Middles:
    """Starts the proxies in the middle of one run, and knows on which port each listens."""

    def __init__(self, scenario: Scenario, setup: Setup, wire: Wire, children: Children, folder: Path) -> None:
        self._base = scenario.middle
        self._setup = setup
        self._wire = wire
        self._children = children
        self._folder = folder
        self._ports: dict[tuple[tuple[str, str], ...], int] = {}

    def __repr__(self) -> str:
        return f"<Middles, {len(self._ports)} started>"

    async def before(self, port: int, told: Mapping[str, str], *, calibrating: bool = False) -> int:
        """The port to send to so as to reach the upstream on `port`: of a proxy, or the same where none is declared.

        `told`: what that proxy does otherwise than the scenario says.
        """
        if self._base is None:
            return port
        idle = idle_timeout(self._setup.sabotage, self._setup.keep_alive_s, calibrating=calibrating)
        config = {CLOSES_AFTER: idle, **self._base, **told, "upstreams": f"127.0.0.1:{port}"}
        key = tuple(sorted(config.items()))
        if key not in self._ports:
            self._ports[key] = await self._start(f"middle-{len(self._ports)}", config)
        return self._ports[key]

    async def _start(self, name: str, config: Mapping[str, str]) -> int:
        own = {
            **config,
            "listen": f"{self._wire.bind_host}:0",
            "upstreams": [config["upstreams"]],
            "admin.listen": "off",
            "log.access": "off",
            "log.events": str(self._folder / f"{name}.jsonl"),
        }
        path = self._folder / "logs" / f"{name}.toml"
        path.write_text(to_toml(override(ProxyConfig(), own)))
        argv = [sys.executable, "-m", "proxy", "--config", str(path)]
        child = self._children.start(name, argv, popen=self._wire.popen, says_ready=False)
        _, port = await child.announced()
        return port
