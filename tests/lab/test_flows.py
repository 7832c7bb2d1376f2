"""Where a request met the close, as a table of segments. Times in ms; the way takes 20 ms each way."""

from collections.abc import Sequence

import pytest

from lab.model import Exposure
from lab.witness.flows import Flow, Segment, expose, flows, idle_ms_at_close

MS = 1_000_000
WAY = 20

ANSWERED = (("up", "D", 0, "old"), ("down", "D", 21, ""))


def segment(direction: str, flags: str, t_in: float, req_id: str = "", way: float | None = WAY) -> Segment:
    t_out = None if way is None else int((t_in + way) * MS)
    return Segment(direction == "up", flags, 50, int(t_in * MS), t_out, req_id)


def flow(*segments: Sequence[object]) -> Flow:
    made = [segment(*s) for s in segments]  # type: ignore[arg-type]
    return Flow("p:1>u:2", "link", sorted(made, key=lambda s: s.t_in))


@pytest.mark.parametrize(("since_ms", "expected"), [(1500, Exposure.FORGOTTEN), (2500, Exposure.NOT_EXPOSED)])
def test_a_request_on_a_forgotten_connection_meets_nobody(since_ms: float, expected: Exposure) -> None:
    known = flow(*ANSWERED, ("up", "D", 2000, "it", None))
    known.forgotten_ns = int(since_ms * MS)
    request = known.request("it")
    assert request is not None
    assert expose(known, request) is expected


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        pytest.param(
            (*ANSWERED, ("down", "F", 2000), ("up", "D", 2010, "it"), ("down", "R", 2031)),
            Exposure.CROSSED,
            id="the request leaves while the FIN is on its way",
        ),
        pytest.param(
            (*ANSWERED, ("up", "D", 1990, "it"), ("down", "F", 2000), ("down", "R", 2011)),
            Exposure.CROSSED,
            id="the FIN leaves while the request is on its way",
        ),
        pytest.param(
            (*ANSWERED, ("down", "R", 2000), ("up", "D", 2010, "it")),
            Exposure.CROSSED,
            id="an upstream that closes by reset crosses just the same",
        ),
        pytest.param(
            (*ANSWERED, ("down", "F", 2000), ("up", "D", 2020.1, "it"), ("down", "R", 2041)),
            Exposure.FIN_DELIVERED,
            id="the FIN had arrived, the proxy had not looked",
        ),
        pytest.param(
            (*ANSWERED, ("up", "D", 1970, "it"), ("down", "R", 2000)),
            Exposure.UNREAD,
            id="the request lay unread at close(): a reset and no FIN",
        ),
        pytest.param(
            (*ANSWERED, ("up", "D", 1970, "it"), ("down", "F", 2000)),
            Exposure.CLOSED_AFTER_ARRIVAL,
            id="the upstream had the request and closed without an answer",
        ),
        pytest.param(
            (*ANSWERED, ("up", "D", 1970, "it"), ("down", "D", 1991), ("down", "F", 3991)),
            Exposure.NOT_EXPOSED,
            id="answered in time",
        ),
        pytest.param(
            (*ANSWERED, ("up", "D", 1970, "it"), ("down", "DF", 1991)),
            Exposure.NOT_EXPOSED,
            id="answered, and the FIN came with the answer",
        ),
        pytest.param((*ANSWERED, ("up", "D", 1970, "it")), Exposure.NOT_EXPOSED, id="nobody closed"),
        pytest.param((("up", "D", 0, "it"), ("down", "F", 30)), Exposure.NEW_CONNECTION, id="nothing carried before"),
        pytest.param(
            (("up", "D", 0, "old"), ("down", "D", 1), ("up", "D", 10, "it"), ("down", "F", 12)),
            Exposure.NEW_CONNECTION,
            id="the answer before had not arrived, so this was no reuse",
        ),
        pytest.param(
            (*ANSWERED, ("down", "F", 2000, "", None), ("up", "D", 2010, "it")),
            Exposure.CROSSED,
            id="a FIN that was never delivered",
        ),
        pytest.param(
            (*ANSWERED, ("down", "F", 2000), ("up", "D", 2010, "it", None)),
            Exposure.CROSSED,
            id="a request that was never delivered",
        ),
    ],
)
def test_exposure(segments: Sequence[Sequence[object]], expected: Exposure) -> None:
    connection = flow(*segments)
    request = connection.request("it")
    assert request is not None
    assert expose(connection, request) is expected


def line(conn: str, flags: str, t_in: int, direction: str = "up") -> dict[str, object]:
    return {
        "kind": "wire.segment",
        "conn": conn,
        "link": "l",
        "dir": direction,
        "flags": flags,
        "bytes": 1,
        "t_in": t_in,
        "t_out": t_in + 1,
        "req_id": "",
        "seq": 0,
        "ack": 0,
    }


def test_a_port_used_again_is_another_flow() -> None:
    lines = [line("a>b", "S", 1), line("a>b", "S", 2, "down"), line("a>b", "D", 3), line("a>b", "S", 9)]
    found = flows([*lines, line("c>b", "D", 5), {"kind": "wire.held"}])
    assert [len(f.segments) for f in found["a>b"]] == [3, 1]
    assert len(found["c>b"]) == 1


def test_lines_are_put_in_order_of_entry() -> None:
    found = flows([line("a>b", "F", 7, "down"), line("a>b", "D", 3)])
    assert [s.flags for s in found["a>b"][0].segments] == ["D", "F"]


def idle_ms(*segments: Segment) -> float | None:
    return idle_ms_at_close(Flow("a>b", "control.POST", list(segments)))


def test_how_long_a_connection_had_been_idle_when_its_upstream_closed_it() -> None:
    asked, answer = segment("up", "D", 0), segment("down", "D", 21)
    farewell, fin = segment("down", "D", 2021), segment("down", "F", 2021)
    assert idle_ms(asked, answer, fin) == 2000.0
    assert idle_ms(asked, answer, farewell, fin) == 2000.0  # a 408 that nobody asked for is part of the close
    assert idle_ms(farewell, fin) is None
    assert idle_ms(asked, answer) is None
    assert idle_ms(asked, answer, segment("up", "F", 1500), fin) is None  # the proxy's close came first
    assert idle_ms(asked, answer, segment("up", "F", 2010), fin) == 2000.0  # they crossed
