"""What the proxy knows of event loops, transports and sockets. Facts that hold for both loops are tested on both."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

import pytest
import uvloop

from proxy.kernel import round_trip_s, stirred, unacked_bytes, unread_bytes

PATIENCE_S = 20

Case = Callable[["Recorder", socket.socket], Awaitable[None]]


class Recorder(asyncio.Protocol):
    """Notes what a protocol hears."""

    def __init__(self) -> None:
        self.heard: list[object] = []
        self.lost = asyncio.Event()
        self.at_eof: Callable[[], None] = lambda: None
        self.at_loss: Callable[[], None] = lambda: None
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard.append(data)

    def eof_received(self) -> None:
        self.at_eof()
        self.heard.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.at_loss()
        self.heard.append(("lost", type(exc)))
        self.lost.set()


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Case], None]:
    """Runs a case on a loop, with a connected pair: a protocol, and the plain socket at the other end."""

    def run_case(case: Case) -> None:
        async def connected() -> None:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                _, recorder = await asyncio.get_running_loop().create_connection(Recorder, *listener.getsockname())
                peer, _ = listener.accept()
            with peer:
                async with asyncio.timeout(PATIENCE_S):
                    await case(recorder, peer)
                recorder.transport.abort()
                await recorder.lost.wait()

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(connected())

    return run_case


def is_uvloop() -> bool:
    return isinstance(asyncio.get_running_loop(), uvloop.Loop)


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def until_arrived(recorder: Recorder) -> None:
    """Waits, without the loop, until something has come to the socket of a protocol."""
    poller = select.poll()
    poller.register(recorder.transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLRDHUP)
    assert poller.poll(PATIENCE_S * 1000)


def test_a_fin_is_eof_received_then_connection_lost_none(run: Callable[[Case], None]) -> None:
    async def case(recorder: Recorder, peer: socket.socket) -> None:
        peer.close()
        await recorder.lost.wait()
        assert recorder.heard == ["eof", ("lost", type(None))]

    run(case)


def test_a_reset_is_connection_lost_alone(run: Callable[[Case], None]) -> None:
    async def case(recorder: Recorder, peer: socket.socket) -> None:
        reset(peer)
        await recorder.lost.wait()
        assert recorder.heard == [("lost", ConnectionResetError)]

    run(case)


def test_data_and_a_fin_that_arrive_together_are_told_in_order(run: Callable[[Case], None]) -> None:
    async def case(recorder: Recorder, peer: socket.socket) -> None:
        peer.sendall(b"answer")
        peer.close()
        await recorder.lost.wait()
        assert recorder.heard == [b"answer", "eof", ("lost", type(None))]

    run(case)


def test_a_write_after_an_undelivered_fin_succeeds_and_the_fin_is_told_after(run: Callable[[Case], None]) -> None:
    """Form d of the race: the proxy cannot know who was first."""

    async def case(recorder: Recorder, peer: socket.socket) -> None:
        peer.shutdown(socket.SHUT_WR)
        until_arrived(recorder)
        recorder.transport.write(b"request")
        assert not recorder.transport.is_closing()
        await recorder.lost.wait()
        assert recorder.heard == ["eof", ("lost", type(None))]

    run(case)


def test_a_refused_write_closes_the_transport_at_once_and_stops_reading(run: Callable[[Case], None]) -> None:
    """So `UpstreamConnection.write` asks `is_closing`, and `_read_what_is_left` reads the rest."""

    async def case(recorder: Recorder, peer: socket.socket) -> None:
        peer.sendall(b"answer")
        until_arrived(recorder)
        reset(peer)
        fd = recorder.transport.get_extra_info("socket").fileno()
        left = []
        recorder.at_loss = lambda: left.append(_read(fd))
        recorder.transport.write(b"request")
        assert recorder.transport.is_closing()
        assert recorder.transport.get_write_buffer_size() == 0
        await recorder.lost.wait()
        assert recorder.heard[0] in (("lost", ConnectionResetError), ("lost", BrokenPipeError))
        assert left == [b"answer"]

    run(case)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 100)
    except OSError:
        return b"nothing"


def test_writing_after_the_connection_is_lost(run: Callable[[Case], None]) -> None:
    """Silent on asyncio, an exception on uvloop: so `DownstreamConnection.write` asks its state."""

    async def case(recorder: Recorder, peer: socket.socket) -> None:
        peer.close()
        await recorder.lost.wait()
        await asyncio.sleep(0)
        if is_uvloop():
            with pytest.raises(RuntimeError):
                recorder.transport.write(b"late")
        else:
            recorder.transport.write(b"late")

    run(case)


def test_a_write_goes_to_the_kernel_at_once(run: Callable[[Case], None]) -> None:
    """So what waits in the transport was not taken by the kernel, and nothing of it has been sent."""

    async def case(recorder: Recorder, peer: socket.socket) -> None:
        recorder.transport.write(b"request")
        assert recorder.transport.get_write_buffer_size() == 0
        peer.settimeout(PATIENCE_S)
        assert peer.recv(100) == b"request"

    run(case)


def test_what_the_kernel_does_not_take_waits_in_the_transport(run: Callable[[Case], None]) -> None:
    async def case(recorder: Recorder, _: socket.socket) -> None:
        large = bytes(64 << 20)
        recorder.transport.write(large)
        waiting = recorder.transport.get_write_buffer_size()
        assert 0 < waiting < len(large)
        recorder.transport.write(b"more")
        assert recorder.transport.get_write_buffer_size() >= waiting

    run(case)


def test_the_send_queue_can_be_read_when_the_fin_is_told(run: Callable[[Case], None]) -> None:
    """And is empty, for the peer had acknowledged the request: it may have been processed."""

    async def case(recorder: Recorder, peer: socket.socket) -> None:
        fd = recorder.transport.get_extra_info("socket").fileno()
        queues = []
        recorder.at_eof = lambda: queues.append(unacked_bytes(fd))
        recorder.transport.write(b"request")
        peer.settimeout(PATIENCE_S)
        peer.recv(100)
        peer.close()
        await recorder.lost.wait()
        assert queues == [0]

    run(case)


def test_unacknowledged_bytes_show_in_the_send_queue(run: Callable[[Case], None]) -> None:
    async def case(recorder: Recorder, peer: socket.socket) -> None:
        fd = recorder.transport.get_extra_info("socket").fileno()
        large = bytes(64 << 20)
        recorder.transport.write(large)
        taken = len(large) - recorder.transport.get_write_buffer_size()
        unacked = unacked_bytes(fd)
        unread = unread_bytes(peer.fileno())
        assert unacked is not None
        assert unread is not None
        assert 0 < unacked < taken  # the rest is acknowledged, and fills the peer's buffer
        assert unacked + unread >= taken  # and what has arrived may not be acknowledged yet

    run(case)


def test_the_descriptor_is_still_open_in_connection_lost(run: Callable[[Case], None]) -> None:
    async def case(recorder: Recorder, peer: socket.socket) -> None:
        fd = recorder.transport.get_extra_info("socket").fileno()
        queues = []
        recorder.at_loss = lambda: queues.append(unacked_bytes(fd))
        reset(peer)
        await recorder.lost.wait()
        assert queues != [None]

    run(case)


def test_a_poll_sees_a_fin_that_has_not_been_told(run: Callable[[Case], None]) -> None:
    async def case(recorder: Recorder, peer: socket.socket) -> None:
        fd = recorder.transport.get_extra_info("socket").fileno()
        has_stirred = stirred(fd)
        assert not has_stirred(0)
        peer.shutdown(socket.SHUT_WR)
        until_arrived(recorder)
        assert has_stirred(0)
        assert unread_bytes(fd) == 0  # a FIN counts nothing
        assert recorder.heard == []

    run(case)


def test_a_poll_sees_bytes_that_have_not_been_told(run: Callable[[Case], None]) -> None:
    async def case(recorder: Recorder, peer: socket.socket) -> None:
        fd = recorder.transport.get_extra_info("socket").fileno()
        peer.sendall(b"unasked")
        until_arrived(recorder)
        assert stirred(fd)(0)
        assert unread_bytes(fd) == 7
        assert recorder.heard == []

    run(case)


def test_what_a_closed_descriptor_says() -> None:
    left, right = socket.socketpair()
    fd = left.fileno()
    left.close()
    right.close()
    assert unacked_bytes(fd) is None
    assert unread_bytes(fd) is None


def test_the_kernel_has_measured_the_handshake() -> None:
    """No longer than the connect took, and without the time in which nobody looked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        began = monotonic()
        with socket.create_connection(listener.getsockname()) as sock:
            took = round_trip_s(sock)
            assert took is not None
            assert 0 < took <= monotonic() - began
    with socket.socket() as sock:  # not connected
        assert round_trip_s(sock) is None
    with socket.socket(socket.AF_UNIX) as sock:
        assert round_trip_s(sock) is None


def test_a_transports_socket_cannot_be_read(run: Callable[[Case], None]) -> None:
    """So there is no MSG_PEEK; a poll and SIOCINQ do what it would."""

    async def case(recorder: Recorder, _: socket.socket) -> None:
        with pytest.raises((AttributeError, TypeError)):
            recorder.transport.get_extra_info("socket").recv(1, socket.MSG_PEEK)

    run(case)


def test_uvloops_clock_counts_whole_milliseconds() -> None:
    """So evidence is stamped with monotonic_ns, and `Deadline` never asks for less than a millisecond."""

    async def case() -> None:
        loop = asyncio.get_running_loop()
        ran_at_once = []
        for _ in range(200):
            milliseconds = loop.time() * 1000
            assert abs(milliseconds - round(milliseconds)) < 1e-6
            started = monotonic()
            done = loop.create_future()
            loop.call_later(0.0004, done.set_result, None)
            await done
            ran_at_once.append(monotonic() - started < 0.0004)
        assert any(ran_at_once)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(case())
