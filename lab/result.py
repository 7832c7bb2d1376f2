"""What a run found, in the form that is stored (`verdict.json`) and shown (terminal story, report page).

Rules of this file: data only. Everything here is recomputed from the stored evidence by `kalab verify`; nothing here
is evidence itself. Times are milliseconds unless the name says otherwise.
"""

from __future__ import annotations

import msgspec

from lab.model import Verdict


class Change(msgspec.Struct, frozen=True):
    """One line of a configuration diff. `key` starts with the room: "proxy.", "upstream.", "wire."."""

    key: str
    before: str
    after: str


class Check(msgspec.Struct, frozen=True):
    """A condition on the run as a whole, e.g. that no witness lost lines. `remedy` says what to do when it failed."""

    name: str
    verdict: Verdict
    sentence: str
    remedy: str = ""


class ArmResult(msgspec.Struct, frozen=True):
    """One arm with one method."""

    arm: str
    method: str
    title: str
    why: str
    is_fix: bool
    control: str | None
    expected: str
    verdict: Verdict
    sentence: str
    changes: tuple[Change, ...]
    aimed: int
    exposed: int
    """Trials that count: those that met the close (or, for a fix that prevents it, would have met it)."""
    exposed_as: str
    lost: int
    lost_low: float
    lost_high: float
    executed_twice: int
    outcomes: dict[str, int]
    """What clients got: "200", "502 closed_before_response", "closed_without_response", …"""
    exposures: dict[str, int]
    proven: int
    """Losses for which the un-ACKed bytes prove that the upstream had not processed the request."""
    latency_ms: float | None
    """Median of undisturbed requests in this configuration; None when none was measured."""
    connects_per_request: float | None
    attempts: float | None = None
    """How often one of the requests that count was sent upstream, in the mean; None when none counts."""


class GapPoint(msgspec.Struct, frozen=True):
    """Loss at one idle gap. `gap_ms` is relative to the measured close; 0 is the close, negative is before it."""

    gap_ms: float
    n: int
    lost: int
    low: float
    high: float
    predicted: float


class GapCurve(msgspec.Struct, frozen=True):
    """Loss against idle gap for one arm. The box is where the model predicts loss."""

    arm: str
    title: str
    box_from_ms: float
    box_to_ms: float
    points: tuple[GapPoint, ...]


class MapCell(msgspec.Struct, frozen=True):
    """Some idle gaps of a row: how many requests were sent there, and how many of them were lost."""

    from_ms: float
    to_ms: float
    n: int
    lost: int


class MapRow(msgspec.Struct, frozen=True):
    """One margin. Gaps are relative to the measured close; where the box does not begin before it ends, there is none.

    `margin_ms` None: the proxy's idle timeout is the longer one. `predicted_*`: the share of the sweep that the model
    says is lost, without and with lag.
    """

    arm: str
    method: str
    margin_ms: float | None
    box_from_ms: float
    box_to_ms: float
    predicted_low: float
    predicted_high: float
    n: int
    lost: int
    low: float
    high: float
    cells: tuple[MapCell, ...]


class LossMap(msgspec.Struct, frozen=True):
    """Loss over idle gap and margin, over one round trip, and the model's box in each row."""

    rtt_ms: float
    rows: tuple[MapRow, ...]


class Step(msgspec.Struct, frozen=True):
    """One row of a packet ladder. `t_ms` is relative to the ladder's zero; lanes: client, proxy, upstream.

    `arrived_ms` is when the far end got it; None for what never arrived, or for a local fact (`sender` == `receiver`).
    """

    t_ms: float
    arrived_ms: float | None
    sender: str
    receiver: str
    label: str
    flags: str = ""


class Ladder(msgspec.Struct, frozen=True):
    """One lost request, packet by packet."""

    req_id: str
    conn: str
    caption: str
    steps: tuple[Step, ...]
    zero: str = "the upstream's close"
    """What its times count from."""


class NotJudged(msgspec.Struct, frozen=True):
    """An arm that this wire or this upstream cannot show."""

    arm: str
    title: str
    because: str


class RunResult(msgspec.Struct, frozen=True):
    """One run of one scenario."""

    scenario: str
    sentence: str
    teaches: str
    command: str
    started: str
    duration_s: float
    seed: int
    wire: str
    upstream: str
    keep_alive_s: float
    rtt_ms: float
    close_low_ms: float
    """Measured idle age at which the upstream closed: the earliest and the latest of the calibration."""
    close_high_ms: float
    verdict: Verdict
    story: tuple[str, ...]
    checks: tuple[Check, ...]
    arms: tuple[ArmResult, ...]
    not_judged: tuple[NotJudged, ...]
    curves: tuple[GapCurve, ...]
    ladder: Ladder | None
    environment: dict[str, str]
    real: tuple[str, ...]
    """What in this run was real (kernel, sockets, processes) …"""
    emulated: tuple[str, ...]
    """… and what was emulated."""
    files: tuple[str, ...]
    maps: tuple[LossMap, ...] = ()
    """Loss over gap and margin, one for each round trip."""
    chain: tuple[str, ...] = ()
    """What a request passes, where that is more than a proxy: the wire is between the two whose connection is tried."""
    closed_after: str = ""
    """After what the upstream closed, where that was no idle time: "4 answers"."""
