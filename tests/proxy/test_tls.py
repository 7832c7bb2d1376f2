"""TLS on both sides: what is refused and in which words, which certificate is shown, and how connections end."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import signal
import socket
import ssl
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop
from live import GET, PATIENCE_S, LiveProxy, ask, metrics, proxy, upstream

from proxy.config import Seconds, TlsConfig, UpstreamTls
from proxy.listener import TlsListener
from proxy.tls import TlsError, certificate_for, client_context, server_context

YESTERDAY = datetime(2020, 1, 1, tzinfo=UTC)

NOBODY = 65534  # a user without rights


class Papers:
    """An authority and what it has signed, as files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.ca_file = str(folder / "ca.pem")
        self.ca.cert_pem.write_to_path(self.ca_file)

    def issued(self, file: str, *names: str, expires: datetime | None = None) -> str:
        """A file with a certificate for these names, and its key."""
        pair = self.ca.issue_cert(*names, not_before=None, not_after=expires)
        path = str(self.folder / file)
        pair.private_key_and_cert_chain_pem.write_to_path(path)
        return path

    def client(self, certificate: str = "") -> ssl.SSLContext:
        """Of a client that trusts the authority."""
        context = ssl.create_default_context(cafile=self.ca_file)
        if certificate:
            context.load_cert_chain(certificate)
        return context

    def server(self, certificate: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        return context


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="module")
def shop(papers: Papers) -> str:
    return papers.issued("shop.pem", "shop.test", "localhost")


# ---- files that are wrong


def wrong(papers: Papers, shop: str) -> dict[str, str]:
    """Files, each with something else wrong."""
    folder = papers.folder
    pem = Path(shop).read_text()
    key, certificate = pem[: pem.index("-----BEGIN CERT")], pem[pem.index("-----BEGIN CERT") :]
    other = Path(papers.issued("other.pem", "other.test")).read_text()
    other_key = other[: other.index("-----BEGIN CERT")]
    encrypted = key.replace("BEGIN RSA PRIVATE", "BEGIN ENCRYPTED PRIVATE").replace(
        "BEGIN PRIVATE", "BEGIN ENCRYPTED PRIVATE"
    )
    files = {
        "nothing": "",
        "no key": certificate,
        "no certificate": key,
        "another key": other_key + certificate,
        "garbage": pem[: len(pem) // 2] + "\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "cut": certificate + encrypted[: len(encrypted) // 2],
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "binary").write_bytes(os.urandom(1000))
    return {name: str(folder / name) for name in [*files, "binary", "missing", "."]}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing", "No such file or directory"),
        (".", "Is a directory"),
        ("nothing", "no certificate in it"),
        ("no key", "no private key in it"),
        ("no certificate", "no certificate in it"),
        ("another key", "the private key does not match the first certificate"),
        ("garbage", "OpenSSL: "),
        ("cut", ""),
        ("binary", "not a PEM file"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_its_key(papers: Papers, shop: str, name: str, says: str) -> None:
    file = wrong(papers, shop)[name]
    with pytest.raises(TlsError, match=rf"^tls\.certificates: {re.escape(file)}: {says}"):
        server_context(TlsConfig(certificates=(shop, file)))
    with pytest.raises(TlsError, match=rf"^upstream_tls\.certificate: {re.escape(file)}: {says}"):
        client_context(UpstreamTls(enabled=True, certificate=file))


@pytest.mark.parametrize("name", ["missing", ".", "nothing", "binary", "garbage"])
def test_so_is_a_file_of_authorities(papers: Papers, shop: str, name: str) -> None:
    file = wrong(papers, shop)[name]
    with pytest.raises(TlsError, match=rf"^tls\.client_ca: {re.escape(file)}: "):
        server_context(TlsConfig(certificates=(shop,), client_ca=file))
    with pytest.raises(TlsError, match=rf"^upstream_tls\.ca_file: {re.escape(file)}: "):
        client_context(UpstreamTls(enabled=True, ca_file=file))


@pytest.fixture
def unreadable(papers: Papers) -> Iterator[str]:
    """A file that may not be read. Root may read everything, so it is somebody else for a while."""
    file = papers.issued("secret.pem", "shop.test")
    Path(file).chmod(0)
    user = os.geteuid()
    os.seteuid(user or NOBODY)
    yield file
    os.seteuid(user)


def test_a_file_that_may_not_be_read(unreadable: str) -> None:
    with pytest.raises(TlsError, match="Permission denied"):
        server_context(TlsConfig(certificates=(unreadable,)))


def test_an_encrypted_key_is_refused_and_not_asked_for(papers: Papers, shop: str) -> None:
    from cryptography.hazmat.primitives import serialization as s

    pem = Path(shop).read_bytes()
    key = s.load_pem_private_key(pem, None)
    locked = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"secret"))
    file = papers.folder / "locked.pem"
    file.write_bytes(locked + pem[pem.index(b"-----BEGIN CERT") :])
    with pytest.raises(TlsError, match="the private key is encrypted"):
        server_context(TlsConfig(certificates=(str(file),)))


def test_what_is_in_a_certificate(papers: Papers) -> None:
    file = papers.issued("names.pem", "Shop.test", "*.shop.test", "127.0.0.1", expires=YESTERDAY)
    (certificate,) = server_context(TlsConfig(certificates=(file,))).certificates
    assert certificate.names == ("shop.test", "*.shop.test")
    assert certificate.expires == YESTERDAY.timestamp()
    assert certificate.expired


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ("shop.test", "exact"),
        ("SHOP.test", "exact"),
        ("shop.test.", "exact"),
        ("a.shop.test", "wildcard"),
        ("b.shop.test", "b"),
        ("a.b.shop.test", None),
        ("other.test", None),
        ("", None),
        ("test", None),
    ],
)
def test_which_certificate_is_for_a_name(asked: str, got: str | None) -> None:
    by_name = {"shop.test": "exact", "*.shop.test": "wildcard", "b.shop.test": "b"}
    assert certificate_for(asked, by_name) == got  # type: ignore[arg-type, comparison-overlap]


# ---- clients


async def shown(running: LiveProxy, context: ssl.SSLContext, name: str) -> tuple[str, ...]:
    """The names in the certificate that the proxy shows to who asks for this one."""
    async with asyncio.timeout(PATIENCE_S):
        _, writer = await asyncio.open_connection(running.host, running.port, ssl=context, server_hostname=name)
        found = writer.get_extra_info("peercert")
        writer.close()
        return tuple(value for _, value in found["subjectAltName"])


async def test_requests_by_tls_and_what_the_upstream_is_told(papers: Papers, shop: str) -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    there = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with proxy("--upstreams", there, "--tls.certificates", shop) as running:
        answer = await ask(running.host, running.port, papers.client(), "shop.test")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"ok")
        assert b"X-Forwarded-Proto: https\r\n" in heads[0]
        assert running.first_line == f"listening on 127.0.0.1:{running.port} (HTTPS), admin off"
    server.close()


async def test_the_name_asked_for_chooses_the_certificate_and_a_reload_brings_new_ones(
    papers: Papers, shop: str, tmp_path: Path
) -> None:
    renewed = tmp_path / "renewed.pem"
    renewed.write_bytes(Path(shop).read_bytes())
    wild = papers.issued("wild.pem", "*.shop.test")
    context = papers.client()
    async with upstream() as there:
        certificates = f"{renewed},{wild}"
        async with proxy("--upstreams", there, "--tls.certificates", certificates, "--workers", "2") as running:
            assert await shown(running, context, "shop.test") == ("shop.test", "localhost")
            assert await shown(running, context, "a.shop.test") == ("*.shop.test",)
            with pytest.raises(ssl.SSLCertVerificationError):  # the first is shown, and is not for it
                await shown(running, context, "elsewhere.test")
            renewed.write_text("half")
            running.signal(signal.SIGHUP)
            await running.says("not reloaded: ", str(renewed), "no certificate in it")
            assert await shown(running, context, "shop.test") == ("shop.test", "localhost")
            renewed.write_bytes(Path(papers.issued("new.pem", "shop.test", "new.test")).read_bytes())
            running.signal(signal.SIGHUP)
            await running.says("reloaded: 0 changes, and certificates read anew")
            assert await shown(running, context, "shop.test") == ("shop.test", "new.test")


async def test_clients_must_show_a_certificate(papers: Papers, shop: str, tmp_path: Path) -> None:
    mine = papers.issued("client.pem", "client.test")
    strangers = Papers(tmp_path).issued("stranger.pem", "client.test")
    flags = ["--tls.certificates", shop, "--tls.client_ca", papers.ca_file]
    async with upstream() as there, proxy("--upstreams", there, *flags) as running:
        assert (await ask(running.host, running.port, papers.client(mine), "shop.test")).endswith(b"ok")
        for certificate in ("", strangers):
            try:
                answer = await ask(running.host, running.port, papers.client(certificate), "shop.test")
            except OSError:
                answer = b""
            assert answer == b""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_the_oldest_version(papers: Papers, shop: str, version: ssl.TLSVersion) -> None:
    context = papers.client()
    context.maximum_version = version
    flags = ["--tls.certificates", shop, "--tls.min_version", "1.3"]
    async with upstream() as there, proxy("--upstreams", there, *flags) as running:
        if version is ssl.TLSVersion.TLSv1_3:
            assert (await ask(running.host, running.port, context, "shop.test")).endswith(b"ok")
        else:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await ask(running.host, running.port, context, "shop.test")


# ---- those that do not get in


def says_nothing(_client: socket.socket) -> None:
    pass


def leaves(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)


def begins(client: socket.socket) -> None:
    client.sendall(b"\x16\x03\x01")


def begins_with_nonsense(client: socket.socket) -> None:
    client.sendall(b"\x00" * 40)


@pytest.mark.parametrize("does", [says_nothing, leaves, begins, begins_with_nonsense])
async def test_who_makes_no_handshake_is_closed_in_time_and_nothing_is_printed(
    shop: str, does: Callable[[socket.socket], None]
) -> None:
    flags = ["--tls.certificates", shop, "--timeouts.tls_handshake", "200ms"]
    async with upstream() as there, proxy("--upstreams", there, *flags) as running:

        def client() -> bytes:
            with socket.create_connection((running.host, running.port), PATIENCE_S) as connection:
                does(connection)
                return connection.recv(1)

        assert await asyncio.get_running_loop().run_in_executor(None, client) == b""
    assert [line.partition(":")[0] for line in running.said] == ["draining", "drained"]


async def test_a_handshake_counts_against_the_limits(papers: Papers, shop: str) -> None:
    """Of one address only so many may be under way, and of all; others get in when they are over."""
    flags = ["--tls.certificates", shop, "--limits.max_connections_per_client", "2"]
    async with upstream() as there, proxy("--upstreams", there, *flags) as running:
        slow = [socket.create_connection((running.host, running.port)) for _ in range(2)]
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await ask(running.host, running.port, papers.client(), "shop.test")
        for each in slow:
            each.close()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    assert (await ask(running.host, running.port, papers.client(), "shop.test")).endswith(b"ok")
                    return
                except OSError:
                    await asyncio.sleep(0.01)


async def test_without_descriptors_clients_wait_and_are_not_dropped(papers: Papers, shop: str) -> None:
    class Full(socket.socket):
        """Two accepts fail for want of a descriptor."""

        fails = 2

        def accept(self) -> tuple[socket.socket, Any]:
            if self.fails:
                self.fails -= 1
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return super().accept()

    class Door:
        def __init__(self) -> None:
            self.why = asyncio.get_running_loop().create_future()

        def connection(self) -> Any:
            return asyncio.Protocol()

        def knocked(self, _connection: object, ip: str) -> bool:
            return ip == "127.0.0.1"

        def turned_away(self, _connection: object, why: str) -> None:
            self.why.set_result(why)

        def mistaken(self, _connection: object) -> Any:
            self.why.set_result("tls_plain_http")
            return asyncio.Protocol()

    door = Door()
    with Full(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        listener = TlsListener(door, listening, lambda: papers.server(shop), lambda: Seconds(PATIENCE_S))
        await listener.start()
        with socket.create_connection(listening.getsockname()) as client:
            client.sendall(GET)
            async with asyncio.timeout(PATIENCE_S):
                assert await door.why == "tls_plain_http"
        assert listening.fails == 0
        listener.close()


@pytest.mark.parametrize("piece", [1, 1000])
async def test_plain_http_is_told_that_tls_is_spoken_here(shop: str, tmp_path: Path, piece: int) -> None:
    log = tmp_path / "access.log"
    flags = ("--tls.certificates", shop, "--log.access", str(log), "--admin.listen", "127.0.0.1:0")
    asked = []

    def body() -> bytes:
        asked.append("it was passed on")
        return b"ok"

    async with upstream(body) as there, proxy("--upstreams", there, *flags) as running:
        reader, writer = await asyncio.open_connection(running.host, running.port)
        for at in range(0, len(GET), piece):
            writer.write(GET[at : at + piece])
            await writer.drain()
        async with asyncio.timeout(PATIENCE_S):
            page = await reader.read()
        assert page.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert page.endswith(b": plain HTTP was sent to a port for HTTPS\n")
        writer.close()
        counted = await metrics(running)
        assert 'downstream_refused_total{reason="tls_plain_http"} 1\n' in counted
        assert "downstream_accepted_total 1\n" in counted
    assert asked == []
    (line,) = (json.loads(each) for each in log.read_text().splitlines())
    assert (line["status"], line["cause"]) == (400, "bad_request")
    assert line["reason"] == "plain HTTP was sent to a port for HTTPS"
    assert line["target"] in ("/", None)  # as far as it had come


# ---- how a connection ends


def tls_client(running: LiveProxy, papers: Papers) -> ssl.SSLSocket:
    raw = socket.create_connection((running.host, running.port), PATIENCE_S)
    return papers.client().wrap_socket(raw, server_hostname="shop.test", suppress_ragged_eofs=False)


def by_close_notify(client: ssl.SSLSocket) -> None:
    client.unwrap().close()


def by_fin(client: ssl.SSLSocket) -> None:
    client.close()


def by_reset(client: ssl.SSLSocket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.mark.parametrize("leave", [by_close_notify, by_fin, by_reset])
async def test_whichever_way_a_client_leaves_its_descriptor_is_given_back(
    papers: Papers, shop: str, leave: Callable[[ssl.SSLSocket], None]
) -> None:
    async with upstream() as there, proxy("--upstreams", there, "--tls.certificates", shop) as running:
        descriptors = Path(f"/proc/{running.process.pid}/fd")
        await ask(running.host, running.port, papers.client(), "shop.test")
        at_first = len(list(descriptors.iterdir()))

        def client() -> None:
            connection = tls_client(running, papers)
            connection.sendall(GET)
            connection.recv(1000)
            leave(connection)

        await asyncio.get_running_loop().run_in_executor(None, client)
        async with asyncio.timeout(PATIENCE_S):
            while len(list(descriptors.iterdir())) > at_first:
                await asyncio.sleep(0.01)
    assert [line.partition(":")[0] for line in running.said] == ["draining", "drained"]


async def test_who_says_a_plain_byte_and_resets_leaves_nothing_behind(papers: Papers, shop: str) -> None:
    """By the time that it is a connection the kernel may not know its address any more."""
    flags = ("--tls.certificates", shop, "--limits.max_connections_per_client", "20")

    def client(host: str, port: int) -> None:
        with socket.create_connection((host, port), PATIENCE_S) as connection:
            connection.sendall(b"G")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async with upstream() as there, proxy("--upstreams", there, *flags) as running:
        descriptors = Path(f"/proc/{running.process.pid}/fd")
        await ask(running.host, running.port, papers.client(), "shop.test")
        at_first = len(list(descriptors.iterdir()))
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: client(running.host, running.port), range(400)))
        async with asyncio.timeout(PATIENCE_S):
            while len(list(descriptors.iterdir())) > at_first:
                await asyncio.sleep(0.01)
        await ask(running.host, running.port, papers.client(), "shop.test")
    assert [line.partition(":")[0] for line in running.said] == ["draining", "drained"]


async def test_a_refusal_is_read_though_the_client_still_sends(papers: Papers, shop: str) -> None:
    """There is no half-close in TLS here, so an answer is followed by close_notify and what comes is thrown away."""
    flags = ["--tls.certificates", shop, "--limits.body_bytes", "1KiB"]
    async with upstream() as there, proxy("--upstreams", there, *flags) as running:

        def client() -> bytes:
            with tls_client(running, papers) as connection:
                connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n")
                for _ in range(50):
                    connection.sendall(bytes(10_000))
                began = time.monotonic()
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
                assert time.monotonic() - began < PATIENCE_S
                return answer

        answer = await asyncio.get_running_loop().run_in_executor(None, client)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert answer.endswith(b"\n")


async def test_what_was_broken_off_does_not_look_complete(papers: Papers, shop: str) -> None:
    """For a client of HTTP/1.0 only the close ends a chunked response. A close_notify would say that it was whole."""

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        writer.close()

    server = await asyncio.start_server(break_off, "127.0.0.1", 0)
    there = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with proxy("--upstreams", there, "--tls.certificates", shop) as running:

        def client() -> None:
            with tls_client(running, papers) as connection:
                connection.sendall(b"GET / HTTP/1.0\r\nHost: shop\r\n\r\n")
                with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
                    b"".join(iter(lambda: connection.recv(65536), b""))

        await asyncio.get_running_loop().run_in_executor(None, client)
    server.close()


async def test_the_end_answers_tls_clients_too(papers: Papers, shop: str) -> None:
    async def answer_later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        running.signal(signal.SIGTERM)
        await asyncio.sleep(0.2)  # longer than the signal takes
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer_later, "127.0.0.1", 0)
    there = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with proxy("--upstreams", there, "--tls.certificates", shop) as running:
        reader, writer = await asyncio.open_connection(
            running.host, running.port, ssl=papers.client(), server_hostname="shop.test"
        )
        writer.write(GET)
        answer = await reader.read()
        writer.close()
        assert b"Connection: close" in answer
        assert answer.endswith(b"ok")
        assert await running.ended() == 0
    server.close()


async def test_the_end_does_not_wait_for_clients_that_answer_no_close_notify(papers: Papers, shop: str) -> None:
    async def client(address: tuple[str, int]) -> None:
        def ask_and_stay() -> None:
            plain = socket.create_connection(address)
            with papers.client().wrap_socket(plain, server_hostname="shop.test") as client:
                client.sendall(GET)
                assert client.recv(4096).startswith(b"HTTP/1.1 200")
                running.signal(signal.SIGTERM)
                ended.wait(PATIENCE_S)

        await asyncio.get_running_loop().run_in_executor(None, ask_and_stay)

    ended = threading.Event()
    async with (
        upstream() as there,
        proxy("--upstreams", there, "--tls.certificates", shop, "--drain_grace", "25s") as running,
    ):
        asked = asyncio.get_running_loop().create_task(client((running.host, running.port)))
        began = time.monotonic()
        assert await running.ended() == 0
        assert time.monotonic() - began < 20
        ended.set()
        await asked


# ---- upstreams


@pytest.fixture
def upstream_flags(papers: Papers) -> list[str]:
    return ["--upstream_tls.enabled", "true", "--upstream_tls.ca_file", papers.ca_file]


@pytest.mark.parametrize(
    ("names", "flags", "status"),
    [
        (("127.0.0.1",), [], b"200"),
        (("shop.test",), ["--upstream_tls.server_name", "shop.test"], b"200"),
        (("*.shop.test",), ["--upstream_tls.server_name", "a.shop.test"], b"200"),
        (("shop.test",), [], b"502"),  # the address is not what it is for
        (("shop.test",), ["--upstream_tls.server_name", "other.test"], b"502"),
        (("shop.test",), ["--upstream_tls.verify", "false"], b"200"),
        (("127.0.0.1", "expired"), [], b"502"),
        (("127.0.0.1", "expired"), ["--upstream_tls.verify", "false"], b"200"),
        (("127.0.0.1", "stranger"), [], b"502"),
        (("127.0.0.1", "mTLS"), [], b"502"),
        (("127.0.0.1", "mTLS"), ["--upstream_tls.certificate", "client.pem"], b"200"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list | tuple) else value.decode(),
)
async def test_an_upstream_is_verified(
    papers: Papers, tmp_path: Path, names: tuple[str, ...], flags: list[str], status: bytes, upstream_flags: list[str]
) -> None:
    issuer = Papers(tmp_path) if "stranger" in names else papers
    expires = YESTERDAY if "expired" in names else None
    certificate = issuer.issued("upstream.pem", *(n for n in names if "." in n), expires=expires)
    context = issuer.server(certificate)
    if "mTLS" in names:
        context.load_verify_locations(papers.ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    flags = [papers.issued("client.pem", "client.test") if flag == "client.pem" else flag for flag in flags]
    async with upstream(tls=context) as there, proxy("--upstreams", there, *upstream_flags, *flags) as running:
        answer = await ask(running.host, running.port)
        assert answer[9:12] == status


async def test_a_response_that_ends_without_close_notify_is_broken_off(
    papers: Papers, upstream_flags: list[str]
) -> None:
    """Without a length only the close ends it, and a FIN can be anybody's: it is not passed on as a good end."""
    context = papers.server(papers.issued("upstream.pem", "127.0.0.1"))

    def serve(listener: socket.socket, properly: bool) -> None:
        raw, _ = listener.accept()
        with context.wrap_socket(raw, server_side=True) as connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf")
            if properly:
                with suppress(OSError):  # the proxy does not wait for the end of the end
                    connection.unwrap()

    for properly in (True, False):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            there = f"127.0.0.1:{listener.getsockname()[1]}"
            async with proxy("--upstreams", there, *upstream_flags) as running:
                serving = asyncio.get_running_loop().run_in_executor(None, serve, listener, properly)
                answer = await ask(running.host, running.port)
                await serving
                assert answer.endswith(b"\r\n0\r\n\r\n") is properly


# ---- the facts that this rests on, of uvloop's TLS transports


class Seen(asyncio.Protocol):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.bytes = 0
        self.made = asyncio.Event()
        self.lost = asyncio.Event()
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.made.set()

    def data_received(self, data: bytes) -> None:
        self.bytes += len(data)

    def eof_received(self) -> None:
        self.told.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost" if exc is None else type(exc).__name__)
        self.lost.set()


def seen_by_uvloop(
    papers: Papers,
    shop: str,
    does: Callable[[ssl.SSLSocket], object],
    meanwhile: Callable[[Seen], Awaitable[None]] | None = None,
) -> Seen:
    """What the server's side is told when a client does this."""

    async def run() -> Seen:
        loop = asyncio.get_running_loop()
        seen = Seen()
        server = await loop.create_server(lambda: seen, "127.0.0.1", 0, ssl=papers.server(shop))
        address = server.sockets[0].getsockname()

        def client() -> None:
            raw = socket.create_connection(address, PATIENCE_S)
            with papers.client().wrap_socket(raw, server_hostname="shop.test") as connection, suppress(OSError):
                does(connection)

        ended = loop.run_in_executor(None, client)
        async with asyncio.timeout(PATIENCE_S):
            await seen.made.wait()
            if meanwhile is not None:
                await meanwhile(seen)
            await ended
            await seen.lost.wait()
        server.close()
        await server.wait_closed()
        return seen

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def test_close_notify_is_the_end_of_the_stream_and_fin_is_not(papers: Papers, shop: str) -> None:
    """So a stream that was cut can be told from one that is complete."""
    assert seen_by_uvloop(papers, shop, lambda client: client.unwrap()).told == ["eof", "lost"]
    assert seen_by_uvloop(papers, shop, lambda client: client.shutdown(socket.SHUT_WR)).told == ["lost"]


def test_there_is_no_half_close(papers: Papers, shop: str) -> None:
    async def half_close(seen: Seen) -> None:
        assert not seen.transport.can_write_eof()
        with pytest.raises(NotImplementedError):
            seen.transport.write_eof()

    seen_by_uvloop(papers, shop, lambda client: client.unwrap(), half_close)


def test_close_sends_what_waits_then_close_notify_and_throws_away_what_still_comes(papers: Papers, shop: str) -> None:
    got: list[bytes] = []

    def send_and_read(client: ssl.SSLSocket) -> None:
        for _ in range(100):
            client.sendall(bytes(10_000))
        got.append(b"".join(iter(lambda: client.recv(65536), b"")))

    async def answer_and_close(seen: Seen) -> None:
        seen.transport.write(b"answer")
        seen.transport.close()

    seen = seen_by_uvloop(papers, shop, send_and_read, answer_and_close)
    assert got == [b"answer"]
    assert seen.bytes < 1_000_000


@pytest.mark.parametrize(
    ("high", "size", "patience_s"), [(None, 50_000, 0.05), (1, 50_000, 0.05), (1, 3_000_000, PATIENCE_S)]
)
def test_what_came_before_the_end_is_lost_while_reading_is_paused(
    papers: Papers, shop: str, high: int | None, size: int, patience_s: float
) -> None:
    """uvloop goes on reading below the decoder, finds the end there, and forgets what it has not decoded yet.

    With room for one byte only it stops below as well, and nothing is lost; see `transports.py`.
    """

    def send_and_close(client: ssl.SSLSocket) -> None:
        client.sendall(bytes(size))
        client.settimeout(patience_s)  # nobody answers the close_notify for a while
        client.unwrap()

    async def pause_for_a_while(seen: Seen) -> None:
        seen.transport.set_read_buffer_limits(high=high)
        while seen.bytes < size and not seen.lost.is_set():
            seen.transport.pause_reading()
            await asyncio.sleep(0.1)  # more has come meanwhile, and at last the end of it
            seen.transport.resume_reading()
            await asyncio.sleep(0)

    seen = seen_by_uvloop(papers, shop, send_and_close, pause_for_a_while)
    assert (seen.bytes == size) is (high == 1)


def test_reading_cannot_be_paused_from_the_start(papers: Papers) -> None:
    """Which is why `start_tls` on an accepted connection would lose the first bytes: they go to the old protocol."""

    class Pauses(Seen):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            transport.pause_reading()  # type: ignore[attr-defined]

    async def run() -> int:
        loop = asyncio.get_running_loop()
        seen = Pauses()
        server = await loop.create_server(lambda: seen, "127.0.0.1", 0)
        client, _ = await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
        client.write(b"hello")
        async with asyncio.timeout(PATIENCE_S):
            while not seen.bytes:
                await asyncio.sleep(0.01)
        client.close()
        server.close()
        await seen.lost.wait()
        return seen.bytes

    assert papers.ca is not None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(run()) == 5


async def test_a_slow_client_gets_the_whole_of_a_response_that_ends_by_close(
    papers: Papers, upstream_flags: list[str]
) -> None:
    size = 6_000_000
    context = papers.server(papers.issued("upstream.pem", "127.0.0.1"))

    def serve(listener: socket.socket) -> None:
        raw, _ = listener.accept()
        with context.wrap_socket(raw, server_side=True) as connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size)
            connection.sendall(bytes(size))
            connection.settimeout(0.05)
            connection.unwrap()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        there = f"127.0.0.1:{listener.getsockname()[1]}"
        async with proxy("--upstreams", there, *upstream_flags) as running:
            serving = asyncio.get_running_loop().run_in_executor(None, serve, listener)
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.settimeout(PATIENCE_S)
                client.connect((running.host, running.port))
                client.sendall(GET)
                await asyncio.sleep(0.5)  # all buffers on the way are full, and the upstream may have closed

                def read() -> int:
                    total = 0
                    while total < size and (piece := client.recv(1 << 20)):
                        total += len(piece)
                    return total

                assert await asyncio.get_running_loop().run_in_executor(None, read) >= size
            await serving
