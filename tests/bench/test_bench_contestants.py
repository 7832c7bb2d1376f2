"""How the benchmark configures its contestants, and which cores it gives them."""

from __future__ import annotations

import pytest

from bench.contestants import CONTESTANTS, NGINX_PROXY, how_to_get, nginx_config
from bench.run import split_cores


def test_the_control_comes_first_and_is_always_here() -> None:
    assert CONTESTANTS[0].name == "direct"
    assert not CONTESTANTS[0].missing()


def test_a_missing_program_says_how_to_get_it() -> None:
    assert how_to_get("sh") == ""
    assert how_to_get("no-such-program") == "not installed: apt-get install no-such-program"


def test_nginx_keeps_its_upstream_connections() -> None:
    config = nginx_config(NGINX_PROXY.format(upstream=9000, port=8080, never=1), build="")
    for line in ("keepalive 128;", 'proxy_set_header Connection "";', "proxy_http_version 1.1;", "access_log off;"):
        assert line in config
    assert config.count("{") == config.count("}")


def test_nginx_is_told_only_of_modules_that_it_has() -> None:
    config = nginx_config("", build="--without-http_uwsgi_module")
    assert "scgi_temp_path" in config
    assert "uwsgi_temp_path" not in config


@pytest.mark.parametrize(
    ("cores", "contestant", "others"),
    [({0, 1}, {1}, {0}), ({0, 2, 5}, {5}, {0, 2}), ({3}, {3}, {3})],
)
def test_the_contestant_has_a_core_of_its_own(cores: set[int], contestant: set[int], others: set[int]) -> None:
    assert split_cores(cores) == (frozenset(contestant), frozenset(others))
