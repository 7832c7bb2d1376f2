"""Bad input: one clear line, the right exit code, nothing left running, no traceback."""

import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from kalab import CANNOT, PASS, ROOT, UNPRIVILEGED, USAGE, kalab

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("run idle-clsoe", USAGE, "unknown scenario 'idle-clsoe'; did you mean idle-close?"),
        ("run", USAGE, "name a scenario, or --all for every one; there are: a-a, black-hole, "),
        ("run idle-close --all", USAGE, "--all runs every scenario: leave out idle-close"),
        ("runn idle-close", USAGE, "No such command 'runn'"),
        ("run idle-close --upstream gunicron", USAGE, "unknown upstream server 'gunicron'; did you mean gunicorn?"),
        ("run idle-close --arm order", USAGE, "unknown arm 'order'"),
        ("run idle-close --wire relais", USAGE, "unknown wire 'relais'; did you mean relay?"),
        ("run idle-close --method PSOT", USAGE, "unknown method 'PSOT'; did you mean POST?"),
        ("run idle-close --rtt 40", USAGE, "--rtt 40: which unit? 40ms or 40s"),
        ("run idle-close --rtt 40s", USAGE, "--rtt 40s: at most a quarter"),
        ("run idle-close --rtt fast", USAGE, "--rtt fast: "),
        ("run idle-close --keep-alive off", USAGE, "--keep-alive off: give a length of time"),
        ("run idle-close --keep-alive 200ms", USAGE, "--keep-alive 200ms: "),
        ("run idle-close --trials 0", USAGE, "Invalid value for '--trials'"),
        ("run idle-close --trails 5", USAGE, "No such option: --trails"),
        ("run idle-close --wire loopback --rtt 40ms", USAGE, "--rtt needs something between"),
        ("run idle-close --upstream node --stall 20ms", USAGE, "--stall works on the lab upstream only"),
        ("run idle-close --sabotage nonsense", USAGE, "unknown sabotage 'nonsense'"),
        ("run idle-close --upstream uvicorn --keep-alive 2500ms", USAGE, "whole seconds"),
        ("run idle-close --runs /proc/nowhere", USAGE, "cannot write to /proc/nowhere"),
        ("run idle-close --set margn=25ms", USAGE, "unknown key 'margn'; did you mean margin?"),
        ("sweep idle-clsoe --set margin=20ms,60ms", USAGE, "unknown scenario 'idle-clsoe'; did you mean idle-close?"),
        ("sweep idle-close", USAGE, "Missing option '--set'"),
        ("sweep idle-close --set margin=20ms,1.5s", USAGE, "margin=1.5s: at most half"),
        ("sweep idle-close --set margin=20ms,60ms --within 5s", USAGE, "longer than --within 5s"),
        ("sweep idle-close --set margin=20ms,60ms --into docs", USAGE, "docs holds something else than a sweep"),
        ("compare /nowhere latest", USAGE, "there is no run /nowhere"),
        ("compare", USAGE, "Missing argument 'first'"),
        ("verify /nowhere", USAGE, "there is no run /nowhere"),
        ("report /nowhere", USAGE, "there is no run /nowhere"),
        ("report README.md", USAGE, "README.md is a file, not a run folder"),
        ("report docs --open", USAGE, "docs is not a run folder: it has no verdict.json"),
        ("report --runs docs", USAGE, "there is no finished run in docs; make one: kalab run idle-close --short"),
    ],
)
def test_one_clear_line(tmp_path: Path, words: str, code: int, says: str) -> None:
    given = words.split()
    if given[0] == "run" and "--runs" not in given and len(given) > 1:
        given += ["--runs", str(tmp_path)]
    ended = kalab(*given)
    assert ended.code == code, ended.stderr
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert says in errors[0]
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_not_enough_rights_for_the_wire_asked_for(tmp_path: Path) -> None:
    """A user namespace that may hold no network namespace stands for a machine that forbids them."""
    limit = "/proc/sys/user/max_net_namespaces"
    words = f"run idle-close --wire netns --runs {tmp_path}"
    script = f"echo 1 > {limit} && exec {shlex.join([sys.executable, '-m', 'lab'])} {words}"
    done = subprocess.run(
        [*UNPRIVILEGED, "sh", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    if "unshare:" in done.stderr:  # this machine forbids even the namespace that was to stand for it
        done = subprocess.run(
            [sys.executable, "-m", "lab", *words.split()], cwd=ROOT, capture_output=True, text=True, check=False
        )
    assert done.returncode == CANNOT, done.stderr
    assert done.stderr.startswith("error: the netns wire cannot be built here: ")
    assert done.stderr.count("\n") == 1


def proxy(*words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "proxy", *words], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    return done.returncode, done.stderr


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        quiet = ("--upstreams", "127.0.0.1:9", "--admin.listen", "off")
        code, stderr = proxy("--listen", f"127.0.0.1:{port}", *quiet)
        admin_code, admin_stderr = proxy("--listen", "127.0.0.1:0", "--admin.listen", f"127.0.0.1:{port}")
    assert code == admin_code == USAGE
    assert re.fullmatch(rf"error: --listen: 127\.0\.0\.1:{port}: Address already in use\n", stderr), stderr
    assert re.fullmatch(rf"error: --admin\.listen: 127\.0\.0\.1:{port}: Address already in use; .*\n", admin_stderr), (
        admin_stderr
    )


def test_an_unknown_config_key_names_file_line_and_nearest_key(tmp_path: Path) -> None:
    config = tmp_path / "proxy.toml"
    config.write_text('upstreams = ["127.0.0.1:9000"]\n\n[timeouts]\nupstream_idel = "4s"\n')
    code, stderr = proxy("--config", str(config))
    assert code == USAGE
    assert stderr.count("\n") == 1
    assert f"{config}:4: " in stderr
    assert "timeouts.upstream_idle" in stderr


def test_kalab_proxy_takes_the_proxys_own_flags() -> None:
    ended = kalab("proxy", "--upstreams", "127.0.0.1:9000", "--check")
    assert ended.code == PASS, ended.stderr


def test_the_proxy_verb_reports_as_the_proxy_does() -> None:
    ended = kalab("proxy", "--nonsense")
    assert ended.code == USAGE
    assert ended.stderr.startswith("error: ")


@pytest.mark.parametrize("words", [("--help",), ("run", "--help"), ("list",), ("doctor",), ("doctor", "--json")])
def test_help_and_lists_work(words: tuple[str, ...]) -> None:
    ended = kalab(*words)
    assert ended.code == PASS, ended.stderr
    assert ended.stdout
