"""The delay line without sockets: order, counts of a round, and that every segment that entered is reported once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import monotonic_ns

import pytest
from wire_peers import segments

from lab.wire.contract import Address
from lab.wire.flow import DATA, FIN, RST, Flow, Link, Segment, request_id
from lab.wire.flowlog import FlowLog
from lab.wire.line import Line
from lab.witness.logs import read

PAST, FUTURE = 1, 1 << 62
UP, DOWN = True, False


class Bench:
    """A line, a link, and what was handed over."""

    def __init__(self, run_dir: Path) -> None:
        self.handed_over: list[Segment] = []
        self.log = FlowLog(run_dir / "wire.jsonl")
        self.line = Line(self.log, self._hand_over)
        self.link = Link("app", 80, Address("10.0.0.9", 80), 1000, True)
        self.line.links["app"] = self.link
        self._seq = 0

    def flow(self) -> Flow:
        flow = Flow(self.link, "a>b", "a>b")
        self.line.opened(flow)
        return flow

    def enter(
        self, flow: Flow | None, up: bool, flags: str, t_in: int = PAST, *, seq: int | None = None, data: bytes = b"x"
    ) -> Segment:
        self._seq += 1
        data = data if DATA in flags else b""
        number = self._seq if seq is None else seq
        segment = Segment(flow, up, flags, t_in, delay_ns=1000, payload=b"head" + data, size=len(data), seq=number)
        self.line.enter(segment)
        return segment

    def _hand_over(self, segment: Segment) -> None:
        self.handed_over.append(segment)
        self.line.done(segment, monotonic_ns())


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.log.close()


def test_what_is_due_goes_in_order_of_entry_and_what_is_not_stays(bench: Bench) -> None:
    flow = bench.flow()
    entered = [bench.enter(flow, UP, DATA) for _ in range(3)]
    later = bench.enter(flow, UP, DATA, FUTURE)
    bench.line.turn()
    assert bench.handed_over == entered
    assert bench.line.next_due() == later.t_in + 1000
    assert bench.link.on_its_way == 1
    assert repr(bench.link) == "<Link app, 1 open, 0 held, 1 on their way>"


def test_a_turn_hands_over_a_bounded_number(bench: Bench) -> None:
    for _ in range(5):
        bench.enter(None, UP, "")
    bench.line.turn(limit=3)
    assert (len(bench.handed_over), len(bench.line)) == (3, 2)


def test_what_was_held_goes_down_before_what_came_after(bench: Bench) -> None:
    flow = bench.flow()
    fin, ack = bench.enter(flow, DOWN, FIN), bench.enter(flow, DOWN, "")
    request = bench.enter(flow, UP, DATA, PAST + 500)
    rst = bench.enter(flow, DOWN, RST)
    bench.line.turn()
    assert bench.handed_over == [fin, ack, request, rst]
    assert flow.not_before == request.t_in + 1000


def test_a_round_counts_what_happened_since_its_mark(bench: Bench) -> None:
    line, link = bench.line, bench.link
    held, closed, held_then_closed, late = (bench.flow() for _ in range(4))
    bench.enter(held, DOWN, FIN)
    bench.enter(closed, UP, FIN)
    bench.enter(held_then_closed, DOWN, FIN)
    bench.enter(held_then_closed, UP, RST)
    settled = line.settled(link)
    assert (settled.held, settled.closed_by_proxy, settled.open, settled.accounted) == (1, 2, 4, 3)
    line.mark(link)
    assert line.settled(link).accounted == 0
    bench.enter(held, UP, FIN)  # held in the round before: does not count in this one
    bench.enter(late, DOWN, FIN)
    settled = line.settled(link)
    assert (settled.held, settled.closed_by_proxy) == (1, 0)


def test_an_answer_to_the_upstreams_close_is_no_close_by_the_proxy(bench: Bench) -> None:
    flow = bench.flow()
    bench.enter(flow, UP, DATA)
    bench.enter(flow, DOWN, FIN)  # passes: a request is outstanding
    bench.enter(flow, UP, FIN)
    assert bench.line.settled(bench.link).closed_by_proxy == 0


def test_open_ends_by_both_fins_or_one_rst(bench: Bench) -> None:
    by_fins, by_rst = bench.flow(), bench.flow()
    bench.enter(by_fins, UP, FIN)
    bench.line.turn()
    assert bench.link.open == 2
    bench.enter(by_fins, DOWN, FIN)
    bench.enter(by_rst, UP, RST)
    bench.line.turn()
    assert bench.link.open == 0


def test_a_refused_connection_is_not_held(bench: Bench) -> None:
    flow = Flow(bench.link, "a>b", "a>b")
    refusal = bench.enter(flow, DOWN, RST)
    bench.line.turn()
    assert bench.handed_over == [refusal]


def test_a_repeated_fin_is_logged_and_not_kept(bench: Bench, tmp_path: Path) -> None:
    flow = bench.flow()
    fin = bench.enter(flow, DOWN, FIN, seq=7)
    bench.enter(flow, DOWN, FIN, seq=7)
    assert bench.line.release(bench.link, PAST) == 1
    bench.line.turn()
    assert bench.handed_over == [fin]
    bench.log.close()
    assert [line["t_out"] is None for line in segments(tmp_path)] == [True, False]


def test_the_end_reports_what_was_never_handed_over(bench: Bench, tmp_path: Path) -> None:
    held, waiting = bench.flow(), bench.flow()
    bench.enter(held, DOWN, FIN)
    bench.enter(waiting, UP, DATA, FUTURE)
    bench.line.abandon()
    assert (bench.link.on_its_way, len(bench.link.held), len(bench.line)) == (0, 0, 0)
    bench.log.close()
    assert sorted((line["flags"], line["t_out"]) for line in segments(tmp_path)) == [("D", None), ("F", None)]


def test_only_the_beginning_of_a_request_gives_its_id(bench: Bench) -> None:
    flow = bench.flow()
    head = b"PUT / HTTP/1.1\r\nX-Request-Id: r-%d\r\n\r\n"
    sent = [bench.enter(flow, UP, DATA, data=head % number) for number in (1, 2)]  # the second is the first's body
    sent.append(bench.enter(flow, DOWN, DATA, data=head % 3))
    sent.append(bench.enter(flow, UP, DATA, data=head % 4))
    assert [segment.req_id for segment in sent] == ["r-1", "", "", "r-4"]


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"GET / HTTP/1.1\r\nx-request-id: abc \r\n\r\n", "abc"),
        (b"GET / HTTP/1.1\r\nX-Request-ID:\tA-1\r\nHost: x\r\n\r\n", "A-1"),
        (b"GET / HTTP/1.1\r\nX-Request-Id-Not: abc\r\n\r\n", ""),
        (b"GET /?x-request-id:1 HTTP/1.1\r\n\r\n", ""),
        (b"", ""),
    ],
)
def test_request_id_is_read_from_the_head(head: bytes, expected: str) -> None:
    assert request_id(head) == expected


SILENCE_NS = 100


def test_a_silent_connection_is_forgotten_and_what_comes_then_is_dropped(bench: Bench, tmp_path: Path) -> None:
    bench.link.forget_ns = SILENCE_NS
    flow, fresh = bench.flow(), bench.flow()
    bench.enter(flow, UP, DATA, 1_000, data=b"GET / HTTP/1.1\r\nX-Request-Id: first\r\n\r\n")
    bench.enter(flow, DOWN, DATA, 1_100)  # just in time
    request = bench.enter(flow, UP, DATA, 1_201, data=b"GET / HTTP/1.1\r\nX-Request-Id: second\r\n\r\n")
    bench.enter(flow, DOWN, DATA, 1_202)  # the other way too, and for good
    bench.enter(fresh, UP, DATA, 1_203)
    bench.line.turn()
    assert (len(bench.handed_over), request.req_id) == (3, "second")
    assert bench.link.open == 2
    bench.enter(flow, UP, FIN, 1_300)
    assert (bench.link.open, bench.link.on_its_way) == (1, 0)
    bench.log.close()
    lines = read(tmp_path / "wire.jsonl").lines
    assert [line["t"] for line in lines if line["kind"] == "wire.forgotten"] == [1_200]
    dropped = [line["flags"] for line in lines if line["kind"] == "wire.segment" and line["t_out"] is None]
    assert dropped == ["D", "D", "F"]


def test_a_probe_without_data_is_no_silence(bench: Bench) -> None:
    bench.link.forget_ns = SILENCE_NS
    flow = bench.flow()
    for moment in range(1_000, 2_000, 90):
        bench.enter(flow, UP, "", moment)
    bench.enter(flow, UP, DATA, 2_080)
    assert not flow.forgotten


def test_a_link_forgets_nothing_unless_it_is_told_to(bench: Bench) -> None:
    flow = bench.flow()
    bench.enter(flow, UP, DATA, 1_000)
    bench.enter(flow, UP, DATA, FUTURE)
    assert not flow.forgotten
