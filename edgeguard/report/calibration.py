"""A calibration as a page of its own: every monitor's scores, where the prior and the fit put clean ones, the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeguard.report.style import STYLE
from edgeguard.report.svg import element, figure, label, line, nice_step, rect, text

WIDTH, HEIGHT = 540.0, 190.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 530.0, 14.0, 158.0
MAX_POINTS = 800  # per plot: more than the pixels it is drawn on


@dataclass(frozen=True, slots=True)
class MonitorScores:
    """One monitor's scores over the recording.

    times_s, scores: (N,) from the recording's start, in `unit`. held_out_s: from there on nothing was fitted. prior,
    fit: (lowest, highest) score that lies within three sigma of the location; fit None where the prior stays.
    """

    monitor: str
    unit: str
    times_s: Sequence[float]
    scores: Sequence[float]
    held_out_s: float
    prior: tuple[float, float]
    fit: tuple[float, float] | None


def render_calibration(
    title: str, facts: Mapping[str, str], table: Sequence[Sequence[str]], monitors: Sequence[MonitorScores]
) -> str:
    """Return one self-contained page. facts: named results on top. table: its first row is the head."""
    tiles = "".join(f'<div class="tile"><dt>{text(k)}</dt><dd>{text(v)}</dd></div>' for k, v in facts.items())
    head = "".join(f"<th>{text(cell)}</th>" for cell in table[0])
    body = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in table[1:])
    plots = "".join(
        f'<div class="card"><p class="lead"><b>{text(each.monitor)}</b> {text(each.unit)}</p>{_plot(each)}</div>'
        for each in monitors
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{text(title)}</title><style>{STYLE}</style></head>\n<body><main>"
        f'<header><p class="brand"><b>EdgeGuard</b> {text(title)}</p><dl class="tiles">{tiles}</dl></header>'
        f'<section><h2>Fits</h2><div class="card scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
        "</table></div></section>"
        '<section><h2>Scores</h2><p class="lead">Dots: raw scores; right of the line they were held out. Grey band: '
        "three sigma of the shipped prior. Green band: three sigma of the fit, of its widest speed bin.</p>"
        f'<div class="pair" style="row-gap:20px">{plots}</div></section></main></body></html>\n'
    )


def _plot(scores: MonitorScores) -> str:
    bands = [band for band in (scores.prior, scores.fit) if band is not None]
    low = min([*(band[0] for band in bands), *scores.scores])
    high = max([*(band[1] for band in bands), *scores.scores])
    start_s, end_s = min(scores.times_s, default=0.0), max(scores.times_s, default=1.0)

    def x(time_s: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (time_s - start_s) / max(end_s - start_s, 1e-9)

    def y(score: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * (score - low) / max(high - low, 1e-12)

    parts = [
        rect(_LEFT, y(band[1]), _RIGHT - _LEFT, y(band[0]) - y(band[1]), css, f"{band[0]:.3g} to {band[1]:.3g}")
        for band, css in zip(bands, ("b-prior", "b-fit"), strict=False)
    ]
    for value in (low, 0.5 * (low + high), high):
        parts.append(line(_LEFT, y(value), _RIGHT, y(value), "grid"))
        parts.append(label(_LEFT - 6, y(value) + 4, f"{value:.3g}", "t small", "end"))
    step = max(1, len(scores.scores) // MAX_POINTS)
    for time_s, score in zip(scores.times_s[::step], scores.scores[::step], strict=True):
        parts.append(element("circle", cx=x(time_s), cy=y(score), r=1.4, class_="fix"))
    if start_s < scores.held_out_s < end_s:
        parts.append(line(x(scores.held_out_s), _TOP, x(scores.held_out_s), _BOTTOM, "limit"))
    parts.append(line(_LEFT, _BOTTOM, _RIGHT, _BOTTOM, "base"))
    pace = nice_step(end_s - start_s, 6)
    tick = (start_s // pace + 1) * pace
    while tick < end_s:
        parts.append(label(x(tick), _BOTTOM + 16, f"{tick:g} s", "t small", "middle"))
        tick += pace
    style = "<style>.b-prior{fill:var(--soft);fill-opacity:.10}.b-fit{fill:var(--ok);fill-opacity:.22}</style>"
    return figure(WIDTH, HEIGHT, style + "".join(parts), f"scores of {scores.monitor} over time")
