"""The compiled build (hatch_build.py): what it is made of, and that the build under test is the one asked for."""

from __future__ import annotations

import ast
import importlib
import runpy
from pathlib import Path

import pytest

from proxy.observe.metrics import build_info

TREE = Path(__file__).resolve().parent.parent.parent
COMPILED: tuple[str, ...] = runpy.run_path(str(TREE / "hatch_build.py"))["COMPILED"]


def test_this_is_the_build_that_was_asked_for(request: pytest.FixtureRequest) -> None:
    asked = "compiled" if request.config.getoption("--compiled") else "plain"
    assert build_info()["build"] == asked
    for name in COMPILED:
        origin = importlib.import_module(f"proxy.{name.replace('/', '.')}").__file__
        assert origin is not None
        assert origin.endswith(".so" if asked == "compiled" else ".py"), origin


@pytest.mark.parametrize("name", COMPILED)
def test_a_constant_tuple_says_that_its_length_does_not_matter(name: str) -> None:
    """mypyc keeps one of a known length field by field, and makes a tuple of it again at each use: 1 µs a request."""
    for node in ast.parse((TREE / "proxy" / f"{name}.py").read_text("utf-8")).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Tuple) and node.value.elts:
            assert "..." in ast.unparse(node.annotation), ast.unparse(node)
