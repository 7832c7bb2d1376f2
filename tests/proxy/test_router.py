"""Which group a request goes to, and that no spelling of a path slips past its route."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import Route
from proxy.http1.grammar import BadHead
from proxy.router import MOST_KNOWN, Router


def routes(*patterns: str) -> Router:
    """Each is host, path and group: "api.example.com/v1=api", "*/v1=any"."""
    made = []
    for pattern in patterns:
        match, _, group = pattern.rpartition("=")
        host, slash, path = match.partition("/")
        made.append(Route(host="" if host == "*" else host, path=slash + path, group=group))
    return Router(made)


SHOP = routes(
    "*/=rest",
    "*/static=files",
    "api.example.com/v1=v1",
    "api.example.com/v1/users=users",
    "*.example.com/=sites",
    "*.eu.example.com/v1=eu",
    "[::1]/=six",
)


@pytest.mark.parametrize(
    ("host", "target", "group"),
    [
        # Paths end where segments end.
        (b"api.example.com", b"/v1", "v1"),
        (b"api.example.com", b"/v1/", "v1"),
        (b"api.example.com", b"/v1?a=/v1/users", "v1"),
        (b"api.example.com", b"/v1/users", "users"),
        (b"api.example.com", b"/v1/users/7/v1", "users"),
        (b"api.example.com", b"/v1/user", "v1"),
        (b"api.example.com", b"/v1/usersandmore", "v1"),
        (b"api.example.com", b"/v1//users", "v1"),
        # A host whose paths do not match is passed over.
        (b"api.example.com", b"/v10", "sites"),
        (b"api.example.com", b"/v", "sites"),
        (b"api.example.com", b"/", "sites"),
        (b"api.example.com", b"/v1;a", "sites"),
        (b"api.example.com", b"/V1", "sites"),
        (b"api.example.com", b"//v1", "sites"),
        (b"api.example.com", b"/%761", "sites"),
        (b"a.eu.example.com", b"/v2", "sites"),
        # The longest wildcard, at any depth.
        (b"www.example.com", b"/static/a.css", "sites"),
        (b"a.eu.example.com", b"/v1/a", "eu"),
        (b"a.b.eu.example.com", b"/v1", "eu"),
        (b"eu.example.com", b"/v1", "sites"),
        (b"example.com", b"/v1", "rest"),
        (b"notexample.com", b"/v1", "rest"),
        (b".example.com", b"/v1", "rest"),
        # Any host.
        (b"", b"/", "rest"),
        (b"shop", b"/static", "files"),
        (b"shop", b"/static/", "files"),
        (b"shop", b"/staticfiles", "rest"),
        (b"shop", b"*", "rest"),
        (b"shop", b"?", "rest"),
        # Case, port and the dot at the end do not matter.
        (b"API.Example.COM", b"/v1", "v1"),
        (b"api.example.com:8443", b"/v1", "v1"),
        (b"api.example.com.", b"/v1", "v1"),
        (b"Api.example.com.:80", b"/v1", "v1"),
        (b"WWW.Example.com:80", b"/v1", "sites"),
        (b"[::1]", b"/", "six"),
        (b"[::1]:8080", b"/", "six"),
        (b"[::2]:8080", b"/", "rest"),
    ],
)
def test_the_most_specific_route_wins(host: bytes, target: bytes, group: str) -> None:
    assert SHOP.route(host, target) == group


def test_the_order_of_the_routes_does_not_matter() -> None:
    patterns = ["*/=any", "*.b.c/=wild", "*.c/a=wider", "a.b.c/=exact", "a.b.c/a/b=deep"]
    for turned in (patterns, patterns[::-1]):
        router = routes(*turned)
        found = [router.route(host, b"/a/b") for host in (b"a.b.c", b"x.b.c", b"x.c", b"c")]
        assert found == ["deep", "wild", "wider", "any"]


@pytest.mark.parametrize(("host", "target"), [(b"shop", b"/a"), (b"api.example.com", b"/v2"), (b"a.b", b"/")])
def test_what_no_route_matches_has_no_group(host: bytes, target: bytes) -> None:
    assert routes("api.example.com/v1=v1", "*.example.com/v2/x=v2").route(host, target) == ""


def test_without_routes_nothing_matches() -> None:
    assert Router([]).route(b"a", b"/") == ""


DOT_SEGMENTS = [
    b"/v1/../a",
    b"/v1/..",
    b"/..",
    b"/.",
    b"/v1/./a",
    b"/v1/.",
    b"/v1/%2e%2e/a",
    b"/v1/%2E./a",
    b"/v1/.%2e",
    b"/v1/%2e/a",
    b"/v1/..%2fa",
    b"/v1%2f..%2Fa",
    b"/v1/..\\a",
    b"/v1\\..\\a",
    b"/v1/..%5ca",
    b"/v1%5C..",
    b"/v1/..;/a",
    b"/v1/..;x=1/a",
    b"/v1/%2e%2e%3b/a",
    b"/v1/..?a=b",
    b"//../v1",
]


@pytest.mark.parametrize("target", DOT_SEGMENTS)
def test_dot_segments_are_refused_when_there_are_routes_by_path(target: bytes) -> None:
    with pytest.raises(BadHead, match="dot segments") as refused:
        routes("*/v1=v1").route(b"shop", target)
    assert refused.value.status == 400
    assert routes("shop/=shop", "*/=any").route(b"shop", target) == "shop"


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/a..b",
        b"/v1/...",
        b"/v1/..a",
        b"/v1/.well-known/x",
        b"/v1/app.js",
        b"/v1/a.",
        b"/v1/a%2Fb",
        b"/v1/%20%2e%2e%2e",
        b"/v1/a%2e/b",
        b"/v1/a?b=/../c",
        b"/v1?../",
    ],
)
def test_other_dots_and_slashes_pass(target: bytes) -> None:
    assert routes("*/v1=v1").route(b"shop", target) == "v1"


@pytest.mark.parametrize(
    ("host", "target", "group"),
    [
        (b"a." * 121 + b"example.com", b"/v1/a/b", "deep"),
        (b"a." * 4000 + b"example.com", b"/v1/a/b", "v1"),  # no name that DNS could hold: no wildcard is looked for
        (b"a." * 120 + b"example.com", b"/" * 8000, ""),
        (b"shop", b"/v1" + b"/%2" * 2600, "v1"),
        (b"shop", b"/v1" + b"/.a" * 2600, "v1"),
    ],
    ids=["longest host", "labels", "slashes", "percents", "dots"],
)
def test_long_hosts_and_targets_do_no_harm(host: bytes, target: bytes, group: str) -> None:
    assert routes("*/v1=v1", "*.example.com/v1/a/b=deep").route(host, target) == group


def test_hosts_that_clients_make_up_are_not_all_remembered() -> None:
    router = routes("*/=any", "*.example.com/=sites")
    for number in range(2 * MOST_KNOWN):
        assert router.route(b"%d.example.com" % number, b"/") == "sites"
        assert router.route(b"%d" % number * 254, b"/") == "any"
    assert len(router._known) == MOST_KNOWN


SEGMENTS = st.sampled_from(["a", "b", "ab", "c"])
PATHS = st.lists(SEGMENTS, max_size=4).map(lambda segments: "/" + "/".join(segments))
HOSTS = st.sampled_from(["", "x.y.z", "y.z", "*.y.z", "*.z", "w.z"])


@given(
    st.dictionaries(st.tuples(HOSTS, PATHS), st.just(None), max_size=12),
    st.sampled_from(["x.y.z", "y.z", "w.z", "v.x.y.z", "q"]),
    PATHS,
)
def test_it_agrees_with_looking_at_every_route(wanted: dict[tuple[str, str], None], host: str, path: str) -> None:
    def matches(pattern: tuple[str, str]) -> bool:
        name, prefix = pattern
        named = name in ("", host) or (name.startswith("*.") and host.endswith(name[1:]))
        return named and (prefix == "/" or path == prefix or path.startswith(prefix + "/"))

    def rank(pattern: tuple[str, str]) -> tuple[bool, int, int]:
        name, prefix = pattern
        return name == host, len(name), len(prefix)

    router = Router([Route(host=name, path=prefix, group=f"{name}|{prefix}") for name, prefix in wanted])
    best = max(filter(matches, wanted), key=rank, default=None)
    assert router.route(host.encode(), path.encode()) == ("|".join(best) if best else "")


def test_how_it_looks() -> None:
    assert repr(SHOP) == "<Router 7 routes>"
