"""Each fuzz target for a moment, with a fixed seed; and each shown to see what it is there to see.

The long run is `python tests/fuzz`.
"""

from __future__ import annotations

import asyncio
import runpy
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import fuzz_builds
import fuzz_config
import fuzz_pool
import fuzz_requests
import fuzz_responses
import fuzz_sockets
import pytest
from findings import Finding, Result, Run
from fuzz_responses import mark, marks
from mutate import mutated, pieces
from stage import Seen

from proxy.http1.request_reader import RequestReader
from proxy.pool import ConnectionPool

HERE = Path(__file__).parent
TREE = HERE.parent.parent
OK_AND_CLOSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
TARGETS = [
    pytest.param(fuzz_requests.run, 15_000, id="requests"),
    pytest.param(fuzz_sockets.run, 1500, id="sockets"),
    pytest.param(fuzz_responses.run, 2000, id="responses"),
    pytest.param(fuzz_pool.run, 140, id="pool"),
    pytest.param(fuzz_config.run, 800, id="config"),
]


@pytest.mark.parametrize(("run", "count"), TARGETS)
def test_a_target_finds_nothing(run: Any, count: int) -> None:
    result = run(1, count=count)
    assert result.findings == []
    assert result.trials >= count


@pytest.mark.skipif(bool(fuzz_builds.not_compiled()), reason=f"the compiled proxy is {fuzz_builds.not_compiled()}")
def test_both_builds_understand_the_same() -> None:
    result = fuzz_builds.run(1, count=10_000)
    assert result.findings == []


# ---- that they would


def test_a_build_that_understands_something_else_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that says it is compiled, and answers in the name of another protocol."""
    for source in (TREE / "proxy").rglob("*.py"):
        copy = tmp_path / source.relative_to(TREE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_text("utf-8").replace('"compiled" if compiled else "plain"', '"compiled"')
        copy.write_text(text.replace("Via: 1.%b", "Via: 9.%b"), "utf-8")
    monkeypatch.setattr(fuzz_builds, "COMPILED", tmp_path)
    (found,) = fuzz_builds.run(1, count=2000).findings
    assert found.what == "the builds differ"


def test_a_reader_that_repairs_line_ends_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    strict = RequestReader.feed

    def lenient(self: RequestReader, data: bytes) -> Any:
        return strict(self, data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))

    monkeypatch.setattr(RequestReader, "feed", lenient)
    assert fuzz_requests.run(1, count=2000).findings


def test_an_answer_to_another_request_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says that all has arrived: then the proxy cannot tell an old answer from the new."""
    monkeypatch.setattr(fuzz_responses, "NOTHING_ACKED", 0)
    assert "was answered with" in fuzz_responses.run(1, count=2000).findings[0].what


def test_a_pool_that_forgets_a_limit_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(ConnectionPool[Any]):
        def reserve(self) -> bool:
            self.open_count += 1
            return True

    monkeypatch.setattr(fuzz_pool, "ConnectionPool", Forgetful)
    found = fuzz_pool.run(1, count=20).findings
    assert found[0].seed == 1
    assert "AssertionError" in found[0].what


def test_a_request_that_only_the_sockets_carry_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_sockets, "PEER", b"10.9.9.9")  # as if it came from another client in process
    found = fuzz_sockets.run(1, count=30).findings
    assert "than in process" in found[0].what


async def test_an_answer_counts_though_the_client_sends_behind_its_last_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It then gets an RST, behind the answer. Found by seed 1010165 of the sockets, in the harness."""

    async def answers_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK_AND_CLOSE)
        writer.close()

    last = b"GET / HTTP/1.0\r\n\r\n"
    monkeypatch.setattr(fuzz_sockets, "pieces", lambda *_: [last, *[bytes(1 << 20)] * 8])
    async with await asyncio.start_server(answers_once, "127.0.0.1", 0) as server:
        seen = Seen((200,), True, (), b"", OK_AND_CLOSE)
        assert await fuzz_sockets.converse(server.sockets[0].getsockname()[1], b"", 1, seen) == ""


def test_a_traceback_of_the_config_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_config, "load", lambda *_: {"": ""}["pool"])
    assert fuzz_config.run(1, count=2).findings[0].what == "KeyError: 'pool'"


@pytest.mark.parametrize("text", ["", "two\nlines", "an escape \x1b[31m", "x" * 5000])
def test_a_bad_complaint_is_found(text: str) -> None:
    assert fuzz_config._complaint(text)
    assert not fuzz_config._complaint("proxy.toml:3: pool.max_idle: expected 0 or more")


# ---- the tools


def test_a_run_stops_at_its_count_or_after_a_few_findings() -> None:
    run = Run(7, count=3)
    assert list(run.seeds()) == [7, 8, 9]
    run = Run(1, seconds=60.0)
    for seed in run.seeds():
        run.found(seed, "bad", b"")
    assert run.result().findings[0] == Finding(1, "bad", b"")
    assert len(run.findings) == 5
    with pytest.raises(ValueError, match="seconds or a count"):
        Run(1)


def test_mutations_depend_on_the_seed_alone() -> None:
    data, other = b"GET /a HTTP/1.1\r\nHost: shop\r\n\r\n", b"PUT /b HTTP/1.1\r\nHost: b\r\n\r\n"
    first, second = ([mutated(Random(seed), data, other) for seed in range(200)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 150
    assert all(b"".join(pieces(Random(seed), data)) == data for seed in range(50))


def test_a_mark_cannot_be_forged_by_a_mutation() -> None:
    assert marks(b"a" + mark(12) + b"b" + mark(7)) == {12, 7}
    assert marks(mark(12).replace(b"12", b"13")) == set()
    assert marks(mark(12)[:-3]) == set()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--count", "20", "pool"], 0, "pool "),
        (["nonsense"], 2, "no target is called nonsense"),
    ],
)
def test_the_command(arguments: list[str], code: int, said: str) -> None:
    done = subprocess.run([sys.executable, str(HERE), *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert said in done.stdout + done.stderr


@pytest.mark.parametrize(("found_at", "seconds", "code"), [(-1, "100", 0), (3, "100", 1), (-1, "0.000001", 2)])
def test_full_counts_are_full_or_it_says_why_not(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, found_at: int, seconds: str, code: int
) -> None:
    command = runpy.run_path(str(HERE / "__main__.py"), run_name="fuzz")
    counts: list[int] = []

    def run(seed: int, _seconds: float | None = None, count: int | None = None) -> Result:
        assert seed == 1 + sum(counts)
        counts.append(count or 0)
        return Result(counts[-1], 0.5, [Finding(seed, "bad", b"")] if len(counts) == found_at else [])

    command["run_full"].__globals__["TELL_EVERY_S"] = 0.0
    full = command["TARGETS"]["pool"].full
    command["TARGETS"]["pool"] = command["TARGETS"]["pool"]._replace(run=run)
    assert command["main"](["--counts", "full", "--seconds", seconds, "--save", str(tmp_path), "pool"]) == code
    told = capsys.readouterr()
    assert sum(counts) == (full if code == 0 else full * 3 // 50 if code == 1 else 0)
    assert ("time is up" in told.out) is (code == 2)
    assert (f"{full} of {full}" in told.err) is (code == 0)


def test_full_counts_are_those_that_are_promised() -> None:
    command = runpy.run_path(str(HERE / "__main__.py"), run_name="fuzz")
    page = (HERE.parents[1] / "docs" / "armour.md").read_text()
    for row, name in {"C2": "requests", "C3": "sockets", "C4": "responses", "C5": "pool", "C6": "config"}.items():
        (line,) = (line for line in page.splitlines() if line.startswith(f"| {row} |"))
        assert f"{command['TARGETS'][name].full:,} " in line or f" {command['TARGETS'][name].full} " in line
        assert command["TARGETS"][name].run.__module__ in line


def test_the_command_says_how_to_see_a_finding_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = runpy.run_path(str(HERE / "__main__.py"), run_name="fuzz")
    command["tell"]("requests", Result(9, 3.0, [Finding(7, "bad", b"GET")]), tmp_path / "runs")
    said = capsys.readouterr().out
    assert "9 trials" in said
    assert "--seed 7 --count 1 requests" in said
    assert (tmp_path / "runs" / "requests-7-0.bin").read_bytes() == b"GET"
