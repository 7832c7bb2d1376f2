"""The documentation is true: its commands are run, its table of keys is the proxy's own, its links lead somewhere."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

import pytest

from lab.sabotage import SABOTAGES
from proxy.config import ProxyConfig, keys, text_of
from scenarios.idle_close import SCENARIO

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")])

# What CI runs itself, what tests/race runs, and what runs until it is stopped (test_server.py starts and stops it).
RUN_ELSEWHERE = {
    "make demo",
    "make test",
    "make check",
    "make bench",
    "kalab run idle-close --upstream uvicorn --keep-alive 5s --arm control --method POST --blocks 1 --trials 1000",
    "kalab demo",
    "kalab proxy --config proxy.toml",
    "python -m proxy --config proxy.toml",
}


def blocks(language: str) -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for found in re.finditer(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            yield page, found[1]


def commands() -> list[str]:
    """Every command line of every `sh` block, without comments."""
    lines = [line.split("  #")[0].strip() for _, block in blocks("sh") for line in block.splitlines()]
    return sorted({line for line in lines if line and not line.startswith("#")})


RUN_HERE = [command for command in commands() if command not in RUN_ELSEWHERE]
SCENARIO_RUNS = [command for command in RUN_HERE if command.startswith("kalab run ")]
OTHERS = [command for command in RUN_HERE if command not in SCENARIO_RUNS]


def test_there_are_commands_to_test() -> None:
    assert len(SCENARIO_RUNS) >= 5
    assert RUN_ELSEWHERE & set(commands())


def python_words(command: str) -> list[str]:
    words = shlex.split(command)
    if words[0] == "kalab":
        return [sys.executable, "-m", "lab", *words[1:]]
    assert words[0] == "python", f"the docs tell {words[0]!r}, which no test runs"
    return [sys.executable, *words[1:]]


def ended(words: list[str], timeout_s: float = 100) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)


@pytest.mark.race
@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", SCENARIO_RUNS)
def test_scenario_commands_run(command: str, tmp_path: Path) -> None:
    """As told, but with little evidence: whether the verdict is right is what tests/race asks."""
    small = ["--runs", str(tmp_path)]
    small += [] if "--blocks" in command else ["--blocks", "1"]
    small += [] if "--trials" in command else ["--trials", "8"]
    small += [] if "--arm" in command else ["--arm", "control"]
    small += [] if "--keep-alive" in command else ["--keep-alive", "1s"]
    done = ended([*python_words(command), *small])
    assert done.returncode in (0, 2), done.stderr
    assert "verdict:" in done.stdout or command.endswith("--json")


@pytest.mark.race
@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", [c for c in OTHERS if "latest" in c])
def test_commands_on_the_latest_run(command: str, tmp_path: Path) -> None:
    small = ["--blocks", "1", "--trials", "8", "--keep-alive", "1s", "--arm", "control", "--runs", str(tmp_path)]
    assert ended([sys.executable, "-m", "lab", "run", "idle-close", *small]).returncode in (0, 2)
    words = [word.replace("runs/", f"{tmp_path}/", 1) for word in python_words(command)]
    done = ended(words)
    assert done.returncode in (0, 2), done.stderr


@pytest.mark.parametrize("command", [c for c in OTHERS if "latest" not in c])
def test_other_commands_run(command: str) -> None:
    done = ended(python_words(command))
    assert done.returncode == 0, done.stderr


def first_sentences() -> dict[str, str]:
    """Key -> first sentence of every knob, from the source's own docstrings."""
    tree = ast.parse((ROOT / "proxy" / "knobs.py").read_text())
    sections = {"Timeouts": "timeouts.", "PoolLimits": "pool.", "RetryConfig": "retry.", "Limits": "limits."}
    sections |= {"LogConfig": "log.", "ProxyConfig": ""}
    found = {}
    for cls in (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in sections):
        for field, text in zip(cls.body, cls.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                assert isinstance(field.target, ast.Name)
                sentence = " ".join(str(text.value.value).split()).split(". ")[0].rstrip(".")
                found[sections[cls.name] + field.target.id] = sentence
    return found


def table() -> str:
    """The table of keys in docs/proxy.md."""
    rows = ["| key | default | what it is |", "|---|---|---|"]
    for key, sentence in sorted(first_sentences().items(), key=lambda item: (item[0].count("."), item[0])):
        rows.append(f"| `{key}` | `{text_of(attrgetter(key)(ProxyConfig()))}` | {sentence} |")
    return "\n".join(rows) + "\n"


def test_every_key_is_documented_with_its_default() -> None:
    assert set(first_sentences()) == set(keys())
    assert table() in (ROOT / "docs" / "proxy.md").read_text(), "docs/proxy.md lacks this table:\n" + table()


def test_every_sabotage_and_every_arm_is_documented() -> None:
    verdicts = (ROOT / "docs" / "verdicts.md").read_text()
    assert all(f"`{name}`" in verdicts for name in SABOTAGES)
    ladder = (ROOT / "docs" / "idle-close.md").read_text()
    assert all(f"`{arm.name}`" in ladder for arm in SCENARIO.arms)


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if not target.startswith(("http://", "https://")):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
