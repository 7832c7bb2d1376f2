"""`kalab list`: each scenario, what it teaches, how long it takes, and its arms. All of it is what they declare."""

from __future__ import annotations

import msgspec

from lab.asked import Asked, understand
from lab.catalogue import catalogue
from lab.duration import estimate_s, told
from lab.model import Scenario
from lab.options import JsonOption

HELP = "Lists the scenarios: what each asks and teaches, how long it takes, and its arms."


class Form(msgspec.Struct, frozen=True):
    """One of the two sizes in which a scenario runs, and about how long that takes."""

    blocks: int
    trials: int
    takes_s: float


class ListedArm(msgspec.Struct, frozen=True):
    """What one arm tries."""

    name: str
    title: str
    why: str
    methods: tuple[str, ...]
    control: str | None


class Listed(msgspec.Struct, frozen=True):
    """One scenario, as it is listed."""

    name: str
    sentence: str
    teaches: str
    full: Form
    short: Form
    arms: tuple[ListedArm, ...]


def command(as_json: JsonOption = False) -> None:
    found = [listed(scenario) for scenario in catalogue().values()]
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    for each in found:
        print(f"{each.name}: {each.sentence}\n  {each.teaches}")
        print(f"  takes about {told(each.full.takes_s)}, with --short {told(each.short.takes_s)}")
        for arm in each.arms:
            print(f"    {arm.name:<20} {arm.title}")
    whole, short = (
        sum(each.takes_s for each in forms) for forms in zip(*((e.full, e.short) for e in found), strict=True)
    )
    print(f"all of them, kalab run --all: about {told(whole)}, with --short {told(short)}")


def listed(scenario: Scenario) -> Listed:
    """A scenario as it is run when nothing else is asked for."""
    arms = tuple(ListedArm(arm.name, arm.title, arm.why, tuple(arm.expect), arm.control) for arm in scenario.arms)
    full, short = _form(scenario, short=False), _form(scenario, short=True)
    return Listed(scenario.name, scenario.sentence, scenario.teaches, full, short, arms)


def _form(scenario: Scenario, *, short: bool) -> Form:
    setup = understand(scenario, Asked(short=short, seed=0))
    return Form(setup.blocks, setup.trials, round(estimate_s(scenario, setup), 1))
