"""Two sizes: the short form runs with the suite, the full one with `make faults`, alone on the machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import Fleet, Size


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
