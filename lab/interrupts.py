"""However a run is told to end: Ctrl-C, a kill, or a terminal that closes. All of them stop what it has started.

What a script starts with `&` has Ctrl-C ignored, and keeps it so: that key is not meant for it. A kill is.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

KILLS = (signal.SIGTERM, signal.SIGHUP)

Handlers = dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None]


def listen() -> None:
    """From now on a kill ends this process as Ctrl-C does."""
    for number in KILLS:
        signal.signal(number, _end)


def ignore() -> Handlers:
    """What is being stopped must not be cut short by a second one. Returns what `restore` takes."""
    return {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, *KILLS)}


def restore(before: Handlers) -> None:
    """From now on they do again what they did."""
    for number, handler in before.items():
        signal.signal(number, handler)


def _end(_number: int, frame: FrameType | None) -> None:
    on_interrupt = signal.getsignal(signal.SIGINT)
    if callable(on_interrupt):  # asyncio's cancels the run first
        on_interrupt(signal.SIGINT, frame)
    else:
        raise KeyboardInterrupt
