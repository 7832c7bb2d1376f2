"""Child processes: what a terminal's Ctrl-C must not do to them."""

import os
import sys
from pathlib import Path

import pytest

from lab.errors import CannotRunError
from lab.processes import Children


async def test_a_terminals_ctrl_c_does_not_reach_a_child(tmp_path: Path) -> None:
    """It goes to the foreground process group; a child that ends by itself would be taken for one that died."""
    async with Children(tmp_path) as children:
        child = children.start("cat", [sys.executable, "-c", "import time; time.sleep(60)"], says_ready=False)
        assert os.getpgid(child.process.pid) == child.process.pid


async def test_where_a_child_listens_is_found_among_what_it_logs(tmp_path: Path) -> None:
    says = (
        "print('first'); print('listening on 127.0.0.1:81 (HTTP), admin off', flush=True); import time; time.sleep(60)"
    )
    async with Children(tmp_path) as children:
        child = children.start("proxy", [sys.executable, "-c", says], says_ready=False)
        assert await child.announced() == ("127.0.0.1", 81)


async def test_a_child_that_ends_before_it_listens_is_told_with_its_last_words(tmp_path: Path) -> None:
    async with Children(tmp_path) as children:
        child = children.start("proxy", [sys.executable, "-c", "raise SystemExit('error: no')"], says_ready=False)
        with pytest.raises(CannotRunError, match="proxy ended with exit code 1: error: no"):
            await child.announced()
