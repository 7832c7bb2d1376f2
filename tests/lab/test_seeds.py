"""One root seed: what is drawn is drawn from it, a stream for each purpose, and again the same. Outcomes may differ."""

from typing import Any, cast

import pytest
from evidence import lane, plan

from lab.lane import Lane
from lab.runner import orders

LANES = [f"arm{n}.POST" for n in range(8)]


def drawn(seed: int, arm: str = "control", block: int = 0) -> list[float]:
    """The first numbers of a round's stream."""
    nothing = cast("Any", None)
    stream = Lane(plan(lane(arm), seed=seed), lane(arm), nothing, nothing, ("127.0.0.1", 1), nothing, nothing).random(
        block
    )
    return [stream.random() for _ in range(5)]


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert orders(7, LANES, 6) == orders(7, LANES, 6)
    assert drawn(7) == drawn(7)


@pytest.mark.parametrize("other", [drawn(8), drawn(7, arm="other"), drawn(7, block=1)])
def test_every_round_has_a_stream_of_its_own(other: list[float]) -> None:
    assert other != drawn(7)


def test_every_block_has_every_lane_once_in_an_order_of_its_own() -> None:
    found = orders(7, LANES, 6)
    assert [sorted(order) for order in found] == [LANES] * 6
    assert len({tuple(order) for order in found}) == 6
    assert found != orders(8, LANES, 6)
