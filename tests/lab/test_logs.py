"""A log that is not whole must be noticed, whatever is wrong with it."""

from pathlib import Path

import pytest

from lab.witness.logs import read
from proxy.events import EventLog, Kind

THING = Kind("thing.done", ("what",))


def written(path: Path, events: int = 5, limit: int = 1000) -> list[bytes]:
    log = EventLog(path, "test", limit=limit)
    for i in range(events):
        log.emit(THING, "", 0, i)
    log.close()
    return path.read_bytes().splitlines(keepends=True)


def test_a_whole_log_is_read_without_its_closing_line(tmp_path: Path) -> None:
    written(tmp_path / "a.jsonl")
    log = read(tmp_path / "a.jsonl")
    assert log.damage == ""
    assert [line["what"] for line in log.lines] == [0, 1, 2, 3, 4]


def test_an_empty_log_that_was_closed_is_whole(tmp_path: Path) -> None:
    written(tmp_path / "a.jsonl", events=0)
    assert read(tmp_path / "a.jsonl").damage == ""


@pytest.mark.parametrize(
    ("keep", "damage"),
    [
        pytest.param([0, 1, 3, 4, 5], "lacks 1 of 5 lines", id="one line lost"),
        pytest.param([0, 2, 1, 3, 4, 5], "lacks 0 of 5 lines", id="lines swapped"),
        pytest.param([0, 1, 2, 3, 4], "no closing line", id="the writer died"),
        pytest.param([], "no closing line", id="emptied"),
        pytest.param([5], "lacks 5 of 5 lines", id="only the closing line"),
    ],
)
def test_damage_is_noticed(tmp_path: Path, keep: list[int], damage: str) -> None:
    path = tmp_path / "a.jsonl"
    lines = written(path)
    path.write_bytes(b"".join(lines[i] for i in keep))
    assert damage in read(path).damage


def test_a_missing_file_is_damage(tmp_path: Path) -> None:
    assert read(tmp_path / "none.jsonl").damage == "none.jsonl is missing"


def test_a_torn_line_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = written(path)
    path.write_bytes(b"".join(lines[:3]) + b'{"n": 3, "ki')
    assert "not JSON" in read(path).damage


def test_dropped_events_are_damage(tmp_path: Path) -> None:
    written(tmp_path / "a.jsonl", events=5000, limit=1)
    assert "dropped" in read(tmp_path / "a.jsonl").damage
