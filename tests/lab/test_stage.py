"""What happens behind lanes with traffic, in which order, with a wire and upstreams that only take notes."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import Signals
from typing import Any, cast

import pytest
from evidence import lane, plan

from lab.model import Act, Aim, Traffic
from lab.plan import LanePlan
from lab.processes import Child
from lab.soundness import check_run
from lab.stage import Stage
from lab.upstreams import Upstreams
from lab.wire import Wire
from lab.wire.contract import Address
from lab.witness.evidence import Evidence
from proxy.events import EventLog


class Notes:
    """A wire, the upstreams and their processes at once."""

    make = "relay"

    def __init__(self, told: bool = True) -> None:
        self.said: list[str] = []
        self.listeners = 0
        self._told = told
        self._ports = iter(range(9000, 9100))

    async def link(self, name: str, port: int, *, delay_s: float, gate: bool) -> Address:
        del delay_s, gate
        self.said.append(f"link {name} to {port}")
        return Address("127.0.0.1", port + 1000)

    async def quiet(self, name: str, timeout_s: float) -> bool:
        del timeout_s
        self.said.append(f"quiet {name}")
        return True

    def listen(self) -> socket.socket:
        self.listeners += 1
        return cast("socket.socket", Listener(next(self._ports)))

    async def member(
        self, name: str, lane: str, told: Mapping[str, str], listener: Listener | int | None, *, killed: bool = False
    ) -> tuple[int, Child]:
        del lane, told
        shared = isinstance(listener, int)
        port = listener.port if isinstance(listener, Listener) else listener or next(self._ports)
        self.said.append(f"start {name} on {port}{', shared' * shared}{' to be killed' * killed}")
        return port, cast("Child", Process(self, name))

    def tell_kernel(self, setting: str, value: str) -> None:
        self.said.append(f"{setting}={value}")

    def dismiss(self, child: Process, number: Signals) -> bool:
        self.said.append(f"{number.name} {child.name}")
        return self._told


class Listener:
    def __init__(self, port: int) -> None:
        self.port = port

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", self.port


class Process:
    def __init__(self, notes: Notes, name: str) -> None:
        self.name = name
        self._notes = notes

    async def ended(self, within_s: float) -> None:
        del within_s
        self._notes.said.append(f"await {self.name}")


def traffic_lane(arm: str, acts: Sequence[Act], members: int = 1) -> LanePlan:
    traffic = Traffic(rate=100.0, members=members)
    return lane(arm, aim=Aim.TRAFFIC, traffic=traffic, acts=tuple(acts), stage="control")


async def played(folder: Path, notes: Notes, lanes: Sequence[LanePlan], blocks: int = 1) -> Stage:
    """Each lane comes to the stage, waits for its moment, and goes; nothing flows."""
    (folder / "logs").mkdir()
    log = EventLog(folder / "client.jsonl", "client")
    stage = Stage(lanes, cast("Wire", notes), cast("Upstreams", notes), folder, log)
    await stage.open()

    async def one(block: int) -> None:
        await stage.end(await stage.begin(block, length_ns=1_000_000))

    for block in range(blocks):
        await asyncio.gather(*(one(block) for _ in lanes))
    log.close()
    return stage


def acts_in(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "client.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == "client.act"]


def test_a_successor_takes_the_port_before_the_old_one_is_told(tmp_path: Path) -> None:
    notes = Notes()
    lanes = [traffic_lane(arm, (Act.SUCCEED, Act.TERMINATE)) for arm in ("control", "other")]
    stage = asyncio.run(played(tmp_path, notes, lanes, blocks=2))
    assert notes.said == [
        "start control-0 on 9000",
        "link control.POST#0 to 9000",
        "link other.POST#0 to 9000",
        "start control-1 on 9000",
        "SIGTERM control-0",
        "await control-0",
        "start control-2 on 9000",
        "SIGTERM control-1",
        "await control-1",
    ]
    assert stage.closing_ns is not None
    assert stage.closing_ns > stage.start_ns
    assert [(line["block"], line["act"]) for line in acts_in(tmp_path)] == [
        (0, "succeed"), (0, "terminate"), (1, "succeed"), (1, "terminate"),
    ]  # fmt: skip


def test_who_is_withdrawn_serves_until_it_is_quiet_and_another_takes_its_place(tmp_path: Path) -> None:
    notes = Notes()
    lanes = [traffic_lane("control", (Act.WITHDRAW, Act.QUIET, Act.TERMINATE), members=2)]
    stage = asyncio.run(played(tmp_path, notes, lanes))
    assert notes.said[4:] == [
        "quiet control.POST#0",
        "SIGTERM control-0",
        "await control-0",
        "start control-2 on 9002",
        "link control.POST#2 to 9002",
    ]
    assert [dial.port for dial in stage.dials(lanes[0])] == [10001, 10002]
    endpoints = json.loads((tmp_path / "logs" / "endpoints-control.POST.json").read_text())
    assert [item["ports"][0]["port"] for item in endpoints["items"]] == [10001, 10002]
    assert all(item["endpoints"][0]["conditions"]["serving"] for item in endpoints["items"])


def test_only_who_has_a_successor_there_inherits_its_socket(tmp_path: Path) -> None:
    """Held open by the run, it took connections that nobody accepted once the member was gone: they hung."""
    notes = Notes()
    asyncio.run(played(tmp_path, notes, [traffic_lane("control", (Act.WITHDRAW, Act.TERMINATE), members=2)]))
    assert notes.listeners == 0
    asyncio.run(played(tmp_path / "logs", notes, [traffic_lane("control", (Act.SUCCEED, Act.TERMINATE))]))
    assert notes.listeners == 1


def test_who_is_going_is_listed_as_terminating(tmp_path: Path) -> None:
    lanes = [traffic_lane("control", (Act.JOIN, Act.WITHDRAW))]
    asyncio.run(played(tmp_path, Notes(), lanes))
    listed = json.loads((tmp_path / "logs" / "endpoints-control.POST.json").read_text())["items"]
    conditions = [item["endpoints"][0]["conditions"] for item in listed]
    assert conditions == [
        {"ready": False, "serving": False, "terminating": True},
        {"ready": True, "serving": True, "terminating": False},
    ]


def test_who_will_be_killed_keeps_a_list_that_needs_no_end(tmp_path: Path) -> None:
    notes = Notes()
    asyncio.run(played(tmp_path, notes, [traffic_lane("control", (Act.SUCCEED, Act.KILL))]))
    assert [said for said in notes.said if "start" in said] == [
        "start control-0 on 9000 to be killed",
        "start control-1 on 9000 to be killed",
    ]
    assert "SIGKILL control-0" in notes.said


def test_who_shares_a_port_has_a_socket_of_its_own_and_the_kernel_is_told_for_that_block_only(tmp_path: Path) -> None:
    notes = Notes()
    lanes = [traffic_lane("control", (Act.SHARE, Act.MIGRATE, Act.TERMINATE))]
    asyncio.run(played(tmp_path, notes, lanes))
    assert notes.said == [
        "start control-0 on 9000, shared",
        "link control.POST#0 to 9000",
        "start control-1 on 9000, shared",
        "net.ipv4.tcp_migrate_req=1",
        "SIGTERM control-0",
        "net.ipv4.tcp_migrate_req=0",
        "await control-0",
    ]


def test_a_sabotaged_end_is_not_waited_for(tmp_path: Path) -> None:
    notes = Notes(told=False)
    asyncio.run(played(tmp_path, notes, [traffic_lane("control", (Act.SUCCEED, Act.TERMINATE))]))
    assert not any(said.startswith("await") for said in notes.said)


ACTS = (Act.SUCCEED, Act.TERMINATE)
LINES = [
    {"kind": "client.act", "stage": "control", "block": 0, "act": act, "began_ns": 50, "ended_ns": 60, "done": True}
    for act in ACTS
]
LAST = {"kind": "client.trial", "arm": "control", "method": "POST", "block": 0, "sent_ns": 100}


@pytest.mark.parametrize(
    ("lines", "verdict", "said"),
    [
        ([*LINES, LAST], "pass", "while requests came"),
        ([LINES[0], LAST], "inconclusive", "did not come about: terminate"),
        ([LINES[0], {**LINES[1], "done": False}, LAST], "inconclusive", "did not come about: terminate"),
        ([*LINES, {**LAST, "sent_ns": 40}], "inconclusive", "told to end after all requests"),
    ],
)
def test_what_was_to_happen_must_have_while_requests_came(
    lines: list[dict[str, object]], verdict: str, said: str
) -> None:
    judged = plan(traffic_lane("control", ACTS))
    evidence = Evidence(lines, {}, {}, {}, {}, {}, {}, None)
    (check,) = (check for check in check_run(judged, evidence, [], []) if check.name == "acts")
    assert (check.verdict, said in check.sentence) == (verdict, True), check.sentence
