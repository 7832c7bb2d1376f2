"""A group whose endpoints are found by asking: nobody is let in before it is known where to send them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fake_dns import FakeDns, fake_dns

from proxy.config import ProxyConfig, override
from proxy.server import Server

NAME = "shop.test."


def config(dns: FakeDns) -> ProxyConfig:
    keys = {"listen": "127.0.0.1:0", "upstreams": "shop.test:9000", "discovery.kind": "dns"}
    return override(ProxyConfig(), {**keys, "discovery.resolver": dns.address, "log.access": "off"})


@asynccontextmanager
async def started(config: ProxyConfig) -> AsyncIterator[Server]:
    server = Server(config)
    await server.start()
    try:
        yield server
    finally:
        await server.drain()


async def test_it_listens_when_it_knows_where_requests_go() -> None:
    async with fake_dns() as dns:
        dns.set(NAME, "300 A 127.0.0.1")
        async with started(config(dns)) as server:
            assert server.why_not_ready() == ""


async def test_it_listens_all_the_same_when_nobody_can_tell() -> None:
    async with fake_dns() as dns, started(config(dns)) as server:
        assert server.why_not_ready() == "no usable upstream in group default"


async def test_a_group_that_a_reload_brings_is_waited_for() -> None:
    async with fake_dns() as dns:
        dns.set(NAME, "300 A 127.0.0.1")
        plain = override(ProxyConfig(), {"listen": "127.0.0.1:0", "log.access": "off"})
        async with started(plain) as server:
            await server.commit(server.prepare(override(config(dns), {"listen": plain.listen})))
            assert server.groups.by_name["default"].pick() is not None


@pytest.mark.parametrize("fault", ["SERVFAIL", "REFUSED"])
async def test_a_problem_is_an_answer_too(fault: str) -> None:
    async with fake_dns() as dns:
        dns.faults[NAME] = fault  # type: ignore[assignment]
        async with started(config(dns)) as server:
            assert server.why_not_ready() == "no usable upstream in group default"
