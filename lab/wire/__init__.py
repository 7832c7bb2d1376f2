"""The wire: what lies between the proxy and its upstreams. Three makes, one contract (contract.py).

`relay` is a user-space hop and needs no rights; `netns` joins two network namespaces by a delay line, so that real
kernels send real packets; `loopback` is nothing in between. `probe` says what this machine can do.

    wire = open_wire("relay", run_dir)
    await wire.start()
    address = await wire.link("app", 9000, delay_s=0.01, gate=True)
    ...                                      # the proxy dials `address`; prime n connections, then
    await wire.settled("app", n, 30)         # n closes of the upstream wait at the gate: fire
    stats = await wire.stop()
"""

from __future__ import annotations

from pathlib import Path

from lab.wire.client import ProcessWire
from lab.wire.contract import Address, Settled, UnsupportedError, Wire, WireError, WireStats
from lab.wire.loopback import LoopbackWire
from lab.wire.namespaces import enter_private_network
from lab.wire.probe import Ability, best, probe

__all__ = [
    "Ability",
    "Address",
    "Settled",
    "UnsupportedError",
    "Wire",
    "WireError",
    "WireStats",
    "best",
    "enter_private_network",
    "open_wire",
    "probe",
]


def open_wire(make: str, run_dir: Path) -> Wire:
    """A wire of this make, to be started. Its logs and captures go to `run_dir`, which exists.

    netns: call `enter_private_network()` once, at the start of the process, before any thread or child is started.
    """
    if make == "loopback":
        return LoopbackWire()
    if make in ("relay", "netns"):
        return ProcessWire(make, run_dir)
    raise UnsupportedError(f'there is no wire "{make}"; choose relay, netns or loopback')
