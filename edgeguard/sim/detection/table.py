"""The result as a table: for a terminal, as markdown for the documentation, as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from edgeguard.sim.detection.result import (
    MET,
    MISSED,
    NOT_APPLICABLE,
    AttributionResult,
    BenchResult,
    RecordingResult,
    RowResult,
)

HEADER = (
    "attack", "goal", "verdict", "found", "95 %", "delay median / p95", "damage", "AUROC", "seen", "blamed", "by",
)  # fmt: skip


def cells(row: RowResult) -> tuple[str, ...]:
    """Return one row as words; an empty cell says that there is nothing to say."""
    if row.trials == 0:
        return (row.title, row.goal, row.verdict, "", "", "", "", "", _share(row.observable_share), "", row.why)
    found = f"{row.found}/{row.trials}"
    area = "" if row.area is None else f"{row.area:.3f} ({_three(row.area_low)}-{_three(row.area_high)})"
    blamed = ", ".join(f"{count} {name}" for name, count in row.attribution.items())
    by = ", ".join(f"{name} {count}" for name, count in list(row.checks.items())[:3])
    verdict = row.verdict if row.certain or row.verdict not in (MET, MISSED) else f"{row.verdict}*"
    return (
        row.title, row.goal, verdict, found, f"{100 * row.low:.0f}-{100 * row.high:.0f} %", _delay(row), _damage(row),
        area, _share(row.observable_share), blamed, by or row.why,
    )  # fmt: skip


def _three(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _delay(row: RowResult) -> str:
    def one(seconds: float | None, frames: float | None) -> str:
        if seconds is None:
            return "not found"
        return f"{seconds:.2f} s" + (f" ({frames:.0f})" if frames is not None else "")

    return f"{one(row.delay_median_s, row.frames_median)} / {one(row.delay_p95_s, row.frames_p95)}"


def _damage(row: RowResult) -> str:
    if row.damage_median_deg:
        return f"{row.damage_median_deg:.2g} deg"
    return "" if row.damage_median_m is None else f"{row.damage_median_m:.2g} m"


def facts(result: RecordingResult) -> list[str]:
    """Return what stands above a recording's table."""
    clean = result.clean
    rig = ", ".join(f"{sensor} {rate:g} Hz" for sensor, rate in result.sensors.items())
    bound = "no bound" if clean.per_hour_high is None else f"at most {clean.per_hour_high:.3g}/h (95 %)"
    worst = ", ".join(f"{name} {count}" for name, count in clean.checks.items())
    fitted = f"fitted on {result.fit_s[0]:.1f}-{result.fit_s[1]:.1f} s"
    tested = f"tested on {result.test_s[0]:.1f}-{result.test_s[1]:.1f} s"
    lines = [
        f"{result.length_s:.1f} s" + (f": {rig}" if rig else ""),
        f"{fitted}, {tested}; calibrated: {result.calibrated}, {result.fits} monitors",
        f"clean: {clean.alarms} alarms in {clean.seconds:.1f} s, {bound}" + (f"; {worst}" if worst else ""),
    ]
    lines += [_attributed(one) for one in result.attribution if one.detected]
    return [*lines, *result.notes]


def _attributed(one: AttributionResult) -> str:
    counts = f"{one.right} right, {one.ambiguous} ambiguous, {one.wrong} wrong, {one.nobody} nobody of {one.detected}"
    who = "its own checks alone" if one.sources == "1" else f"{one.sources} sources that compare what was attacked"
    return f"attribution with {who}: {counts}" + (f"; {one.goal}: {one.verdict}" if one.goal else "")


def shown(result: RecordingResult) -> list[RowResult]:
    """Rows that apply to the recording."""
    return [row for row in result.rows if row.verdict != NOT_APPLICABLE]


def text_table(result: RecordingResult) -> str:
    """Return a recording's result for a terminal."""
    rows = [HEADER, *(cells(row) for row in shown(result))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    lines = [result.recording, *(f"  {fact}" for fact in facts(result)), ""]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    left_out = len(result.rows) - len(rows) + 1
    if left_out:
        lines.append(f"not applicable here: {left_out} rows")
    slowest = sorted(shown(result), key=lambda row: -row.spent_s)[:5]
    spent = ", ".join(f"{row.name} {row.spent_s:.1f} s" for row in slowest)
    lines.append(f"{result.spent_s:.0f} s in all; most in {spent}")
    return "\n".join(lines)


def text_summary(result: BenchResult) -> str:
    """Return what stands below all tables."""
    best = result.pooled or (result.recordings[0] if result.recordings else None)
    lines = []
    if best is not None:
        counts: dict[str, int] = {}
        for row in best.rows:
            counts[row.verdict] = counts.get(row.verdict, 0) + 1
        lines.append(f"{best.recording}: " + ", ".join(f"{n} {verdict}" for verdict, n in counts.items()))
        lines.append("* the estimate says so, its 95 % interval leaves it open")
    for one in result.stealth:
        reached = "always caught" if one.unseen_m is None else f"{one.unseen_m:.1f} m unseen in 60 s"
        lines.append(
            f"stealthy {one.goal} with {', '.join(one.sensors)}: {reached} ({one.caught}/{one.attempts} caught)"
        )
    return "\n".join(lines)


def markdown(result: BenchResult) -> str:
    """Return the whole result as markdown."""
    parts = []
    for one in [*result.recordings, *([result.pooled] if result.pooled else [])]:
        parts += [f"### {one.recording}", "", *(f"- {fact}" for fact in facts(one)), ""]
        parts += [_line(HEADER), _line(["---"] * len(HEADER))]
        parts += [_line(cells(row)) for row in shown(one)]
        parts.append("")
    if result.stealth:
        parts += [
            "### Stealthy attacker, 60 s",
            "",
            "| goal | sensors | furthest unseen | caught |",
            "|---|---|---|---|",
        ]
        for s in result.stealth:
            reached = "always caught" if s.unseen_m is None else f"{s.unseen_m:.1f} m"
            parts.append(f"| {s.goal} | {', '.join(s.sensors)} | {reached} | {s.caught} of {s.attempts} |")
        parts.append("")
    return "\n".join(parts)


def _line(parts: Sequence[str]) -> str:
    return "| " + " | ".join(part.replace("|", "/") for part in parts) + " |"


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:90rem;padding:0 1rem;color:#1a1d21;background:#fff}
table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #e3e6ea;vertical-align:top}
th{font-weight:600;border-bottom-color:#9aa3ad}td.met{color:#0a6b3d}td.missed{color:#b3261e;font-weight:600}
ul{padding-left:1.2rem}h2{margin-top:2.5rem}
@media(prefers-color-scheme:dark){body{color:#e6e8eb;background:#14171a}th,td{border-color:#2c3238}
td.met{color:#59c58e}td.missed{color:#ff8a80}}
"""


def html(result: BenchResult) -> str:
    """Return the whole result as one page without anything from outside."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>EdgeGuard bench: detection</title><style>{_STYLE}</style><h1>Detection</h1>",
        "<p>* the estimate says so, its 95 % interval leaves it open</p>",
    ]
    for one in [*result.recordings, *([result.pooled] if result.pooled else [])]:
        parts.append(f"<h2>{escape(one.recording)}</h2><ul>")
        parts += [f"<li>{escape(fact)}</li>" for fact in facts(one)]
        parts.append("</ul><div style='overflow-x:auto'><table><thead><tr>")
        parts += [f"<th>{escape(name)}</th>" for name in HEADER]
        parts.append("</tr></thead><tbody>")
        for row in shown(one):
            tone = row.verdict if row.verdict in (MET, MISSED) else ""
            parts.append("<tr>" + "".join(
                f"<td{f' class={tone}' if i == 2 and tone else ''}>{escape(cell)}</td>"
                for i, cell in enumerate(cells(row))
            ) + "</tr>")  # fmt: skip
        parts.append("</tbody></table></div>")
    parts.append(f"<pre>{escape(text_summary(result))}</pre></html>")
    return "".join(parts)
