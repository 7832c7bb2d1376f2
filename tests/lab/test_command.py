"""`kalab` where only the proxy was installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# As if the package were not there: an import of it fails as the import system says it.
WITHOUT_TYPER = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "typer":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
sys.argv = ["kalab", *sys.argv[1:]]
from lab.command import main
main()
"""


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["doctor"], 4, "error: this needs the lab, and typer is not installed: pip install 'kalab[lab]'"),
        ([], 4, "error: this needs the lab, and typer is not installed"),
        (["proxy", "--check"], 0, "the config is valid"),
        (["proxy", "--version"], 0, "kalab "),
        (["--version"], 0, "kalab "),
        (["proxy", "--chekc"], 3, "error: --chekc: unknown option; did you mean --check?"),
    ],
)
def test_without_the_labs_packages_there_is_the_proxy(words: list[str], code: int, says: str) -> None:
    command = [sys.executable, "-c", WITHOUT_TYPER, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    assert (done.stdout + done.stderr).startswith(says)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("lab", [True, False])
def test_what_the_folder_calls_proxy_is_not_run(tmp_path: Path, lab: bool) -> None:
    (tmp_path / "proxy.py").write_text("print('the wrong one')")
    script = "from lab.command import main; main()" if lab else WITHOUT_TYPER
    command = [sys.executable, "-P", "-c", script, "proxy", "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.partition(" ")[0], done.stderr) == (0, "kalab", "")
