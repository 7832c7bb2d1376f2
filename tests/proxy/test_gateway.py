"""Where requests go, and how that changes in one step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from proxy.config import ProxyConfig, override
from proxy.events import EXCHANGE_FINISHED
from proxy.gateway import Gateway
from proxy.http1.grammar import BadHead
from proxy.http1.request_reader import UNSEEN, Seen

pytestmark = pytest.mark.plain

CLIENT: Any = SimpleNamespace(name="c>s", ip="10.0.0.1")

ROUTED = override(
    ProxyConfig(),
    {
        "routes": [{"path": "/v1", "group": "api"}, {"host": "*.shop.test", "group": "shop"}],
        "groups": {"api": {"upstreams": ["127.0.0.1:9001"]}, "shop": {"upstreams": ["127.0.0.1:9002"]}},
    },
)


def groups(*names: str) -> dict[str, Any]:
    """Groups whose names are all that matters here."""
    return {name: object() for name in names}


@pytest.mark.parametrize(
    ("host", "target", "name"),
    [
        (b"a.test", b"/v1", "api"),
        (b"a.test", b"/v1/x?y", "api"),
        (b"a.test", b"/v10", "default"),
        (b"www.shop.test:8080", b"/", "shop"),
        (b"www.shop.test", b"/v1", "shop"),
        (b"a.test", b"*", "default"),
    ],
)
def test_routes_choose_the_group(host: bytes, target: bytes, name: str) -> None:
    known = groups("default", "api", "shop")
    gateway = Gateway(ROUTED, known)
    assert gateway.only is None
    assert gateway.group_for(host, target) is known[name]


def test_without_routes_there_is_only_one_group_and_nobody_asks() -> None:
    known = groups("default")
    assert Gateway(ProxyConfig(), known).only is known["default"]


def test_without_a_default_group_what_no_route_takes_goes_nowhere() -> None:
    assert Gateway(ROUTED, groups("api", "shop")).group_for(b"a.test", b"/") is None
    nowhere = Gateway(ProxyConfig(), {})
    assert nowhere.only is None
    assert nowhere.group_for(b"a.test", b"/") is None


def test_a_path_that_could_be_two_is_refused() -> None:
    with pytest.raises(BadHead, match="dot segments"):
        Gateway(ROUTED, groups("default", "api", "shop")).group_for(b"a.test", b"/v1/../admin")


def test_others_are_put_in_force_in_one_step() -> None:
    old, new = groups("default"), groups("default", "api", "shop")
    gateway = Gateway(ProxyConfig(), old)
    gateway.take(ROUTED, new)
    assert gateway.config is ROUTED
    assert gateway.only is None
    assert gateway.group_for(b"a.test", b"/v1") is new["api"]
    gateway.take(ProxyConfig(), old)
    assert gateway.only is old["default"]


def test_who_is_told_of_the_end_of_an_exchange() -> None:
    emitted: list[Any] = []
    logged: list[Any] = []
    gateway = Gateway(
        ProxyConfig(),
        {},
        lambda *event: emitted.append(event),
        lambda *detail, **more: logged.append((detail, more)),
    )
    assert gateway.watched
    gateway.report("c>s", 7, "r-1", fields=b"A: b")
    assert [(event[1], event[2], event[3]) for event in emitted] == [("c>s", 7, "r-1")]
    assert logged == [(("c>s", "r-1"), {"http10": False, "fields": b"A: b"})]
    gateway.refused(CLIENT, 400, "bad_request", "no Host", Seen(b"GET", b"/a"))
    assert gateway.exchanges == 1
    detail, more = logged[1]
    assert detail[:7] == ("c>s", "", "10.0.0.1", "GET", "/a", 400, "bad_request")
    assert more == {"http10": False, "fields": b"", "reason": "no Host"}
    assert len(emitted[1]) - 3 == len(detail) - 1 == len(EXCHANGE_FINISHED.fields)


def test_when_nobody_is_told_nothing_is_put_together() -> None:
    gateway = Gateway(ProxyConfig(), {})
    assert not gateway.watched
    gateway.refused(CLIENT, 400, "bad_request", "no Host", UNSEEN)
    assert repr(gateway) == "<Gateway 0 exchanges>"
    assert gateway.counters.group("").causes == {"bad_request": 1}
