"""What all exchanges share: the config, the groups of upstreams, and who is told.

Rules of this file:

- `take` puts another config and other groups in force, all in one step between two requests. An exchange asks for its
  group once, when it begins, and keeps it: what changes afterwards is meant for the next one.
- A request of which no route says anything goes to the default group, if there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from math import inf
from typing import Final

from proxy.config import ProxyConfig
from proxy.config.knobs import DEFAULT_GROUP
from proxy.events import EXCHANGE_FINISHED
from proxy.group import Group
from proxy.http1.grammar import HeadLimits
from proxy.http1.request_head import Request
from proxy.http1.request_reader import Seen
from proxy.observe.counters import Counters
from proxy.router import Router
from proxy.sides import ClientSide, Emit

# The details of EXCHANGE_FINISHED from `attempts` on, of what was never sent.
_NOTHING: Final[tuple[object, ...]] = (0, "", "", "", "", 0, 0.0, 0, 0, 0.0)


class Gateway:
    """One for each process. `groups` by name, each with somewhere to go."""

    def __init__(
        self,
        config: ProxyConfig,
        groups: Mapping[str, Group],
        emit: Emit | None = None,
        finished: Callable[..., None] | None = None,
        counters: Counters | None = None,
    ) -> None:
        self.draining = False
        self.exchanges = 0  # so far; the number of an exchange is its id in the events
        # Who is told. Asked before anything is put together, so that what is off costs nothing.
        self.emit = emit  # the event log's
        self._finished = finished  # the access log's
        self.watched = emit is not None or finished is not None
        self.counters = Counters() if counters is None else counters
        self.head_limits = HeadLimits()  # of requests; the same one for ever, which all connections share
        self.take(config, groups)

    def __repr__(self) -> str:
        return f"<Gateway {self.exchanges} exchanges{', draining' if self.draining else ''}>"

    def take(self, config: ProxyConfig, groups: Mapping[str, Group]) -> None:
        """From now on, these."""
        self.config = config
        self.groups = dict(groups)
        self._router = Router(config.routes)
        self._default = groups.get(DEFAULT_GROUP)
        # Without routes every request has the same group, and nobody asks where it goes. None: ask `group_for`.
        self.only = None if config.routes else self._default
        # What is asked for at every request or connection, as it is asked for. Nobody keeps a copy.
        limits, timeouts = config.limits, config.timeouts
        self.head_limits.set(limits.line_bytes, limits.head_bytes, limits.fields)
        self.idle_s = float(timeouts.downstream_idle)  # see ConnectionPool.configure
        self.total_s = 0.0 if timeouts.request_total == inf else float(timeouts.request_total)  # 0: no limit
        self.upgrades = frozenset(name.encode() for name in config.http.upgrades)
        self.trailers = config.http.trailers == "forward"

    def group_for(self, host: bytes, target: bytes) -> Group | None:
        """Where a request goes; None: nowhere, 404. Raises `BadHead` for a path that is refused (`router.py`)."""
        name = self._router.route(host, target)
        return self.groups[name] if name else self._default

    def trusts(self, ip: str) -> bool:
        """Whether the client at this address is a proxy whose word counts."""
        networks = self.config.trusted_proxies
        if not networks or not ip:
            return False
        address = ip_address(ip)
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in networks)

    def report(self, client_conn: str, number: int, *detail: object, http10: bool = False, fields: bytes = b"") -> None:
        """Tells the end of an exchange; `detail` is that of EXCHANGE_FINISHED, `fields` its field lines as sent."""
        if self.emit is not None:
            self.emit(EXCHANGE_FINISHED, client_conn, number, *detail)
        if self._finished is not None:
            self._finished(client_conn, *detail, http10=http10, fields=fields)

    def refused(self, client: ClientSide, status: int, cause: str, why: str, request: Request | Seen) -> None:
        """Counts and tells what never became an exchange, in the words of one."""
        counters = self.counters.group("")
        counters.ended(status, 0.0, 0, 0)
        counters.causes[cause] += 1
        if self.watched:
            self.exchanges += 1
            self.report_refused(client, self.exchanges, status, cause, why, request, _NOTHING)

    def report_refused(
        self,
        client: ClientSide,
        number: int,
        status: int,
        cause: str,
        why: str,
        request: Request | Seen,
        course: Sequence[object],
    ) -> None:
        """`report` of what was refused; `why`: in the words that the client was told.

        `course`: how far it came, the details from `attempts` on.
        """
        asked = (request.method.decode("latin-1"), request.target.decode("latin-1"))
        detail = (request.req_id, client.ip, *asked, status, cause, *course)
        if self.emit is not None:
            self.emit(EXCHANGE_FINISHED, client.name, number, *detail)
        if self._finished is not None:
            self._finished(client.name, *detail, http10=request.http10, fields=request.block, reason=why)
