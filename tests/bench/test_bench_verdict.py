"""The benchmark's table and its doubts, from rounds made up here."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from bench import plot
from bench.verdict import ENOUGH_ROUNDS, Round, against, conclusion, doubts, table, units_of, with_range
from bench.workloads import MIB, WORKLOADS, Workload

LOADS = {load.name: load for load in WORKLOADS}
SAME, CALM, DOWNLOAD = LOADS["same"], LOADS["calm"], LOADS["download"]

GOOD = Round(
    number=1,
    workload="same",
    contestant="nginx",
    requests=100_000,
    units=100_000.0,
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
        (rounds_of("nginx", units=0.0), 2, "nothing completed in round 5"),
        (rounds_of("nginx")[:4], 2, "4 whole rounds, a measurement takes 5"),
        (rounds_of("nginx", stolen_share=0.05), 2, "hypervisor took 5%"),
        (rounds_of("nginx", system_s=2.2), 2, "rounds differ by 67%"),
        (
            [r._replace(runnable=0.7) for r in rounds_of("nginx")],
            2,
            "time: the load generator or the upstream was the ",
        ),
        (
            [r._replace(runnable=0.7, others_share=0.3) for r in rounds_of("nginx")],
            2,
            "70% of the time: other programs ",
        ),
        (rounds_of("nginx", runnable=0.7), 2, ""),  # one bored round is an accident, the median is the limit
        ([r._replace(runnable=0.0) for r in rounds_of("direct")], 2, ""),  # nothing stands in the way to be busy
    ],
)
def test_doubts(rounds: list[Round], cores: int, doubt: str) -> None:
    found = doubts(SAME, rounds, cores=cores)
    assert any(doubt in each for each in found) if doubt else not found


def test_a_round_with_errors_is_not_in_the_table() -> None:
    broken = [r._replace(errors={"status": 1}) for r in rounds_of("nginx")]
    assert (
        table(SAME, broken, {"nginx": "nginx"}).splitlines()[2]
        == "| nginx | not measured | – | – | – | – | – | – | 0 |"
    )


def test_table_shows_median_range_and_the_ratio_to_nginx() -> None:
    ours = [r._replace(user_s=0.6, p99_ms=1.5) for r in rounds_of("kalab", p50_ms=0.9)]
    text = table(SAME, rounds_of("nginx") + ours, {"nginx": "nginx", "kalab": "kalab"})
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


@pytest.mark.parametrize(
    ("load", "ours", "says"),
    [
        (SAME, {"user_s": 0.4}, "kalab: target met: 1.07 (1.07–1.07) × nginx, allowed 1.15 ×."),
        (SAME, {"user_s": 0.9}, "kalab: target missed: 1.40 (1.40–1.40) × nginx, allowed 1.15 ×."),
        (CALM, {"p50_ms": 0.8}, "kalab: target met: adds p50 1.20 × and p99 1.00 × what nginx adds, allowed 1.5 ×."),
        (CALM, {"p99_ms": 3.2}, "kalab: target missed: adds p50 1.00 × and p99 3.00 × what nginx adds, allowed 1.5 ×."),
    ],
)
def test_a_target_is_met_or_missed_by_the_median(load: Workload, ours: dict[str, float], says: str) -> None:
    own = [r._replace(**ours) for r in rounds_of("kalab")]  # type: ignore[arg-type]
    control = rounds_of("direct", p50_ms=0.2, p99_ms=0.2)
    control = [r._replace(p50_ms=0.2, p99_ms=0.2) for r in control]
    rounds = [*(r._replace(p50_ms=0.7, p99_ms=1.2) for r in rounds_of("nginx")), *control, *own]
    assert conclusion(load, rounds, "kalab") == says
    assert conclusion(load, rounds, "kalab-compiled") == ""


def test_at_a_fixed_rate_being_bored_is_the_point_and_being_late_a_doubt() -> None:
    bored = [r._replace(runnable=0.02, requests=980, units=980.0) for r in rounds_of("nginx")]
    assert doubts(CALM, bored, cores=2) == []
    late = [*bored[:-1], bored[-1]._replace(requests=500, units=500.0)]
    assert doubts(CALM, late, cores=2) == ["nginx: 250 requests a second in round 5, not 500"]


def test_a_download_is_counted_by_what_arrived() -> None:
    assert units_of(DOWNLOAD, 3, 5 * MIB) == 5.0
    assert units_of(SAME, 3, 5 * MIB) == 3.0


def test_the_plot_has_a_bar_for_each_contestant_that_was_measured() -> None:
    broken = [r._replace(failed="no") for r in rounds_of("caddy")]
    drawn = plot.costs([*rounds_of("nginx"), *rounds_of("kalab"), *rounds_of("direct"), *broken])
    assert drawn.count(">nginx</text>") == drawn.count(">kalab</text>") == 1
    assert "direct" not in drawn
    assert "caddy" not in drawn
    ElementTree.fromstring(drawn)
