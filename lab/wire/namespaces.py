"""Network namespaces: entering a private one, and building the three that the netns wire needs.

    proxy side                     middle (the wire)                 upstream side
    wire0 10.77.0.1  -- veth --  proxy_end | upstream_end  -- veth --  wire0 10.77.0.2, and all of 10.77.1.0/24

The caller's namespace is the proxy side. Every address of 10.77.1.0/24 is local to the upstream side, so a link is one
more address there and costs nothing. Neighbours are static and offloads are off: each packet in the middle is one
packet of TCP as it would be on a cable, with its checksum, and none waits for ARP.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import socket
import struct
import subprocess
from pathlib import Path

from lab.wire.contract import WireError

PROXY_ADDRESS = "10.77.0.1"
UPSTREAM_ADDRESS = "10.77.0.2"
LINK_PREFIX = "10.77.1"
PROXY_END, UPSTREAM_END = "proxy_end", "upstream_end"

CLONE_NEWNET = 0x40000000
CLONE_NEWUSER = 0x10000000
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2
CAPABILITY_VERSION_3 = 0x20080522
CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN = 12, 13, 21
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCETHTOOL = 0x8913, 0x8914, 0x8946
IFF_UP = 1
# ethtool's older commands: SET_TXCSUM, SET_TSO, SET_GSO, SET_GRO
OFFLOADS = (0x17, 0x1F, 0x24, 0x2C)

_libc = ctypes.CDLL(None, use_errno=True)


def enter_private_network() -> str:
    """Moves this process to a network namespace of its own with `lo` up. Returns how: "root" or "user namespace".

    Call it once, before any thread is started: only threads and children to come are in it too. An ordinary user gets
    it inside a user namespace, keeps their uid, and hands the rights over that namespace to their children. Raises
    OSError where that is forbidden: ask `probe` first.
    """
    try:
        _unshare(CLONE_NEWNET)
        how = "root"
    except PermissionError:
        uid, gid = os.geteuid(), os.getegid()
        _unshare(CLONE_NEWUSER | CLONE_NEWNET)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        _keep_capabilities_over_exec()
        how = "user namespace"
    _bring_up("lo")
    return how


def enter_network(fd: int) -> None:
    """Moves this thread to the network namespace behind a descriptor. Safe between fork and exec."""
    _checked(_libc.setns(fd, CLONE_NEWNET))


def find_ip_command() -> str | None:
    """The `ip` command; ordinary users often lack its folder in their PATH."""
    return shutil.which("ip", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin")))


class Networks:
    """The upstream and the middle namespace, joined to the one in which this was made.

    Afterwards this thread is in the middle, where `PROXY_END` and `UPSTREAM_END` are the devices to forward between.
    `upstream` is a descriptor of the upstream side. Without one, a namespace that no process is in would vanish.
    """

    def __init__(self) -> None:
        ip = find_ip_command()
        if ip is None:
            raise WireError("the netns wire needs the `ip` command: install iproute2 (apt-get install iproute2)")
        self._ip = ip
        try:
            self._build()
        except OSError as error:
            raise WireError(f"the netns wire cannot make its namespaces: {error}") from error

    def __repr__(self) -> str:
        return f"<Networks {PROXY_ADDRESS} and {LINK_PREFIX}.0/24>"

    def close(self) -> None:
        """Removes the devices at once; the namespaces go with their last process."""
        self._run_ip([f"link del {PROXY_END}", f"link del {UPSTREAM_END}"])
        os.close(self.upstream)
        os.close(self._proxy)

    def _build(self) -> None:
        self._proxy = _current_network()
        _unshare(CLONE_NEWNET)
        self.upstream = _current_network()
        _unshare(CLONE_NEWNET)
        middle = _current_network()
        proxy_mac, upstream_mac = "02:00:0a:4d:00:01", "02:00:0a:4d:00:02"
        self._run_ip(
            [
                _veth_pair(PROXY_END, proxy_mac, self._proxy),
                _veth_pair(UPSTREAM_END, upstream_mac, self.upstream),
                f"link set {PROXY_END} up",
                f"link set {UPSTREAM_END} up",
            ],
            inherited=(self._proxy, self.upstream),
        )
        enter_network(self._proxy)
        self._set_up_end(PROXY_ADDRESS, UPSTREAM_ADDRESS, upstream_mac)
        self._run_ip([f"route add {LINK_PREFIX}.0/24 via {UPSTREAM_ADDRESS}"])
        enter_network(self.upstream)
        _bring_up("lo")
        self._set_up_end(UPSTREAM_ADDRESS, PROXY_ADDRESS, proxy_mac)
        self._run_ip([f"route add local {LINK_PREFIX}.0/24 dev lo"])
        enter_network(middle)
        os.close(middle)

    def _set_up_end(self, address: str, neighbour: str, neighbour_mac: str) -> None:
        _switch_offloads_off("wire0")
        self._run_ip(
            [
                "link set wire0 up",
                f"addr add {address}/24 dev wire0",
                f"neigh replace {neighbour} lladdr {neighbour_mac} dev wire0 nud permanent",
            ]
        )

    def _run_ip(self, commands: list[str], inherited: tuple[int, ...] = ()) -> None:
        done = subprocess.run(
            [self._ip, "-batch", "-"],
            input="\n".join(commands).encode(),
            capture_output=True,
            pass_fds=inherited,
            check=False,
        )
        if done.returncode:
            reason = (done.stderr.decode().splitlines() or [f"{self._ip} gave {done.returncode}"])[0]
            raise WireError(f"the netns wire cannot set up its devices: {reason}")


def _veth_pair(here: str, mac: str, network: int) -> str:
    """A device here, and its peer `wire0` in another namespace."""
    return f"link add name {here} type veth peer name wire0 address {mac} netns /proc/self/fd/{network}"


def _current_network() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _unshare(flags: int) -> None:
    _checked(_libc.unshare(flags))


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _keep_capabilities_over_exec() -> None:
    """Makes the rights over the new namespaces ambient, or the next exec of an ordinary uid would drop them."""
    header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)  # effective, permitted, inheritable; twice, for 64 capabilities
    _checked(_libc.capget(header, data))
    low_effective, low_permitted, _, high_effective, high_permitted, _ = struct.unpack("=6I", data.raw)
    inheritable = (low_effective, low_permitted, low_permitted, high_effective, high_permitted, high_permitted)
    _checked(_libc.capset(header, struct.pack("=6I", *inheritable)))
    for capability in (CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN):
        _checked(_libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0))


def _bring_up(device: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH22x", device.encode(), 0)
        (flags,) = struct.unpack_from("H", fcntl.ioctl(sock, SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH22x", device.encode(), flags | IFF_UP))


def _switch_offloads_off(device: str) -> None:
    """So that the kernel puts whole checksums on packets of the MTU's size, not on bundles."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for command in OFFLOADS:
            value = ctypes.create_string_buffer(struct.pack("II", command, 0))
            fcntl.ioctl(sock, SIOCETHTOOL, struct.pack("16sP16x", device.encode(), ctypes.addressof(value)))
