"""`python -m bench.run`: what our proxy costs beside others, on this machine, in one go.

Every round starts each contestant afresh, in turn, on a core of its own; wrk and the upstream have the other cores.
Tables go to stdout as Markdown; every round, the tables and a plot go to a folder; progress goes to stderr. Exit
codes: 0 measured, 2 inconclusive (the reasons are printed), 3 bad usage, 4 this machine cannot run it. A target that
is missed is told and is no failure: this measures, it does not judge.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NoReturn

from bench import idle, plot, verdict
from bench.contestants import CONTESTANTS, VARIANTS
from bench.load import LoadError, drive
from bench.machine import where
from bench.peers.base import Contestant, Place, how_to_get
from bench.peers.nginx import start_upstream
from bench.processes import NOTHING, Server, StartError, descriptors, machine_usage
from bench.verdict import Round
from bench.workloads import SMALL, WORKLOADS, Workload, write_files

MEASURED, INCONCLUSIVE, BAD_USAGE, CANNOT = 0, 2, 3, 4
IDLE = "idle"
IDLE_CLIENTS = 10_000
ALL = {c.name: c for c in (*CONTESTANTS, *VARIANTS)}
NAMES = [c.name for c in CONTESTANTS]
LOADS = [load.name for load in WORKLOADS] + [IDLE]


class Parser(argparse.ArgumentParser):
    """argparse with our exit code for bad usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_USAGE, f"error: {message}\n")


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line. `--short` shows that it runs; it is too little to conclude anything from."""
    parser = Parser(prog="python -m bench.run", description="CPU time per request beside other proxies.")
    parser.add_argument("--rounds", type=int, default=verdict.ENOUGH_ROUNDS, help="of each contestant (5)")
    parser.add_argument("--seconds", type=int, default=4, help="of load per round (4)")
    parser.add_argument("--load", nargs="+", choices=LOADS, default=LOADS, metavar="NAME", help=", ".join(LOADS))
    parser.add_argument("--only", nargs="+", choices=ALL, default=NAMES, metavar="NAME", help=", ".join(ALL))
    parser.add_argument("--idle-clients", type=int, default=IDLE_CLIENTS, help=f"for the load idle ({IDLE_CLIENTS})")
    parser.add_argument("--out", type=Path, help="folder for rounds, tables and plot (runs/bench/TIME)")
    parser.add_argument("--features", action="store_true", help="only ours, with features on and off; the load is same")
    parser.add_argument("--short", action="store_true", help="2 rounds of 1 s: a trial run, always inconclusive")
    chosen = parser.parse_args(argv)
    if chosen.features:
        chosen.only, chosen.load = [c.name for c in VARIANTS], ["same"]
    if chosen.short:
        chosen.rounds, chosen.seconds, chosen.idle_clients = 2, 1, 200
    if min(chosen.rounds, chosen.seconds, chosen.idle_clients) < 1:
        parser.error("--rounds, --seconds and --idle-clients are at least 1")
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    """Runs it, prints and stores what came of it, and returns the exit code."""
    chosen = options(argv)
    # Ending must unwind the stack of started servers, whoever asks for it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for tool in ("wrk", "nginx"):
        if missing := how_to_get(tool):
            print(f"error: {tool}, which every measurement needs, is {missing}", file=sys.stderr)
            return CANNOT
    rounds: list[Round] = []
    weighed: list[idle.Idle] = []
    try:
        with closing(measure(chosen, weighed)) as measuring:
            for one in measuring:
                rounds.append(one)
                print(progress(one), file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (StartError, LoadError) as error:
        print(f"error: {error}", file=sys.stderr)
        return CANNOT
    tables, doubts = conclude(rounds, weighed, chosen)
    print(tables)
    out = chosen.out or Path("runs/bench") / time.strftime("%Y-%m-%dT%H-%M-%S")
    store(out, rounds, weighed, tables, doubts, chosen)
    print(f"\nEvery round, the tables and the plot: {out}")
    return INCONCLUSIVE if doubts else MEASURED


def measure(chosen: argparse.Namespace, weighed: list[idle.Idle]) -> Generator[Round, None, None]:
    """Every contestant in every round, interleaved; who begins changes from round to round. Weighs them last."""
    ready = [c for c in ALL.values() if c.name in chosen.only and not c.missing()]
    theirs, ours = split_cores(os.sched_getaffinity(0))
    descriptors()
    with ExitStack() as stack:
        room = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kalab-bench-")))
        write_files(room / "files")
        upstream = stack.enter_context(start_upstream(room, ours, room / "files", SMALL))
        place = Place(room, theirs, upstream.port)
        for load in WORKLOADS:
            for number in range(chosen.rounds if load.name in chosen.load else 0):
                first = number % len(ready)
                for contestant in ready[first:] + ready[:first]:
                    yield run_one(contestant, place, upstream, load, chosen.seconds, ours, number + 1)
        if IDLE in chosen.load:
            weighed += [weigh_one(c, place, chosen.idle_clients) for c in ready if c.start]


def split_cores(cores: set[int]) -> tuple[frozenset[int], frozenset[int]]:
    """One core for the contestant, the others for load and upstream; a single core is shared."""
    last = max(cores)
    return frozenset({last}), frozenset(cores - {last} or cores)


def run_one(
    contestant: Contestant,
    place: Place,
    upstream: Server,
    load: Workload,
    seconds: int,
    cores: frozenset[int],
    number: int,
) -> Round:
    """One contestant in one round: start, check one answer, warm up, measure, stop."""
    blank = Round(number, load.name, contestant.name)
    with ExitStack() as stack:
        try:
            server = stack.enter_context(contestant.start(place)) if contestant.start else None
            port = server.port if server else upstream.port
            check_answer(port, load)
            url = f"http://127.0.0.1:{port}{load.path}"
            drive(url, load, 1, cores, warm_up=True)
            began = (time.monotonic(), machine_usage(), upstream.usage(), server.usage() if server else NOTHING)
            answered = drive(url, load, seconds, cores)
            used = (server.usage() if server else NOTHING) - began[3]
            behind = upstream.usage() - began[2]
            wall, machine = time.monotonic() - began[0], machine_usage()
        except (StartError, LoadError) as error:
            return blank._replace(failed=str(error))
    known_s = used.user_s + used.system_s + behind.user_s + behind.system_s + answered.cpu_s
    return blank._replace(
        requests=answered.requests,
        units=verdict.units_of(load, answered.requests, answered.received),
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


def weigh_one(contestant: Contestant, place: Place, clients: int) -> idle.Idle:
    """One contestant with many idle clients."""
    assert contestant.start is not None
    print(f"{IDLE:8} {clients:,} clients  {contestant.name}", file=sys.stderr, flush=True)
    try:
        with contestant.start(place) as server:
            return idle.measure(contestant.name, server, clients)
    except (StartError, LoadError, OSError) as error:
        return idle.Idle(contestant.name, failed=str(error))


def check_answer(port: int, load: Workload) -> None:
    """A contestant that answers with anything but the upstream's body must not be timed."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("HEAD" if load.unit == "MiB" else "GET", load.path)
        response = connection.getresponse()
        body = response.read()
        size = int(response.headers["Content-Length"] or 0) if load.unit == "MiB" else len(body)
    except (OSError, HTTPException) as error:
        raise LoadError(f"no answer: {error or type(error).__name__}") from error
    finally:
        connection.close()
    if (response.status, size) != (200, load.size):
        raise LoadError(f"answered {response.status} with {size} bytes, not 200 with {load.size}")


def progress(one: Round) -> str:
    """One line for who waits."""
    what = f"{one.workload:8} round {one.number}  {one.contestant:11}"
    if not one.whole:
        return f"{what} {one.failed or f'errors: {one.errors}'}"
    cost = f"{one.cpu_us:7.1f} µs each, " if one.contestant != verdict.CONTROL else ""
    return f"{what} {cost}{one.per_s:,.0f} a second"


def conclude(rounds: Sequence[Round], weighed: list[idle.Idle], chosen: argparse.Namespace) -> tuple[str, list[str]]:
    """The tables, each with its verdict, and all doubts."""
    shown = [c for c in ALL.values() if c.name in chosen.only]
    titles = {c.name: f"{c.title} ({c.missing()})" if c.missing() else c.title for c in shown}
    parts, doubts = [], []
    for load in WORKLOADS:
        own = [r for r in rounds if r.workload == load.name]
        if not own:
            continue
        found = verdict.doubts(load, own, cores=len(os.sched_getaffinity(0)))
        said = "\n".join(["Inconclusive:", *(f"- {doubt}" for doubt in found)]) if found else "Measured."
        parts.append(f"## {load.title}\n\n{verdict.table(load, own, titles)}\n\n{said}")
        if not found:
            said_of_ours = (verdict.conclusion(load, own, name) for name in verdict.OURS)
            parts.extend(sentence for sentence in said_of_ours if sentence)
        doubts += [f"{load.name}: {doubt}" for doubt in found]
    if weighed:
        parts.append(f"## Idle clients\n\n{idle.table(weighed, titles)}")
        doubts += [f"{IDLE}: {one.contestant}: {one.failed}" for one in weighed if one.failed]
    return "\n\n".join(parts), doubts


def store(
    out: Path,
    rounds: Sequence[Round],
    weighed: list[idle.Idle],
    tables: str,
    doubts: list[str],
    chosen: argparse.Namespace,
) -> None:
    """Every round with what one needs to judge it later."""
    asked = {name: getattr(chosen, name) for name in ("rounds", "seconds", "load", "only", "idle_clients", "short")}
    result = {
        "doubts": doubts,
        "asked": asked,
        "machine": where(),
        "rounds": [r._asdict() for r in rounds],
        "idle": [one._asdict() for one in weighed],
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "rounds.json").write_text(json.dumps(result, indent=1), "utf-8")
    (out / "tables.md").write_text(tables + "\n", "utf-8")
    (out / "cost.svg").write_text(plot.costs(rounds), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
