"""The benchmark's table and its doubts, from rounds made up here."""

from __future__ import annotations

import pytest

from bench.verdict import ENOUGH_ROUNDS, Round, against, doubts, table, with_range

GOOD = Round(
    number=1,
    heads="same",
    contestant="nginx",
    requests=100_000,
    seconds=2.0,
    p50_ms=0.7,
    p99_ms=1.2,
    user_s=0.3,
    system_s=1.2,
    runnable=0.99,
    load_share=0.5,
    upstream_share=0.4,
)


def rounds_of(contestant: str, **changes: object) -> list[Round]:
    """Enough good rounds, the last of them changed."""
    good = [GOOD._replace(number=n, contestant=contestant) for n in range(1, ENOUGH_ROUNDS + 1)]
    return [*good[:-1], good[-1]._replace(**changes)]  # type: ignore[arg-type]


def test_cost_is_cpu_time_per_completed_request() -> None:
    assert GOOD.cpu_us == pytest.approx(15.0)
    assert GOOD.user_us == pytest.approx(3.0)
    assert GOOD.per_s == pytest.approx(50_000)


@pytest.mark.parametrize(
    ("rounds", "cores", "doubt"),
    [
        (rounds_of("nginx"), 2, ""),
        (rounds_of("nginx"), 1, "one core"),
        (rounds_of("nginx", failed="nginx did not start: no"), 2, "nginx did not start: no"),
        (rounds_of("nginx", errors={"read": 3, "status": 1}), 2, "errors in round 5: 3 read, 1 status"),
        (rounds_of("nginx", requests=0), 2, "no request completed in round 5"),
        (rounds_of("nginx")[:4], 2, "4 whole rounds, a measurement takes 5"),
        (rounds_of("nginx", stolen_share=0.05), 2, "hypervisor took 5%"),
        (rounds_of("nginx", system_s=2.2), 2, "rounds differ by 67%"),
        ([r._replace(runnable=0.7) for r in rounds_of("nginx")], 2, "at work for only 70% of the time"),
        (rounds_of("nginx", runnable=0.7), 2, ""),  # one bored round is an accident, the median is the limit
        ([r._replace(runnable=0.0) for r in rounds_of("direct")], 2, ""),  # nothing stands in the way to be busy
    ],
)
def test_doubts(rounds: list[Round], cores: int, doubt: str) -> None:
    found = doubts(rounds, cores=cores)
    assert any(doubt in each for each in found) if doubt else not found


def test_a_round_with_errors_is_not_in_the_table() -> None:
    broken = [r._replace(errors={"status": 1}) for r in rounds_of("nginx")]
    assert table(broken, {"nginx": "nginx"}).splitlines()[2] == "| nginx | not measured | – | – | – | – | – | – | 0 |"


def test_table_shows_median_range_and_the_ratio_to_nginx() -> None:
    ours = [r._replace(user_s=0.6, p99_ms=1.5) for r in rounds_of("kalab", p50_ms=0.9)]
    text = table(rounds_of("nginx") + ours, {"nginx": "nginx", "kalab": "kalab"})
    assert text.splitlines()[3] == (
        "| kalab | 18.0 (18.0–18.0) | 6.0 | 12.0 | 1.20 (1.20–1.20) | 50,000 (50,000–50,000) | 0.70 (0.70–0.90) "
        "| 1.50 (1.50–1.50) | 5 |"
    )


def test_ratio_is_taken_within_a_round() -> None:
    slow_machine = [GOOD._replace(number=1, system_s=2.7), GOOD._replace(number=1, contestant="kalab", system_s=2.7)]
    calm = [GOOD._replace(number=2), GOOD._replace(number=2, contestant="kalab", user_s=0.6)]
    alone = GOOD._replace(number=3, contestant="kalab")
    ours = [slow_machine[1], calm[1], alone]
    assert against("nginx", ours, [*slow_machine, *calm, alone]) == pytest.approx([1.0, 1.2])


def test_with_range() -> None:
    assert with_range([3.0], ".1f") == "3.0"
    assert with_range([3.0, 1.0, 2.0], ".1f") == "2.0 (1.0–3.0)"
