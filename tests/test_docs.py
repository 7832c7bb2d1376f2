"""The documentation is true: its commands are run, its table of keys is the proxy's own, its links lead somewhere."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from operator import attrgetter
from pathlib import Path

import msgspec
import pytest

from proxy.config import ConfigError, ProxyConfig, keys, load
from proxy.config.known_keys import Setting, read
from proxy.config.values import shown, toml_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")])

# What CI runs itself, what tests/race runs, what runs until it is stopped (test_server.py starts and stops it), and
# what has been done for this environment.
RUN_ELSEWHERE = {
    "make demo",
    "make test",
    "make check",
    "make bench",
    "make fuzz",
    "make faults",
    "make compiled",
    "kalab run idle-close --upstream uvicorn --keep-alive 5s --arm control --method POST --blocks 1 --trials 1000",
    "kalab demo",
    "kalab run --all --short",
    "kalab proxy --config proxy.toml",
    "python -m proxy --config proxy.toml",
    "python -m pip install .",
    "KALAB_COMPILE=1 python -m pip install .",
}


def blocks(language: str) -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for found in re.finditer(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            yield page, found[1]


def commands() -> list[str]:
    """Every command line of every `sh` block, without comments."""
    lines = [line.split("  #")[0].strip() for _, block in blocks("sh") for line in block.splitlines()]
    return sorted({line for line in lines if line and not line.startswith("#")})


FIRST_ARM = {
    "no-race": "half",
    "a-a": "one",
    "discovery": "stale",
    "poisson": "worst",
    "retry-post": "never",
}  # where it is not the control

RUN_HERE = [command for command in commands() if command not in RUN_ELSEWHERE]
SCENARIO_RUNS = [command for command in RUN_HERE if command.startswith("kalab run ")]
OTHERS = [command for command in RUN_HERE if command not in SCENARIO_RUNS]
SWEEPS = [command for command in OTHERS if command.startswith("kalab sweep")]
ON_RUNS = [command for command in OTHERS if command.startswith(("kalab verify", "kalab report", "kalab compare"))]


def test_there_are_commands_to_test() -> None:
    assert len(SCENARIO_RUNS) >= 5
    assert RUN_ELSEWHERE & set(commands())


def python_words(command: str) -> list[str]:
    words = shlex.split(command)
    if words[0] == "kalab":
        return [sys.executable, "-m", "lab", *words[1:]]
    assert words[0] == "python", f"the docs tell {words[0]!r}, which no test runs"
    return [sys.executable, *words[1:]]


def ended(words: list[str], timeout_s: float = 100) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)


@pytest.mark.race
@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", SCENARIO_RUNS)
def test_scenario_commands_run(command: str, tmp_path: Path) -> None:
    """As told, but with little evidence: whether the verdict is right is what tests/race asks."""
    small = ["--runs", str(tmp_path)]
    small += [] if "--blocks" in command else ["--blocks", "1"]
    small += [] if "--trials" in command else ["--trials", "8"]
    small += [] if "--arm" in command else ["--arm", FIRST_ARM.get(shlex.split(command)[2], "control")]
    small += [] if "--keep-alive" in command else ["--keep-alive", "1s"]
    done = ended([*python_words(command), *small])
    assert done.returncode in (0, 2), done.stderr
    assert "verdict:" in done.stdout or command.endswith("--json")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two small runs of the scenario whose stored runs the docs name; the first is called as there."""
    folder = tmp_path_factory.mktemp("runs")
    small = ["--blocks", "1", "--trials", "8", "--keep-alive", "1s", "--arm", "control", "--runs", str(folder)]
    for _ in range(2):
        assert ended([sys.executable, "-m", "lab", "run", "idle-close", *small]).returncode in (0, 2)
    first = min(path for path in (folder / "idle-close").iterdir() if not path.is_symlink())
    first.rename(first.with_name("20261120-133000"))
    return folder


@pytest.mark.race
@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", ON_RUNS)
def test_commands_on_stored_runs(command: str, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KALAB_RUNS", str(runs))
    for screen in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):  # no window is to open
        monkeypatch.delenv(screen, raising=False)
    done = ended([word.replace("runs/", f"{runs}/", 1) for word in python_words(command)])
    assert done.returncode in (0, 2), done.stderr


@pytest.mark.race
@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", SWEEPS)
def test_sweeps_run(command: str, tmp_path: Path) -> None:
    """As told, but two cells with little evidence."""
    small = ["--points", "2", "--set", "trials=8", "--set", "blocks=1", "--runs", str(tmp_path)]
    done = ended([*python_words(command), *small])
    assert done.returncode in (0, 1, 2), done.stderr
    assert "verdict of all:" in done.stdout


@pytest.mark.parametrize("command", [c for c in OTHERS if c not in (*ON_RUNS, *SWEEPS)])
def test_other_commands_run(command: str) -> None:
    done = ended(python_words(command))
    assert done.returncode == 0, done.stderr


def structs() -> dict[str, ast.ClassDef]:
    """Every struct of the knobs, as it stands in the source."""
    trees = (ast.parse(page.read_text()) for page in sorted((ROOT / "proxy" / "config").glob("knobs*.py")))
    return {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}


def sections() -> dict[str, str]:
    """Section -> the struct that describes it; "" is what stands above all sections."""
    found = {"": "ProxyConfig"}
    for field in msgspec.structs.fields(ProxyConfig):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            found[field.name] = field.type.__name__
    return found


def descriptions() -> dict[str, str]:
    """Key -> what is said of it beside the knob, in one line."""
    found, known = {}, structs()
    for section, struct in sections().items():
        body = known[struct].body
        for field, text in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                key = f"{section}.{ast.unparse(field.target)}".removeprefix(".")
                found[key] = " ".join(str(text.value.value).split())
    return {key: found[key] for key in keys()}


def first_sentence(text: str) -> str:
    return text.split(". ")[0].rstrip(".")


def table() -> str:
    """The table of keys in docs/proxy.md."""
    rows = ["| key | default | what it is |", "|---|---|---|"]
    for key, text in sorted(descriptions().items(), key=lambda item: (item[0].count("."), item[0])):
        rows.append(f"| `{key}` | `{shown(attrgetter(key)(ProxyConfig()))}` | {first_sentence(text)} |")
    return "\n".join(rows) + "\n"


def test_every_key_is_documented_with_its_default() -> None:
    assert table() in (ROOT / "docs" / "proxy.md").read_text(), "docs/proxy.md lacks this table:\n" + table()


# What one could write where the default is nothing.
EXAMPLES: dict[str, object] = {
    "upstreams": ["10.0.0.1:9000 weight=3", "10.0.0.2:9000"],
    "hash_by": "header:x-user",
    "trusted_proxies": ["10.0.0.0/8", "fd00::/8"],
    "timeouts.request_total": "2m",
    "limits.body_bytes": "8MiB",
    "limits.min_body_rate": "1KiB",
    "http.upgrades": ["websocket"],
    "health.slow_after": "2s",
    "health.check_path": "/healthz",
    "discovery.resolver": "10.0.0.2:53",
    "discovery.file": "/etc/kalab/endpoints.json",
    "discovery.service": "api",
    "discovery.port_name": "http",
    "discovery.api": "https://10.0.0.1:6443",
    "tls.certificates": ["/etc/kalab/example.com.pem", "/etc/kalab/example.org.pem"],
    "tls.client_ca": "/etc/kalab/clients.pem",
    "upstream_tls.server_name": "api.internal",
    "upstream_tls.ca_file": "/etc/kalab/internal.pem",
    "upstream_tls.certificate": "/etc/kalab/proxy.pem",
    "upstream_socket.user_timeout": "30s",
    "admin.token_file": "/etc/kalab/token",
    "admin.allowed_hosts": ["kalab.internal"],
    "log.events": "/var/log/kalab/events.jsonl",
}


def annotated() -> str:
    """docs/proxy.toml down to its last part, which is written by hand."""
    lines = ["# Every key of kalab's proxy, with its default. A file needs only what is to be different."]
    known, described, seen = structs(), descriptions(), set()
    for section, struct in sections().items():
        if section:
            lines += ["", "", *commented(" ".join((ast.get_docstring(known[struct]) or "").split())), f"[{section}]"]
        for key in (key for key in keys() if key.rpartition(".")[0] == section):
            name = key.rpartition(".")[2]
            text = described[key] if struct not in seen else first_sentence(described[key]) + "."
            lines += ["", *commented(text)]
            if key in EXAMPLES:
                lines.append(f"# For example: {name} = {toml_of(EXAMPLES[key])}")
            lines.append(f"{name} = {toml_of(attrgetter(key)(ProxyConfig()))}")
        seen.add(struct)
    return "\n".join(lines) + "\n"


def commented(text: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def test_the_annotated_config_has_every_key_once_with_its_default() -> None:
    """Made anew by: python -c 'from tests.test_docs import rewrite; rewrite()'."""
    assert ANNOTATED.read_text().startswith(annotated()), "docs/proxy.toml must begin with this:\n" + annotated()
    loaded = load(ANNOTATED, {}, {})
    assert loaded.config == ProxyConfig()
    assert all(re.fullmatch(r".*proxy\.toml:\d+", origin) for origin in loaded.origins.values())
    assert len(set(loaded.origins.values())) == len(keys())


def rewrite() -> None:
    by_hand = ANNOTATED.read_text().partition(BY_HAND)[2]
    ANNOTATED.write_text(annotated() + BY_HAND + by_hand)


ANNOTATED = ROOT / "docs" / "proxy.toml"
BY_HAND = "\n\n# ----"


@pytest.mark.parametrize("key", EXAMPLES)
def test_an_example_in_the_annotated_config_can_be_written(key: str) -> None:
    assert read(Setting(key, EXAMPLES[key], "docs", is_text=False)) != attrgetter(key)(ProxyConfig())


def test_what_is_commented_out_in_the_annotated_config_works(tmp_path: Path) -> None:
    """Prose has a space after its #; what is to be taken over has none."""
    config = tmp_path / "proxy.toml"
    config.write_text(re.sub(r"^#(?=[^ \-#\n])", "", ANNOTATED.read_text(), flags=re.MULTILINE))
    loaded = load(config, {}, {}).config
    groups = loaded.group_configs()
    assert list(groups) == ["default", "api", "static"]
    assert groups["api"].upstream_tls.enabled
    assert groups["static"].pool == loaded.pool
    assert [route.pattern for route in loaded.routes] == ["api.example.com/v1", "*.example.com/"]


def test_configs_in_the_docs_are_valid(tmp_path: Path) -> None:
    found = [block for _, block in blocks("toml")]
    assert len(found) >= 4
    for block in found:
        (tmp_path / "proxy.toml").write_text(block)
        load(tmp_path / "proxy.toml", {}, {})


def test_the_mistake_in_the_docs_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (start,) = (block for page, block in blocks("toml") if block.startswith("# proxy.toml"))
    Path("proxy.toml").write_text(start.replace('"4s"', '"4 sec"'))
    with pytest.raises(ConfigError) as caught:
        load(Path("proxy.toml"), {}, {})
    assert f"\nerror: {caught.value}\n" in (ROOT / "docs" / "proxy.md").read_text()


# --- Commands that need a shell: `bash` blocks, each with a test of its own


def shell(words: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", words], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def bash_block(word: str) -> str:
    (block,) = (block for _, block in blocks("bash") if word in block)
    return block


def test_every_shell_block_has_its_test() -> None:
    assert [block.split()[0] for _, block in blocks("bash")] == ["install", "curl", "openssl"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a reader stands who has taken over the examples."""
    return Path(shutil.copytree(ROOT / "docs" / "examples", tmp_path / "examples"))


@pytest.mark.parametrize("example", sorted((ROOT / "docs" / "examples").glob("*.toml")), ids=lambda path: path.stem)
def test_an_example_is_a_valid_config(example: Path, folder: Path) -> None:
    if example.stem == "tls" and shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    if example.stem == "tls":
        shell(bash_block("openssl"), folder)
    command = [sys.executable, "-m", "proxy", "--config", example.name, "--check"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert any(example.name in page.read_text() for page in PAGES)


def test_a_running_proxy_is_changed_as_told(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    shell(bash_block("/dev/urandom"), tmp_path)
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    flags = ["--listen", "127.0.0.1:0", "--admin.listen", "127.0.0.1:0", "--admin.token_file", "token"]
    with subprocess.Popen(
        [sys.executable, "-m", "proxy", *flags, "--log.access", "off"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as proxy:
        assert proxy.stderr is not None
        address = proxy.stderr.readline().rpartition("admin on ")[2].strip()
        try:
            said = shell(bash_block("PATCH").replace("127.0.0.1:9901", address), tmp_path)
        finally:
            proxy.terminate()
    assert proxy.returncode == 0
    assert '"key": "timeouts.upstream_idle"' in said
    assert '"after": "50"' in said
    assert '"connections": []' in said
    assert "kalab_proxy_requests_total" in said or "kalab_proxy_workers 1" in said


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if not target.startswith(("http://", "https://")):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
