"""The tiny app on aiohttp.web, a library, so this script is its command.

Usage: aiohttp_app.py HOST PORT KEEP_ALIVE_SECONDS
"""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web
from executions import Executions, delay_of

BODY_LIMIT = 64 * 1024 * 1024

executions = Executions.from_environment()


async def answer(request: web.Request) -> web.Response:
    await request.read()
    if executions:
        executions.add(request.headers.get("X-Request-Id", ""), request.method, request.raw_path)
    delay = delay_of(request.query_string)
    if delay:
        await asyncio.sleep(delay)
    return web.Response(text="ok\n")


def main(host: str, port: str, keep_alive_s: str) -> None:
    app = web.Application(client_max_size=BODY_LIMIT)
    app.router.add_route("*", "/{path:.*}", answer)
    web.run_app(
        app,
        host=host,
        port=int(port),
        keepalive_timeout=float(keep_alive_s),
        access_log=None,
        print=None,
        backlog=4096,
        shutdown_timeout=1.0,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
