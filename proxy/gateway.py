"""What all exchanges share: the config, the policies, and who is told."""

from __future__ import annotations

from collections.abc import Callable

from proxy.balancer import RoundRobin
from proxy.config import ProxyConfig
from proxy.events import EXCHANGE_FINISHED
from proxy.retry import RetryBudget, RetryPolicy
from proxy.upstream import Upstream
from proxy.upstream_connection import Emit


class Gateway:
    """One for each proxy."""

    def __init__(
        self,
        config: ProxyConfig,
        balancer: RoundRobin[Upstream],
        emit: Emit | None = None,
        finished: Callable[..., None] | None = None,
    ) -> None:
        self.config = config
        self.balancer = balancer
        self.policy = RetryPolicy(config.retry.policy, config.retry.max_retries)
        self.budget = RetryBudget(config.retry.budget)
        self.never_reuses = config.pool.max_idle == 0
        self.draining = False
        self.exchanges = 0  # so far; the number of an exchange is its id in the events
        # Who is told. Asked before anything is put together, so that what is off costs nothing.
        self.emit = emit  # the event log's
        self._finished = finished  # the access log's
        self.watched = emit is not None or finished is not None

    def __repr__(self) -> str:
        return f"<Gateway {self.exchanges} exchanges{', draining' if self.draining else ''}>"

    def report(self, client_conn: str, number: int, *detail: object) -> None:
        """Tells the end of an exchange; `detail` is that of EXCHANGE_FINISHED."""
        if self.emit is not None:
            self.emit(EXCHANGE_FINISHED, client_conn, number, *detail)
        if self._finished is not None:
            self._finished(client_conn, *detail)

    def report_refused(self, client_conn: str, client: str, status: int, cause: str) -> None:
        """Tells of what was no request, in the words of an exchange."""
        if self.watched:
            self.exchanges += 1
            self.report(client_conn, self.exchanges, "", client, "", "", status, cause, 0, "", "", 0, 0.0, 0, 0, 0.0)
