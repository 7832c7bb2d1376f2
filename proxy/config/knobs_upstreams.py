"""The knobs of a group of upstreams: which of them are fit to serve, and how they are found."""

from __future__ import annotations

from typing import Final

import msgspec

from proxy.config.bounds import AtLeastOne, CheckPath, Count, Discovery, HostOrNone, Interval, Resolver, Share, Timeout
from proxy.config.values import Seconds

_IN_CLUSTER: Final = "/var/run/secrets/kubernetes.io/serviceaccount"  # where Kubernetes mounts them in every pod


class HealthConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Which upstreams get no requests for a while: those whose requests fail (ejection), and those whose checks do."""

    eject_after: Count = 5
    """Failures in a row after which an upstream is ejected. Default 5. 0: never. One success sets the count back."""

    eject_for: Interval = Seconds(5)
    """How long an ejected upstream gets nothing. Default 5s. Then one request tries it; if that fails, it is ejected
    for twice as long as before."""

    eject_longest: Interval = Seconds(60)
    """The longest that an upstream is ejected in one go. Default 60s; at least eject_for."""

    eject_share: Share = 0.5
    """Share of a group that may be ejected at a time, rounded down. Default 0.5. Of two or more, one may be ejected in
    any case, and one always stays. 0: no more than that one. 1: all but one."""

    slow_after: Timeout = Seconds("inf")
    """Time to the head of a response above which the answer counts as a failure. Default off: none is too slow."""

    check_path: CheckPath = ""
    """Path that every upstream is asked for, again and again. Default "": no checks. Any 2xx or 3xx is a pass."""

    check_every: Interval = Seconds(5)
    """Time from one check of an upstream to the next. Default 5s."""

    check_timeout: Interval = Seconds(2)
    """How long a check may take, connecting included. Default 2s. Passed: it has failed."""

    check_fails: AtLeastOne = 3
    """Failed checks in a row after which an upstream is down. Default 3; at least 1."""

    check_passes: AtLeastOne = 2
    """Passed checks in a row after which it is up again. Default 2; at least 1."""

    check_host: HostOrNone = ""
    """Host field of a check. Default "": the upstream's address."""


class DiscoveryConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How the upstreams of a group are found. On any problem the last good set is kept."""

    kind: Discovery = "static"
    """Where addresses come from. Default static: upstreams are what it says. dns: the names in upstreams are resolved
    again and again. file: from a file that is watched. kubernetes: from the EndpointSlices of a service."""

    min_ttl: Interval = Seconds(1)
    """The shortest that an answer of DNS is believed, whatever its own time to live. Default 1s. For dns only."""

    max_ttl: Interval = Seconds(60)
    """The longest that an answer of DNS is believed. Default 60s; at least min_ttl. For dns only."""

    resolver: Resolver = ""
    """The DNS server to ask, by its address and port. Default "": the system's. For dns only."""

    file: str = ""
    """The file of endpoints, as JSON: EndpointSlices, or a list of addresses. Default "": none; kind file needs one."""

    poll_every: Interval = Seconds(1)
    """How often the file is looked at. Default 1s. For file only."""

    service: str = ""
    """The service whose endpoints are taken. Default "": none; kind kubernetes needs one."""

    namespace: str = "default"
    """The namespace of the service. Default "default". For kubernetes only."""

    port_name: str = ""
    """Name of the port in an EndpointSlice. Default "": its only one. For file and kubernetes only."""

    api: str = ""
    """Address of the Kubernetes API, such as "https://10.0.0.1:6443". Default "": the cluster that the proxy runs in.
    For kubernetes only."""

    token_file: str = f"{_IN_CLUSTER}/token"
    """File with the token for the API, which is read again when it changes. Default: where Kubernetes mounts it. "":
    none is sent. For kubernetes only."""

    ca_file: str = f"{_IN_CLUSTER}/ca.crt"
    """File of the authorities, as PEM, that the API's certificate is checked against. Default: where Kubernetes mounts
    it. "": the system's. For kubernetes only."""
