"""How a config is read: what overrides what, what every mistake is told, and that printing it reads back the same."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from math import inf
from operator import attrgetter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import knobs
from proxy.config import (
    Bytes,
    Change,
    ConfigError,
    ProxyConfig,
    Seconds,
    diff,
    keys,
    load,
    override,
    parse_address,
    parse_duration,
    parse_size,
    text_of,
    to_toml,
)

DEFAULTS = """\
listen = "127.0.0.1:8080"
upstreams = ["127.0.0.1:9000"]
drain_grace = "10s"

[timeouts]
connect = "5s"
response_header = "60s"
body_gap = "60s"
upstream_idle = "4s"
downstream_idle = "75s"
downstream_header = "10s"

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

[log]
access = "-"
events = "off"
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def file(text: str) -> Path:
    path = Path("proxy.toml")
    path.write_text(text, "utf-8")
    return path


def error_of(
    text: str | None = None, environ: Mapping[str, str] | None = None, flags: Mapping[str, str] | None = None
) -> str:
    with pytest.raises(ConfigError) as caught:
        load(None if text is None else file(text), environ or {}, flags or {})
    assert "\n" not in str(caught.value)
    return str(caught.value)


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


@pytest.mark.parametrize("name", ["KALAB_EXECUTIONS", "KALAB_RUNS", "KALAB_UPSTREAM", "KALAB", "PATH", "KALAB_POOLS_X"])
def test_variables_of_others_are_none_of_our_business(name: str) -> None:
    assert load(None, {name: "anything"}, {}).config == ProxyConfig()


WRONG_FILES = [
    # unknown
    (
        '\n[timeouts]\nupstream_idel = "5s"',
        "3: timeouts.upstream_idel: unknown key; did you mean timeouts.upstream_idle?",
    ),
    ('[pool]\nupstream_idle = "5s"', "2: pool.upstream_idle: unknown key; did you mean timeouts.upstream_idle?"),
    ('upstream_idle = "5s"', "1: upstream_idle: unknown key; did you mean timeouts.upstream_idle?"),
    ("colour = 1", "1: colour: unknown key; --show-config lists what there is"),
    ('[timeout]\nconnect = "5s"', "1: [timeout]: unknown section; did you mean timeouts?"),
    # durations
    (
        "[timeouts]\nconnect = 5",
        '2: timeouts.connect: expected a duration such as "250ms", "4s", "2m" or "off", got 5; did you mean "5s"?',
    ),
    (
        '[timeouts]\nconnect = "4,5s"',
        '2: timeouts.connect: expected a duration such as "250ms", "4s", "2m" or "off", got "4,5s"',
    ),
    (
        'drain_grace = "-1s"',
        '1: drain_grace: expected a duration such as "250ms", "4s", "2m" or "off", got "-1s"',
    ),
    (
        '[timeouts]\nconnect = "0s"',
        '2: timeouts.connect: must be more than 0, or "off" for no limit, got "0s"',
    ),
    ('[pool]\nhint_margin = "off"', '2: pool.hint_margin: must be a duration other than "off", got "off"'),
    # sizes and numbers
    (
        '[limits]\nhead_bytes = "64kb"',
        '2: limits.head_bytes: expected a size such as "512B", "64KiB", "8MiB" or "off", got "64kb"',
    ),
    ('[limits]\nhead_bytes = "off"', '2: limits.head_bytes: must be more than 0, got "off"'),
    ("[pool]\nmax_idle = true", "2: pool.max_idle: expected a whole number, got true"),
    ("[pool]\nmax_idle = 1.5", "2: pool.max_idle: expected a whole number, got 1.5"),
    ("[pool]\nmax_idle = -1", "2: pool.max_idle: must be 0 or more, got -1"),
    ("[pool]\nmax_connections = 0", "2: pool.max_connections: must be 1 or more, got 0"),
    ("[retry]\nbudget = 2", "2: retry.budget: must be between 0 and 1, got 2"),
    ("[retry]\nbudget = nan", "2: retry.budget: must be between 0 and 1, got nan"),
    ('[retry]\nbudget = "half"', '2: retry.budget: expected a number, got "half"'),
    # choices
    ('[pool]\norder = "newst"', '2: pool.order: expected one of newest, oldest, got "newst"; did you mean newest?'),
    ('[pool]\norder = "lifo"', '2: pool.order: expected one of newest, oldest, got "lifo"'),
    ('[pool]\nhonour_hint = "yes"', '2: pool.honour_hint: expected true or false, got "yes"'),
    # addresses and lists
    ('listen = "8080"', '1: listen: must be host:port such as "127.0.0.1:8080", got "8080"'),
    ('listen = "127.0.0.1:65536"', '1: listen: must be host:port such as "127.0.0.1:8080", got "127.0.0.1:65536"'),
    ('upstreams = ["app:0"]', '1: upstreams: must be host:port such as "127.0.0.1:9000", got "app:0"'),
    ('upstreams = "app:1"', '1: upstreams: expected a list such as ["…", "…"], got "app:1"'),
    ("upstreams = [1]", "1: upstreams: expected a string, got 1"),
    ("listen = 8080", "1: listen: expected a string, got 8080"),
    ("[log]\naccess = false", '2: log.access: expected a path, "-" or "off", got false'),
    # shape
    ("timeouts = 5", "1: timeouts: expected a section, [timeouts]"),
    ("pool = { max_idle = true }", "1: pool.max_idle: expected a whole number, got true"),
    ("[pool]\nmax_idle.x = 1", "1: pool.max_idle: expected a whole number, got {'x': 1}"),
    # contradictions
    ("upstreams = []", '1: upstreams: expected at least one, such as ["127.0.0.1:9000"]'),
    ('upstreams = ["a:1", "b:1", "a:1"]', "1: upstreams: one is listed twice"),
    (
        'listen = "127.0.0.1:9000"',
        "1: listen: 127.0.0.1:9000 is both listened on and an upstream: requests would go in circles",
    ),
    ('[limits]\nhead_bytes = "4KiB"', "2: limits.head_bytes: limits.line_bytes is more than limits.head_bytes"),
    ('[log]\nevents = "-"', "2: log.events: must be a path: standard output is for the access log"),
    # syntax
    ('[timeouts]\nconnect = "5s"\n\nconnect = "6s"', "4: timeouts.connect: set twice, first in line 2"),
    ("[timeouts]\n[pool]\n[timeouts]\n", "3: timeouts: set twice, first in line 1"),
    ('listen = "a:1"\nupstreams = \n', "2: column 13: not valid TOML: Invalid value"),
    ('listen = "a:1"\nupstreams = [', "2: not valid TOML: Invalid value"),
]


@pytest.mark.parametrize(("text", "expected"), WRONG_FILES)
def test_a_mistake_in_a_file_is_told_in_one_line(text: str, expected: str) -> None:
    assert error_of(text) == f"proxy.toml:{expected}"


@pytest.mark.parametrize(
    ("environ", "flags", "expected"),
    [
        (
            {"KALAB_TIMEOUTS_UPSTREAM_IDEL": "5s"},
            {},
            "KALAB_TIMEOUTS_UPSTREAM_IDEL: unknown variable; did you mean KALAB_TIMEOUTS_UPSTREAM_IDLE?",
        ),
        (
            {"KALAB_POOL_MAX_IDLE": "many"},
            {},
            'KALAB_POOL_MAX_IDLE: pool.max_idle: expected a whole number, got "many"',
        ),
        (
            {},
            {"timeouts.upstream_idel": "5s"},
            "--timeouts.upstream_idel: unknown key; did you mean timeouts.upstream_idle?",
        ),
        ({}, {"pool.max_idle": "many"}, '--pool.max_idle: expected a whole number, got "many"'),
        (
            {},
            {"listen": "127.0.0.1:9000"},
            "--listen: 127.0.0.1:9000 is both listened on and an upstream: requests would go in circles",
        ),
    ],
)
def test_a_mistake_elsewhere_names_the_variable_or_flag(
    environ: dict[str, str], flags: dict[str, str], expected: str
) -> None:
    assert error_of(None, environ, flags) == expected


def test_a_file_that_cannot_be_read_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^missing\.toml: No such file or directory$"):
        load(Path("missing.toml"), {}, {})
    Path("latin.toml").write_bytes(b'listen = "\xe9"')
    with pytest.raises(ConfigError, match=r"^latin\.toml: not UTF-8$"):
        load(Path("latin.toml"), {}, {})
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path, {}, {})


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
        "log.events": st.text(st.characters(codec="utf-8")),
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


@pytest.mark.parametrize(
    ("text", "seconds", "printed"),
    [
        ("250ms", 0.25, "250ms"),
        ("0.5ms", 0.0005, "0.5ms"),
        ("4s", 4.0, "4s"),
        ("4.9s", 4.9, "4.9s"),
        ("1500ms", 1.5, "1.5s"),
        ("60s", 60.0, "60s"),
        ("75s", 75.0, "75s"),
        ("2m", 120.0, "2m"),
        ("90m", 5400.0, "90m"),
        ("1h", 3600.0, "1h"),
        ("0s", 0.0, "0s"),
        ("off", inf, "off"),
    ],
)
def test_durations(text: str, seconds: float, printed: str) -> None:
    assert parse_duration(text) == seconds
    assert str(parse_duration(text)) == printed


@pytest.mark.parametrize("text", ["", "s", "5", "5 seconds", "1m30s", "-1s", "1e3s", ".5s", "inf", "nan", "٣s", " 5s"])
def test_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(text)


@given(st.floats(min_value=0, max_value=1e12))
def test_any_duration_prints_and_reads_back_to_the_last_bit(seconds: float) -> None:
    assert parse_duration(str(Seconds(seconds))) == seconds


@pytest.mark.parametrize(
    ("text", "size", "printed"),
    [
        ("64KiB", 65536, "64KiB"),
        ("100B", 100, "100"),
        ("100", 100, "100"),
        ("1GiB", 1 << 30, "1GiB"),
        ("off", 0, "off"),
    ],
)
def test_sizes(text: str, size: int, printed: str) -> None:
    assert parse_size(text) == size
    assert str(parse_size(text)) == printed


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("app_1.example-x:1", ("app_1.example-x", 1)),
        ("[::1]:8080", ("::1", 8080)),
        ("[fe80::1%eth0]:8080", ("fe80::1%eth0", 8080)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", ":80", "a", "a:", "a:b", "a:-1", "a:99999", "::1:80", "[::1]", "http://a:80", "a b:1"]
)
def test_not_an_address(text: str) -> None:
    with pytest.raises(ValueError, match="expected host:port"):
        parse_address(text)


def test_every_knob_says_its_default_and_what_off_means() -> None:
    """The page of knobs is what users read: each field is followed by its description."""
    module = ast.parse(inspect.getsource(knobs))
    undocumented = []
    for struct in (node for node in module.body if isinstance(node, ast.ClassDef)):
        for field, after in zip(struct.body, [*struct.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and ast.unparse(field.annotation) not in SECTIONS:
                text = ast.get_docstring(ast.Module([after], [])) if isinstance(after, ast.Expr) else None
                if text is None or "efault" not in text:
                    undocumented.append(f"{struct.name}.{ast.unparse(field.target)}")
    assert undocumented == []


SECTIONS = {"Timeouts", "PoolLimits", "RetryConfig", "Limits", "LogConfig"}
