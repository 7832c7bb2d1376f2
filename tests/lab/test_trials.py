"""Joining the witnesses: from made-up logs on disk to trials."""

from pathlib import Path
from typing import Any

import pytest
from evidence import lane, plan

from lab.lane import PRIMED, ROUND, TRIAL
from lab.model import Exposure, Outcome
from lab.runner import WIRE
from lab.wire.flowlog import FORGOTTEN
from lab.wire.pcap import RAW_IP, PcapFile
from lab.witness.evidence import CAPTURES, Evidence, load
from lab.witness.trials import Trial, join
from proxy.events import (
    DOWNSTREAM_CLOSED,
    EXCHANGE_ATTEMPT_FAILED,
    EXCHANGE_FINISHED,
    EXCHANGE_SENT,
    EXCHANGE_STARTED,
    EventLog,
    Kind,
)

MS = 1_000_000
ARM = lane()
CONN = "10.77.0.1:40000>10.77.1.1:9000"
ID = "control.POST.0.0"

SEGMENT = Kind("wire.segment", ("link", "dir", "flags", "bytes", "t_in", "t_out", "seq", "ack", "req_id", "up_conn"))
EXECUTED = Kind("exchange.executed", ("req_id", "method", "target", "nth"))
OPENED = Kind("upstream.opened", ("keep_alive_ms",))
CLOSED = Kind("upstream.closed", ("reason", "how", "idle_ms", "unread_bytes", "requests"))


class Folder:
    """A run folder in the making."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.link = ARM.name
        names = {"client": "client", "wire": "wire", "proxy-control.POST": "proxy", "upstream-shared": "upstream"}
        self.logs = {at: EventLog(path / f"{name}.jsonl", at) for name, at in names.items()}

    def middle(self, reason: str = "idle_timeout", *, had_it: bool = False) -> None:
        """The proxy in the middle of a chain, which closed the connection for this reason."""
        self.logs["middle"] = EventLog(self.path / "middle-0.jsonl", "proxy")
        self.logs["middle"].emit(EXCHANGE_STARTED, CONN, 1, "another", "GET", "/")
        self.logs["middle"].emit(DOWNSTREAM_CLOSED, CONN, 0, reason, 1, t_ns=2000 * MS)
        if had_it:
            self.logs["middle"].emit(EXCHANGE_STARTED, CONN, 1, ID, "POST", "/")

    def client(self, status: int = 502, outcome: Outcome = Outcome.ANSWERED) -> None:
        cause = "" if status == 200 else "closed_before_response"
        ns = (2010 * MS, 2010 * MS, None, 2051 * MS)
        self.logs["client"].emit(TRIAL, "", 0, ID, "control", "POST", 0, True, 1990.0, *ns, outcome, status, cause)
        self.logs["client"].emit(ROUND, "", 0, "control", "POST", 0, 1, 1, 1, 0)

    def primed(self, status: int = 200, number: int = 0) -> None:
        req_id = f"control.POST.0.{number}.prime"
        self.logs["client"].emit(PRIMED, "", 0, req_id, "control", "POST", 0, -1 * MS, 21 * MS, "answered", status)

    def primed_before(self) -> None:
        """An earlier request of the same client connection, over the same upstream connection."""
        detail = ("control", "POST", 0, -9 * MS, -8 * MS, "answered", 200)
        self.logs["client"].emit(PRIMED, "", 0, f"{ID}.prime.1", *detail)
        self.segment("up", "D", -9, -8.8, f"{ID}.prime.1")
        self.segment("down", "D", -8.4, -8.2)

    def sent(self, t_ms: float = 2010, conn: str = CONN, reused: bool = True) -> None:
        self.logs["proxy"].emit(EXCHANGE_SENT, conn, 1, ID, 1, reused, 93, t_ns=int(t_ms * MS))

    def failed(self, proof: str = "unprocessed") -> None:
        detail = (ID, 1, "closed_before_response", proof, True, 93, 93, False, "policy never")
        self.logs["proxy"].emit(EXCHANGE_ATTEMPT_FAILED, CONN, 1, *detail)

    def finished(self, status: int = 502) -> None:
        rest = ("closed_before_response", 1, "", "default", "10.0.0.3:9000", CONN, 1, 1990.0, 8, 0, 40.0)
        self.logs["proxy"].emit(EXCHANGE_FINISHED, "c>p", 1, ID, "127.0.0.1", "POST", "/", status, *rest)

    def segment(self, direction: str, flags: str, t_in: float, t_out: float | None, req_id: str = "") -> None:
        stamps = (int(t_in * MS), None if t_out is None else int(t_out * MS))
        self.logs["wire"].emit(SEGMENT, CONN, 0, self.link, direction, flags, 93, *stamps, 1, 1, req_id, CONN)

    def crossing(self) -> None:
        self.segment("up", "S", -2, -1)
        self.segment("up", "D", 0, 20, "old")
        self.segment("down", "D", 0.5, 20.5)
        self.segment("down", "F", 2000, 2030)
        self.segment("up", "D", 2010, 2030, ID)

    def executed(self, t_ms: float = 2030) -> None:
        self.logs["upstream"].emit(EXECUTED, CONN, 0, ID, "POST", "/", 1, t_ns=int(t_ms * MS))

    def closed(self, t_ms: float, unread: int = 0) -> None:
        self.logs["upstream"].emit(CLOSED, CONN, 0, "idle_timeout", "fin", 2000.0, unread, 1, t_ns=int(t_ms * MS))

    def evidence(self, **changes: Any) -> Evidence:
        for log in self.logs.values():
            log.close()
        return load(self.path, plan(ARM, **changes))

    def trial(self, **changes: Any) -> Trial:
        evidence = self.evidence(**changes)
        assert evidence.damage == []
        (found,) = join(evidence)
        return found


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_lost_crossing(folder: Folder) -> None:
    folder.client()
    folder.crossing()
    folder.sent()
    folder.failed()
    folder.finished()
    trial = folder.trial()
    assert trial.lost
    assert trial.label == "502 closed_before_response"
    assert trial.exposure is Exposure.CROSSED
    assert trial.idle_ms == pytest.approx(1989.5)
    assert (trial.attempts, trial.executions, trial.proof, trial.unacked_bytes) == (1, 0, "unprocessed", 93)
    assert trial.dispute == ""


def test_a_request_that_the_wire_never_got_is_placed_by_the_proxys_stamp(folder: Folder) -> None:
    folder.client()
    folder.segment("up", "D", 0, 20, "old")
    folder.segment("down", "D", 0.5, 20.5)
    folder.segment("down", "F", 1980, 2000)
    folder.sent(2010)
    folder.failed()
    folder.finished()
    assert folder.trial().exposure is Exposure.FIN_DELIVERED


def test_a_proxy_that_tells_nothing_is_no_obstacle_to_the_class(folder: Folder) -> None:
    folder.client()
    folder.crossing()
    trial = folder.trial()
    assert trial.exposure is Exposure.CROSSED
    assert trial.attempts == 1


@pytest.mark.parametrize(
    ("reason", "had_it", "dispute"),
    [
        ("idle_timeout", False, ""),
        ("idle_timeout", True, "the proxy in the middle says that it had it"),
        ("drained", False, "closed an idle connection, that proxy says: drained"),
    ],
)
def test_the_proxy_in_the_middle_is_a_witness(folder: Folder, reason: str, had_it: bool, dispute: str) -> None:
    folder.middle(reason, had_it=had_it)
    folder.client()
    folder.crossing()
    folder.sent()
    folder.failed()
    folder.finished()
    found = folder.trial().dispute
    assert found.endswith(dispute)
    assert bool(found) is bool(dispute)


def test_who_was_answered_must_have_passed_the_middle(folder: Folder) -> None:
    folder.middle()
    folder.client(200)
    folder.segment("up", "D", 2010, 2030, ID)
    folder.sent()
    folder.finished(200)
    folder.executed()
    assert folder.trial().dispute == "the client was answered, the proxy in the middle says nothing of this request"


def test_nobody_saw_it(folder: Folder) -> None:
    folder.client(outcome=Outcome.CLOSED_WITHOUT_RESPONSE)
    trial = folder.trial()
    assert trial.exposure is Exposure.NOT_SENT
    assert trial.label == "closed_without_response"


@pytest.mark.parametrize(
    ("closed_ms", "unread", "expected"),
    [(2050, 93, Exposure.UNREAD), (2009, 0, Exposure.FIN_DELIVERED), (2010.01, 0, Exposure.CROSSED)],
)
def test_without_a_wire_send_and_close_are_compared(
    folder: Folder, closed_ms: float, unread: int, expected: Exposure
) -> None:
    folder.client()
    folder.sent(2010)
    folder.finished()
    folder.closed(closed_ms, unread)
    assert folder.trial(wire="loopback").exposure is expected


def contradictions() -> list[Any]:
    return [
        pytest.param({"status": 200}, False, "executed nothing", id="answered, not executed"),
        pytest.param({"status": 502}, True, "says that it was executed", id="arrived after the close, yet executed"),
    ]


@pytest.mark.parametrize(("client", "executed", "dispute"), contradictions())
def test_contradictions_are_told(folder: Folder, client: dict[str, int], executed: bool, dispute: str) -> None:
    folder.client(client["status"])
    folder.crossing()
    folder.sent()
    folder.finished(client["status"])
    if executed:
        folder.executed()
    assert dispute in folder.trial().dispute


def test_what_the_wire_says_it_dropped_cannot_have_been_executed(folder: Folder) -> None:
    folder.client()
    folder.segment("up", "D", 0, 0.2, "old")
    folder.segment("down", "D", 0.5, 20.5)
    folder.logs["wire"].emit(FORGOTTEN, CONN, 0, folder.link, t_ns=1520 * MS)
    folder.segment("up", "D", 2010, None, ID)
    folder.executed(2031)
    folder.sent()
    found = folder.trial()
    assert found.exposure is Exposure.FORGOTTEN
    assert found.dispute.startswith("the wire says that it dropped the request")


def test_a_proxy_that_claims_another_answer_is_contradicted(folder: Folder) -> None:
    folder.client()
    folder.crossing()
    folder.sent()
    folder.finished(504)
    assert folder.trial().dispute == "the proxy says that it answered 504, the client got 502"


def test_a_proxy_that_omits_a_request_is_contradicted(folder: Folder) -> None:
    folder.client()
    folder.crossing()
    folder.sent()
    assert folder.trial().dispute == "the proxy says nothing of this request"


@pytest.mark.parametrize(
    ("primes", "prime_id", "expected"),
    [
        pytest.param([200], f"{ID}.prime", True, id="answered, on a connection of its own"),
        pytest.param([502], f"{ID}.prime", False, id="not answered"),
        pytest.param([200], "", False, id="answered by nobody behind the wire"),
        pytest.param([], f"{ID}.prime", False, id="never sent"),
    ],
)
def test_what_was_primed(folder: Folder, primes: list[int], prime_id: str, expected: bool) -> None:
    folder.client()
    for status in primes:
        folder.primed(status)
    folder.segment("up", "D", 0, 20, prime_id)
    folder.segment("down", "D", 0.5, 20.5)
    folder.segment("up", "D", 2010, 2030, ID)
    assert folder.trial().primed is expected


def test_two_that_shared_a_connection_are_not_primed(folder: Folder) -> None:
    folder.client()
    for number, at in ((0, 0), (1, 30)):
        folder.primed(number=number)
        folder.segment("up", "D", at, at + 20, f"control.POST.0.{number}.prime")
        folder.segment("down", "D", at + 20, at + 40)
    assert not folder.trial().primed


def test_a_connection_that_was_primed_several_times_is_not_shared(folder: Folder) -> None:
    folder.client()
    folder.primed_before()
    folder.primed()
    folder.segment("up", "D", 0, 20, f"{ID}.prime")
    folder.segment("down", "D", 0.5, 20.5)
    folder.segment("up", "D", 2010, 2030, ID)
    assert folder.trial().primed


def test_the_age_is_that_of_the_primed_connection_also_when_the_client_was_late(folder: Folder) -> None:
    """The client says 1990 ms; its answer had been with the proxy for 1,989.5 ms of 2,010 when it sent."""
    folder.client(200)
    folder.segment("up", "D", 0, 0.2, f"{ID}.prime")
    folder.segment("down", "D", 0.5, 20.5)
    assert folder.trial().gap_ms == pytest.approx(2010 - 20.5)


@pytest.mark.parametrize(
    ("close_at", "request_at", "close_ms", "lag_ms"),
    [
        pytest.param((2005, 2025), (2010, 2030), 2004.5, 0.0, id="crossed, nobody late"),
        pytest.param((1980, 2000), (2010, 2030), 1979.5, 10.0, id="the FIN lay unnoticed for 10 ms"),
    ],
)
def test_who_was_late_is_told_by_the_wire(
    folder: Folder, close_at: tuple[float, float], request_at: tuple[float, float], close_ms: float, lag_ms: float
) -> None:
    folder.client()
    folder.segment("up", "D", 0, 0.2, "old")
    folder.segment("down", "D", 0.5, 20.5)
    folder.segment("down", "F", *close_at)
    folder.segment("up", "D", *request_at, ID)
    found = folder.trial()
    assert [found.close_ms, found.lag_ms] == pytest.approx([close_ms, lag_ms])


def test_a_proxy_that_read_the_answer_late_counts_the_idle_time_from_then(folder: Folder) -> None:
    """By the wire the connection was idle for 2,000 ms, by the proxy for 1,990."""
    folder.client(200)
    folder.segment("up", "D", 0, 0.2, "old")
    folder.segment("down", "D", 0.5, 10)
    folder.segment("up", "D", 2010, 2030, ID)
    folder.sent()
    folder.finished(200)
    assert folder.trial().lag_ms == pytest.approx(10.0)


def test_the_proxy_of_another_arm_is_noticed(folder: Folder) -> None:
    folder.client()
    folder.crossing()
    folder.sent()
    folder.finished()
    (folder.path / "proxy-control.POST.jsonl").rename(folder.path / "proxy-window.POST.jsonl")
    for log in folder.logs.values():
        log.close()
    EventLog(folder.path / "proxy-control.POST.jsonl", "proxy").close()
    (trial,) = join(load(folder.path, plan(ARM, lane("window"))))
    assert trial.dispute == "the client says that it belongs to control.POST, the proxy of window.POST had it"


def test_the_link_of_another_arm_is_noticed(folder: Folder) -> None:
    folder.link = "window.POST"
    folder.client()
    folder.crossing()
    folder.sent()
    folder.finished()
    assert folder.trial().dispute.endswith("the wire saw it on the link of window.POST")


@pytest.mark.parametrize(
    ("sent_ms", "executed_ms", "wire_ms", "dispute"),
    [
        pytest.param(2010, 2031, 0, "", id="in order"),
        pytest.param(2012, 2028, 0, "", id="a little out of order, as by a process put aside"),
        pytest.param(2060, 2031, 0, "the wire had it 50 ms before the proxy", id="proxy ahead"),
        pytest.param(1950, 2031, 0, "the proxy had it 60 ms before the client", id="proxy behind"),
        pytest.param(2010, 1980, 0, "the upstream had it 50 ms before the wire", id="upstream behind"),
        pytest.param(2010, 2080, 0, "the wire had it 49 ms before the upstream", id="upstream ahead"),
        pytest.param(2010, 2031, 50, "the upstream had it 49 ms before the wire", id="wire ahead"),
        pytest.param(2010, 2031, -50, "the wire had it 50 ms before the proxy", id="wire behind"),
        pytest.param(1950, 1971, -60, "the proxy had it 60 ms before the client", id="client ahead"),
        pytest.param(2060, 2081, 50, "the client had it 50 ms before the wire", id="client behind"),
    ],
)
def test_a_clock_that_is_wrong_is_noticed(
    folder: Folder, sent_ms: float, executed_ms: float, wire_ms: float, dispute: str
) -> None:
    folder.client(200)
    folder.segment("up", "D", 0, 20, "old")
    folder.segment("down", "D", 0.5, 20.5)
    folder.segment("up", "D", 2010 + wire_ms, 2030 + wire_ms, ID)
    folder.segment("down", "D", 2031 + wire_ms, 2051 + wire_ms)
    folder.sent(sent_ms)
    folder.executed(executed_ms)
    folder.finished(200)
    assert folder.trial().dispute == (f"{dispute} let it go, by their clocks" if dispute else "")


def test_a_clock_cannot_hide_in_the_time_that_a_new_connection_takes(folder: Folder) -> None:
    folder.client(200)
    folder.logs["proxy"].emit(EXCHANGE_STARTED, "c>p", 1, ID, "POST", "/", t_ns=1960 * MS)  # the client is 50 ms ahead
    folder.segment("up", "S", 1960, 2060)
    folder.segment("up", "D", 2160, 2260, ID)
    folder.sent(2160, reused=False)
    folder.executed(2260)
    folder.finished(200)
    assert folder.trial().dispute.startswith("the proxy had it 50 ms before the client")


def test_what_went_out_more_often_than_the_proxy_says_is_noticed(folder: Folder) -> None:
    """No witness may repeat a request behind the others' backs."""
    folder.client(200)
    folder.segment("up", "D", 0, 20, "old")
    folder.segment("down", "D", 0.5, 20.5)
    folder.segment("up", "D", 2010, 2030, ID)
    folder.segment("down", "D", 2031, 2051)
    folder.sent(2010)
    folder.executed(2031)
    folder.executed(2032)
    folder.finished(200)
    assert folder.trial().dispute == "the proxy says that it sent it 1 times, the upstream executed it 2 times"


@pytest.mark.parametrize("name", ["client.jsonl", "wire.jsonl", "proxy-control.POST.jsonl"])
def test_a_witness_that_left_no_log_is_missed(folder: Folder, name: str) -> None:
    folder.client()
    folder.evidence()
    (folder.path / name).unlink()
    assert load(folder.path, plan(ARM)).damage == [f"{name} is missing"]


@pytest.mark.parametrize(
    ("there", "damage"),
    [
        ((2, 1), ""),
        ((2, 0), "the captures lack 1 of 3 packets"),
        ((2, None), "upstream-side.pcap is missing"),
    ],
)
def test_a_capture_that_is_not_whole_is_missed(
    folder: Folder, there: tuple[int | None, int | None], damage: str
) -> None:
    folder.client()
    folder.logs["client"].emit(WIRE, "", 0, "relay", 3, 0, 0.1, 0.1, 0.1, 0, 3)
    for name, packets in zip(CAPTURES, there, strict=True):
        if packets is not None:
            pcap = PcapFile(folder.path / name, RAW_IP)
            for _ in range(packets):
                pcap.add(1, b"x")
            pcap.close()
    assert folder.evidence().damage == ([damage] if damage else [])


def test_a_torn_line_of_a_real_server_is_damage(folder: Folder) -> None:
    (folder.path / "executions-shared.jsonl").write_text(
        f'{{"t":1,"kind":"exchange.executed","req_id":"{ID}"}}\n{{"t":2,"ki'
    )
    folder.client()
    evidence = folder.evidence()
    assert evidence.damage == ["executions-shared.jsonl has a line that is not JSON after line 1"]
    assert evidence.executions == {ID: [1]}


@pytest.mark.parametrize(
    ("others_known", "this_known", "expected"),
    [
        (True, False, Exposure.NEVER_ACCEPTED),
        (True, True, Exposure.NEW_CONNECTION),
        (False, False, Exposure.NEW_CONNECTION),  # an upstream that does not log what it accepts
    ],
)
def test_a_connection_that_only_the_kernel_took(
    tmp_path: Path, others_known: bool, this_known: bool, expected: Exposure
) -> None:
    folder = Folder(tmp_path)
    folder.client()
    folder.sent(reused=False)
    folder.failed("unknown")
    folder.finished()
    folder.segment("up", "S", 2005, 2007)
    folder.segment("up", "D", 2010, 2030, ID)
    folder.segment("down", "R", 2030, 2050)
    for known, conn in ((others_known, "elsewhere"), (this_known, CONN)):
        if known:
            folder.logs["upstream"].emit(OPENED, conn, 0, 60_000.0)
    (found,) = join(folder.evidence())
    assert found.exposure is expected
