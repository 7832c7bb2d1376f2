"""Names, on a DNS server of our own: times to live, families, aliases, and everything that goes wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import chain, repeat
from pathlib import Path
from typing import Literal

import pytest
import uvloop
from fake_dns import FakeDns, Fault, fake_dns
from fake_group import FakeGroup, group_config, running

from proxy.discovery import Endpoint, dns_lookup, dns_source
from proxy.discovery.dns_lookup import Answer, Lookup
from proxy.discovery.dns_source import DnsSource, has_route

SHORT = 0.02


@pytest.fixture
async def server() -> AsyncIterator[FakeDns]:
    async with fake_dns() as server:
        yield server


@pytest.fixture
def group() -> FakeGroup:
    return FakeGroup()


@pytest.fixture(autouse=True)
def every_address_has_a_route(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the network of this machine."""
    monkeypatch.setattr(dns_source, "has_route", lambda _: True)


@pytest.fixture(autouse=True)
def plain_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine's /etc says."""
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.1\n")
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n")
    monkeypatch.setattr(dns_lookup, "RESOLV_CONF", tmp_path / "resolv.conf")
    monkeypatch.setattr(dns_lookup, "HOSTS", tmp_path / "hosts")


def source_of(
    server: FakeDns, group: FakeGroup, *upstreams: str, within_s: float = 5.0, **discovery: object
) -> DnsSource:
    values = {"min_ttl": SHORT, "max_ttl": 4 * SHORT, "resolver": server.address} | discovery
    config = group_config(upstreams, kind="dns", **values)
    return DnsSource(config.upstreams, config.discovery, group.on_endpoints, group.on_problem, answer_within_s=within_s)


# --- What is found


async def test_both_families_get_the_port_and_the_weight_of_the_entry(server: FakeDns, group: FakeGroup) -> None:
    server.set("app.test.", "60 A 10.0.0.2", "60 A 10.0.0.1", "60 AAAA fd00::1")
    with running(source_of(server, group, "app.test:9000 weight=3")) as source:
        await group.until_told("10.0.0.1:9000", "10.0.0.2:9000", "[fd00::1]:9000")
        assert group.told[-1][0] == Endpoint("10.0.0.1:9000", 3, host="app.test")
        assert repr(source) == "<DnsSource 1 names, 3 endpoints, no problem>"
    assert group.problems == []


async def test_literal_addresses_are_taken_as_they_are(server: FakeDns, group: FakeGroup) -> None:
    with running(source_of(server, group, "10.0.0.1:80 weight=2", "[::1]:80")):
        await group.until(lambda: group.told == [(Endpoint("10.0.0.1:80", 2), Endpoint("[::1]:80"))])
    assert not server.asked


async def test_names_keep_the_order_of_the_config_and_an_address_is_the_first_ones(
    server: FakeDns, group: FakeGroup
) -> None:
    server.set("b.test.", "60 A 10.0.0.9", "60 A 10.0.0.1")
    server.set("a.test.", "60 A 10.0.0.1", "60 A 10.0.0.2")
    with running(source_of(server, group, "b.test:80", "a.test:80")):
        await group.until_told("10.0.0.1:80", "10.0.0.2:80", "10.0.0.9:80")
    assert [(found.address, found.host) for found in group.told[-1]] == [
        ("10.0.0.1:80", "b.test"),
        ("10.0.0.9:80", "b.test"),
        ("10.0.0.2:80", "a.test"),
    ]


async def test_changes_are_told_and_the_order_of_answers_is_none(server: FakeDns, group: FakeGroup) -> None:
    server.set("app.test.", "0 A 10.0.0.1", "0 A 10.0.0.2")
    with running(source_of(server, group, "app.test:80")):
        await group.until_told("10.0.0.1:80", "10.0.0.2:80")
        server.set("app.test.", "0 A 10.0.0.2", "0 A 10.0.0.1")
        await server.until_asked("app.test.", times=3)
        server.set("app.test.", "0 A 10.0.0.2")
        await group.until_told("10.0.0.2:80")
        server.set("app.test.", "0 AAAA fd00::2")
        await group.until_told("[fd00::2]:80")
    assert [len(told) for told in group.told] == [2, 1, 2, 1]  # a new family comes before an old one goes


async def test_a_name_that_moves_from_one_family_to_the_other_never_has_none(server: FakeDns, group: FakeGroup) -> None:
    server.set("app.test.", "0 A 10.0.0.1")
    with running(source_of(server, group, "app.test:80")):
        await group.until_told("10.0.0.1:80")
        server.set("app.test.", "0 AAAA fd00::1")
        await group.until_told("[fd00::1]:80")
    assert group.problems == []


async def test_a_long_answer_comes_over_tcp(server: FakeDns, group: FakeGroup) -> None:
    server.set("app.test.", *(f"60 A 10.0.{n // 200}.{n % 200 + 1}" for n in range(300)))
    with running(source_of(server, group, "app.test:80")):
        await group.until(lambda: bool(group.told) and len(group.told[-1]) == 300)
    assert server.over_tcp == 1


async def test_an_address_without_a_route_is_left_out_while_there_are_others(
    server: FakeDns, group: FakeGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_source, "has_route", lambda address: ":" not in address)
    server.set("both.test.", "60 A 10.0.0.1", "60 AAAA fd00::1")
    server.set("new.test.", "60 AAAA fd00::2")
    with running(source_of(server, group, "both.test:80", "new.test:80")):
        await group.until_told("10.0.0.1:80", "[fd00::2]:80")


def test_loopback_has_a_route_and_what_is_no_destination_has_none() -> None:
    assert has_route("127.0.0.1")
    assert not has_route("fe80::1")  # of which link?


# --- How long it is believed


@pytest.mark.parametrize(
    ("ttl", "least", "most"), [(0, 1, 1.1), (1, 1, 1.1), (7, 7, 7.7), (60, 60, 66), (86400, 60, 66)]
)
async def test_an_answer_is_believed_as_long_as_it_lives_within_bounds(
    server: FakeDns, group: FakeGroup, ttl: int, least: float, most: float
) -> None:
    source = source_of(server, group, "app.test:80", min_ttl=1.0, max_ttl=60.0)
    (name,) = source._names
    server.set("app.test.", f"{ttl} A 10.0.0.1", "3600 AAAA fd00::1")
    delays = {await source._resolve(name) for _ in range(3)}
    assert len(delays) > 1  # never in step
    assert all(least <= delay <= most for delay in delays)


async def test_an_alias_that_lives_less_counts(server: FakeDns) -> None:
    host, _, port = server.address.rpartition(":")
    server.set("app.test.", "9 CNAME pool.test.")
    server.set("pool.test.", "5 CNAME node.test.")
    server.set("node.test.", "300 A 10.0.0.1", "300 A 10.0.0.2")
    assert await Lookup((host, int(port))).ask("app.test", "A") == Answer(("10.0.0.1", "10.0.0.2"), 5)
    server.set("pool.test.", "20 CNAME node.test.")
    assert await Lookup((host, int(port))).ask("app.test", "A") == Answer(("10.0.0.1", "10.0.0.2"), 9)


# --- What goes wrong

FAULTS: dict[Fault, str] = {
    "SERVFAIL": "SERVFAIL from {address}",
    "REFUSED": "REFUSED from {address}",
    "NXDOMAIN": "no such name (NXDOMAIN)",
    "silent": "no answer from {address} within 0.05 s",
    "garbage": "no answer from {address} within 0.05 s",
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_last_good_set_is_kept_and_the_name_asked_again_soon(
    server: FakeDns, group: FakeGroup, fault: Fault
) -> None:
    server.set("app.test.", "0 A 10.0.0.1")
    with running(source_of(server, group, "app.test:80", within_s=0.05)) as source:
        await group.until_told("10.0.0.1:80")
        server.faults["app.test."] = fault
        problem = "app.test:80: " + FAULTS[fault].format(address=server.address)
        await group.until_problem(problem)
        await server.until_asked("app.test.", times=2)
        assert repr(source) == f"<DnsSource 1 names, 1 endpoints, {problem}>"
        del server.faults["app.test."]
        server.set("app.test.", "0 A 10.0.0.2")
        await group.until_told("10.0.0.2:80")
        await group.until_problem("app.test:80: well again")
    assert [len(told) for told in group.told] == [1, 1]
    assert group.problems == [problem, "app.test:80: well again"]


async def test_an_empty_answer_is_a_problem_and_no_set(server: FakeDns, group: FakeGroup) -> None:
    server.set("app.test.", "0 A 10.0.0.1")
    with running(source_of(server, group, "app.test:80")):
        await group.until_told("10.0.0.1:80")
        server.set("app.test.")
        await group.until_problem("app.test:80: no A, no AAAA")
        server.set("app.test.", "0 A 10.0.0.2")
        await group.until_told("10.0.0.2:80")
    assert () not in group.told


async def test_a_name_that_flaps_never_loses_its_addresses(server: FakeDns, group: FakeGroup) -> None:
    server.set("app.test.", "0 A 10.0.0.1", "0 AAAA fd00::1")
    faults: list[Fault | None] = ["SERVFAIL", None, "NXDOMAIN", None, "silent", None]
    with running(source_of(server, group, "app.test:80", within_s=0.05)):
        await group.until_told("10.0.0.1:80", "[fd00::1]:80")
        known = len(group.told)
        for fault in faults:
            server.faults.clear()
            if fault is not None:
                server.faults["app.test."] = fault
            await server.until_asked("app.test.", times=2)
    assert len(group.told) == known


async def test_a_family_that_fails_keeps_what_it_had_and_does_not_hold_up_the_other(
    server: FakeDns, group: FakeGroup
) -> None:
    server.set("app.test.", "0 A 10.0.0.1", "0 AAAA fd00::1")
    with running(source_of(server, group, "app.test:80")):
        await group.until_told("10.0.0.1:80", "[fd00::1]:80")
        server.faults["app.test.", "AAAA"] = "SERVFAIL"
        server.set("app.test.", "0 A 10.0.0.2")
        await group.until_told("10.0.0.2:80", "[fd00::1]:80")
        await group.until_problem("SERVFAIL")


async def test_a_family_that_is_denied_while_the_other_is_there_loses_nothing(
    server: FakeDns, group: FakeGroup
) -> None:
    server.set("app.test.", "0 A 10.0.0.1", "0 AAAA fd00::1")
    with running(source_of(server, group, "app.test:80")):
        await group.until_told("10.0.0.1:80", "[fd00::1]:80")
        server.faults["app.test.", "A"] = "NXDOMAIN"
        await group.until_problem("app.test:80: no such name (NXDOMAIN)")
        server.set("app.test.", "0 A 10.0.0.1", "0 AAAA fd00::2")
        await group.until_told("10.0.0.1:80", "[fd00::2]:80")


async def test_a_family_that_is_empty_loses_nothing_while_the_other_fails(server: FakeDns, group: FakeGroup) -> None:
    server.set("app.test.", "0 A 10.0.0.1")
    with running(source_of(server, group, "app.test:80")):
        await group.until_told("10.0.0.1:80")
        server.faults["app.test.", "AAAA"] = "SERVFAIL"
        server.set("app.test.")
        await group.until_problem("app.test:80: SERVFAIL")
        await server.until_asked("app.test.", times=2)
    assert len(group.told) == 1


async def test_a_silent_family_does_not_delay_the_first_addresses(server: FakeDns, group: FakeGroup) -> None:
    server.set("app.test.", "60 A 10.0.0.1")
    server.faults["app.test.", "AAAA"] = "silent"
    with running(source_of(server, group, "app.test:80", within_s=600.0)):
        await group.until_told("10.0.0.1:80")
    assert group.problems == []  # it is still waited for


async def test_a_question_ends_in_time_even_if_the_time_of_day_is_set_back(
    server: FakeDns, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.faults["app.test."] = "silent"
    host, _, port = server.address.rpartition(":")
    lookup = Lookup((host, int(port)), within_s=0.05)
    times = chain([time.time()] * 3, repeat(time.time() - 86400))  # set back when the wait is about to begin
    monkeypatch.setattr(time, "time", lambda: next(times))
    answer = await asyncio.wait_for(lookup.ask("app.test.", "A"), 20)
    assert answer.why == f"no answer from {server.address} within 0.05 s"


async def test_a_name_that_fails_does_not_hold_up_the_others(server: FakeDns, group: FakeGroup) -> None:
    server.set("good.test.", "60 A 10.0.0.1")
    server.faults["bad.test."] = "SERVFAIL"
    with running(source_of(server, group, "bad.test:80", "good.test:80")):
        await group.until_told("10.0.0.1:80")
        await group.until_problem("bad.test:80: SERVFAIL")


async def test_retries_are_ever_later_up_to_the_longest(server: FakeDns, group: FakeGroup) -> None:
    server.faults["app.test."] = "SERVFAIL"
    source = source_of(server, group, "app.test:80", min_ttl=1.0, max_ttl=8.0)
    (name,) = source._names
    delays = [await source._resolve(name) for _ in range(6)]
    for delay, most in zip(delays, [1, 2, 4, 8, 8, 8], strict=True):
        assert most / 2 <= delay <= most


async def test_a_system_without_a_resolver_is_a_problem_until_it_has_one(
    server: FakeDns, group: FakeGroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_lookup, "RESOLV_CONF", tmp_path / "none")
    with running(source_of(server, group, "app.localhost:80", resolver="")):
        await group.until_problem(f"app.localhost:80: {tmp_path}/none: cannot open {tmp_path}/none")
        (tmp_path / "none").write_text("nameserver 192.0.2.1")
        await group.until_told("127.0.0.1:80", "[::1]:80")


async def test_closing_while_a_question_is_open_leaves_nothing_behind(server: FakeDns, group: FakeGroup) -> None:
    server.faults["app.test."] = "silent"
    before = asyncio.all_tasks()
    with running(source_of(server, group, "app.test:80", within_s=600.0)):
        await server.until_asked("app.test.")
        tasks = asyncio.all_tasks() - before
    await asyncio.wait(tasks, timeout=20)
    assert asyncio.all_tasks() == before
    assert (group.told, group.problems) == ([], [])


def test_it_does_the_same_on_uvloop(group: FakeGroup) -> None:
    async def resolve() -> None:
        async with fake_dns() as server:
            server.set("app.test.", *(f"0 A 10.0.0.{n}" for n in range(1, 100)))
            with running(source_of(server, group, "app.test:80", within_s=0.05)):
                await group.until(lambda: bool(group.told) and len(group.told[-1]) == 99)
                server.faults["app.test."] = "silent"
                await group.until_problem("no answer")
                del server.faults["app.test."]
                server.set("app.test.", "0 AAAA fd00::1")
                await group.until_told("[fd00::1]:80")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(resolve())


# --- As the system's resolver would


def lookup_of(server: FakeDns, resolv_conf: Path, text: str) -> Lookup:
    host, _, port = server.address.rpartition(":")
    resolv_conf.write_text(text)
    return Lookup((host, int(port)), resolv_conf=resolv_conf)


@pytest.mark.parametrize(
    ("options", "name", "asked"),
    [
        ("", "app", ["app.one.test.", "app.two.test.", "app."]),
        ("", "app.db", ["app.db.", "app.db.one.test.", "app.db.two.test."]),
        ("options ndots:2", "app.db", ["app.db.one.test.", "app.db.two.test.", "app.db."]),
        ("options ndots:2", "app.db.", ["app.db."]),
    ],
)
async def test_search_domains_and_ndots_are_honoured(
    server: FakeDns, tmp_path: Path, options: str, name: str, asked: list[str]
) -> None:
    text = f"nameserver 192.0.2.1\nsearch one.test two.test\n{options}\n"
    lookup = lookup_of(server, tmp_path / "resolv.conf", text)
    answer = await lookup.ask(name, "A")
    assert (answer.why, answer.failed) == ("no such name (NXDOMAIN)", True)
    assert [name for name, _ in server.asked] == asked
    server.set(asked[-1], "60 A 10.0.0.1")
    assert await lookup.ask(name, "A") == Answer(("10.0.0.1",), 60)


@pytest.mark.parametrize(
    ("name", "family", "addresses"),
    [
        ("app.test", "A", ("10.0.0.1", "10.0.0.2")),
        ("APP.test.", "A", ("10.0.0.1", "10.0.0.2")),
        ("app.test", "AAAA", ("fd00::1",)),
        ("alias", "AAAA", ()),
        ("localhost", "A", ("127.0.0.1",)),
        ("localhost", "AAAA", ("::1",)),
        ("app.localhost", "A", ("127.0.0.1",)),
    ],
)
async def test_the_hosts_file_comes_first_and_localhost_is_never_asked_for(
    server: FakeDns, tmp_path: Path, name: str, family: Literal["A", "AAAA"], addresses: tuple[str, ...]
) -> None:
    hosts = tmp_path / "other-hosts"
    hosts.write_text(
        "# app.test\n10.0.0.1 app.test alias # app\n\n10.0.0.2\tAPP.test\nfd00::1 app.test\nfe80::1%lo app.test\n"
    )
    host, _, port = server.address.rpartition(":")
    assert (await Lookup((host, int(port)), hosts=hosts).ask(name, family)).addresses == addresses
    assert not server.asked


async def test_there_need_not_be_a_hosts_file(server: FakeDns, tmp_path: Path) -> None:
    server.set("app.test.", "60 A 10.0.0.1")
    host, _, port = server.address.rpartition(":")
    lookup = Lookup((host, int(port)), hosts=tmp_path / "none", resolv_conf=tmp_path / "none")
    assert (await lookup.ask("app.test", "A")).addresses == ("10.0.0.1",)


@pytest.mark.parametrize("name", ["a..b", "x" * 64, "\udc80"])
async def test_a_name_that_nobody_can_be_asked_for_is_a_failure(server: FakeDns, name: str) -> None:
    host, _, port = server.address.rpartition(":")
    answer = await Lookup((host, int(port))).ask(name, "A")
    assert answer.failed
    assert answer.why
