"""A detection curve as a drawing, and as a page of its own: share detected and named against attack size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeguard.report.style import STYLE
from edgeguard.report.svg import element, figure, label, line, polyline, text

WIDTH, HEIGHT = 720.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 700.0, 16.0, 252.0


@dataclass(frozen=True, slots=True)
class DetectionPoint:
    """One attack size: how many runs, in how many it was detected and rightly named, median delay in seconds."""

    value: float
    runs: int
    detected: int
    named: int
    median_delay_s: float | None


def detection_plot(points: Sequence[DetectionPoint], parameter: str) -> str:
    """Draw the curve; the axis is logarithmic when all sizes are positive and span more than a decade."""
    values = [p.value for p in points]
    low, high = min(values, default=0.0), max(values, default=1.0)
    logarithmic = low > 0 and high / low > 10

    def x(value: float) -> float:
        if high == low:
            return (_LEFT + _RIGHT) / 2
        share = math.log(value / low) / math.log(high / low) if logarithmic else (value - low) / (high - low)
        return _LEFT + 20 + (_RIGHT - _LEFT - 40) * share

    def y(share: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * share

    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(line(_LEFT, y(share), _RIGHT, y(share), "grid" if share else "base"))
        parts.append(label(_LEFT - 8, y(share) + 4, f"{100 * share:g} %", "t small", "end"))
    for point in points:
        parts.append(label(x(point.value), _BOTTOM + 18, f"{point.value:g}", "t small", "middle"))
        delay = "" if point.median_delay_s is None else f", median delay {point.median_delay_s:.1f} s"
        tip = f"{parameter} = {point.value:g}: {point.detected} of {point.runs} detected, {point.named} named{delay}"
        at = y(point.detected / max(point.runs, 1))
        parts.append(element("circle", tip=tip, cx=x(point.value), cy=at, r=4.0, class_="curve"))
    for css, counts in (("curve", [p.detected for p in points]), ("curve hot", [p.named for p in points])):
        places = [(x(p.value), y(n / max(p.runs, 1))) for p, n in zip(points, counts, strict=True)]
        if len(places) > 1:
            parts.append(polyline(places, css))
    parts.append(label((_LEFT + _RIGHT) / 2, HEIGHT - 8, parameter, "t", "middle"))
    return figure(WIDTH, HEIGHT, "".join(parts), f"share detected against {parameter}")


def render_curve(title: str, parameter: str, points: Sequence[DetectionPoint], command: str) -> str:
    """Return one self-contained page: the plot, the table behind it, and the command that repeats it."""
    rows = "".join(
        f"<tr><td>{p.value:g}</td><td>{p.detected} of {p.runs}</td><td>{p.named} of {p.runs}</td>"
        f"<td>{'' if p.median_delay_s is None else f'{p.median_delay_s:.1f} s'}</td></tr>"
        for p in points
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{text(title)}</title><style>{STYLE}</style></head>\n<body><main>"
        f'<header><p class="brand"><b>EdgeGuard</b> {text(title)}</p></header>'
        f"<section><h2>Detected, and the right sensor named (thicker)</h2>{detection_plot(points, parameter)}</section>"
        f"<section><h2>Numbers</h2><table><thead><tr><th>{text(parameter)}</th><th>detected</th><th>named</th>"
        f"<th>median delay</th></tr></thead><tbody>{rows}</tbody></table></section>"
        f"<section><p><code>{text(command)}</code></p></section></main></body></html>\n"
    )
