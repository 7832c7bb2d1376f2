"""The upstream servers of a run: the lab's own, or a real one from the catalogue, on the far side of the wire."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from lab.errors import CannotRunError, UsageError
from lab.model import Scenario
from lab.plan import MAX_REQUESTS, Setup
from lab.processes import Child, Children
from lab.sabotage import idle_timeout, keep_alive_of_lanes, withholds_close
from lab.wire import Wire
from upstreams.catalogue import SERVERS

# In a network namespace of its own every port is free.
FIRST_PORT = 9000
# Rounds that a thread-per-request server must serve at the same time.
OVERLAPPING_ROUNDS = 8

# Options of the lab upstream that take no value.
SWITCHES = ("notice",)

CALIBRATION = "calibration"  # stands for a lane
NOTHING: Mapping[str, str] = {}


class Upstreams:
    """Starts upstream processes and knows which port a lane's requests go to.

    One process serves all lanes, with three exceptions. Where the loop is stalled on purpose each lane has its own, for
    a stall would hit them all, and so has one that stops its upstream. Lanes whose upstream is told something else
    share one that does it. And only the lab upstream can be told to die after executing, so it serves those lanes.
    """

    def __init__(self, scenario: Scenario, setup: Setup, wire: Wire, children: Children, folder: Path) -> None:
        self._scenario = scenario
        self._setup = setup
        self._wire = wire
        self._children = children
        self._folder = folder
        self._started: dict[str, tuple[int, Child]] = {}
        self._server = SERVERS[setup.upstream]

    async def start(self) -> None:
        """Starts what calibration will need."""
        await self.serving(CALIBRATION)

    async def serving(
        self, lane: str, told: Mapping[str, str] = NOTHING, *, crash: bool = False, alone: bool = False
    ) -> tuple[int, Child]:
        """The port that serves this lane, and the process, which is started when there is none.

        `told`: what it does otherwise than the scenario says. `crash`: it dies after executing. `alone`: it serves no
        other lane.
        """
        process = lane if alone else self._process_of(lane, crash)
        name = "-".join((process, *(f"{key}-{value}" for key, value in told.items())))
        if name not in self._started:
            is_lab = self._setup.upstream == "lab" or crash
            self._started[name] = await (self._start_lab(name, lane, told) if is_lab else self._start_real(name))
        return self._started[name]

    async def member(
        self,
        name: str,
        lane: str,
        told: Mapping[str, str],
        listener: socket.socket | int | None,
        *,
        killed: bool = False,
    ) -> tuple[int, Child]:
        """A lab upstream of its own, which may end before the run does, and the port that it listens on.

        `listener`: a socket that it inherits, as its successors will; or the port that it shares with them (0: any);
        None: it has no successor there.
        `killed`: it will not close its log in order, so it keeps a list of executions only.
        """
        return await self._start_lab(name, lane, told, listener=listener, killed=killed)

    def dismiss(self, child: Child, number: signal.Signals) -> bool:
        """Tells a member to end. Returns whether it was told, for sabotage may withhold that."""
        if withholds_close(self._setup.sabotage):
            return False
        child.dismiss(number)
        return True

    def _process_of(self, lane: str, crash: bool) -> str:
        if self._setup.stall_ms:
            return lane
        if lane != CALIBRATION and keep_alive_of_lanes(self._setup.sabotage, self._setup.keep_alive_s):
            return "sabotaged"  # behind calibration's back
        return "crashing" if crash else "shared"

    async def _start_lab(
        self,
        name: str,
        lane: str,
        told: Mapping[str, str],
        *,
        listener: socket.socket | int | None = None,
        killed: bool = False,
    ) -> tuple[int, Child]:
        setup = self._setup
        env = {"KALAB_EXECUTIONS": str(self._folder / f"executions-{name}.jsonl")} if killed else None
        options = {
            "keep-alive": idle_timeout(setup.sabotage, setup.keep_alive_s, calibrating=lane == CALIBRATION),
            **self._scenario.upstream,
            **told,
            "events": "" if killed else str(self._folder / f"upstream-{name}.jsonl"),
            "seed": str(setup.seed),
        }
        if setup.stall_ms:
            options["stall"] = f"{setup.stall_ms:g}ms"
        if options["keep-alive"] == "off":
            options.pop(MAX_REQUESTS, None)
        if withholds_close(setup.sabotage):
            options.pop("recycle", None)
            options["crash"] = "never"
        inherited = (listener.fileno(),) if isinstance(listener, socket.socket) else ()
        listen = self._listen_words(listener)
        flags = [word for key, value in options.items() for word in _flag(key, value)]
        argv = [sys.executable, "-m", "upstreams.lab", *listen, *flags]
        child = self._children.start(f"upstream-{name}", argv, popen=self._wire.popen, env=env, inherited=inherited)
        ((_, port),) = await child.listening()
        return port, child

    def _listen_words(self, listener: socket.socket | int | None) -> list[str]:
        if isinstance(listener, socket.socket):
            return ["--inherit", str(listener.fileno())]
        words = ["--listen", f"{self._wire.bind_host}:{listener or 0}"]
        return words if listener is None else [*words, "--reuse-port"]

    async def _start_real(self, name: str) -> tuple[int, Child]:
        setup = self._setup
        port = FIRST_PORT if self._wire.make == "netns" else _free_port()
        threads = setup.trials * OVERLAPPING_ROUNDS
        try:
            argv = self._server.command((self._wire.bind_host, port), setup.keep_alive_s, threads)
        except ValueError as error:
            raise UsageError(f"--keep-alive {setup.keep_alive_s:g}s: {error}") from error
        except LookupError as error:
            raise CannotRunError(str(error)) from error
        env = {"KALAB_EXECUTIONS": str(self._folder / f"executions-{name}.jsonl")}
        child = self._children.start(f"upstream-{name}", argv, popen=self._wire.popen, env=env, says_ready=False)
        await self._await_real(child, name, port)
        return port, child

    async def _await_real(self, child: Child, name: str, port: int) -> None:
        """A real server says nothing when it is ready; a connection tells."""
        if self._wire.make == "netns":
            await child.accepts(await self._wire.link(f"ready-{name}", port, delay_s=0.0, gate=False))
        else:  # not through a relay: it accepts whether or not the upstream does
            await child.accepts((self._wire.bind_host, port))


def _flag(key: str, value: str) -> list[str]:
    if key in SWITCHES:
        return [f"--{key}" if value == "true" else f"--no-{key}"]
    return [f"--{key}", value]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
