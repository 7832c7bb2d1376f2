"""`--set KEY=VALUE`: one value of a run otherwise than its scenario says. Keys are those that arms change, and flags.

Rules of this file:

- What an arm of the run changes by this key is changed there, and nowhere else: the control stays what it is. A key
  that none of them changes is set in what all arms start from.
- "margin" is how far below the upstream's idle timeout a fix ends its own, wherever one says so.
- A key that is a flag of `kalab run` is that flag.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lab.errors import UsageError
from lab.flags import seconds
from lab.model import Arm, Below, Scenario
from lab.plan import MIDDLE, PROXY, UPSTREAM, WIRE, Setup
from proxy.config import ConfigError, ProxyConfig, keys, override

MARGIN = "margin"
RTT, KEEP_ALIVE = "wire.rtt_ms", "upstream.keep_alive"

FLAGS = {RTT: "rtt", "rtt": "rtt", KEEP_ALIVE: "keep_alive", "keep-alive": "keep_alive", "stall": "stall"}
"""Keys that are flags with a length of time, and what that is called in `Asked`."""
COUNTS = {"trials": 5000, "blocks": 1000}
"""Keys that are flags with a number, and the largest."""

# The lab gives each proxy these itself.
LABS_OWN = ("listen", "upstreams", "admin.listen", "log.access", "log.events", "workers")

# What of the lab upstream has a size.
UPSTREAM_TIMES, UPSTREAM_COUNTS = ("delay", "drain-for", "jitter"), ("hint", "max-requests", "recycle")
LARGEST = 1_000_000

_THERE_ARE = (
    f"there are {', '.join((MARGIN, *FLAGS, *COUNTS))}, wire.forget, every key of the proxy as proxy.KEY, and "
    f"{', '.join(UPSTREAM + key for key in (*UPSTREAM_TIMES, *UPSTREAM_COUNTS))}"
)


def known_keys() -> list[str]:
    """Every key that can be set."""
    proxy = (f"{room}{key}" for room in (PROXY, MIDDLE) for key in keys() if key not in LABS_OWN)
    upstream = (f"{UPSTREAM}{key}" for key in (*UPSTREAM_TIMES, *UPSTREAM_COUNTS))
    return [MARGIN, *FLAGS, *COUNTS, f"{WIRE}forget", *proxy, *upstream]


def split(text: str) -> tuple[str, str]:
    """KEY=VALUE apart, the key checked. Raises UsageError."""
    key, equals, value = text.partition("=")
    if not equals or not value.strip():
        raise UsageError(f"--set {text}: give KEY=VALUE, such as margin=25ms or wire.rtt_ms=80")
    key = key.strip()
    if _of_a_proxy(key) in LABS_OWN:
        raise UsageError(f"--set {text}: the lab gives each proxy its own {_of_a_proxy(key)}")
    if key not in known_keys():
        near = difflib.get_close_matches(key, known_keys(), n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"--set {text}: unknown key {key!r}; {meant}{_THERE_ARE}")
    return key, value.strip()


def checked(key: str, value: str) -> str:
    """The value as a run takes it. Raises UsageError, or ConfigError for what the proxy does not take."""
    if key == RTT and value.replace(".", "", 1).isdecimal():
        return f"{value}ms"  # its unit is in its name
    count = COUNTS.get(key) or (LARGEST if key.removeprefix(UPSTREAM) in UPSTREAM_COUNTS else 0)
    if count:
        if not value.isdecimal() or not 1 <= int(value) <= count:
            raise UsageError(f"{key}={value}: give a number from 1 to {count}")
    elif key in (MARGIN, f"{WIRE}forget") or key in FLAGS or key.removeprefix(UPSTREAM) in UPSTREAM_TIMES:
        seconds(key, value)
    elif key.startswith((PROXY, MIDDLE)):
        name = _of_a_proxy(key)
        try:
            override(ProxyConfig(), {name: value})
        except ConfigError as error:
            raise UsageError(f"{key}={value}: {str(error).rpartition(name + ': ')[2]}") from error
    return value


def _of_a_proxy(key: str) -> str:
    return key.removeprefix(PROXY).removeprefix(MIDDLE)


def settled(scenario: Scenario, setup: Setup) -> Scenario:
    """The scenario with this run's settings in it."""
    for key, value in setup.settings.items():
        scenario = _set(scenario, setup.arms, key, value)
    return scenario


def _set(scenario: Scenario, arms: Sequence[str], key: str, value: str) -> Scenario:
    if key == MARGIN:
        margin_ms = seconds(key, value) * 1000
        return replace(scenario, arms=tuple(_with_margin(arm, margin_ms) for arm in scenario.arms))
    if any(key in arm.change for arm in scenario.arms if arm.name in arms):
        return replace(scenario, arms=tuple(_changing(arm, key, value) for arm in scenario.arms))
    if key.startswith(PROXY):
        return replace(scenario, proxy=_with(scenario.proxy, key.removeprefix(PROXY), value))
    if key.startswith(UPSTREAM):
        return replace(scenario, upstream=_with(scenario.upstream, key.removeprefix(UPSTREAM), value))
    if key.startswith(MIDDLE):
        if scenario.middle is None:
            raise UsageError(f"{key}={value}: {scenario.name} has one proxy only, which is set as proxy.KEY")
        return replace(scenario, middle=_with(scenario.middle, key.removeprefix(MIDDLE), value))
    return replace(scenario, wire=_with(scenario.wire, key.removeprefix(WIRE), value))


def _with(base: Mapping[str, str], key: str, value: str) -> dict[str, str]:
    return {**base, key: value}


def _with_margin(arm: Arm, margin_ms: float) -> Arm:
    change = {
        key: replace(value, margin_ms=margin_ms, round_trips=0) if isinstance(value, Below) else value
        for key, value in arm.change.items()
    }
    return replace(arm, change=change)


def _changing(arm: Arm, key: str, value: str) -> Arm:
    return replace(arm, change={**arm.change, key: value}) if key in arm.change else arm
