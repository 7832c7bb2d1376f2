"""From the words of a command to the setup of a run. A mistake says what was meant."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lab.errors import CannotRunError, UsageError
from lab.flags import choice, seconds
from lab.model import Below, Scenario
from lab.plan import Setup
from lab.sabotage import SABOTAGES
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


def understand(scenario: Scenario, asked: Asked) -> Setup:
    """What exactly was asked for. Raises UsageError, or CannotRunError where this machine lacks what it takes."""
    make = scenario.on or _wire(asked.wire)
    idle_s = _keep_alive_s(asked.keep_alive, scenario)
    size = scenario.short if asked.short else scenario.full
    trials, blocks = asked.trials or size.trials, asked.blocks or size.blocks
    return Setup(
        scenario=scenario.name,
        wire=make,
        upstream=_named("upstream server", asked.upstream, tuple(SERVERS)),
        methods=tuple(_named("method", method.upper(), METHODS) for method in asked.methods or METHODS),
        arms=_arms(scenario, asked.arms),
        keep_alive_s=idle_s,
        rtt_ms=_rtt_ms(asked.rtt, make, scenario, idle_s),
        stall_ms=_stall_ms(asked.stall, asked.upstream) or scenario.stall_ms,
        blocks=blocks,
        trials=trials,
        min_exposed=min(size.min_exposed, trials * blocks // 4),
        seed=random.SystemRandom().randrange(2**32) if asked.seed is None else asked.seed,
        sabotage=_named("sabotage", asked.sabotage, tuple(SABOTAGES)) if asked.sabotage else "",
    )


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


def _keep_alive_s(text: str | None, scenario: Scenario) -> float:
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
