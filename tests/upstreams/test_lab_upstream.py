"""The lab upstream does what it is told, seen from a raw socket, and its log says what was seen."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from lab_process import Client, at, closes, lab, primed, request_bytes

REQUEST = request_bytes("late", method="POST")


# -- how an idle connection closes ------------------------------------------------------------------


def test_fin(tmp_path: Path) -> None:
    with lab(tmp_path, "--keep-alive", "100ms") as running:
        client = primed(running)
        name = client.name
        assert client.end() == "fin"
        client.send(REQUEST)  # lands on a closed socket: the kernel answers by RST, the request is never executed
        assert client.end() in ("fin", "reset")
        assert refuses_more(client)
        (closed,) = running.wait_for("upstream.closed", conn=name)
        assert (closed["reason"], closed["how"]) == ("idle_timeout", "fin")
        assert (closed["unread_bytes"], closed["requests"]) == (0, 1)
        assert 100 <= closed["idle_ms"] < 2000
        assert [e["req_id"] for e in running.events("exchange.executed")] == ["first"]


def test_rst(tmp_path: Path) -> None:
    with lab(tmp_path, "--keep-alive", "100ms", "--close", "rst") as running:
        client = primed(running)
        assert client.end() == "reset"
        (closed,) = running.wait_for("upstream.closed")
        assert (closed["reason"], closed["how"], closed["unread_bytes"]) == ("idle_timeout", "rst", 0)


def test_linger_discards_and_never_executes(tmp_path: Path) -> None:
    with lab(tmp_path, "--keep-alive", "100ms", "--close", "linger") as running:
        client = primed(running)
        assert client.end() == "fin"
        (closed,) = running.wait_for("upstream.closed")  # logged at the shutdown, while the connection still reads
        assert (closed["reason"], closed["how"]) == ("idle_timeout", "linger")
        client.send(REQUEST)
        client.send(REQUEST)
        client.socket.shutdown(socket.SHUT_WR)
        (lingered,) = running.wait_for("upstream.lingered")
        assert lingered["discarded_bytes"] == 2 * len(REQUEST)
        assert lingered["conn"] == closed["conn"]
        assert [e["req_id"] for e in running.events("exchange.executed")] == ["first"]
        assert len(running.events("upstream.closed")) == 1


def test_linger_ends_by_itself(tmp_path: Path) -> None:
    with lab(tmp_path, "--keep-alive", "100ms", "--close", "linger", "--linger-for", "100ms") as running:
        client = primed(running)
        assert client.end() == "fin"
        assert running.wait_for("upstream.lingered")[0]["discarded_bytes"] == 0
        assert refuses_more(client)


def test_408(tmp_path: Path) -> None:
    with lab(tmp_path, "--keep-alive", "100ms", "--close", "408") as running:
        client = primed(running)
        head, _ = client.response()
        assert head.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert b"Connection: close" in head
        assert client.end() == "fin"
        assert running.wait_for("upstream.closed")[0]["how"] == "408"


def test_never_before_its_time(tmp_path: Path) -> None:
    with lab(tmp_path, "--keep-alive", "300ms") as running:
        clients = [primed(running, str(number)) for number in range(100)]
        assert {how for how, _ in closes(clients)} == {"fin"}
        idle_ms = [e["idle_ms"] for e in running.wait_for("upstream.closed", 100)]
        assert min(idle_ms) >= 300
        assert sorted(idle_ms)[50] < 400


def test_the_deadline_counts_from_the_last_byte_of_the_answer(tmp_path: Path) -> None:
    with lab(tmp_path, "--keep-alive", "500ms") as running:
        client = running.client()
        client.send(request_bytes("big", target="/bytes/20000000"))
        began_s = time.monotonic()
        at(began_s + 1.0)  # longer than the timeout: but the answer is still on its way
        head, body = client.response()
        assert (head[:15], len(body)) == (b"HTTP/1.1 200 OK", 20_000_000)
        assert client.end() == "fin"
        assert time.monotonic() - began_s >= 1.4
        assert running.wait_for("upstream.closed")[0]["idle_ms"] >= 500


def test_off_never_closes_and_an_unused_connection_closes_too(tmp_path: Path) -> None:
    with lab(tmp_path, "--keep-alive", "off") as running:
        client = primed(running)
        client.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.end()
        assert running.events("upstream.opened")[0]["keep_alive_ms"] is None
    with lab(tmp_path, "--keep-alive", "100ms") as running:
        assert running.client().end() == "fin"
        assert running.wait_for("upstream.closed")[0]["requests"] == 0


def test_jitter_is_drawn_per_connection_and_repeats_with_the_seed(tmp_path: Path) -> None:
    def drawn(seed: str) -> list[float]:
        with lab(tmp_path, "--keep-alive", "1s", "--jitter", "500ms", "--seed", seed) as running:
            for _ in range(5):
                primed(running)
            return [e["keep_alive_ms"] for e in running.wait_for("upstream.opened", 5)]

    first = drawn("7")
    assert all(1000 <= ms <= 1500 for ms in first)
    assert len(set(first)) == 5
    assert drawn("7") == first
    assert drawn("8") != first


def refuses_more(client: Client) -> bool:
    """Whether writing to this connection fails in the end: the peer's kernel has nobody to give it to."""
    end_s = time.monotonic() + 5
    while time.monotonic() < end_s:
        try:
            client.send(b"x")
        except (BrokenPipeError, ConnectionResetError):
            return True
        time.sleep(0.01)
    return False


# -- the stall --------------------------------------------------------------------------------------


def test_stall_leaves_what_arrives_unread_and_the_kernel_resets(tmp_path: Path) -> None:
    with lab(tmp_path, "--keep-alive", "2s", "--stall", "1s", listeners=2) as running:
        clients = [primed(running, f"first-{number}", number % 2) for number in range(6)]
        names = [client.name for client in clients]
        at(clients[0].answered_s + 1.5)
        for client in clients[:4]:
            client.send(REQUEST)
        assert [client.end() for client in clients] == ["reset"] * 4 + ["fin"] * 2
        closed = {e["conn"]: e for e in running.wait_for("upstream.closed", 6)}
        assert [closed[name]["unread_bytes"] for name in names] == [len(REQUEST)] * 4 + [0] * 2
        assert {e["reason"] for e in closed.values()} == {"idle_timeout"}
        assert min(e["idle_ms"] for e in closed.values()) >= 2000
        (stalled,) = running.events("upstream.stalled")  # one stall for all, across the listeners
        assert stalled["due"] == 6
        assert 800 <= stalled["stall_ms"] < 2500
        assert "late" not in {e["req_id"] for e in running.events("exchange.executed")}


def test_what_arrives_in_the_stall_can_be_read_and_dropped(tmp_path: Path) -> None:
    """As by a server whose loop comes to the bytes first and closes all the same: a FIN, and no reset."""
    with lab(tmp_path, "--keep-alive", "2s", "--stall", "1s", "--close", "drop") as running:
        clients = [primed(running, f"first-{number}") for number in range(2)]
        at(clients[0].answered_s + 1.5)
        clients[0].send(REQUEST)
        assert [client.end() for client in clients] == ["fin", "fin"]
        closed = running.wait_for("upstream.closed", 2)
        assert [(e["how"], e["unread_bytes"]) for e in closed] == [("drop", 0)] * 2
        dropped = {e["conn"]: e["discarded_bytes"] for e in running.events("upstream.dropped")}
        assert dropped == {clients[0].name: len(REQUEST), clients[1].name: 0}
        assert "late" not in {e["req_id"] for e in running.events("exchange.executed")}


def test_without_the_stall_the_same_request_is_answered(tmp_path: Path) -> None:
    with lab(tmp_path, "--keep-alive", "2s") as running:
        client = primed(running)
        at(client.answered_s + 1.5)
        client.send(REQUEST)
        assert client.response()[1] == b"ok\nlate"


# -- what is answered -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), None),
        (("--hint", "none"), None),
        (("--hint", "true", "--keep-alive", "2700ms"), b"timeout=2"),
        (("--hint", "true", "--keep-alive", "off"), None),
        (("--hint", "60", "--keep-alive", "2s"), b"timeout=60"),
    ],
)
def test_hint(tmp_path: Path, flags: tuple[str, ...], expected: bytes | None) -> None:
    with lab(tmp_path, *flags) as running:
        head, _ = running.client().ask()
        sent = [line.partition(b": ")[2] for line in head.split(b"\r\n") if line.startswith(b"Keep-Alive:")]
        assert sent == ([expected] if expected else [])


def test_routes(tmp_path: Path) -> None:
    with lab(tmp_path) as running:
        client = running.client()
        assert client.ask("a", method="DELETE", target="/any/path?x=1")[1] == b"ok\na"
        assert client.ask(target="/bytes/70000")[1] == bytes(70000)
        assert client.ask(target="/echo", method="POST", body=b"said")[1] == b"said"
        assert client.ask("h", method="HEAD")[0].endswith(b"Content-Length: 4")
        assert client.ask(target="/bytes/many")[0].startswith(b"HTTP/1.1 400")
        began_s = time.monotonic()
        assert client.ask("d", target="/?delay=300ms")[1] == b"ok\nd"
        assert time.monotonic() - began_s >= 0.29
        executed = running.wait_for("exchange.executed", 6)
        assert executed[0]["method"] == "DELETE"
        assert executed[0]["target"] == "/any/path?x=1"
        answered = running.wait_for("exchange.answered", 6)
        assert [e["status"] for e in answered] == [200, 200, 200, 200, 400, 200]
        assert [e["exchange"] for e in answered] == [e["exchange"] for e in executed]


def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    with lab(tmp_path) as running:
        client = running.client()
        client.send(request_bytes("1", target="/?delay=50ms") + request_bytes("2") + request_bytes("3")[:-2])
        assert [client.response()[1] for _ in range(2)] == [b"ok\n1", b"ok\n2"]
        client.send(b"\r\n")
        assert client.response()[1] == b"ok\n3"


def test_continue_is_sent_to_who_waits_for_it(tmp_path: Path) -> None:
    with lab(tmp_path) as running:
        client = running.client()
        client.send(b"POST /echo HTTP/1.1\r\nHost: lab\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        assert client.response(body=False)[0] == b"HTTP/1.1 100 Continue"
        client.send(b"said")
        assert client.response()[1] == b"said"


def test_crash_executes_and_answers_only_the_second_time(tmp_path: Path) -> None:
    with lab(tmp_path) as running:
        died = running.client()
        died.send(request_bytes("r1", target="/crash", method="POST"))
        assert died.end() == "fin"
        assert running.client().ask("r1", target="/crash", method="POST")[1] == b"ok\nr1"
        executed = running.wait_for("exchange.executed", 2)
        assert [(e["req_id"], e["nth"]) for e in executed] == [("r1", 1), ("r1", 2)]
        assert [e["reason"] for e in running.wait_for("upstream.closed")] == ["crashed"]
        assert len(running.events("exchange.answered")) == 1


@pytest.mark.parametrize(("crash", "dies"), [("once", [True, False]), ("always", [True, True]), ("never", [False] * 2)])
def test_how_often_it_dies_over_a_request_id(tmp_path: Path, crash: str, dies: list[bool]) -> None:
    with lab(tmp_path, "--crash", crash) as running:
        for died in dies:
            client = running.client()
            client.send(request_bytes("r1", target="/crash", method="POST"))
            assert client.end() == "fin" if died else client.response()[1] == b"ok\nr1"
        assert [e["nth"] for e in running.wait_for("exchange.executed", 2)] == [1, 2]


@pytest.mark.parametrize(("flag", "announced"), [("--notice", True), ("--no-notice", False)])
def test_max_requests(tmp_path: Path, flag: str, announced: bool) -> None:
    with lab(tmp_path, "--max-requests", "2", flag) as running:
        client = running.client()
        assert b"Connection: close" not in client.ask()[0]
        assert (b"Connection: close" in client.ask()[0]) is announced
        assert client.end() == "fin"
        (closed,) = running.wait_for("upstream.closed")
        assert (closed["reason"], closed["requests"], closed["idle_ms"]) == ("max_requests", 2, None)


def test_the_client_may_ask_for_the_close_or_close_first(tmp_path: Path) -> None:
    with lab(tmp_path) as running:
        asked = running.client()
        assert b"Connection: close" in asked.ask(fields="Connection: close\r\n")[0]
        assert asked.end() == "fin"
        left = primed(running)
        left.close()
        half = running.client()
        half.send(request_bytes("half", target="/?delay=100ms"))
        half.socket.shutdown(socket.SHUT_WR)
        assert half.response()[1] == b"ok\nhalf"
        assert half.end() == "fin"
        reasons = [e["reason"] for e in running.wait_for("upstream.closed", 3)]
        assert reasons == ["connection_close", "peer_fin", "peer_fin"]


@pytest.mark.parametrize(
    "sent", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000, request_bytes(target="/?delay=soon")]
)
def test_bad_request(tmp_path: Path, sent: bytes) -> None:
    with lab(tmp_path) as running:
        client = running.client()
        client.send(sent)
        assert client.response()[0].startswith(b"HTTP/1.1 400")
        assert running.wait_for("upstream.closed")[0]["reason"] == "bad_request"
