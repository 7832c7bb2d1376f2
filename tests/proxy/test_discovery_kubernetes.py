"""Kubernetes' API, spoken to a server of our own: lists, watches, and everything that ends them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import web
from fake_group import FakeGroup, group_config, running
from fake_kubernetes import TOKEN, FakeKubernetes, fake_kubernetes, make_certificate, refusal, slice_of

from proxy.discovery import Endpoint, kubernetes_api
from proxy.discovery.kubernetes_source import KubernetesSource, api_address

Certificate = tuple[Path, Path]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("ca"))


@pytest.fixture
async def cluster(certificate: Certificate) -> AsyncIterator[FakeKubernetes]:
    async with fake_kubernetes(certificate) as cluster:
        yield cluster


@pytest.fixture
def group() -> FakeGroup:
    return FakeGroup()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    return path


@pytest.fixture
def watch(cluster: FakeKubernetes, group: FakeGroup, token_file: Path) -> WatchIt:
    return WatchIt(cluster, group, token_file)


class WatchIt:
    """Makes the source of the service `web` in that cluster: `with running(watch()): …`."""

    def __init__(self, cluster: FakeKubernetes, group: FakeGroup, token_file: Path) -> None:
        self.cluster, self.group, self.token_file = cluster, group, token_file

    def __call__(self, environ: dict[str, str] | None = None, /, **discovery: object) -> KubernetesSource:
        known = {"service": "web", "api": self.cluster.url, "ca_file": self.cluster.ca_file}
        values = known | {"token_file": str(self.token_file)} | discovery
        told = group_config(kind="kubernetes", **values).discovery
        return KubernetesSource(told, environ or {}, self.group.on_endpoints, self.group.on_problem, first_retry_s=0.02)


def lists(cluster: FakeKubernetes) -> int:
    return sum("watch" not in request.query for request in cluster.requests)


# --- What is found


async def test_a_list_is_told_and_then_each_change(cluster: FakeKubernetes, group: FakeGroup, watch: WatchIt) -> None:
    cluster.slices = {"a": slice_of("a", "10.0.0.1"), "b": slice_of("b", "10.0.0.2")}
    with running(watch()) as source:
        await group.until_told("10.0.0.1:8080", "10.0.0.2:8080")
        await cluster.until_watched()
        cluster.tell("ADDED", slice_of("c", "10.0.0.3", port=9090))
        await group.until_told("10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:9090")
        cluster.tell("MODIFIED", slice_of("b"))
        await group.until_told("10.0.0.1:8080", "10.0.0.3:9090")
        cluster.tell("DELETED", slice_of("a", "10.0.0.1"))
        await group.until_told("10.0.0.3:9090")
        assert repr(source) == "<KubernetesSource default/web, 1 endpoints, no problem>"
    assert group.problems == []
    assert [request.query.get("resourceVersion") for request in cluster.requests] == [None, "100"]


async def test_a_pod_that_ends_is_told_as_terminating(
    cluster: FakeKubernetes, group: FakeGroup, watch: WatchIt
) -> None:
    cluster.slices = {"a": slice_of("a", "10.0.0.1")}
    with running(watch()):
        await group.until_told("10.0.0.1:8080")
        await cluster.until_watched()
        conditions = {"ready": False, "serving": True, "terminating": True}
        cluster.tell("MODIFIED", slice_of("a", endpoints=[{"addresses": ["10.0.0.1"], "conditions": conditions}]))
        await group.until(lambda: group.told[-1] == (Endpoint("10.0.0.1:8080", terminating=True),))


async def test_that_nobody_serves_is_believed(cluster: FakeKubernetes, group: FakeGroup, watch: WatchIt) -> None:
    cluster.slices = {"a": slice_of("a", "10.0.0.1")}
    with running(watch()):
        await group.until_told("10.0.0.1:8080")
        await cluster.until_watched()
        cluster.tell("MODIFIED", slice_of("a"))
        await group.until_told()
    assert group.problems == []


async def test_that_there_is_no_slice_is_a_problem_and_keeps_the_last_good_set(
    cluster: FakeKubernetes, group: FakeGroup, watch: WatchIt
) -> None:
    cluster.slices = {"a": slice_of("a", "10.0.0.1")}
    with running(watch()):
        await group.until_told("10.0.0.1:8080")
        await cluster.until_watched()
        cluster.tell("DELETED", slice_of("a", "10.0.0.1"))
        await group.until_problem("service web in namespace default: it has no EndpointSlice; does it exist?")
        cluster.tell("ADDED", slice_of("b", "10.0.0.2"))
        await group.until_told("10.0.0.2:8080")
    assert [len(told) for told in group.told] == [1, 1]


@pytest.mark.parametrize("step", [1, 7, 1000])
async def test_lines_are_put_together_wherever_they_are_split(
    cluster: FakeKubernetes, group: FakeGroup, watch: WatchIt, step: int
) -> None:
    cluster.slices, cluster.step = {"a": slice_of("a")}, step
    with running(watch()):
        await cluster.until_watched()
        many = [slice_of(name, f"10.0.0.{n}", note="ünïcode ✓") for n, name in enumerate("abcdefgh")]
        events = [{"type": "MODIFIED", "object": each} for each in many]
        cluster.send(b"\n\n".join(json.dumps(event, ensure_ascii=False).encode() for event in events) + b"\r\n")
        await group.until_told(*(f"10.0.0.{n}:8080" for n in range(8)))
    assert group.problems == []


async def test_a_slice_that_cannot_be_used_keeps_its_last_state_and_does_not_hold_up_others(
    cluster: FakeKubernetes, group: FakeGroup, watch: WatchIt
) -> None:
    cluster.slices = {
        "a": slice_of("a", "10.0.0.1"),
        "bad": slice_of("bad", "app.example", addressType="FQDN"),
        "odd": slice_of("odd", endpoints=[{"addresses": 7}]),
    }
    with running(watch()) as source:
        await group.until_told("10.0.0.1:8080")
        await cluster.until_watched()
        cluster.tell("MODIFIED", slice_of("a", "10.0.0.2", port=0))
        await group.until_problem("EndpointSlice a: $.ports[0].port: Expected `int` >= 1")
        cluster.tell("MODIFIED", slice_of("odd", "10.0.0.3"))
        await group.until_told("10.0.0.1:8080", "10.0.0.3:8080")
        cluster.tell("MODIFIED", slice_of("odd"))
        await group.until_told("10.0.0.1:8080")
        cluster.tell("MODIFIED", slice_of("a"))
        cluster.say("BOOKMARK", {})
        cluster.tell("DELETED", slice_of("bad"))  # only now is it sure that nobody serves
        await group.until_told()
        assert repr(source).endswith("0 endpoints, no problem>")
    assert group.problems[:2] == [
        'EndpointSlice bad: $.addressType: FQDN has no meaning in the API; for names, discovery.kind is "dns"',
        "EndpointSlice odd: $.endpoints[0].addresses: Expected `array`, got `int`",
    ]


async def test_nothing_usable_is_no_empty_set(cluster: FakeKubernetes, group: FakeGroup, watch: WatchIt) -> None:
    cluster.slices = {"a": slice_of("a", "10.0.0.1"), "b": slice_of("b")}
    with running(watch(port_name="metrics")):
        await group.until_problem('EndpointSlice a: $.ports: expected "metrics" for TCP, got "http"')
        await cluster.until_watched()
    assert group.told == []


# --- How a watch ends


async def test_a_watch_that_ends_goes_on_from_the_bookmark(
    cluster: FakeKubernetes, group: FakeGroup, watch: WatchIt
) -> None:
    cluster.slices = {"a": slice_of("a", "10.0.0.1")}
    with running(watch()):
        await cluster.until_watched()
        cluster.version = 500
        cluster.say("BOOKMARK", {"kind": "EndpointSlice"})
        cluster.send(None)
        await cluster.until_unwatched()
        await cluster.until_watched()
        cluster.tell("MODIFIED", slice_of("a", "10.0.0.2"))
        await group.until_told("10.0.0.2:8080")
    assert [request.query.get("resourceVersion") for request in cluster.requests] == [None, "100", "501"]
    assert group.problems == []


@pytest.mark.parametrize("as_event", [True, False])
async def test_a_version_that_is_forgotten_is_listed_again(
    cluster: FakeKubernetes, group: FakeGroup, watch: WatchIt, as_event: bool
) -> None:
    cluster.slices = {"a": slice_of("a", "10.0.0.1"), "b": slice_of("b", "10.0.0.2")}
    with running(watch()):
        await group.until_told("10.0.0.1:8080", "10.0.0.2:8080")
        await cluster.until_watched()
        cluster.slices = {"b": slice_of("b", "10.0.0.2", "10.0.0.3")}  # meanwhile, unheard
        cluster.version = 900
        if as_event:
            cluster.say("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})
        else:
            cluster.replies.append(lambda _: refusal(410, "Expired", "too old"))
            cluster.send(None)
        await group.until_told("10.0.0.2:8080", "10.0.0.3:8080")
    assert lists(cluster) == 2
    assert group.problems == []


async def test_a_connection_cut_in_the_middle_of_a_line_loses_nothing(
    cluster: FakeKubernetes, group: FakeGroup, watch: WatchIt
) -> None:
    cluster.slices = {"a": slice_of("a", "10.0.0.1")}
    with running(watch()) as source:
        await group.until_told("10.0.0.1:8080")
        await cluster.until_watched()
        whole = slice_of("a", "10.0.0.2", metadata={"name": "a", "resourceVersion": "7"})
        cluster.send(json.dumps({"type": "MODIFIED", "object": whole}).encode() + b'\n{"type": "MODIFIED", "obj')
        await group.until_told("10.0.0.2:8080")
        cluster.slices = {"a": slice_of("a", "10.0.0.3")}
        cluster.drop()
        await group.until_told("10.0.0.3:8080")
        await cluster.until_unwatched()
        await cluster.until_watched()
        cluster.tell("MODIFIED", slice_of("a", "10.0.0.4"))
        await group.until_told("10.0.0.4:8080")
        assert repr(source) == "<KubernetesSource default/web, 1 endpoints, no problem>"
    assert group.problems == [f"{cluster.url}: the connection was lost", "the API of Kubernetes: well again"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"nonsense\n", "not an event of a watch: JSON is malformed"),
        (b'{"type": "ADDED"}\n', "not an event of a watch: Object missing required field `object`"),
        (b'{"type": "ADDED", "object": 7}\n', "not an event of a watch: Expected `object`, got `int`"),
        (
            b'{"type": "ERROR", "object": {"code": 500, "message": "etcd:\\nno leader"}}\n',
            "500, no answer to use (etcd: no leader)",
        ),
    ],
)
async def test_what_is_no_event_is_a_problem_and_everything_is_listed_again(
    cluster: FakeKubernetes, group: FakeGroup, watch: WatchIt, line: bytes, problem: str
) -> None:
    cluster.slices = {"a": slice_of("a", "10.0.0.1")}
    with running(watch()):
        await cluster.until_watched()
        cluster.slices = {"a": slice_of("a", "10.0.0.2")}
        cluster.send(line)
        await group.until_problem(f"{cluster.url}: {problem}")
        await group.until_told("10.0.0.2:8080")
    assert lists(cluster) == 2


async def test_a_line_without_end_is_given_up(
    cluster: FakeKubernetes, group: FakeGroup, watch: WatchIt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_api, "LARGEST", 1 << 20)
    with running(watch()):
        await cluster.until_watched()
        cluster.send(b" " * (2 << 20))
        await group.until_problem("more than 1 MiB")


# --- What is refused


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (
            lambda _: refusal(403, "Forbidden", 'endpointslices is forbidden: User "x" cannot list'),
            "403, the token may not do this; it needs list and watch on endpointslices of discovery.k8s.io (endpointsl",
        ),
        (
            lambda _: web.Response(status=404, text="404 page not found"),
            "404, there is no such API, EndpointSlices of discovery.k8s.io/v1",
        ),
        (lambda _: web.Response(status=302, headers={"Location": "https://elsewhere/"}), "302, Found"),
        (lambda _: web.Response(status=503), "503, Service Unavailable"),
        (lambda _: web.Response(text="<html>"), "not a list of EndpointSlices: JSON is malformed"),
        (lambda _: web.json_response({}), "not a list of EndpointSlices: Object missing required field `metadata`"),
    ],
)
async def test_a_refusal_is_one_line_and_is_tried_again(
    cluster: FakeKubernetes, group: FakeGroup, watch: WatchIt, reply: Any, problem: str
) -> None:
    cluster.slices = {"a": slice_of("a", "10.0.0.1")}
    cluster.replies.extend([reply] * 3)
    with running(watch()):
        await group.until_told("10.0.0.1:8080")
    assert len(group.problems) == 1
    assert group.problems[0].startswith(f"{cluster.url}: {problem}")


async def test_a_token_is_read_again_when_it_has_changed(
    cluster: FakeKubernetes, group: FakeGroup, watch: WatchIt, token_file: Path
) -> None:
    cluster.slices = {"a": slice_of("a", "10.0.0.1")}
    with running(watch()):
        await cluster.until_watched()
        cluster.token = "second-token"
        cluster.slices = {"a": slice_of("a", "10.0.0.2")}
        cluster.drop()
        await group.until_problem("401, the token is not accepted")
        token_file.write_text("second-token")
        await group.until_told("10.0.0.2:8080")
    assert all(TOKEN not in problem for problem in group.problems)


@pytest.mark.parametrize(
    ("key", "content", "problem"),
    [
        ("token_file", None, "No such file or directory"),
        ("token_file", b"two\nlines", "not a token"),
        ("token_file", b"\xff", "not a token"),
        ("ca_file", None, "No such file or directory"),
        ("ca_file", b"nonsense", "no certificates in PEM"),
    ],
)
async def test_a_file_that_is_no_use_is_named_with_its_key(
    group: FakeGroup, watch: WatchIt, tmp_path: Path, key: str, content: bytes | None, problem: str
) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    with running(watch(**{key: str(file)})):
        await group.until_problem(f"discovery.{key}: {file}: {problem}")


async def test_a_server_that_no_authority_vouches_for_gets_no_token(
    cluster: FakeKubernetes, group: FakeGroup, watch: WatchIt, tmp_path: Path
) -> None:
    other, _ = make_certificate(tmp_path)
    with running(watch(ca_file=str(other))):
        await group.until_problem(cluster.url, "certificate verify failed")
    assert cluster.requests == []


async def test_a_server_under_another_name_gets_no_token(
    cluster: FakeKubernetes, group: FakeGroup, watch: WatchIt
) -> None:
    with running(watch(api=cluster.url.replace("127.0.0.1", "localhost"))):
        await group.until_problem("certificate", "localhost")
    assert cluster.requests == []


async def test_a_server_that_is_not_there_is_a_problem(group: FakeGroup, watch: WatchIt) -> None:
    with running(watch(api="https://127.0.0.1:1")):
        await group.until_problem("https://127.0.0.1:1: Cannot connect")


async def test_a_server_that_is_slow_is_given_up(
    cluster: FakeKubernetes, group: FakeGroup, watch: WatchIt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_api, "WATCH_S", (0.0, 0.0))
    monkeypatch.setattr(kubernetes_api, "OVERDUE_S", 0.05)
    cluster.slices = {"a": slice_of("a", "10.0.0.1")}
    with running(watch()):
        await group.until_problem("no answer in time")  # the watch was to be over, and is not
        cluster.slices = {"a": slice_of("a", "10.0.0.2")}
        await group.until_told("10.0.0.2:8080")


# --- Around it


async def test_inside_a_cluster_the_api_is_found(cluster: FakeKubernetes, group: FakeGroup, watch: WatchIt) -> None:
    cluster.slices = {"a": slice_of("a", "10.0.0.1")}
    host, _, port = cluster.url.removeprefix("https://").partition(":")
    with running(watch({"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}, api="")):
        await group.until_told("10.0.0.1:8080")


@pytest.mark.parametrize(
    ("api", "environ", "address"),
    [
        ("https://h:6443/", {}, "https://h:6443"),
        ("http://127.0.0.1:8001/k8s/c1", {}, "http://127.0.0.1:8001/k8s/c1"),
        ("", {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443"}, "https://10.96.0.1:6443"),
        ("", {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}, "https://[fd00::1]:443"),
        ("", {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, "https://10.96.0.1:443"),
    ],
)
def test_where_the_api_is(api: str, environ: dict[str, str], address: str) -> None:
    assert api_address(api, environ) == address


async def test_closing_in_the_middle_leaves_nothing_behind(
    cluster: FakeKubernetes, group: FakeGroup, watch: WatchIt
) -> None:
    source = watch()
    with running(source):
        await cluster.until_watched()
        group.problems.clear()
        task = source._task
        assert task is not None
    await asyncio.wait([task], timeout=20)
    await cluster.until_unwatched()
    assert group.problems == []


def test_it_does_the_same_on_uvloop(certificate: Certificate, group: FakeGroup, token_file: Path) -> None:
    async def follow() -> None:
        async with fake_kubernetes(certificate) as cluster:
            cluster.slices = {"a": slice_of("a", "10.0.0.1")}
            with running(WatchIt(cluster, group, token_file)()):
                await group.until_told("10.0.0.1:8080")
                await cluster.until_watched()
                cluster.tell("MODIFIED", slice_of("a", "10.0.0.2"))
                await group.until_told("10.0.0.2:8080")
                cluster.slices = {"a": slice_of("a", "10.0.0.3")}
                cluster.drop()
                await group.until_told("10.0.0.3:8080")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(follow())
