"""All scenarios by name: every module in `scenarios/` declares one."""

from __future__ import annotations

import importlib
import pkgutil

import scenarios
from lab.model import Scenario


def catalogue() -> dict[str, Scenario]:
    """In the order of their files."""
    modules = (importlib.import_module(f"scenarios.{m.name}") for m in pkgutil.iter_modules(scenarios.__path__))
    return {module.SCENARIO.name: module.SCENARIO for module in modules}
