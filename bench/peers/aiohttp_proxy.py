"""A proxy as one writes it with aiohttp: its server, its client with kept connections, bodies streamed; on uvloop.

Run as `python -m bench.peers.aiohttp_proxy PORT UPSTREAM_PORT`.
"""

from __future__ import annotations

import sys

import aiohttp
import uvloop
from aiohttp import web

from bench.peers.base import TREE, Contestant, Place
from bench.processes import Server, free_port

HOP_BY_HOP = ("Connection", "Keep-Alive", "Transfer-Encoding", "TE", "Trailer", "Upgrade")


def application(upstream: int) -> web.Application:
    async def session(app: web.Application):  # type: ignore[no-untyped-def]  # its type is aiohttp's, and long
        connector = aiohttp.TCPConnector(limit=0, limit_per_host=0, keepalive_timeout=60)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as client:
            app["client"] = client
            yield

    async def forward(request: web.Request) -> web.StreamResponse:
        fields = request.headers.copy()
        for name in HOP_BY_HOP:
            fields.popall(name, None)
        url = f"http://127.0.0.1:{upstream}{request.raw_path}"
        body = request.content if request.can_read_body else None
        async with request.app["client"].request(
            request.method, url, headers=fields, data=body, allow_redirects=False
        ) as answer:
            response = web.StreamResponse(status=answer.status, reason=answer.reason)
            for name, value in answer.headers.items():
                if name not in HOP_BY_HOP:
                    response.headers.add(name, value)
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response

    app = web.Application(client_max_size=0)
    app.cleanup_ctx.append(session)
    app.router.add_route("*", "/{path:.*}", forward)
    return app


def start(place: Place) -> Server:
    port = free_port()
    argv = [sys.executable, "-m", "bench.peers.aiohttp_proxy", str(port), str(place.upstream)]
    return Server("aiohttp", argv, room=place.room, cwd=TREE, cores=place.cores, port=port)


AIOHTTP = Contestant("aiohttp", f"aiohttp {aiohttp.__version__}, own proxy", lambda: "", start)

if __name__ == "__main__":
    web.run_app(
        application(int(sys.argv[2])),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        access_log=None,
        print=None,
        keepalive_timeout=300,
        loop=uvloop.new_event_loop(),
    )
