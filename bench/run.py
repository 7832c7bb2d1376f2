"""`python -m bench.run`: CPU time per request of our proxy beside nginx, on this machine, in one go.

Every round starts each contestant afresh, in turn, on a core of its own; wrk and the upstream have the other cores.
Results go to stdout as Markdown and to a JSON file; progress goes to stderr. Exit codes: 0 measured,
2 inconclusive (the reasons are printed), 3 bad usage, 4 this machine cannot run it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NoReturn

from bench import contestants, verdict
from bench.contestants import CONTESTANTS, Contestant, Place
from bench.load import Load, LoadError, drive
from bench.processes import NOTHING, Server, StartError, machine_usage
from bench.verdict import Round

MEASURED, INCONCLUSIVE, BAD_USAGE, CANNOT = 0, 2, 3, 4
HEADS = {"same": "the same head every time", "varying": "browser-like heads, no two alike"}


class Parser(argparse.ArgumentParser):
    """argparse with our exit code for bad usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_USAGE, f"error: {message}\n")


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line. `--short` shows that it runs; it is too little to conclude anything from."""
    names = [c.name for c in CONTESTANTS]
    parser = Parser(prog="python -m bench.run", description="CPU time per request beside nginx.")
    parser.add_argument("--rounds", type=int, default=verdict.ENOUGH_ROUNDS, help="of each contestant (5)")
    parser.add_argument("--seconds", type=int, default=5, help="of load per round (5)")
    parser.add_argument("--connections", type=int, default=64, help="kept open by the load generator (64)")
    parser.add_argument("--heads", choices=[*HEADS, "both"], default="both", help="request heads (both)")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--out", type=Path, help="JSON of every round (runs/bench/TIME.json)")
    parser.add_argument("--short", action="store_true", help="2 rounds of 1 s: a trial run, always inconclusive")
    chosen = parser.parse_args(argv)
    if chosen.short:
        chosen.rounds, chosen.seconds = 2, 1
    if min(chosen.rounds, chosen.seconds, chosen.connections) < 1:
        parser.error("--rounds, --seconds and --connections are at least 1")
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    """Runs it, prints and stores what came of it, and returns the exit code."""
    chosen = options(argv)
    # Ending must unwind the stack of started servers, whoever asks for it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    wrk = contestants.find("wrk")
    if wrk is None:
        print("error: wrk, the load generator, is not here: apt-get install wrk", file=sys.stderr)
        return CANNOT
    rounds: list[Round] = []
    try:
        with closing(measure(wrk, chosen)) as measuring:
            for one in measuring:
                rounds.append(one)
                print(progress(one), file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (StartError, LoadError) as error:
        print(f"error: {error}", file=sys.stderr)
        return CANNOT
    doubts = print_tables(rounds, chosen)
    out = chosen.out or Path("runs/bench") / time.strftime("%Y-%m-%dT%H-%M-%S.json")
    store(out, rounds, doubts, chosen)
    print(f"\nEvery round: {out}")
    return INCONCLUSIVE if doubts else MEASURED


def measure(wrk: str, chosen: argparse.Namespace) -> Generator[Round, None, None]:
    """Every contestant in every round, interleaved; who begins changes from round to round."""
    ready = [c for c in CONTESTANTS if c.name in chosen.only and not c.missing()]
    theirs, ours = split_cores(os.sched_getaffinity(0))
    with ExitStack() as stack:
        room = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kalab-bench-")))
        upstream = stack.enter_context(contestants.start_upstream(room, ours))
        place = Place(room, theirs, upstream.port)
        for heads in HEADS if chosen.heads == "both" else (chosen.heads,):
            load = Load(heads, chosen.connections, chosen.seconds)
            for number in range(chosen.rounds):
                first = number % len(ready)
                for contestant in ready[first:] + ready[:first]:
                    yield run_one(wrk, contestant, place, upstream, load, ours, number + 1)


def split_cores(cores: set[int]) -> tuple[frozenset[int], frozenset[int]]:
    """One core for the contestant, the others for load and upstream; a single core is shared."""
    last = max(cores)
    return frozenset({last}), frozenset(cores - {last} or cores)


def run_one(
    wrk: str, contestant: Contestant, place: Place, upstream: Server, load: Load, cores: frozenset[int], number: int
) -> Round:
    """One contestant in one round: start, check one answer, warm up, measure, stop."""
    blank = Round(number, load.heads, contestant.name)
    with ExitStack() as stack:
        try:
            server = stack.enter_context(contestant.start(place)) if contestant.start else None
            port = server.port if server else upstream.port
            check_answer(port)
            url = f"http://127.0.0.1:{port}{contestants.PATH}"
            drive(wrk, url, load._replace(seconds=1), cores, warm_up=True)
            began = (time.monotonic(), machine_usage(), upstream.usage(), server.usage() if server else NOTHING)
            answered = drive(wrk, url, load, cores)
            used = (server.usage() if server else NOTHING) - began[3]
            behind = upstream.usage() - began[2]
            wall, machine = time.monotonic() - began[0], machine_usage()
        except (StartError, LoadError) as error:
            return blank._replace(failed=str(error))
    known_s = used.user_s + used.system_s + behind.user_s + behind.system_s + answered.cpu_s
    return blank._replace(
        requests=answered.requests,
        seconds=answered.seconds,
        p50_ms=answered.p50_ms,
        p99_ms=answered.p99_ms,
        errors=answered.errors,
        user_s=used.user_s,
        system_s=used.system_s,
        runnable=sum(used) / wall,
        load_share=answered.cpu_s / wall,
        upstream_share=(behind.user_s + behind.system_s) / wall,
        others_share=max(0.0, machine.used_s - began[1].used_s - known_s) / wall,
        stolen_share=(machine.stolen_s - began[1].stolen_s) / wall,
    )


def check_answer(port: int) -> None:
    """A contestant that answers with anything but the upstream's body must not be timed."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", contestants.PATH)
        response = connection.getresponse()
        size = len(response.read())
    except (OSError, HTTPException) as error:
        raise LoadError(f"no answer: {error or type(error).__name__}") from error
    finally:
        connection.close()
    if (response.status, size) != (200, contestants.BODY_BYTES):
        raise LoadError(f"answered {response.status} with {size} bytes, not 200 with {contestants.BODY_BYTES}")


def progress(one: Round) -> str:
    """One line for who waits."""
    what = f"{one.heads:8} round {one.number}  {one.contestant:8}"
    if not one.whole:
        return f"{what} {one.failed or f'errors: {one.errors}'}"
    cost = f"{one.cpu_us:6.1f} µs/request, " if one.contestant != "direct" else ""
    return f"{what} {cost}{one.per_s:,.0f} req/s"


def print_tables(rounds: Sequence[Round], chosen: argparse.Namespace) -> list[str]:
    """The tables on stdout, each with its verdict. Returns all doubts."""
    shown = [c for c in CONTESTANTS if c.name in chosen.only]
    titles = {c.name: f"{c.title} ({c.missing()})" if c.missing() else c.title for c in shown}
    doubts: list[str] = []
    for heads in dict.fromkeys(r.heads for r in rounds):
        own = [r for r in rounds if r.heads == heads]
        found = verdict.doubts(own, cores=len(os.sched_getaffinity(0)))
        print(f"\n## GET, {contestants.BODY_BYTES} bytes, {HEADS[heads]}\n\n{verdict.table(own, titles)}\n")
        print("\n".join(["Inconclusive:", *(f"- {doubt}" for doubt in found)]) if found else "Measured.")
        doubts += [f"{heads}: {doubt}" for doubt in found]
    return doubts


def store(out: Path, rounds: Sequence[Round], doubts: list[str], chosen: argparse.Namespace) -> None:
    """Every round with what one needs to judge it later."""
    asked = {name: getattr(chosen, name) for name in ("rounds", "seconds", "connections", "heads", "only", "short")}
    result = {"doubts": doubts, "asked": asked, "machine": where(), "rounds": [r._asdict() for r in rounds]}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1), "utf-8")


def where() -> dict[str, Any]:
    """Where it ran."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    nginx = contestants.find("nginx")
    version = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=False).stderr if nginx else "none"
    return {
        "kernel": platform.release(),
        "cpu": model[0].partition(":")[2].strip() if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "nginx": version.strip().rpartition("/")[2],
        "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


if __name__ == "__main__":
    sys.exit(main())
