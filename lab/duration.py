"""How long a run will take, from what is declared: told beforehand, and held against measured runs by tests/race.

    start-up + calibration + blocks x (priming + waiting for the moment + answers) + waiting out the pool in between

It is meant for a machine that does little else; a busy one takes longer. `WITHIN` is the factor that the tests bear.
"""

from __future__ import annotations

from math import ceil

from lab.calibration import LAB_SPREAD_S, SPREAD_S
from lab.model import Aim, Arm, Ends, Scenario
from lab.plan import MAX_REQUESTS, Setup, aims_by_time
from proxy.config import parse_duration as seconds_of

WITHIN = 3.0

# Wire, upstream, the logs that are read at the end; and a proxy for each lane.
START_S = 3.0
LANE_S = 0.08
PRIME_S = 0.3
ANSWER_S = 0.3
STAGGER_S = 0.07
ACT_S = 0.4  # most of them start or end a process


def estimate_s(scenario: Scenario, setup: Setup) -> float:
    """Seconds from the start of this run to its verdict."""
    arms = [arm for arm in scenario.arms if arm.name in setup.arms]
    lanes = sum(method in setup.methods for arm in arms for method in arm.expect)
    if not lanes:
        return START_S
    round_s = max(_round_s(scenario, arm, setup) for arm in arms) + ANSWER_S
    # What was answered has a connection, which must be closed before the next aim; traffic takes any connection.
    between_s = setup.keep_alive_s if any(arm.aim is not Aim.TRAFFIC for arm in arms) else 0.0
    block_s = (lanes - 1) * STAGGER_S + round_s + setup.rtt_ms / 1000
    blocks_s = setup.blocks * block_s + (setup.blocks - 1) * between_s
    return START_S + lanes * LANE_S + _calibration_s(scenario, setup) + blocks_s


def told(estimate: float) -> str:
    """An estimate for people: no more digits than it deserves."""
    if estimate < 90:
        return f"{ceil(estimate)} s"
    minutes = ceil(estimate / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _calibration_s(scenario: Scenario, setup: Setup) -> float:
    if not aims_by_time(scenario, setup):
        return 0.0
    return setup.keep_alive_s + (LAB_SPREAD_S if setup.upstream == "lab" else SPREAD_S)


def _round_s(scenario: Scenario, arm: Arm, setup: Setup) -> float:
    traffic = arm.traffic or scenario.traffic
    if arm.aim is Aim.TRAFFIC and traffic is not None:
        rate = traffic.rate * (traffic.members if traffic.apart else 1)
        return setup.trials / rate + len(arm.acts) * ACT_S
    return _priming_s(scenario, arm, setup) + _wait_s(scenario, arm, setup)


def _priming_s(scenario: Scenario, arm: Arm, setup: Setup) -> float:
    answers = int(str(arm.change.get(f"upstream.{MAX_REQUESTS}", scenario.upstream.get(MAX_REQUESTS, 1))))
    return max(1, answers) * (PRIME_S + setup.trials / 1000 + setup.rtt_ms / 1000)


def _wait_s(scenario: Scenario, arm: Arm, setup: Setup) -> float:
    """From the last answer of priming to the aimed requests."""
    if arm.aim is Aim.CRASH or scenario.ends is Ends.COUNT:
        return 0.0
    if arm.aim is Aim.FORGOTTEN:
        return arm.at * seconds_of(scenario.wire["forget"]) + (arm.waits_ms or (0.0, 0.0))[0] / 1000
    return setup.keep_alive_s * (arm.at if arm.aim is Aim.ELSEWHERE else 1.0)
