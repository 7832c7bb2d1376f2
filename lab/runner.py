"""One run, from nothing to a sealed folder.

1. wire and upstream start              5. blocks: every lane one round each, in seeded random order
2. calibrate: when does it close?       6. stop everything, so that all logs are closed
3. plan, written down before any shot   7. join the witnesses, judge, explain
4. a proxy and a link for each lane     8. store, hash, render

Rules of this file:

- The arms of a block run interleaved, in an order drawn from the seed; blocks follow each other.
- Whatever was started is stopped, whatever happens.
- The runner never judges: `lab.checkers` and `lab.soundness` do, from what is stored.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import random
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from lab import interrupts, sabotage
from lab.aim import run_round
from lab.calibration import LAB_SPREAD_S, SPREAD_S, calibrate
from lab.direct import LINK, try_directly
from lab.doctor import environment
from lab.errors import CannotRunError
from lab.findings import conclude
from lab.generator import Watch
from lab.lane import Lane
from lab.middle import Middles
from lab.model import Aim, Scenario
from lab.plan import Calibration, LanePlan, Plan, Setup, aims_by_time, lay_out
from lab.processes import Address, Child, Children
from lab.report import page
from lab.result import RunResult
from lab.stage import Stage
from lab.store import create, is_full, listing, seal, write_plan, write_result, write_trials
from lab.upstreams import CALIBRATION, Upstreams
from lab.wire import Wire, WireStats, open_wire
from lab.witness.evidence import load
from lab.witness.trials import join
from proxy.config import ProxyConfig, override, to_toml
from proxy.events import EventLog, Kind

WIRE = Kind(
    "client.wire", ("make", "forwarded", "lost", "late_p50_ms", "late_p99_ms", "late_max_ms", "dropped", "packets")
)

# The rounds of one block start this far apart: bursts must not meet in the generator.
STAGGER_S = 0.07
OPEN_FILES = 32_768
LOOK_EVERY = "50ms"  # at the file of endpoints

Say = Callable[[str], None]


async def run(scenario: Scenario, setup: Setup, command: str, runs: Path, say: Say) -> tuple[Path, RunResult]:
    """Runs a scenario. Returns its folder and what was found. Progress goes to `say`, one line a step."""
    _raise_open_files()
    folder = create(runs, scenario.name)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    begin = time.monotonic()
    try:
        plan = await _gather_evidence(scenario, setup, command, started, folder, say)
    except CannotRunError:
        if is_full(folder):  # whoever ended because of it could not write down why
            raise CannotRunError(f"no space left in {runs}; choose another folder with --runs") from None
        raise
    say("joining the witnesses")
    sabotage.spoil(setup.sabotage, folder)
    evidence = load(folder, plan)
    trials = join(evidence)
    write_trials(folder, trials)
    duration_s = time.monotonic() - begin
    result = conclude(scenario, plan, evidence, trials, duration_s=duration_s, files=listing(folder))
    write_result(folder, result)
    page.write(result, folder / "report.html")
    seal(folder)
    return folder, result


async def _gather_evidence(
    scenario: Scenario, setup: Setup, command: str, started: str, folder: Path, say: Say
) -> Plan:
    """Steps 1 to 6; of them the last, also when it is not reached: what the others started is in `stack`."""
    async with AsyncExitStack() as stack:
        try:
            plan = await _carry_out(scenario, setup, command, started, folder, say, stack)
        finally:
            before = interrupts.ignore()
    interrupts.restore(before)  # not after a failure: there is nothing left to interrupt
    return plan


async def _carry_out(
    scenario: Scenario, setup: Setup, command: str, started: str, folder: Path, say: Say, stack: AsyncExitStack
) -> Plan:
    """Steps 1 to 5."""
    wire = open_wire(setup.wire, folder)
    log = EventLog(folder / "client.jsonl", "client")
    stack.callback(log.close)
    say(f"building the {setup.wire} wire")
    await wire.start()
    stack.push_async_callback(_stop_wire, wire, log)
    children = await stack.enter_async_context(Children(folder / "logs"))
    for number in range(sabotage.hogs(setup.sabotage)):
        busy = [sys.executable, "-S", "-c", "while True: pass"]
        children.start(f"hog-{number}", busy, says_ready=False, niceness=0)
    upstreams = Upstreams(scenario, setup, wire, children, folder)
    middles = Middles(scenario, setup, wire, children, folder)
    await upstreams.start()
    if aims_by_time(scenario, setup):
        say(f"measuring when {setup.upstream} closes an idle connection (told: {setup.keep_alive_s:g} s)")
        calibration = await _calibrate(setup, wire, upstreams, middles)
    else:
        calibration = Calibration((setup.keep_alive_s * 1000,), (), measured=False)
    plan = Plan(setup, command, started, calibration, *lay_out(scenario, setup, calibration), _circumstances(scenario))
    write_plan(folder, plan)
    await _try_directly(setup, wire, upstreams, log)
    say(f"starting {len(plan.lanes)} proxies, one for each arm and method")
    stages = await _open_stages(plan, wire, upstreams, folder, log, stack)
    lanes = await _open_lanes(plan, wire, upstreams, middles, stages, children, folder, log)
    await _run_blocks(plan, lanes, children, log, say)
    return plan


def _circumstances(scenario: Scenario) -> dict[str, str]:
    """The machine, and what was declared: a later edit of the scenario shows in its hash."""
    declared = hashlib.sha256(msgspec.json.encode(scenario, order="deterministic")).hexdigest()[:12]
    return {**environment(), "scenario": f"{scenario.name}, hash {declared}"}


async def _stop_wire(wire: Wire, log: EventLog) -> None:
    stats: WireStats = await wire.stop()
    if stats.make == "loopback":
        return
    dropped = stats.log_dropped + stats.pcap_dropped
    late = (stats.late_p50_ms, stats.late_p99_ms, stats.late_max_ms)
    log.emit(WIRE, "", 0, stats.make, stats.forwarded, stats.lost, *late, dropped, stats.pcap_packets)


async def _calibrate(setup: Setup, wire: Wire, upstreams: Upstreams, middles: Middles) -> Calibration:
    port, _ = await upstreams.serving(CALIBRATION)
    port = await middles.before(port, {}, calibrating=True)
    address = await wire.link(CALIBRATION, port, delay_s=setup.rtt_ms / 2000, gate=False)
    # A stall covers connections that are due together, so they must start together, as in a round.
    spread_s = 0.0 if setup.stall_ms else LAB_SPREAD_S if setup.upstream == "lab" else SPREAD_S
    return await calibrate(address, setup.keep_alive_s, spread_s=spread_s)


async def _try_directly(setup: Setup, wire: Wire, upstreams: Upstreams, log: EventLog) -> None:
    port, _ = await upstreams.serving(CALIBRATION)
    await try_directly(await wire.link(LINK, port, delay_s=setup.rtt_ms / 2000, gate=False), log)


async def _open_lanes(
    plan: Plan,
    wire: Wire,
    upstreams: Upstreams,
    middles: Middles,
    stages: Mapping[str, Stage],
    children: Children,
    folder: Path,
    log: EventLog,
) -> list[Lane]:
    """A link and a proxy process for each lane, all proxies starting at the same time."""

    async def open_lane(lane: LanePlan, proxy: Child, behind: Child | None) -> Lane:
        opened = Lane(plan, lane, proxy, behind, await proxy.announced(), wire, log)
        opened.stage = stages.get(lane.stage)
        return opened

    proxies, upstreams_of = [], []
    for lane in plan.lanes:
        behind = None
        if lane.stage:
            dials, endpoints = stages[lane.stage].dials(lane), stages[lane.stage].endpoints(lane)
        else:
            port, behind = await upstreams.serving(
                lane.name, lane.upstream, crash=lane.aim is Aim.CRASH, alone=lane.aim is Aim.FROZEN_UPSTREAM
            )
            port = await middles.before(port, lane.middle)
            dials, endpoints = [await wire.link(lane.name, port, delay_s=lane.rtt_ms / 2000, gate=False)], None
            if lane.forget_ms:
                await wire.forget(lane.name, sabotage.forget_s(plan.setup.sabotage, lane))
        upstreams_of.append(behind)
        proxies.append(_start_proxy(plan, lane, dials, endpoints, children, folder))
    proxies = sabotage.swapped(plan.setup.sabotage, proxies)
    return list(await asyncio.gather(*map(open_lane, plan.lanes, proxies, upstreams_of)))


async def _open_stages(
    plan: Plan, wire: Wire, upstreams: Upstreams, folder: Path, log: EventLog, stack: AsyncExitStack
) -> dict[str, Stage]:
    """What stands behind the lanes with traffic, started."""
    by_name: dict[str, list[LanePlan]] = defaultdict(list)
    for lane in plan.lanes:
        if lane.stage:
            by_name[lane.stage].append(lane)
    stages = {name: Stage(lanes, wire, upstreams, folder, log) for name, lanes in by_name.items()}
    for stage in stages.values():
        stack.callback(stage.close)
        await stage.open()
    return stages


def _start_proxy(
    plan: Plan, lane: LanePlan, dials: Sequence[Address], endpoints: Path | None, children: Children, folder: Path
) -> Child:
    instead = sabotage.instead_of_proxy(plan.setup.sabotage, lane)
    if instead:
        return children.start(f"proxy-{lane.name}", [sys.executable, "-m", *instead], says_ready=False)
    own = {
        "listen": "127.0.0.1:0",
        **_reaches(lane, [f"{host}:{port}" for host, port in dials], endpoints),
        "admin.listen": "off",
        "log.access": "off",
        "log.events": str(folder / f"proxy-{lane.name}.jsonl"),
    }
    config = override(ProxyConfig(), {**lane.proxy, **sabotage.proxy_changes(plan.setup.sabotage, lane), **own})
    path = folder / "logs" / f"proxy-{lane.name}.toml"
    path.write_text(to_toml(config))
    argv = [sys.executable, "-m", "proxy", "--config", str(path)]
    return children.start(f"proxy-{lane.name}", argv, says_ready=False)  # it says so beside its log


def _reaches(lane: LanePlan, addresses: Sequence[str], endpoints: Path | None) -> dict[str, object]:
    """The keys by which a proxy reaches its upstreams: as one group, one of each, or by the file of endpoints."""
    if endpoints is not None:
        return {"discovery.kind": "file", "discovery.file": str(endpoints), "discovery.poll_every": LOOK_EVERY}
    if lane.traffic is None or not lane.traffic.apart:
        return {"upstreams": list(addresses)}
    return {
        "upstreams": [addresses[0]],
        **{f"groups.member{n}.upstreams": [address] for n, address in enumerate(addresses)},
        "routes": [{"path": f"/{n}", "group": f"member{n}"} for n in range(len(addresses))],
    }


async def _run_blocks(plan: Plan, lanes: list[Lane], children: Children, log: EventLog, say: Say) -> None:
    """Every lane one round in each block, started one after the other in an order drawn from the seed."""
    by_name = {lane.lane.name: lane for lane in lanes}
    order = orders(plan.setup.seed, list(by_name), plan.setup.blocks)
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection in a burst would make sends late
    watch = Watch()
    try:
        for block in range(plan.setup.blocks if lanes else 0):
            say(f"block {block + 1} of {plan.setup.blocks}: {len(lanes)} arms, {plan.setup.trials} aimed requests each")
            try:
                await asyncio.gather(
                    *(_round(by_name[name], block, i * STAGGER_S) for i, name in enumerate(order[block]))
                )
            except OSError as error:
                await children.raise_if_any_dies()
                raise CannotRunError(f"a proxy took no connection: {error.strerror}") from error
            children.raise_if_any_died()
            gc.collect()
    finally:
        gc.enable()
        gc.unfreeze()
    watch.write(log)


def orders(seed: int, lanes: Sequence[str], blocks: int) -> list[list[str]]:
    """In which order the lanes start in each block: drawn from the seed and nothing else."""
    draw = random.Random(f"{seed}/order")
    return [draw.sample(lanes, len(lanes)) for _ in range(blocks)]


async def _round(lane: Lane, block: int, start_after_s: float) -> None:
    await asyncio.sleep(start_after_s)
    await run_round(lane, block)


def _raise_open_files() -> None:
    """A thousand connections are four thousand descriptors over all processes; children inherit the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES, hard), hard))
