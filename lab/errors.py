"""The two ways in which a command ends before there is a verdict: one line for the user, never a traceback."""

from __future__ import annotations


class UsageError(Exception):
    """The command or its configuration is wrong. Exit code 3."""

    exit_code = 3


class CannotRunError(Exception):
    """This machine, or its rights, do not allow what was asked. Exit code 4."""

    exit_code = 4
