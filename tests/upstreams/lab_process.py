"""The lab upstream as a process, and a raw client that sees what a socket sees."""

from __future__ import annotations

import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LONG_S = 20.0


def request_bytes(
    req_id: str = "", target: str = "/", method: str = "GET", fields: str = "", body: bytes = b""
) -> bytes:
    """One request; Content-Length when it has a body."""
    head = f"{method} {target} HTTP/1.1\r\nHost: lab\r\n{fields}"
    if req_id:
        head += f"X-Request-Id: {req_id}\r\n"
    if body:
        head += f"Content-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class Client:
    """A connection that sends bytes and reads whole responses."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, LONG_S)
        self.answered_s = 0.0
        self._read = bytearray()

    @property
    def name(self) -> str:
        """Its name in the event log."""
        (here, port), (there, at) = self.socket.getsockname()[:2], self.socket.getpeername()[:2]
        return f"{here}:{port}>{there}:{at}"

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def response(self, *, body: bool = True) -> tuple[bytes, bytes]:
        """The next response: head and body."""
        while (end := self._read.find(b"\r\n\r\n")) < 0:
            self._more()
        head = bytes(self._read[:end])
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]) if body else 0
        whole = end + 4 + length
        while len(self._read) < whole:
            self._more()
        content = bytes(self._read[end + 4 : whole])
        del self._read[:whole]
        self.answered_s = time.monotonic()
        return head, content

    def ask(self, req_id: str = "", **more: Any) -> tuple[bytes, bytes]:
        self.send(request_bytes(req_id, **more))
        return self.response(body=more.get("method") != "HEAD")

    def end(self) -> str:
        """How the connection ends: "fin", "reset", or the bytes that came instead, as text."""
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            return "reset"
        return data.decode() if data else "fin"

    def close(self) -> None:
        self.socket.close()

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError(f"closed after {bytes(self._read[:200])!r}")
        self._read += data


class LabProcess:
    """A running lab upstream."""

    def __init__(self, process: subprocess.Popen[str], addresses: list[tuple[str, int]], log: Path) -> None:
        self.process = process
        self.addresses = addresses
        self.log = log
        self._clients: list[Client] = []

    def client(self, listener: int = 0) -> Client:
        client = Client(self.addresses[listener])
        self._clients.append(client)
        return client

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.terminate()
        code = self.process.wait(LONG_S)
        for client in self._clients:
            client.close()
        return code

    def events(self, kind: str, conn: str = "") -> list[dict[str, Any]]:
        """The events of this kind that are in the log so far."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["kind"] == kind and (not conn or line["conn"] == conn)]

    def wait_for(self, kind: str, count: int = 1, conn: str = "") -> list[dict[str, Any]]:
        """The events of this kind, once there are so many."""
        end_s = time.monotonic() + LONG_S
        while time.monotonic() < end_s:
            found = self.events(kind, conn)
            if len(found) >= count:
                return found
            time.sleep(0.02)
        raise AssertionError(f"{len(self.events(kind, conn))} of {count} {kind} in {self.log.read_text()}")


@contextmanager
def lab(
    tmp_path: Path, *flags: str, listeners: int = 1, listen: str = "127.0.0.1:0", pass_fds: Sequence[int] = ()
) -> Iterator[LabProcess]:
    """A lab upstream on free ports unless told, stopped at the end."""
    log = tmp_path / "upstream.jsonl"
    where = ["--listen", listen] * listeners
    process = subprocess.Popen(
        [sys.executable, "-m", "upstreams.lab", *where, "--events", str(log), *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=pass_fds,
    )
    assert process.stdout
    try:
        addresses = [address_in(process.stdout.readline()) for _ in range(listeners)]
        running = LabProcess(process, addresses, log)
        yield running
        running.stop()
    finally:
        process.kill()
        process.wait(LONG_S)
        process.stdout.close()


def primed(running: LabProcess, req_id: str = "first", listener: int = 0) -> Client:
    """A client that was answered once, so that its connection is idle."""
    client = running.client(listener)
    head, body = client.ask(req_id)
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert body == b"ok\n" + req_id.encode()
    return client


def address_in(line: str) -> tuple[str, int]:
    host, port = line.removeprefix("listening on ").strip().rsplit(":", 1)
    return host, int(port)


def at(moment_s: float) -> None:
    """Waits for a moment of time.monotonic(): aim by measured offset."""
    while (left_s := moment_s - time.monotonic()) > 0:
        time.sleep(left_s)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def server(argv: list[str], address: tuple[str, int], environment: dict[str, str]) -> Iterator[None]:
    """Any server, until it accepts a connection; ended at the end."""
    process = subprocess.Popen(argv, cwd=ROOT, env={**os.environ, **environment})
    try:
        end_s = time.monotonic() + LONG_S
        while not accepts(address):
            assert process.poll() is None, f"{argv} ended with {process.returncode}"
            assert time.monotonic() < end_s, f"{argv} does not accept"
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        try:
            process.wait(LONG_S)
        finally:
            process.kill()


def accepts(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, 1.0).close()
    except OSError:
        return False
    return True


def closes(clients: list[Client]) -> list[tuple[str, float]]:
    """Waits until each is closed. How, and how long after its answer, in seconds."""
    ends = []
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.socket, selectors.EVENT_READ, client)
        while selector.get_map():
            ready = selector.select(LONG_S)
            now_s = time.monotonic()
            assert ready, f"{len(selector.get_map())} are still open"
            for key, _ in ready:
                selector.unregister(key.fileobj)
                ends.append((key.data.end(), now_s - key.data.answered_s))
    return ends
