"""The request that the report draws, packet by packet."""

from typing import Any

from evidence import lane, trial

from lab.checkers import LaneFinding
from lab.example import CHAIN, choose, ladder
from lab.model import Aim, Exposure, Verdict
from lab.report.ladder import _lanes
from lab.witness.evidence import Evidence
from lab.witness.flows import Flow, Segment
from lab.witness.trials import Trial

MS = 1_000_000
ID = "control.POST.0.0"
CONN = "a>b"


def sent(t_ms: float, up: bool, flags: str, req_id: str = "", *, dropped: bool = False) -> Segment:
    return Segment(up, flags, 9, int(t_ms * MS), None if dropped else int((t_ms + 20) * MS), req_id)


def seen(*segments: Segment, forgotten_ms: float | None = None) -> Evidence:
    since = None if forgotten_ms is None else int(forgotten_ms * MS)
    client: dict[str, Any] = {"kind": "client.trial", "req_id": ID, "sent_ns": 2009 * MS, "done_ns": 3012 * MS}
    proxy = [
        {"kind": "exchange.started", "t": 2009 * MS},
        {"kind": "exchange.finished", "t": 3011 * MS},
    ]
    flow = Flow(CONN, "control.POST", list(segments), since)
    return Evidence([client], {ID: proxy}, {}, {}, {}, {CONN: [flow]}, {}, None)


def finding(one: Trial, aim: Aim = Aim.HELD_FIN) -> LaneFinding:
    return LaneFinding(lane(aim=aim), Verdict.PASS, "", (one,), (one,), ())


BEFORE = (sent(0, True, "D", "old"), sent(20, False, "D"))


def test_a_crossing_counts_from_the_close() -> None:
    made = seen(*BEFORE, sent(2000, False, "F"), sent(2010, True, "D", ID), sent(2031, False, "R"))
    drawn = ladder(made, [finding(trial(conn=CONN))])
    assert drawn is not None
    assert drawn.zero == "the upstream's close"
    assert [(step.t_ms, step.label) for step in drawn.steps if step.flags in ("F", "R")] == [
        (0.0, "FIN (held by the wire until the request had left)"),
        (31.0, "RST"),
    ]


def test_the_example_was_lost_as_most_were() -> None:
    unread = [trial(i, conn=CONN, exposure=Exposure.UNREAD) for i in range(3)]
    both = (*unread, trial(3, conn=CONN), trial(4, conn=CONN))
    chosen = choose([LaneFinding(lane(aim=Aim.GAPS), Verdict.PASS, "", both, both, ())])
    assert chosen is not None
    assert chosen[1].exposure is Exposure.UNREAD


def test_in_a_chain_the_balancer_is_in_front_of_the_wire_and_the_proxy_behind() -> None:
    made = seen(*BEFORE, sent(2000, False, "F"), sent(2010, True, "D", ID), sent(2031, False, "R"))
    drawn = ladder(made, [finding(trial(conn=CONN))], CHAIN)
    assert drawn is not None
    assert {(step.sender, step.receiver) for step in drawn.steps if step.flags == "F"} == {("proxy", "balancer")}
    assert list(_lanes(drawn.steps, 0, 900, 13)) == ["client", "balancer", "proxy"]


def test_what_vanished_counts_from_the_request_and_ends_with_what_the_client_got() -> None:
    """Kernels go on for minutes: with the request, and with the FIN when the upstream closes at last."""
    again = (sent(t, True, "D", ID, dropped=True) for t in (2010, 2230, 2460, 4000))
    made = seen(*BEFORE, *again, sent(5000, False, "F", dropped=True), forgotten_ms=1540)
    drawn = ladder(made, [finding(trial(conn=CONN, exposure=Exposure.FORGOTTEN, status=504), Aim.FORGOTTEN)])
    assert drawn is not None
    assert drawn.zero == "when the request left the proxy"
    told = [(step.t_ms, step.arrived_ms, step.label) for step in drawn.steps if step.sender == "proxy"]
    assert told == [
        (0.0, None, "the request, 9 bytes"),
        (220.0, None, "the request again"),
        (450.0, None, "the request again"),
        (1001.0, 1002.0, "504 closed_before_response"),
    ]


def test_what_the_upstream_died_over_is_drawn_where_nothing_was_lost_to_the_race() -> None:
    made = seen(*BEFORE, sent(2000, True, "D", ID), sent(2021, False, "F"))
    made.upstream_closes[CONN] = {"t": 2020 * MS, "reason": "crashed", "idle_ms": None}
    died = trial(conn=CONN, exposure=Exposure.CLOSED_AFTER_ARRIVAL, executions=1)
    drawn = ladder(made, [finding(died, Aim.CRASH)])
    assert drawn is not None
    assert "executed, and close() without an answer" in [step.label for step in drawn.steps]
    assert ladder(made, [finding(trial(conn=CONN, exposure=Exposure.CLOSED_AFTER_ARRIVAL), Aim.CRASH)]) is None
