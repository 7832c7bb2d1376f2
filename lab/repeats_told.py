"""In a few plain lines: what a run showed in which an upstream executed requests and died over them."""

from __future__ import annotations

from collections.abc import Sequence

from lab.checkers import LaneFinding
from lab.model import Expect
from lab.repeats import mean_attempts

NOTHING = "The upstream died over no request that counts, so this run shows nothing about that."
LOOKS_LIKE = (
    "The upstream executed each request and died before it answered. To the proxy it is the same as the race: "
    "a used connection closed before any answer."
)


def tell_repeats(findings: Sequence[LaneFinding]) -> tuple[str, ...]:
    """What was executed twice, what once, and how often requests were sent to an upstream that was down."""
    counted = [f for f in findings if f.exposed]
    if not counted:
        return (NOTHING,)
    down = [f for f in counted if f.lane.expect in (Expect.REPEATED, Expect.BUDGETED)]
    died_once = [f for f in counted if f not in down]
    twice = [f for f in died_once if all(t.executions == 2 and not t.lost for t in f.exposed)]
    once = [f for f in died_once if all(t.executions == 1 and t.lost for t in f.exposed)]
    return (
        LOOKS_LIKE,
        *([f"Executed twice, and answered: {_named(twice)}."] if twice else []),
        *([f"Executed once, and lost: {_named(once)}."] if once else []),
        *([f"Down for good, so often was each request sent: {_sent(down)}."] if down else []),
    )


def _named(findings: Sequence[LaneFinding]) -> str:
    """The arms by method: "POST with always; GET with always, when-proven"."""
    methods = dict.fromkeys(f.lane.method for f in reversed(findings))
    return "; ".join(
        f"{method} with {', '.join(f.lane.arm for f in findings if f.lane.method == method)}" for method in methods
    )


def _sent(findings: Sequence[LaneFinding]) -> str:
    return ", ".join(f"{mean_attempts(f.exposed):.3g} ({f.lane.arm}, {f.lane.method})" for f in findings)
