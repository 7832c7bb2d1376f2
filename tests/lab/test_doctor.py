"""The doctor: every finding is usable, nothing that fails stops it, and nothing private is told."""

from __future__ import annotations

import io
import os
import re
import resource
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from lab import doctor, machine
from lab.doctor import Finding, environment, examine, show
from lab.errors import UsageError
from lab.proxy_facts import ProxyFacts, Setting, ask_proxy
from lab.wire.probe import Ability
from upstreams.catalogue import SERVERS

MAKES = {"relay": Ability(True, how="any user"), "netns": Ability(False, why_not="Run as root.")}


FACTS = ProxyFacts(
    build={"build": "plain", "parser": "llhttp", "httptools": "0.9.0"},
    wanted_clients=10_000,
    clients=118,
    descriptors=300,
    listener=[Setting("listener.backlog", "4096", "128")],
    sockets=[Setting("upstream_socket.nodelay", "true", "true")],
    refused=[Setting("upstream_socket.user_timeout", "30s", "0s")],
)


@pytest.fixture(autouse=True)
def _nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "probe", lambda: MAKES)
    monkeypatch.setattr(doctor, "ask_proxy", lambda _: FACTS)


def finding(name: str) -> Finding:
    return next(found for found in examine() if found.name == name)


def test_everything_is_examined() -> None:
    names = {found.name for found in examine()}
    assert {
        "python",
        "uvloop",
        "httptools",
        "aiohttp",
        "dnspython",
        "proxy parser",
        "proxy clients",
        "socket options",
        "upstream_socket.nodelay",
        "listener.backlog",
        "cores",
        "open files",
        "packet capture",
        "netem",
        "clock",
        "timer",
    } <= names
    assert {f"wire {make}" for make in MAKES} <= names
    assert {f"server {name}" for name in SERVERS} <= names
    assert {f"tool {name}" for name in ("nginx", "haproxy", "wrk", "tshark", "tcpdump", "docker")} <= names


def test_whatever_is_missing_comes_with_a_remedy() -> None:
    assert not [found for found in examine() if found.ok is False and not found.remedy]


def test_a_wire_that_cannot_be_built_says_why_and_is_no_fault_while_the_relay_works() -> None:
    assert finding("wire netns") == Finding("wire netns", None, "cannot be built", "Run as root.")
    assert finding("wire relay").ok is True


def test_open_files_are_judged_by_the_hard_limit_for_the_lab_raises_the_soft_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for hard, ok, remedy in ((8192, True, ""), (2048, False, "Let an administrator raise the hard limit to 4096.")):
        monkeypatch.setattr(resource, "getrlimit", lambda _, hard=hard: (1024, hard))
        found = finding("open files")
        assert (found.ok, found.remedy) == (ok, remedy)
        assert found.sentence == f"1024, raised to {hard} by the lab"


def test_what_the_proxy_does_not_get_is_told() -> None:
    assert finding("proxy parser").sentence == "llhttp of httptools 0.9.0"
    assert finding("proxy build").sentence == "plain Python"
    clients = finding("proxy clients")
    assert (clients.ok, clients.sentence) == (None, "118 at a time in each process; open files: 300")
    assert clients.remedy == "For 10000 let an administrator raise the hard limit of open files."
    assert finding("socket options").sentence == "upstream_socket.user_timeout: asked 30s, got 0s"
    assert finding("socket options").ok is False
    assert finding("upstream_socket.nodelay") == Finding("upstream_socket.nodelay", True, "asked true, got true")
    backlog = finding("listener.backlog")
    assert (backlog.ok, backlog.sentence) == (None, "asked 4096, got 128")
    assert backlog.remedy == "net.core.somaxconn is the limit."


def test_the_proxy_is_asked_with_the_config_that_is_given(tmp_path: Path) -> None:
    config = tmp_path / "proxy.toml"
    config.write_text(
        "[limits]\nmax_downstream_connections = 50\n[upstream_socket]\nkeepalive = true\nkeepalive_idle = '90s'\n"
    )
    facts = ask_proxy(config)
    assert (facts.wanted_clients, facts.clients, facts.refused) == (50, 50, [])
    assert Setting("upstream_socket.keepalive_idle", "90s", "90s") in facts.sockets
    assert {setting.key for setting in facts.listener} == {"listener.backlog", "listener.reuse_port"}


def test_a_config_that_is_wrong_is_a_mistake_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ask_proxy", ask_proxy)
    config = tmp_path / "proxy.toml"
    config.write_text("[timeouts]\nconect = '5s'\n")
    with pytest.raises(UsageError, match=r"proxy\.toml:2: timeouts\.conect: unknown key"):
        examine(config)


def test_a_proxy_that_does_not_start_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ask_proxy", ask_proxy)
    monkeypatch.setenv("KALAB_TIMEOUTS_CONNECT", "soon")
    found = finding("proxy")
    assert found.ok is False
    assert found.sentence.startswith("it does not start: KALAB_TIMEOUTS_CONNECT: ")


def test_a_missing_tool_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = finding("tool wrk")
    assert (found.ok, found.sentence) == (None, "not found")
    assert "apt-get install wrk" in found.remedy


def test_a_server_that_does_not_answer_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired("node", 10)

    monkeypatch.setattr(subprocess, "run", hangs)
    assert {found.ok for found in examine() if found.name == "server node"} <= {False, None}


def test_what_fails_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies() -> Iterator[Finding]:
        yield Finding("first", True, "found before")
        raise RuntimeError("odd machine")

    monkeypatch.setattr(doctor, "_netem", dies)
    found = examine()
    assert Finding("first", True, "found before") in found
    assert Finding("dies", None, "This could not be examined: RuntimeError: odd machine.") in found
    assert found[-1].name == "timer"


def test_findings_are_shown_with_their_remedy_and_as_json() -> None:
    findings = [Finding("wrk", None, "not found", "apt-get install wrk"), Finding("clock", True, "fine", "unused")]
    stream = io.StringIO()
    show(findings, Console(file=stream, width=20))
    assert stream.getvalue() == "-  wrk    not found\n          apt-get install wrk\nok clock  fine\n"
    assert msgspec.json.decode(msgspec.json.encode(findings), type=list[Finding]) == findings


def test_the_environment_tells_what_a_reader_needs() -> None:
    found = environment()
    assert {"system", "cores", "python", "packages", "package hashes", "clock", "privilege", "runs in"} <= set(found)
    assert "uvloop" in found["packages"]
    assert re.search(r"\buvloop [0-9a-f]{12}\b", found["package hashes"])
    assert all(found.values())


def test_what_the_kernel_counts_is_told_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = machine.processor_ticks()
    assert ticks is None or ticks[0] > ticks[1] >= 0
    again = machine.segments_sent_again()
    assert again is None or again >= 0
    monkeypatch.setattr(machine, "read", lambda _: "")
    assert (machine.processor_ticks(), machine.segments_sent_again()) == (None, None)


def test_the_environment_tells_nothing_private(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> str:
        raise AssertionError("the host's name is nobody's business")

    for name in ("gethostname", "getfqdn"):
        monkeypatch.setattr(socket, name, asked)
    monkeypatch.setattr("platform.node", asked)
    told = "\n".join([*environment().values(), *(found.sentence for found in examine())])
    home = str(Path.home())
    assert home == "/" or home not in told
    assert str(machine.TREE) not in told


CGROUPS = {
    "version 2": (
        {
            "/proc/self/cgroup": "0::/a/b",
            "a/cpu.max": "150000 100000",
            "a/b/cpu.max": "max 100000",
            "a/memory.max": "max",
        },
        "1.5 cores",
    ),
    "version 1": (
        {
            "/proc/self/cgroup": "4:memory:/a\n1:cpu,cpuacct:/a",
            "cpu/a/cpu.cfs_quota_us": "200000",
            "cpu/a/cpu.cfs_period_us": "100000",
            "memory/a/memory.limit_in_bytes": "2147483648",
            "memory/memory.limit_in_bytes": "9223372036854771712",
        },
        "2 cores, 2.0 GiB of memory",
    ),
    "none": ({"/proc/self/cgroup": "0::/"}, "none found"),
}


@pytest.mark.parametrize("version", CGROUPS)
def test_the_tightest_limit_of_the_control_groups_counts(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files, says = CGROUPS[version]
    monkeypatch.setattr(machine, "read", lambda path: files.get(str(path).removeprefix("/sys/fs/cgroup/"), ""))
    assert machine.cgroup_limits() == says


def test_the_source_is_told_for_a_checkout_of_this_tree_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> None:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True, timeout=30)

    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    git("init")
    monkeypatch.setattr(machine, "TREE", tmp_path / "installed")
    assert machine.source() == ""
    monkeypatch.setattr(machine, "TREE", tmp_path)
    assert machine.source() == "commit none yet"
    git("commit", "--allow-empty", "-m", "first")
    assert re.fullmatch(r"commit [0-9a-f]{12}", machine.source())
    (tmp_path / "new").touch()
    assert machine.source().endswith(", with changes")
