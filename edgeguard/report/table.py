"""The outcome of a run as a table for the console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeguard.report.model import Report
from edgeguard.report.outcomes import AttackOutcome

if TYPE_CHECKING:
    from rich.table import Table

_COLOURS = {"PASS": "green", "DEGRADE": "yellow", "HOLD": "red", "STOP": "magenta"}


def attack_table(report: Report) -> Table:
    """Return one row per attack: detected, after how long, who was named, how strict it got."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=None, header_style="dim", box=None, pad_edge=False)
    for name in ("attack", "on", "from", "to", "detected", "after", "named", "verdict", "trusted again"):
        table.add_column(name, justify="right" if name in ("from", "to", "after", "trusted again") else "left")
    for a in report.attacks:
        good = a.detected and a.named_correctly
        found = "yes" if a.detected else "already out" if a.already_blamed else "MISSED"
        # Text, not markup: a sensor's name must not style the terminal.
        table.add_row(
            Text(_plain(a.attack)), Text(_plain(a.sensor)), Text(f"{a.start_s:.1f} s"), Text(f"{a.end_s:.1f} s"),
            Text(found, "green" if a.detected else "red"), Text("" if a.delay_s is None else f"{a.delay_s:.1f} s"),
            Text(_plain(", ".join(a.named)) or "nobody", "green" if good else "red"),
            Text(a.worst_verdict, _COLOURS.get(a.worst_verdict, "")),
            Text(readmission(a)),
        )  # fmt: skip
    return table


def readmission(outcome: AttackOutcome) -> str:
    """Return when the attacked sensor was trusted again, as text; empty when it never was distrusted."""
    if not outcome.detected:
        return ""
    return "not yet" if outcome.readmitted_s is None else f"{outcome.readmitted_s:.1f} s later"


def summary_lines(report: Report) -> tuple[str, ...]:
    """Return the run's outcome in two or three plain lines."""
    verdicts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report.verdict_s.items() if seconds > 0)
    lines = [
        f"{report.ticks} ticks in {report.duration_s:.1f} s: {verdicts}",
        f"clean time blamed on a sensor: {report.clean_seconds_blamed:.1f} of {report.clean_s:.1f} s",
    ]
    if report.attacks:
        found = sum(a.detected for a in report.attacks)
        named = sum(a.detected and a.named_correctly for a in report.attacks)
        lines.insert(0, f"{found} of {len(report.attacks)} attacks detected, {named} with the right sensor named")
    return tuple(lines)


def _plain(value: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value)
