"""Endpoints from a file, which is watched: EndpointSlices as JSON, or just a list of addresses.

    ["10.0.0.1:9000", "10.0.0.2:9000 weight=3"]

Rules of this file:

- The file is looked at every `poll_every`, and read when it is another one or was written: time, size, inode. So files
  that are replaced by renaming are seen, and the symbolic links that Kubernetes turns for a mounted ConfigMap.
- What cannot be read or understood changes nothing, and is read again at the next change. That is also how a file that
  is half written passes by; to spare yourself the line about it, write elsewhere and rename.
- Files are touched in a thread only: a network file system may take its time.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from time import time_ns
from typing import Final, NamedTuple

import msgspec

from proxy.config import DiscoveryConfig
from proxy.discovery.endpoint_slice import endpoints_in
from proxy.discovery.endpoints import Endpoint, OnEndpoints, OnProblem, SourceError, TaskSource, endpoint_of

LARGEST: Final = 16 << 20  # bytes; more is no list of endpoints
UNSETTLED_NS: Final = 100_000_000  # a later write within the same tick of the file system's clock would not be seen


class Look(NamedTuple):
    """What one look at the file gave. Neither endpoints nor a problem: it is as it was."""

    stamp: tuple[int, ...] | None
    endpoints: tuple[Endpoint, ...] | None = None
    problem: str = ""


class FileSource(TaskSource):
    """The endpoints in `discovery.file`."""

    def __init__(self, discovery: DiscoveryConfig, on_endpoints: OnEndpoints, on_problem: OnProblem) -> None:
        super().__init__(on_endpoints, on_problem)
        if not discovery.file:
            raise SourceError('discovery.file: kind "file" needs one')
        self._path = Path(discovery.file)
        self._port_name = discovery.port_name
        self._poll_every = discovery.poll_every

    def __repr__(self) -> str:
        return f"<FileSource {self._path}, {self.report}>"

    async def run(self) -> None:
        stamp = None
        while True:
            look = await asyncio.to_thread(look_at, self._path, self._port_name, stamp)
            stamp = look.stamp
            if look.problem:
                self.report.failed(str(self._path), f"{self._path}{look.problem}")
            elif look.endpoints is not None:
                self.report.over(str(self._path))
                self.report.found(look.endpoints)
            else:
                self.report.heard()
            await asyncio.sleep(self._poll_every)


def look_at(path: Path, port_name: str, stamp: tuple[int, ...] | None) -> Look:
    """Reads the file unless it is still what `stamp` says. Blocks.

    A problem starts with its place: ":3:14: …" in a file that is not JSON, ": $.endpoints[0]: …" in one that is.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            now = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)
            if now == stamp:
                return Look(stamp)
            settled = time_ns() - status.st_mtime_ns > UNSETTLED_NS
            data = file.read(LARGEST + 1)
    except OSError as problem:
        return Look(None, problem=f": {problem.strerror}")
    stamp = now if settled else None
    if len(data) > LARGEST:
        return Look(stamp, problem=f": more than {LARGEST >> 20} MiB")
    try:
        document = msgspec.json.decode(data)
    except ValueError as problem:  # msgspec's, and the decoder's of UTF-8
        return Look(stamp, problem=_place_of(data, str(problem)))
    try:
        return Look(stamp, _endpoints_in(document, port_name))
    except ValueError as problem:
        return Look(stamp, problem=f": {problem}")


def _endpoints_in(document: object, port_name: str) -> tuple[Endpoint, ...]:
    if not (isinstance(document, list) and document and all(isinstance(item, str) for item in document)):
        return endpoints_in(document, port_name)
    found: dict[str, Endpoint] = {}
    for index, text in enumerate(document):
        try:
            endpoint = endpoint_of(text)
        except ValueError as problem:
            raise ValueError(f"$[{index}]: {problem}") from None
        if endpoint.address in found:
            raise ValueError(f"$[{index}]: {endpoint.address} is listed twice")
        found[endpoint.address] = endpoint
    return tuple(found.values())


def _place_of(data: bytes, problem: str) -> str:
    """A decoder's complaint with its line and column, which it counts in bytes from the start or not at all."""
    what, found, offset = problem.rstrip(")").rpartition(" (byte ")
    if not found:
        what, offset = problem, str(len(data))
    before = data[: int(offset)]
    line = before.count(b"\n") + 1
    column = len(before) - (before.rfind(b"\n") + 1) + 1
    return f":{line}:{column}: not valid JSON: {what.removeprefix('JSON is malformed: ')}"
