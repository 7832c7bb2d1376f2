"""What went wrong, from what the loop reports; and what may be concluded from it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator

import pytest
import uvloop

from proxy.failure import Failure, Proof, classify, classify_connect, proof_of, status_of

F = Failure


@pytest.mark.parametrize(
    ("exc", "before", "after"),
    [
        (None, F.CLOSED_BEFORE_RESPONSE, F.TRUNCATED_RESPONSE),
        (ConnectionResetError(104, "Connection reset by peer"), F.RESET_BEFORE_RESPONSE, F.TRUNCATED_RESPONSE),
        (BrokenPipeError(32, "Broken pipe"), F.RESET_BEFORE_RESPONSE, F.TRUNCATED_RESPONSE),
        (ConnectionAbortedError(), F.RESET_BEFORE_RESPONSE, F.TRUNCATED_RESPONSE),
        (ConnectionRefusedError(), F.CONNECT_REFUSED, F.TRUNCATED_RESPONSE),
        (TimeoutError(110, "Connection timed out"), F.RESPONSE_TIMEOUT, F.TRUNCATED_RESPONSE),
        (OSError(113, "No route to host"), F.RESET_BEFORE_RESPONSE, F.TRUNCATED_RESPONSE),
        (RuntimeError("the handler is closed"), F.RESET_BEFORE_RESPONSE, F.TRUNCATED_RESPONSE),
    ],
)
def test_the_end_of_a_connection(exc: BaseException | None, before: Failure, after: Failure) -> None:
    assert classify(exc, response_started=False) is before
    assert classify(exc, response_started=True) is after


@pytest.mark.parametrize(
    ("exc", "failure"),
    [
        (ConnectionRefusedError(), F.CONNECT_REFUSED),
        (TimeoutError(), F.CONNECT_TIMEOUT),
        (TimeoutError(110, "Connection timed out"), F.CONNECT_TIMEOUT),
        (socket.gaierror(-2, "Name or service not known"), F.CONNECT_FAILED),
        (OSError(99, "Cannot assign requested address"), F.RESOURCES_EXHAUSTED),
        (OSError(24, "Too many open files"), F.RESOURCES_EXHAUSTED),
        (OSError(23, "Too many open files in system"), F.RESOURCES_EXHAUSTED),
        (OSError(105, "No buffer space available"), F.RESOURCES_EXHAUSTED),
        (OSError(12, "Cannot allocate memory"), F.RESOURCES_EXHAUSTED),
        (OSError("Multiple exceptions: …"), F.CONNECT_FAILED),  # asyncio, of a name with several addresses
        (ValueError("label empty or too long"), F.CONNECT_FAILED),
        (OSError(113, "No route to host"), F.CONNECT_FAILED),
        (ConnectionResetError(), F.CONNECT_FAILED),
    ],
)
def test_a_connect_that_failed(exc: BaseException, failure: Failure) -> None:
    assert classify_connect(exc, reached=True) is failure


def test_an_address_that_was_never_reached_may_be_one_that_cannot_be() -> None:
    assert classify_connect(OSError(99, "Cannot assign requested address"), reached=False) is F.CONNECT_FAILED
    assert classify_connect(OSError(24, "Too many open files"), reached=False) is F.RESOURCES_EXHAUSTED


@pytest.mark.parametrize(
    ("status", "failures"),
    [
        (
            502,
            {
                F.CONNECT_REFUSED,
                F.CONNECT_FAILED,
                F.CLOSED_BEFORE_RESPONSE,
                F.RESET_BEFORE_RESPONSE,
                F.TRUNCATED_RESPONSE,
                F.INVALID_RESPONSE,
            },
        ),
        (503, {F.POOL_EXHAUSTED, F.RESOURCES_EXHAUSTED, F.NO_UPSTREAM, F.TOO_MANY_CONNECTIONS, F.DRAINING}),
        (404, {F.NO_ROUTE}),
        (504, {F.CONNECT_TIMEOUT, F.RESPONSE_TIMEOUT, F.TOTAL_TIMEOUT}),
        (400, {F.BAD_REQUEST}),
        (408, {F.REQUEST_TIMEOUT}),
        (499, {F.CLIENT_CLOSED, F.CLIENT_STALLED}),
        (101, {F.TUNNEL_IDLE}),
        (500, {F.INTERNAL_ERROR}),
    ],
)
def test_every_failure_has_its_status(status: int, failures: set[Failure]) -> None:
    assert {failure for failure in Failure if status_of(failure) == status} == failures


# The adversarial cases that the proof rule was measured against: what the proxy's socket sees, what it may conclude.
PROOFS = [
    # failure, request, un-ACKed, written, proof
    (
        "idle close crossed the request: nothing of it is acknowledged",
        F.CLOSED_BEFORE_RESPONSE,
        55,
        55,
        55,
        "unprocessed",
    ),
    ("more waits than this request: its body too", F.CLOSED_BEFORE_RESPONSE, 55, 70, 70, "unprocessed"),
    ("processed, then closed: all is acknowledged", F.CLOSED_BEFORE_RESPONSE, 55, 0, 55, "unknown"),
    ("a part was read", F.CLOSED_BEFORE_RESPONSE, 5000, 3552, 5000, "unknown"),
    ("a part is not yet in the socket", F.CLOSED_BEFORE_RESPONSE, 5000, 3000, 5000, "unknown"),
    ("the queue cannot be read on this system", F.CLOSED_BEFORE_RESPONSE, 55, None, 55, "unknown"),
    ("behind a relay, which acknowledges for the upstream", F.CLOSED_BEFORE_RESPONSE, 55, 0, 55, "unknown"),
    ("crashed after reading: the reset's acknowledgement is lost", F.RESET_BEFORE_RESPONSE, 55, 55, 55, "unknown"),
    ("reset at once", F.RESET_BEFORE_RESPONSE, 55, 0, 55, "unknown"),
    ("slow, or still on its way", F.RESPONSE_TIMEOUT, 55, 55, 55, "unknown"),
    ("an answer that made no sense", F.INVALID_RESPONSE, 55, 55, 55, "unknown"),
    ("half an answer", F.TRUNCATED_RESPONSE, 55, 55, 55, "unknown"),
    ("died before anything was written", F.CLOSED_BEFORE_RESPONSE, 55, 0, 0, "unprocessed"),
    ("reset before anything was written", F.RESET_BEFORE_RESPONSE, 55, None, 0, "unprocessed"),
    ("no connection", F.CONNECT_REFUSED, 55, None, 0, "unprocessed"),
    ("the length is not known: no request to prove anything of", F.CLOSED_BEFORE_RESPONSE, 0, 0, 10, "unknown"),
]


@pytest.mark.parametrize(
    ("failure", "request_bytes", "unacked", "written", "proof"),
    [pytest.param(*row[1:], id=row[0]) for row in PROOFS],
)
def test_proof(failure: Failure, request_bytes: int, unacked: int | None, written: int, proof: str) -> None:
    assert proof_of(failure, request_bytes=request_bytes, unacked_bytes=unacked, written_bytes=written) == proof


def test_values_are_what_logs_say() -> None:
    assert f"{Failure.CLOSED_BEFORE_RESPONSE} {Proof.UNPROCESSED}" == "closed_before_response unprocessed"


# --- The facts above, on both loops and real sockets


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    loop = request.param()
    yield loop
    loop.close()


class Lost(asyncio.Protocol):
    """Hears how its connection ends."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.end: asyncio.Future[BaseException | None] = loop.create_future()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.end.set_result(exc)


@pytest.mark.parametrize(
    ("abortive", "failure"), [(False, Failure.CLOSED_BEFORE_RESPONSE), (True, Failure.RESET_BEFORE_RESPONSE)]
)
def test_both_loops_report_fin_and_rst_alike(loop: asyncio.AbstractEventLoop, abortive: bool, failure: Failure) -> None:
    async def end_of_connection(port: int) -> BaseException | None:
        transport, protocol = await loop.create_connection(lambda: Lost(loop), "127.0.0.1", port)
        transport.write(b"GET / HTTP/1.1\r\n\r\n")
        peer, _ = listener.accept()
        if abortive:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            peer.recv(1 << 16)  # unread data would turn the FIN into a RST
        peer.close()
        return await asyncio.wait_for(protocol.end, 30)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        exc = loop.run_until_complete(end_of_connection(listener.getsockname()[1]))
    assert classify(exc, response_started=False) is failure


def test_both_loops_report_a_refused_connect_alike(loop: asyncio.AbstractEventLoop) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        port = bound.getsockname()[1]
        with pytest.raises(OSError) as caught:  # noqa: PT011 - which kind is the question
            loop.run_until_complete(loop.create_connection(lambda: Lost(loop), "127.0.0.1", port))
    assert classify_connect(caught.value, reached=False) is Failure.CONNECT_REFUSED
