"""What is counted, how it adds up, and that Prometheus' own parser reads it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import inf, isclose
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from proxy import retry
from proxy.failure import Failure
from proxy.observe import exposition, metrics
from proxy.observe.counters import (
    CLOSED,
    DURATIONS,
    IDLE_AGES,
    REFUSED,
    Counters,
    GroupCounters,
    Histogram,
    added,
    total,
)
from proxy.observe.loop_lag import BOUNDS
from proxy.observe.metrics import (
    ConnectionSnapshot,
    Process,
    Snapshot,
    SourceSnapshot,
    UpstreamSnapshot,
    WorkerSnapshot,
    build_info,
    render,
)
from proxy.retry import DECISIONS

GROUP = "api"
ADDRESS = "10.0.0.3:9000"
CONN = "10.0.0.2:40312>10.0.0.3:9000"


def busy_counters() -> Counters:
    """What a worker has counted after three requests: one answered, one rescued, one lost."""
    counters = Counters()
    counters.downstream.accepted = 2
    counters.downstream.refused["connections"] += 1
    counters.downstream.closed["idle_timeout"] += 1
    group = counters.group(GROUP)
    group.ended(200, 0.0015, 0, 1024)
    group.ended(200, 0.25, 100, 10)
    group.ended(502, 4.0, 0, 0)
    group.tunnel_ended(3600.0, 10, 20)
    group.discovery_failures = 3
    group.causes[Failure.CLOSED_BEFORE_RESPONSE] += 1
    group.retries["idempotent method"] += 1
    group.not_retried["fresh connection: not the race"] += 1
    for age in (0.003, 4.9, 4.95):
        group.reused.add(age)
    for age in (4.9, 4.95):
        group.lost.add(age)
    upstream = counters.upstream(GROUP, ADDRESS)
    upstream.opened = 3
    upstream.closed["peer_fin"] += 2
    upstream.requests = 4
    upstream.failures[Failure.CLOSED_BEFORE_RESPONSE] += 2
    upstream.ejections = 1
    upstream.returns = 1
    upstream.checks["failed"] += 2
    return counters


def worker(number: int = 0, counters: Counters | None = None) -> WorkerSnapshot:
    lag = Histogram.of(BOUNDS)
    lag.add(0.0004)
    counters = busy_counters() if counters is None else counters
    return WorkerSnapshot(
        worker=number,
        pid=4000 + number,
        uptime_s=12.5,
        process=Process(rss_bytes=30 << 20, open_fds=12, max_fds=1024, cpu_s=1.25),
        loop_lag=lag,
        loop_lag_worst_s=0.0004,
        counters=counters.seen({(GROUP, ADDRESS): 1}, {"access": 3}),
        downstream={"idle": 1},
        upstreams=[UpstreamSnapshot(GROUP, ADDRESS, "ready", idle=1, active=2, busy=3, waiting=1)],
        sources=[
            SourceSnapshot(GROUP, "dns", 1.7e9, ["app.test: it does not exist"], 3, 2),
            SourceSnapshot("web", "static", 1.7e9, [], 1, 1),
        ],
        pool=[ConnectionSnapshot(GROUP, ADDRESS, CONN, "idle", 12.0, 4.0, 1)],
        pool_size=1,
    )


def samples_of(page: bytes) -> Iterator[Sample]:
    for family in text_string_to_metric_families(page.decode()):
        yield from family.samples


def value(page: bytes, name: str, **labels: str) -> float:
    """The value of the one sample with this name and, among its labels, these."""
    name = metrics.PREFIX + name
    found = [each for each in samples_of(page) if each.name == name and labels.items() <= each.labels.items()]
    assert len(found) == 1, f"{name} {labels}: {found}"
    return float(found[0].value)


PAGE = render(Snapshot([worker(0), worker(1)], restarts=1, reloads={"applied": 2}, build=build_info()))


# --- The page


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("workers", {}, 2),
        ("worker_restarts_total", {}, 1),
        ("config_reloads_total", {"result": "applied"}, 2),
        ("config_reloads_total", {"result": "refused"}, 0),
        ("worker_connections", {"worker": "1"}, 1),
        ("resident_memory_bytes", {"worker": "1"}, 30 << 20),
        ("cpu_seconds_total", {"worker": "0"}, 1.25),
        ("open_fds", {"worker": "0"}, 12),
        ("loop_lag_seconds_bucket", {"worker": "0", "le": "0.001"}, 1),
        ("loop_lag_worst_seconds", {"worker": "0"}, 0.0004),
        ("downstream_connections", {"state": "idle"}, 2),
        ("downstream_connections", {"state": "exchange"}, 0),
        ("downstream_accepted_total", {}, 4),
        ("downstream_refused_total", {"reason": "connections"}, 2),
        ("downstream_refused_total", {"reason": "tls_plain_http"}, 0),
        ("downstream_closed_total", {"reason": "drained"}, 0),
        ("downstream_closed_total", {"reason": "idle_timeout"}, 2),
        ("requests_total", {"group": GROUP, "code": "200"}, 4),
        ("requests_total", {"group": GROUP, "code": "502"}, 2),
        ("request_duration_seconds_bucket", {"group": GROUP, "le": "0.002"}, 2),
        ("request_duration_seconds_bucket", {"group": GROUP, "le": "+Inf"}, 6),
        ("request_duration_seconds_sum", {"group": GROUP}, 8.503),
        ("request_body_bytes_total", {"group": GROUP}, 220),
        ("response_body_bytes_total", {"group": GROUP}, 2108),
        ("errors_total", {"group": GROUP, "cause": "closed_before_response"}, 2),
        ("errors_total", {"group": GROUP, "cause": "response_timeout"}, 0),
        ("errors_total", {"group": "", "cause": "bad_request"}, 0),
        ("retries_total", {"group": GROUP, "reason": "idempotent method"}, 2),
        ("retries_total", {"group": GROUP, "reason": "nothing was sent"}, 0),
        ("not_retried_total", {"group": GROUP, "reason": "fresh connection: not the race"}, 2),
        ("not_retried_total", {"group": GROUP, "reason": "over the retry budget"}, 0),
        ("tunnel_duration_seconds_count", {"group": GROUP}, 2),
        ("tunnel_duration_seconds_sum", {"group": GROUP}, 7200),
        ("requests_total", {"group": GROUP, "code": "101"}, 2),
        ("request_duration_seconds_count", {"group": GROUP}, 6),
        ("discovery_last_success_timestamp_seconds", {"group": GROUP, "kind": "dns", "worker": "1"}, 1.7e9),
        ("discovery_problems", {"group": GROUP, "kind": "dns", "worker": "0"}, 1),
        ("discovery_failures_total", {"group": GROUP, "kind": "dns"}, 6),
        ("discovery_endpoints", {"group": GROUP, "worker": "0", "state": "known"}, 3),
        ("discovery_endpoints", {"group": GROUP, "worker": "0", "state": "serving"}, 2),
        ("discovery_endpoints", {"group": "web", "worker": "0", "state": "known"}, 1),
        ("upstream_idle_age_seconds_count", {"group": GROUP}, 6),
        ("upstream_idle_age_seconds_bucket", {"group": GROUP, "le": "4.5"}, 2),
        ("upstream_lost_idle_age_seconds_bucket", {"group": GROUP, "le": "4.5"}, 0),
        ("upstream_lost_idle_age_seconds_bucket", {"group": GROUP, "le": "5.0"}, 4),
        ("upstream_workers", {"upstream": ADDRESS, "state": "ready"}, 2),
        ("upstream_workers", {"upstream": ADDRESS, "state": "ejected"}, 0),
        ("upstream_connections", {"upstream": ADDRESS, "state": "active"}, 4),
        ("upstream_busy", {"upstream": ADDRESS}, 6),
        ("upstream_waiting", {"upstream": ADDRESS}, 2),
        ("upstream_requests_total", {"upstream": ADDRESS}, 10),
        ("upstream_opened_total", {"upstream": ADDRESS}, 6),
        ("upstream_closed_total", {"upstream": ADDRESS, "reason": "peer_fin"}, 4),
        ("upstream_failures_total", {"upstream": ADDRESS, "cause": "closed_before_response"}, 4),
        ("upstream_ejections_total", {"upstream": ADDRESS}, 2),
        ("upstream_returns_total", {"upstream": ADDRESS}, 2),
        ("upstream_checks_total", {"upstream": ADDRESS, "result": "failed"}, 4),
        ("upstream_checks_total", {"upstream": ADDRESS, "result": "passed"}, 0),
        ("log_dropped_total", {"log": "access"}, 6),
        ("log_dropped_total", {"log": "events"}, 0),
    ],
)
def test_two_workers_add_up(name: str, labels: dict[str, str], expected: float) -> None:
    assert isclose(value(PAGE, name, **labels), expected)


def test_names_follow_the_conventions() -> None:
    families = list(text_string_to_metric_families(PAGE.decode()))
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert re.fullmatch(r"kalab_proxy_[a-z][a-z_]*[a-z]", family.name)
        assert not re.search(r"_(ms|milliseconds|minutes|kb|kib|mib)(_|$)", family.name)
        assert family.type in ("counter", "gauge", "histogram")
        assert family.documentation.endswith(".") or family.name.endswith("build_info")
        if family.type == "counter":  # the parser takes the ending off, so ask the page
            assert f"# TYPE {family.name}_total counter\n" in PAGE.decode()
        else:
            assert not family.name.endswith("_total")


def test_no_sample_is_there_twice() -> None:
    seen = [(each.name, tuple(sorted(each.labels.items()))) for each in samples_of(PAGE)]
    assert len(set(seen)) == len(seen) > 150


def test_histograms_are_cumulative_and_end_in_their_count() -> None:
    histograms = [family for family in text_string_to_metric_families(PAGE.decode()) if family.type == "histogram"]
    assert len(histograms) == 5
    for family in histograms:
        series: dict[tuple[str, ...], list[tuple[float, float]]] = {}
        counts = {tuple(each.labels.values()): each.value for each in family.samples if each.name.endswith("_count")}
        for each in family.samples:
            if each.name.endswith("_bucket"):
                who = tuple(text for name, text in each.labels.items() if name != "le")
                series.setdefault(who, []).append((float(each.labels["le"]), each.value))
        assert series.keys() == counts.keys()
        for who, buckets in series.items():
            assert buckets == sorted(buckets)
            assert [each for _, each in buckets] == sorted(each for _, each in buckets)
            assert buckets[-1] == (inf, counts[who])


def test_the_versions_are_told() -> None:
    (sample,) = [each for each in samples_of(PAGE) if each.name == "kalab_proxy_build_info"]
    assert sample.labels["parser"] == "llhttp"
    assert sample.labels["httptools"].startswith("0.")
    assert sample.labels["dnspython"].startswith("2.")
    packages = {"kalab", "uvloop", "httptools", "msgspec", "aiohttp", "dnspython"}
    assert sample.labels.keys() == {"build", "python", "parser", *packages}


def test_what_can_be_missing_is_there_from_the_start() -> None:
    """A series that begins with its first failure has no increase: https://prometheus.io/docs/practices/instrumentation
    (avoid missing metrics)."""
    counters = Counters()
    counters.group(GROUP)
    page = render(Snapshot([worker(counters=counters)]))
    told = {(each.name.removeprefix(metrics.PREFIX), *each.labels.values()) for each in samples_of(page)}
    assert told >= {("retries_total", GROUP, each.because) for each in DECISIONS if each.retry}
    assert told >= {("not_retried_total", GROUP, each.because) for each in DECISIONS if not each.retry}
    assert told >= {("errors_total", group, cause.value) for group in ("", GROUP) for cause in Failure}
    assert told >= {("downstream_refused_total", reason) for reason in REFUSED}
    assert told >= {("downstream_closed_total", reason) for reason in CLOSED}


def test_all_reasons_are_known() -> None:
    """Those for which a client's connection is refused or closed are words in the code, in these places."""
    room = Path(metrics.__file__).parents[1]
    code = {
        name: (room / f"{name}.py").read_text() for name in ("clients", "listener", "downstream", "downstream_socket")
    }
    refused = re.findall(
        r'refused\["(\w+)"\]|return "(tls_\w+)"|connection, "(tls_\w+)"', code["clients"] + code["listener"]
    )
    assert {"".join(found) for found in refused} == set(REFUSED)
    whole = "".join(code.values())
    closed = re.findall(r'(?:close|_linger|_abort|_reset)\("(\w+)"|Failure\.\w+, "(\w+)"', whole)
    closed += re.findall(r'close\("\w+" if .* else (?:"(\w+)"()|_)', whole)
    assert {"".join(found) for found in closed} - {""} == set(CLOSED)
    made = {value for value in vars(retry).values() if isinstance(value, retry.Decision)}
    assert made == set(DECISIONS)


def test_a_proxy_that_has_just_started_has_a_page_too() -> None:
    page = render(Snapshot([worker(counters=Counters())]))
    assert value(page, "downstream_accepted_total") == 0
    assert value(render(Snapshot([])), "workers") == 0


@pytest.mark.parametrize("hostile", ['a"b', "a\\b", "a\nb", 'x"} 1\nkalab_evil 1', "naïve\u202e", "\\n"])
def test_label_values_are_escaped(hostile: str) -> None:
    family = exposition.gauge("g", "A\nhelp \\ text.", [({"who": hostile}, 1)])
    page = exposition.text_of([family], "kalab_").decode()
    (parsed,) = text_string_to_metric_families(page)
    assert [each.labels for each in parsed.samples] == [{"who": hostile}]
    assert parsed.documentation == "A\nhelp \\ text."


def test_whatever_status_upstreams_invent_the_series_stay_few() -> None:
    counters = Counters()
    for status in range(100, 1000):
        counters.group(GROUP).ended(status, 0.1, 0, 0)
    page = render(Snapshot([worker(counters=counters)]))
    codes = {each.labels["code"]: each.value for each in samples_of(page) if each.name == "kalab_proxy_requests_total"}
    assert len(codes) < 80
    assert sum(codes.values()) == 900
    assert codes["200"] == codes["499"] == 1
    assert codes["9xx"] == 100


def test_an_upstream_that_nobody_knows_any_more_is_not_shown() -> None:
    known = worker()
    known.upstreams = []
    assert ADDRESS.encode() not in render(Snapshot([known]))


@pytest.mark.parametrize(
    ("number", "written"), [(0, "0"), (12345678901234567890, "12345678901234567890"), (0.1, "0.1"), (1e-7, "1e-07")]
)
def test_numbers_keep_all_their_digits(number: float, written: str) -> None:
    page = exposition.text_of([exposition.gauge("g", "G.", [({}, number)])], "")
    assert page.endswith(f"\ng {written}\n".encode())


# --- Adding up


def test_counters_travel_as_json_and_come_back_the_same() -> None:
    snapshot = Snapshot([worker()], build=build_info())
    sent = msgspec.json.encode(snapshot)
    back = msgspec.json.decode(sent, type=Snapshot)
    assert render(back) == render(snapshot)
    assert msgspec.json.encode(back) == sent


def test_what_a_worker_had_counted_stays_when_it_has_gone() -> None:
    snapshot = Snapshot([worker(0), worker(1)])
    before = render(snapshot)
    snapshot.retire(snapshot.workers.pop())
    after = render(snapshot)
    assert value(after, "workers") == 1
    assert value(after, "upstream_busy", upstream=ADDRESS) == 3
    for name in ("downstream_accepted_total", "upstream_idle_age_seconds_count", "upstream_requests_total"):
        assert value(after, name) == value(before, name) > 0


def test_adding_leaves_both_as_they_were() -> None:
    one, other = busy_counters(), busy_counters()
    other.group("web").ended(200, 0.1, 0, 0)
    both = added(one, other)
    assert one == busy_counters()
    assert both.groups.keys() == {"api", "web"}
    assert both.groups[GROUP].statuses == {200: 4, 502: 2, 101: 2}
    assert added(other, one).groups.keys() == both.groups.keys()
    assert total([], Counters()) == Counters()


def test_two_upstreams_with_one_address_share_their_counters() -> None:
    counters = Counters()
    assert counters.upstream("a", ADDRESS) is counters.upstream("a", ADDRESS)
    assert counters.upstream("a", ADDRESS) is not counters.upstream("b", ADDRESS)
    assert counters.group("a") is counters.group("a")


def test_addresses_that_discovery_has_taken_away_do_not_pile_up() -> None:
    counters = Counters()
    kept = counters.upstream("a", "10.0.0.1:1")
    for number in range(2, 100):
        counters.upstream("a", f"10.0.0.{number}:1")
    counters.keep("a", {"10.0.0.1:1", "10.0.0.200:1"})
    assert list(counters.upstreams["a"]) == ["10.0.0.1:1"]
    assert counters.upstream("a", "10.0.0.1:1") is kept
    counters.keep("nobody", set())


def test_what_open_connections_have_carried_is_added_to_what_is_seen_only() -> None:
    counters = busy_counters()
    assert counters.seen({(GROUP, ADDRESS): 7}, {}).upstreams[GROUP][ADDRESS].requests == 11
    assert counters.seen({}, {"access": 1}).log_dropped == {"access": 1}
    assert counters.upstream(GROUP, ADDRESS).requests == 4
    assert counters.log_dropped == {}


@pytest.mark.parametrize(
    ("bounds", "seconds", "bucket"),
    [
        (DURATIONS, 0.0, 0),
        (DURATIONS, 0.001, 0),  # the end of a bucket belongs to it
        (DURATIONS, 0.0011, 1),
        (DURATIONS, 60.0, 14),
        (DURATIONS, 61.0, 15),
        (IDLE_AGES, 4.99, 9),
        (IDLE_AGES, 1e9, 18),
    ],
)
def test_a_value_falls_into_its_bucket(bounds: tuple[float, ...], seconds: float, bucket: int) -> None:
    histogram = Histogram.of(bounds)
    histogram.add(seconds)
    assert [place for place, count in enumerate(histogram.counts) if count] == [bucket]
    assert histogram.sum == seconds
    if bounds is DURATIONS:
        group = GroupCounters()
        group.ended(200, seconds, 0, 0)
        assert group.seconds == histogram


def test_a_process_knows_its_own_figures() -> None:
    own = Process.own()
    assert own.rss_bytes > 1 << 20
    assert 2 < own.open_fds <= own.max_fds
    assert own.cpu_s > 0
