"""Endpoints from Kubernetes itself: the EndpointSlices of a service, listed once and then watched.

Rules of this file:

- What a watch tells is kept by slice, and the endpoints are those of all slices. A watch that ends goes on from the
  version it came to; only when the server has forgotten that one is everything listed again, and then a slice that is
  not in the list is gone.
- A slice without endpoints is an answer: the control plane says that nobody serves, and the address of a pod that is
  gone may be another pod's already. No slice at all is a problem, and the last good set is kept: Kubernetes keeps one
  for every service that selects pods, so that the name is wrong, or somebody is replacing the service.
- A slice that cannot be used is reported, and its last usable state is kept. The others are not held up; but as long as
  there is one, that nobody serves is not believed.
- Every end waits before the next beginning, longer after each one that brought nothing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from proxy.config import DiscoveryConfig
from proxy.config.addresses import address_of
from proxy.discovery.endpoint_slice import EndpointSlice, Found, SliceError, endpoints_of, merge, placed
from proxy.discovery.endpoints import OnEndpoints, OnProblem, SourceError, TaskSource, retry_delay

if TYPE_CHECKING:
    from proxy.discovery.kubernetes_api import Event, Item, KubernetesApi

FIRST_RETRY_S: Final = 0.5
LONGEST_RETRY_S: Final = 30.0
API: Final = "the API of Kubernetes"
LONG_S: Final = 10.0  # a watch that lasted this long was a good one, even if nothing happened

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


class KubernetesSource(TaskSource):
    """The endpoints of `discovery.service`. `environ` says where the cluster's API is, if the config does not."""

    def __init__(
        self,
        discovery: DiscoveryConfig,
        environ: Mapping[str, str],
        on_endpoints: OnEndpoints,
        on_problem: OnProblem,
        *,
        first_retry_s: float = FIRST_RETRY_S,
    ) -> None:
        super().__init__(on_endpoints, on_problem)
        for key, name in (("service", discovery.service), ("namespace", discovery.namespace)):
            if not _NAME.fullmatch(name):
                raise SourceError(f'discovery.{key}: expected a name of Kubernetes such as "web-1", got "{name}"')
        self._discovery = discovery
        self._api = api_address(discovery.api, environ)
        self._port_name = discovery.port_name
        self._first_retry_s = first_retry_s
        self._slices: dict[str, list[Found]] = {}  # by name, as each was when it could be used last
        self._unusable: set[str] = set()  # names of those that cannot be used as they are now
        self._version = ""  # the version of the whole that this is; "": unknown
        self._failures = 0  # ends in a row that brought nothing

    def __repr__(self) -> str:
        return f"<KubernetesSource {self._discovery.namespace}/{self._discovery.service}, {self.report}>"

    async def run(self) -> None:
        await asyncio.to_thread(_import_aiohttp)
        from proxy.discovery.kubernetes_api import ApiError, Cluster, GoneError, KubernetesApi

        told = self._discovery
        cluster = Cluster(self._api, told.token_file, told.ca_file, told.namespace, told.service)
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                async with KubernetesApi(cluster) as api:
                    await self._session(api)
            except GoneError:
                self._version = ""
            except ApiError as problem:
                self._version = ""  # a list is the surest way back
                self.report.failed(API, str(problem))
            if loop.time() - began > LONG_S:
                self._failures = 0
            self._failures += 1
            await asyncio.sleep(retry_delay(self._failures, self._first_retry_s, LONGEST_RETRY_S))

    async def _session(self, api: KubernetesApi) -> None:
        """Lists if it must, then watches until the server ends it."""
        if not self._version:
            listing = await api.list()
            self._take_all(listing.items)
            self._version = listing.version
        async with api.watch(self._version) as events:
            self.report.over(API)
            async for event in events:
                self._failures = 0
                self._heed(event)

    # ---- what is told, kept by slice

    def _take_all(self, items: Sequence[Item]) -> None:
        """What a list says: these slices, and no others."""
        for gone in (self._slices.keys() | self._unusable) - {item.metadata.name for item in items}:
            self._drop(gone)
        for item in items:
            self._take(item)
        self._tell()

    def _heed(self, event: Event) -> None:
        """What one event of a watch says. A BOOKMARK says only how far this is."""
        if event.type in ("ADDED", "MODIFIED"):
            self._take(event.item)
            self._tell()
        elif event.type == "DELETED":
            self._drop(event.item.metadata.name)
            self._tell()
        self.report.heard()
        self._version = event.item.metadata.resource_version

    def _take(self, item: Item) -> None:
        """Keeps one slice as it is now; if it cannot be used, as it was."""
        name = item.metadata.name
        try:
            self._slices[name] = endpoints_of(msgspec.json.decode(item.raw, type=EndpointSlice), self._port_name)
        except (SliceError, msgspec.ValidationError) as problem:
            why = placed(problem) if isinstance(problem, msgspec.ValidationError) else str(problem)
            self._unusable.add(name)
            self.report.failed(f"EndpointSlice {name}", f"EndpointSlice {name}: {why}")
        else:
            self._unusable.discard(name)
            self.report.over(f"EndpointSlice {name}")

    def _drop(self, name: str) -> None:
        self._slices.pop(name, None)
        self._unusable.discard(name)
        self.report.over(f"EndpointSlice {name}")

    def _tell(self) -> None:
        what = f"service {self._discovery.service} in namespace {self._discovery.namespace}"
        if not self._slices and not self._unusable:
            self.report.failed(what, f"{what}: it has no EndpointSlice; does it exist?")
            return
        self.report.over(what)
        endpoints = merge(chain.from_iterable(self._slices.values()))
        if endpoints or not self._unusable:
            self.report.found(endpoints)


def _import_aiohttp() -> None:
    import proxy.discovery.kubernetes_api  # noqa: F401 - importing it is all that is wanted: aiohttp takes a while


def api_address(api: str, environ: Mapping[str, str]) -> str:
    """The address of the API: the one that is given, or that of the cluster around us. Raises SourceError."""
    if not api:
        host = environ.get("KUBERNETES_SERVICE_HOST", "")
        if not host:
            raise SourceError("discovery.api: not given, and not known: KUBERNETES_SERVICE_HOST is not set here")
        port = environ.get("KUBERNETES_SERVICE_PORT", "")
        api = f"https://{address_of(host, int(port) if port.isdecimal() else 443)}"
    try:
        parts = urlsplit(api)
        fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        fine = False
    if not fine or parts.query or parts.fragment:
        raise SourceError(f'discovery.api: expected an address such as "https://10.0.0.1:6443", got "{api}"')
    return api.rstrip("/")
