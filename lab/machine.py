"""The machine that a run took place on, as plain facts for its report.

Rules of this file:

- Only reading, never setting. What cannot be read is left out; nothing here stops a run.
- No host name, no user name, no path: a report must be fit to be passed on.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

SYSCTLS = (
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_migrate_req",
    "net.core.somaxconn",
    "net.ipv4.tcp_congestion_control",
)
PACKAGES = ("kalab", "uvloop", "httptools", "msgspec", "aiohttp", "dnspython")
TREE = Path(__file__).resolve().parents[1]
GIT_WITHIN_S = 5.0
# Version 1 of cgroups writes "no limit" as a number near 2 ** 63.
NO_MEMORY_LIMIT = 2**60


def environment() -> dict[str, str]:
    """The facts by name, in the order in which a reader wants them. Reads files and starts `git`; takes some ms."""
    facts = {
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "runs in": surroundings(),
        "cpu": cpu_model(),
        "cores": cores(),
        "memory": memory(),
        "cgroup limits": cgroup_limits(),
        "load average": load_average(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(f"{name} {version}" for name in PACKAGES if (version := package_version(name))),
        "package hashes": package_hashes(),
        "source": source(),
        "clock": clock(),
        "privilege": privilege(),
    }
    facts |= {name: " ".join(read(f"/proc/sys/{name.replace('.', '/')}").split()) for name in SYSCTLS}
    return {name: value for name, value in facts.items() if value}


def read(path: str | Path) -> str:
    """What a file holds, without the last line feed; "" when it cannot be read."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def package_version(name: str) -> str:
    """The installed version; "" when it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores() -> str:
    """How many cores this process may run on, and which."""
    which = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    numbers = f" (numbers {', '.join(map(str, which))})" if len(which) < (os.cpu_count() or 1) else ""
    return f"{usable_cores()} usable of {os.cpu_count()}{numbers}"


def clock() -> str:
    """The clock that all stamps are taken from, and where it stands: runs of one boot can be put in order by it."""
    info = time.get_clock_info("monotonic")
    return f"{info.implementation}, resolution {info.resolution * 1e9:g} ns, {time.monotonic():.3f} s since it began"


def package_hashes() -> str:
    """A hash over the files of each package, as its installer recorded them; ours is told by the commit instead."""
    return ", ".join(f"{name} {digest}" for name in PACKAGES[1:] if (digest := _recorded(name)))


def _recorded(name: str) -> str:
    try:
        record = metadata.distribution(name).read_text("RECORD")
    except metadata.PackageNotFoundError:
        return ""
    return hashlib.sha256("\n".join(sorted((record or "").splitlines())).encode()).hexdigest()[:12] if record else ""


def cpu_model() -> str:
    """The processor's name, as the kernel has it."""
    return _colon_value("/proc/cpuinfo", "model name") or platform.processor()


def memory() -> str:
    """Installed and available memory."""
    total, free = (_colon_value("/proc/meminfo", key).split() for key in ("MemTotal", "MemAvailable"))
    return f"{_gib(int(total[0]) * 1024)}, {_gib(int(free[0]) * 1024)} available" if total and free else ""


def load_average() -> str:
    """Over 1, 5 and 15 minutes."""
    try:
        return " ".join(f"{load:.2f}" for load in os.getloadavg())
    except OSError:
        return ""


def privilege() -> str:
    """The user id, and the capabilities that matter for namespaces and capture."""
    user = "root" if os.geteuid() == 0 else f"user id {os.geteuid()}"
    held = [name for name in ("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_ADMIN") if has_capability(name)]
    where = " in a user namespace of its own" if held and os.geteuid() != 0 else ""
    return f"{user}, {', '.join(held) or 'no network capabilities'}{where}"


CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21}
"""Their bits, from linux/capability.h."""


def has_capability(name: str) -> bool:
    """Whether this process has it in effect, in its own user namespace."""
    mask = _colon_value("/proc/self/status", "CapEff")
    return bool(int(mask or "0", 16) >> CAPABILITIES[name] & 1)


def surroundings() -> str:
    """Signs of a container and of a virtual machine; no sign is no proof of real hardware."""
    found = []
    if Path("/.dockerenv").exists():
        found.append("a Docker container")
    elif Path("/run/.containerenv").exists():
        found.append("a Podman container")
    elif "KUBERNETES_SERVICE_HOST" in os.environ:
        found.append("a Kubernetes pod")
    elif kind := os.environ.get("container"):  # noqa: SIM112 - systemd's convention is lower case
        found.append(f"a container ({kind})")
    if "microsoft" in platform.release().lower():
        found.append("WSL")
    elif " hypervisor" in f" {_colon_value('/proc/cpuinfo', 'flags')}":
        maker = read("/sys/class/dmi/id/sys_vendor") or read("/sys/hypervisor/type")
        found.append(f"a virtual machine ({maker})" if maker else "a virtual machine")
    return ", in ".join(found) or "no sign of a container or a virtual machine"


def cgroup_limits() -> str:
    """The tightest processor and memory limits of the control groups that this process is in; both versions."""
    cores, size = float("inf"), float("inf")
    for folder in _cgroup_folders():
        quota, period = [*read(folder / "cpu.max").split(), "", ""][:2]
        if not quota:
            quota, period = read(folder / "cpu.cfs_quota_us"), read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():
            cores = min(cores, int(quota) / int(period))
        limit = read(folder / "memory.max") or read(folder / "memory.limit_in_bytes")
        if limit.isdigit() and int(limit) < NO_MEMORY_LIMIT:
            size = min(size, int(limit))
    told = [f"{cores:g} cores"] if cores < float("inf") else []
    told += [f"{_gib(size)} of memory"] if size < float("inf") else []
    return ", ".join(told) or "none found"


def _cgroup_folders() -> Iterator[Path]:
    """Every folder from this process's groups up to the roots, where a limit can stand."""
    for line in read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for root in (
            Path("/sys/fs/cgroup"),
            *(Path("/sys/fs/cgroup", name) for name in controllers.split(",") if name),
        ):
            folder = root / path.lstrip("/")
            yield from (folder, *(parent for parent in folder.parents if parent.is_relative_to(root)))


def source() -> str:
    """The commit, and whether files differ from it. Only for a checkout of this tree, not for one around it."""
    if not (TREE / ".git").exists():
        return ""
    commit = _git("rev-parse", "--short=12", "HEAD")
    changes = _git("status", "--porcelain")
    if changes is None:
        return ""
    return f"commit {commit or 'none yet'}{', with changes' if changes else ''}"


def _git(*words: str) -> str | None:
    command = ["git", "-C", str(TREE), *words]
    # Without this, `git status` takes a lock and may write the index.
    quiet = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=quiet, timeout=GIT_WITHIN_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def processor_ticks() -> tuple[int, int] | None:
    """Ticks of all processors since the machine started, and those of them that the hypervisor gave to others."""
    fields = _fields("/proc/stat", "cpu ")
    return (sum(fields[:8]), fields[7]) if len(fields) >= 8 else None


def segments_sent_again() -> int | None:
    """How often TCP has sent a segment again, SYNs included, in this network namespace."""
    lines = [line.split()[1:] for line in read("/proc/net/snmp").splitlines() if line.startswith("Tcp:")]
    return int(dict(zip(*lines, strict=True))["RetransSegs"]) if len(lines) == 2 else None


def _fields(path: str, start: str) -> list[int]:
    """The numbers of the first line that starts so."""
    line = next((line for line in read(path).splitlines() if line.startswith(start)), "")
    return [int(word) for word in line.split()[1:]]


def _colon_value(path: str, key: str) -> str:
    """The value of the first "key : value" line of a file."""
    for line in read(path).splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
