"""What all tests share. With CI set, a skip is a failure: a suite that ran nothing must not look green."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

FORBIDDEN = (
    "no namespaces of its own here"  # by the machine, which no package mends: tests/faults/harness/own_network.py
)
IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--compiled", action="store_true", help="the proxy is the compiled one; see `make test`")
    parser.addoption("--full", action="store_true", help="fault tests in their full size; see `make faults`")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns a skipped test into a failed one in CI; an expected failure (xfail) stays what it is."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail") and FORBIDDEN not in str(report.longrepr):
        _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself while it is collected."""
    report = yield
    if IN_CI and report.skipped:
        _fail(report)
    return report


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    where = report.longrepr
    reason = where[2] if isinstance(where, tuple) else str(where)
    report.outcome = "failed"
    report.longrepr = f"skipped in CI, where everything must run: {reason}"
