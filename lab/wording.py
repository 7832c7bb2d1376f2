"""How results are put into words, for the terminal and the report page alike.

Rules of this file:

- Zero of n is never "0 %": it is "fewer than", with the upper bound. Bounds are rounded outwards, so that no rounding
  claims more than was measured.
- A verdict says whether an expectation held; an effect says what a configuration does to requests. Both are told:
  "pass" beside a fix that was rightly expected to fail would otherwise read as praise.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from math import ceil, floor, log10
from typing import NamedTuple

from lab.model import Expect, Verdict
from lab.result import ArmResult, Change

MEANING = {
    Verdict.PASS: "Everything expected before the run was found.",
    Verdict.FAIL: "At least one thing expected before the run was not found.",
    Verdict.INCONCLUSIVE: "The run did not happen as planned. It proves nothing, neither for nor against.",
}

SAFE = ("GET",)
"""Methods that may be executed twice (RFC 9110 section 9.2.1)."""

MARK = {Verdict.PASS: "✓", Verdict.FAIL: "✗", Verdict.INCONCLUSIVE: "?"}
"""A shape for each verdict, because colour alone is not seen by everybody."""


class Effect(NamedTuple):
    """What a configuration does to requests. `tone`: "good", "bad", "harm", "plain" or "open"."""

    tone: str
    words: str


def percent(share: float, *, up: bool) -> str:
    """A share (0..1) in percent without the sign: one decimal, or two digits that count when it is below 0.1 %.

    `up` says which way to round; a lower bound is rounded down, an upper bound up.
    """
    value = share * 100
    if value <= 0:
        return "0"
    if value >= 100:
        return "100"
    decimals = 1 if value >= 0.1 else 1 - floor(log10(value))
    step = 10**decimals
    # The allowance keeps 98.5, stored as 98.50000000000001, from becoming 98.6.
    count = ceil(value * step - 1e-6) if up else floor(value * step + 1e-6)
    return f"{count / step:.{decimals}f}".removesuffix(".0")


def range_text(low: float, high: float) -> str:
    """Two shares (0..1) that are no bounds: "24.8 to 29.8 %"."""
    return f"{low * 100:.1f} to {high * 100:.1f} %"


def share_text(lost: int, n: int, low: float, high: float) -> str:
    """How many of how many, with the bounds (0..1): "3 of 240 (0.4–3.7 %)", "0 of 240, fewer than 1.6 %"."""
    return " ".join(share_parts(lost, n, low, high)).rstrip()


def share_parts(lost: int, n: int, low: float, high: float) -> tuple[str, str]:
    """The count and the bounds apart, for who sets them on two lines."""
    if n == 0:
        return "none exposed", ""
    if lost == 0:
        return f"0 of {n},", f"fewer than {percent(high, up=True)} %"
    return f"{lost} of {n}", f"({percent(low, up=False)}–{percent(high, up=True)} %)"


def change_text(changes: Sequence[Change]) -> str:
    """The diff of an arm in one line."""
    if not changes:
        return "no change"
    return ", ".join(f"{change.key}: {change.before or 'unset'} → {change.after or 'unset'}" for change in changes)


def cost_parts(arm: ArmResult, control: ArmResult | None) -> list[str]:
    """What one undisturbed request costs; with the difference to the control, if measured over the same distance."""
    parts = []
    if arm.latency_ms is not None:
        text = f"{arm.latency_ms:.1f} ms"
        same_wire = not any(change.key.startswith("wire.") for change in arm.changes)
        if control is not None and control.latency_ms is not None and same_wire:
            added = f"{arm.latency_ms - control.latency_ms:+.1f}"
            text += "" if float(added) == 0 else f" ({added})".replace("-", "−")
        parts.append(text)
    if arm.connects_per_request is not None:
        parts.append(f"{arm.connects_per_request:.2f} connects")
    return parts or ["not measured"]


_EXPECTED_EFFECT = {
    Expect.LOST: Effect("bad", "does not help"),
    Expect.BOX: Effect("bad", "loses what meets the close"),
    Expect.MENDED: Effect("good", "mends it"),
    Expect.PREDICTED: Effect("bad", "loses what the model says"),
    Expect.EXECUTED_TWICE: Effect("harm", "executes twice"),
    Expect.EXECUTED_ONCE: Effect("plain", "lost, but executed once only"),
    Expect.REPEATED: Effect("plain", "lost"),
    Expect.BUDGETED: Effect("good", "lost, repeats bounded"),
    Expect.DAMAGED: Effect("bad", "does not help"),
    Expect.ANSWERED: Effect("plain", "answers all, may execute twice"),
    Expect.FORECAST: Effect("plain", "as the model says"),
}

_CONTROL_EFFECT = {
    Expect.LOST: Effect("plain", "breaks, as it must"),
    Expect.BOX: Effect("plain", "breaks where it meets the close only"),
    Expect.MENDED: Effect("plain", "loses nothing, as it must"),
    Expect.PREDICTED: Effect("plain", "breaks where the model says"),
    Expect.DAMAGED: Effect("plain", "breaks, as it must"),
    Expect.FORECAST: Effect("plain", "as the model says"),
}


def effect(arm: ArmResult, harmful: Collection[tuple[Change, ...]] = ()) -> Effect:
    """What the arm did to requests. `harmful` are the changes that executed a request twice in another arm."""
    if arm.verdict is Verdict.INCONCLUSIVE:
        return Effect("open", "not settled")
    if arm.verdict is Verdict.FAIL:
        return Effect("bad", "not as expected")
    try:
        expected = Expect(arm.expected)
    except ValueError:
        return Effect("plain", "as expected")
    if not arm.is_fix and expected in _CONTROL_EFFECT:
        return _CONTROL_EFFECT[expected]
    if expected is Expect.PREDICTED and not arm.lost:
        return Effect("good", "lost none, as the model says")
    if expected is Expect.EXECUTED_TWICE and arm.method in SAFE:
        return Effect("plain", "answered, executed twice, which is safe")
    if expected in (Expect.REPEATED, Expect.BUDGETED) and arm.attempts is not None:
        found = _EXPECTED_EFFECT[expected]
        times = f"{arm.attempts:.2f}".removesuffix(".00")
        tone = "harm" if expected is Expect.REPEATED and arm.attempts > 1 else found.tone
        return Effect(tone, f"{found.words}, sent {times} times each" if times != "1" else f"{found.words}, sent once")
    if expected is Expect.MENDED and arm.changes in harmful:
        return Effect("harm", "mends this, executes twice elsewhere")
    return _EXPECTED_EFFECT[expected]


def harmful_changes(arms: Sequence[ArmResult]) -> frozenset[tuple[Change, ...]]:
    """The configurations under which a request that must not be was executed twice in this run."""
    risky = (arm for arm in arms if arm.method not in SAFE)
    return frozenset(arm.changes for arm in risky if arm.executed_twice and arm.changes)


def control_of(arm: ArmResult, arms: Sequence[ArmResult]) -> ArmResult | None:
    """The arm that had to break before this one was credited, with the same method where there is one."""
    named = [other for other in arms if other.arm == arm.control]
    same = [other for other in named if other.method == arm.method]
    return next(iter(same or named), None)


def decimals_for(times_ms: Sequence[float]) -> int:
    """How many decimals tell these times apart: 1, and up to 3 where neighbours are nearer than 0.1 ms."""
    ordered = sorted(times_ms)
    nearest = min((b - a for a, b in pairwise(ordered) if b - a > 0.0005), default=1.0)
    return 1 if nearest >= 0.0999 else 2 if nearest >= 0.00999 else 3


def time_text(ms: float, decimals: int = 1) -> str:
    """Milliseconds relative to the upstream's close, signed with a true minus: "+20.1", "0.0", "−2000.0"."""
    text = f"{ms:+.{decimals}f}"
    if float(text) == 0:
        text = text[1:]
    return text.replace("-", "−")


def duration_text(ms: float) -> str:
    """A length of time in the unit that suits it: "0.3 ms", "40 ms", "2 s"."""
    if abs(ms) >= 1000:
        return f"{ms / 1000:.3g} s"
    return f"{ms:.3g} ms"


def printable(text: str) -> str:
    """The text without what could command a terminal or break XML: every other character becomes a space."""
    return "".join(c if c.isprintable() else " " for c in text)


_PLAIN = str.maketrans({"–": "-", "−": "-", "→": "->", "…": "...", "×": "x"})


def encodable(text: str, encoding: str) -> str:
    """The printable text, in characters that a stream with this encoding can write."""
    text = printable(text)
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return text.translate(_PLAIN).encode("ascii", "replace").decode()
    return text
