"""How a config is read: what overrides what, what is a change, and that what is printed reads back the same."""

from __future__ import annotations

import ast
import inspect
import re
from ipaddress import IPv4Network, IPv6Network
from math import inf
from operator import attrgetter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import (
    Bytes,
    Change,
    ConfigError,
    ProxyConfig,
    Seconds,
    diff,
    keys,
    knobs,
    knobs_edges,
    knobs_exchange,
    knobs_upstreams,
    load,
    override,
    text_of,
    to_toml,
)

DEFAULTS = """\
listen = "127.0.0.1:8080"
upstreams = ["127.0.0.1:9000"]
balance = "round_robin"
hash_by = "client"
workers = 1
trusted_proxies = []
drain_grace = "10s"

[timeouts]
connect = "5s"
response_header = "60s"
body_gap = "60s"
upstream_idle = "4s"
downstream_idle = "75s"
downstream_header = "10s"
tls_handshake = "10s"
request_total = "off"

[pool]
max_connections = 1024
max_wait = "5s"
max_waiting = 1024
max_idle = 1024
max_requests = 0
max_age = "off"
order = "newest"
look_before_reuse = false
honour_hint = true
hint_margin = "1s"

[retry]
policy = "reused_idempotent"
max_retries = 1
max_body = "64KiB"
budget = 0.2

[limits]
head_bytes = "64KiB"
line_bytes = "8KiB"
fields = 100
max_downstream_connections = 10000
body_bytes = "off"
max_connections_per_client = 0
min_body_rate = "off"

[http]
trailers = "drop"
upgrades = []
tunnel_idle = "1h"

[health]
eject_after = 5
eject_for = "5s"
eject_longest = "60s"
eject_share = 0.5
slow_after = "off"
check_path = ""
check_every = "5s"
check_timeout = "2s"
check_fails = 3
check_passes = 2
check_host = ""

[discovery]
kind = "static"
min_ttl = "1s"
max_ttl = "60s"
resolver = ""
file = ""
poll_every = "1s"
service = ""
namespace = "default"
port_name = ""
api = ""
token_file = "/var/run/secrets/kubernetes.io/serviceaccount/token"
ca_file = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"

[tls]
certificates = []
client_ca = ""
min_version = "1.2"

[upstream_tls]
enabled = false
server_name = ""
verify = true
ca_file = ""
certificate = ""
min_version = "1.2"

[downstream_socket]
nodelay = true
quickack = false
keepalive = false
keepalive_idle = "60s"
keepalive_interval = "10s"
keepalive_count = 3
user_timeout = "off"
linger = "off"

[upstream_socket]
nodelay = true
quickack = false
keepalive = false
keepalive_idle = "60s"
keepalive_interval = "10s"
keepalive_count = 3
user_timeout = "off"
linger = "off"

[listener]
backlog = 4096
reuse_port = false

[admin]
listen = "127.0.0.1:9901"
token_file = ""
allowed_hosts = []
public = false

[log]
access = "-"
events = "off"
format = "json"
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def file(text: str) -> Path:
    path = Path("proxy.toml")
    path.write_text(text, "utf-8")
    return path


def test_the_defaults_are_these() -> None:
    assert to_toml(ProxyConfig()) == DEFAULTS


def test_a_config_without_any_source_is_the_defaults() -> None:
    loaded = load(None, {}, {})
    assert loaded.config == ProxyConfig()
    assert set(loaded.origins) == set(keys())
    assert set(loaded.origins.values()) == {"default"}


def test_flags_override_the_environment_overrides_the_file_overrides_the_defaults() -> None:
    path = file('[timeouts]\nconnect = "1s"\nbody_gap = "1s"\nupstream_idle = "1s"\n')
    environ = {"KALAB_TIMEOUTS_BODY_GAP": "2s", "KALAB_TIMEOUTS_UPSTREAM_IDLE": "2s"}
    config, origins = load(path, environ, {"timeouts.upstream_idle": "3s"})
    assert [config.timeouts.connect, config.timeouts.body_gap, config.timeouts.upstream_idle] == [1.0, 2.0, 3.0]
    assert origins["timeouts.connect"] == "proxy.toml:2"
    assert origins["timeouts.body_gap"] == "KALAB_TIMEOUTS_BODY_GAP"
    assert origins["timeouts.upstream_idle"] == "--timeouts.upstream_idle"
    assert origins["timeouts.downstream_idle"] == "default"


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("listen", "[::1]:0", "[::1]:0"),
        ("upstreams", "a:1, b:2", ("a:1", "b:2")),
        ("drain_grace", "0s", 0.0),
        ("timeouts.upstream_idle", "4.9s", 4.9),
        ("timeouts.body_gap", "off", inf),
        ("pool.max_requests", "0", 0),
        ("pool.order", "oldest", "oldest"),
        ("pool.look_before_reuse", "true", True),
        ("retry.budget", "1", 1.0),
        ("retry.max_body", "off", 0),
        ("limits.body_bytes", "1048576", 1 << 20),
        ("workers", "4", 4),
        ("balance", "hash", "hash"),
        ("trusted_proxies", "10.0.0.0/8, ::1", (IPv4Network("10.0.0.0/8"), IPv6Network("::1/128"))),
        ("http.upgrades", "websocket,mqtt", ("websocket", "mqtt")),
        ("health.check_path", "/healthz?full=1", "/healthz?full=1"),
        ("health.check_path", "", ""),
        ("downstream_socket.linger", "0s", 0.0),
        ("upstream_socket.user_timeout", "1500ms", 1.5),
        ("admin.listen", "off", "off"),
        ("admin.listen", "[::1]:9901", "[::1]:9901"),
        ("log.format", "combined", "combined"),
        ("log.access", "off", ""),
        ("log.access", "", ""),
        ("log.events", "events.jsonl", "events.jsonl"),
    ],
)
def test_every_type_is_read_from_a_flag_and_from_the_environment(key: str, text: str, value: object) -> None:
    variable = "KALAB_" + key.replace(".", "_").upper()
    for config in (load(None, {}, {key: text}).config, load(None, {variable: text}, {}).config):
        section, _, name = key.rpartition(".")
        assert getattr(getattr(config, section) if section else config, name) == value


@pytest.mark.parametrize(
    "name", ["KALAB_EXECUTIONS", "KALAB_RUNS", "KALAB_COMPILE", "KALAB_SEED", "KALAB", "PATH", "KALAB_POOLS_X"]
)
def test_variables_of_others_are_none_of_our_business(name: str) -> None:
    assert load(None, {name: "anything"}, {}).config == ProxyConfig()


def test_override_takes_text_as_a_flag_does_and_typed_values() -> None:
    changed = override(
        ProxyConfig(), {"timeouts.upstream_idle": "4.9s", "pool.max_idle": 0, "pool.max_age": Seconds(9)}
    )
    assert diff(ProxyConfig(), changed) == [
        Change("timeouts.upstream_idle", "4s", "4.9s"),
        Change("pool.max_idle", "1024", "0"),
        Change("pool.max_age", "off", "9s"),
    ]
    assert ProxyConfig().timeouts.upstream_idle == Seconds(4)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"timeouts.idle": "4s"}, r"override: timeouts\.idle: unknown key; did you mean timeouts\.\w+_idle\?"),
        ({"pool.max_idle": "x"}, 'override: pool.max_idle: expected a whole number, got "x"'),
        ({"upstreams": ""}, "override: upstreams: expected at least one"),
    ],
)
def test_override_refuses_what_a_file_could_not_say(changes: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        override(ProxyConfig(), changes)


def test_diff_prints_values_as_people_write_them() -> None:
    after = override(
        ProxyConfig(),
        {
            "retry.policy": "never",
            "timeouts.upstream_idle": "off",
            "timeouts.connect": "250ms",
            "upstreams": "a:1,b:2",
            "log.access": "off",
            "pool.look_before_reuse": "true",
            "limits.body_bytes": "1MiB",
        },
    )
    assert [str(change) for change in diff(ProxyConfig(), after)] == [
        "upstreams: 127.0.0.1:9000 -> a:1,b:2",
        "timeouts.connect: 5s -> 250ms",
        "timeouts.upstream_idle: 4s -> off",
        "pool.look_before_reuse: false -> true",
        "retry.policy: reused_idempotent -> never",
        "limits.body_bytes: off -> 1MiB",
        "log.access: - -> off",
    ]
    assert diff(after, after) == []


DURATIONS = st.decimals("0.001", "100000", places=3).map(Seconds) | st.just(Seconds(inf))
FILES = st.text(st.characters(codec="utf-8", exclude_characters=","), min_size=1).map(str.strip).filter(bool)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "listen": st.sampled_from(["0.0.0.0:0", "[::1]:81", "proxy.example:8443"]),
        "upstreams": st.lists(st.integers(1, 65535).map("app-1.example:{}".format), min_size=1, unique=True),
        "timeouts.upstream_idle": DURATIONS,
        "pool.max_age": DURATIONS,
        "pool.order": st.sampled_from(["newest", "oldest"]),
        "pool.honour_hint": st.booleans(),
        "retry.max_body": st.integers(0, 1 << 40).map(Bytes),
        "retry.budget": st.floats(0, 1),
        "log.events": st.text(st.characters(codec="utf-8")).filter(lambda text: text != "-"),
        "trusted_proxies": st.lists(st.ip_addresses().map(str)),
        "tls.certificates": st.lists(FILES),
        "upstream_socket.user_timeout": DURATIONS,
        "limits.min_body_rate": st.integers(0, 1 << 40).map(Bytes),
    },
)


@given(changes=CHANGES)
def test_what_is_printed_reads_back_as_the_same_config(changes: dict[str, object]) -> None:
    config = override(ProxyConfig(), changes)
    path = Path("round.toml")
    path.write_bytes(to_toml(config).encode())
    assert load(path, {}, {}).config == config
    as_flags = {key: text_of(attrgetter(key)(config)) for key in keys()}
    assert load(None, {}, as_flags).config == config


def test_every_knob_says_its_default_and_what_off_means() -> None:
    """The pages of knobs are what users read: each field is followed by its description."""
    undocumented = []
    for module in (knobs, knobs_edges, knobs_exchange, knobs_upstreams):
        tree = ast.parse(inspect.getsource(module))
        for struct in (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name != "GroupConfig"):
            for field, after in zip(struct.body, [*struct.body[1:], None], strict=True):
                if isinstance(field, ast.AnnAssign) and not ast.unparse(field.annotation).endswith(SECTION):
                    text = ast.get_docstring(ast.Module([after], [])) if isinstance(after, ast.Expr) else None
                    if text is None or not re.search("default|See ", text, re.IGNORECASE):
                        undocumented.append(f"{struct.name}.{ast.unparse(field.target)}")
    assert undocumented == []


SECTION = ("Timeouts", "Limits", "Config", "UpstreamTls", "[Route, ...]")
