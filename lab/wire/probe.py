"""What this machine can do for the wire: tried in a process of its own, so that the asking one stays as it was."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import msgspec

from lab.wire.contract import WireError
from lab.wire.namespaces import PROXY_END, Networks, enter_private_network, find_ip_command
from lab.wire.ring import Ring

WITHIN_S = 20.0
SOURCE_ROOT = Path(__file__).parents[2]
USER_NAMESPACE_SWITCHES = {
    "/proc/sys/kernel/unprivileged_userns_clone": ("0", "sysctl kernel.unprivileged_userns_clone=1"),
    "/proc/sys/user/max_user_namespaces": ("0", "sysctl user.max_user_namespaces=10000"),
    "/proc/sys/user/max_net_namespaces": ("0", "sysctl user.max_net_namespaces=10000"),
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
        "1",
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
}


class Ability(msgspec.Struct, frozen=True):
    """Whether a make works here. `how`: with which rights ("root", "user namespace", "any user"); `why_not`: one
    sentence with the remedy."""

    ok: bool
    how: str = ""
    why_not: str = ""


def probe() -> dict[str, Ability]:
    """Each make of the wire and whether it works here."""
    if sys.platform != "linux":
        no = Ability(False, why_not="This needs Linux: run it in a Linux container or virtual machine.")
        return {"netns": no, "relay": no, "loopback": Ability(True, how="any user")}
    return {"netns": _try_netns(), "relay": Ability(True, how="any user"), "loopback": Ability(True, how="any user")}


def best() -> str:
    """The most faithful make that works here: "netns" or "relay"."""
    return "netns" if probe()["netns"].ok else "relay"


def look() -> Ability:
    """Tries the netns wire in this process, which is spoilt by it: call `probe` instead."""
    if find_ip_command() is None:
        return Ability(False, why_not="The `ip` command is missing: install iproute2 (apt-get install iproute2).")
    try:
        how = enter_private_network()
    except OSError as error:
        return Ability(False, why_not=_why_no_namespace(error))
    try:
        networks = Networks()
        Ring(PROXY_END).close()
        networks.close()
    except (OSError, WireError) as error:
        return Ability(False, why_not=f"A {how} was given, but not its devices: {error}. Use the relay.")
    return Ability(True, how=how)


def _try_netns() -> Ability:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "lab.wire", "probe"],
            cwd=SOURCE_ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=WITHIN_S,
            check=True,
        )
        return msgspec.json.decode(done.stdout, type=Ability)
    except (OSError, subprocess.SubprocessError, msgspec.MsgspecError) as error:
        return Ability(False, why_not=f"The attempt failed: {error}. Use the relay.")


def _why_no_namespace(error: OSError) -> str:
    for path, (bad, remedy) in USER_NAMESPACE_SWITCHES.items():
        switch = Path(path)
        if os.geteuid() and switch.exists() and switch.read_text().strip() == bad:
            return f"This system forbids namespaces to ordinary users: run as root, or `{remedy}`."
    if error.errno in (errno.EPERM, errno.EACCES):
        return (
            "This process may not make a network namespace: run as root on the host, "
            "or give the container `--cap-add NET_ADMIN --cap-add SYS_ADMIN --security-opt seccomp=unconfined`."
        )
    return f"The kernel gave no network namespace: {error}."
