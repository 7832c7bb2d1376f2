"""What wrk says, as the benchmark reads it."""

from __future__ import annotations

import pytest

from bench.load import Answered, LoadError, read_answer

LINE = (
    '{"requests":23,"received":4096,"seconds":1.000405,"p50_ms":43.989,"p99_ms":44.745,'
    '"errors":{"connect":0,"read":2,"write":0,"status":1,"timeout":0}}'
)


def test_the_last_line_is_the_result_and_only_errors_that_occurred_are_kept() -> None:
    expected = Answered(23, 1.000405, 43.989, 44.745, {"read": 2, "status": 1}, 0.5, 4096)
    assert read_answer(f"Running 1s test\nRequests/sec: 22.99\n{LINE}\n", 0.5) == expected


@pytest.mark.parametrize("output", ["", "Requests/sec: 22.99\n"])
def test_no_result_is_an_error_not_a_zero(output: str) -> None:
    with pytest.raises(LoadError, match="no result"):
        read_answer(output, 0.0)
