"""Endpoints: where the requests of a group may go, and what a source of them promises.

Rules that every source keeps:

- The last good set is kept whatever goes wrong. A source says what is wrong in one line, and tries again.
- No answer is a problem, and so is an answer that names nobody when it cannot be told from a fault (DNS). "Nobody" is
  believed from those who know it: a slice of Kubernetes that lists no endpoint.
- The same set is not told twice, in whatever order it comes. A problem is told when it begins or changes, not each time
  that it is met, and when it is over. Each time is counted.
- The callbacks are called on the loop, the first perhaps within `start`, none after `close`. No source blocks the loop.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Sequence
from random import uniform
from time import time
from typing import Final, NamedTuple, Protocol

from proxy.config.addresses import address_of, parse_upstream

LONGEST_PROBLEM: Final = 500  # characters


class Endpoint(NamedTuple):
    """One address that requests may be sent to.

    `weight` is its share beside the others'. Without `serving` it must not get any. One that is `terminating` should
    not get new ones while another serves. `host` is the name that it was found under, which is what its certificate is
    for; "" if the address says it all.
    """

    address: str  # host:port
    weight: int = 1
    serving: bool = True
    terminating: bool = False
    host: str = ""


def endpoint_of(text: str) -> Endpoint:
    """The endpoint that "127.0.0.1:9000" or "app:9000 weight=3" names. Raises ValueError."""
    host, port, weight = parse_upstream(text)
    return Endpoint(address_of(host, port), weight)


OnEndpoints = Callable[[Sequence[Endpoint]], None]
OnProblem = Callable[[str], None]


class Source(Protocol):
    """Tells where the endpoints of a group are, from `start` to `close`."""

    report: Report

    @abstractmethod
    def start(self) -> None:
        """Begins to tell. Call it once, on the loop."""

    @abstractmethod
    def close(self) -> None:
        """Ends it; nothing is told after this. Idempotent."""


class SourceError(ValueError):
    """Why a source cannot even be made, in one line that names the key of the config."""


class Report:
    """What a source has told: the last good set, and the problems that there are now, by what they are about."""

    def __init__(self, on_endpoints: OnEndpoints, on_problem: OnProblem) -> None:
        self.endpoints: tuple[Endpoint, ...] | None = None  # None: none was ever found
        self.problems: dict[str, str] = {}
        self.good_at = 0.0  # when it last heard what it asked for, and nothing was wrong; seconds since 1970, 0: never
        self.on_failure: Callable[[], None] = _nothing  # called each time that something is wrong
        self._on_endpoints = on_endpoints
        self._on_problem = on_problem
        self._closed = False

    def __repr__(self) -> str:
        known = "no" if self.endpoints is None else str(len(self.endpoints))
        return f"{known} endpoints, {'; '.join(self.problems.values()) or 'no problem'}"

    def found(self, endpoints: Sequence[Endpoint]) -> None:
        """A good set, which may be that of last time."""
        self.heard()
        if self._closed or (self.endpoints is not None and set(endpoints) == set(self.endpoints)):
            return
        self.endpoints = tuple(endpoints)
        self._on_endpoints(self.endpoints)

    def failed(self, about: str, problem: str) -> None:
        """Something is wrong, perhaps still. What others said is part of it: it is kept to one line of plain text."""
        problem = "".join(c if c.isprintable() else "?" for c in problem[:LONGEST_PROBLEM])
        if self._closed:
            return
        self.on_failure()
        if self.problems.get(about) != problem:
            self.problems[about] = problem
            self._on_problem(problem)

    def over(self, about: str) -> None:
        """Nothing is wrong with it any more, if anything was."""
        if self.problems.pop(about, None) is not None and not self._closed:
            self._on_problem(f"{about}: well again")
        self.heard()

    def heard(self) -> None:
        """It has been told what it asked for, if only that all is as it was."""
        if not self.problems:
            self.good_at = time()

    def close(self) -> None:
        """Nothing more is told."""
        self._closed = True


def _nothing() -> None:
    return None


class TaskSource(Source):
    """A source that is one task. What the task raises is a bug; it goes to the loop's exception handler at once."""

    def __init__(self, on_endpoints: OnEndpoints, on_problem: OnProblem) -> None:
        self.report = Report(on_endpoints, on_problem)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self.run())
        self._task.add_done_callback(self._ended)

    def close(self) -> None:
        self.report.close()
        if self._task is not None:
            self._task.cancel()

    @abstractmethod
    async def run(self) -> None:
        """Finds and reports until it is cancelled."""

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (problem := task.exception()) is not None:
            context = {"message": f"{self!r} has stopped", "exception": problem, "task": task}
            task.get_loop().call_exception_handler(context)


def retry_delay(failures: int, shortest_s: float, longest_s: float) -> float:
    """Seconds to wait after so many failures in a row: doubled with each, and drawn from the upper half of that, lest
    many proxies come back together."""
    longest = min(longest_s, shortest_s * 2 ** min(failures - 1, 30))
    return uniform(longest / 2, longest)
