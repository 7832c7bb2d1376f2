"""C6: mutated config files, flags and variables. Each is a config that reads back the same, or one line of complaint.

It looks at `keys()`, so a new key is fuzzed from its first day.
"""

from __future__ import annotations

import tempfile
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from random import Random

from findings import Result, Run, Stopwatch
from mutate import mutated

from proxy.__main__ import main
from proxy.config import ConfigError, ProxyConfig, keys, load, to_toml

MORE = """
[groups.api]
upstreams = ["127.0.0.1:9001", "127.0.0.1:9002 weight=3"]
balance = "least_busy"

[groups.api.pool]
max_idle = 3

[[routes]]
host = "*.example.com"
path = "/v1"
group = "api"

[[routes]]
path = "/"
group = "default"
"""
# As they stand in a file.
VALUES = (
    *(
        "0",
        "1",
        "-1",
        "3.5",
        "1e400",
        "-inf",
        "nan",
        "true",
        "false",
        '""',
        '"off"',
        '"on"',
        '"0s"',
        '"5s"',
        '"5"',
        '"-5s"',
    ),
    *(
        '"1e9h"',
        '"5 s"',
        '"5ms"',
        '"1.5h"',
        '"5weeks"',
        '"64KiB"',
        '"1TB"',
        '"9999999999999999999999GiB"',
        '"inf"',
        '"nan"',
    ),
    *('"127.0.0.1:80"', '"localhost"', '":80"', '"[::1]:80"', '"::1:80"', '"a:99999"', '"a:0"', '"a b:1"', '"é:1"'),
    *('"127.0.0.1:80 weight=3"', '"127.0.0.1:80 weight=0"', '"127.0.0.1:80 weight="', '"10.0.0.0/8"', '"10.0.0.0/99"'),
    *("[]", "[1]", '["127.0.0.1:80"]', '["a", 1]', "[[]]", "{}", "{a = 1}", "2026-01-01", "07:32:00", "0x10", "1_000"),
    *(
        '"newest"',
        '"hash"',
        '"header:X"',
        '"header:"',
        '"header:é"',
        '"dns"',
        '"file"',
        '"kubernetes"',
        '"1.3"',
        '"never"',
    ),
    *(
        '"\\u0000"',
        '"\\n"',
        '"\\u001b[31m"',
        '"\\u202e"',
        '"' + "x" * 3000 + '"',
        "'''\na\nb'''",
        "9" * 40,
        '"/nonexistent"',
    ),
)
NAMES = (
    "",
    "x",
    "pool",
    "timeout",
    "timeouts.conect",
    "max_idle",
    "é",
    "a b",
    "groups",
    "groups.api",
    "routes",
    "_",
    "-",
)
MOST_MESSAGE = 4000  # characters; a complaint is for people


def value(random: Random) -> str:
    return random.choice(VALUES)


def name(random: Random) -> str:
    key = random.choice(
        (random.choice(keys()), random.choice(keys()), f"groups.api.{random.choice(keys())}", random.choice(NAMES))
    )
    return key if random.random() < 0.9 else key[: random.randint(0, len(key))] + random.choice(NAMES)


def toml(random: Random) -> bytes:
    """A file: what `to_toml` writes, or a few keys, changed in one way or another."""
    text = random.choice((to_toml(ProxyConfig()) + MORE, MORE, ""))
    lines = text.splitlines()
    for _ in range(random.randint(0, 4)):
        at = random.randint(0, len(lines))
        what = random.randrange(5)
        if what == 0 and at < len(lines):
            lines[at] = lines[at].partition("=")[0] + "= " + value(random)
        elif what == 1:
            lines.insert(at, f"{name(random)} = {value(random)}")
        elif what == 2:
            lines.insert(at, f"[{name(random).rpartition('.')[0]}]")
        elif what == 3 and at < len(lines):
            del lines[at]
        else:
            lines.insert(
                at, random.choice(("[[routes]]", "[routes]", "[groups]", "[[groups]]", "routes = 1", "=", '"', "#"))
            )
    data = "\n".join(lines).encode()
    return mutated(random, data, data, most=2) if random.random() < 0.3 else data


def settings(random: Random) -> dict[str, str]:
    """Flags by name; a flag's value is text without quotes."""
    return {name(random): value(random).strip("\"'") for _ in range(random.choice((0, 0, 1, 2)))}


def environ(random: Random) -> dict[str, str]:
    return {
        "KALAB_" + name(random).replace(".", "_").upper(): value(random).strip("\"'")
        for _ in range(random.choice((0, 0, 1, 2)))
    }


def trial(seed: int, path: Path) -> tuple[str, bytes]:
    """What is wrong, and the file it was wrong with."""
    random = Random(seed)
    data = toml(random)
    path.write_bytes(data)
    flags, variables = settings(random), environ(random)
    shown = data + f"\n# {flags} {variables}".encode()
    try:
        config = load(path, variables, flags).config
    except ConfigError as problem:
        return _complaint(str(problem)), shown
    except Exception as problem:  # any other is what is looked for here
        return f"{type(problem).__name__}: {problem}", shown
    path.write_text(to_toml(config), "utf-8")
    try:
        again = load(path, {}, {}).config
    except ConfigError as problem:
        return f"what to_toml wrote is refused: {problem}", shown
    return ("" if again == config else "what to_toml wrote reads as another config"), shown


def _complaint(text: str) -> str:
    if not text.strip() or len(text) > MOST_MESSAGE or any(ord(char) < 0x20 or char == "\x7f" for char in text):
        return f"this complaint is not one line for people: {text[:200]!r}"
    return ""


def command(seed: int, path: Path) -> tuple[str, bytes]:
    """The same through the command: exit code 0 or 3, one line, and never a traceback."""
    random = Random(seed)
    data = toml(random)
    path.write_bytes(data)
    argv = ["--config", str(path), "--check"]
    for key, text in settings(random).items():
        argv += [f"--{key}", text]
    out, err = StringIO(), StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main(argv)
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    except Exception as problem:  # any at all is what is looked for here
        return f"{argv[2:]}: {type(problem).__name__}: {problem}", data
    if code not in (0, 3) or (code and len(err.getvalue().strip().splitlines()) != 1):
        return f"{argv[2:]}: exit code {code}, {err.getvalue()!r}", data
    return "", data


def run(seed: int, seconds: float | None = None, count: int | None = None) -> Result:
    run = Run(seed, seconds, count)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "proxy.toml"
        for number in run.seeds():
            watch = Stopwatch()
            what, data = (command if number % 10 == 0 else trial)(number, path)
            if not what and watch.hung():
                again = Stopwatch()
                trial(number, path)
                what = "it takes too long" if again.hung() else ""
            if what:
                run.found(number, what, data)
    return run.result()
