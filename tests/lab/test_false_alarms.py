"""How often chance alone makes a check speak: simulated with the checkers themselves; docs/verdicts.md has the sums."""

from __future__ import annotations

from random import Random

import pytest
from evidence import answered, lane, plan, trial

from lab.checkers import LaneFinding, judge_lane
from lab.model import Aim, Expect, Exposure, Verdict
from lab.soundness import MAX_CHANCE, equal_arms_agree
from lab.stats import interval
from lab.witness.trials import Trial

RUNS = 1500
ROUNDS, EACH = 6, 24


def swept(arm: str, draw: Random, likeness: float) -> LaneFinding:
    """An arm that loses half of what it sends; `likeness` says how much a round has in common."""
    trials = []
    for block in range(ROUNDS):
        scatter = 0.5 * (1 / likeness - 1) if likeness else 0.0
        share = draw.betavariate(scatter, scatter) if likeness else 0.5
        trials += [(trial if draw.random() < share else answered)(i, arm, block=block) for i in range(EACH)]
    return LaneFinding(lane(arm, aim=Aim.GAPS), Verdict.PASS, "", tuple(trials), tuple(trials), ())


@pytest.mark.parametrize(("likeness", "most"), [(0.0, 0), (0.1, 8)])
def test_equal_arms_raise_no_alarm(likeness: float, most: int) -> None:
    draw = Random(11)
    pairs = ((swept("one", draw, likeness), swept("two", draw, likeness)) for _ in range(RUNS))
    alarms = sum(equal_arms_agree([pair]).verdict is not Verdict.PASS for pair in pairs)
    assert alarms <= most


def test_unequal_arms_are_told_apart() -> None:
    """The other direction: a check that never speaks would raise no false alarm either."""
    draw = Random(12)
    loses_all = tuple(trial(i, "two", block=i // EACH) for i in range(ROUNDS * EACH))
    for _ in range(50):
        other = LaneFinding(lane("two", aim=Aim.GAPS), Verdict.PASS, "", loses_all, loses_all, ())
        assert equal_arms_agree([(swept("one", draw, 0.0), other)]).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(("n", "share"), [(6, 1 / 64), (14, 1 / 16384)])
def test_a_fix_that_saves_half_seldom_passes_for_one_that_saves_all(n: int, share: float) -> None:
    """By the judge itself, over every outcome of n exposed requests of which each is lost or saved."""
    assert share == 0.5**n
    mends = lane(expect=Expect.MENDED)
    saved = [trial(i, status=200, executions=1, attempts=2) for i in range(n)]
    one_lost: list[Trial] = [*saved[:-1], trial(n)]
    found = [judge_lane(plan(mends, min_exposed=0), mends, trials).verdict for trials in (saved, one_lost)]
    assert found == [Verdict.PASS, Verdict.FAIL]  # so of 2 ** n equally likely outcomes just one passes


def test_what_must_happen_every_time_never_fails_by_chance() -> None:
    """Whatever else differs from run to run: how many crossed, in which round, how old the connection was."""
    draw, control = Random(13), lane()
    for _ in range(RUNS):
        n = draw.randrange(20, 41)
        crossed = [trial(i, block=draw.randrange(6), idle_ms=draw.uniform(1900, 2000)) for i in range(n)]
        missed = [answered(i, exposure=Exposure.NEW_CONNECTION) for i in range(n, 40)]
        assert judge_lane(plan(control), control, [*crossed, *missed]).verdict is Verdict.PASS


def test_the_figures_in_the_docs_are_so() -> None:
    assert interval(0, 6).high < 0.46
    assert MAX_CHANCE == 0.0001
    assert 0.5**14 < 0.0001 < 0.5**13
