"""What all sources promise, and how one is chosen."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from fake_group import FakeGroup, group_config, running

from proxy import discovery
from proxy.discovery import Endpoint, SourceError, open_source
from proxy.discovery.endpoints import Report, TaskSource, retry_delay

A, B = Endpoint("10.0.0.1:80"), Endpoint("10.0.0.2:80")


class Told:
    """Callbacks that only keep."""

    def __init__(self) -> None:
        self.sets: list[object] = []
        self.problems: list[str] = []
        self.report = Report(self.sets.append, self.problems.append)


def test_the_same_set_is_told_once_in_whatever_order() -> None:
    told = Told()
    for endpoints in ([A, B], [B, A], [A], [A], [A._replace(weight=2)], [A._replace(weight=2, serving=False)]):
        told.report.found(endpoints)
    assert told.sets == [(A, B), (A,), (A._replace(weight=2),), (A._replace(weight=2, serving=False),)]


def test_an_empty_set_is_told_when_it_is_the_first_thing_known() -> None:
    told = Told()
    told.report.found([])
    told.report.found([])
    assert told.sets == [()]


def test_a_problem_is_told_when_it_begins_when_it_changes_and_when_it_is_over() -> None:
    told = Told()
    told.report.over("api")  # there was none
    for problem in ("down", "down", "refused", "refused"):
        told.report.failed("api", problem)
    told.report.failed("slice", "down")
    told.report.over("api")
    told.report.failed("api", "refused")
    assert told.problems == ["down", "refused", "down", "api: well again", "refused"]


def test_each_failure_is_counted_and_so_is_how_long_all_has_been_well(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[None] = []
    times = iter(range(1000, 2000))
    monkeypatch.setattr("proxy.discovery.endpoints.time", lambda: next(times))
    told = Told()
    report = told.report
    report.on_failure = lambda: failures.append(None)
    assert report.good_at == 0
    report.failed("api", "down")
    report.failed("api", "down")
    report.heard()  # of something else
    report.found([A])
    assert (len(failures), report.good_at) == (2, 0)
    report.over("api")
    assert report.good_at == 1000
    report.heard()
    assert report.good_at == 1001
    report.close()
    report.failed("api", "down")
    assert len(failures) == 2


def test_a_problem_is_one_line_of_plain_text() -> None:
    told = Told()
    told.report.failed("api", "a\nb\x1b[31m\u202e" + "x" * 1000)
    assert told.problems[0].startswith("a?b?[31m?xxx")
    assert len(told.problems[0]) == 500


def test_nothing_is_told_after_close() -> None:
    told = Told()
    told.report.close()
    told.report.found([A])
    told.report.failed("api", "down")
    assert (told.sets, told.problems) == ([], [])


def test_a_report_shows_what_is_known() -> None:
    told = Told()
    assert repr(told.report) == "no endpoints, no problem"
    told.report.found([A, B])
    told.report.failed("api", "down")
    assert repr(told.report) == "2 endpoints, down"


@pytest.mark.parametrize(
    ("failures", "least", "most"), [(1, 0.5, 1), (2, 1, 2), (5, 8, 16), (9, 30, 60), (10_000, 30, 60)]
)
def test_retries_come_later_and_later_and_never_in_step(failures: int, least: float, most: float) -> None:
    delays = {retry_delay(failures, 1, 60) for _ in range(50)}
    assert len(delays) > 1
    assert all(least <= delay <= most for delay in delays)


async def test_static_upstreams_are_told_at_once_in_their_order() -> None:
    group = FakeGroup()
    config = group_config(["10.0.0.2:80", "app:80 weight=3", "[::1]:80"])
    with running(open_source(config, group.on_endpoints, group.on_problem)) as source:
        assert group.told == [(Endpoint("10.0.0.2:80"), Endpoint("app:80", 3), Endpoint("[::1]:80"))]
        assert repr(source) == "<StaticSource 3 endpoints, no problem>"


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"kind": "dns"}, 'upstreams: kind "dns" needs names to resolve, such as ["app.internal:9000"]'),
        ({"kind": "file"}, 'discovery.file: kind "file" needs one'),
        ({"kind": "kubernetes"}, 'discovery.service: expected a name of Kubernetes such as "web-1", got ""'),
        (
            {"kind": "kubernetes", "service": "web", "namespace": "a/b"},
            'discovery.namespace: expected a name of Kubernetes such as "web-1", got "a/b"',
        ),
        (
            {"kind": "kubernetes", "service": "web"},
            "discovery.api: not given, and not known: KUBERNETES_SERVICE_HOST is not set here",
        ),
        (
            {"kind": "kubernetes", "service": "web", "api": "10.0.0.1:6443"},
            'discovery.api: expected an address such as "https://10.0.0.1:6443", got "10.0.0.1:6443"',
        ),
        (
            {"kind": "kubernetes", "service": "web", "api": "https://h:99999"},
            'discovery.api: expected an address such as "https://10.0.0.1:6443", got "https://h:99999"',
        ),
    ],
)
def test_what_can_never_work_is_refused_at_once(
    values: dict[str, object], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    group = FakeGroup()
    with pytest.raises(SourceError) as caught:
        open_source(group_config(**values), group.on_endpoints, group.on_problem)
    assert str(caught.value) == problem


def test_a_resolver_is_an_address_not_a_name() -> None:
    group = FakeGroup()
    config = group_config(["app:80"], kind="dns", resolver="dns.test:53")
    with pytest.raises(SourceError, match=r'^discovery.resolver: expected an address, got the name "dns.test"$'):
        open_source(config, group.on_endpoints, group.on_problem)


@pytest.mark.parametrize(("kind", "package"), [("dns", "dnspython"), ("kubernetes", "aiohttp")])
def test_a_missing_package_is_one_error_that_says_how_to_get_it(
    kind: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "find_spec", lambda _: None)
    config = group_config(["app:80"], kind=kind, service="web", api="https://10.0.0.1")
    with pytest.raises(SourceError) as caught:
        open_source(config, lambda _: None, lambda _: None)
    assert str(caught.value) == f'discovery.kind: "{kind}" needs the package {package}: pip install {package}'


def test_packages_are_imported_only_when_they_are_used() -> None:
    code = """if True:
        import sys
        from proxy.discovery import open_source
        from proxy.config import ProxyConfig, override
        kubernetes = {"service": "web", "api": "https://10.0.0.1"}
        for kind, more in {"static": {}, "dns": {}, "file": {"file": "x"}, "kubernetes": kubernetes}.items():
            changes = {f"discovery.{key}": value for key, value in {"kind": kind, **more}.items()}
            config = override(ProxyConfig(), changes)
            open_source(config.group_configs()["default"], print, print)
        print(sorted({"dns", "aiohttp"} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


class Broken(TaskSource):
    """A source with a bug."""

    async def run(self) -> None:
        raise RuntimeError("bug")


async def test_a_source_that_dies_of_a_bug_says_so_at_once() -> None:
    group, said = FakeGroup(), asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.set_result(context["exception"]))
    with running(Broken(group.on_endpoints, group.on_problem)):
        assert str(await asyncio.wait_for(said, 20)) == "bug"
