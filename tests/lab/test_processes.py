"""Child processes: what a terminal's Ctrl-C must not do to them."""

import os
import sys
from pathlib import Path

from lab.processes import Children


async def test_a_terminals_ctrl_c_does_not_reach_a_child(tmp_path: Path) -> None:
    """It goes to the foreground process group; a child that ends by itself would be taken for one that died."""
    async with Children(tmp_path) as children:
        child = children.start("cat", [sys.executable, "-c", "import time; time.sleep(60)"], says_ready=False)
        assert os.getpgid(child.process.pid) == child.process.pid
