"""EndpointSlices of Kubernetes (discovery.k8s.io/v1), from JSON to endpoints. Pure: no clock, no files, no network.

Rules of this file:

- Conditions mean what the API says, with kube-proxy's reading: an endpoint serves if it is ready, or if it is
  terminating and still serving. Unset, `ready` is true and `terminating` false. Unset, `serving` is whatever `ready`
  is: older servers define it so, newer ones say "true", and this is the reading that never sends where nobody is ready.
- Only an endpoint's first address counts: the API gives no meaning to the others. So it is with the type FQDN, which is
  deprecated and refused.
- A slice that lists no endpoint is an answer; no slice at all is none. Even for a service without pods Kubernetes keeps
  one slice that is empty.
- An endpoint may stand in two slices while it moves between them, and a pod of a dual-stack service in one for each
  family. Each is told once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Annotated, Final, NamedTuple

import msgspec

from proxy.config.addresses import address_of
from proxy.discovery.endpoints import Endpoint

API: Final = "discovery.k8s.io/v1"
KIND: Final = "EndpointSlice"
LISTS: Final = ("List", "EndpointSliceList")
SERVICE_LABEL: Final = "kubernetes.io/service-name"
VERSIONS: Final = {"IPv4": 4, "IPv6": 6}


class SliceError(ValueError):
    """What is wrong with a document, in one line that names the place in it: `$.endpoints[3].addresses[0]`."""


# --- The document. Go writes an empty list as null, so that every optional list may be one.


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    """What names a slice, and of what it is."""

    name: str = ""
    resource_version: str = ""
    labels: dict[str, str] | None = None


class SlicePort(msgspec.Struct, frozen=True):
    """A port that all endpoints of the slice have. No number means every port."""

    name: str | None = None
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    protocol: str | None = None


class Conditions(msgspec.Struct, frozen=True):
    """The state of an endpoint. What is unset, the rules above fill in."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Target(msgspec.Struct, frozen=True):
    """What stands behind an endpoint: mostly a pod."""

    uid: str = ""


class SliceEndpoint(msgspec.Struct, frozen=True, rename="camel"):
    """An endpoint, as the API writes it."""

    addresses: Annotated[list[str], msgspec.Meta(min_length=1)]
    conditions: Conditions | None = None
    target_ref: Target | None = None


class EndpointSlice(msgspec.Struct, frozen=True, rename="camel"):
    """Some of the endpoints of a service."""

    address_type: str
    endpoints: list[SliceEndpoint] | None = None
    ports: list[SlicePort] | None = None
    metadata: Metadata = Metadata()
    kind: str = KIND  # the items of a list leave these two out
    api_version: str = API


class _SliceList(msgspec.Struct):
    items: list[EndpointSlice] | None = None


class Found(NamedTuple):
    """An endpoint of a slice, and the uid of what stands behind it, or ""."""

    endpoint: Endpoint
    target: str


# --- From the document to endpoints


def endpoints_in(document: object, port_name: str) -> tuple[Endpoint, ...]:
    """The endpoints of a document: one slice, a List of them, or an array of them, all of one service.

    `document` is decoded JSON. Raises SliceError; then none of it is to be used.
    """
    slices = _slices_in(document)
    if not slices:
        raise SliceError("$: no slice in it; a service without endpoints has one slice that lists none")
    services = sorted({each.metadata.labels.get(SERVICE_LABEL, "") for _, each in slices if each.metadata.labels})
    if len(services) > 1:
        raise SliceError(f"$: slices of several services: {', '.join(name or 'none' for name in services)}")
    return merge(found for where, each in slices for found in endpoints_of(each, port_name, where))


def endpoints_of(each: EndpointSlice, port_name: str, where: str = "$") -> list[Found]:
    """The endpoints of one slice. `where` is its place in the document. Raises SliceError."""
    if each.kind != KIND:
        raise SliceError(f"{where}.kind: expected {KIND}, got {each.kind}")
    if each.api_version != API:
        raise SliceError(f"{where}.apiVersion: expected {API}, got {each.api_version}")
    if each.address_type == "FQDN":
        raise SliceError(f'{where}.addressType: FQDN has no meaning in the API; for names, discovery.kind is "dns"')
    if each.address_type not in VERSIONS:
        raise SliceError(f"{where}.addressType: expected IPv4 or IPv6, got {each.address_type}")
    if not each.endpoints:
        return []  # such a slice need not have ports
    port = _port_of(each.ports or [], port_name, where)
    found = []
    for index, one in enumerate(each.endpoints):
        address = one.addresses[0]
        _check(address, each.address_type, f"{where}.endpoints[{index}].addresses[0]")
        conditions = one.conditions or Conditions()
        ready = conditions.ready is not False
        terminating = conditions.terminating is True
        serving = ready or (terminating and conditions.serving is True)
        endpoint = Endpoint(address_of(address, port), serving=serving, terminating=terminating)
        found.append(Found(endpoint, one.target_ref.uid if one.target_ref else ""))
    return found


def merge(found: Iterable[Found]) -> tuple[Endpoint, ...]:
    """One set, in order of the addresses. Of what is there twice, the one that can do more is taken; IPv4 of a pod with
    both families."""
    by_address: dict[str, Found] = {}
    for one in found:
        other = by_address.get(one.endpoint.address)
        if other is None or _fitness(one.endpoint) > _fitness(other.endpoint):
            by_address[one.endpoint.address] = one
    by_target: dict[str, Endpoint] = {}
    for address in sorted(by_address, key=lambda address: (address.startswith("["), address)):
        endpoint, target = by_address[address]
        by_target.setdefault(target or address, endpoint)
    return tuple(by_target.values())


def _fitness(endpoint: Endpoint) -> tuple[bool, bool]:
    return endpoint.serving, not endpoint.terminating


def _slices_in(document: object) -> Sequence[tuple[str, EndpointSlice]]:
    try:
        if isinstance(document, list):
            slices = msgspec.convert(document, list[EndpointSlice])
            return [(f"$[{index}]", each) for index, each in enumerate(slices)]
        if isinstance(document, dict) and document.get("kind") in LISTS:
            slices = msgspec.convert(document, _SliceList).items or []
            return [(f"$.items[{index}]", each) for index, each in enumerate(slices)]
        if isinstance(document, dict) and document.get("kind", KIND) != KIND:
            raise SliceError(f"$.kind: expected {KIND} or a List of them, got {document['kind']}")
        return [("$", msgspec.convert(document, EndpointSlice))]
    except msgspec.ValidationError as problem:
        raise SliceError(placed(problem)) from None


def placed(problem: msgspec.ValidationError) -> str:
    """msgspec's complaint, with the place in front."""
    what, _, place = str(problem).rpartition(" - at ")
    return f"{place.strip('`')}: {what}" if what else f"$: {problem}"


def _port_of(ports: Sequence[SlicePort], name: str, where: str) -> int:
    """The number of the port with this name; with "", of the only one. HTTP needs TCP, so others do not count."""
    ports = [port for port in ports if (port.protocol or "TCP") == "TCP"]
    names = ", ".join(f'"{port.name or ""}"' for port in ports) or "none"
    chosen = [port for port in ports if not name or (port.name or "") == name]
    if not chosen:
        wanted = f'"{name}"' if name else "one"
        raise SliceError(f"{where}.ports: expected {wanted} for TCP, got {names}")
    if len(chosen) > 1:
        raise SliceError(f"{where}.ports: several for TCP, {names}; choose one by discovery.port_name")
    if chosen[0].port is None:
        raise SliceError(f'{where}.ports: "{chosen[0].name or ""}" has no number')
    return chosen[0].port


def _check(address: str, address_type: str, where: str) -> None:
    try:
        fits = ip_address(address).version == VERSIONS[address_type] and "%" not in address
    except ValueError:
        fits = False
    if not fits:
        raise SliceError(f'{where}: expected an {address_type} address, got "{address}"')
