"""EndpointSlices: what each field means, and what is said of one that cannot be used."""

from __future__ import annotations

from typing import Any

import pytest
from fake_kubernetes import slice_of

from proxy.discovery import Endpoint
from proxy.discovery.endpoint_slice import SliceError, endpoints_in

UNSET = None


def one(conditions: dict[str, bool | None] | None) -> Endpoint:
    """The endpoint with these conditions."""
    endpoint = {"addresses": ["10.0.0.1"], "conditions": conditions}
    (found,) = endpoints_in(slice_of("a", endpoints=[endpoint]), "")
    return found


@pytest.mark.parametrize(
    ("ready", "serving", "terminating", "is_served", "is_terminating"),
    [
        (UNSET, UNSET, UNSET, True, False),
        (True, UNSET, UNSET, True, False),
        (True, True, False, True, False),
        (False, UNSET, UNSET, False, False),  # unset, serving is what ready is
        (False, False, False, False, False),
        (False, True, False, False, False),  # not ready, and not on its way out: kube-proxy sends nothing either
        (False, True, True, True, True),  # drains: may be used while there is no other
        (False, False, True, False, True),
        (False, UNSET, True, False, True),
        (UNSET, UNSET, True, True, True),
        (True, False, False, True, False),  # publishNotReadyAddresses
        (True, False, True, True, True),  # the same, while it ends
    ],
)
def test_conditions_mean_what_the_api_says(
    ready: bool | None, serving: bool | None, terminating: bool | None, is_served: bool, is_terminating: bool
) -> None:
    written = {"ready": ready, "serving": serving, "terminating": terminating}
    expected = Endpoint("10.0.0.1:8080", serving=is_served, terminating=is_terminating)
    assert one(written) == expected
    assert one({name: value for name, value in written.items() if value is not UNSET}) == expected


def test_no_conditions_at_all_mean_ready() -> None:
    assert one(None) == Endpoint("10.0.0.1:8080")


@pytest.mark.parametrize(
    ("ports", "name", "port"),
    [
        ([{"port": 80}], "", 80),
        ([{"name": "", "port": 80}], "", 80),
        ([{"name": "http", "port": 80, "protocol": None}], "http", 80),
        ([{"name": "http", "port": 80}, {"name": "metrics", "port": 90}], "metrics", 90),
        ([{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "http", "port": 80}], "", 80),
        ([{"name": "a", "port": 53, "protocol": "UDP"}, {"name": "a", "port": 80, "protocol": "TCP"}], "a", 80),
        ([{"name": "http", "port": 80, "appProtocol": "http"}], "http", 80),
    ],
)
def test_the_port_is_the_named_one_or_the_only_one(ports: list[dict[str, Any]], name: str, port: int) -> None:
    assert endpoints_in(slice_of("a", "10.0.0.1", ports=ports), name) == (Endpoint(f"10.0.0.1:{port}"),)


def test_slices_are_joined_and_their_order_does_not_matter() -> None:
    a, b = slice_of("a", "10.0.0.1", "10.0.0.3"), slice_of("b", "10.0.0.2", port=9090)
    expected = tuple(Endpoint(address) for address in ("10.0.0.1:8080", "10.0.0.2:9090", "10.0.0.3:8080"))
    assert endpoints_in([a, b], "") == endpoints_in([b, a], "") == expected
    assert endpoints_in({"kind": "List", "apiVersion": "v1", "items": [a, b]}, "http") == expected
    assert endpoints_in({"kind": "EndpointSliceList", "items": [a, b]}, "http") == expected


def test_an_endpoint_that_moves_between_slices_is_told_once_as_what_it_can_do() -> None:
    endpoint: dict[str, Any] = {"addresses": ["10.0.0.1"]}
    slices = [
        slice_of(str(index), endpoints=[endpoint | {"conditions": conditions}])
        for index, conditions in enumerate([{"ready": False}, {"serving": True, "terminating": True}, {"ready": True}])
    ]
    for order in (slices, slices[::-1]):
        assert endpoints_in(order, "") == (Endpoint("10.0.0.1:8080"),)


def test_a_pod_with_two_families_is_told_once_and_two_pods_twice() -> None:
    def pod(address: str, uid: str) -> dict[str, Any]:
        return {"addresses": [address], "targetRef": {"kind": "Pod", "name": uid, "uid": uid}}

    old = slice_of("a", addressType="IPv6", endpoints=[pod("fd00::1", "x"), pod("fd00::2", "y")])
    new = slice_of("b", endpoints=[pod("10.0.0.1", "x")])
    assert [endpoint.address for endpoint in endpoints_in([old, new], "")] == ["10.0.0.1:8080", "[fd00::2]:8080"]


def test_only_the_first_address_of_an_endpoint_counts() -> None:
    each = slice_of("a", endpoints=[{"addresses": ["10.0.0.1", "10.0.0.2"]}])
    assert endpoints_in(each, "") == (Endpoint("10.0.0.1:8080"),)


@pytest.mark.parametrize("endpoints", [None, []])
@pytest.mark.parametrize("ports", [None, [], [{"name": "other", "port": 1}]])
def test_a_slice_without_endpoints_says_that_nobody_serves_whatever_its_ports(endpoints: Any, ports: Any) -> None:
    assert endpoints_in(slice_of("a", endpoints=endpoints, ports=ports), "http") == ()


def test_unknown_fields_are_passed_over() -> None:
    endpoint = {"addresses": ["10.0.0.1"], "zone": "z1", "nodeName": "n", "hints": {"forZones": [{"name": "z1"}]}}
    each = slice_of("a", endpoints=[endpoint], kind="EndpointSlice", apiVersion="discovery.k8s.io/v1", new=[1])
    assert endpoints_in(each, "") == (Endpoint("10.0.0.1:8080"),)


BAD = [
    (7, "$: Expected `object`, got `int`"),
    (None, "$: Expected `object`, got `null`"),
    ({}, "$: Object missing required field `addressType`"),
    ([], "$: no slice in it; a service without endpoints has one slice that lists none"),
    ({"kind": "List", "items": []}, "$: no slice in it; a service without endpoints has one slice that lists none"),
    ({"kind": "List", "items": None}, "$: no slice in it; a service without endpoints has one slice that lists none"),
    ({"kind": "Endpoints", "subsets": []}, "$.kind: expected EndpointSlice or a List of them, got Endpoints"),
    (
        {"kind": "List", "items": [{"kind": "Pod", "addressType": ""}]},
        "$.items[0].kind: expected EndpointSlice, got Pod",
    ),
    (
        slice_of("a", "10.0.0.1", apiVersion="discovery.k8s.io/v1beta1"),
        "$.apiVersion: expected discovery.k8s.io/v1, got discovery.k8s.io/v1beta1",
    ),
    (
        slice_of("a", "app.example", addressType="FQDN"),
        '$.addressType: FQDN has no meaning in the API; for names, discovery.kind is "dns"',
    ),
    (slice_of("a", "10.0.0.1", addressType="IPX"), "$.addressType: expected IPv4 or IPv6, got IPX"),
    (
        [slice_of("a", "10.0.0.1"), slice_of("b", "10.0.0.2", "::1")],
        '$[1].endpoints[1].addresses[0]: expected an IPv4 address, got "::1"',
    ),
    (slice_of("a", "10.0.0.256"), '$.endpoints[0].addresses[0]: expected an IPv4 address, got "10.0.0.256"'),
    (
        slice_of("a", "fe80::1%eth0", addressType="IPv6"),
        '$.endpoints[0].addresses[0]: expected an IPv6 address, got "fe80::1%eth0"',
    ),
    (slice_of("a", endpoints=[{"addresses": []}]), "$.endpoints[0].addresses: Expected `array` of length >= 1"),
    (slice_of("a", endpoints=[{}]), "$.endpoints[0]: Object missing required field `addresses`"),
    (
        slice_of("a", endpoints=[{"addresses": ["10.0.0.1"], "conditions": {"ready": "yes"}}]),
        "$.endpoints[0].conditions.ready: Expected `bool | null`, got `str`",
    ),
    (
        {"kind": "List", "items": [slice_of("a"), slice_of("b", "10.0.0.1", port=65536)]},
        "$.items[1].ports[0].port: Expected `int` <= 65535",
    ),
    (slice_of("a", "10.0.0.1", ports=None), "$.ports: expected one for TCP, got none"),
    (slice_of("a", "10.0.0.1", ports=[{"name": "x"}]), '$.ports: "x" has no number'),
    (
        slice_of("a", "10.0.0.1", ports=[{"name": "x", "port": 1}, {"name": "y", "port": 2}]),
        '$.ports: several for TCP, "x", "y"; choose one by discovery.port_name',
    ),
    (
        [slice_of("a"), slice_of("b", metadata={"labels": {"kubernetes.io/service-name": "api"}})],
        "$: slices of several services: api, web",
    ),
]


@pytest.mark.parametrize(("document", "problem"), BAD, ids=[problem for _, problem in BAD])
def test_what_cannot_be_used_is_refused_with_its_place(document: object, problem: str) -> None:
    with pytest.raises(SliceError) as caught:
        endpoints_in(document, "")
    assert str(caught.value) == problem


def test_a_port_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(SliceError) as caught:
        endpoints_in(slice_of("a", "10.0.0.1"), "web")
    assert str(caught.value) == '$.ports: expected "web" for TCP, got "http"'
