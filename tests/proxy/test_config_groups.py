"""Named groups and routes: what a group inherits, where each value comes from, and which changes a live proxy takes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import (
    ConfigError,
    GroupConfig,
    Loaded,
    ProxyConfig,
    Route,
    Row,
    change_by,
    diff,
    keys,
    live_changes,
    load,
    override,
    patched,
    rows,
    to_toml,
)
from proxy.config.known_keys import OF_A_GROUP

TWO_GROUPS = """\
upstreams = ["127.0.0.1:9000"]
balance = "least_busy"

[pool]
max_idle = 100
max_age = "5m"

[groups.api]
upstreams = ["10.0.0.1:80 weight=3", "10.0.0.2:80"]

[groups.api.pool]
max_idle = 3

[groups.web]
upstreams = ["10.0.1.1:80"]
balance = "hash"
hash_by = "header:x-user"
timeouts = { response_header = "5s" }

[[routes]]
host = "api.example.com"
path = "/v1"
group = "api"

[[routes]]
host = "*.example.com"
group = "web"
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def loaded(text: str = TWO_GROUPS, **flags: str) -> Loaded:
    path = Path("proxy.toml")
    path.write_text(text, "utf-8")
    return load(path, {}, {key.replace("__", "."): value for key, value in flags.items()})


def two_groups() -> ProxyConfig:
    return loaded().config


# --- What a group has


def test_without_named_groups_there_is_the_default_one() -> None:
    config = ProxyConfig()
    groups = config.group_configs()
    assert list(groups) == ["default"]
    assert groups["default"].name == "default"
    for key in GroupConfig.__struct_fields__[1:]:
        assert getattr(groups["default"], key) == getattr(config, key)


def test_a_group_inherits_what_it_does_not_say() -> None:
    groups = two_groups().group_configs()
    assert list(groups) == ["default", "api", "web"]
    default, api, web = groups.values()
    assert [group.pool.max_idle for group in groups.values()] == [100, 3, 100]
    assert [group.pool.max_age for group in groups.values()] == [300.0, 300.0, 300.0]
    assert [group.balance for group in groups.values()] == ["least_busy", "least_busy", "hash"]
    assert [group.hash_by for group in groups.values()] == ["client", "client", "header:x-user"]
    assert [group.timeouts.response_header for group in groups.values()] == [60.0, 60.0, 5.0]
    assert api.upstreams == ("10.0.0.1:80 weight=3", "10.0.0.2:80")
    assert web.timeouts.connect == default.timeouts.connect


def test_a_plain_key_that_changes_reaches_the_groups_that_say_nothing_about_it() -> None:
    changed = override(two_groups(), {"pool.max_idle": 7, "pool.max_age": "1h"}).group_configs()
    assert [group.pool.max_idle for group in changed.values()] == [7, 3, 7]
    assert [group.pool.max_age for group in changed.values()] == [3600.0, 3600.0, 3600.0]


@pytest.mark.parametrize(
    ("plain", "own", "upstreams"),
    [
        ("static", 'upstreams = ["a:1"]', ("a:1",)),
        ("static", 'upstreams = ["a:1"]\ndiscovery.kind = "dns"', ("a:1",)),
        ("static", 'discovery.kind = "dns"', ("app:80",)),
        ("dns", 'balance = "hash"', ("app:80",)),
        ("dns", 'upstreams = ["a:1"]\ndiscovery.kind = "static"', ("a:1",)),
        ("static", 'discovery.kind = "kubernetes"\ndiscovery.service = "api"', ()),
        ("static", 'discovery.kind = "file"\ndiscovery.file = "e.json"', ()),
    ],
)
def test_upstreams_are_inherited_only_as_names_to_resolve(plain: str, own: str, upstreams: tuple[str, ...]) -> None:
    config = loaded(f'upstreams = ["app:80"]\n[discovery]\nkind = "{plain}"\n[groups.api]\n{own}').config
    assert config.group_configs()["api"].upstreams == upstreams


def test_who_finds_upstreams_elsewhere_has_none_of_the_config() -> None:
    config = loaded('[discovery]\nkind = "file"\nfile = "e.json"').config
    assert config.upstreams == ("127.0.0.1:9000",)
    assert config.group_configs()["default"].upstreams == ()


@pytest.mark.parametrize(
    "text",
    [
        'ca_file = "ca.pem"\n[groups.api]\nupstreams = ["a:1"]\n[groups.api.upstream_tls]\nenabled = true',
        'enabled = true\nca_file = "ca.pem"\n[groups.api]\nupstreams = ["a:1"]\nupstream_tls.enabled = false',
        'enabled = true\n[groups.api]\nupstreams = ["a:1"]\nupstream_tls = { server_name = "a", min_version = "1.3" }',
        'enabled = true\n[groups.api]\nupstreams = ["a:1"]\nupstream_tls = { enabled = false, verify = true }',
    ],
)
def test_a_key_has_an_effect_if_it_has_one_in_any_group(text: str) -> None:
    assert loaded(f"[upstream_tls]\n{text}").config.upstream_tls


@pytest.mark.parametrize(
    "text",
    [
        'upstreams = []\n[groups.api]\nupstreams = ["a:1"]\n[[routes]]\ngroup = "api"',
        '[[routes]]\npath = "/v1"\ngroup = "default"',
        '[groups.a-B_9]\nupstreams = ["a:1"]',
        'groups = { api = { upstreams = ["a:1"] } }\nroutes = [{ group = "api" }]',
        '[[routes]]\npath = "/a.b/%C3%A9/~x/..."\nhost = "[::1]"\ngroup = "default"',
        '[[routes]]\nhost = "127.0.0.1"\ngroup = "default"',
        '[[routes]]\nhost = "xn--bcher-kva.example"\ngroup = "default"',
    ],
)
def test_this_is_fine(text: str) -> None:
    config = loaded(text).config
    assert config.routes or config.groups


# --- Routes


def test_routes_are_kept_as_they_stand() -> None:
    assert two_groups().routes == (Route("api.example.com", "/v1", "api"), Route("*.example.com", "/", "web"))
    assert [route.pattern for route in two_groups().routes] == ["api.example.com/v1", "*.example.com/"]
    assert Route("", "/v1", "api").pattern == "*/v1"


# --- Where it comes from


def test_origins_of_groups_and_routes() -> None:
    config, origins = loaded(groups__api__pool__max_idle="4", groups__api__balance="random_two")
    assert config.group_configs()["api"].pool.max_idle == 4
    assert {key: origin for key, origin in origins.items() if key not in keys()} == {
        "groups.api.upstreams": "proxy.toml:9",
        "groups.api.pool.max_idle": "--groups.api.pool.max_idle",
        "groups.api.balance": "--groups.api.balance",
        "groups.web.upstreams": "proxy.toml:15",
        "groups.web.balance": "proxy.toml:16",
        "groups.web.hash_by": "proxy.toml:17",
        "groups.web.timeouts.response_header": "proxy.toml:18",
        "routes.1.host": "proxy.toml:21",
        "routes.1.path": "proxy.toml:22",
        "routes.1.group": "proxy.toml:23",
        "routes.2.host": "proxy.toml:26",
        "routes.2.group": "proxy.toml:27",
    }
    assert origins["pool.max_idle"] == "proxy.toml:5"


def test_a_flag_can_make_a_group() -> None:
    config = load(None, {}, {"groups.api.upstreams": "a:1,b:2 weight=2"}).config
    assert config.group_configs()["api"].upstreams == ("a:1", "b:2 weight=2")


def test_rows_are_every_plain_key_then_what_groups_say_then_the_routes() -> None:
    shown = rows(loaded())
    assert [row.key for row in shown[: len(keys())]] == keys()
    assert Row("pool.max_idle", "100", "proxy.toml:5") in shown
    assert Row("health.check_path", '""', "default") in shown
    assert Row("admin.token_file", '""', "default") in shown
    assert shown[len(keys()) :] == [
        Row("groups.api.upstreams", "10.0.0.1:80 weight=3,10.0.0.2:80", "proxy.toml:9"),
        Row("groups.api.pool.max_idle", "3", "proxy.toml:12"),
        Row("groups.web.upstreams", "10.0.1.1:80", "proxy.toml:15"),
        Row("groups.web.balance", "hash", "proxy.toml:16"),
        Row("groups.web.hash_by", "header:x-user", "proxy.toml:17"),
        Row("groups.web.timeouts.response_header", "5s", "proxy.toml:18"),
        Row("routes api.example.com/v1", "api", "proxy.toml:23"),
        Row("routes *.example.com/", "web", "proxy.toml:27"),
    ]


# --- Changing


def test_override_takes_dotted_keys_and_tables() -> None:
    config = two_groups()
    dotted = override(config, {"groups.api.pool.max_idle": "9", "groups.new.upstreams": ["a:1"], "pool.max_age": "1h"})
    nested = override(
        config,
        {"groups": {"api": {"pool": {"max_idle": 9}}, "new": {"upstreams": ["a:1"]}}, "pool": {"max_age": "1h"}},
    )
    assert dotted == nested
    assert list(dotted.group_configs()) == ["default", "api", "web", "new"]
    assert dotted.groups["api"] == {"upstreams": ("10.0.0.1:80 weight=3", "10.0.0.2:80"), "pool.max_idle": 9}
    assert config == two_groups(), "the old one is as it was"


def test_override_takes_routes_as_a_whole() -> None:
    config = two_groups()
    assert override(config, {"pool.max_idle": 1}).routes == config.routes
    assert override(config, {"routes": []}).routes == ()
    changed = override(config, {"routes": [{"path": "/v2", "group": "web"}, *config.routes[:1]]})
    assert changed.routes == (Route("", "/v2", "web"), config.routes[0])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"groups.api.upstreams": []}, "override: groups.api.upstreams: the group api has no upstreams"),
        ({"groups.apo.balance": "hash"}, "override: groups.apo.balance: the group apo has no upstreams"),
        ({"groups.api": 5}, "override: groups.api: expected a section, [groups.api]"),
        ({"groups": {"api": {}}}, "override: groups.api: expected at least one key in the section, [groups.api]"),
        ({"groups.api.pool": {"max_idle": 3}}, "override: groups.api.pool: expected a section, [groups.api.pool]"),
        ({"groups.api.pool.max_idle": None}, "override: groups.api.pool.max_idle: expected a whole number, got None"),
        (
            {"routes": [{"path": "/v1"}]},
            "override: routes.1.group: missing: the name of the group that serves the route",
        ),
        ({"routes": [{"group": "apo"}]}, 'override: routes.1.group: no group is called "apo"; did you mean api?'),
        ({"routes": [5]}, "override: routes.1: expected a table with host, path and group"),
        ({"routes.1.path": "/v9"}, "override: routes: expected [[routes]], in double brackets, once for each route"),
        ({"routes": "api"}, "override: routes: expected [[routes]], in double brackets, once for each route"),
    ],
)
def test_override_refuses_what_makes_no_sense(changes: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override(two_groups(), changes)
    assert str(caught.value).startswith(expected)


def test_a_patch_leaves_its_mark_on_what_it_changes() -> None:
    before = loaded()
    changes = {"pool.max_idle": 1, "groups.api.balance": "hash", "routes": [{"path": "/v2", "group": "web"}]}
    after = patched(before, changes, "PATCH")
    assert after.config == override(before.config, changes)
    assert [row for row in rows(after) if row not in rows(before)] == [
        Row("pool.max_idle", "1", "PATCH"),
        Row("groups.api.balance", "hash", "PATCH"),
        Row("routes */v2", "web", "PATCH"),
    ]
    assert not any(row.key.startswith("routes *.example.com") for row in rows(after))
    with pytest.raises(ConfigError, match=r"^PATCH: workers: must be 1 or more, got 0$"):
        patched(before, {"workers": 0}, "PATCH")


def test_a_diff_of_groups_and_routes() -> None:
    before = two_groups()
    after = override(
        before,
        {
            "groups.api.pool.max_idle": 100,
            "groups.api.health.check_path": "/up",
            "groups.new.upstreams": ["a:1"],
            "routes": [
                {"host": "*.example.com", "group": "new"},
                {"path": "/v1", "group": "api"},
            ],
        },
    )
    assert [str(change) for change in diff(before, after)] == [
        "groups.api.pool.max_idle: 3 -> 100",
        "groups.api.health.check_path: inherited -> /up",
        "groups.new.upstreams: absent -> a:1",
        "routes api.example.com/v1: api -> absent",
        "routes *.example.com/: web -> new",
        "routes */v1: absent -> api",
    ]
    assert [change.after for change in diff(after, before)] == ["3", "inherited", "absent", "web", "absent", "api"]
    assert diff(after, after) == []


def test_the_order_of_routes_is_no_difference() -> None:
    config = two_groups()
    assert diff(config, override(config, {"routes": list(config.routes[::-1])})) == []


LIVE, RELOAD, RESTART = "patch", "reload", "restart"


@pytest.mark.parametrize(
    ("changes", "takes"),
    [
        ({"timeouts.upstream_idle": "9s"}, LIVE),
        ({"timeouts.downstream_idle": "9s"}, LIVE),
        ({"pool.order": "oldest"}, LIVE),
        ({"retry.policy": "never"}, LIVE),
        ({"limits.fields": "9"}, LIVE),
        ({"health.eject_after": "9"}, LIVE),
        ({"balance": "random_two"}, LIVE),
        ({"upstreams": "a:1,b:1"}, LIVE),
        ({"discovery.kind": "dns"}, LIVE),
        ({"drain_grace": "9s"}, LIVE),
        ({"trusted_proxies": "10.0.0.0/8"}, LIVE),
        ({"http.trailers": "forward"}, LIVE),
        ({"log.format": "combined"}, LIVE),
        ({"routes": []}, LIVE),
        ({"groups.api.pool.max_idle": "9"}, LIVE),
        ({"groups.new.upstreams": "a:1", "groups.new.upstream_socket.quickack": "true"}, LIVE),
        ({"listen": "127.0.0.1:1"}, RELOAD),
        ({"tls.certificates": "new.pem"}, RELOAD),
        ({"upstream_tls.enabled": "true"}, RELOAD),
        ({"groups.api.upstream_tls.enabled": "true"}, RELOAD),
        ({"discovery.kind": "kubernetes", "discovery.service": "a", "discovery.port_name": "b"}, LIVE),
        ({"workers": "2"}, RESTART),
        ({"admin.listen": "off"}, RESTART),
        ({"admin.token_file": "secret"}, RESTART),
        ({"listener.reuse_port": "true"}, RESTART),
        ({"downstream_socket.quickack": "true"}, RESTART),
        ({"upstream_socket.quickack": "true"}, RESTART),
        ({"groups.api.upstream_socket.quickack": "true"}, RESTART),
        ({"log.access": "off"}, RESTART),
        ({"log.events": "e.jsonl"}, RESTART),
    ],
)
def test_what_a_running_proxy_takes(changes: dict[str, object], takes: str) -> None:
    old = two_groups()
    new = override(old, changes)
    everything = diff(old, new)
    assert everything
    assert live_changes(old, new, "patch") == ((everything, []) if takes == LIVE else ([], everything))
    assert live_changes(old, new) == (([], everything) if takes == RESTART else (everything, []))
    if "groups.new.upstreams" not in changes:  # a new group is made as it should be, whatever is in it
        assert {change_by(key) for key in changes} == {takes}


def test_what_can_be_taken_is_told_apart_from_what_cannot() -> None:
    old = two_groups()
    applicable, needs_restart = live_changes(old, override(old, {"workers": 4, "pool.max_idle": 1, "listen": "a:1"}))
    assert [change.key for change in applicable] == ["listen", "pool.max_idle"]
    assert [change.key for change in needs_restart] == ["workers"]


@pytest.mark.parametrize("prefix", ["", "groups.api.", "groups.new."])
@pytest.mark.parametrize("key", ["discovery.api", "discovery.token_file", "discovery.ca_file"])
def test_a_patch_cannot_have_a_token_sent_elsewhere(prefix: str, key: str) -> None:
    old = two_groups()
    discovery = {f"{prefix}discovery.kind": "kubernetes", f"{prefix}discovery.service": "a", prefix + key: "b"}
    new = override(old, discovery)
    assert [change.key for change in live_changes(old, new, "patch")[1]] == [prefix + key]
    assert live_changes(old, new)[1] == []


# --- Printing

NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True).filter(lambda name: name != "default")
OWN = st.fixed_dictionaries(
    {"upstreams": st.lists(st.integers(1, 999).map("app:1{:03}".format), min_size=1, unique=True)},
    optional={
        "balance": st.sampled_from(["hash", "random_two"]),
        "pool": st.fixed_dictionaries({}, optional={"max_idle": st.integers(0, 9), "honour_hint": st.booleans()}),
        "timeouts.connect": st.sampled_from(["off", "250ms"]),
        "retry.max_body": st.sampled_from(["off", "1KiB"]),
    },
)
PATHS = (
    st.lists(st.from_regex(r"/[A-Za-z0-9%~_-]{1,8}", fullmatch=True), max_size=3).map("".join).map(lambda p: p or "/")
)
HOSTS = st.sampled_from(["", "a", "*.b.example", "api.b.example"])


@given(
    groups=st.dictionaries(NAMES, OWN, min_size=1, max_size=4),
    patterns=st.lists(st.tuples(HOSTS, PATHS), unique=True, max_size=4),
    data=st.data(),
)
def test_what_is_printed_reads_back(
    groups: dict[str, object], patterns: list[tuple[str, str]], data: st.DataObject
) -> None:
    named = st.sampled_from([*groups, "default"])
    routes = [{"host": host, "path": path, "group": data.draw(named)} for host, path in patterns]
    config = override(ProxyConfig(), {"groups": groups, "routes": routes})
    path = Path("round.toml")
    path.write_text(to_toml(config))
    read_back = load(path, {}, {})
    assert read_back.config == config
    assert read_back.config.group_configs() == config.group_configs()
    assert all(row.origin.startswith("round.toml:") for row in rows(read_back))
    assert to_toml(read_back.config) == to_toml(config)


def test_a_config_travels_to_another_process() -> None:
    config = override(two_groups(), {"trusted_proxies": ["10.0.0.0/8"]})
    assert pickle.loads(pickle.dumps(config)) == config


def test_what_a_group_can_say_is_what_it_has() -> None:
    said = {key.partition(".")[0] for key in OF_A_GROUP}
    assert said == set(GroupConfig.__struct_fields__) - {"name"}
    assert set(OF_A_GROUP) < set(keys())
