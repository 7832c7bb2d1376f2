"""The installed command `kalab`. The proxy alone, without the lab's packages, can only run the proxy."""

from __future__ import annotations

import os
import sys

CANNOT = 4
INTERRUPTED = 130


def main() -> None:
    """Runs the lab's command line; where its packages are missing, `kalab proxy` all the same."""
    try:
        from lab.cli import main as lab_main
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.split(".")[0] in ("lab", "proxy", "scenarios", "upstreams"):
            raise
        if sys.argv[1:2] == ["--version"]:
            sys.argv[1:2] = ["proxy", "--version"]
        if sys.argv[1:2] == ["proxy"]:  # -P: the one that is installed, not what the folder calls so that one stands in
            os.execv(sys.executable, [sys.executable, "-P", "-m", "proxy", *sys.argv[2:]])
        print(
            f"error: this needs the lab, and {missing.name} is not installed: pip install 'kalab[lab]', or in the "
            "source pip install '.[lab]'; the proxy alone is `kalab proxy`",
            file=sys.stderr,
        )
        sys.exit(CANNOT)
    except KeyboardInterrupt:  # while it is still being loaded
        sys.exit(INTERRUPTED)
    lab_main()
