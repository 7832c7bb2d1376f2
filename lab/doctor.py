"""What this machine can do for the lab: `kalab doctor`.

Rules of this file:

- A finding is true (works), false (does not, and something of the lab needs it) or None (optional, or not known).
- Each is found by trying, not by guessing from a name, and takes a second at most. What fails, fails alone.
- Paths below the user's home are shown with "~".
"""

from __future__ import annotations

import gzip
import platform
import re
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import msgspec
from rich.console import Console
from rich.text import Text

from lab.errors import UsageError
from lab.machine import environment, has_capability, package_version, read, usable_cores
from lab.proxy_facts import EVERY_OPTION, ProxyError, ask_proxy
from lab.stats import percentile
from lab.wire.probe import probe
from lab.wording import encodable
from upstreams.catalogue import SERVERS

__all__ = ["Finding", "environment", "examine", "show"]

NEEDED_PYTHON = (3, 11)
NEEDED_FILES = 4096
"""Descriptors for a full run with some hundred connections at every hop, with room to spare."""
TIMED_FOR_S = 0.05
NAP_S = 0.001
LATE_MS = 3.0
BUILDS = {"plain": "plain Python", "compiled": "compiled by mypyc"}
"""Sleeps that end later than this at p99 blur a window of a few round trips of 1 ms."""

TOOLS = {
    "nginx": "a proxy to compare with: apt-get install nginx",
    "haproxy": "a proxy to compare with: apt-get install haproxy",
    "wrk": "a load generator for `make bench`: apt-get install wrk",
    "tshark": "reads the packets of a run in a terminal: apt-get install tshark",
    "tcpdump": "captures packets of your own: apt-get install tcpdump",
    "docker": "only for the compose file: docs.docker.com/engine/install",
}
"""Programs that are never needed, and what each is good for."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. `remedy` says what to do, or what can be done; "" when there is nothing to do."""

    name: str
    ok: bool | None
    sentence: str
    remedy: str = ""


def examine(config: Path | None = None) -> list[Finding]:
    """Looks at everything; at the proxy with this config, None for its defaults. Takes about two seconds.

    Raises UsageError if the config is none.
    """

    def proxy() -> Iterator[Finding]:
        return _proxy(config)

    parts: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python,
        _resources,
        proxy,
        _wires,
        _capture,
        _netem,
        _servers,
        _tools,
        _clock,
        _timer,
    )
    return [finding for part in parts for finding in _safely(part)]


def show(findings: Sequence[Finding], console: Console) -> None:
    """Prints the findings, one a line, with the remedy below."""
    width = max(len(finding.name) for finding in findings)
    words = {True: ("ok", "green"), False: ("no", "bold red"), None: ("-", "")}
    for finding in findings:
        word, style = words[finding.ok]
        line = Text(f"{word:<3}", style=style).append(
            f"{finding.name:<{width}}  {finding.sentence}", "default not bold"
        )
        _print(line, console)
        if finding.remedy and finding.ok is not True:
            _print(Text(f"{'':<3}{'':<{width}}  {finding.remedy}", style="dim"), console)


def _print(line: Text, console: Console) -> None:
    console.print(Text(encodable(line.plain, console.encoding), style=line.style, spans=line.spans), soft_wrap=True)


def _safely(part: Callable[[], Iterator[Finding]]) -> list[Finding]:
    found: list[Finding] = []
    try:
        found.extend(part())
    except UsageError:
        raise
    except Exception as error:  # a doctor that dies of one odd machine helps nobody on it
        name = part.__name__.strip("_")
        found.append(Finding(name, None, f"This could not be examined: {type(error).__name__}: {_tidy(str(error))}."))
    return found


def _tidy(path: str) -> str:
    return path.replace(str(Path.home()), "~") if Path.home() != Path("/") else path


def _python() -> Iterator[Finding]:
    version = tuple(int(part) for part in platform.python_version_tuple()[:2])
    wanted = ".".join(map(str, NEEDED_PYTHON))
    remedy = "" if version >= NEEDED_PYTHON else f"Use Python {wanted} or newer."
    sentence = f"{platform.python_implementation()} {platform.python_version()}"
    yield Finding("python", version >= NEEDED_PYTHON, sentence, remedy)
    for name in ("uvloop", "httptools", "msgspec", "aiohttp", "dnspython"):
        found = package_version(name)
        yield Finding(name, bool(found), found or "not installed", "" if found else "pip install 'kalab[lab]'")


def _resources() -> Iterator[Finding]:
    cores = usable_cores()
    few = "Expect timers to be late: proxy, upstream, wire and client share one core. Runs on two are steadier."
    yield Finding("cores", True if cores > 1 else None, f"{cores} usable", "" if cores > 1 else few)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = _at_least(hard, NEEDED_FILES)
    raised = "" if soft == hard else f", raised to {_limit_text(hard)} by the lab"
    remedy = "" if enough else f"Let an administrator raise the hard limit to {NEEDED_FILES}."
    yield Finding("open files", enough, f"{_limit_text(soft)}{raised}", remedy)


def _at_least(limit: int, needed: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= needed


def _limit_text(limit: int) -> str:
    return "no limit" if limit == resource.RLIM_INFINITY else str(limit)


def _proxy(config: Path | None) -> Iterator[Finding]:
    try:
        facts = ask_proxy(config)
    except ProxyError as error:
        if config is not None:
            raise UsageError(str(error)) from None
        yield Finding("proxy", False, f"it does not start: {_tidy(str(error))}", "Mend what it says, or make clean.")
        return
    parser = f"{facts.build['parser']} of httptools {facts.build['httptools']}"
    yield Finding("proxy parser", True, parser)
    yield Finding("proxy build", True, BUILDS[facts.build["build"]])
    sentence = f"{facts.clients} at a time in each process; open files: {_limit_text(facts.descriptors)}"
    few = f"For {facts.wanted_clients} let an administrator raise the hard limit of open files."
    enough = facts.clients >= facts.wanted_clients
    yield Finding("proxy clients", True if enough else None, sentence, "" if enough else few)
    wanting = "; ".join(f"{key}: asked {asked}, got {got}" for key, asked, got in facts.refused)
    every = ", ".join(["nodelay", *EVERY_OPTION])
    yield Finding("socket options", not wanting, wanting or f"the kernel takes every one: {every}", "Leave these out.")
    for key, asked, got in (*facts.sockets, *facts.listener):
        limit = "net.core.somaxconn is the limit." if key == "listener.backlog" else "This is what the kernel gives."
        granted = asked == got
        yield Finding(key, True if granted else None, f"asked {asked}, got {got}", "" if granted else limit)


def _wires() -> Iterator[Finding]:
    for make, found in probe().items():
        # Without namespaces the relay shows the same race; nothing is broken.
        ok = True if found.ok else None if make == "netns" else False
        yield Finding(f"wire {make}", ok, f"works, as {found.how}" if found.ok else "cannot be built", found.why_not)


def _capture() -> Iterator[Finding]:
    """Packets of interfaces outside the lab's own wire; the wires write their own captures without this."""
    remedy = "Not needed for runs. For captures of your own: run as root, or give the container --cap-add NET_RAW."
    if not hasattr(socket, "AF_PACKET"):
        yield Finding("packet capture", None, "this system has no packet sockets", remedy)
        return
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except OSError as error:
        right = "has" if has_capability("CAP_NET_RAW") else "lacks"
        yield Finding("packet capture", None, f"no: {error.strerror}; this process {right} CAP_NET_RAW", remedy)
        return
    yield Finding("packet capture", True, "a packet socket opens")


def _netem() -> Iterator[Finding]:
    """Whether the kernel could delay packets by itself. For information: the wire does not use it."""
    release = platform.release()
    modules = Path("/lib/modules", release)
    built_in = "sch_netem" in read(modules / "modules.builtin")
    module = "sch_netem" in read(modules / "modules.dep")
    config = read(f"/boot/config-{release}")
    if not config and Path("/proc/config.gz").exists():
        config = gzip.decompress(Path("/proc/config.gz").read_bytes()).decode(errors="replace")
    chosen = re.search(r"^CONFIG_NET_SCH_NETEM=([ym])", config, re.MULTILINE)
    note = "Not needed: kalab's wire delays packets itself."
    if built_in or module or chosen:
        yield Finding("netem", True, "in the kernel" if built_in else "in the kernel or as a module")
    else:
        known = bool(config) or modules.exists()
        yield Finding("netem", None, "not in this kernel" if known else "not known for this kernel", note)


def _servers() -> Iterator[Finding]:
    for server in SERVERS.values():
        name = f"server {server.name}"
        if server.find() is None:
            yield Finding(name, None, "not installed", server.how_to_get)
            continue
        try:
            version = server.version()
        except (OSError, subprocess.SubprocessError) as error:
            yield Finding(
                name, False, f"found, but it does not say its version: {type(error).__name__}", server.how_to_get
            )
            continue
        yield Finding(
            name, True, f"{server.title} {version}; idle timeout {server.default_keep_alive_s:g} s unless set"
        )


def _tools() -> Iterator[Finding]:
    for name, how_to_get in TOOLS.items():
        path = shutil.which(name)
        if path:
            yield Finding(f"tool {name}", True, _tidy(path))
        else:
            yield Finding(f"tool {name}", None, "not found", f"Optional, {how_to_get}")


def _clock() -> Iterator[Finding]:
    """The clock that every process stamps its events with."""
    info = time.get_clock_info("monotonic")
    step_ns = _smallest_step_ns()
    ok = info.monotonic and step_ns < 100_000
    remedy = "" if ok else "Events nearer than this cannot be put in order; use another clock source or machine."
    yield Finding("clock", ok, f"{info.implementation}, {info.resolution:g} s; smallest step seen {step_ns} ns", remedy)


def _smallest_step_ns() -> int:
    stamps = [time.monotonic_ns() for _ in range(2000)]
    steps = [after - before for before, after in pairwise(stamps) if after > before]
    return min(steps, default=10**9)


def _timer() -> Iterator[Finding]:
    late_ms = _naps_late_ms()
    middle, worst = percentile(late_ms, 0.5), percentile(late_ms, 0.99)
    sentence = f"a sleep of {NAP_S * 1000:g} ms ends {middle:.2f} ms late, {worst:.2f} ms at p99, of {len(late_ms)}"
    if worst <= LATE_MS:
        yield Finding("timer", True, sentence)
    else:
        remedy = "The machine is busy or shared. Runs stay correct, but more of their trials will not count."
        yield Finding("timer", None, sentence, remedy)


def _naps_late_ms() -> list[float]:
    late: list[float] = []
    until = time.monotonic() + TIMED_FOR_S
    while not late or time.monotonic() < until:
        before = time.monotonic()
        time.sleep(NAP_S)
        late.append((time.monotonic() - before - NAP_S) * 1000)
    return late
