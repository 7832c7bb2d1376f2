"""Locust's users against a stub server, headless, in a process of their own (gevent stays out of this one)."""

from __future__ import annotations

import csv
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

TREE = Path(__file__).resolve().parent.parent.parent


class Stub(BaseHTTPRequestHandler):
    """Answers GETs; answers POSTs like a proxy that has met the race."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[tuple[str, str]]] = []
    post_status = 502

    def do_GET(self) -> None:
        self.answer(200)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(self.post_status)

    def answer(self, status: int) -> None:
        self.seen.append((self.command, self.headers["X-Request-Id"]))
        self.send_response(status)
        if status == 502:
            self.send_header("X-Kalab-Cause", "closed_before_response")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


class Dropping(Stub):
    """Closes without a word on the second request of every connection."""

    post_status = 200
    asked = 0

    def answer(self, status: int) -> None:
        self.asked += 1
        if self.asked == 1:
            super().answer(status)
        else:
            self.seen.append((self.command, ""))
            self.close_connection = True


@pytest.fixture(params=[Stub])
def stub(request: pytest.FixtureRequest) -> Iterator[str]:
    Stub.seen.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), request.param)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def locust(host: str, csv_prefix: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "-f", "bench/locustfile.py", "--headless", "--users", "4"]
    command += ["--spawn-rate", "4", "--run-time", "3s", "--host", host, "--csv", str(csv_prefix), *arguments]
    return subprocess.run(command, cwd=TREE, capture_output=True, text=True, timeout=60, check=False)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "user", [("SteadyUser",), ("IdleGapUser", "--upstream-idle", "300ms", "--idle-spread", "100ms")]
)
def test_failures_are_named_by_status_and_cause(stub: str, tmp_path: Path, user: tuple[str, ...]) -> None:
    done = locust(stub, tmp_path / "run", *user)
    assert done.returncode == 1, done.stderr  # locust's status for "some requests failed"
    counts = {
        row["Type"]: (int(row["Request Count"]), int(row["Failure Count"])) for row in rows(tmp_path / "run_stats.csv")
    }
    assert counts["GET"][0] > counts["GET"][1] == 0
    assert counts["POST"][0] == counts["POST"][1] > 0
    failures = rows(tmp_path / "run_failures.csv")
    assert [(row["Method"], row["Name"]) for row in failures] == [("POST", "/order")]
    assert "502 closed_before_response" in failures[0]["Error"]
    ids = [request_id for _, request_id in Stub.seen]
    assert len(set(ids)) == len(ids) > 0


@pytest.mark.parametrize("stub", [Dropping], indirect=True)
def test_a_silent_close_shows_on_posts_only_as_the_docstring_says(stub: str, tmp_path: Path) -> None:
    locust(stub, tmp_path / "run", "SteadyUser")
    counts = {row["Type"]: row for row in rows(tmp_path / "run_stats.csv")}
    assert int(counts["POST"]["Failure Count"]) > 0
    assert int(counts["GET"]["Failure Count"]) == 0
    assert sum(method == "GET" for method, _ in Stub.seen) > int(counts["GET"]["Request Count"])


def test_a_duration_without_a_unit_is_refused(tmp_path: Path) -> None:
    done = locust("http://127.0.0.1:1", tmp_path / "run", "IdleGapUser", "--upstream-idle", "5")
    assert done.returncode != 0
    assert 'expected a duration such as "250ms" or "5s", got "5"' in done.stderr
