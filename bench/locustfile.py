"""Locust users for a proxy in front of keep-alive upstreams: one whose traffic is steady, one who pauses.

    locust -f bench/locustfile.py --headless --users 50 --spawn-rate 25 --run-time 1m \\
           --host http://127.0.0.1:8080 --upstream-idle 5s IdleGapUser

Name a class at the end to run it alone; without a name both run. A failure is counted under its status and the
proxy's `X-Kalab-Cause`, so the race stands apart from everything else.

What this shows, and what it does not:

- It is realistic load for "before and after". It does not aim: few gaps meet a window that is one round trip wide,
  and a run without a 502 proves little. `kalab run` aims, and knows when it missed.
- The gap is the user's. The proxy's connections to the upstream idle that long only when nobody else uses them, so
  run IdleGapUser alone, with few users, and SteadyUser to show that steady traffic hides the race.
- A proxy may repeat a lost GET (RFC 9110 section 9.2.2); then only the POSTs fail. Half of the requests are POSTs.
- The HTTP client beneath locust repeats a GET, unseen, when the proxy closes the user's own connection without an
  answer; a POST is reported. Read the POST rows for the truth.
- Locust generates tens of thousands of requests per second at best: too few to measure a proxy's speed.
  `python -m bench.run` does that.
"""

from __future__ import annotations

import re
import uuid
from argparse import ArgumentTypeError
from random import uniform
from typing import Any

from locust import FastHttpUser, constant_pacing, events, task

STEADY_EVERY_S = 0.1


def seconds(text: str) -> float:
    """ "250ms" or "5s" as seconds, like the proxy's own config."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)", text)
    if match is None:
        raise ArgumentTypeError(f'expected a duration such as "250ms" or "5s", got "{text}"')
    return float(match[1]) / (1000 if match[2] == "ms" else 1)


def add_options(parser: Any) -> None:
    """Adds our two options to locust's, on the command line and on its page."""
    idle = "idle timeout of the upstream behind the proxy (5s)"
    parser.add_argument("--upstream-idle", type=seconds, default="5s", metavar="DURATION", help=idle)
    spread = "the pause is drawn this far around it (250ms)"
    parser.add_argument("--idle-spread", type=seconds, default="250ms", metavar="DURATION", help=spread)


events.init_command_line_parser.add_listener(add_options)  # type: ignore[no-untyped-call]  # locust's own gap


class ProxyUser(FastHttpUser):
    """Sends GETs and POSTs with a request id each, and repeats nothing itself."""

    abstract = True
    max_retries = 0
    network_timeout = 30.0
    connection_timeout = 5.0

    @task
    def get(self) -> None:
        """A request that a proxy may repeat."""
        self.ask("GET")

    @task
    def post(self) -> None:
        """A request that a proxy must not repeat."""
        self.ask("POST", data="one order")

    def ask(self, method: str, data: str | None = None) -> None:
        """One request; its failure is named by status and cause."""
        headers = {"X-Request-Id": uuid.uuid4().hex}
        with self.client.request(method, "/order", headers=headers, data=data, catch_response=True) as response:
            if response.status_code >= 400:
                cause = response.headers.get("X-Kalab-Cause", "no cause named")
                response.failure(f"{response.status_code} {cause}")


class SteadyUser(ProxyUser):
    """Ten requests per second: its connections never idle long enough to be closed."""

    wait_time = constant_pacing(STEADY_EVERY_S)


class IdleGapUser(ProxyUser):
    """Pauses about as long as the upstream waits before it closes: `--upstream-idle` give or take `--idle-spread`."""

    def wait_time(self) -> float:
        """The next pause, in seconds."""
        options = self.environment.parsed_options
        middle, spread = options.upstream_idle, options.idle_spread
        return max(0.0, uniform(middle - spread, middle + spread))
