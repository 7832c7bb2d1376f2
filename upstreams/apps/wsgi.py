"""The tiny app for WSGI servers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from executions import Executions, delay_of

executions = Executions.from_environment()


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    environ["wsgi.input"].read()
    query = environ.get("QUERY_STRING", "")
    if executions:
        path = environ["PATH_INFO"]
        target = environ.get("RAW_URI") or (f"{path}?{query}" if query else path)
        executions.add(environ.get("HTTP_X_REQUEST_ID", ""), environ["REQUEST_METHOD"], target)
    delay = delay_of(query)
    if delay:
        time.sleep(delay)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [b"ok\n"]
