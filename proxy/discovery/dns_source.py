"""Endpoints from DNS: the names in `upstreams` are resolved again and again, as long as their answers live.

Rules of this file:

- A name is resolved as a whole: A and AAAA side by side, and again when the one that lives less is over, kept between
  `min_ttl` and `max_ttl`, and up to a tenth later, so that names, workers and hosts do not ask in step.
- Addresses are used as soon as they come; which are gone is decided when both families have answered. A family that
  failed keeps what it had. A name that has no address at all, or does not exist, keeps what it had too: in DNS that
  cannot be told from a server that has not loaded its zone yet. Whatever failed is asked again within `min_ttl`, then
  within twice that, up to `max_ttl`.
- A port and a weight are the entry's, and so each address of a name has the whole weight. An address that two entries
  lead to is the first one's. A literal address is taken as it is.
- An address that this host has no route to is left out while there are others (RFC 6724 rule 1): most names have IPv6
  addresses, and not every host has IPv6.
"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address
from math import inf
from random import uniform
from typing import TYPE_CHECKING, Final

from proxy.config import DiscoveryConfig, parse_address, parse_upstream
from proxy.config.addresses import address_of
from proxy.discovery.endpoints import Endpoint, OnEndpoints, OnProblem, SourceError, TaskSource, retry_delay

if TYPE_CHECKING:
    from proxy.discovery.dns_lookup import Answer, Family, Lookup

FAMILIES: Final[tuple[Family, ...]] = ("A", "AAAA")
LATER: Final = 0.1  # share of the time to live


class Name:
    """One entry of `upstreams`, and the addresses it has, by family. A literal address has itself."""

    def __init__(self, entry: str) -> None:
        self.host, self.port, self.weight = parse_upstream(entry)
        self.address = address_of(self.host, self.port)
        self.is_literal = is_literal(self.host)
        self.found: dict[str, tuple[str, ...]] = dict.fromkeys(FAMILIES, ())
        if self.is_literal:
            self.found = {"literal": (self.host,)}
        self.failures = 0  # in a row

    def endpoints(self) -> list[Endpoint]:
        """What it stands for now."""
        families = [addresses for addresses in self.found.values() if addresses]
        if len(families) > 1:
            families = [addresses for addresses in families if has_route(addresses[0])] or families
        host = "" if self.is_literal else self.host
        return [
            Endpoint(address_of(address, self.port), self.weight, host=host)
            for addresses in families
            for address in addresses
        ]


class DnsSource(TaskSource):
    """The addresses of the names in `upstreams`."""

    def __init__(
        self,
        upstreams: tuple[str, ...],
        discovery: DiscoveryConfig,
        on_endpoints: OnEndpoints,
        on_problem: OnProblem,
        *,
        answer_within_s: float = 5.0,
    ) -> None:
        super().__init__(on_endpoints, on_problem)
        if not upstreams:
            raise SourceError('upstreams: kind "dns" needs names to resolve, such as ["app.internal:9000"]')
        self._names = [Name(entry) for entry in upstreams]
        self._server = parse_address(discovery.resolver) if discovery.resolver else None
        if self._server is not None and not is_literal(self._server[0]):
            raise SourceError(f'discovery.resolver: expected an address, got the name "{self._server[0]}"')
        self._min_ttl = discovery.min_ttl
        self._max_ttl = max(discovery.max_ttl, discovery.min_ttl)
        self._answer_within_s = answer_within_s
        self._lookup: Lookup | None = None

    def __repr__(self) -> str:
        return f"<DnsSource {len(self._names)} names, {self.report}>"

    async def run(self) -> None:
        self._tell()  # the literal addresses
        async with asyncio.TaskGroup() as names:
            for name in self._names:
                if not name.is_literal:
                    names.create_task(self._follow(name))

    async def _follow(self, name: Name) -> None:
        while True:
            await asyncio.sleep(await self._resolve(name))

    async def _resolve(self, name: Name) -> float:
        """One round for a name; returns in how many seconds the next one is due."""
        try:
            if self._lookup is None:
                self._lookup = await asyncio.to_thread(make_lookup, self._server, self._answer_within_s)
        except ValueError as problem:
            return self._failed(name, str(problem))
        lookup = self._lookup
        answers = await asyncio.gather(*(self._ask(lookup, name, family) for family in FAMILIES))
        lives = [answer.ttl_s for answer in answers if answer.addresses]
        delay = self._delay_of(min(lives)) if lives else inf
        wrong = [answer.why for answer in answers if answer.failed]
        if not wrong and not lives:
            wrong = [answer.why for answer in answers]
        if wrong:
            return min(self._failed(name, ", ".join(dict.fromkeys(wrong))), delay)
        name.failures = 0
        self.report.over(name.address)
        name.found = {family: answer.addresses for family, answer in zip(FAMILIES, answers, strict=True)}
        self._tell()
        return delay

    async def _ask(self, lookup: Lookup, name: Name, family: Family) -> Answer:
        answer = await lookup.ask(name.host, family)
        if answer.addresses:
            name.found[family] = answer.addresses
            self._tell()
        return answer

    def _failed(self, name: Name, problem: str) -> float:
        """Reports it, and returns when to ask again."""
        self._lookup = None  # the system's configuration may have changed; it is read again
        name.failures += 1
        self.report.failed(name.address, f"{name.address}: {problem}")
        return retry_delay(name.failures, self._min_ttl, self._max_ttl)

    def _delay_of(self, ttl_s: float) -> float:
        delay = min(max(ttl_s, self._min_ttl), self._max_ttl)
        return uniform(delay, delay * (1 + LATER))

    def _tell(self) -> None:
        """Reports what all names stand for now, once there is something."""
        found: dict[str, Endpoint] = {}
        for name in self._names:
            for endpoint in name.endpoints():
                found.setdefault(endpoint.address, endpoint)
        if found:
            self.report.found(tuple(found.values()))


def make_lookup(server: tuple[str, int] | None, within_s: float) -> Lookup:
    """Blocks: the import takes 0.1 s, and files are read. Raises ValueError."""
    from proxy.discovery.dns_lookup import Lookup

    return Lookup(server, within_s=within_s)


def is_literal(host: str) -> bool:
    """Whether it is an address, not a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def has_route(address: str) -> bool:
    """Whether this host could send to an address. Sends nothing: for UDP, connecting only looks for a route."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
    except OSError:
        return False
    return True
