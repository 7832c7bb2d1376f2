"""Who may import whom. The table below is the plan of the house; a file that is not in it has no place yet.

The proxy knows nothing of the lab. Its leaves know nothing of each other, its decisions no clock and no loop, and in
the chain each knows only what stands left of it. An instrument shares no code with what it measures.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parent.parent
OURS = ("proxy", "upstreams", "scenarios", "lab", "bench")

# --- The proxy, from left to right. In a room of several files each may import those before it. A package is named by
# itself for its __init__, and "package.file" for the others.

LEAVES = (
    ("events",),
    ("deadline",),
    (
        *("config.hints", "config.values", "config.addresses", "config.bounds"),
        *("config.knobs_exchange", "config.knobs_edges", "config.knobs_upstreams", "config.knobs"),
        *("config.known_keys", "config.origins", "config.file", "config.checks", "config.changes", "config"),
    ),
    (
        *("http1", "http1.grammar", "http1.trailers", "http1.framing", "http1.pages", "http1.forwarding"),
        *("http1.request_head", "http1.request_reader", "http1.response_head", "http1.response_reader"),
    ),
    ("kernel",),
    ("sockets",),
    ("transports",),
    ("tls",),
    ("observe", "observe.counters", "observe.exposition", "observe.loop_lag"),
)
FROM_CONFIG = ("sockets", "tls")  # leaves that turn keys of the config into what the system takes
DECISIONS = ("failure", "retry", "pool", "balancer", "ejection", "router")
CHAIN = (
    *(
        "sides",
        "upstream_socket",
        "upstream_life",
        "upstream_connection",
        "upstream",
        "group",
        "gateway",
        "record",
        "tunnel",
        "outgoing",
        "exchange",
    ),
    *("downstream_socket", "downstream_body", "downstream", "listener", "clients", "groups", "server"),
    *("observation", "control", "preflight", "channel", "worker", "worker_process", "workers", "__main__"),
)

# Beside the chain, and what of ours each may import; beside the leaves, and those before it in its own room.
BESIDE = {
    "observe.access_log": ("events", "config", "http1"),  # reads the event stream
    "observe.metrics": ("observe", "failure", "retry"),
    "health": ("config", "http1", "failure"),  # these two tell a group of its upstreams, which is given to them
    "discovery.endpoints": ("config",),
    "discovery.endpoint_slice": ("config", "discovery"),
    "discovery.file_source": ("config", "discovery"),
    "discovery.dns_lookup": ("config",),
    "discovery.dns_source": ("config", "discovery"),
    "discovery.kubernetes_api": ("discovery",),
    "discovery.kubernetes_source": ("config", "discovery"),
    "discovery": ("config", "discovery"),
    "admin": (),
    "admin.api": ("config", "observe"),
    "admin.guard": ("config", "http1"),
    "admin.site": ("config", "observe", "admin"),
}

LEAF_MODULES = tuple(name for room in LEAVES for name in room)
# Who makes what stands beside, and wires it to the chain.
MAKERS = (
    *("groups", "server", "observation", "control", "preflight"),
    *("channel", "worker", "worker_process", "workers", "__main__"),
)

# What decisions must be told instead: `now`, and what happened.
NOT_FOR_DECISIONS = {"asyncio", "uvloop", "time", "datetime", "socket", "select", "threading", "os"}

THIRD_PARTIES = {
    "http1.grammar": {"httptools"},  # the parser; everything above it is policy
    "admin.site": {"aiohttp", "msgspec"},
    "discovery.kubernetes_api": {"aiohttp", "msgspec"},
    "discovery.dns_lookup": {"dns"},
    "__main__": {"uvloop"},
}


def within(names: Iterable[str], *folders: str) -> list[str]:
    """Those that are one of these files, or in one of these folders."""
    return [name for name in names if any(name == folder or name.startswith(folder + ".") for folder in folders)]


def proxy_may_import(name: str) -> list[str]:
    """Which modules of the proxy this module of the proxy may import."""
    for room in LEAVES:
        if name in room:
            return [*room[: room.index(name)], *(within(LEAF_MODULES, "config") if name in FROM_CONFIG else ())]
    if name in DECISIONS:
        return [*LEAF_MODULES, *DECISIONS[: DECISIONS.index(name)]]
    if name in BESIDE:
        known = [*LEAF_MODULES, *DECISIONS, *(other for other in BESIDE if other != name)]
        return within(known, *BESIDE[name])
    beside = BESIDE if name in MAKERS else ()
    return [*LEAF_MODULES, *DECISIONS, *beside, *CHAIN[: CHAIN.index(name)]]


def third_parties(module: str) -> set[str]:
    """Which packages of others a module of the proxy may import."""
    return THIRD_PARTIES.get(module.removeprefix("proxy."), {"msgspec"})


def may_import(module: str) -> list[str]:
    """Which of our modules, or folders of them, a module may import."""
    folder, _, name = module.partition(".")
    if folder == "proxy":
        return [f"proxy.{other}" for other in proxy_may_import(name)] if name else []
    if module.startswith("upstreams.apps"):
        return ["upstreams.apps"]
    return {
        "upstreams": ["upstreams", "proxy.events"],
        "scenarios": ["lab.model", "proxy.config", "proxy.events", "upstreams.catalogue"],
        "lab": ["lab", "scenarios", "proxy.config", "proxy.events", "upstreams.catalogue"],
        "bench": ["bench"],
    }[folder]


def module_of(path: Path) -> str:
    parts = path.relative_to(TREE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = TREE.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """The modules that a file imports, anywhere in it and under any condition, by their full names."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if base.split(".")[0] in OURS and is_module(inner) else base


def offences(source: str, module: str, is_package: bool = False) -> list[str]:
    """What this file imports and must not."""
    found = []
    for target in imports(source, module, is_package):
        top = target.split(".")[0]
        if top in OURS:
            allowed = may_import(module)
            fine = target in allowed if module.startswith("proxy") else bool(within([target], *allowed))
        elif module.startswith("proxy") and top not in sys.stdlib_module_names:
            fine = top in third_parties(module)
        else:
            fine = not (module.removeprefix("proxy.") in DECISIONS and top in NOT_FOR_DECISIONS)
        if not fine:
            found.append(target)
    return found


FILES = [path for folder in OURS for path in sorted((TREE / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TREE)))
def test_a_file_imports_only_what_it_may_know(path: Path) -> None:
    assert offences(path.read_text("utf-8"), module_of(path), path.name == "__init__.py") == []


def test_every_file_of_the_proxy_has_its_place() -> None:
    there = {module_of(path).removeprefix("proxy.") for path in (TREE / "proxy").rglob("*.py")} - {"proxy"}
    assert there == {*LEAF_MODULES, *DECISIONS, *CHAIN, *BESIDE}


@pytest.mark.parametrize(
    ("module", "source", "offence"),
    [
        ("proxy.events", "from proxy.config import load", "proxy.config"),
        ("proxy.config", "from proxy import pool", "proxy.pool"),
        ("proxy.config.values", "from proxy.config import load", "proxy.config"),
        ("proxy.http1.grammar", "from ..deadline import Deadline", "proxy.deadline"),
        ("proxy.http1.framing", "import httptools", "httptools"),
        ("proxy.tls", "from proxy.http1 import pages", "proxy.http1.pages"),
        ("proxy.admin.site", "from proxy.server import Server", "proxy.server"),
        ("proxy.control", "import aiohttp", "aiohttp"),
        ("proxy.health", "from proxy.group import Group", "proxy.group"),
        ("proxy.deadline", "import uvloop", "uvloop"),
        ("proxy.pool", "import asyncio", "asyncio"),
        ("proxy.retry", "def f():\n    from time import monotonic", "time"),
        ("proxy.failure", "from proxy.retry import Attempt", "proxy.retry"),
        ("proxy.balancer", "if TYPE_CHECKING:\n    from proxy.upstream import Upstream", "proxy.upstream"),
        ("proxy.upstream", "from proxy.exchange import Exchange", "proxy.exchange"),
        ("proxy.exchange", "import proxy.downstream as d", "proxy.downstream"),
        ("proxy.exchange", "from proxy.observe.access_log import AccessLog", "proxy.observe.access_log"),
        ("proxy.observe.access_log", "from proxy.exchange import Exchange", "proxy.exchange"),
        ("proxy.server", "import lab", "lab"),
        ("proxy.server", "from upstreams.catalogue import SERVERS", "upstreams.catalogue"),
        ("proxy.server", "import yarl", "yarl"),
        ("upstreams.lab", "from proxy.http1.grammar import HEAD_END", "proxy.http1.grammar"),
        ("upstreams.lab", "from proxy import config", "proxy.config"),
        ("upstreams.apps.asgi", "from proxy.events import EventLog", "proxy.events"),
        ("lab.runner", "from proxy.server import Server", "proxy.server"),
        ("lab.runner", "import upstreams.lab", "upstreams.lab"),
        ("lab.wire.relay", "import proxy", "proxy"),
        ("scenarios.idle_close", "from lab.runner import run", "lab.runner"),
        ("bench.run", "from lab.stats import percentile", "lab.stats"),
        ("bench.run", "from proxy.config import load", "proxy.config"),
    ],
)
def test_an_offence_is_seen(module: str, source: str, offence: str) -> None:
    assert offences(source, module) == [offence]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("proxy.tls", "from proxy.config import TlsConfig"),
        (
            "proxy.admin.site",
            "from aiohttp import web\nfrom proxy.admin import api\nfrom proxy.observe.metrics import render",
        ),
        ("proxy.server", "from proxy.observe.access_log import AccessLog"),
        ("proxy.retry", "from proxy.failure import Failure\nfrom proxy.config import PolicyName\nimport msgspec"),
        ("proxy.exchange", "import asyncio\nfrom proxy import events, upstream\nfrom .retry import Attempt"),
        ("proxy.__main__", "import uvloop\nfrom proxy.server import Server"),
        ("upstreams.lab", "from proxy.events import EventLog\nfrom . import catalogue"),
        ("lab.runner", "from proxy import config, events\nfrom lab import model\nimport rich, scenarios"),
        ("lab.wire.relay", "from ..model import Aim\nfrom lab.wire import line"),
        ("scenarios.idle_close", "from lab.model import Scenario"),
    ],
)
def test_what_is_allowed_is_let_through(module: str, source: str) -> None:
    assert offences(source, module) == []


# --- A scenario is data

CONTROL_FLOW = (
    *(ast.Lambda, ast.IfExp, ast.BoolOp, ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)


def not_data(source: str) -> list[str]:
    """What in a scenario file is no docstring, import, constant or the one SCENARIO."""
    module = ast.parse(source)
    problems = [] if ast.get_docstring(module) else ["no docstring"]
    names: list[str] = []
    for node in module.body[1:] if not problems else module.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            names += map(ast.unparse, node.targets if isinstance(node, ast.Assign) else [node.target])
        elif not isinstance(node, ast.Import | ast.ImportFrom):
            problems.append(f"line {node.lineno}: {type(node).__name__}")
    problems += [
        f"line {node.lineno}: {type(node).__name__}" for node in ast.walk(module) if isinstance(node, CONTROL_FLOW)
    ]
    problems += [f"{name}: not a constant" for name in names if not (name.isidentifier() and name.isupper())]
    return problems if names.count("SCENARIO") == 1 else [*problems, "not exactly one SCENARIO"]


SCENARIOS = [path for path in sorted((TREE / "scenarios").glob("*.py")) if path.name != "__init__.py"]


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_scenario_is_data(path: Path) -> None:
    assert not_data(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("source", "problems"),
    [
        (
            '"""A race."""\nfrom lab.model import Scenario\nRTT_MS = 10\nSCENARIO: Scenario = Scenario(rtt=2 * RTT_MS)',
            [],
        ),
        ("SCENARIO = 1", ["no docstring"]),
        ('"""A race."""', ["not exactly one SCENARIO"]),
        ('"""A race."""\nSCENARIO = 1\nSCENARIO = 2', ["not exactly one SCENARIO"]),
        ('"""A race."""\nfor x in (1, 2):\n    pass\nSCENARIO = 1', ["line 2: For"]),
        ('"""A race."""\ndef f(): ...\nSCENARIO = 1', ["line 2: FunctionDef"]),
        ('"""A race."""\nprint(1)\nSCENARIO = 1', ["line 2: Expr"]),
        ('"""A race."""\nSCENARIO = [n for n in range(3)]', ["line 2: ListComp"]),
        ('"""A race."""\nSCENARIO = 1 if 2 else 3', ["line 2: IfExp"]),
        ('"""A race."""\nx.y = 1\nlower = 2\nSCENARIO = 1', ["x.y: not a constant", "lower: not a constant"]),
    ],
)
def test_what_is_not_data_is_seen(source: str, problems: list[str]) -> None:
    assert not_data(source) == problems
