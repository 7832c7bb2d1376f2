"""How the benchmark configures its contestants, and which cores it gives them."""

from __future__ import annotations

import http.client
from pathlib import Path

import pytest

from bench.contestants import CONTESTANTS
from bench.idle import idle_clients
from bench.peers import nginx
from bench.peers.base import Contestant, Place, how_to_get
from bench.run import split_cores
from bench.workloads import SMALL, write_files

PEERS = [contestant for contestant in CONTESTANTS if contestant.start]


def test_the_control_comes_first_and_is_always_here() -> None:
    assert CONTESTANTS[0].name == "direct"
    assert not CONTESTANTS[0].missing()


def test_a_missing_program_says_how_to_get_it() -> None:
    assert how_to_get("sh") == ""
    assert how_to_get("no-such-program") == "not installed: apt-get install no-such-program"
    assert how_to_get("no-such-program", "pip install it") == "not installed: pip install it"


def test_nginx_keeps_its_upstream_connections() -> None:
    config = nginx.config(nginx.proxy_site(9000, 8080), build="")
    for line in ("keepalive 256;", 'proxy_set_header Connection "";', "proxy_http_version 1.1;", "access_log off;"):
        assert line in config
    assert config.count("{") == config.count("}")


def test_nginx_is_told_only_of_modules_that_it_has() -> None:
    config = nginx.config("", build="--without-http_uwsgi_module")
    assert "scgi_temp_path" in config
    assert "uwsgi_temp_path" not in config


@pytest.mark.parametrize(
    ("cores", "contestant", "others"),
    [({0, 1}, {1}, {0}), ({0, 2, 5}, {5}, {0, 2}), ({3}, {3}, {3})],
)
def test_the_contestant_has_a_core_of_its_own(cores: set[int], contestant: set[int], others: set[int]) -> None:
    assert split_cores(cores) == (frozenset(contestant), frozenset(others))


@pytest.mark.skipif(bool(how_to_get("nginx")), reason=how_to_get("nginx"))
@pytest.mark.parametrize("contestant", PEERS, ids=lambda contestant: contestant.name)
def test_every_contestant_that_is_here_proxies_and_keeps_connections(contestant: Contestant, tmp_path: Path) -> None:
    """One that is not here says how to get it: the benchmark then shows it as a row that was not measured."""
    if contestant.missing():
        assert contestant.missing().startswith("not installed: ")
        return
    write_files(tmp_path / "files")
    cores = frozenset({0})
    with nginx.start_upstream(tmp_path, cores, tmp_path / "files", SMALL) as upstream:
        assert contestant.start is not None
        with contestant.start(Place(tmp_path, cores, upstream.port)) as server:
            client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
            for path, size in (("/small", SMALL), ("/varying", SMALL), ("/medium", 100 * 1024), ("/small", SMALL)):
                client.request("GET", path)
                answer = client.getresponse()
                assert (answer.status, len(answer.read())) == (200, size)
            sock = client.sock
            client.request("POST", "/upload", body=b"k" * 16384)
            assert client.getresponse().read() == b"k" * SMALL
            assert client.sock is sock
            client.close()
            with idle_clients(server.port, 10):
                assert server.resident_bytes() > 1 << 20
