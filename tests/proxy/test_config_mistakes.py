"""What every mistake in a config is told: one line that says where, which key, what is wanted, and what was meant."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config import ConfigError, load, to_toml, warnings
from proxy.config.known_keys import OF_A_ROUTE, PLAIN, SECTIONS

A_DURATION = 'expected a duration such as "250ms", "4s", "2m" or "off"'
A_SIZE = 'expected a size such as "512B", "64KiB", "8MiB" or "off"'
NO_TOML = "not valid TOML"
ONE_LINE = "Expected newline or end of document after a statement"
NO_EQUALS = "Expected '=' after a key in a key/value pair"
NO_SCHEME = "an address has no scheme: did you mean"
AN_UPSTREAM = 'host:port such as "127.0.0.1:9000", or with a weight from 1 to 1000, "127.0.0.1:9000 weight=3"'
A_NETWORK = 'expected a network such as "10.0.0.0/8" or "fd00::/8"'
A_HOST = 'a host such as "api.example.com", in lower case and without a port'
A_PATTERN = '"api.example.com" or "*.example.com", in lower case and without a port; leave it out for any host'
A_PATH = 'a path such as "/" or "/v1", without a query, dot segments, or a slash or * at its end'
A_CHECK = 'a path such as "/healthz", or "" for no checks'
A_RESOLVER = 'an address such as "10.0.0.2:53", not a name; or ""'
A_PROTOCOL = 'a protocol in lower case such as "websocket"; HTTP and TLS are not allowed'
BY_TLS = '"api.example.com:443", and upstream_tls.enabled = true?'
EVERYBODY = 'did you mean "127.0.0.1:8080", or for everybody "0.0.0.0:8080"?'
AN_ADMIN = 'host:port such as "127.0.0.1:9901", or "off"'
A_GROUP_NAME = "the name of a group is made of letters, digits, - and _"
PLAIN_IS_DEFAULT = "the plain keys are the group default: write them without groups.default"
AS_ROUTES = "expected [[routes]], in double brackets, once for each route in the file"

# Each with what was meant, if one can know.
NO_HOSTS = {
    "API.example.com": "api.example.com",
    "api.example.com:80": "api.example.com",
    "https://api.example.com/": "api.example.com",
    "*": "",
    "*.": "",
    "a..b": "",
    ".a": "*.a",
    "a.": "a",
    "-a": "",
    "a b": "",
    "a.*.b": "",
    "*a.b": "",
    "é.example": "",
}
NO_PATHS = {
    "": "/",
    "v1": "/v1",
    "/v1/": "/v1",
    "/v1/*": "/v1",
    "//": "/",
    "/a//b": "/a/b",
    "/a/../b": "",
    "/..": "",
    "/.": "",
    "/a?b": "/a",
    "/a#b": "/a",
    "/a b": "",
    "/é": "",
    "*": "/",
}


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


def meaning(meant: str) -> str:
    return f'; did you mean "{meant}"?' if meant else ""


WRONG_FILES = [
    # unknown
    (
        '\n[timeouts]\nupstream_idel = "5s"',
        "3: timeouts.upstream_idel: unknown key; did you mean timeouts.upstream_idle?",
    ),
    ('[pool]\nupstream_idle = "5s"', "2: pool.upstream_idle: unknown key; did you mean timeouts.upstream_idle?"),
    ('upstream_idle = "5s"', "1: upstream_idle: unknown key; did you mean timeouts.upstream_idle?"),
    ("colour = 1", "1: colour: unknown key; --show-config lists what there is"),
    ('[tls]\ncertificate = "a.pem"', "2: tls.certificate: unknown key; did you mean tls.certificates?"),
    ('[log]\nlevel = "debug"', "2: log.level: unknown key; one of access, events, format"),
    ('[timeouts]\nupstreamIdle = "4s"', "2: timeouts.upstreamIdle: unknown key; did you mean timeouts.upstream_idle?"),
    ('[Timeouts]\nconnect = "4s"', "1: Timeouts: unknown section; did you mean timeouts?"),
    ('[timeout]\nconnect = "5s"', "1: timeout: unknown section; did you mean timeouts?"),
    ("[pool]\nmax_idel.x = 1", "2: pool.max_idel: unknown key; did you mean pool.max_idle?"),
    # durations
    (
        "[timeouts]\nconnect = 5",
        '2: timeouts.connect: expected a duration such as "250ms", "4s", "2m" or "off", got 5; did you mean "5s"?',
    ),
    (
        '[timeouts]\nconnect = "4,5s"',
        f'2: timeouts.connect: {A_DURATION}, got "4,5s"; did you mean "4.5s"?',
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
        f'2: limits.head_bytes: {A_SIZE}, got "64kb"; did you mean "64KiB"?',
    ),
    ('[limits]\nhead_bytes = "off"', '2: limits.head_bytes: must be more than 0, got "off"'),
    ("[pool]\nmax_idle = true", "2: pool.max_idle: expected a whole number, got true"),
    ("[pool]\nmax_idle = 1.5", "2: pool.max_idle: expected a whole number, got 1.5"),
    ("[pool]\nmax_idle = -1", "2: pool.max_idle: must be 0 or more, got -1"),
    ("[pool]\nmax_connections = 0", "2: pool.max_connections: must be 1 or more, got 0"),
    ("[retry]\nbudget = 2", "2: retry.budget: must be a share between 0 and 1, got 2; did you mean 0.02?"),
    ("[retry]\nbudget = nan", "2: retry.budget: must be a share between 0 and 1, got nan"),
    ('[retry]\nbudget = "half"', '2: retry.budget: expected a number, got "half"'),
    # choices
    ('[pool]\norder = "newst"', '2: pool.order: expected one of newest, oldest, got "newst"; did you mean newest?'),
    ('[pool]\norder = "lifo"', '2: pool.order: expected one of newest, oldest, got "lifo"'),
    ('[pool]\nhonour_hint = "yes"', '2: pool.honour_hint: expected true or false, got "yes"; did you mean true?'),
    # addresses and lists
    ('listen = "8080"', f'1: listen: must be host:port such as "127.0.0.1:8080", got "8080"; {EVERYBODY}'),
    ('listen = ":8080"', f'1: listen: must be host:port such as "127.0.0.1:8080", got ":8080"; {EVERYBODY}'),
    ('listen = "127.0.0.1:65536"', '1: listen: must be host:port such as "127.0.0.1:8080", got "127.0.0.1:65536"'),
    ('upstreams = ["app:0"]', f'1: upstreams: must be {AN_UPSTREAM}, got "app:0"'),
    (
        'upstreams = "app:1"',
        '1: upstreams: expected a list such as ["…", "…"], got "app:1"; did you mean ["app:1"]?',
    ),
    ("upstreams = [1]", f"1: upstreams: must be {AN_UPSTREAM}, got 1"),
    ('[[upstreams]]\naddress = "a:1"', f'1: upstreams: must be {AN_UPSTREAM}, got {{address = "a:1"}}'),
    ("listen = 8080", f'1: listen: must be host:port such as "127.0.0.1:8080", got 8080; {EVERYBODY}'),
    ("[log]\naccess = false", '2: log.access: expected a path, "-" or "off", got false; did you mean "off"?'),
    ('upstreams = ["app:1 weight=0"]', f'1: upstreams: must be {AN_UPSTREAM}, got "app:1 weight=0"'),
    (
        'upstreams = ["app:1 wieght=2"]',
        f'1: upstreams: must be {AN_UPSTREAM}, got "app:1 wieght=2"; did you mean "app:1 weight=2"?',
    ),
    (
        'upstreams = ["http://127.0.0.1:9001"]',
        f'1: upstreams: must be {AN_UPSTREAM}, got "http://127.0.0.1:9001"; {NO_SCHEME} "127.0.0.1:9001"?',
    ),
    (
        'upstreams = ["https://api.example.com/"]',
        f'1: upstreams: must be {AN_UPSTREAM}, got "https://api.example.com/"; {NO_SCHEME} {BY_TLS}',
    ),
    (
        'trusted_proxies = ["10.0.0.1/8"]',
        f'1: trusted_proxies: {A_NETWORK}, got "10.0.0.1/8"; did you mean "10.0.0.0/8"?',
    ),
    ("trusted_proxies = [10]", f"1: trusted_proxies: {A_NETWORK}, got 10"),
    ("workers = 0", "1: workers: must be 1 or more, got 0"),
    (
        'balance = "least"',
        '1: balance: expected one of round_robin, least_busy, random_two, hash, got "least"; did you mean least_busy?',
    ),
    ('hash_by = "cookie"', '1: hash_by: must be "client" or "header:NAME", got "cookie"'),
    ('hash_by = "header:"', '1: hash_by: must be "client" or "header:NAME", got "header:"'),
    ('hash_by = "header:a b"', '1: hash_by: must be "client" or "header:NAME", got "header:a b"'),
    ('[http]\ntrailers = "keep"', '2: http.trailers: expected one of drop, forward, got "keep"'),
    (
        '[http]\nupgrades = ["WebSocket"]',
        f'2: http.upgrades: must be {A_PROTOCOL}, got "WebSocket"; did you mean "websocket"?',
    ),
    ('[http]\nupgrades = ["h2c"]', f'2: http.upgrades: must be {A_PROTOCOL}, got "h2c"'),
    ('[http]\nupgrades = ["tls/1.2"]', f'2: http.upgrades: must be {A_PROTOCOL}, got "tls/1.2"'),
    (
        '[http]\nupgrades = ["web socket"]',
        f'2: http.upgrades: must be {A_PROTOCOL}, got "web socket"; did you mean "websocket"?',
    ),
    ('[http]\nupgrades = [""]', f'2: http.upgrades: must be {A_PROTOCOL}, got ""'),
    (
        '[http]\nupgrades = "websocket"',
        '2: http.upgrades: expected a list such as ["…", "…"], got "websocket"; did you mean ["websocket"]?',
    ),
    (
        '[health]\ncheck_path = "healthz"',
        f'2: health.check_path: must be {A_CHECK}, got "healthz"; did you mean "/healthz"?',
    ),
    ('[health]\ncheck_path = "/a b"', f'2: health.check_path: must be {A_CHECK}, got "/a b"'),
    ('[health]\ncheck_path = "/a#b"', f'2: health.check_path: must be {A_CHECK}, got "/a#b"; did you mean "/a"?'),
    ('[health]\ncheck_every = "off"', '2: health.check_every: must be more than 0 and not "off", got "off"'),
    ('[health]\ncheck_every = "0s"', '2: health.check_every: must be more than 0 and not "off", got "0s"'),
    ("[health]\ncheck_fails = 0", "2: health.check_fails: must be 1 or more, got 0"),
    ("[health]\neject_share = 1.5", "2: health.eject_share: must be a share between 0 and 1, got 1.5"),
    ('[discovery]\nkind = "consul"', '2: discovery.kind: expected one of static, dns, file, kubernetes, got "consul"'),
    ('[discovery]\nresolver = "dns:53"', f'2: discovery.resolver: must be {A_RESOLVER}, got "dns:53"'),
    (
        '[discovery]\nresolver = "10.0.0.1"',
        f'2: discovery.resolver: must be {A_RESOLVER}, got "10.0.0.1"; did you mean "10.0.0.1:53"?',
    ),
    ('[tls]\nmin_version = "1.1"', '2: tls.min_version: expected one of 1.2, 1.3, got "1.1"; did you mean 1.2?'),
    ("[tls]\nmin_version = 1.2", '2: tls.min_version: expected one of 1.2, 1.3, got 1.2; did you mean "1.2"?'),
    (
        '[tls]\ncertificates = "a.pem"',
        '2: tls.certificates: expected a list such as ["…", "…"], got "a.pem"; did you mean ["a.pem"]?',
    ),
    ('[tls]\nkey = "a.pem"', "2: tls.key: unknown key; one of certificates, client_ca, min_version"),
    (
        '[upstream_socket]\nkeepalive_idle = "500ms"',
        '2: upstream_socket.keepalive_idle: must be whole seconds, from 1s to 32767s, got "500ms"',
    ),
    (
        '[upstream_socket]\nkeepalive_idle = "10h"',
        '2: upstream_socket.keepalive_idle: must be whole seconds, from 1s to 32767s, got "10h"',
    ),
    (
        '[upstream_socket]\nkeepalive_idle = "off"',
        '2: upstream_socket.keepalive_idle: must be whole seconds, from 1s to 32767s, got "off"',
    ),
    (
        "[upstream_socket]\nkeepalive_count = 128",
        "2: upstream_socket.keepalive_count: must be between 1 and 127, got 128",
    ),
    ('[downstream_socket]\nlinger = "5s"', '2: downstream_socket.linger: must be "off" or "0s", got "5s"'),
    (
        '[downstream_socket]\nuser_timeout = "0s"',
        '2: downstream_socket.user_timeout: must be more than 0, or "off" for no limit, got "0s"',
    ),
    ("[socket]\nnodelay = true", "1: socket: unknown section; --show-config lists what there is"),
    ("[listener]\nbacklog = 0", "2: listener.backlog: must be 1 to 2147483647, got 0"),
    ("[listener]\nbacklog = 9999999999", "2: listener.backlog: must be 1 to 2147483647, got 9999999999"),
    (
        '[admin]\nlisten = "9901"',
        f'2: admin.listen: must be {AN_ADMIN}, got "9901"; did you mean "127.0.0.1:9901"?',
    ),
    ('[admin]\nallowed_hosts = ["a:80"]', f'2: admin.allowed_hosts: must be {A_HOST}, got "a:80"; did you mean "a"?'),
    ('[admin]\nallowed_hosts = ["A"]', f'2: admin.allowed_hosts: must be {A_HOST}, got "A"; did you mean "a"?'),
    ('[log]\nformat = "common"', '2: log.format: expected one of json, combined, got "common"; did you mean combined?'),
    ('[log]\nformat = "text"', '2: log.format: expected one of json, combined, got "text"'),
    # shape
    ("timeouts = 5", "1: timeouts: expected a section, [timeouts]"),
    ("pool = { max_idle = true }", "1: pool.max_idle: expected a whole number, got true"),
    ("[pool]\nmax_idle.x = 1", "2: pool.max_idle: expected a whole number, got {x = 1}"),
    # groups
    ("groups = 5", "1: groups: expected a section for each group, such as [groups.api]"),
    ('[[groups]]\nname = "api"', "1: groups: expected a section for each group, such as [groups.api]"),
    ('[groups]\nupstreams = ["a:1"]', "2: groups.upstreams: expected a section, [groups.upstreams]"),
    ("[groups.api]", "1: groups.api: expected at least one key in the section, [groups.api]"),
    ('[[groups.api]]\nbalance = "hash"', "1: groups.api: expected a section, [groups.api]"),
    ('[groups.default]\nbalance = "hash"', f"2: groups.default.balance: {PLAIN_IS_DEFAULT}"),
    ('[groups."a b"]\nbalance = "hash"', f"2: groups.a b.balance: {A_GROUP_NAME}"),
    ('[groups.""]\nbalance = "hash"', "2: groups..balance: expected a section for each group, such as [groups.api]"),
    (
        '[groups.api]\nupstreams = ["a:1"]\nbalanse = "hash"',
        "3: groups.api.balanse: unknown key of a group; did you mean groups.api.balance?",
    ),
    (
        "[groups.api]\nmax_idle = 3",
        "2: groups.api.max_idle: unknown key of a group; did you mean groups.api.pool.max_idle?",
    ),
    (
        "[groups.api.pools]\nmax_idle = 3",
        "1: groups.api.pools: unknown section of a group; did you mean groups.api.pool?",
    ),
    (
        "[groups.api.pool]\nmax_idel = 3",
        "2: groups.api.pool.max_idel: unknown key of a group; did you mean groups.api.pool.max_idle?",
    ),
    ("[groups.api]\npool = 3", "2: groups.api.pool: expected a section, [groups.api.pool]"),
    ("[groups.api.pool]\nmax_idle = -3", "2: groups.api.pool.max_idle: must be 0 or more, got -3"),
    ("[groups.api]\nworkers = 2", "2: groups.api.workers: cannot differ between groups; workers is for all"),
    (
        "[groups.api.limits]\nfields = 9",
        "1: groups.api.limits: cannot differ between groups; limits is for all",
    ),
    (
        '[groups.api.timeouts]\ndownstream_idle = "9s"',
        "2: groups.api.timeouts.downstream_idle: cannot differ between groups; timeouts.downstream_idle is for all",
    ),
    ("[groups.api]\npool = { max_idle = true }", "2: groups.api.pool.max_idle: expected a whole number, got true"),
    ("[groups]\napi.pool.max_idle = true", "2: groups.api.pool.max_idle: expected a whole number, got true"),
    ('["groups"."api".\'pool\']\n"max_idle" = true', "2: groups.api.pool.max_idle: expected a whole number, got true"),
    (
        "groups = { api = { pool = { max_idle = true } } }",
        "1: groups.api.pool.max_idle: expected a whole number, got true",
    ),
    ("[group.api]\nbalance = 1", "1: group: unknown section; did you mean groups?"),
    # routes
    ('[routes]\npath = "/"', f"1: routes: {AS_ROUTES}"),
    ('routes = "api"', f"1: routes: {AS_ROUTES}"),
    ('"routes.1.path" = "/"', f"1: routes: {AS_ROUTES}"),
    ('routes = ["api"]', "1: routes.1: expected a table with host, path and group"),
    ("[[routes]]", "1: routes.1.group: missing: the name of the group that serves the route"),
    ('\n[[routes]]\npath = "/v1"', "2: routes.1.group: missing: the name of the group that serves the route"),
    (
        '[[routes]]\ngroup = "default"\n\n[[routes]]\nprefix = "/v1"\ngroup = "default"',
        "5: routes.2.prefix: unknown key of a route; one of host, path, group",
    ),
    ('[[routes]]\nhosts = "a"', "2: routes.1.hosts: unknown key of a route; did you mean host?"),
    ("[[routes]]\ngroup = 1", "2: routes.1.group: expected a string, got 1"),
    ('[[route]]\ngroup = "api"', "1: route: unknown key; did you mean routes?"),
    *(
        (
            f'[[routes]]\nhost = "{host}"\ngroup = "default"',
            f'2: routes.1.host: must be {A_PATTERN}, got "{host}"{meaning(meant)}',
        )
        for host, meant in NO_HOSTS.items()
    ),
    *(
        (
            f'[[routes]]\npath = "{path}"\ngroup = "default"',
            f'2: routes.1.path: must be {A_PATH}, got "{path}"{meaning(meant)}',
        )
        for path, meant in NO_PATHS.items()
    ),
    # syntax
    ('[[routes]]\npath = "/a"\ngroup = "default"\npath = "/b"', "4: routes.1.path: set twice, first in line 2"),
    ("[groups.api]\n[groups.api]\n", "2: groups.api: set twice, first in line 1"),
    ("[[routes]\n", "1: column 9: not valid TOML: Expected ']]' at the end of an array declaration"),
    ('[timeouts]\nconnect = "5s"\n\nconnect = "6s"', "4: timeouts.connect: set twice, first in line 2"),
    ("[timeouts]\n[pool]\n[timeouts]\n", "3: timeouts: set twice, first in line 1"),
    ('listen = "a:1"\nupstreams = \n', "2: column 13: not valid TOML: Invalid value"),
    ('listen = "a:1"\nupstreams = [', "2: not valid TOML: Invalid value"),
    # what is TOML nearly
    ("[timeouts]\nconnect = 5s", f'2: column 12: {NO_TOML}: {ONE_LINE}; did you mean connect = "5s"?'),
    ("[timeouts]\nconnect = off # none", f'2: column 11: {NO_TOML}: Invalid value; did you mean connect = "off"?'),
    ("[upstream_tls]\nverify = False", f"2: column 10: {NO_TOML}: Invalid value; did you mean verify = false?"),
    ("workers = 2;", f"1: column 12: {NO_TOML}: {ONE_LINE}; did you mean workers = 2?"),
    ("listen: 127.0.0.1:80", f'1: column 7: {NO_TOML}: {NO_EQUALS}; did you mean listen = "127.0.0.1:80"?'),
    ("  listen 127.0.0.1:80;", f'1: column 10: {NO_TOML}: {NO_EQUALS}; did you mean listen = "127.0.0.1:80"?'),
    ("server {\n}", f"1: column 8: {NO_TOML}: {NO_EQUALS}"),
    ("connect = 5s 6s = x", f"1: column 12: {NO_TOML}: {ONE_LINE}"),
    ("\ufeffcolour = 1", "1: colour: unknown key; --show-config lists what there is"),
]


@pytest.mark.parametrize(("text", "expected"), WRONG_FILES)
def test_a_mistake_in_a_file_is_told_in_one_line(text: str, expected: str) -> None:
    assert error_of(text) == f"proxy.toml:{expected}"


CONTRADICTIONS = [
    ("upstreams = []", '1: upstreams: expected at least one, such as ["127.0.0.1:9000"]'),
    ('upstreams = ["a:1", "b:1", "a:1"]', "1: upstreams: a:1 is listed twice"),
    (
        'listen = "127.0.0.1:9000"',
        "1: listen: 127.0.0.1:9000 is both listened on and an upstream: requests would go in circles",
    ),
    ('[limits]\nhead_bytes = "4KiB"', "2: limits.head_bytes: limits.line_bytes is more than limits.head_bytes"),
    ('[log]\nevents = "-"', "2: log.events: must be a path: standard output is for the access log"),
    ('upstreams = ["a:1", "A:1 weight=2"]', "1: upstreams: a:1 is listed twice"),
    (
        'listen = "0.0.0.0:9000"\n',
        "1: listen: 0.0.0.0:9000 is both listened on and an upstream: requests would go in circles",
    ),
    (
        'upstreams = ["localhost:8080"]\n',
        "1: upstreams: 127.0.0.1:8080 is both listened on and an upstream: requests would go in circles",
    ),
    # the admin
    (
        'listen = "127.0.0.1:9901"',
        "1: listen: 127.0.0.1:9901 is both the clients' address and the admin's",
    ),
    (
        'upstreams = ["localhost:9901"]',
        "1: upstreams: 127.0.0.1:9901 is the admin's address and an upstream: every client could reach it",
    ),
    *(
        (
            f'[admin]\nlisten = "{listen}"',
            f"2: admin.listen: others than this machine can reach {listen}; if that is meant, set admin.public",
        )
        for listen in ("0.0.0.0:9901", "[::]:0", "10.0.0.1:9901", "proxy.example:9901")
    ),
    # what has no effect
    ('hash_by = "header:x-user"', "1: hash_by: has no effect: balance is not hash"),
    ('[health]\ncheck_every = "1s"', "2: health.check_every: has no effect: health.check_path is not set"),
    ('[health]\ncheck_host = "app"', "2: health.check_host: has no effect: health.check_path is not set"),
    ("[health]\ncheck_passes = 1", "2: health.check_passes: has no effect: health.check_path is not set"),
    ('[discovery]\nfile = "e.json"', "2: discovery.file: has no effect: discovery.kind is not file"),
    ('[discovery]\nresolver = "[::1]:53"', "2: discovery.resolver: has no effect: discovery.kind is not dns"),
    (
        '[discovery]\nkind = "dns"\nservice = "api"',
        "3: discovery.service: has no effect: discovery.kind is not kubernetes",
    ),
    (
        '[discovery]\nport_name = "http"',
        "2: discovery.port_name: has no effect: discovery.kind is not file or kubernetes",
    ),
    ('[tls]\nclient_ca = "ca.pem"', "2: tls.client_ca: has no effect: there are no tls.certificates"),
    ('[tls]\nmin_version = "1.3"', "2: tls.min_version: has no effect: there are no tls.certificates"),
    ('[upstream_tls]\nca_file = "ca.pem"', "2: upstream_tls.ca_file: has no effect: upstream_tls.enabled is false"),
    ("[upstream_tls]\nverify = false", "2: upstream_tls.verify: has no effect: upstream_tls.enabled is false"),
    (
        "[downstream_socket]\nkeepalive_count = 9",
        "2: downstream_socket.keepalive_count: has no effect: downstream_socket.keepalive is false",
    ),
    (
        '[upstream_socket]\nkeepalive_idle = "9s"',
        "2: upstream_socket.keepalive_idle: has no effect: upstream_socket.keepalive is false",
    ),
    (
        '[limits]\nmin_body_rate = "1KiB"\n[timeouts]\nbody_gap = "off"',
        "2: limits.min_body_rate: is measured over timeouts.body_gap, which is off",
    ),
    # what one value needs of another
    ('[discovery]\nkind = "file"', "2: discovery.kind: is file, and discovery.file is not set"),
    ('[discovery]\nkind = "kubernetes"', "2: discovery.kind: is kubernetes, and discovery.service is not set"),
    ('upstreams = []\n[discovery]\nkind = "dns"', '1: upstreams: expected at least one, such as ["127.0.0.1:9000"]'),
    (
        '[discovery]\nkind = "dns"\nmin_ttl = "2m"',
        "3: discovery.min_ttl: discovery.min_ttl is more than discovery.max_ttl",
    ),
    ('[health]\neject_longest = "1s"', "2: health.eject_longest: health.eject_for is more than health.eject_longest"),
    # groups
    ('[groups.api]\nbalance = "least_busy"', "2: groups.api.balance: the group api has no upstreams"),
    ("[groups.api]\nupstreams = []", "2: groups.api.upstreams: the group api has no upstreams"),
    ('[groups.api]\nupstreams = ["a:1", "a:1"]', "2: groups.api.upstreams: a:1 is listed twice"),
    (
        '[groups.api]\nupstreams = ["127.0.0.1:8080"]',
        "2: groups.api.upstreams: 127.0.0.1:8080 is both listened on and an upstream: requests would go in circles",
    ),
    (
        'upstreams = []\n[groups.api]\nupstreams = ["a:1"]',
        '1: upstreams: expected at least one, such as ["127.0.0.1:9000"]',
    ),
    (
        '[groups.api]\nupstreams = ["a:1"]\n[groups.api.upstream_tls]\nserver_name = "a"',
        "4: groups.api.upstream_tls.server_name: has no effect: upstream_tls.enabled is false",
    ),
    (
        '[groups.api]\nupstreams = ["a:1"]\nbalance = "hash"\n[groups.web]\nupstreams = ["b:1"]\nhash_by = "header:x"',
        "6: groups.web.hash_by: has no effect: balance is not hash",
    ),
    (
        '[groups.api.discovery]\nkind = "file"',
        "2: groups.api.discovery.kind: is file, and discovery.file is not set",
    ),
    (
        '[health]\neject_for = "30s"\n[groups.api]\nupstreams = ["a:1"]\nhealth = { eject_longest = "20s" }',
        "5: groups.api.health.eject_longest: health.eject_for is more than health.eject_longest",
    ),
    # routes
    (
        '[groups.api]\nupstreams = ["a:1"]\n[[routes]]\ngroup = "apo"',
        '4: routes.1.group: no group is called "apo"; did you mean api?',
    ),
    ('[[routes]]\ngroup = "x"', '2: routes.1.group: no group is called "x"; one of default'),
    ('upstreams = []\n[[routes]]\ngroup = "default"', "3: routes.1.group: the group default has no upstreams"),
    (
        '[[routes]]\npath = "/v1"\ngroup = "default"\n[[routes]]\npath = "/v1"\ngroup = "default"',
        "5: routes.2.path: */v1 is what routes.1 matches already",
    ),
    (
        '[[routes]]\nhost = "a"\ngroup = "default"\n\n[[routes]]\nhost = "a"\npath = "/"\ngroup = "default"',
        "7: routes.2.path: a/ is what routes.1 matches already",
    ),
    (
        '[[routes]]\ngroup = "default"\n\n[[routes]]\ngroup = "default"',
        "5: routes.2.group: */ is what routes.1 matches already",
    ),
]


@pytest.mark.parametrize(("text", "expected"), CONTRADICTIONS)
def test_a_contradiction_names_the_key_that_was_set(text: str, expected: str) -> None:
    assert error_of(text) == f"proxy.toml:{expected}"


API = '[groups.api]\nupstreams = ["a:1"]\n'
SUSPICIOUS = [
    ("", []),
    (API + '[[routes]]\ngroup = "api"', []),
    (API, ["2: groups.api.upstreams: no route leads to the group api"]),
    (
        API + '\n[groups.web]\nupstreams = ["b:1"]\n[groups.web.pool]\nmax_idle = 3\n[[routes]]\ngroup = "api"',
        ["5: groups.web.upstreams: no route leads to the group web"],
    ),
    (
        '[groups.web.discovery]\nkind = "file"\nfile = "e.json"',
        ["2: groups.web.discovery.kind: no route leads to the group web"],
    ),
    (
        'upstreams = ["b:1"]\n' + API + '[[routes]]\npath = "/v1"\ngroup = "api"\n[[routes]]\ngroup = "api"',
        ["1: upstreams: no request comes here: routes.2 takes all that no other route takes"],
    ),
    ('upstreams = ["b:1"]\n' + API + '[[routes]]\npath = "/v1"\ngroup = "api"', []),
    (
        'upstreams = ["b:1"]\n' + API + '[[routes]]\ngroup = "api"\n[[routes]]\npath = "/x"\ngroup = "default"',
        [],
    ),
]


@pytest.mark.parametrize(("text", "expected"), SUSPICIOUS)
def test_what_is_hardly_meant_is_told_and_is_no_mistake(text: str, expected: list[str]) -> None:
    assert warnings(load(file(text), {}, {})) == [f"proxy.toml:{line}" for line in expected]


def test_a_warning_names_the_flag_or_the_variable() -> None:
    named = load(None, {}, {"groups.api.upstreams": "a:1"})
    assert warnings(named) == ["--groups.api.upstreams: no route leads to the group api"]


@pytest.mark.parametrize(
    ("environ", "flags", "expected"),
    [
        (
            {"KALAB_TIMEOUTS_UPSTREAM_IDEL": "5s"},
            {},
            "KALAB_TIMEOUTS_UPSTREAM_IDEL: unknown variable; did you mean KALAB_TIMEOUTS_UPSTREAM_IDLE?",
        ),
        (
            {"KALAB_UPSTREAM": "a:1"},
            {},
            "KALAB_UPSTREAM: unknown variable; did you mean KALAB_UPSTREAMS?",
        ),
        ({"KALAB_LISTENS": "a:1"}, {}, "KALAB_LISTENS: unknown variable; did you mean KALAB_LISTEN?"),
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
        (
            {"KALAB_GROUPS_API_UPSTREAMS": "a:1"},
            {},
            "KALAB_GROUPS_API_UPSTREAMS: groups and routes have no variables: write them in the file",
        ),
        ({"KALAB_ROUTES": "api"}, {}, "KALAB_ROUTES: groups and routes have no variables: write them in the file"),
        ({}, {"routes.1.group": "api"}, f"--routes.1.group: routes: {AS_ROUTES}"),
        ({}, {"routes": "api"}, f"--routes: {AS_ROUTES}"),
        ({}, {"groups": "api"}, "--groups: expected a section for each group, such as [groups.api]"),
        (
            {},
            {"groups.api.pool.max_idle": "x"},
            '--groups.api.pool.max_idle: expected a whole number, got "x"',
        ),
        (
            {},
            {"groups.api.pool.max_idel": "3"},
            "--groups.api.pool.max_idel: unknown key of a group; did you mean groups.api.pool.max_idle?",
        ),
        ({}, {"groups.api.pool.max_idle": "3"}, "--groups.api.pool.max_idle: the group api has no upstreams"),
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
    with pytest.raises(ConfigError, match=r"^missing\.toml: No such file or directory; looked for /.*/missing\.toml$"):
        load(Path("missing.toml"), {}, {})
    Path("latin.toml").write_bytes(b'listen = "\xe9"')
    with pytest.raises(ConfigError, match=r"^latin\.toml: not UTF-8$"):
        load(Path("latin.toml"), {}, {})
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path, {}, {})


# --- Whatever is written

ROOT = Path(__file__).resolve().parents[2]
TABLES = ["groups", "groups.api", "groups.api.pool", "groups.web.discovery", "groups.default", "routes", "x"]
HEADERS = [*SECTIONS, *TABLES]
NAMES = [*(key.rpartition(".")[2] for key in PLAIN), *OF_A_ROUTE, "api", "pool.max_idle", "routes", "groups"]
VALUES = [
    '"off"',
    '""',
    '"1s"',
    '"api"',
    '"a:1"',
    '["a:1","a:2"]',
    "[]",
    "{}",
    "[{}]",
    "0",
    "1",
    "-1",
    "1.5",
    "nan",
    "true",
    '"/v1"',
    '"hash"',
    '"dns"',
    '"kubernetes"',
    '{group="api"}',
    "1979-05-27",
    '"10.0.0.0/8"',
    '"\\u0000"',
    '"header:x"',
    '[["a:1"]]',
    '"127.0.0.1:9000"',
]
LINES = st.one_of(
    st.builds("[{}]".format, st.sampled_from(HEADERS)),
    st.builds("[[{}]]".format, st.sampled_from(HEADERS)),
    st.builds("{} = {}".format, st.sampled_from(NAMES), st.sampled_from(VALUES)),
)
GOOD = (ROOT / "docs" / "proxy.toml").read_text()


def loads_or_says_why(text: str) -> None:
    problem = ""
    try:
        config = load(file(text), {}, {}).config
    except ConfigError as raised:
        problem = str(raised)
    if problem:
        assert problem.startswith("proxy.toml:")
        assert "\n" not in problem
    else:
        assert load(file(to_toml(config)), {}, {}).config == config


@given(st.lists(LINES, max_size=12))
def test_any_lines_are_a_config_or_one_line_of_error(lines: list[str]) -> None:
    loads_or_says_why("\n".join(lines))


@settings(max_examples=50)
@given(st.data())
def test_a_config_with_a_slip_is_a_config_or_one_line_of_error(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(GOOD)))
    length = data.draw(st.integers(0, 40))
    instead = data.draw(st.text(st.sampled_from('[]={}"#\n .aé0\x00'), max_size=4))
    loads_or_says_why(GOOD[:start] + instead + GOOD[start + length :])
