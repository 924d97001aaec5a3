"""One self-contained HTML file: no network, no script, light and dark, readable on paper.

Every value that comes from a run passes through `svg.text`: sensor names, reasons and notes are hostile input.
"""

from __future__ import annotations

from edgeguard.report.model import CheckSeries, Report
from edgeguard.report.outcomes import AttackOutcome
from edgeguard.report.pictures import Picture
from edgeguard.report.plots import check_plot, timeline
from edgeguard.report.style import STYLE
from edgeguard.report.svg import text
from edgeguard.report.table import readmission
from edgeguard.report.trajectory import trajectory

SHOWN_CHECKS = 9  # the others are one click away
INTERESTING_RATIO = 0.5


def render_html(report: Report) -> str:
    """Return the page. Equal reports give equal text."""
    sections = (
        _header(report),
        _timeline(report),
        _attacks_and_track(report),
        _pictures(report.pictures),
        _checks(report),
        _costs(report),
        _notes(report),
    )  # fmt: skip
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        # Even if an escape were forgotten, nothing could be loaded or run.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{text(report.title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )


def _header(report: Report) -> str:
    state, headline, story = _headline(report)
    median = _median_delay(report.attacks)
    tiles = [
        ("final verdict", report.final_verdict or "none", f"v-{report.final_verdict.lower()}"),
        ("worst verdict", report.worst_verdict or "none", f"v-{report.worst_verdict.lower()}"),
        ("median delay", "none" if median is None else f"{median:.1f} s", ""),
        ("clean time blamed", f"{report.clean_seconds_blamed:.1f} of {report.clean_s:.0f} s", ""),
        ("ticks", f"{report.ticks} in {report.duration_s:.0f} s", ""),
        ("time per tick, p99", f"{report.tick_timing.p99_ms:.1f} ms", ""),
    ]
    if not report.attacks:
        tiles = [t for t in tiles if t[0] != "median delay"]
    shown = "".join(
        f'<div class="tile {css}"><dt>{text(name)}</dt><dd>{text(value)}</dd></div>' for name, value, css in tiles
    )
    return (
        f'<header><p class="brand"><b>EdgeGuard</b> {text(report.title)}</p>'
        f'<div class="hero {state}"><span class="mark" aria-hidden="true"></span>'
        f"<div><h1>{text(headline)}</h1><p>{text(story)}</p></div></div>"
        f'<dl class="tiles">{shown}</dl>{_shares(report)}</header>'
    )


def _headline(report: Report) -> tuple[str, str, str]:
    """Return the state, the big words and the sentence below."""
    if not report.ticks:
        return "bad", "Nothing ran", "No tick was recorded."
    clean = (
        "No clean second was blamed on a sensor."
        if report.clean_seconds_blamed == 0
        else f"{report.clean_seconds_blamed:.1f} s of {report.clean_s:.0f} s clean time were blamed on a sensor."
    )
    if not report.attacks:
        state = "good" if report.worst_verdict == "PASS" else "warn" if report.worst_verdict == "DEGRADE" else "bad"
        blamed = list(dict.fromkeys(b.sensor for b in report.clean_blames))
        return state, report.worst_verdict, f"Blamed: {', '.join(blamed)}." if blamed else "Every sensor was trusted."
    total = len(report.attacks)
    found = sum(a.detected for a in report.attacks)
    named = sum(a.detected and a.named_correctly for a in report.attacks)
    if named == total:
        words = "Attack detected, sensor named" if total == 1 else f"{total} of {total} attacks detected, sensor named"
    else:
        words = f"{found} of {total} attacks detected, {named} named"
    return ("good" if report.passed else "bad" if found < total else "warn"), words, clean


def _median_delay(attacks: tuple[AttackOutcome, ...]) -> float | None:
    delays = sorted(a.delay_s for a in attacks if a.delay_s is not None)
    if not delays:
        return None
    middle = len(delays) // 2
    return delays[middle] if len(delays) % 2 else (delays[middle - 1] + delays[middle]) / 2


def _timeline(report: Report) -> str:
    if not report.ticks:
        return ""
    lead = "Verdict and trust in each sensor. Shaded: under attack. ▼ the attacked sensor is blamed."
    return _section("What happened", f'<div class="scroll wide">{timeline(report)}</div>{_key()}', lead)


def _shares(report: Report) -> str:
    """The whole run as one ribbon, split by verdict."""
    total = sum(report.verdict_s.values())
    if total <= 0:
        return ""
    parts = ""
    for name, seconds in report.verdict_s.items():
        share = seconds / total
        if seconds > 0:
            words = f"{name} {100 * share:.0f} %" if share > 0.055 else ""
            css, tip = text(name.lower()), f"{name} {seconds:.1f} s"
            parts += f'<i class="b-{css}" style="flex:{share:.4f}" title="{text(tip)}">{text(words)}</i>'
    return f'<div class="ribbon" aria-label="share of time per verdict">{parts}</div>'


def _section(title: str, content: str, lead: str = "", css: str = "") -> str:
    lead = f'<p class="lead">{text(lead)}</p>' if lead else ""
    return f'<section class="{css}"><h2>{text(title)}</h2>{lead}<div class="card">{content}</div></section>'


def _key() -> str:
    states = ("trusted", "suspect", "rejected")
    verdicts = ("pass", "degrade", "hold", "stop")
    chips = "".join(f'<span><i class="b-{s}"></i>{s.upper()}</span>' for s in (*verdicts, *states))
    return f'<div class="key">{chips}</div>'


def _attacks_and_track(report: Report) -> str:
    table = _section("Attacks", _attack_table(report), css="grow") if report.attacks else ""
    track = ""
    if report.track is not None:
        lead = "Where fusion says the vehicle is, and where the satellite receiver said it is."
        track = _section("Trajectory", trajectory(report.track), lead, css="grow")
    if not (table or track):
        return ""
    return f'<div class="pair">{track}{table}</div>' if len(report.attacks) <= 4 else track + table


def _attack_table(report: Report) -> str:
    rows = "".join(
        f"<tr><td><b>{text(a.attack)}</b><small>{text(a.size)}</small></td><td>{text(a.sensor)}</td>"
        f"<td class=n>{a.start_s:.0f}–{a.end_s:.0f} s</td><td>{_result(a)}</td>"
        f"<td class=n>{'' if a.delay_s is None else f'{a.delay_s:.1f} s'}</td>"
        f"<td>{_named(a)}</td><td>{_pill(a.worst_verdict)}<small>{_trusted_again(a)}</small></td></tr>"
        for a in report.attacks
    )
    heads = ("attack", "on", "when", "detected", "after", "named", "verdict")
    head = "".join(f"<th>{h}</th>" for h in heads)
    blames = "".join(f"<li>{text(b.sensor)} {text(b.state)} at {b.time_s:.1f} s</li>" for b in report.clean_blames[:8])
    foot = f'<p class="lead">Blamed in clean time:</p><ul>{blames}</ul>' if blames else ""
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{foot}'


def _pill(verdict: str) -> str:
    return f'<span class="pill b-{text(verdict.lower())}">{text(verdict)}</span>' if verdict else ""


def _result(outcome: AttackOutcome) -> str:
    if outcome.detected:
        return '<span class="yes">✓ yes</span>'
    return '<span class="no">already out</span>' if outcome.already_blamed else '<span class="no">✗ missed</span>'


def _trusted_again(outcome: AttackOutcome) -> str:
    again = readmission(outcome)
    return f"trusted again: {again}" if again else ""


def _named(outcome: AttackOutcome) -> str:
    if not outcome.named:
        return "nobody"
    css = "yes" if outcome.named_correctly else "no"
    others = [s for s in outcome.blamed if s not in outcome.named]
    also = f"<small>also doubted: {text(', '.join(others))}</small>" if others else ""
    return (
        f'<span class="{css}">{text(", ".join(outcome.named))}</span><small>{text(outcome.named_state)}</small>{also}'
    )


def _pictures(pictures: tuple[Picture, ...]) -> str:
    if not pictures:
        return ""
    shown = "".join(
        f'<figure><img src="{text(p.data_uri)}" alt="{text(p.caption)} at {p.time_s:.1f} s" loading="lazy">'
        f"<figcaption><b>{text(p.caption)}</b>{_pill(p.verdict)}"
        f"<small>{p.time_s:.1f} s · {p.depth_points} lidar points · "
        f"{text(', '.join(p.distrusted) or 'all sensors trusted')}</small></figcaption></figure>"
        for p in pictures
    )
    lead = "Camera with lidar depth projected into it (red is near, blue is far) and what the model released."
    return f'<section><h2>What it saw</h2><p class="lead">{lead}</p><div class="pictures">{shown}</div></section>'


def _checks(report: Report) -> str:
    if not report.checks:
        return ""
    seeing = [c for c in report.checks if c.blind < len(c.ratio)]
    seeing.sort(key=lambda c: (-min(c.anomalies, 1), -c.peak, c.check))
    blind = [f"{c.check} ({', '.join(c.sensors)})" for c in report.checks if c.blind == len(c.ratio)]
    first = [c for c in seeing[:SHOWN_CHECKS] if c.anomalies or c.peak >= INTERESTING_RATIO] or seeing[:3]
    rest = seeing[len(first) :]
    shown = "".join(_check(c, report) for c in first)
    more = "".join(_check(c, report) for c in rest)
    folded = (
        f"<details><summary>{len(rest)} quieter checks</summary><div class=multiples>{more}</div></details>"
        if rest
        else ""
    )
    never = f'<p class="lead">Never observable here: {text(", ".join(blind))}.</p>' if blind else ""
    lead = (
        "Statistic over threshold, logarithmic. Above the line at 1 is an anomaly. Shaded: under attack, "
        "stronger where the check watches the attacked sensor. Grey bar: the check was blind."
    )
    return (
        f'<section><h2>Evidence</h2><p class="lead">{lead}</p>'
        f'<div class="multiples">{shown}</div>{folded}{never}</section>'
    )


def _check(series: CheckSeries, report: Report) -> str:
    state = "no" if series.anomalies else ""
    peak = f"{series.peak:.1f}×" if series.peak < 1000 else "≥1000×"
    return (
        f'<div class="card mini"><p><b>{text(series.check)}</b><span>{text(", ".join(series.sensors))}</span>'
        f'<em class="{state}">{peak}</em></p>{check_plot(series, report)}</div>'
    )


def _costs(report: Report) -> str:
    if not report.timings and not report.rates:
        return ""
    rows = "".join(
        f"<tr><td>{text(t.stage)}</td><td class=n>{t.median_ms:.2f}</td><td class=n>{t.p99_ms:.2f}</td></tr>"
        for t in (*report.timings, report.tick_timing)
    )
    times = (
        f"<table><thead><tr><th>stage</th><th class=n>median ms</th><th class=n>p99 ms</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )
    rows = "".join(
        f"<tr><td>{text(r.sensor)}</td><td class=n>{r.nominal_hz:.1f}</td><td class=n>{r.mean_hz:.1f}</td>"
        f"<td class=n>{r.received}</td>"
        f"<td>{text(', '.join(f'{k} {v}' for k, v in sorted(r.dropped.items()))) or '0'}</td></tr>"
        for r in report.rates
    )
    rates = (
        "<table><thead><tr><th>sensor</th><th class=n>nominal Hz</th><th class=n>mean Hz</th><th class=n>samples</th>"
        f"<th>dropped</th></tr></thead><tbody>{rows}</tbody></table>"
    )
    lead = "The stage sensors is the wait for the next tick and is left out of the sum."
    return (
        f'<div class="pair">{_section("Time per stage", times, lead)}'
        f"{_section('Sensors', rates, 'What arrived, and what was dropped and why.')}</div>"
    )


def _notes(report: Report) -> str:
    facts = {
        **report.meta,
        **({"model": report.model_id} if report.model_id else {}),
        **({"detections released": str(report.detections)} if report.model_id else {}),
        **{f"repaired by {name}": f"{count} ticks" for name, count in report.restored.items()},
    }
    listed = "".join(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in facts.items())
    notes = "".join(f"<p>{text(note)}</p>" for note in report.notes)
    return f'<footer><dl class="facts">{listed}</dl>{notes}</footer>' if listed or notes else ""
