"""The tiny app for ASGI servers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from executions import Executions, delay_of

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

executions = Executions.from_environment()


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await live(receive, send)
    elif scope["type"] == "http":
        await answer(scope, receive, send)


async def live(receive: Receive, send: Send) -> None:
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


async def answer(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message.get("more_body", False)
    query = scope["query_string"].decode("latin-1")
    if executions:
        req_id = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        path = scope["raw_path"].decode("latin-1")
        executions.add(req_id, scope["method"], f"{path}?{query}" if query else path)
    delay = delay_of(query)
    if delay:
        await asyncio.sleep(delay)
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"3")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok\n"})
