"""The clean day for people."""

from __future__ import annotations

from edgeguard.sim.soak.soak import TOLERANCE, CheckRate, SoakResult


def soak_text(result: SoakResult) -> str:
    """Return the day's rates, per kind of rig and per check."""
    alarms = f"alarms: {result.alarms}, {_interval(result.per_hour, result.low, result.high)}"
    lines = [
        f"{result.hours:.2f} h clean in {result.drives} drives, {result.times_real_time:g} x real time per process",
        f"{alarms}; somebody accused {100 * result.alarmed_share:.3g} % of the time",
    ]
    if result.hard:
        lines.append(f"and {result.hard} of hard limits alone (protocol, physics), which no rate is stated for")
    if result.stated_per_hour:
        answer = "yes" if result.within else "no"
        sure = "" if result.certain else ", the interval leaves it open"
        lines.append(f"the calibrations expect {result.expected_per_hour:.3g}/h on average")
        lines.append(f"calibrated for {result.stated_per_hour:g}/h; within {100 * TOLERANCE:.0f} %: {answer}{sure}")
    if result.uncalibrated_drives:
        lines.append(f"{result.uncalibrated_drives} drives on shipped priors: their checks have no monitor to fit")
    lines += [f"  rig {name:18}  {_line(one)}" for name, one in result.presets.items()]
    lines += [f"  check {name:16}  {_line(one)}" for name, one in result.checks.items()]
    return "\n".join(lines)


def _line(one: CheckRate) -> str:
    return f"{one.count:5d}  {_interval(one.per_hour, one.low, one.high)}"


def _interval(rate: float, low: float, high: float) -> str:
    return f"{rate:.3g}/h ({low:.3g}-{high:.3g})"
