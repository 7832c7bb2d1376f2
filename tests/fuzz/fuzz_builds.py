"""Both builds of the proxy, plain and compiled, are asked the same: what they make of it must be the same, to the byte.

Two processes play the same mutated requests, and read the same mutated responses, piece by piece. Each tells a digest
of what came of a block of them. Where two digests differ, the block is played again trial by trial.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from findings import Result, Run

from bench.peers.kalab import COMPILED, KALAB_COMPILED

if TYPE_CHECKING:  # each process imports its own
    from proxy.http1.framing import Payload
    from proxy.http1.response_head import ResponseHead

TREE = Path(__file__).resolve().parent.parent.parent
BLOCK = 1000  # trials of one answer
TODAY = re.compile(rb"(?i)\r\nDate: [^\r\n]*").sub  # of the proxy's own pages


class Build:
    """A process with one build of the proxy. `folder`: what it imports `proxy` from."""

    def __init__(self, folder: Path) -> None:
        here = Path(__file__).parent
        paths = [str(folder), *(str(here.parent / name) for name in ("fuzz", "corpus", "proxy")), str(TREE)]
        script = f"import sys; sys.path[:0] = {paths!r}; import fuzz_builds; fuzz_builds.serve()"
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONHASHSEED": "0"},
            text=True,
        )

    def __enter__(self) -> Build:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def ask(self, seed: int, count: int) -> None:
        """`count` trials from `seed` on."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seed} {count}\n")
        self.process.stdin.flush()

    def answer(self) -> list[str]:
        """Which build it is, and a digest of what came of the trials that it was asked."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"{self.process.args!r} has died"
        answer: list[str] = json.loads(line)
        return answer


def not_compiled() -> str:
    """What to do to have a compiled build of these very sources; "" if there is one."""
    return KALAB_COMPILED.missing()


def run(seed: int, seconds: float | None = None, count: int | None = None) -> Result:
    run = Run(seed, seconds, count)
    seeds = run.seeds()
    with Build(TREE) as plain, Build(COMPILED) as compiled:
        while block := [number for number, _ in zip(seeds, range(BLOCK), strict=False)]:
            if _differ(plain, compiled, block[0], len(block)):
                for number in block:
                    if _differ(plain, compiled, number, 1):
                        run.found(number, "the builds differ", _request(number))
                        break
                else:
                    run.found(block[0], f"the builds differ, after {len(block)} trials in a row", b"")
                break
    return run.result()


def _differ(plain: Build, compiled: Build, seed: int, count: int) -> bool:
    for build in (plain, compiled):  # both work at the same time
        build.ask(seed, count)
    (one, its), (other, others) = plain.answer(), compiled.answer()
    assert (one, other) == ("plain", "compiled"), (one, other)
    return its != others


def _request(seed: int) -> bytes:
    import fuzz_requests

    return fuzz_requests.message(seed)


# ---- in each of the two


def serve() -> None:
    """Answers on standard output what is asked on standard input."""
    from proxy.observe.metrics import build_info

    build = build_info()["build"]
    for line in sys.stdin:
        seed, count = map(int, line.split())
        digest = sha256()
        for outcome in outcomes(seed, count):
            digest.update(outcome)
        print(json.dumps([build, digest.hexdigest()]), flush=True)


def outcomes(seed: int, count: int) -> Iterator[bytes]:
    """What came of each trial, in full."""
    from mutate import pieces
    from stage import staged

    with staged() as stage:
        for number in range(seed, seed + count):
            seen = stage.play(pieces(Random(~number), _request(number)))
            yield repr(seen._replace(to_client=TODAY(b"", seen.to_client))).encode()
            yield response(number)


def response(seed: int) -> bytes:
    """What a reader makes of a mutated response that comes in pieces."""
    from fuzz_responses import answers
    from mutate import mutated, pieces

    from proxy.http1.framing import BadBody
    from proxy.http1.grammar import BadHead, HeadLimits
    from proxy.http1.response_reader import ResponseReader

    random = Random(seed)
    samples = answers(seed)
    heard = Heard()
    reader = ResponseReader(HeadLimits(), trailers=random.random() < 0.5)
    reader.expect(random.random() < 0.1, random.choice([b"", b"", b"", b"x"]))
    try:
        for piece in pieces(random, mutated(random, random.choice(samples), random.choice(samples))):
            heard.told.append(reader.feed(piece, heard))
            if heard.told[-1]:
                break
    except (BadHead, BadBody) as bad:
        heard.told.append((type(bad).__name__, str(bad)))
    return repr((heard.told, reader.rest, reader.until_close, reader.trailers)).encode()


class Heard:
    """A `ResponseHandler` that writes down all it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def interim(self, head: ResponseHead) -> None:
        self.told.append(("interim", _of(head)))

    def response(self, head: ResponseHead, payload: Payload, done: bool) -> None:
        self.told.append(("response", _of(head), bytes(payload), done))

    def body(self, payload: Payload, done: bool) -> None:
        self.told.append(("body", bytes(payload), done))

    def switched(self, head: ResponseHead, rest: bytes) -> None:
        self.told.append(("switched", _of(head), rest))


def _of(head: ResponseHead) -> list[object]:
    return [getattr(head, name) for name in ("status", "body_length", "keep_alive", "hint_s", "usual")]
