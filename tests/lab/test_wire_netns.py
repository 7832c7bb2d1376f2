"""The netns wire with real kernels, as the user who runs the tests and, for root, as an ordinary user too.

Where namespaces are forbidden, the probe must say so, and what to do. `unshare` is the independent witness for that.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from wire_peers import Seen, events, packets, segments

from lab.wire import Ability, best, probe

ROOT = Path(__file__).parents[2]
TRIAL = Path(__file__).with_name("wire_trial.py")
NOBODY = 65534
CONNECTIONS = 1000
WITHIN_S = 100


class Runner(NamedTuple):
    """How to run Python as a user: `trial` is the script, `folder` is where this user may write."""

    python: str
    trial: Path
    folder: Path
    options: dict[str, Any]
    unshare: list[str]

    def run(self, *arguments: str) -> bytes:
        done = subprocess.run(
            [self.python, *arguments], capture_output=True, timeout=WITHIN_S, check=False, **self.options
        )
        assert done.returncode == 0, done.stderr.decode()
        return bytes(done.stdout)

    def namespaces_allowed(self) -> bool:
        done = subprocess.run([*self.unshare, "true"], capture_output=True, check=False, **self.options)
        return done.returncode == 0


@pytest.fixture(params=["this user", "ordinary user"])
def runner(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runner]:
    if os.geteuid() or request.param == "this user":
        unshare = ["unshare", "-Urn"] if os.geteuid() else ["unshare", "-n"]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        yield Runner(sys.executable, TRIAL, tmp_path, {"env": env}, unshare)
        return
    with tempfile.TemporaryDirectory(prefix="kalab-wire-") as folder:
        yield _as_nobody(Path(folder))


def _as_nobody(folder: Path) -> Runner:
    """Copies what the trial needs to where everybody may read it, and finds a Python that everybody may run."""
    copy, runs = folder / "copy", folder / "runs"
    for package in (ROOT / "lab", ROOT / "proxy", Path(msgspec.__file__).parent):
        shutil.copytree(package, copy / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    for script in (TRIAL, TRIAL.with_name("wire_upstream.py")):
        shutil.copy(script, copy)
    runs.mkdir()
    for path in (folder, copy):
        path.chmod(0o755)
    os.chown(runs, NOBODY, NOBODY)
    options: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": "/"}
    options["env"] = {"PATH": os.environ["PATH"], "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        try:
            subprocess.run([python, "-c", "import msgspec"], check=True, capture_output=True, **options)
        except (OSError, subprocess.CalledProcessError):
            continue
        return Runner(python, copy / TRIAL.name, runs, options, ["unshare", "-Urn"])
    raise AssertionError(f"found no {version} that an ordinary user may run: install it to /usr/bin")


def test_the_probe_is_right_about_this_machine(runner: Runner) -> None:
    ability = msgspec.json.decode(runner.run("-m", "lab.wire", "probe"), type=Ability)
    assert ability.ok == runner.namespaces_allowed()
    if ability.ok:
        assert ability.how == ("user namespace" if "-Urn" in runner.unshare else "root")
        assert not ability.why_not
    else:
        assert ability.why_not.endswith(".")


def test_a_request_and_a_close_cross_on_every_connection(runner: Runner) -> None:
    if not runner.namespaces_allowed():
        assert msgspec.json.decode(runner.run("-m", "lab.wire", "probe"), type=Ability).why_not
        return
    said = msgspec.json.decode(runner.run(str(runner.trial), "netns", str(runner.folder), str(CONNECTIONS)))

    crossing = said["crossing"]
    assert (crossing["held"], crossing["eofs"], crossing["proofs"]) == (CONNECTIONS, CONNECTIONS, CONNECTIONS)
    assert crossing["drained"]
    assert crossing["quiet"]
    assert crossing["took_s"] < 20
    assert said["stats"]["lost"] == said["stats"]["log_dropped"] == said["stats"]["pcap_dropped"] == 0
    _crossings_are_in_the_log(runner.folder)
    _captures_show_both_sides(runner.folder)
    _links_differ(said["links"]["took_s"])
    assert said["long_hold"]["ended"]
    assert said["long_hold"]["took_s"] >= 1.0
    _a_repeated_fin_went_no_further(runner.folder)


def _crossings_are_in_the_log(run_dir: Path) -> None:
    """On every connection: FIN out, request out, FIN in, request in, and the RST that answers it."""
    fins = _first_of_each(segments(run_dir, link="gated", flags="F", dir="down"))
    rsts = _first_of_each(segments(run_dir, link="gated", flags="R", dir="down"))
    sent = segments(run_dir, link="gated", flags="D", dir="up")
    aimed = _first_of_each([line for line in sent if line["req_id"] >= "r-1"])
    assert len({line["req_id"] for line in aimed.values()}) == CONNECTIONS
    for request in aimed.values():
        fin, rst = fins[request["conn"]], rsts[request["conn"]]
        assert fin["t_in"] < request["t_in"] < fin["t_out"]
        assert fin["t_in"] < request["t_out"] < rst["t_in"] < rst["t_out"]
        assert request["up_conn"] == request["conn"]
    released = [event["by"] for event in events(run_dir) if event["kind"] == "wire.released"]
    assert released == ["request"] * CONNECTIONS + ["hold_limit"]


def _first_of_each(lines: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By connection; a busy machine makes kernels repeat themselves."""
    return {line["conn"]: line for line in reversed(lines)}


def _captures_show_both_sides(run_dir: Path) -> None:
    """The same connection: the request first at the proxy's side, the FIN first at the upstream's."""
    request = next(line for line in segments(run_dir, link="gated", flags="D", dir="up") if line["req_id"] >= "r-1")
    port = int(request["conn"].partition(">")[0].rpartition(":")[2])
    for name, expected in (
        ("proxy-side.pcap", ["request", "FIN", "RST"]),
        ("upstream-side.pcap", ["FIN", "request", "RST"]),
    ):
        of_flow = [packet for packet in packets(run_dir / name) if port in (packet.source, packet.target)]
        assert list(dict.fromkeys(word for word in map(_word, of_flow) if word)) == expected
        assert [packet.time for packet in of_flow] == sorted(packet.time for packet in of_flow)


def _word(packet: Seen) -> str:
    if b"X-Request-Id: r-1" in packet.data:
        return "request"
    return "FIN" if packet.flags & 1 else "RST" if packet.flags & 4 else ""


def _links_differ(took_s: dict[str, list[float]]) -> None:
    """A handshake and a request cost two delays, the news of a close one."""
    for near, far, delays in zip(took_s["near"], took_s["far"], (2, 2, 1), strict=True):
        assert delays * 0.1 <= far < 5
        assert near < far


def _a_repeated_fin_went_no_further(run_dir: Path) -> None:
    fins = segments(run_dir, link="long", flags="F", dir="down")
    assert len(fins) > 1
    assert [line["t_out"] is not None for line in fins] == [True] + [False] * (len(fins) - 1)


def test_the_best_make_is_one_that_works_here() -> None:
    abilities = probe()
    assert abilities["relay"].ok
    assert best() == ("netns" if abilities["netns"].ok else "relay")
