"""Discovery: which source tells a group's endpoints, by `discovery.kind`.

A source is made before it starts, so that what can be known to be wrong is known at once: a package that is missing, an
address that is none. What a source needs is imported when one of its kind is made, packages of others even later and
off the loop: nobody pays for a kind that is not used.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

from proxy.config import DiscoveryConfig, GroupConfig
from proxy.discovery.endpoints import Endpoint, OnEndpoints, OnProblem, Report, Source, SourceError, endpoint_of

__all__ = ["Endpoint", "Source", "SourceError", "StaticSource", "open_source"]


def open_source(config: GroupConfig, on_endpoints: OnEndpoints, on_problem: OnProblem) -> Source:
    """The source for a group; `start` it. Raises SourceError if it can never work.

    `on_endpoints` gets each new set whole, `on_problem` one line. What they promise is in `endpoints.py`.
    """
    discovery = config.discovery
    if discovery.kind == "dns":
        from proxy.discovery.dns_source import DnsSource

        _need("dnspython", "dns", discovery)
        return DnsSource(config.upstreams, discovery, on_endpoints, on_problem)
    if discovery.kind == "file":
        from proxy.discovery.file_source import FileSource

        return FileSource(discovery, on_endpoints, on_problem)
    if discovery.kind == "kubernetes":
        from proxy.discovery.kubernetes_source import KubernetesSource

        _need("aiohttp", "aiohttp", discovery)
        return KubernetesSource(discovery, os.environ, on_endpoints, on_problem)
    return StaticSource(config.upstreams, on_endpoints)


class StaticSource(Source):
    """The upstreams of the config, in their order, told within `start`. Names among them are left to the connects."""

    def __init__(self, upstreams: tuple[str, ...], on_endpoints: OnEndpoints) -> None:
        self._endpoints = [endpoint_of(text) for text in upstreams]
        self.report = Report(on_endpoints, lambda _: None)

    def __repr__(self) -> str:
        return f"<StaticSource {self.report}>"

    def start(self) -> None:
        self.report.found(self._endpoints)

    def close(self) -> None:
        self.report.close()


def _need(package: str, module: str, discovery: DiscoveryConfig) -> None:
    """Looks for a package without importing it, which takes longer than the loop may be blocked."""
    if find_spec(module) is None:
        raise SourceError(f'discovery.kind: "{discovery.kind}" needs the package {package}: pip install {package}')
