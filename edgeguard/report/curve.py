"""Curves of a sweep as drawings and as a page: detection and delay against attack size, and ROC, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeguard.report.style import STYLE
from edgeguard.report.svg import element, figure, label, line, nice_step, polyline, text

WIDTH, HEIGHT = 720.0, 300.0
ROC_SIDE = 320.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 700.0, 16.0, 252.0
Interval = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class RocPoint:
    """False and true alarms at one threshold, of so many clean and attacked runs."""

    threshold: float
    false: int
    true: int
    clean: int
    attacked: int


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One attack size: runs, in how many it was detected and rightly named, with 95 % intervals of the shares.

    median_delay_s: over all runs, a missed one waiting for ever; None when it is infinite. delay_interval_s: (low,
    high), None for infinite. area: under the ROC curve, with its interval.
    """

    value: float
    runs: int
    detected: int
    detected_interval: tuple[float, float]
    named: int
    named_interval: tuple[float, float]
    median_delay_s: float | None
    delay_interval_s: Interval
    area: float
    area_interval: tuple[float, float]
    roc: tuple[RocPoint, ...]

    def delay(self) -> str:
        """Return median and interval for people."""
        low, high = (_seconds(end) for end in self.delay_interval_s)
        return f"{_seconds(self.median_delay_s)} ({low} to {high})"


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"


def _scale(points: Sequence[CurvePoint]) -> Callable[[float], float]:
    """Return where a size is drawn; logarithmic when all are positive and span more than a decade."""
    values = [p.value for p in points]
    low, high = min(values, default=0.0), max(values, default=1.0)
    logarithmic = low > 0 and high / low > 10

    def x(value: float) -> float:
        if high == low:
            return (_LEFT + _RIGHT) / 2
        share = math.log(value / low) / math.log(high / low) if logarithmic else (value - low) / (high - low)
        return _LEFT + 20 + (_RIGHT - _LEFT - 40) * share

    return x


def detection_plot(points: Sequence[CurvePoint], parameter: str) -> str:
    """Draw the shares detected and named, with Wilson's intervals as bars."""
    x = _scale(points)

    def y(share: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * share

    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(line(_LEFT, y(share), _RIGHT, y(share), "grid" if share else "base"))
        parts.append(label(_LEFT - 8, y(share) + 4, f"{100 * share:g} %", "t small", "end"))
    for point in points:
        low, high = point.detected_interval
        at = x(point.value)
        parts.append(label(at, _BOTTOM + 18, f"{point.value:g}", "t small", "middle"))
        tip = (
            f"{parameter} = {point.value:g}: {point.detected} of {point.runs} detected ({100 * low:.0f} to "
            f"{100 * high:.0f} %), {point.named} named, delay {point.delay()}"
        )
        parts.append(line(at, y(low), at, y(high), "curve"))
        parts.append(
            element("circle", tip=tip, cx=at, cy=y(point.detected / max(point.runs, 1)), r=4.0, class_="curve")
        )
    for css, counts in (("curve", [p.detected for p in points]), ("curve hot", [p.named for p in points])):
        places = [(x(p.value), y(n / max(p.runs, 1))) for p, n in zip(points, counts, strict=True)]
        if len(places) > 1:
            parts.append(polyline(places, css))
    parts.append(label((_LEFT + _RIGHT) / 2, HEIGHT - 8, parameter, "t", "middle"))
    return figure(WIDTH, HEIGHT, "".join(parts), f"share detected against {parameter}")


def delay_plot(points: Sequence[CurvePoint], parameter: str) -> str:
    """Draw the median delay with its interval; what was never found stands on the upper edge."""
    x = _scale(points)
    ends = [v for p in points for v in (p.median_delay_s, *p.delay_interval_s) if v is not None]
    top_s = max([*ends, 0.1]) * 1.15

    def y(seconds: float | None) -> float:
        return _TOP if seconds is None else _BOTTOM - (_BOTTOM - _TOP) * min(seconds / top_s, 1.0)

    step_s = nice_step(top_s, 5)
    parts = [line(_LEFT, _BOTTOM, _RIGHT, _BOTTOM, "base"), line(_LEFT, _TOP, _RIGHT, _TOP, "limit")]
    parts.append(label(_RIGHT, _TOP - 4, "never", "t small", "end"))
    for number in range(int(top_s / step_s) + 1):
        at = y(number * step_s)
        parts.append(line(_LEFT, at, _RIGHT, at, "grid"))
        parts.append(label(_LEFT - 8, at + 4, f"{number * step_s:g} s", "t small", "end"))
    for point in points:
        at, (low, high) = x(point.value), point.delay_interval_s
        parts.append(label(at, _BOTTOM + 18, f"{point.value:g}", "t small", "middle"))
        parts.append(line(at, y(low), at, y(high), "curve"))
        tip = f"{parameter} = {point.value:g}: median delay {point.delay()}"
        parts.append(element("circle", tip=tip, cx=at, cy=y(point.median_delay_s), r=4.0, class_="curve"))
    reached = [(x(p.value), y(p.median_delay_s)) for p in points if p.median_delay_s is not None]
    if len(reached) > 1:
        parts.append(polyline(reached, "curve"))
    parts.append(label((_LEFT + _RIGHT) / 2, HEIGHT - 8, parameter, "t", "middle"))
    return figure(WIDTH, HEIGHT, "".join(parts), f"median delay against {parameter}")


def roc_plot(point: CurvePoint, parameter: str) -> str:
    """Draw the ROC curve of one size, with the point at the thresholds that are shipped."""
    left, right, top, bottom = 46.0, ROC_SIDE - 8, 22.0, ROC_SIDE - 32

    def x(share: float) -> float:
        return left + (right - left) * share

    def y(share: float) -> float:
        return bottom - (bottom - top) * share

    parts = [line(x(0), y(0), x(1), y(1), "base")]
    for share in (0.0, 0.5, 1.0):
        parts.append(line(left, y(share), right, y(share), "grid"))
        parts.append(label(left - 6, y(share) + 4, f"{100 * share:g} %", "t small", "end"))
        parts.append(label(x(share), bottom + 16, f"{100 * share:g} %", "t small", "end" if share == 1.0 else "middle"))
    places: list[tuple[float, float]] = []
    for p in point.roc:
        at = x(p.false / max(p.clean, 1)), y(p.true / max(p.attacked, 1))
        places += [(at[0], places[-1][1]), at] if places else [at]
    parts.append(polyline(places, "curve"))
    shipped = [p for p in point.roc if p.threshold > 1.0][-1:]  # an anomaly is a share above one
    for p in shipped:
        tip = f"at the shipped thresholds: {p.true} of {p.attacked} attacked, {p.false} of {p.clean} clean"
        cx, cy = x(p.false / max(p.clean, 1)), y(p.true / max(p.attacked, 1))
        parts.append(element("circle", tip=tip, cx=cx, cy=cy, r=4.5, class_="marker"))
    low, high = point.area_interval
    words = f"{parameter} = {point.value:g}: area {point.area:.2f} ({low:.2f} to {high:.2f})"
    parts.append(label(left, 12, words, "t small"))
    return figure(ROC_SIDE, ROC_SIDE, "".join(parts), f"ROC, {words}")


def curve_sections(title: str, parameter: str, points: Sequence[CurvePoint]) -> str:
    """Return the sections of one curve: detection, delay, ROC, and the numbers behind them."""
    rows = "".join(
        f"<tr><td>{p.value:g}</td><td>{p.detected} of {p.runs}{_share(p.detected_interval)}</td>"
        f"<td>{p.named} of {p.runs}{_share(p.named_interval)}</td><td>{text(p.delay())}</td>"
        f"<td>{p.area:.3f} ({p.area_interval[0]:.2f} to {p.area_interval[1]:.2f})</td></tr>"
        for p in points
    )
    roc = "".join(f'<div class="card mini">{roc_plot(p, parameter)}</div>' for p in points)
    return (
        f"<section><h2>{text(title)}: detected, and the right sensor named (thicker)</h2>"
        f'<p class="lead">Bars: 95 % interval (Wilson).</p>{detection_plot(points, parameter)}</section>'
        '<section><h2>Median delay</h2><p class="lead">Over all runs; one that was missed waits for ever. Bars: 95 % '
        f"interval by order statistics.</p>{delay_plot(points, parameter)}</section>"
        '<section><h2>ROC</h2><p class="lead">Each run gives two peaks of the attacked sensor&#x27;s checks, over '
        "their thresholds: under attack, and in clean time of the same length before it. Marked: the shipped "
        f'thresholds.</p><div class="multiples">{roc}</div></section>'
        f"<section><h2>Numbers</h2><table><thead><tr><th>{text(parameter)}</th><th>detected</th><th>named</th>"
        f"<th>median delay</th><th>area under ROC</th></tr></thead><tbody>{rows}</tbody></table></section>"
    )


def _share(interval: tuple[float, float]) -> str:
    return f"<small>{100 * interval[0]:.0f} to {100 * interval[1]:.0f} %</small>"


def render_curves(title: str, curves: Sequence[tuple[str, str, Sequence[CurvePoint]]], command: str) -> str:
    """Return one self-contained page of (title, parameter, points) each, and the command that repeats it."""
    sections = "".join(curve_sections(*curve) for curve in curves)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{text(title)}</title><style>{STYLE}</style></head>\n<body><main>"
        f'<header><p class="brand"><b>EdgeGuard</b> {text(title)}</p></header>'
        f"{sections}<section><p><code>{text(command)}</code></p></section></main></body></html>\n"
    )
