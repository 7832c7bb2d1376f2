"""An API server of Kubernetes for tests: it lists and watches EndpointSlices, and misbehaves as it is told.

It speaks the wire protocol over TLS with a certificate of its own: a list, then a watch as a chunked stream of JSON
lines, split where it hurts.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

PATH = "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
TOKEN = "first-token"

Slice = dict[str, Any]
Reply = Callable[[web.Request], web.Response]


def slice_of(name: str, *addresses: str, port: int = 8080, **more: Any) -> Slice:
    """A slice with ready endpoints, as the controller of Kubernetes writes it: an empty list is null."""
    endpoints = [{"addresses": [address], "conditions": {"ready": True}} for address in addresses]
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": endpoints or None,
    } | more


@dataclass
class FakeKubernetes:
    """What the cluster holds, and how its server behaves."""

    slices: dict[str, Slice] = field(default_factory=dict)
    version: int = 100
    token: str = TOKEN
    replies: deque[Reply] = field(default_factory=deque)  # each instead of one proper answer, in turn
    requests: list[web.Request] = field(default_factory=list)
    step: int = 0  # bytes of a chunk of a watch; 0: a line each
    url: str = ""
    ca_file: str = ""
    _watches: set[asyncio.Queue[bytes | None]] = field(default_factory=set)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    # ---- what a test does

    def tell(self, kind: str, each: Slice) -> None:
        """Changes a slice, and tells the watches: ADDED, MODIFIED, DELETED."""
        name = each["metadata"]["name"]
        self.slices[name] = each
        if kind == "DELETED":
            del self.slices[name]
        self.say(kind, each)

    def say(self, kind: str, thing: dict[str, Any]) -> None:
        """Sends an event as it is, under the next version."""
        self.version += 1
        thing["metadata"] = thing.get("metadata", {}) | {"resourceVersion": str(self.version)}
        self.send(json.dumps({"type": kind, "object": thing}).encode() + b"\n")

    def send(self, data: bytes | None) -> None:
        """Sends bytes to every watch; None ends them properly."""
        for watch in self._watches:
            watch.put_nowait(data)

    def drop(self) -> None:
        """Cuts every connection."""
        for request in self.requests:
            if request.transport is not None:
                request.transport.abort()

    async def until_watched(self) -> None:
        """Until there is a watch."""
        async with asyncio.timeout(20):
            while not self._watches:
                self._changed.clear()
                await self._changed.wait()

    async def until_unwatched(self) -> None:
        """Until there is none."""
        async with asyncio.timeout(20):
            while self._watches:
                self._changed.clear()
                await self._changed.wait()

    # ---- the server

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return refusal(401, "Unauthorized")
        if self.replies:
            return self.replies.popleft()(request)
        assert request.query["labelSelector"] == "kubernetes.io/service-name=web"
        if "watch" not in request.query:
            items = list(self.slices.values())
            metadata = {"resourceVersion": str(self.version)}
            return web.json_response({"kind": "EndpointSliceList", "metadata": metadata, "items": items})
        assert request.query["allowWatchBookmarks"] == "true"
        return await self._watch(request)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._watches.add(queue)
        self._changed.set()
        try:
            while (data := await queue.get()) is not None:
                for start in range(0, len(data), self.step or len(data)):
                    await response.write(data[start : start + (self.step or len(data))])
        except ConnectionError:
            pass
        finally:
            self._watches.discard(queue)
            self._changed.set()
        return response


def refusal(code: int, reason: str, message: str = "") -> web.Response:
    """A refusal in the API's own words."""
    status = {"kind": "Status", "metadata": {}, "status": "Failure", "reason": reason, "message": message, "code": code}
    return web.json_response(status, status=code)


@asynccontextmanager
async def fake_kubernetes(certificate: tuple[Path, Path]) -> AsyncIterator[FakeKubernetes]:
    """A running server. `certificate` is what `make_certificate` made."""
    server = FakeKubernetes()
    application = web.Application()
    application.router.add_get(PATH, server.handle)
    runner = web.AppRunner(application, shutdown_timeout=0, handler_cancellation=True, access_log=None)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    server.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
    server.ca_file = str(certificate[0])
    try:
        yield server
    finally:
        server.drop()
        await runner.cleanup()


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    certificate, key = folder / "ca.crt", folder / "ca.key"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=fake"
    more = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *more], check=True, capture_output=True, timeout=60)
    return certificate, key
