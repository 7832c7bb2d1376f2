"""Promises of the tree as a whole: one version, whole locks, a proxy that stands alone, nothing of one machine."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TREE = Path(__file__).resolve().parent.parent
PYPROJECT: dict[str, Any] = tomllib.loads((TREE / "pyproject.toml").read_text())
PROJECT: dict[str, Any] = PYPROJECT["project"]
PACKAGES: list[str] = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]

# Not part of the tree: what git, tools, builds and runs leave behind (.gitignore says the same).
LEFT_BEHIND = {
    *(".git", ".venv", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"),
    *("runs", "dist", "build", "node_modules"),
}
# Spelled apart, so that this file may be looked through like any other.
ONE_MACHINE = re.compile(rb"(?<![\w.~-])/(?:" + b"|".join((b"wo" + b"rk", b"ro" + b"ot", b"ho" + b"me")) + rb")/[\w.-]")
LENIENT = "set_dangerous_" + "leniencies"

IMPORTED_AS = {"dnspython": "dns"}  # where that is not the name of the package

EDITABLE = [Requirement(line) for line in PYPROJECT["dependency-groups"]["editable"]]


def files(folder: Path = TREE) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name in LEFT_BEHIND or path.name.endswith(".egg-info") or path.is_symlink():
            continue
        if path.is_dir():
            yield from files(path)
        else:
            yield path


def dependencies(*extras: str) -> Iterator[Requirement]:
    """What a set of extras asks for, with the extras that they name in turn."""
    lines = PROJECT["dependencies"] + [line for e in extras for line in PROJECT["optional-dependencies"][e]]
    for requirement in map(Requirement, lines):
        if requirement.name == PROJECT["name"]:
            yield from dependencies(*requirement.extras)
        else:
            yield requirement


def locked(name: str) -> dict[str, str]:
    text = (TREE / "requirements" / name).read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", text, re.MULTILINE))


def imported(source: Path) -> Iterator[str]:
    """The top-level name of every import in a file, relative ones left out."""
    for node in ast.walk(ast.parse(source.read_text(), str(source))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]


def test_changelog_knows_this_version() -> None:
    versions = re.findall(r"^## \[(\d[^\]]*)\]", (TREE / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == PROJECT["version"]


def test_licence_is_here_and_is_the_one_that_is_named() -> None:
    text = (TREE / "LICENSE").read_text()
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("proxy.txt", [*dependencies()]),
        ("lab.txt", [*dependencies("lab"), *EDITABLE]),
        ("dev.txt", [*dependencies("dev"), *EDITABLE]),
    ],
)
def test_lock_holds_every_dependency_in_a_version_that_is_asked_for(name: str, needs: list[Requirement]) -> None:
    versions = locked(name)
    wanting = [str(r) for r in needs if versions.get(canonicalize_name(r.name), "0") not in r.specifier]
    assert needs
    assert not wanting, f"{name} lacks {wanting}: make lock"


def test_locks_grow_from_proxy_to_lab_to_dev_without_a_change() -> None:
    proxy, lab, dev = (locked(f"{name}.txt").items() for name in ("proxy", "lab", "dev"))
    assert proxy < lab < dev


@pytest.mark.parametrize("name", ["proxy.txt", "lab.txt", "dev.txt"])
def test_lock_has_hashes_and_names_no_index(name: str) -> None:
    text = (TREE / "requirements" / name).read_text()
    packages = re.split(r"\n(?=[a-z0-9-]+==)", text)
    assert [package.split()[0] for package in packages if "--hash=sha256:" not in package] == []
    assert "//" not in text
    assert "index" not in text.replace("--hash", "")


def test_proxy_stands_alone() -> None:
    own = {canonicalize_name(requirement.name) for requirement in dependencies()}
    assert own == {"uvloop", "httptools", "msgspec", "aiohttp", "dnspython"}
    known = {"proxy", *sys.stdlib_module_names, *(IMPORTED_AS.get(name, name) for name in own)}
    foreign = {
        (str(source.relative_to(TREE)), name)
        for source in (TREE / "proxy").rglob("*.py")
        for name in imported(source)
        if name not in known
    }
    assert not foreign


def test_bench_imports_nothing_that_it_measures() -> None:
    sources = (TREE / "bench").rglob("*.py")
    assert not {(source.name, name) for source in sources for name in imported(source) if name in PACKAGES}


def test_packages_are_the_folders_of_the_tree() -> None:
    assert [name for name in PACKAGES if not (TREE / name / "__init__.py").is_file()] == []


def test_no_file_names_a_place_of_one_machine() -> None:
    assert [str(path.relative_to(TREE)) for path in files() if ONE_MACHINE.search(path.read_bytes())] == []


def test_the_parser_is_never_told_to_be_lenient() -> None:
    shipped = (path for package in PACKAGES for path in (TREE / package).rglob("*.py"))
    assert [str(path.relative_to(TREE)) for path in shipped if LENIENT in path.read_text()] == []
