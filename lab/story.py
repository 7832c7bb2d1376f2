"""A run's result on the terminal: what happened, what was tried, what failed and what to do, and the verdict.

Rules of this file:

- Results only, on the console it is given; progress is `lab.progress`.
- Off a terminal the lines are plain, not broken and not coloured, and the table is 100 columns wide. NO_COLOR is
  rich's to honour. What a string of the result holds is shown, never interpreted.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab.model import Verdict
from lab.result import ArmResult, Check, GapCurve, NotJudged, RunResult
from lab.wording import MEANING, control_of, effect, encodable, harmful_changes, share_text, time_text

COLUMNS = 100
FEWEST_POINTS = 3  # of a curve that says anything; short runs have too few trials for more

STYLES = {Verdict.PASS: "bold green", Verdict.FAIL: "bold red", Verdict.INCONCLUSIVE: "bold yellow"}
TONES = {"good": "green", "bad": "red", "harm": "magenta", "open": "yellow", "plain": ""}


def tell(result: RunResult, console: Console, report: str = "") -> None:
    """Prints the result. `report` is where its page is, if it has one."""
    teller = _Teller(console)
    for line in result.story:
        teller.line(line)
    if result.arms:
        teller.blank()
        teller.table(result.arms)
    for curve in [curve for curve in result.curves if len(curve.points) > FEWEST_POINTS][:1]:
        teller.blank()
        teller.gaps(curve)
    teller.arms_that_did_not_pass(result.arms)
    teller.checks_that_did_not_pass(result.checks)
    teller.not_judged(result.not_judged)
    teller.blank()
    teller.verdict(result)
    if report:
        teller.line(f"report: {report}")


class _Teller:
    """Writes to one console in the form that it can take."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def blank(self) -> None:
        self._console.print()

    def line(self, text: str, style: str = "") -> None:
        self._print(self._text(text, style))

    def table(self, arms: Sequence[ArmResult]) -> None:
        """Every arm, by the name that `--arm` takes, and method: what was lost, executed twice, and so what it did."""
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        table.add_column("what was tried", no_wrap=True)
        table.add_column("method", no_wrap=True)
        table.add_column("lost, of exposed", no_wrap=True)
        table.add_column("executed\nagain", justify="right")
        table.add_column("what it did", ratio=1)
        harmful = harmful_changes(arms)
        before = ""
        for arm in arms:
            found = effect(arm, harmful)
            style = TONES[found.tone] if arm.verdict is Verdict.PASS else STYLES[arm.verdict]
            table.add_row(
                self._text("" if arm.arm == before else arm.arm),
                self._text(arm.method),
                self._text(share_text(arm.lost, arm.exposed, arm.lost_low, arm.lost_high)),
                self._text(str(arm.executed_twice or "none"), "magenta" if arm.executed_twice else ""),
                self._text(found.words if arm.verdict is Verdict.PASS else f"{arm.verdict}: {found.words}", style),
            )
            before = arm.arm
        table.width = min(self._console.width, COLUMNS) if self._console.is_terminal else COLUMNS
        self._console.print(table, width=table.width, crop=False, no_wrap=True)

    def gaps(self, curve: GapCurve) -> None:
        """Predicted and measured loss, gap by gap."""
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        table.add_column("idle gap, ms\nfrom the close", justify="right")
        table.add_column("predicted,\nnothing done", justify="right")
        table.add_column(f"measured lost\n{curve.title.lower()}", no_wrap=True)
        for point in curve.points:
            table.add_row(
                self._text(time_text(point.gap_ms)),
                self._text(f"{point.predicted:.0%}"),
                self._text(share_text(point.lost, point.n, point.low, point.high)),
            )
        self._console.print(table, width=COLUMNS, crop=False, no_wrap=True)

    def arms_that_did_not_pass(self, arms: Sequence[ArmResult]) -> None:
        missed = [arm for arm in arms if arm.verdict is not Verdict.PASS]
        if missed:
            self.blank()
            self.line("Not as expected:")
        for arm in missed:
            control = control_of(arm, arms)
            broke = "" if control is None or control.lost else f" Its control, {control.title!r}, lost nothing."
            self._marked(arm.verdict, f"{arm.arm}, {arm.method}: {arm.sentence}{broke}")

    def checks_that_did_not_pass(self, checks: Sequence[Check]) -> None:
        missed = [check for check in checks if check.verdict is not Verdict.PASS]
        if missed:
            self.blank()
            self.line("Checks that did not pass:")
        for check in missed:
            self._marked(check.verdict, f"{check.name}: {check.sentence}")
            if check.remedy:
                self.line(f"      what to do: {check.remedy}")

    def not_judged(self, arms: Sequence[NotJudged]) -> None:
        if arms:
            self.blank()
            self.line("Not judged:")
        for arm in arms:
            self.line(f"  {arm.arm}: {arm.because}")

    def verdict(self, result: RunResult) -> None:
        word = self._text(f"verdict: {result.verdict.value}", STYLES[result.verdict])
        self._print(word.append(f"  {MEANING[result.verdict]}", style="not bold default"))

    def _marked(self, verdict: Verdict, text: str) -> None:
        self._print(self._text("  ").append(verdict.value, style=STYLES[verdict]).append_text(self._text(f"  {text}")))

    def _print(self, text: Text) -> None:
        # Long lines are broken by words on a terminal, and left whole for grep and logs.
        self._console.print(text, soft_wrap=not self._console.is_terminal)

    def _text(self, text: str, style: str = "") -> Text:
        return Text(encodable(text, self._console.encoding), style=style)
