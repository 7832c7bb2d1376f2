"""`python tests/fuzz`: runs the fuzz targets, each for its share of the time, and says what was found.

A finding is printed with the seed that reproduces it, and its input is saved; the exit code is then 1. With
`--counts full` each target runs the number of trials that docs/armour.md promises, and says how far it is; if that
takes longer than an hour, or `--seconds`, it stops, says so, and the exit code is 2.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import monotonic
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
# As pytest has them: the tree, and the folders whose modules are imported by bare name.
sys.path[:0] = [str(HERE.parent.parent), str(HERE), str(HERE.parent / "corpus"), str(HERE.parent / "proxy")]

import fuzz_builds  # noqa: E402
import fuzz_config  # noqa: E402
import fuzz_pool  # noqa: E402
import fuzz_requests  # noqa: E402
import fuzz_responses  # noqa: E402
import fuzz_sockets  # noqa: E402
from findings import Result, Runs  # noqa: E402


class Target(NamedTuple):
    """What runs it, its share of the time, and its trials in full."""

    run: Runs
    share: float
    full: int


TARGETS = {
    "requests": Target(fuzz_requests.run, 0.25, 5_000_000),
    "sockets": Target(fuzz_sockets.run, 0.2, 200_000),
    "builds": Target(fuzz_builds.run, 0.1, 500_000),
    "responses": Target(fuzz_responses.run, 0.25, 100_000),  # plays; each has five or six exchanges
    "pool": Target(fuzz_pool.run, 0.1, 2000),
    "config": Target(fuzz_config.run, 0.1, 5_000),
}
PARTS = 50  # of the full count; after each it looks at the clock
TELL_EVERY_S = 10.0  # how far it is
LONGEST_S = 3600.0  # of the full counts
DEFAULT_S = 60.0


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python tests/fuzz",
        description="Fuzzes the proxy.",
        epilog="example: python tests/fuzz --seconds 600 requests",
    )
    parser.add_argument("targets", nargs="*", metavar="target", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--seconds", type=float, help="for all targets together; default 60, an hour for full counts")
    number = parser.add_mutually_exclusive_group()
    number.add_argument("--count", type=int, help="trials of each target, instead of seconds")
    number.add_argument("--counts", choices=["full"], help="as many as docs/armour.md promises: a quarter of an hour")
    parser.add_argument("--seed", type=int, default=1, help="of the first trial; default 1")
    parser.add_argument("--save", type=Path, default=Path("runs/fuzz"), help="where inputs go; default runs/fuzz")
    chosen = parser.parse_args(argv)
    unknown = [name for name in chosen.targets if name not in TARGETS]
    if unknown:
        parser.error(f"no target is called {unknown[0]}; one of {', '.join(TARGETS)}")
    chosen.targets = chosen.targets or list(TARGETS)
    if "builds" in chosen.targets and (why := fuzz_builds.not_compiled()):
        print(f"builds     not run: {why}", flush=True)
        chosen.targets.remove("builds")
    return chosen


def tell(name: str, result: Result, save: Path) -> None:
    """One line for the target, and one for each finding."""
    print(f"{name:<10} {result}", flush=True)
    for number, finding in enumerate(result.findings):
        print(f"  seed {finding.seed}: {finding.what}")
        print(f"    again: python tests/fuzz --seed {finding.seed} --count 1 {name}")
        if finding.data:
            save.mkdir(parents=True, exist_ok=True)
            path = save / f"{name}-{finding.seed}-{number}.bin"
            path.write_bytes(finding.data)
            print(f"    input: {path}")


def run_full(name: str, seed: int, until: float) -> Result:
    """The promised number of trials, part by part; fewer if something is found or the time is up."""
    run, _, full = TARGETS[name]
    trials, seconds, told_at = 0, 0.0, monotonic()
    while trials < full and monotonic() < until:
        part = run(seed + trials, None, full // PARTS)
        trials, seconds = trials + full // PARTS, seconds + part.seconds
        done = Result(trials, seconds, part.findings)
        if part.findings:
            return done
        if monotonic() - told_at >= TELL_EVERY_S:
            told_at = monotonic()
            print(f"{name:<10} {trials} of {full}, {seconds:.0f} s", file=sys.stderr, flush=True)
    return Result(trials, seconds, [])


def main(argv: list[str]) -> int:
    chosen = arguments(argv)
    shares = sum(TARGETS[name].share for name in chosen.targets)
    until = monotonic() + (chosen.seconds or LONGEST_S)
    found, short = 0, 0
    for name in chosen.targets:
        target = TARGETS[name]
        if chosen.counts:
            result = run_full(name, chosen.seed, until)
            if not result.findings and result.trials < target.full:
                short += 1
                print(f"{name}: time is up after {result.trials} of {target.full} trials")
        else:
            seconds = None if chosen.count is not None else (chosen.seconds or DEFAULT_S) * target.share / shares
            result = target.run(chosen.seed, seconds, chosen.count)
        tell(name, result, chosen.save)
        found += len(result.findings)
    return 1 if found else 2 if short else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
