"""The admin address: metrics, health, the pools, the config, and changes of it, for operators and their tools.

    GET /metrics   Prometheus text           GET /pool     every upstream and its connections, JSON
    GET /healthz   200: the process lives    GET /config   every key, its value and its origin, JSON
    GET /readyz    200, or 503 and why not   PATCH /config {"timeouts.upstream_idle": "3s"}: all of it or nothing

Rules of this file:

- It knows the proxy only through `Control`. Who may ask is in `guard.py`, and is asked first.
- GET changes nothing. What a client sent is in an answer only where it was a key or a value of a change, as JSON.
- One request per connection, a few connections, a few seconds for each: whoever holds them open makes room for the
  next, and costs the proxy nothing that it needs itself.
- A mistake in a request is one line and a status below 500.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import msgspec
from aiohttp import web

from proxy.admin.api import Control, NotLive, Unavailable
from proxy.admin.guard import Refusal, changes_of, check_change, check_sender, read_token
from proxy.config import AdminConfig, ConfigError, parse_address
from proxy.observe.exposition import CONTENT_TYPE
from proxy.observe.metrics import MOST_SHOWN, Snapshot, render

LIFETIME_S: Final = 10.0  # of a connection, from accepting it to the end of its answer
MOST_CONNECTIONS: Final = 16  # at a time; the oldest makes way for one more
MOST_BODY: Final = 64 << 10  # bytes of a change
LONGEST_ERROR: Final = 1000  # characters
LINGER_S: Final = 0.5  # how long the rest of a refused body is read
CLOSE_WITHIN_S: Final = 0.1  # what is under way then is given up

JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"

# No page may embed, keep or misread an answer.
_FIELDS: Final = {
    "Server": "kalab",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class Reply(NamedTuple):
    """An answer."""

    body: bytes
    content_type: str = JSON
    status: int = 200


class Admin:
    """The server. `start`, then `close`; both once."""

    def __init__(self, config: AdminConfig, control: Control) -> None:
        self.config = config
        self.control = control
        self._token = b""
        self._connections: dict[Connection, None] = {}  # oldest first
        self._http: web.Server | None = None
        self._server: asyncio.Server | None = None
        self._pages: dict[str, Callable[[], Awaitable[Reply]]] = {
            "/": self._index,
            "/metrics": self._metrics,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/pool": self._pool,
            "/config": self._config,
        }

    def __repr__(self) -> str:
        changes = "changes with a token" if self._token else "no changes"
        return f"<Admin {self.config.listen}, {len(self._connections)} connections, {changes}>"

    async def start(self) -> tuple[str, int]:
        """Listens, and returns on which address. Raises OSError if it cannot, ConfigError for a bad token file."""
        self._token = read_token(self.config.token_file, _complain)
        self._http = http = web.Server(self._answer)
        loop = asyncio.get_running_loop()
        host, port = parse_address(self.config.listen)
        self._server = await loop.create_server(
            lambda: Connection(http, self, loop), host, port, backlog=MOST_CONNECTIONS
        )
        address = self._server.sockets[0].getsockname()
        return address[0], address[1]

    async def close(self) -> None:
        """Stops listening, and cuts off who is still connected. Idempotent."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.cut_off()
        if self._http is not None:
            await self._http.shutdown(CLOSE_WITHIN_S)

    # ---- called by its connections

    def opened(self, connection: Connection) -> None:
        self._connections[connection] = None
        if len(self._connections) > MOST_CONNECTIONS:
            next(iter(self._connections)).cut_off()

    def closed(self, connection: Connection) -> None:
        self._connections.pop(connection, None)

    # ---- a request

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        fields: dict[str, str] = {}
        try:
            reply = await self._reply(request)
        except Refusal as refusal:
            reply, fields = _error(refusal.status, refusal.why), refusal.fields
        except NotLive as problem:
            reply = _error(409, str(problem))
        except ConfigError as problem:
            reply = _error(400, str(problem))
        except Unavailable as problem:
            reply = _error(503, str(problem))
        return _response(reply, **fields)

    async def _reply(self, request: web.BaseRequest) -> Reply:
        sockname = request.get_extra_info("sockname") or ("",)
        check_sender(lambda name: request.headers.getall(name, ()), sockname[0], self.config.allowed_hosts)
        path = request.raw_path.partition("?")[0]
        if path not in self._pages:
            raise Refusal(404, "no such page; / lists what there is")
        if request.method in ("GET", "HEAD"):
            return await self._pages[path]()
        if path != "/config":
            raise Refusal(405, "this page can only be read", Allow="GET, HEAD")
        if request.method != "PATCH":
            raise Refusal(405, "this page can be read, and changed with PATCH", Allow="GET, HEAD, PATCH")
        check_change(lambda name: request.headers.getall(name, ()), self._token)
        return await self._change(await _body_of(request))

    # ---- the pages

    async def _index(self) -> Reply:
        return Reply("".join(f"{path}\n" for path in self._pages if path != "/").encode(), TEXT)

    async def _healthz(self) -> Reply:
        return Reply(b"ok\n", TEXT)

    async def _readyz(self) -> Reply:
        why_not = self.control.ready()
        return Reply(f"{why_not or 'ready'}\n".encode(), TEXT, 503 if why_not else 200)

    async def _metrics(self) -> Reply:
        return Reply(render(await self.control.snapshot(with_pool=False)), CONTENT_TYPE)

    async def _pool(self) -> Reply:
        return Reply(_encode(pool_view(await self.control.snapshot(with_pool=True))))

    async def _config(self) -> Reply:
        return Reply(_encode(await self.control.config()))

    async def _change(self, body: bytes) -> Reply:
        changes = await self.control.patch(changes_of(body))
        return Reply(_encode({"changes": [change._asdict() for change in changes]}))


class Connection(web.RequestHandler):
    """One connection, within its limits: aiohttp has none for a head that does not come."""

    __slots__ = ("_admin", "_lifetime")

    def __init__(self, http: web.Server, admin: Admin, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            http,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]
            auto_decompress=False,  # nothing here is worth a bomb
            lingering_time=LINGER_S,
        )
        self._admin = admin
        self._lifetime: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._lifetime = asyncio.get_running_loop().call_later(LIFETIME_S, self.cut_off)
        self._admin.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self._lifetime is not None:
            self._lifetime.cancel()
        self._admin.closed(self)

    def cut_off(self) -> None:
        """Closes it now, whatever is under way."""
        self._admin.closed(self)
        transport = self.transport
        if transport is not None:
            transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - an override
    ) -> web.StreamResponse:
        """What is no HTTP, or a mistake of ours: aiohttp's own answer would repeat the one and print the other."""
        if status >= 500:
            _complain(f"{request.method} failed: {exc!r}")
            return _response(_error(500, "a mistake of this server; its standard error says more"))
        return _response(_error(400, "not a valid request"))


def pool_view(snapshot: Snapshot) -> dict[str, object]:
    """What /pool shows: upstreams, and as many of their connections as one can look at."""
    upstreams = [
        {"worker": worker.worker, **msgspec.structs.asdict(each)}
        for worker in snapshot.workers
        for each in worker.upstreams
    ]
    connections = [
        {"worker": worker.worker, **msgspec.structs.asdict(each)} for worker in snapshot.workers for each in worker.pool
    ]
    shown, size = connections[:MOST_SHOWN], sum(worker.pool_size for worker in snapshot.workers)
    note = f"{size - len(shown)} more are left out" if size > len(shown) else ""
    return {"upstreams": upstreams, "connections": shown, "size": size, "note": note}


async def _body_of(request: web.BaseRequest) -> bytes:
    """The whole body. Whoever waits to be asked for it is asked."""
    too_much = Refusal(413, f"a change has at most {MOST_BODY} bytes")
    if (request.content_length or 0) > MOST_BODY:
        raise too_much
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = bytearray()
    try:
        async for piece in request.content.iter_any():
            body += piece
            if len(body) > MOST_BODY:
                raise too_much
    except (web.RequestPayloadError, ConnectionError):
        raise Refusal(400, "the body is not what its head announced") from None
    return bytes(body)


def _response(reply: Reply, **fields: str) -> web.Response:
    response = web.Response(
        body=reply.body,
        status=reply.status,
        headers={**_FIELDS, "Content-Type": reply.content_type, **fields},
    )
    response.force_close()
    return response


def _error(status: int, why: str) -> Reply:
    if len(why) > LONGEST_ERROR:
        why = why[:LONGEST_ERROR] + "…"
    return Reply(json.dumps({"error": why}).encode() + b"\n", JSON, status)


def _encode(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value)) + b"\n"


def _complain(what: str) -> None:
    print(f"admin: {what}", file=sys.stderr)
