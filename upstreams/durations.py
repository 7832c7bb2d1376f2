"""Durations as people write them: "250ms", "5s", "2m", "1h", and "off" for no limit."""

from __future__ import annotations

import re
from math import inf

UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def duration(text: str) -> float:
    """Seconds; "off" is infinite. Raises ValueError with a sentence for the user."""
    if text == "off":
        return inf
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([a-z]*)", text)
    if match and match[2] in UNITS_S:
        return float(match[1]) * UNITS_S[match[2]]
    nearest = f"; did you mean {match[1]}s?" if match and not match[2] else ""
    raise ValueError(f"'{text}' is not a duration: write a number and a unit (ms, s, m, h), or off{nearest}")


def pause(text: str) -> float:
    """Seconds to wait; "off" is no wait. Raises ValueError with a sentence for the user."""
    seconds = duration(text)
    return 0.0 if seconds == inf else seconds
