"""The API of Kubernetes over HTTP: lists the EndpointSlices of a service, and watches them change.

Rules of this file:

- A session is short: one list at most, one watch. It reads token and authorities anew, so that both may rotate.
- The server's certificate is always verified. A token is sent over TLS only; `kubectl proxy` needs none.
- Every wait is bounded. A watch is asked to end after a minute or so, and given up soon after that: a connection that
  has died quietly is not believed for long.
- Whatever goes wrong is an ApiError of one line. That the past is forgotten (410) is a GoneError.
- It is this file that imports aiohttp, which takes 0.2 s: import it in a thread.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from random import uniform
from types import TracebackType
from typing import Final, NamedTuple, Self

import aiohttp
import msgspec

from proxy.discovery.endpoint_slice import API, SERVICE_LABEL, Metadata

ANSWER_S: Final = 30.0  # for a list
WATCH_S: Final = (60.0, 90.0)  # how long a watch is asked to be; drawn, lest all workers come back together
OVERDUE_S: Final = 10.0  # beyond that: the connection is dead
LARGEST: Final = 64 << 20  # bytes of a list, or of one line of a watch
LONGEST_MESSAGE: Final = 200  # characters of what the server says

MEANINGS: Final = {
    401: "the token is not accepted",
    403: "the token may not do this; it needs list and watch on endpointslices of discovery.k8s.io",
    404: "there is no such API, EndpointSlices of discovery.k8s.io/v1",
}


class Cluster(NamedTuple):
    """Where the API is, what to show it, and what to ask for. Files may be ""."""

    api: str  # "https://10.0.0.1:443"
    token_file: str
    ca_file: str
    namespace: str
    service: str

    @property
    def url(self) -> str:
        """The collection of slices."""
        return f"{self.api}/apis/{API}/namespaces/{self.namespace}/endpointslices"


class ApiError(Exception):
    """What is wrong, in one line."""


class GoneError(ApiError):
    """The server does not remember the version that was to be watched from; list again."""


class Item(NamedTuple):
    """A slice, what names it decoded and the rest not yet: one that is malformed spoils no other."""

    metadata: Metadata
    raw: msgspec.Raw


class Listing(NamedTuple):
    """The answer to a list: every slice, and the version of the whole to watch from."""

    items: list[Item]
    version: str


class Event(NamedTuple):
    """One line of a watch: ADDED, MODIFIED, DELETED, or BOOKMARK, which names a version only."""

    type: str
    item: Item


class Status(msgspec.Struct, frozen=True):
    """What the API says when it does not answer."""

    code: int = 0
    reason: str = ""
    message: str = ""


class _List(msgspec.Struct):
    metadata: Metadata
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Named(msgspec.Struct):
    metadata: Metadata = Metadata()


class KubernetesApi:
    """One session. Use it with `async with`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        headers = {"Accept": "application/json", "User-Agent": "kalab"}
        context: ssl.SSLContext | bool = True
        if self._cluster.api.startswith("https:"):
            token, context = await asyncio.to_thread(credentials, self._cluster)
            if token:
                headers["Authorization"] = f"Bearer {token}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def list(self) -> Listing:
        """All slices of the service."""
        async with self._get({}, ANSWER_S) as response:
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                self._bound(body)
            try:
                answer = msgspec.json.decode(bytes(body), type=_List)
                return Listing([_item_of(raw) for raw in answer.items or ()], answer.metadata.resource_version)
            except ValueError as problem:
                raise self._problem(f"not a list of EndpointSlices: {problem}") from None

    @asynccontextmanager
    async def watch(self, version: str) -> AsyncIterator[AsyncIterator[Event]]:
        """The changes since that version, until the server ends it. Entered when the server has agreed."""
        length_s = round(uniform(*WATCH_S))
        since = {"resourceVersion": version, "allowWatchBookmarks": "true", "timeoutSeconds": f"{length_s}"}
        async with (
            self._get({"watch": "1"} | since, length_s + OVERDUE_S) as response,
            aclosing(self._events(response)) as events,
        ):
            yield events

    async def _events(self, response: aiohttp.ClientResponse) -> AsyncGenerator[Event, None]:
        """Events are lines of JSON; chunks end anywhere. What a connection leaves unfinished is left to the next."""
        rest = bytearray()
        async for chunk in response.content.iter_any():
            rest += chunk
            if b"\n" not in chunk:
                self._bound(rest)
                continue
            *lines, last = bytes(rest).split(b"\n")
            rest = bytearray(last)
            for line in lines:
                if line.strip():
                    yield self._event_of(line)

    def _event_of(self, line: bytes) -> Event:
        try:
            event = msgspec.json.decode(line, type=_Event)
            if event.type != "ERROR":
                return Event(event.type, _item_of(event.object))
            status = msgspec.json.decode(event.object, type=Status)
        except ValueError as problem:
            raise self._problem(f"not an event of a watch: {problem}") from None
        raise self._refusal(status.code, status)

    @asynccontextmanager
    async def _get(self, more: dict[str, str], within_s: float) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None
        query = {"labelSelector": f"{SERVICE_LABEL}={self._cluster.service}"} | more
        timeout = aiohttp.ClientTimeout(total=within_s, connect=ANSWER_S)
        try:
            async with self._session.get(
                self._cluster.url, params=query, timeout=timeout, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise self._refusal(response.status, await _status_of(response))
                yield response
        except TimeoutError:
            raise self._problem("no answer in time") from None
        except aiohttp.ClientPayloadError:
            raise self._problem("the connection was lost") from None
        except (aiohttp.ClientError, OSError) as problem:
            raise self._problem(str(problem) or type(problem).__name__) from None

    def _bound(self, data: bytearray) -> None:
        if len(data) > LARGEST:
            raise self._problem(f"more than {LARGEST >> 20} MiB")

    def _refusal(self, code: int, status: Status) -> ApiError:
        if code == 410:
            return GoneError(f"{self._cluster.api}: {status.message or 'gone'}")
        said = " ".join(status.message.split())[:LONGEST_MESSAGE]
        meaning = MEANINGS.get(code, status.reason or "no answer to use")
        return self._problem(f"{code}, {meaning}" + (f" ({said})" if said else ""))

    def _problem(self, what: str) -> ApiError:
        return ApiError(f"{self._cluster.api}: {what}")


def credentials(cluster: Cluster) -> tuple[str, ssl.SSLContext]:
    """The token, or "", and what verifies the server. Blocks. Raises ApiError."""
    file = cluster.ca_file
    try:
        context = ssl.create_default_context(cafile=file or None)
        file = cluster.token_file
        token = Path(file).read_text("utf-8").strip() if file else ""
    except ssl.SSLError:
        raise ApiError(f"discovery.ca_file: {file}: no certificates in PEM") from None
    except OSError as problem:
        key = "ca_file" if file == cluster.ca_file else "token_file"
        raise ApiError(f"discovery.{key}: {file}: {problem.strerror}") from None
    except UnicodeDecodeError:
        token = "\n"
    if not (token.isascii() and token.isprintable()):
        raise ApiError(f"discovery.token_file: {file}: not a token")
    return token, context


def _item_of(raw: msgspec.Raw) -> Item:
    return Item(msgspec.json.decode(raw, type=_Named).metadata, raw)


async def _status_of(response: aiohttp.ClientResponse) -> Status:
    """What the API says beside the status code, if it is in its own words."""
    try:
        return msgspec.json.decode(await response.content.read(1 << 16), type=Status)
    except ValueError:
        return Status(reason=response.reason or "")
