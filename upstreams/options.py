"""How the lab upstream behaves, and the command line that says it.

Rules of this file:

- Every option says its unit, its default, and what 0 or "off" means; the help text is that documentation.
- Bad usage is one line on stderr that names the nearest valid choice, and exit code 3.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import NoReturn, TypeVar

from upstreams.durations import duration, pause

T = TypeVar("T")

CLOSES = ("fin", "linger", "rst", "408", "drop")
DRAINS = ("now", "idle", "notice")
CRASHES = ("once", "always", "never")

EXAMPLES = """\
examples:
  python -m upstreams.lab --keep-alive 2s
  python -m upstreams.lab --keep-alive 1s --close rst --events upstream.jsonl
  python -m upstreams.lab --keep-alive 2s --hint 60            it lies about its timeout
  python -m upstreams.lab --keep-alive 2s --stall 100ms        it is busy when its timeout ends
  python -m upstreams.lab --max-requests 100 --no-notice       it recycles connections without a word
  python -m upstreams.lab --recycle 500 --drain idle           a worker in five hundred requests, idle connections cut

routes, for any method: any path answers 200, "ok" and the request id; ?delay=300ms delays the answer;
/bytes/N answers N bytes; /echo answers the body; /crash executes and closes without an answer the first
time that it sees a request id (X-Request-Id), and answers 200 after that (--crash changes that).
"""


class UsageError(Exception):
    """The message is the whole sentence for the user."""


@dataclass(frozen=True)
class Behaviour:
    """What one lab upstream does. Durations are seconds."""

    keep_alive_s: float = 5.0
    """Idle time after which a connection is closed, counted from the last byte of the last answer, or from its opening
    while it is unused; inf: never."""
    jitter_s: float = 0.0
    """Uniform 0..jitter, added once per connection; 0: none."""
    close: str = "fin"
    """How an idle connection is closed: one of CLOSES. "drop": what has come is read first, and thrown away."""
    linger_s: float = 5.0
    """With close="linger": how long at most the connection is read, and what it says discarded, after the FIN."""
    hint: int | None = None
    """The value of `Keep-Alive: timeout=` in whole seconds; None: the field is not sent."""
    delay_s: float = 0.0
    """How long every answer takes; 0: none."""
    stall_s: float = 0.0
    """How long the loop is blocked before each idle deadline; 0: never."""
    max_requests: int = 0
    """Answers per connection, the last of which closes it; 0: no limit."""
    notice: bool = True
    """Whether the last answer announces the close (`Connection: close`)."""
    drain: str = "now"
    """What becomes of connections when the process ends, or is recycled: one of DRAINS. "now": all are closed, answers
    under way are lost. "idle": idle ones are closed, the others after their answer. "notice": each is closed after its
    next answer, which announces it, and those without one after drain_for_s."""
    drain_for_s: float = 5.0
    """How long at most draining may take; what is left then is closed."""
    recycle: int = 0
    """Answers after which all connections are drained and new ones served on, as when a worker makes room for the next
    behind the same listening socket; 0: never."""
    crash: str = "once"
    """When /crash closes without an answer: one of CRASHES. "once": the first time that a request id comes. "always":
    every time, so that no repeat is ever answered. "never": it answers as any path does."""


@dataclass(frozen=True)
class Options:
    """The command line, read."""

    listen: tuple[tuple[str, int], ...]
    behaviour: Behaviour
    refuse: bool
    reuse_port: bool
    inherit: int | None
    """A descriptor of a listening socket that the parent process holds; `listen` is not used then."""
    events: str
    seed: int


class Parser(argparse.ArgumentParser):
    """argparse that raises its complaint, so that one place decides how it is said."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))


def parse(argv: Sequence[str]) -> Options:
    """Reads the command line. Raises UsageError."""
    parser = _parser()
    flags, unknown = parser.parse_known_args(argv)
    if unknown:
        raise UsageError(f"{unknown[0]}: unknown flag{_nearest(unknown[0], list(parser._option_string_actions))}")
    behaviour = Behaviour(
        keep_alive_s=flags.keep_alive,
        jitter_s=flags.jitter,
        close=flags.close,
        linger_s=flags.linger_for,
        hint=_hint(flags.hint, flags.keep_alive),
        delay_s=flags.delay,
        stall_s=flags.stall,
        max_requests=flags.max_requests,
        notice=flags.notice,
        drain=flags.drain,
        drain_for_s=flags.drain_for,
        recycle=flags.recycle,
        crash=flags.crash,
    )
    if not behaviour.keep_alive_s:
        raise UsageError("--keep-alive: it must be longer than 0; off means never")
    if behaviour.stall_s and behaviour.stall_s >= behaviour.keep_alive_s:
        raise UsageError("--stall: it must be shorter than --keep-alive, or the loop would be blocked always")
    listen = tuple(flags.listen or [("127.0.0.1", 9000)])
    return Options(listen, behaviour, flags.refuse, flags.reuse_port, flags.inherit, flags.events, flags.seed)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m upstreams.lab",
        description="An HTTP/1.1 server that closes connections exactly as it is told, and logs each close.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--listen",
        metavar="HOST:PORT",
        action="append",
        type=_typed(_address),
        help="default 127.0.0.1:9000; may be repeated; port 0: any",
    )
    add(
        "--keep-alive",
        metavar="DUR",
        type=_typed(duration),
        default=5.0,
        help="idle timeout, default 5s; off: never closes",
    )
    add(
        "--jitter",
        metavar="DUR",
        type=_typed(pause),
        default=0.0,
        help="uniform 0..DUR more per connection, default 0s",
    )
    add(
        "--close",
        metavar="|".join(CLOSES),
        type=_typed(_one_of(CLOSES)),
        default="fin",
        help="form of an idle close, default fin",
    )
    add(
        "--linger-for",
        metavar="DUR",
        type=_typed(duration),
        default=5.0,
        help="longest linger, default 5s; off: no limit",
    )
    add(
        "--hint",
        metavar="none|true|SECONDS",
        type=_typed(_hint_text),
        default="none",
        help="Keep-Alive: timeout=, default none; true: --keep-alive rounded down; a number: that",
    )
    add("--delay", metavar="DUR", type=_typed(pause), default=0.0, help="how long every answer takes, default 0s")
    add(
        "--stall",
        metavar="DUR",
        type=_typed(pause),
        default=0.0,
        help="block the loop so long before each idle deadline, default 0s: never",
    )
    add(
        "--max-requests",
        metavar="N",
        type=_typed(_count),
        default=0,
        help="answers per connection, default 0: no limit",
    )
    add(
        "--notice",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="announce the last answer or not, default --notice",
    )
    add(
        "--drain",
        metavar="|".join(DRAINS),
        type=_typed(_one_of(DRAINS)),
        default="now",
        help="at SIGTERM or --recycle: cut all, cut idle ones, or tell each with its next answer; default now",
    )
    add("--drain-for", metavar="DUR", type=_typed(duration), default=5.0, help="longest drain, default 5s")
    add(
        "--recycle",
        metavar="N",
        type=_typed(_count),
        default=0,
        help="drain all connections after every N answers, and serve on; default 0: never",
    )
    add(
        "--crash",
        metavar="|".join(CRASHES),
        type=_typed(_one_of(CRASHES)),
        default="once",
        help="when /crash dies: the first time that it sees a request id, every time, or never; default once",
    )
    add("--inherit", metavar="FD", type=_typed(_count), help="listen on this socket, inherited; default: --listen")
    add("--reuse-port", action="store_true", help="share the port with other processes (SO_REUSEPORT)")
    add("--refuse", action="store_true", help="hold the port but refuse every connection")
    add("--events", metavar="FILE", default="", help="write the event log to FILE, default: no log")
    add("--seed", metavar="N", type=_typed(int), default=0, help="of the jitter, default 0")
    return parser


def _typed(read: Callable[[str], T]) -> Callable[[str], T]:
    """Lets the sentence of a ValueError reach the user; argparse would replace it."""

    def typed(text: str) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return typed


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"'{text}' is not HOST:PORT, like 127.0.0.1:9000")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _one_of(choices: Sequence[str]) -> Callable[[str], str]:
    def chosen(text: str) -> str:
        if text not in choices:
            raise ValueError(f"'{text}' is not one of {', '.join(choices)}{_nearest(text, choices)}")
        return text

    return chosen


def _hint_text(text: str) -> str:
    if text in ("none", "true") or text.isdigit():
        return text
    raise ValueError(f"'{text}' is not none, true, or whole seconds{_nearest(text, ('none', 'true'))}")


def _hint(text: str, keep_alive_s: float) -> int | None:
    if text == "none" or (text == "true" and not isfinite(keep_alive_s)):
        return None
    return int(keep_alive_s) if text == "true" else int(text)


def _count(text: str) -> int:
    if not text.isdigit():
        raise ValueError(f"'{text}' is not a whole number")
    return int(text)


def _nearest(text: str, choices: Sequence[str]) -> str:
    close = difflib.get_close_matches(text, choices, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
