"""C2: mutated requests through the chain in process. No exception, no hang, and `oracle.problem` has nothing to say."""

from __future__ import annotations

from random import Random

import oracle
import requests_bodies
import requests_framing
import requests_heads
import requests_routing
from findings import Result, Run, Stopwatch
from mutate import LONGEST, mutated, pieces
from stage import Stage, staged

TABLES = (requests_framing, requests_bodies, requests_heads, requests_routing)
MESSAGES = [row.data for table in TABLES for rows in table.FAMILIES.values() for row in rows if len(row.data) < LONGEST]
PLAYS_PER_STAGE = 2000  # then a new one: what old connections left behind must not pile up


def message(seed: int) -> bytes:
    """The bytes of one trial."""
    random = Random(seed)
    return mutated(random, random.choice(MESSAGES), random.choice(MESSAGES))


def trial(stage: Stage, seed: int, data: bytes) -> str:
    """Plays one message; what is wrong, or nothing."""
    try:
        return oracle.problem(data, stage.play(pieces(Random(~seed), data)))
    except Exception as problem:  # any at all is what is looked for here
        return f"{type(problem).__name__}: {problem}"


def run(seed: int, seconds: float | None = None, count: int | None = None) -> Result:
    run = Run(seed, seconds, count)
    seeds = run.seeds()
    more = True
    while more:
        with staged() as stage:
            more = False
            for number in seeds:
                more = True
                data = message(number)
                watch = Stopwatch()
                what = trial(stage, number, data)
                if watch.hung():
                    again = Stopwatch()  # a collection of garbage happens once
                    trial(stage, number, data)
                    what = what or ("it takes too long" if again.hung() else "")
                if what:
                    run.found(number, what, data)
                    break
                if stage.plays >= PLAYS_PER_STAGE:
                    break
    return run.result()
