"""Asks for the addresses of a name, as the system's resolver would, and tells how long the answer may be believed.

Rules of this file:

- /etc/hosts comes first, then DNS, with the search domains and `ndots` of /etc/resolv.conf. `localhost` is this machine
  and is never asked for (RFC 6761 section 6.3).
- The time to live is the least of the answer's, the aliases (CNAME) on the way to it included.
- That a name has no address of this family is an answer without addresses. No answer is a failure, and so is one that
  says that the server cannot answer, or that there is no such name: of a name that somebody configured, that is a
  mistake or a server that is not ready, and it may contradict what the same server says of the other family.
- It is this file that imports dnspython, which takes 0.1 s: import it in a thread.
"""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Literal, NamedTuple

import dns.asyncresolver
import dns.exception
import dns.resolver

from proxy.config.addresses import address_of

Family = Literal["A", "AAAA"]

RESOLV_CONF: Final = Path("/etc/resolv.conf")
HOSTS: Final = Path("/etc/hosts")
HOSTS_TTL_S: Final = 5.0  # the file may be edited; looking is cheap
LOOPBACK: Final[dict[Family, str]] = {"A": "127.0.0.1", "AAAA": "::1"}


class Answer(NamedTuple):
    """Addresses, and for how many seconds they may be believed. With none, `why` says what the answer was, or why there
    is no answer, in a few words that are the same each time."""

    addresses: tuple[str, ...]
    ttl_s: float = 0
    why: str = ""
    failed: bool = False


class Lookup:
    """Reads the system's configuration when it is made, which blocks; then asks any number of times.

    `server` is asked instead of the system's, if given; everything else stays. `within_s` bounds one question. Raises
    ValueError if there is no usable configuration.
    """

    def __init__(
        self,
        server: tuple[str, int] | None = None,
        *,
        within_s: float = 5.0,
        resolv_conf: Path | None = None,
        hosts: Path | None = None,
    ) -> None:
        self._within_s = within_s
        self._hosts = hosts or HOSTS
        resolv_conf = resolv_conf or RESOLV_CONF
        try:
            self._resolver = dns.asyncresolver.Resolver(str(resolv_conf))
        except (dns.exception.DNSException, ValueError) as problem:
            if server is None:
                raise ValueError(f"{resolv_conf}: {problem}") from None
            self._resolver = dns.asyncresolver.Resolver(configure=False)
        if server is not None:
            self._resolver.nameservers = [server[0]]
            self._resolver.port = server[1]
        self._asked = ", ".join(address_of(str(each), self._resolver.port) for each in self._resolver.nameservers)

    async def ask(self, name: str, family: Family) -> Answer:
        """The addresses of one family. Does not raise."""
        canonical = name.rstrip(".").lower()
        try:
            known = await asyncio.to_thread(addresses_in, self._hosts, canonical)
        except OSError:  # no such file, in a container from scratch
            known = []
        if not known and (canonical == "localhost" or canonical.endswith(".localhost")):
            known = list(LOOPBACK.values())
        if known:
            version = 4 if family == "A" else 6
            found = tuple(address for address in known if ip_address(address).version == version)
            return Answer(found, HOSTS_TTL_S, "" if found else f"no {family} in {self._hosts}")
        return await self._ask_dns(name, family)

    async def _ask_dns(self, name: str, family: Family) -> Answer:
        try:
            # dnspython keeps its deadlines by the time of day, which may be set; the loop's clock may not.
            async with asyncio.timeout(self._within_s):
                answer = await self._resolver.resolve(
                    name, family, raise_on_no_answer=False, search=True, lifetime=self._within_s
                )
        except dns.resolver.NXDOMAIN:
            return _failed("no such name (NXDOMAIN)")
        except dns.resolver.NoNameservers as problem:
            return _failed(_refusal(problem) or f"no answer from {self._asked}")
        except (TimeoutError, dns.exception.Timeout):
            return _failed(f"no answer from {self._asked} within {self._within_s:g} s")
        except (dns.exception.DNSException, OSError, ValueError) as problem:
            return _failed(str(problem) or type(problem).__name__)
        if answer.rrset is None:
            return Answer((), why=f"no {family}")
        addresses = tuple(sorted(record.address for record in answer.rrset))
        return Answer(addresses, answer.chaining_result.minimum_ttl)


def addresses_in(hosts: Path, name: str) -> list[str]:
    """The addresses of a name, in lower case, in a file such as /etc/hosts. Blocks. Raises OSError."""
    found = []
    with hosts.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            address, *names = line.partition("#")[0].lower().split() or [""]
            if name in names and _is_plain(address):
                found.append(address)
    return list(dict.fromkeys(found))


def _is_plain(address: str) -> bool:
    try:
        ip_address(address)
    except ValueError:
        return False
    return "%" not in address


def _failed(why: str) -> Answer:
    return Answer((), why=why, failed=True)


def _refusal(problem: dns.resolver.NoNameservers) -> str:
    """What the servers said instead of an answer: "SERVFAIL from 10.0.0.2:53"."""
    said = []
    for server, _, port, error, _ in problem.kwargs.get("errors", ()):
        host = server.removeprefix("Do53:").rpartition("@")[0]
        said.append(f"{error} from {address_of(host, port)}")
    return ", ".join(dict.fromkeys(said))
