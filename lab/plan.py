"""From a declared scenario to what exactly will be run: written down before the first aimed request.

A *lane* is one arm with one method: its own proxy process, its own link through the wire, its own rounds. Here the
scenario's relative values become concrete: a fix "300 ms below the upstream's idle timeout" becomes a duration, an aim
that this wire or this upstream cannot offer becomes another one or makes the arm "not judged", with the reason.
"""

from __future__ import annotations

import msgspec

from lab.box import Share, share_of_sweep
from lab.model import Act, Aim, Arm, Below, Expect, Hint, Scenario, Traffic
from lab.result import Change, NotJudged
from proxy.config import ProxyConfig, parse_duration
from upstreams.catalogue import SERVERS

RTT_KEY = "wire.rtt_ms"
PROXY, MIDDLE, UPSTREAM, WIRE = "proxy.", "middle.", "upstream.", "wire."
MAX_REQUESTS = "max-requests"
IDLE_KEY = "timeouts.upstream_idle"
CLOSES_AFTER = "timeouts.downstream_idle"

RELAY_ANSWERS = "the relay's kernel acknowledges and answers probes itself, whatever becomes of the way behind it"
RELAY_ACCEPTS = "the relay makes the upstream's connections itself, and for it that takes no time"

GATED = (Aim.HELD_FIN, Aim.STALLED_PROXY, Aim.LATE_READER, Aim.LATE_WRITER)
"""Aims for which the wire holds FINs."""

BY_TIME = (Aim.GAPS, Aim.FROZEN_UPSTREAM, Aim.ELSEWHERE)
"""Aims that need to know beforehand when the upstream closes, and to be on time."""

# The window's edges are blurred by timers and scheduling; what falls this close to an edge is counted on neither side.
EDGE_MS = 5.0

# Hints are whole seconds, and the proxy stops this much earlier than one says.
HINT_MARGIN_S = ProxyConfig().pool.hint_margin


class Calibration(msgspec.Struct, frozen=True):
    """What was measured before the run, in ms: the idle ages at which the upstream closed, and its answer times.

    `low` and `high` leave out the extreme eighth at either end: one late moment here is no habit of the server.
    """

    close_ms: tuple[float, ...]
    answer_ms: tuple[float, ...]
    measured: bool = True
    """False: nothing aims by time in this run, so `close_ms` is what the upstream was told."""

    @property
    def low(self) -> float:
        return self._ranked(len(self.close_ms) // 8)

    @property
    def high(self) -> float:
        return self._ranked(-1 - len(self.close_ms) // 8)

    @property
    def middle(self) -> float:
        return self._ranked(len(self.close_ms) // 2)

    def _ranked(self, rank: int) -> float:
        return sorted(self.close_ms)[rank]


class LanePlan(msgspec.Struct, frozen=True):
    """One arm with one method, ready to run. `window_ms` is the width of the predicted box."""

    arm: str
    method: str
    aim: Aim
    expect: Expect
    prevents: bool
    reuses: bool
    rtt_ms: float
    window_ms: float
    proxy: dict[str, str]
    changes: tuple[Change, ...]
    upstream: dict[str, str] = {}
    """What its upstream does otherwise than the scenario's."""
    middle: dict[str, str] = {}
    """What the proxy in the middle of its chain does otherwise than the scenario's."""
    at: float = 0.0
    """With `Aim.ELSEWHERE`, when it fires, in idle timeouts; with `Aim.FORGOTTEN`, in the wire's `forget_ms`."""
    primes: int = 1
    """Answers that each connection has carried when it is aimed at."""
    forget_ms: float = 0.0
    """After how long a silence its wire forgets a connection; 0: never."""
    waits_ms: tuple[float, float] | None = None
    """How long what is lost keeps its client waiting: each at least, the median at most."""
    told_as: str = ""
    """What the proxy must call the failure of what is lost."""
    body: int | None = None
    """Bytes in the body of each of its requests; None: a POST has a few, others none."""
    attempts: int = 1
    """How often a request is sent if no attempt is answered and no budget is in the way."""
    predicted: Share | None = None
    """With `Expect.PREDICTED`, the share of its sweep that the model says is lost."""
    traffic: Traffic | None = None
    acts: tuple[Act, ...] = ()
    stage: str = ""
    """With `Aim.TRAFFIC`: lanes with the same stage have the same upstreams, and see the same happen to them."""

    @property
    def proxy_idle_ms(self) -> float:
        """The idle age above which its proxy uses no connection any more."""
        return float(parse_duration(self.proxy[IDLE_KEY])) * 1000

    @property
    def name(self) -> str:
        return f"{self.arm}.{self.method}"


class Setup(msgspec.Struct, frozen=True):
    """What the user asked for, as it was understood."""

    scenario: str
    wire: str
    upstream: str
    methods: tuple[str, ...]
    arms: tuple[str, ...]
    keep_alive_s: float
    rtt_ms: float
    stall_ms: float
    blocks: int
    trials: int
    min_exposed: int
    seed: int
    sabotage: str = ""
    settings: dict[str, str] = {}
    """What `--set` says otherwise than the scenario (lab/settings.py)."""


class Plan(msgspec.Struct, frozen=True):
    """The whole run, expectations included."""

    setup: Setup
    command: str
    started: str
    calibration: Calibration
    lanes: tuple[LanePlan, ...]
    not_judged: tuple[NotJudged, ...]
    environment: dict[str, str]


def aims_by_time(scenario: Scenario, setup: Setup) -> bool:
    """Whether any arm of this run needs to know beforehand when the upstream closes."""
    arms = [arm for arm in scenario.arms if arm.name in setup.arms]
    return setup.wire == "loopback" or any(
        arm.aim in BY_TIME
        or Expect.FORECAST in arm.expect.values()
        or any(isinstance(v, Below) and v.measured for v in arm.change.values())
        for arm in arms
    )


def by_time(lane: LanePlan) -> bool:
    """Whether it matters when exactly this lane's requests and the closes that they meet are on the way."""
    return lane.aim in BY_TIME or lane.expect is Expect.FORECAST


def link_of(lane: str, member: int) -> str:
    """The name of a lane's way to one of several upstreams."""
    return f"{lane}#{member}"


def lane_of(link: str) -> str:
    """The lane that a link belongs to."""
    return link.partition("#")[0]


def abilities(setup: Setup, calibration: Calibration) -> dict[str, str]:
    """What this wire and upstream can not do: ability -> why not. An empty reason means that it can."""
    nothing = "a plain loopback has nothing in between that could hold or delay packets"
    no_wire = nothing if setup.wire == "loopback" else ""
    spread = calibration.high - calibration.low
    width = window_ms(setup, setup.rtt_ms)
    unsteady = f"its closes differ by {spread:.1f} ms, too much to map a window of {width:.0f} ms"
    return {
        "gate": no_wire,
        "delay": no_wire,
        "forget": no_wire,
        "packets": "" if setup.wire == "netns" else no_wire or RELAY_ANSWERS,
        "handshake": "" if setup.wire == "netns" else no_wire or RELAY_ACCEPTS,
        "hint": _no_hint(setup),
        "script": ""
        if setup.upstream == "lab"
        else f"{setup.upstream} cannot be told to do this, the lab upstream can",
        "steady close": "" if spread <= width / 2 else unsteady,
    }


def _needs_of(scenario: Scenario, arm: Arm) -> list[str]:
    """What an arm needs because of what it changes, or makes happen, or because of what stands in between."""
    told = scenario.middle is not None or any(key.startswith(UPSTREAM) for key in arm.change) or arm.aim is Aim.TRAFFIC
    return [*(["script"] if told else []), *(["delay"] if arm.aim is Aim.TRAFFIC else [])]


def _hint_that_is_none(scenario: Scenario, arm: Arm, setup: Setup) -> list[str]:
    """Why an arm whose upstream says something else than it does cannot say it, with this idle timeout."""
    hints = [value for value in arm.change.values() if isinstance(value, Hint)]
    if not hints:
        return []
    if setup.keep_alive_s != int(setup.keep_alive_s):
        return [f"hints count whole seconds, and {setup.keep_alive_s:g} s is none"]
    changed = {
        **scenario.proxy,
        **_of(PROXY, {key: value for key, value in arm.change.items() if isinstance(value, str)}),
    }
    margin_s = float(parse_duration(changed.get("pool.hint_margin", f"{float(HINT_MARGIN_S):g}s")))
    told_s = int(setup.keep_alive_s) + hints[0].plus_s
    return [f"of a hint of {told_s} s nothing is left after {margin_s:g} s of margin"] if told_s <= margin_s else []


def _no_hint(setup: Setup) -> str:
    # The lab's own upstream is told to send it, by the scenario.
    if setup.upstream != "lab" and not SERVERS[setup.upstream].sends_hint:
        return f"{setup.upstream} sends no Keep-Alive: timeout field"
    if int(setup.keep_alive_s) <= HINT_MARGIN_S:
        return f"of a hint of {int(setup.keep_alive_s)} s nothing is left after the proxy's safety second"
    return ""


def window_ms(setup: Setup, rtt_ms: float) -> float:
    """The width of the predicted box, R + L_u (docs/race.md); at least a millisecond, for the timers."""
    return max(1.0, rtt_ms + setup.stall_ms)


def lay_out(
    scenario: Scenario, setup: Setup, calibration: Calibration
) -> tuple[tuple[LanePlan, ...], tuple[NotJudged, ...]]:
    """The lanes of a run, and the arms that it cannot show. Of an upstream that never closed nothing can be shown."""
    if not calibration.close_ms:
        return (), ()
    missing = abilities(setup, calibration)
    lanes: list[LanePlan] = []
    not_judged: list[NotJudged] = []
    for arm in scenario.arms:
        if arm.name not in setup.arms:
            continue
        reasons = [missing[need] for need in (*arm.needs, *_needs_of(scenario, arm)) if missing[need]]
        reasons += _hint_that_is_none(scenario, arm, setup)
        if reasons:
            not_judged.append(NotJudged(arm.name, arm.title, reasons[0]))
            continue
        lanes += [_lane(scenario, arm, m, setup, calibration, missing) for m in arm.expect if m in setup.methods]
    return tuple(lanes), tuple(not_judged)


def _lane(
    scenario: Scenario, arm: Arm, method: str, setup: Setup, calibration: Calibration, missing: dict[str, str]
) -> LanePlan:
    rtt_ms = float(str(arm.change.get(RTT_KEY, setup.rtt_ms)))
    change = {key: _concrete(value, setup, calibration, rtt_ms) for key, value in arm.change.items()}
    upstream = _of(UPSTREAM, change)
    lane = LanePlan(
        arm=arm.name,
        method=method,
        aim=_aim(arm.aim, missing),
        expect=arm.expected(method, setup.wire),
        prevents=arm.prevents,
        reuses=arm.reuses,
        rtt_ms=rtt_ms,
        # A fix is tried where its control is lost, also when its own round trip, and so its own window, is smaller.
        window_ms=window_ms(setup, max(rtt_ms, setup.rtt_ms) if arm.prevents else rtt_ms),
        proxy={**scenario.proxy, **_of(PROXY, change)},
        changes=tuple(Change(key, _before(key, scenario, setup), after) for key, after in change.items()),
        upstream=upstream,
        middle=_of(MIDDLE, change),
        at=arm.at if arm.aim in (Aim.ELSEWHERE, Aim.FORGOTTEN) else 0.0,
        forget_ms=float(parse_duration({**scenario.wire, **_of(WIRE, change)}.get("forget", "0s"))) * 1000,
        waits_ms=arm.waits_ms,
        told_as=arm.told_as,
        body=arm.body,
        attempts=arm.attempts.get(method, 1),
        primes=max(arm.primes, int({**scenario.upstream, **upstream}.get(MAX_REQUESTS, 1))),
        traffic=_traffic(scenario, arm),
        acts=arm.acts,
        stage=_stage(scenario, arm, setup),
    )
    if lane.expect is not Expect.PREDICTED:
        return lane
    return msgspec.structs.replace(
        lane, predicted=share_of_sweep(calibration.middle, lane.window_ms, lane.proxy_idle_ms)
    )


def _traffic(scenario: Scenario, arm: Arm) -> Traffic | None:
    return arm.traffic or scenario.traffic if arm.aim is Aim.TRAFFIC else None


def _stage(scenario: Scenario, arm: Arm, setup: Setup) -> str:
    """The first arm of this run whose upstreams are told the same, and have the same happen to them."""
    if arm.aim is not Aim.TRAFFIC:
        return ""

    def seen(other: Arm) -> tuple[object, ...]:
        told = {key: value for key, value in other.change.items() if key.startswith(UPSTREAM)}
        return _traffic(scenario, other), other.acts, told, other.change.get(RTT_KEY)

    arms = (other for other in scenario.arms if other.name in setup.arms)
    return next(other.name for other in arms if seen(other) == seen(arm))


def _of(room: str, change: dict[str, str]) -> dict[str, str]:
    """What a change says of one room, without its name."""
    return {key.removeprefix(room): value for key, value in change.items() if key.startswith(room)}


def _aim(aim: Aim, missing: dict[str, str]) -> Aim:
    """The aim that this wire and upstream can offer for the one that was declared."""
    if aim is Aim.HELD_FIN and missing["gate"]:
        return Aim.GAPS
    if aim is Aim.GAPS and missing["steady close"] and not missing["gate"]:
        return Aim.HELD_FIN
    return aim


def _concrete(value: str | Below | Hint, setup: Setup, calibration: Calibration, rtt_ms: float) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Hint):
        return str(max(0, int(setup.keep_alive_s) + value.plus_s))
    limit_ms = calibration.low if value.measured else setup.keep_alive_s * 1000
    return f"{round(limit_ms - value.margin_ms - value.round_trips * rtt_ms)}ms"


def _before(key: str, scenario: Scenario, setup: Setup) -> str:
    if key == RTT_KEY:
        return f"{setup.rtt_ms:g}"
    if key.startswith(UPSTREAM):
        return scenario.upstream.get(key.removeprefix(UPSTREAM), "")
    if key.startswith(MIDDLE):
        middle = {CLOSES_AFTER: f"{setup.keep_alive_s:g}s", **(scenario.middle or {})}
        return middle.get(key.removeprefix(MIDDLE), "")
    return scenario.proxy.get(key.removeprefix(PROXY), "")
