"""A run in a few plain lines, for a tired engineer: what was reused, how old, what crossed, what the client got, how
many of how many, what ended it and what did not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lab.checkers import LaneFinding
from lab.ends import forgets_after
from lab.example import choose
from lab.maps import maps
from lab.model import Aim, Ends, Expect, Exposure, Scenario, Verdict
from lab.plan import MAX_REQUESTS, RTT_KEY, LanePlan, Plan
from lab.prediction import totals_text
from lab.repeats_told import tell_repeats
from lab.witness.trials import Trial
from lab.wording import share_text

RACES = (Aim.HELD_FIN, Aim.GAPS, Aim.FROZEN_UPSTREAM, Aim.FORGOTTEN, Aim.TRAFFIC)
# Closes that differ by less are told as one, and as what the server was told.
STEADY_MS = 10.0

NOTHING = "No request was lost to the race, so this run shows nothing about it."
NONE_TO_LOSE = "No request was lost, and none was to be: all were sent far from the close."
NEVER_ACCEPTED = (
    "The upstream's kernel had taken it at its SYN, for a listener that was closed before it accepted it, "
    "and answered the request with a reset."
)
RELAY_PROVES_NOTHING = (
    "On the relay wire nothing can be proven unprocessed, for the relay acknowledges for what is behind it ({}); "
    "--wire netns can prove it, if the close is no reset."
)


def narrate(
    scenario: Scenario,
    plan: Plan,
    findings: Sequence[LaneFinding],
    closes: Sequence[float],
    controls: Mapping[str, str],
    *,
    sound: bool,
) -> tuple[str, ...]:
    """The lines. `controls`: arm -> its control; `sound`: the run was an experiment, so its fixes may be praised."""
    if scenario.ends is Ends.CRASH:
        return tell_repeats(findings)
    found = _example(findings)
    if found is None:
        far = all(f.lane.aim is Aim.ELSEWHERE and not any(t.lost for t in f.trials) for f in findings)
        return (NONE_TO_LOSE if findings and far else NOTHING,)
    lane, example = found[0].lane, found[1]
    got = f"{example.label}{_when(example)}"
    silent = "the upstream has" if scenario.middle is None else "the proxy and the upstream have"
    return (
        *_how_it_met(scenario, plan, lane, example, closes),
        f"The upstream never executed it. The client got {got}; {silent} nothing to log.",
        *_how_many(findings, example.method),
        *_how_well_predicted(plan, findings),
        *(_what_helped(findings, controls) if sound else ()),
        *_what_the_wire_hides(plan),
    )


def _how_it_met(
    scenario: Scenario, plan: Plan, lane: LanePlan, example: Trial, closes: Sequence[float]
) -> tuple[str, str]:
    """On what connection it was sent, and what that met."""
    if example.exposure is Exposure.NEVER_ACCEPTED:
        return f"The {_sender(scenario)} sent a {example.method} on a new connection.", NEVER_ACCEPTED
    idle_s = example.age_ms / 1000
    leaves = scenario.ends is Ends.LEAVES
    before = f"on a connection that had been used before, then idle for {idle_s:.3f} s"
    return (
        f"The {_sender(scenario)} sent a {example.method} {before}.",
        _who_left(plan, lane, example) if leaves else _what_met(scenario, plan, example.exposure, closes),
    )


def _example(findings: Sequence[LaneFinding]) -> tuple[LaneFinding, Trial] | None:
    """The request that the report draws; otherwise any that was lost to the race."""
    chosen = choose(findings)
    if chosen is not None:
        return chosen
    plain = (f for f in findings if not f.lane.changes and f.lane.aim in RACES)
    return next(((finding, trial) for finding in plain for trial in _raced(finding)), None)


def _raced(finding: LaneFinding) -> list[Trial]:
    """What was lost to the upstream's close and to nothing else."""
    raced = (Exposure.CROSSED, Exposure.UNREAD, Exposure.FORGOTTEN, Exposure.NEVER_ACCEPTED)
    return [t for t in finding.exposed if t.lost and not t.executions and t.exposure in raced]


def _what_met(scenario: Scenario, plan: Plan, exposure: Exposure, closes: Sequence[float]) -> str:
    if scenario.ends is Ends.SILENCE:
        return (
            f"Something on the way, here the wire, forgets a connection after {forgets_after(scenario)} of silence "
            "and drops what comes then. It tells neither end, so both think that the connection is open."
        )
    if scenario.ends is Ends.COUNT:
        return _met_the_last_answer(scenario, plan)
    low, high = min(closes), max(closes)
    span = f"{low / 1000:.3f} s" if high - low < STEADY_MS else f"{low / 1000:.3f} to {high / 1000:.3f} s"
    told_s = plan.setup.keep_alive_s
    though = f", though told {told_s:g} s" if low - told_s * 1000 > 5 * STEADY_MS else ""
    close = f"{_closer(scenario, plan)} closes idle connections after {span}{though}"
    if exposure is not Exposure.CROSSED:
        return f"{close}. The request lay unread in its kernel at that moment, and the kernel answered with a reset."
    half = f"{plan.setup.rtt_ms / 2:g} ms"
    return (
        f"{close}, counted from when its answer left, {half} before the {_sender(scenario)} had it. "
        f"Its FIN was on the way, {half} each way, when the request set out, and they crossed."
    )


def _sender(scenario: Scenario) -> str:
    return "proxy" if scenario.middle is None else "balancer"


def _closer(scenario: Scenario, plan: Plan) -> str:
    if scenario.middle is None:
        return f"The upstream ({plan.setup.upstream})"
    return "The proxy behind it is a server too: as such it"


def _when(trial: Trial) -> str:
    return f" {trial.latency_ms:.0f} ms later" if trial.exposure is Exposure.FORGOTTEN else ""


def _met_the_last_answer(scenario: Scenario, plan: Plan) -> str:
    half = f"{plan.setup.rtt_ms / 2:g} ms"
    return (
        f"The upstream ({plan.setup.upstream}) closes a connection behind its answer number "
        f"{scenario.upstream[MAX_REQUESTS]}, without announcing it. "
        f"Its FIN was on the way, {half} each way, when the request set out, and they crossed."
    )


def _who_left(plan: Plan, lane: LanePlan, example: Trial) -> str:
    because = "it was told to end" if lane.acts else "a worker of it made room for the next"
    close = f"The upstream ({plan.setup.upstream}) closed it because {because}, not because it was idle"
    if example.exposure is not Exposure.CROSSED:
        return f"{close}. The request lay unread in its kernel at that moment, and the kernel answered with a reset."
    half = f"{lane.rtt_ms / 2:g} ms"
    return f"{close}. Its FIN was on the way, {half} each way, when the request set out, and they crossed."


def _how_many(findings: Sequence[LaneFinding], method: str) -> list[str]:
    """How many were lost: aimed at held FINs, and swept with nothing held."""
    plain = {
        f.lane.aim: f
        for f in findings
        if not f.lane.changes and f.lane.method == method and f.lost and f.lane.expect is not Expect.PREDICTED
    }
    lines = []
    if held := plain.get(Aim.HELD_FIN):
        lines.append(f"Aimed, each FIN held until the request had left: {_lost(held)} {method}s were lost.")
    if silent := plain.get(Aim.FORGOTTEN):
        lines.append(f"Sent after that silence: {_lost(silent)} {method}s were lost.")
    if swept := plain.get(Aim.GAPS):
        others = (
            f", and {sum(t.lost for t in swept.outside)} of the {len(swept.outside)} others" if swept.outside else ""
        )
        lines.append(f"Idle gaps swept, nothing held: {_lost(swept)} {method}s that met the close were lost{others}.")
    if (flowed := plain.get(Aim.TRAFFIC)) and flowed.lane.expect is not Expect.FORECAST:
        lines.append(f"Traffic, nothing aimed: {_lost(flowed)} {method}s that met such a close were lost.")
    return lines


def _how_well_predicted(plan: Plan, findings: Sequence[LaneFinding]) -> list[str]:
    """All that was held against the model, in total."""
    return [f"Of the sweeps the model had said before the run {totals_text(each)}." for each in maps(plan, findings)]


def _lost(finding: LaneFinding) -> str:
    bounds = finding.bounds
    return share_text(finding.lost, len(finding.exposed), bounds.low, bounds.high)


def _what_helped(findings: Sequence[LaneFinding], controls: Mapping[str, str]) -> list[str]:
    """Fixes of the race on the wire as it is: nothing that needs another distance, a stopped proxy or a crash."""
    fixes = [
        f
        for f in findings
        if f.lane.arm in controls
        and f.lane.aim in RACES
        and f.verdict is Verdict.PASS
        and all(change.key != RTT_KEY for change in f.lane.changes)
    ]
    ended = list(dict.fromkeys(f.lane.arm for f in fixes if f.lane.prevents or _ended_as_predicted(f)))
    lost = {
        f.lane.arm: f.lane.method
        for f in fixes
        if f.lane.expect is Expect.LOST or (f.lane.expect is Expect.PREDICTED and f.lost)
    }
    saved = {f.lane.arm for f in fixes if f.lane.expect is Expect.MENDED}
    not_ended = [f"{arm} ({method})" if arm in saved else arm for arm, method in lost.items()]
    return [
        *([f"What ended it: {', '.join(ended)}."] if ended else []),
        *([f"What did not: {', '.join(not_ended)}."] if not_ended else []),
    ]


def _ended_as_predicted(finding: LaneFinding) -> bool:
    """The model says that nothing can be lost there, however late the peers, and nothing was."""
    predicted = finding.lane.predicted
    return predicted is not None and predicted.high == 0.0 and not finding.lost


def _what_the_wire_hides(plan: Plan) -> list[str]:
    held = (lane for lane in plan.lanes if lane.aim is Aim.HELD_FIN)
    proven = list(dict.fromkeys(lane.arm for lane in held if lane.proxy.get("retry.policy") == "when_proven"))
    return [RELAY_PROVES_NOTHING.format(", ".join(proven))] if plan.setup.wire == "relay" and proven else []
