"""A file that is watched: edits, renames, links that turn, halves, garbage, and nothing at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from fake_group import FakeGroup, group_config, running
from fake_kubernetes import slice_of

from proxy.discovery import Endpoint, Source, open_source
from proxy.discovery.file_source import UNSETTLED_NS, look_at


def file_source(path: Path, group: FakeGroup, **discovery: object) -> Source:
    config = group_config(kind="file", file=str(path), poll_every=0.01, **discovery)
    return open_source(config, group.on_endpoints, group.on_problem)


async def test_a_file_is_read_and_read_again_when_it_changes(tmp_path: Path) -> None:
    path, group = tmp_path / "endpoints.json", FakeGroup()
    path.write_text(json.dumps(slice_of("a", "10.0.0.1")))
    with running(file_source(path, group)) as source:
        await group.until_told("10.0.0.1:8080")
        path.write_text(json.dumps([slice_of("a", "10.0.0.1"), slice_of("b", "10.0.0.2")]))
        await group.until_told("10.0.0.1:8080", "10.0.0.2:8080")
        path.write_text(json.dumps({"kind": "List", "items": [slice_of("a")]}))
        await group.until(lambda: group.told[-1] == ())
        assert repr(source) == f"<FileSource {path}, 0 endpoints, no problem>"


async def test_a_list_of_addresses_will_do(tmp_path: Path) -> None:
    path, group = tmp_path / "endpoints.json", FakeGroup()
    path.write_text('["10.0.0.2:9000", "app:9000 weight=3"]')
    with running(file_source(path, group)):
        await group.until(lambda: group.told == [(Endpoint("10.0.0.2:9000"), Endpoint("app:9000", 3))])


async def test_the_port_is_chosen_by_name(tmp_path: Path) -> None:
    path, group = tmp_path / "endpoints.json", FakeGroup()
    ports = [{"name": "http", "port": 80}, {"name": "metrics", "port": 90}]
    path.write_text(json.dumps(slice_of("a", "10.0.0.1", ports=ports)))
    with running(file_source(path, group, port_name="metrics")):
        await group.until_told("10.0.0.1:90")


async def test_half_a_file_keeps_the_old_set_and_is_one_problem(tmp_path: Path) -> None:
    path, group = tmp_path / "endpoints.json", FakeGroup()
    whole = json.dumps(slice_of("a", "10.0.0.1"), indent=1)
    path.write_text(whole)
    with running(file_source(path, group)):
        await group.until_told("10.0.0.1:8080")
        path.write_text(whole[:100])
        await group.until_problem("not valid JSON")
        path.write_text(whole.replace("10.0.0.1", "10.0.0.2"))
        await group.until_told("10.0.0.2:8080")
    lines = whole[:100].split("\n")
    assert group.problems == [
        f"{path}:{len(lines)}:{len(lines[-1]) + 1}: not valid JSON: Input data was truncated",
        f"{path}: well again",
    ]


async def test_a_file_that_vanishes_is_a_problem_until_it_is_back(tmp_path: Path) -> None:
    path, group = tmp_path / "endpoints.json", FakeGroup()
    with running(file_source(path, group)) as source:
        await group.until_problem("No such file or directory")
        path.write_text('["10.0.0.1:80"]')
        await group.until_told("10.0.0.1:80")
        path.unlink()
        await group.until(lambda: len(group.problems) == 3)
        path.write_text('["10.0.0.2:80"]')
        await group.until_told("10.0.0.2:80")
        assert repr(source) == f"<FileSource {path}, 1 endpoints, no problem>"
    assert group.problems == [f"{path}: No such file or directory", f"{path}: well again"] * 2


async def test_links_that_kubernetes_turns_for_a_mounted_volume_are_followed(tmp_path: Path) -> None:
    path, group = tmp_path / "endpoints.json", FakeGroup()
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "endpoints.json").write_text(f'["10.0.0.{version}:80"]')
        os.utime(tmp_path / version / "endpoints.json", ns=(1, 1))  # neither size nor time tells them apart
    (tmp_path / "..data").symlink_to("1")
    path.symlink_to("..data/endpoints.json")
    with running(file_source(path, group)):
        await group.until_told("10.0.0.1:80")
        (tmp_path / "..data_tmp").symlink_to("2")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        await group.until_told("10.0.0.2:80")
    assert group.problems == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", ":1:1: not valid JSON: Input data was truncated"),
        (b'["10.0.0.1:80",\n ?]', ":2:2: not valid JSON: invalid character"),
        (b'["\xff"]', ":1:6: not valid JSON: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b"[]", ": $: no slice in it; a service without endpoints has one slice that lists none"),
        (
            b'["10.0.0.1:80", "10.0.0.1"]',
            ': $[1]: expected host:port such as "127.0.0.1:8080" or "[::1]:8080", got "10.0.0.1"',
        ),
        (b'["a:80", "a:80 weight=2"]', ": $[1]: a:80 is listed twice"),
        (b'["a:80", 1]', ": $[0]: Expected `object`, got `str`"),
        (
            b'{"addressType": "FQDN"}',
            ': $.addressType: FQDN has no meaning in the API; for names, discovery.kind is "dns"',
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "endpoints.json"
    path.write_bytes(content)
    look = look_at(path, "", None)
    assert (look.problem, look.endpoints) == (problem, None)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert look_at(tmp_path, "", None).problem == ": Is a directory"


def test_a_file_is_read_once_when_it_has_settled(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.json"
    path.write_text('["10.0.0.1:80"]')
    assert look_at(path, "", None).stamp is None  # it may be written once more within the same tick of the clock
    long_ago = path.stat().st_mtime_ns - 2 * UNSETTLED_NS
    os.utime(path, ns=(long_ago, long_ago))
    first = look_at(path, "", None)
    assert first.endpoints == (Endpoint("10.0.0.1:80"),)
    assert look_at(path, "", first.stamp) == (first.stamp, None, "")
