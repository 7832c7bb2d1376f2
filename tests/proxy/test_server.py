"""The whole proxy as a process of its own, over loopback sockets, with upstreams that do as they are told."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from fakes import body_of, fields_of, status_of
from live import upstream as answering

from proxy.config import ProxyConfig, override
from proxy.server import Server, open_sockets

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE_S = 30

GET = b"GET /a?secret HTTP/1.1\r\nHost: shop\r\nX-Request-Id: r-1\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: shop\r\nContent-Length: 4\r\n\r\nbody"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Proxy:
    """A running `python -m proxy`."""

    def __init__(self, *flags: str) -> None:
        command = [sys.executable, "-m", "proxy", "--listen", "127.0.0.1:0", "--admin.listen", "off", *flags]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.line = self.process.stderr.readline()
        listening = re.fullmatch(r"listening on (127\.0\.0\.1):(\d+) \(HTTP\), admin off\n", self.line)
        assert listening, self.line + str(self.process.communicate(timeout=PATIENCE_S))
        self.address = listening[1], int(listening[2])

    def connect(self) -> socket.socket:
        connection = socket.create_connection(self.address, timeout=PATIENCE_S)
        connection.settimeout(PATIENCE_S)
        return connection

    def stop(self) -> tuple[int, str, str]:
        """SIGTERM; the exit code, and what it still had to say but for the lines about its end."""
        self.process.send_signal(signal.SIGTERM)
        out, err = self.process.communicate(timeout=PATIENCE_S)
        said = re.fullmatch(r"(.*)draining: .*\ndrained: .*\n", err, re.DOTALL)
        return self.process.returncode, out, said[1] if said else f"it ended without a word: {err}"


class Listener:
    """An upstream whose every step is a line of the test."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.settimeout(PATIENCE_S)
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"

    def accept(self) -> socket.socket:
        connection, _ = self.socket.accept()
        connection.settimeout(PATIENCE_S)
        return connection


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def read_message(connection: socket.socket) -> bytes:
    """One request or response with a Content-Length, or nothing if the connection closes first."""
    message = b""
    while b"\r\n\r\n" not in message:
        piece = connection.recv(65536)
        if not piece:
            return message
        message += piece
    length = int(fields_of(message).get("content-length", 0))
    while len(body_of(message)) < length:
        piece = connection.recv(65536)
        if not piece:
            return message
        message += piece
    return message


def read_all(connection: socket.socket) -> bytes:
    """Everything up to the close."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.fixture
def upstream() -> Iterator[Listener]:
    listener = Listener()
    with closing(listener.socket):
        yield listener


Start = Callable[..., Proxy]


@pytest.fixture
def start(upstream: Listener) -> Iterator[Start]:
    """Starts proxies in front of `upstream`, and sees to it that they end."""
    started: list[Proxy] = []

    def start_one(*flags: str) -> Proxy:
        log = [] if "--log.access" in flags else ["--log.access", "off"]
        started.append(Proxy("--upstreams", upstream.address, *log, *flags))
        return started[-1]

    yield start_one
    for proxy in started:
        if proxy.process.poll() is None:
            code, _, err = proxy.stop()
            assert (code, err) == (0, "")
        for pipe in (proxy.process.stdout, proxy.process.stderr):
            if pipe is not None:
                pipe.close()


def exchange(client: socket.socket, server: socket.socket, request: bytes = GET, response: bytes = OK) -> bytes:
    client.sendall(request)
    assert read_message(server)
    server.sendall(response)
    return read_message(client)


def events_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_requests_are_answered_and_connections_reused(start: Start, upstream: Listener) -> None:
    proxy = start()
    with proxy.connect() as client:
        client.sendall(GET)
        with upstream.accept() as server:
            assert read_message(server).startswith(b"GET /a?secret HTTP/1.1\r\nHost: shop\r\n")
            server.sendall(OK)
            assert body_of(read_message(client)) == b"ok"
            for _ in range(3):
                assert body_of(exchange(client, server, POST)) == b"ok"


@pytest.mark.parametrize("size", [1, 100_000, 5_000_000])
def test_bodies_of_any_size_pass_both_ways(start: Start, upstream: Listener, size: int) -> None:
    proxy = start()
    body = os.urandom(size)
    head = b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n"

    def echo() -> None:
        with upstream.accept() as server:
            request = read_message(server)
            server.sendall(head % (b"200 OK", size) + body_of(request))
            server.recv(1)

    echoing = threading.Thread(target=echo, daemon=True)
    echoing.start()
    with proxy.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + body)
        assert body_of(read_message(client)) == body
    proxy.stop()
    echoing.join(PATIENCE_S)


def test_a_large_response_waits_for_a_slow_client_without_being_buffered(start: Start, upstream: Listener) -> None:
    proxy = start()
    size = 200_000_000
    sent: list[int] = []

    def send() -> None:
        with upstream.accept() as server:
            read_message(server)
            server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            server.settimeout(2)  # all buffers on the way are full by then
            piece = bytes(1_000_000)
            total = 0
            try:
                while total < size:
                    total += server.send(piece)
            except TimeoutError:
                pass
            sent.append(total)

    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    with proxy.connect() as client:
        client.sendall(GET)
        client.recv(1)
        sending.join(PATIENCE_S)
        assert sent[0] < size / 4
        resident = int(Path(f"/proc/{proxy.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        assert resident < 100_000_000


def test_a_lost_race_in_the_events(start: Start, upstream: Listener, tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    proxy = start("--log.events", str(log), "--retry.policy", "never")
    with proxy.connect() as client:
        client.sendall(GET)
        with upstream.accept() as server:
            server.recv(65536)
            server.sendall(OK)
            read_message(client)
            client.sendall(GET)
            server.recv(65536)
        page = read_message(client)
    assert (status_of(page), fields_of(page)["x-kalab-cause"]) == (502, "closed_before_response")
    proxy.stop()
    events = events_of(log)
    assert events[-1]["kind"] == "log.closed"
    assert events[-1]["dropped"] == 0
    (failed,) = (event for event in events if event["kind"] == "exchange.attempt_failed")
    assert failed["proof"] == "unknown"  # the upstream had read the request
    assert failed["unacked_bytes"] == 0
    assert (failed["reused"], failed["req_id"]) == (True, "r-1")
    closed = [event for event in events if event["kind"] == "upstream.closed"]
    assert [event["reason"] for event in closed] == ["peer_fin"]


def test_a_lost_race_is_repeated_on_a_fresh_connection(start: Start, upstream: Listener) -> None:
    proxy = start()
    with proxy.connect() as client:
        client.sendall(GET)
        with upstream.accept() as server:
            read_message(server)
            server.sendall(OK)
            read_message(client)
            client.sendall(GET)
            read_message(server)
            reset(server)
        with upstream.accept() as server:
            read_message(server)
            server.sendall(OK)
            assert status_of(read_message(client)) == 200


def test_a_response_that_came_unasked_is_never_an_answer(start: Start, upstream: Listener, tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    proxy = start("--log.events", str(log))
    with proxy.connect() as client:
        client.sendall(GET)
        with upstream.accept() as server:
            read_message(server)
            server.sendall(OK)
            read_message(client)
            server.sendall(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            client.sendall(GET)
            with upstream.accept() as fresh:
                read_message(fresh)
                fresh.sendall(OK)
                assert status_of(read_message(client)) == 200
    proxy.stop()
    assert "unsolicited_data" in [event.get("reason") for event in events_of(log)]


def test_smuggling_reaches_no_upstream(start: Start, upstream: Listener) -> None:
    proxy = start()
    upstream.socket.setblocking(False)
    with proxy.connect() as client:
        client.sendall(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        )
        client.sendall(GET * 1000)
        page = read_all(client)
    assert status_of(page) == 400
    assert page.count(b"X-Kalab-Cause") == 1
    with pytest.raises(BlockingIOError):
        upstream.socket.accept()


def test_an_upstream_that_is_not_there_is_a_502(start: Start, upstream: Listener) -> None:
    upstream.socket.close()
    proxy = start()
    with proxy.connect() as client:
        for _ in range(2):
            client.sendall(GET)
            page = read_message(client)
            assert (status_of(page), fields_of(page)["x-kalab-cause"]) == (502, "connect_refused")
    code, _, err = proxy.stop()
    assert code == 0
    assert err == f"group default: no connection to {upstream.address}: Connection refused\n"


def test_a_client_that_leaves_takes_the_upstream_connection_along(start: Start, upstream: Listener) -> None:
    proxy = start()
    for leave in (socket.socket.close, reset):
        client = proxy.connect()
        client.sendall(GET)
        with upstream.accept() as server:
            read_message(server)
            leave(client)
            assert server.recv(1) == b""


def test_an_idle_upstream_connection_is_closed_in_time(start: Start, upstream: Listener) -> None:
    proxy = start("--timeouts.upstream_idle", "50ms")
    with proxy.connect() as client:
        client.sendall(GET)
        with upstream.accept() as server:
            read_message(server)
            server.sendall(OK)
            read_message(client)
            assert server.recv(1) == b""


def test_above_the_limit_clients_are_told_so(start: Start) -> None:
    proxy = start("--limits.max_downstream_connections", "1")
    with proxy.connect() as first, proxy.connect() as second:
        page = read_all(second)
        assert (status_of(page), fields_of(page)["x-kalab-cause"]) == (503, "too_many_connections")
        assert fields_of(page)["retry-after"] == "1"
        first.sendall(b"x\r\n\r\n")
        assert status_of(read_all(first)) == 400


def test_who_is_turned_away_takes_nobodys_place(start: Start) -> None:
    proxy = start("--limits.max_downstream_connections", "1")
    with proxy.connect() as first:
        turned_away = [proxy.connect() for _ in range(50)]
        for client in turned_away:
            assert status_of(client.recv(65536)) == 503
        first.sendall(b"x\r\n\r\n")
        assert status_of(read_all(first)) == 400
    time.sleep(0.1)
    with proxy.connect() as client:
        client.sendall(b"x\r\n\r\n")
        assert status_of(read_all(client)) == 400
    for client in turned_away:
        client.close()


def test_one_address_may_have_only_so_many_connections(start: Start) -> None:
    proxy = start("--limits.max_connections_per_client", "2")
    with proxy.connect() as first, proxy.connect(), proxy.connect() as third:
        page = read_all(third)
        assert (status_of(page), fields_of(page)["x-kalab-cause"]) == (503, "too_many_connections")
        with socket.create_connection(proxy.address, PATIENCE_S, source_address=("127.0.0.2", 0)) as other:
            other.sendall(b"x\r\n\r\n")
            assert status_of(read_all(other)) == 400
        first.sendall(b"x\r\n\r\n")
        assert status_of(read_all(first)) == 400


def test_what_is_asked_of_a_clients_socket_is_set(start: Start, upstream: Listener) -> None:
    """By an RST: linger 0s is inherited from the listening socket. And by what goes wrong otherwise."""
    proxy = start("--downstream_socket.linger", "0s", "--downstream_socket.nodelay", "false")
    with proxy.connect() as client:
        assert exchange_and_close(client, upstream) == 200
        with pytest.raises(ConnectionResetError):
            read_all(client)


def exchange_and_close(client: socket.socket, upstream: Listener) -> int:
    client.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    with upstream.accept() as server:
        read_message(server)
        server.sendall(OK)
        return status_of(client.recv(65536))


def test_whoever_leaves_at_whatever_byte_it_all_adds_up(start: Start, upstream: Listener, tmp_path: Path) -> None:
    """Descriptors are given back, all that opened has closed, every exchange ends once, and nobody complains."""
    log = tmp_path / "events.jsonl"
    proxy = start("--log.events", str(log))
    descriptors = Path(f"/proc/{proxy.process.pid}/fd")
    at_first = len(list(descriptors.iterdir()))

    def answer_in_part() -> None:
        while True:
            try:
                server = upstream.accept()
            except OSError:
                return
            with server, suppress(OSError):
                if request := read_message(server):
                    _, bytes_, leave = request.split(b" ")[1].split(b"/")
                    server.sendall(OK[: int(bytes_)])
                    if leave == b"reset":
                        reset(server)

    answering = threading.Thread(target=answer_in_part, daemon=True)
    answering.start()
    for sent in range(len(POST) + 1):
        client = proxy.connect()
        client.sendall(POST[:sent].replace(b"/a", b"/0/reset"))
        (reset if sent % 2 else socket.socket.close)(client)
    for received in range(len(OK) + 1):
        for leave in (b"reset", b"close"):
            with proxy.connect() as client:
                client.sendall(b"GET /%d/%b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % (received, leave))
                response = read_all(client)
                assert status_of(response) in (200, 502)
                assert (body_of(response) == b"ok") is (received == len(OK))
    deadline = time.monotonic() + PATIENCE_S
    while len(list(descriptors.iterdir())) > at_first and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(list(descriptors.iterdir())) == at_first
    upstream.socket.shutdown(socket.SHUT_RDWR)
    answering.join(PATIENCE_S)
    proxy.stop()
    seen: dict[str, list[Any]] = {}
    for event in events_of(log):
        seen.setdefault(event["kind"], []).append(event.get("exchange") or event.get("conn"))
    assert sorted(seen["downstream.opened"]) == sorted(seen["downstream.closed"])
    assert sorted(seen["upstream.opened"]) == sorted(seen["upstream.closed"])
    assert len(set(seen["exchange.finished"])) == len(seen["exchange.finished"])
    assert set(seen["exchange.started"]) <= set(seen["exchange.finished"])


# ---- the end


def test_sigterm_finishes_what_has_started_and_closes_the_rest(
    start: Start, upstream: Listener, tmp_path: Path
) -> None:
    log = tmp_path / "events.jsonl"
    proxy = start("--log.events", str(log))
    with proxy.connect() as busy, proxy.connect() as idle:
        busy.sendall(GET)
        with upstream.accept() as server:
            read_message(server)
            proxy.process.send_signal(signal.SIGTERM)
            assert idle.recv(1) == b""
            with pytest.raises(ConnectionRefusedError):
                proxy.connect()
            server.sendall(OK)
            response = read_all(busy)
            assert (status_of(response), fields_of(response)["connection"]) == (200, "close")
            assert server.recv(1) == b""
    out, err = proxy.process.communicate(timeout=PATIENCE_S)
    assert (proxy.process.returncode, out) == (0, "")
    assert err == "draining: 2 connections to finish, at most 10s\ndrained: nobody was cut off\n"
    events = events_of(log)
    assert events[-1]["kind"] == "log.closed"
    opened = [event["conn"] for event in events if event["kind"] == "downstream.opened"]
    closed = [event["conn"] for event in events if event["kind"] == "downstream.closed"]
    assert sorted(opened) == sorted(closed)


def test_when_the_grace_is_over_the_rest_is_cut_off(start: Start, upstream: Listener) -> None:
    proxy = start("--drain_grace", "50ms")
    with proxy.connect() as client:
        client.sendall(GET)
        with upstream.accept() as server:
            read_message(server)
            assert proxy.stop()[0] == 0
            assert client.recv(1) == b""
            assert server.recv(1) == b""


def test_sigint_is_the_same(start: Start) -> None:
    proxy = start()
    proxy.process.send_signal(signal.SIGINT)
    assert proxy.process.wait(PATIENCE_S) == 0


# ---- the command


def run(*flags: str, env: dict[str, str] | None = None, cwd: Path = ROOT) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "proxy", *flags]
    done = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "KALAB_ADMIN_LISTEN": "off", **(env or {})},
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--timeouts.conect", "5s"], r"--timeouts\.conect: unknown option; did you mean --timeouts\.connect\?"),
        (["--timeouts.conect=5s"], r"--timeouts\.conect: unknown option; did you mean --timeouts\.connect\?"),
        (["--upstream_idle", "5s"], r"--upstream_idle: unknown option; did you mean --timeouts\.upstream_idle\?"),
        (["--conifg", "proxy.toml"], r"--conifg: unknown option; did you mean --config\?"),
        (["--Config=proxy.toml"], r"--Config: unknown option; did you mean --config\?"),
        (["--chekc"], r"--chekc: unknown option; did you mean --check\?"),
        (["--check_sockets"], r"--check_sockets: unknown option; did you mean --check-sockets\?"),
        (["--log-format", "json"], r"--log-format: unknown option; did you mean --log\.format\?"),
        (["--xyzzy"], r"--xyzzy: unknown option; --show-config lists what there is"),
        (["-c", "proxy.toml"], r"-c: unknown option; did you mean --config\?"),
        (["-V"], r"-V: unknown option; did you mean --version\?"),
        (["--groups.api.pool.max_idel", "3"], r"--groups\.api\.pool\.max_idel: unknown key of a group"),
        (["--check=yes"], r"--check: "),
        (["--config"], r"--config: expected a value"),
        (["--timeouts.connect", "soon"], r"--timeouts\.connect: .*soon"),
        (["--timeouts.connect"], r"--timeouts\.connect: expected a value"),
        (["proxy.toml"], r"proxy\.toml: a value without an option; did you mean --config proxy\.toml\?"),
        (["--config", "/nowhere/proxy.toml"], r"/nowhere/proxy\.toml: No such file"),
        (["--log.events", "/nowhere/events.jsonl"], r"--log\.events: /nowhere/events\.jsonl: No such file"),
        (["--listen", "192.0.2.1:80"], r"--listen: 192\.0\.2\.1:80: "),
    ],
)
def test_a_mistake_is_one_line_and_exit_3(flags: list[str], says: str) -> None:
    code, out, err = run(*flags)
    assert (code, out) == (3, "")
    assert re.fullmatch(rf"error: {says}.*\n", err), err


def test_a_port_in_use_is_one_line_and_exit_3(upstream: Listener) -> None:
    code, out, err = run("--listen", upstream.address)
    assert (code, out) == (3, "")
    assert err == f"error: --listen: {upstream.address}: Address already in use\n"


def test_a_mistake_in_a_file_names_file_line_and_key(tmp_path: Path) -> None:
    path = tmp_path / "proxy.toml"
    path.write_text('listen = "127.0.0.1:0"\n[timeouts]\nconnect = 5\n')
    code, _, err = run("--config", str(path), "--check")
    assert code == 3
    assert err.startswith(f"error: {path}:3: timeouts.connect: ")


def test_what_the_kernel_makes_of_the_sockets_is_printed() -> None:
    code, out, err = run("--check-sockets", "--upstream_socket.keepalive", "true")
    rows = {row.split()[0]: row.split()[1:] for row in out.splitlines()}
    assert (code, err) == (0, "")
    assert rows["upstream_socket.keepalive_idle"] == ["60s", "60s"]
    assert rows["downstream_socket.nodelay"] == ["true", "true"]
    assert rows["listener.backlog"][0] == "4096"
    assert rows["listener.reuse_port"] == ["false", "false"]


def test_check_looks_at_what_the_config_names() -> None:
    code, _, err = run("--check", "--tls.certificates", "/nowhere.pem")
    assert (code, err) == (3, "error: --tls.certificates: /nowhere.pem: No such file or directory\n")


def test_check_says_what_a_config_amounts_to(tmp_path: Path) -> None:
    path = tmp_path / "proxy.toml"
    path.write_text(
        'upstreams = ["a:1", "b:1"]\n[groups.api.discovery]\nkind = "file"\nfile = "e.json"\n'
        '[groups.old]\nupstreams = ["c:1"]\n[[routes]]\nhost = "api.example"\ngroup = "api"\n'
    )
    code, out, err = run("--config", str(path), "--listen", "127.0.0.1:80", "--check", "--check-sockets")
    assert (code, err) == (0, f"warning: {path}:6: groups.old.upstreams: no route leads to the group old\n")
    assert out.partition("the config is valid\n")[2].splitlines() == [
        f"  file       {path}",
        "  listens    127.0.0.1:80 (HTTP)",
        "  admin      off",
        "  groups     3: default, api, old",
        "  upstreams  3, 1 group by file",
        "  routes     1: api.example/",
    ]
    assert run("--check")[1].splitlines()[:2] == ["the config is valid", "  file       none"]


def test_version_is_printed_and_nothing_else() -> None:
    code, out, err = run("--version", "--listen", "nonsense")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"kalab \S.*, (plain|compiled)\n", out)


def test_whoever_reads_what_is_printed_may_stop_reading() -> None:
    command = [sys.executable, "-m", "proxy", "--show-config"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_show_config_prints_values_and_origins(tmp_path: Path) -> None:
    path = tmp_path / "proxy.toml"
    path.write_text("[pool]\nmax_idle = 3\n")
    code, out, _ = run(
        "--config", str(path), "--timeouts.connect", "250ms", "--show-config", env={"KALAB_RETRY_POLICY": "never"}
    )
    rows = {row.split()[0]: row.split()[1:] for row in out.splitlines()}
    assert code == 0
    assert rows["pool.max_idle"] == ["3", f"{path}:2"]
    assert rows["timeouts.connect"] == ["250ms", "--timeouts.connect"]
    assert rows["retry.policy"] == ["never", "KALAB_RETRY_POLICY"]
    assert rows["timeouts.upstream_idle"] == ["4s", "default"]


def test_help_names_every_key() -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert "--timeouts.upstream_idle" in out
    assert out.index("examples:") > 0


def test_standard_output_has_the_access_log_and_nothing_else(start: Start, upstream: Listener) -> None:
    proxy = start("--log.access", "-")
    with proxy.connect() as client:
        client.sendall(GET)
        with upstream.accept() as server:
            read_message(server)
            server.sendall(OK)
            read_message(client)
        client.sendall(b"nonsense\r\n\r\n")
        read_all(client)
    code, out, err = proxy.stop()
    assert (code, err) == (0, "")
    first, refused = (json.loads(line) for line in out.splitlines())
    assert (first["req_id"], first["target"], first["status"], first["up_reuse_n"]) == ("r-1", "/a", 200, 0)
    assert (refused["status"], refused["cause"]) == (400, "bad_request")


async def test_one_line_repr() -> None:
    server = Server(override(ProxyConfig(), {"listen": "127.0.0.1:0", "log.access": "off"}))
    assert repr(server) == "<Server 127.0.0.1:0, 0 connections, 0 refused>"
    await server.start()
    await server.drain()


async def test_who_was_accepted_last_is_answered_before_it_ends() -> None:
    """The kernel has completed their connections; the loop has had no turn to accept them when the proxy is stopped."""
    async with answering() as there:
        server = Server(override(ProxyConfig(), {"listen": "127.0.0.1:0", "upstreams": there, "log.access": "off"}))
        address = await server.start()
        clients = [socket.create_connection(address, timeout=PATIENCE_S) for _ in range(3)]
        for client in clients:
            client.sendall(GET)
        await server.drain()
        for client in clients:
            with closing(client):
                assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


async def test_a_change_that_comes_when_it_stops_makes_it_listen_no_more() -> None:
    config = override(ProxyConfig(), {"listen": "127.0.0.1:0", "upstreams": "127.0.0.1:9", "log.access": "off"})
    server = Server(config)
    await server.start()
    opened = open_sockets(config)
    prepared = server.prepare(config, opened)
    server.stop_listening()
    await server.commit(prepared)
    assert [sock.fileno() for sock in opened] == [-1]
    assert server.why_not_ready() == "draining"
    await server.drain()


# ---- what is found when the config has been read, and where it is said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[tls]\ncertificates = ["gone.pem"]', "2: tls.certificates: gone.pem: {gone}; looked for {here}/gone.pem"),
        ('[tls]\ncertificates = ["a.pem"]', "2: tls.certificates: a.pem: no certificate in it; "),
        (
            '[upstream_tls]\nenabled = true\n\nca_file = "/nowhere/ca.pem"',
            "4: upstream_tls.ca_file: /nowhere/ca.pem: {gone}",
        ),
        (
            '[groups.api]\nupstreams = ["a:1"]\n[groups.api.upstream_tls]\nenabled = true\ncertificate = "gone.pem"',
            "5: groups.api.upstream_tls.certificate: gone.pem: {gone}; looked for {here}/gone.pem",
        ),
        (
            '[upstream_tls]\nca_file = "gone.pem"\n[groups.api]\nupstreams = ["a:1"]\nupstream_tls = {enabled = true}',
            "2: upstream_tls.ca_file: gone.pem: {gone}; looked for {here}/gone.pem",
        ),
        ('[admin]\ntoken_file = "gone"', "2: admin.token_file: gone: {gone}; looked for {here}/gone"),
        ('[admin]\ntoken_file = "a.pem"', "2: admin.token_file: a.pem: expected one line of visible ASCII"),
        ('[log]\naccess = "no/access.log"', "2: log.access: no/access.log: {gone}; looked for {here}/no/access.log"),
        ('[log]\naccess = "/"', "2: log.access: /: Is a directory"),
        ('[log]\naccess = "off"\nevents = "/nowhere/e.jsonl"', "3: log.events: /nowhere/e.jsonl: {gone}"),
    ],
)
@pytest.mark.parametrize("check", [["--check"], [], ["--workers", "2"]], ids=["check", "start", "workers"])
def test_a_file_that_cannot_be_used_is_told_with_the_place_that_names_it(
    tmp_path: Path, text: str, says: str, check: list[str]
) -> None:
    (tmp_path / "a.pem").write_text("not a certificate\n")
    (tmp_path / "proxy.toml").write_text(text)
    env = {"PYTHONPATH": str(ROOT), "KALAB_LISTEN": "127.0.0.1:0", "KALAB_ADMIN_LISTEN": "127.0.0.1:0"}
    code, out, err = run("--config", "proxy.toml", *check, cwd=tmp_path, env=env)
    assert (code, out) == (3, "")
    assert err.startswith("error: proxy.toml:" + says.format(gone="No such file or directory", here=tmp_path)), err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "env", "says"),
    [
        (["--tls.certificates", "/nowhere.pem"], {}, "--tls.certificates: /nowhere.pem: "),
        ([], {"KALAB_TLS_CERTIFICATES": "/nowhere.pem"}, "KALAB_TLS_CERTIFICATES: tls.certificates: /nowhere.pem: "),
        (["--admin.token_file", "/nowhere"], {"KALAB_ADMIN_LISTEN": "127.0.0.1:0"}, "--admin.token_file: /nowhere: "),
        ([], {"KALAB_LOG_ACCESS": "/nowhere/a.log"}, "KALAB_LOG_ACCESS: log.access: /nowhere/a.log: "),
        (
            ["--discovery.kind", "kubernetes", "--discovery.service", "A B", "--listen", "127.0.0.1:0"],
            {},
            "--discovery.service: ",
        ),
    ],
)
def test_so_is_one_that_an_option_or_a_variable_names(flags: list[str], env: dict[str, str], says: str) -> None:
    code, out, err = run(*flags, env=env)
    assert (code, out) == (3, "")
    assert err.startswith(f"error: {says}")
    assert err.count("\n") == 1


def test_what_nobody_asks_is_told_at_the_start_and_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "proxy.toml"
    path.write_text('[groups.old]\nupstreams = ["a:1"]\n')
    command = [sys.executable, "-m", "proxy", "--config", str(path), "--listen", "127.0.0.1:0", "--admin.listen", "off"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as proxy:
        assert proxy.stderr is not None
        first = proxy.stderr.readline()
        assert proxy.stderr.readline().startswith("listening on ")
        proxy.terminate()
        proxy.communicate(timeout=PATIENCE_S)
    assert first == f"warning: {path}:2: groups.old.upstreams: no route leads to the group old\n"
    assert proxy.returncode == 0


def test_it_serves_and_drains_though_nobody_reads_what_it_says(start: Start) -> None:
    proxy = start()
    assert proxy.process.stderr is not None
    proxy.process.stderr.close()
    proxy.process.send_signal(signal.SIGTERM)
    assert proxy.process.wait(PATIENCE_S) == 0
