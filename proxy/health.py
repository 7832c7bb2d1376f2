"""Active checks: asks each upstream of a group for a path, again and again, and tells the group what came of it.

Rules of this file:

- One task for each upstream, so that never more than one check of it is under way. The first one waits a random part of
  `check_every`, and each later one for nearly that long: neither upstreams nor proxies are asked in step.
- Each check is a connection of its own, closed after the head of the response: it tells whether the upstream accepts
  and answers, not whether a kept connection still works. Connecting, TLS and answer together are bounded by
  `check_timeout`.
- 2xx and 3xx pass. Anything else fails, in words that are ours: nothing of the answer but its status is repeated.
- A check that this machine had no port or descriptor for has found nothing out, and is no result.
- The config is read for each check, so all of it can be changed while the checks run.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from random import Random
from typing import Final, NamedTuple, Protocol

from proxy.config import GroupConfig, parse_address
from proxy.failure import is_ours
from proxy.http1.grammar import HEAD_END, BadHead, HeadLimits
from proxy.http1.response_head import parse_response

_LIMITS: Final = HeadLimits()
_MOST_INTERIM: Final = 10  # 1xx responses before the one that counts


class Checked(Protocol):
    """What is needed of a group."""

    config: GroupConfig
    on_members: Callable[[], None]

    @property
    def members(self) -> Mapping[str, object]:
        """Its upstreams, by address."""

    def check_result(self, address: str, ok: bool, why: str) -> None:
        """What a check has found."""


class CheckTls(NamedTuple):
    """How to speak TLS to an upstream."""

    context: ssl.SSLContext
    server_name: str


class HealthChecks:
    """The checks of one group, from `start` to `close`; none while it has no `check_path`.

    `tls` is asked before each check how to speak it to an address; None: plain HTTP.
    """

    def __init__(
        self,
        group: Checked,
        tls: Callable[[str], CheckTls | None] = lambda _address: None,
        rng: Random | None = None,
    ) -> None:
        self._group = group
        self._tls = tls
        self._random = (rng or Random()).random
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._reached: set[str] = set()  # who has answered a check

    def __repr__(self) -> str:
        return f"<HealthChecks of {len(self._tasks)} upstreams>"

    def start(self) -> None:
        """Begins, and follows the group from now on. Call it on the loop."""
        self._group.on_members = self._follow
        self._follow()

    def close(self) -> None:
        """Ends; a check under way is given up. Idempotent."""
        self._group.on_members = lambda: None
        self._keep(set())

    def _follow(self) -> None:
        """The group's upstreams, or whether they are checked, may have changed."""
        wanted = set(self._group.members) if self._group.config.health.check_path else set()
        self._keep(wanted)
        for address in sorted(wanted - set(self._tasks)):
            self._tasks[address] = asyncio.get_running_loop().create_task(self._check_again_and_again(address))

    def _keep(self, wanted: set[str]) -> None:
        for address in set(self._tasks) - wanted:
            self._tasks.pop(address).cancel()
            self._reached.discard(address)

    async def _check_again_and_again(self, address: str) -> None:
        part = self._random()
        while True:
            await asyncio.sleep(self._group.config.health.check_every * part)
            problem = await self._check(address)
            if problem is not None:
                self._group.check_result(address, not problem, problem)
            part = 0.9 + 0.2 * self._random()

    async def _check(self, address: str) -> str | None:
        """What is wrong with an upstream, "" if nothing; None if it could not be asked."""
        health = self._group.config.health
        try:
            async with asyncio.timeout(health.check_timeout):
                status = await _status_of(address, self._tls(address), health.check_path, health.check_host or address)
        except TimeoutError:
            return f"no answer within {health.check_timeout}"
        except BadHead as bad:
            return f"an invalid answer: {bad}"
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return "no whole head of an answer"
        except ssl.SSLError as problem:
            return f"TLS: {problem.reason or 'failed'}"
        except (OSError, UnicodeError) as problem:  # UnicodeError: a name that no resolver can be asked for
            if is_ours(problem, reached=address in self._reached):
                return None
            return getattr(problem, "strerror", None) or type(problem).__name__
        self._reached.add(address)
        return "" if 200 <= status < 400 else f"status {status}"


async def _status_of(address: str, tls: CheckTls | None, path: str, host: str) -> int:
    """The status that an upstream answers with."""
    name, port = parse_address(address)
    context, server_name = tls or (None, None)
    reader, writer = await asyncio.open_connection(
        name, port, limit=_LIMITS.head, ssl=context, server_hostname=server_name
    )
    try:
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: kalab-check\r\nConnection: close\r\n\r\n".encode()
        )
        status = await _read_status(reader)
    except BaseException:  # also when time is up
        writer.transport.abort()
        raise
    writer.close()
    return status


async def _read_status(reader: asyncio.StreamReader) -> int:
    for _ in range(_MOST_INTERIM):
        status = parse_response(await reader.readuntil(HEAD_END), _LIMITS).status
        if status >= 200:
            return status
    raise BadHead(502, "too many interim responses")
