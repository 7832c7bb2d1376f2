"""The control: an upstream's own address, and a clear word where something in between would be needed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from lab.wire import UnsupportedError, Wire, open_wire


async def test_a_link_is_the_upstreams_own_address(tmp_path: Path) -> None:
    wire = open_wire("loopback", tmp_path)
    await wire.start()
    assert str(await wire.link("app", 9000, delay_s=0.0, gate=False)) == "127.0.0.1:9000"
    await wire.mark("app")
    await wire.gate("app", False)
    assert await wire.drained("app", 1.0)
    assert await wire.release("app") == 0
    assert (await wire.stop()).late_max_ms is None


UNSUPPORTED: dict[str, Callable[[Wire], Awaitable[object]]] = {
    "delay": lambda wire: wire.link("app", 9000, delay_s=0.01, gate=False),
    "gated link": lambda wire: wire.link("app", 9000, delay_s=0.0, gate=True),
    "gate": lambda wire: wire.gate("app", True),
    "hold": lambda wire: wire.hold("app", 1.0),
    "settled": lambda wire: wire.settled("app", 1, 1.0),
    "quiet": lambda wire: wire.quiet("app", 1.0),
}


@pytest.mark.parametrize("ask", UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
async def test_what_needs_something_in_between_is_unsupported(
    ask: Callable[[Wire], Awaitable[object]], tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match="use the relay or netns wire"):
        await ask(open_wire("loopback", tmp_path))


def test_popen_is_plain(tmp_path: Path) -> None:
    process = open_wire("loopback", tmp_path).popen([sys.executable, "-c", "print(1)"], stdout=subprocess.PIPE)
    assert process.communicate(timeout=30)[0] == b"1\n"


def test_an_unknown_make_is_named() -> None:
    with pytest.raises(UnsupportedError, match="choose relay, netns or loopback"):
        open_wire("carrier pigeon", Path())
