"""A network of its own for a test: the test is run again, alone, as root of a user namespace and a network namespace.

Rules of this file:

- No rights are needed, but a kernel that lets anybody make namespaces. Where that is forbidden, as in many containers,
  the test is skipped, in CI too: no package could be installed for it, and what it shows is shown wherever it may be.
- A partition is a neighbour whose address is wrong. What is sent to it leaves, and nobody takes it: no FIN, no RST, no
  refusal, exactly what a pulled cable or a firewall that drops looks like.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = "10.77.0.1"
THERE = "10.77.0.2"
NOBODY = "02:00:00:00:00:99"

FORBIDDEN = "no namespaces of its own here"  # tests/conftest.py knows it

_INSIDE = "KALAB_TEST_NETWORK"
_UNSHARE = ("unshare", "--user", "--map-root-user", "--net")
UNSHARE_MOUNTS = ("unshare", "--user", "--map-root-user", "--mount")


def run_inside(item: pytest.Item) -> bool:
    """Runs a test in there; false if it is the one that is to run here."""
    if _INSIDE in os.environ:
        ip("link", "set", "lo", "up")
        return False
    inner = ("unshare", "--net", "ip", "link", "set", "lo", "up")  # a Cable needs a second one
    trial = subprocess.run([*_UNSHARE, *inner], capture_output=True, text=True)
    if trial.returncode:
        pytest.skip(f"{FORBIDDEN}: {trial.stderr.strip()}")
    command = [*_UNSHARE, sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", item.nodeid]
    if item.config.getoption("--full"):
        command.append("--full")
    ran = subprocess.run(
        command, cwd=item.config.rootpath, env={**os.environ, _INSIDE: "1"}, capture_output=True, text=True
    )
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return True


def may(*words: str) -> bool:
    """Whether this command succeeds here."""
    return subprocess.run(words, capture_output=True).returncode == 0


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def local_ports(first: int, last: int) -> None:
    """The only ports that connections get from now on, of whoever connects."""
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(f"{first} {last}")


class Cable:
    """Between this network and another one, in which `wrapper` starts a process."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo; exec sleep 600"], stdout=subprocess.PIPE
        )
        assert self._holder.stdout is not None
        self._holder.stdout.readline()  # it is in its network now
        ip("link", "add", "here", "type", "veth", "peer", "name", "there", "netns", str(self._holder.pid))
        ip("addr", "add", f"{HERE}/24", "dev", "here")
        ip("link", "set", "here", "up")
        self.wrapper = ("nsenter", "-t", str(self._holder.pid), "--net")
        for words in ("link set lo up", f"addr add {THERE}/24 dev there", "link set there up"):
            subprocess.run([*self.wrapper, "ip", *words.split()], check=True)
        listed = subprocess.run([*self.wrapper, "ip", "-o", "link", "show", "there"], check=True, capture_output=True)
        self._address = listed.stdout.decode().partition("link/ether ")[2].split()[0]

    def cut(self) -> None:
        ip("neigh", "replace", THERE, "lladdr", NOBODY, "dev", "here", "nud", "permanent")

    def mend(self) -> None:
        ip("neigh", "replace", THERE, "lladdr", self._address, "dev", "here", "nud", "permanent")

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()
        assert self._holder.stdout is not None
        self._holder.stdout.close()
