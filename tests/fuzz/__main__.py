"""`python tests/fuzz`: runs the fuzz targets, each for its share of the time, and says what was found.

A finding is printed with the seed that reproduces it, and its input is saved; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# As pytest has them: the tree, and the folders whose modules are imported by bare name.
sys.path[:0] = [str(HERE.parent.parent), str(HERE), str(HERE.parent / "corpus"), str(HERE.parent / "proxy")]

import fuzz_config  # noqa: E402
import fuzz_pool  # noqa: E402
import fuzz_requests  # noqa: E402
import fuzz_responses  # noqa: E402
import fuzz_sockets  # noqa: E402
from findings import Result  # noqa: E402

# name, what runs it, share of the time
TARGETS = {
    "requests": (fuzz_requests.run, 0.3),
    "sockets": (fuzz_sockets.run, 0.2),
    "responses": (fuzz_responses.run, 0.3),
    "pool": (fuzz_pool.run, 0.1),
    "config": (fuzz_config.run, 0.1),
}


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python tests/fuzz",
        description="Fuzzes the proxy.",
        epilog="example: python tests/fuzz --seconds 600 requests",
    )
    parser.add_argument("targets", nargs="*", metavar="target", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together; default 60")
    parser.add_argument("--count", type=int, help="trials of each target, instead of seconds")
    parser.add_argument("--seed", type=int, default=1, help="of the first trial; default 1")
    parser.add_argument("--save", type=Path, default=Path("runs/fuzz"), help="where inputs go; default runs/fuzz")
    chosen = parser.parse_args(argv)
    unknown = [name for name in chosen.targets if name not in TARGETS]
    if unknown:
        parser.error(f"no target is called {unknown[0]}; one of {', '.join(TARGETS)}")
    chosen.targets = chosen.targets or list(TARGETS)
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


def main(argv: list[str]) -> int:
    chosen = arguments(argv)
    shares = sum(TARGETS[name][1] for name in chosen.targets)
    found = 0
    for name in chosen.targets:
        run, share = TARGETS[name]
        seconds = None if chosen.count is not None else chosen.seconds * share / shares
        result = run(chosen.seed, seconds, chosen.count)
        tell(name, result, chosen.save)
        found += len(result.findings)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
