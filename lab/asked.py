"""From the words of a command to the setup of a run. A mistake says what was meant."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from lab.errors import CannotRunError, UsageError
from lab.flags import choice, seconds
from lab.model import Below, Scenario
from lab.plan import Setup
from lab.sabotage import SABOTAGES
from lab.settings import COUNTS, FLAGS, MARGIN, checked, settled, split
from lab.wire import best, probe
from upstreams.catalogue import SERVERS

WIRES = ("relay", "netns", "loopback", "auto")
METHODS = ("GET", "POST")


@dataclass(frozen=True)
class Asked:
    """What was typed, as it was typed. None and nothing: what the scenario says."""

    wire: str = "relay"
    upstream: str = "lab"
    arms: Sequence[str] = ()
    methods: Sequence[str] = ()
    keep_alive: str | None = None
    rtt: str | None = None
    stall: str = "0ms"
    short: bool = False
    blocks: int | None = None
    trials: int | None = None
    seed: int | None = None
    sabotage: str = ""
    settings: Sequence[str] = ()
    """KEY=VALUE, each."""


def understand(scenario: Scenario, asked: Asked) -> Setup:
    """What exactly was asked for. Raises UsageError, or CannotRunError where this machine lacks what it takes."""
    asked, settings = _apart(asked)
    make = scenario.on or _wire(asked.wire)
    size = scenario.short if asked.short else scenario.full
    trials, blocks = asked.trials or size.trials, asked.blocks or size.blocks
    setup = Setup(
        scenario=scenario.name,
        wire=make,
        upstream=_named("upstream server", asked.upstream, tuple(SERVERS)),
        methods=tuple(_named("method", method.upper(), METHODS) for method in asked.methods or METHODS),
        arms=_arms(scenario, asked.arms),
        keep_alive_s=_keep_alive_s(asked.keep_alive, scenario, settings.get(MARGIN)),
        rtt_ms=0.0,
        stall_ms=_stall_ms(asked.stall, asked.upstream) or scenario.stall_ms,
        blocks=blocks,
        trials=trials,
        min_exposed=min(size.min_exposed, trials * blocks // 4),
        seed=random.SystemRandom().randrange(2**32) if asked.seed is None else asked.seed,
        sabotage=_named("sabotage", asked.sabotage, tuple(SABOTAGES)) if asked.sabotage else "",
        settings=settings,
    )
    settled(scenario, setup)  # so that what cannot be set here is told now
    return msgspec.structs.replace(setup, rtt_ms=_rtt_ms(asked.rtt, make, scenario, setup.keep_alive_s))


def _apart(asked: Asked) -> tuple[Asked, dict[str, str]]:
    """The settings that are flags taken for these, and the others."""
    flags: dict[str, Any] = {}
    others: dict[str, str] = {}
    for text in asked.settings:
        key, value = split(text)
        value = checked(key, value)
        name = FLAGS.get(key, key)
        if key in FLAGS and getattr(asked, name) not in (None, "0ms"):
            raise UsageError(f"--set {text}: --{name.replace('_', '-')} says it already")
        if key in COUNTS and getattr(asked, name) is not None:
            raise UsageError(f"--set {text}: --{name} says it already")
        if key in (flags if key in COUNTS else others) or name in flags:
            raise UsageError(f"--set {text}: {key} is set twice")
        if key in FLAGS:
            flags[name] = value
        elif key in COUNTS:
            flags[name] = int(value)
        else:
            others[key] = value
    if others and asked.upstream != "lab" and any(key.startswith("upstream.") for key in others):
        raise UsageError(f"what the upstream does can be set on the lab upstream only, not on {asked.upstream}")
    return replace(asked, **flags), others


def _named(what: str, wanted: str, names: Sequence[str]) -> str:
    return choice(what, wanted, {name: name for name in names})


def _arms(scenario: Scenario, wanted: Sequence[str]) -> tuple[str, ...]:
    """The arms asked for, in the scenario's order, with the controls that they need."""
    named = {arm.name: arm for arm in scenario.arms}
    if not wanted:
        return tuple(named)
    chosen = [choice("arm", name, named) for name in wanted]
    names = {arm.name for arm in chosen} | {arm.control for arm in chosen if arm.control}
    return tuple(name for name in named if name in names)


def _wire(name: str) -> str:
    make = _named("wire", name, WIRES)
    if make == "auto":
        return best()
    if make == "netns":
        found = probe()["netns"]
        if not found.ok:
            raise CannotRunError(f"the netns wire cannot be built here: {found.why_not}")
    return make


def _keep_alive_s(text: str | None, scenario: Scenario, margin: str | None) -> float:
    if margin is not None:
        return _with_margin(text, scenario, margin)
    if text is None:
        return scenario.keep_alive_s
    idle_s = seconds("--keep-alive", text)
    if not idle_s:
        raise UsageError(f"--keep-alive {text}: it must be longer than 0")
    margins = (v.margin_ms for arm in scenario.arms for v in arm.change.values() if isinstance(v, Below))
    widest_ms = max(margins, default=0.0)
    if idle_s * 1000 <= 2 * widest_ms:
        raise UsageError(
            f"--keep-alive {text}: too short for fixes {widest_ms:g} ms below it; give {_enough(widest_ms)}"
        )
    return idle_s


def _with_margin(text: str | None, scenario: Scenario, margin: str) -> float:
    """The idle timeout, of which something must be left below every fix."""
    idle_s = seconds("--keep-alive", text) if text else scenario.keep_alive_s
    if not any(isinstance(value, Below) for arm in scenario.arms for value in arm.change.values()):
        raise UsageError(f"margin={margin}: no arm of {scenario.name} ends a timeout below the upstream's")
    if seconds(MARGIN, margin) > idle_s / 2:
        raise UsageError(f"margin={margin}: at most half of the upstream's idle timeout ({idle_s:g}s)")
    return idle_s


def _enough(margin_ms: float) -> str:
    return f"{2 * margin_ms / 1000 + 0.1:.1f}s or more"


def _rtt_ms(text: str | None, make: str, scenario: Scenario, keep_alive_s: float) -> float:
    if make == "loopback":
        if text:
            raise UsageError("--rtt needs something between proxy and upstream: use --wire relay or netns")
        return 0.0
    rtt_s = seconds("--rtt", text) if text else scenario.rtt_ms / 1000
    if rtt_s > keep_alive_s / 4 and not text:
        raise UsageError(
            f"--keep-alive {keep_alive_s:g}s: too short for this scenario's round trip of {rtt_s * 1000:g} ms"
        )
    if rtt_s > keep_alive_s / 4:
        raise UsageError(f"--rtt {text}: at most a quarter of the upstream's idle timeout ({keep_alive_s:g}s)")
    return rtt_s * 1000


def _stall_ms(text: str, upstream: str) -> float:
    stall_s = seconds("--stall", text)
    if stall_s and upstream != "lab":
        raise UsageError(f"--stall works on the lab upstream only, not on {upstream}")
    return stall_s * 1000
