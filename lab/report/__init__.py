"""The report page of a run: one HTML file that opens anywhere, offline, without scripts."""

from lab.report.page import render, write

__all__ = ["render", "write"]
