"""The lab upstream: an HTTP/1.1 server that closes connections exactly as it is told, and logs each close.

    python -m upstreams.lab --listen 127.0.0.1:0 --keep-alive 2s --close linger --events upstream.jsonl

Rules of this file:

- Several listeners share one loop, one log and one behaviour, so that one stall hits them all.
- It prints one line per listener, `listening on HOST:PORT`; with `--refuse` too, for that is the address that refuses.
- SIGTERM and SIGINT close the listeners, drain every connection as `--drain` says, then close the log, and exit with 0.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from random import Random

import uvloop

from proxy.events import EventLog
from upstreams.apps.executions import Executions
from upstreams.connection import LabConnection
from upstreams.options import Options, UsageError, parse
from upstreams.recorder import (
    EXCHANGE_ANSWERED,
    EXCHANGE_EXECUTED,
    UPSTREAM_CLOSED,
    UPSTREAM_LINGERED,
    UPSTREAM_OPENED,
    UPSTREAM_RETIRED,
    UPSTREAM_STALLED,
    Recorder,
)
from upstreams.upstream import Upstream

__all__ = [
    "EXCHANGE_ANSWERED",
    "EXCHANGE_EXECUTED",
    "UPSTREAM_CLOSED",
    "UPSTREAM_LINGERED",
    "UPSTREAM_OPENED",
    "UPSTREAM_RETIRED",
    "UPSTREAM_STALLED",
    "main",
]

BACKLOG = 4096
BAD_USAGE = 3


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
        sockets = listeners(options)
        recorder = open_recorder(options)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_USAGE
    allow_many_connections()
    try:
        uvloop.run(serve(options, sockets, recorder))
    finally:
        recorder.close()
    return 0


async def serve(options: Options, sockets: list[socket.socket], recorder: Recorder) -> None:
    """Serves until a signal asks it to stop."""
    loop = asyncio.get_running_loop()
    upstream = Upstream(options.behaviour, recorder, Random(options.seed))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    servers = []
    for bound in sockets:
        if not options.refuse:
            servers.append(await loop.create_server(lambda: LabConnection(upstream), sock=bound, backlog=BACKLOG))
        print("listening on", address_of(bound), flush=True)
    await stop.wait()
    for server in servers:
        server.close()
    for bound in sockets:
        bound.close()  # who shares the port gets all that comes from here on
    await upstream.drain()


def listeners(options: Options) -> list[socket.socket]:
    """The sockets to listen on. Raises UsageError when they cannot be had."""
    if options.inherit is None:
        return [bind(host, port, options.reuse_port) for host, port in options.listen]
    try:
        return [socket.socket(fileno=options.inherit)]
    except OSError as error:
        raise UsageError(f"--inherit: {options.inherit} is no socket: {error.strerror}") from None


def bind(host: str, port: int, reuse_port: bool = False) -> socket.socket:
    """A bound TCP socket that does not listen yet. Raises UsageError when it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse_port)
        bound.bind(address)
    except OSError as error:
        hint = "; port 0 takes a free one" if port else ""
        raise UsageError(f"--listen: cannot listen on {host}:{port}: {error.strerror}{hint}") from None
    return bound


def open_recorder(options: Options) -> Recorder:
    """The log and the file of executions, as far as they were asked for."""
    try:
        log = EventLog(options.events, "upstream") if options.events else None
    except OSError as error:
        raise UsageError(f"--events: cannot write {options.events}: {error.strerror}") from None
    return Recorder(log, Executions.from_environment())


def allow_many_connections() -> None:
    """Thousands of connections need as many descriptors; the usual soft limit is 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def address_of(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


if __name__ == "__main__":
    sys.exit(main())
