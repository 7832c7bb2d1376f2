"""Two sizes: the short form runs with the suite, the full one with `make faults`, alone on the machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import own_network
import pytest
from fleet import Fleet, Size


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "own_network: runs in network namespaces of its own; see own_network.py")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """True: it has run already."""
    marked = pyfuncitem.get_closest_marker("own_network") is not None
    return True if marked and own_network.run_inside(pyfuncitem) else None


@pytest.fixture
def size(request: pytest.FixtureRequest) -> Size:
    return Size(bool(request.config.getoption("--full")))


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Everything that a test starts, stopped by its end."""
    started = Fleet(tmp_path)
    try:
        yield started
    finally:
        started.stop()
