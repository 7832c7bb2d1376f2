"""Recomputes a run's verdict from its stored evidence alone, and notices what was changed since."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lab.errors import UsageError
from lab.findings import conclude
from lab.model import Scenario, Verdict
from lab.plan import lay_out
from lab.settings import settled
from lab.store import read_plan, read_result, read_trials, tampered
from lab.witness.evidence import load
from lab.witness.trials import join


def verify(folder: Path, scenarios: Mapping[str, Scenario]) -> tuple[Verdict, list[str]]:
    """The verdict, and what was found, one sentence each. A changed file or a different result is a failure."""
    plan, stored = read_plan(folder), read_result(folder)
    scenario = scenarios.get(plan.setup.scenario)
    if scenario is None:
        raise UsageError(f"{folder} is a run of {plan.setup.scenario!r}, a scenario that is not known here")
    scenario = settled(scenario, plan.setup)
    findings = tampered(folder)
    if (plan.lanes, plan.not_judged) != lay_out(scenario, plan.setup, plan.calibration):
        findings.append("plan.json does not follow from the scenario and the measured close")
    try:
        evidence = load(folder, plan)
        trials = join(evidence)
        result = conclude(scenario, plan, evidence, trials, duration_s=stored.duration_s, files=stored.files)
    except Exception as error:  # lines that are JSON, but not what a witness writes
        return Verdict.FAIL, [*findings, f"the evidence cannot be joined again: {error!r}"]
    if trials != read_trials(folder):
        findings.append("trials.jsonl does not follow from what the witnesses wrote")
    if result != stored:
        findings.append(f"verdict.json does not follow from the evidence, which gives {result.verdict}")
    if findings:
        return Verdict.FAIL, findings
    return result.verdict, [f"{len(trials)} trials joined again from {len(stored.files)} files: the same result"]
