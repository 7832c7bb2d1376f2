"""The wire's process: `python -m lab.wire relay|netns --control-fd N --dir RUN_DIR`, and `python -m lab.wire probe`.

It ends when it is told to, on SIGTERM, or when the lab's end of the control socket closes; its logs are whole then.
"""

from __future__ import annotations

import argparse
import select
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from lab.wire.contract import WireError
from lab.wire.control import Control, Make
from lab.wire.loop import Loop, be_punctual, stop_on_sigterm
from lab.wire.messages import Ready, write_line
from lab.wire.netns import Netns
from lab.wire.probe import look
from lab.wire.relay import Relay

MAKES: dict[str, Callable[[Loop, Path], Make]] = {"relay": Relay, "netns": Netns}


def run(make_name: str, sock: socket.socket, run_dir: Path) -> None:
    """Builds the make, says that it is ready, works until told to end, and reports its numbers."""
    be_punctual()
    loop = Loop()
    stop_on_sigterm(loop)
    make: Make = MAKES[make_name](loop, run_dir)
    control = Control(sock, make, loop)
    loop.watch(sock.fileno(), select.EPOLLIN, control.on_readable)
    socket.send_fds(sock, [write_line(Ready(make.bind_host))], make.descriptors)
    try:
        loop.run(lambda: _turn(make, control), lambda: _sooner(make.line.next_due(), control.next_due()))
    finally:
        stats = make.close()
    if control.stop_id:
        control.answer(control.stop_id, stats)


def _turn(make: Make, control: Control) -> None:
    make.line.turn()
    control.turn()


def _sooner(one: int | None, other: int | None) -> int | None:
    return min((moment for moment in (one, other) if moment is not None), default=None)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 ended as told, 4 this machine cannot run that wire."""
    parser = argparse.ArgumentParser(prog="python -m lab.wire", description="What lies between proxy and upstream.")
    parser.add_argument("make", choices=[*MAKES, "probe"])
    parser.add_argument("--control-fd", type=int, help="one end of a socket pair; the lab speaks on the other")
    parser.add_argument("--dir", type=Path, help="where wire.jsonl and the pcaps go")
    options = parser.parse_args(argv)
    if options.make == "probe":
        print(msgspec.json.encode(look()).decode())
        return 0
    if options.control_fd is None or options.dir is None:
        parser.error(f"{options.make} needs --control-fd and --dir")
    try:
        run(options.make, socket.socket(fileno=options.control_fd), options.dir)
    except WireError as error:
        print(error, file=sys.stderr)
        return WireError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
