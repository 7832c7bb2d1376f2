"""The relay over real loopback sockets: what it delays, keeps in order, holds at its gate, and writes down."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from wire_peers import (
    REQUEST,
    RESPONSE,
    WITHIN_S,
    Pair,
    connect,
    dial,
    events,
    hung_up,
    listener,
    packets,
    receive,
    reset,
    segments,
    send,
    soon,
)

from lab.wire import Address, UnsupportedError, Wire, WireError, open_wire

DELAY_S = 0.05


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    wire = open_wire("relay", tmp_path)
    await wire.start()
    yield wire
    await wire.stop()


@pytest.fixture
async def server() -> AsyncIterator[socket.socket]:
    with listener() as sock:
        yield sock


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])


async def gated(wire: Wire, server: socket.socket, *, delay_s: float = 0.002) -> Address:
    return await wire.link("app", port_of(server), delay_s=delay_s, gate=True)


async def idle_pair(address: Address, server: socket.socket) -> Pair:
    """A connection that has served one request."""
    pair = await connect(address, server)
    await pair.say(up=REQUEST, down=RESPONSE)
    return pair


async def test_bytes_are_late_by_the_delay_in_both_directions(wire: Wire, server: socket.socket) -> None:
    pair = await connect(await wire.link("app", port_of(server), delay_s=DELAY_S, gate=False), server)
    await pair.say(up=b"first")  # the handshake is over
    for direction in ({"up": b"ping"}, {"down": b"pong"}):
        sent = time.monotonic()
        await pair.say(**direction)
        assert DELAY_S <= time.monotonic() - sent < DELAY_S + 1.0
    pair.close()


async def test_a_new_connection_costs_a_handshake_before_its_first_bytes(wire: Wire, server: socket.socket) -> None:
    address = await wire.link("app", port_of(server), delay_s=DELAY_S, gate=False)
    begun = time.monotonic()
    client = await dial(address)
    await send(client, b"first")
    accepted, _ = await soon(asyncio.get_running_loop().sock_accept(server))
    assert time.monotonic() - begun >= DELAY_S  # SYN
    accepted.setblocking(False)
    await receive(accepted, 5)
    assert time.monotonic() - begun >= 3 * DELAY_S  # SYN-ACK back, then the bytes
    Pair(client, accepted).close()


async def test_links_to_one_port_have_delays_of_their_own(wire: Wire, server: socket.socket) -> None:
    near = await connect(await wire.link("near", port_of(server), delay_s=0.0, gate=False), server)
    far = await connect(await wire.link("far", port_of(server), delay_s=0.3, gate=False), server)
    await near.say(up=b"x")
    sent = time.monotonic()
    await near.say(up=b"x")
    assert time.monotonic() - sent < 0.3
    sent = time.monotonic()
    await far.say(up=b"x")
    assert time.monotonic() - sent >= 0.3
    near.close()
    far.close()


async def test_fin_follows_the_last_byte_and_the_other_half_stays_open(wire: Wire, server: socket.socket) -> None:
    pair = await connect(await wire.link("app", port_of(server), delay_s=0.01, gate=False), server)
    await send(pair.proxy, REQUEST)
    pair.proxy.shutdown(socket.SHUT_WR)
    assert await receive(pair.upstream, len(REQUEST) + 1) == REQUEST
    body = bytes(range(256)) * 20_000  # 5 MB, more than the relay lets wait
    sending = asyncio.create_task(send(pair.upstream, body))
    assert await receive(pair.proxy, len(body)) == body
    await sending
    pair.upstream.close()
    assert await receive(pair.proxy, 1) == b""
    pair.close()
    assert await wire.quiet("app", WITHIN_S)


@pytest.mark.parametrize("by_proxy", [True, False])
async def test_rst_is_passed_on_as_rst(wire: Wire, server: socket.socket, by_proxy: bool) -> None:
    pair = await connect(await wire.link("app", port_of(server), delay_s=0.01, gate=False), server)
    await pair.say(up=REQUEST)
    resetting, other = pair if by_proxy else reversed(pair)
    reset(resetting)
    with pytest.raises(ConnectionResetError):
        await receive(other, 1)
    pair.close()


async def test_a_refused_dial_reaches_the_proxy_as_rst(wire: Wire, server: socket.socket) -> None:
    address = await gated(wire, server)
    server.close()
    client = await dial(address)
    with pytest.raises(ConnectionResetError):
        await receive(client, 1)
    client.close()


async def test_a_reader_that_stands_still_stops_the_sender_and_loses_nothing(wire: Wire, server: socket.socket) -> None:
    pair = await connect(await wire.link("app", port_of(server), delay_s=0.001, gate=False), server)
    body = bytes(range(256)) * (64 << 10)  # 16 MiB
    sending = asyncio.create_task(send(pair.proxy, body))
    done, _ = await asyncio.wait([sending], timeout=0.5)
    assert not done
    assert await receive(pair.upstream, len(body)) == body
    await sending
    pair.close()


async def test_gate_holds_a_fin_until_a_request_goes_up(wire: Wire, server: socket.socket, tmp_path: Path) -> None:
    pair = await idle_pair(await gated(wire, server), server)
    await wire.mark("app")
    pair.upstream.close()
    settled = await wire.settled("app", 1, WITHIN_S)
    assert (settled.held, settled.closed_by_proxy, settled.open) == (1, 0, 1)
    assert await wire.drained("app", WITHIN_S)
    assert not await wire.quiet("app", 0.01)
    with pytest.raises(BlockingIOError):
        pair.proxy.recv(1)

    await send(pair.proxy, REQUEST)
    assert await receive(pair.proxy, 1) == b""  # the FIN
    await hung_up(pair.proxy)  # the upstream's RST, its answer to the request
    pair.close()
    assert await wire.quiet("app", WITHIN_S)
    stats = await wire.stop()

    fin = segments(tmp_path, dir="down", flags="F")[0]
    request = segments(tmp_path, dir="up", flags="D")[1]
    rst = segments(tmp_path, dir="down", flags="R")[0]
    assert request["req_id"] == "r-1"
    assert fin["t_in"] < request["t_in"] < fin["t_out"]  # they crossed: the request left before the FIN came,
    assert fin["t_in"] < request["t_out"] < rst["t_in"] < rst["t_out"]  # and came after the FIN had left
    assert [(event["kind"], event.get("by")) for event in events(tmp_path) if event["kind"] in GATE_EVENTS] == [
        ("wire.held", None),
        ("wire.released", "request"),
    ]
    assert stats.log_dropped == stats.lost == stats.pcap_dropped == 0
    assert stats.late_p50_ms is not None


GATE_EVENTS = ("wire.held", "wire.released")


async def test_gate_holds_a_rst_too(wire: Wire, server: socket.socket) -> None:
    pair = await idle_pair(await gated(wire, server), server)
    reset(pair.upstream)
    assert (await wire.settled("app", 1, WITHIN_S)).held == 1
    await send(pair.proxy, REQUEST)
    with pytest.raises(ConnectionResetError):
        await receive(pair.proxy, 1)
    pair.close()


async def test_an_unannounced_408_is_held_with_the_fin_behind_it(wire: Wire, server: socket.socket) -> None:
    pair = await connect(await gated(wire, server), server)
    timeout = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    await send(pair.upstream, timeout)
    assert (await wire.settled("app", 1, WITHIN_S)).held == 1
    pair.upstream.shutdown(socket.SHUT_WR)
    await send(pair.proxy, REQUEST)
    assert await receive(pair.proxy, len(timeout) + 1) == timeout
    pair.close()


async def test_a_close_that_answers_a_request_is_not_held(wire: Wire, server: socket.socket) -> None:
    pair = await connect(await gated(wire, server), server)
    await pair.say(up=REQUEST)
    pair.upstream.close()
    assert await receive(pair.proxy, 1) == b""
    pair.close()


async def test_settled_counts_what_the_proxy_closes_and_answers_at_its_timeout(
    wire: Wire, server: socket.socket
) -> None:
    address = await gated(wire, server)
    first, second = [await idle_pair(address, server) for _ in range(2)]
    await wire.mark("app")
    asked = asyncio.create_task(wire.settled("app", 2, WITHIN_S))
    first.proxy.close()
    assert (await wire.settled("app", 2, 0.05)).closed_by_proxy == 1
    second.upstream.close()
    settled = await asked
    assert (settled.held, settled.closed_by_proxy) == (1, 1)
    await wire.mark("app")
    assert (await wire.settled("app", 1, 0.0)).accounted == 0
    first.close()
    second.close()


async def test_release_hold_limit_and_a_close_by_the_proxy_end_a_hold(
    wire: Wire, server: socket.socket, tmp_path: Path
) -> None:
    address = await gated(wire, server)
    for by in ("command", "hold_limit", "proxy_close"):
        if by == "hold_limit":
            await wire.hold("app", 0.05)
        pair = await idle_pair(address, server)
        await wire.mark("app")
        pair.upstream.close()
        if by == "hold_limit":
            assert await receive(pair.proxy, 1) == b""
            await wire.hold("app", WITHIN_S)
        else:
            assert (await wire.settled("app", 1, WITHIN_S)).held == 1
        if by == "command":
            assert await wire.release("app") == 1
            assert await receive(pair.proxy, 1) == b""
        if by == "proxy_close":
            pair.proxy.shutdown(socket.SHUT_WR)
            assert await receive(pair.proxy, 1) == b""
            assert (await wire.settled("app", 1, WITHIN_S)).closed_by_proxy == 1
        pair.close()
    await wire.stop()
    released = [event["by"] for event in events(tmp_path) if event["kind"] == "wire.released"]
    assert released == ["command", "hold_limit", "proxy_close"]


async def test_a_disarmed_gate_lets_closes_pass(wire: Wire, server: socket.socket) -> None:
    address = await gated(wire, server)
    await wire.gate("app", False)
    pair = await idle_pair(address, server)
    pair.upstream.close()
    assert await receive(pair.proxy, 1) == b""
    pair.close()


async def test_a_forgotten_connection_is_silent_and_a_new_one_is_not(
    wire: Wire, server: socket.socket, tmp_path: Path
) -> None:
    address = await wire.link("app", port_of(server), delay_s=0.002, gate=False)
    await wire.forget("app", 0.2)
    pair = await idle_pair(address, server)
    await asyncio.sleep(0.3)
    await send(pair.proxy, REQUEST)
    fresh = await idle_pair(address, server)
    with pytest.raises(BlockingIOError):
        pair.upstream.recv(1)
    pair.proxy.close()
    fresh.close()
    assert await wire.quiet("app", WITHIN_S)
    with pytest.raises(BlockingIOError):  # not even the close arrives
        pair.upstream.recv(1)
    pair.upstream.close()
    await wire.stop()
    logged = events(tmp_path)
    assert sum(line["kind"] == "wire.forgotten" for line in logged) == 1
    assert [line["forget_ms"] for line in logged if line["kind"] == "wire.link"] == [0, 200]


async def test_flow_log_and_captures_tell_one_story(wire: Wire, server: socket.socket, tmp_path: Path) -> None:
    pair = await connect(await wire.link("app", port_of(server), delay_s=0.01, gate=False), server)
    proxy_port, upstream_side = pair.proxy.getsockname()[1], pair.upstream.getpeername()
    listening = pair.proxy.getpeername()
    await pair.say(up=REQUEST, down=RESPONSE)
    pair.proxy.close()
    assert await receive(pair.upstream, 1) == b""
    pair.upstream.close()
    assert await wire.quiet("app", WITHIN_S)
    await wire.stop()

    logged = segments(tmp_path)
    assert [(line["dir"], line["flags"], line["bytes"], line["seq"], line["req_id"]) for line in logged] == [
        ("up", "S", 0, 0, ""),
        ("down", "S", 0, 0, ""),
        ("up", "D", len(REQUEST), 1, "r-1"),
        ("down", "D", len(RESPONSE), 1, ""),
        ("up", "F", 0, 1 + len(REQUEST), ""),
        ("down", "F", 0, 1 + len(RESPONSE), ""),
    ]
    assert {line["conn"] for line in logged} == {f"127.0.0.1:{proxy_port}>127.0.0.1:{listening[1]}"}
    assert {line["up_conn"] for line in logged} == {
        f"127.0.0.1:{upstream_side[1]}>127.0.0.1:{port_of(server)}",
    }
    assert all(line["t_out"] - line["t_in"] >= 0.01e9 for line in logged)

    upstream_side_packets = packets(tmp_path / "upstream-side.pcap")
    assert [bytes(packet.data) for packet in upstream_side_packets if packet.data] == [REQUEST, RESPONSE]
    for name, ports in (
        ("proxy-side.pcap", (proxy_port, listening[1])),
        ("upstream-side.pcap", (upstream_side[1], port_of(server))),
    ):
        seen = packets(tmp_path / name)
        assert {packet.source for packet in seen} == set(ports)
        letters = ["".join(letter for bit, letter in ((2, "S"), (1, "F")) if packet.flags & bit) for packet in seen]
        assert letters == ["S", "S", "", "", "", "F", "F"]
        assert abs(seen[0].time - time.time()) < 60
        assert [packet.time for packet in seen] == sorted(packet.time for packet in seen)


async def test_questions_that_make_no_sense_are_answered_in_a_sentence(wire: Wire, server: socket.socket) -> None:
    with pytest.raises(UnsupportedError, match="no link named 'nobody'"):
        await wire.mark("nobody")
    await gated(wire, server)
    with pytest.raises(UnsupportedError, match="has a link named app already"):
        await gated(wire, server)


async def test_stop_is_safe_to_repeat_and_a_dead_wire_says_so(tmp_path: Path) -> None:
    wire = open_wire("relay", tmp_path)
    with pytest.raises(WireError, match="has not been started"):
        await wire.mark("app")
    await wire.start()
    assert await wire.stop() == await wire.stop()
    with pytest.raises(WireError):
        await wire.mark("app")


async def test_a_folder_that_is_not_there_is_reported(tmp_path: Path) -> None:
    wire = open_wire("relay", tmp_path / "missing")
    with pytest.raises(WireError, match="no folder"):
        await wire.start()
