"""The report's drawings over time: timeline and checks. Colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from edgeguard.report.model import CheckSeries, Report
from edgeguard.report.svg import element, figure, label, line, nice_step, number, polyline, rect, thin_out

WIDE = 1120.0
GUTTER = 96.0  # lane names
LANE = 30.0
# Strictness is shown by height as well as by colour, for print and for the colour-blind.
HEIGHTS = {"PASS": 8, "DEGRADE": 14, "HOLD": 20, "STOP": 26, "TRUSTED": 8, "SUSPECT": 15, "REJECTED": 22}
MAX_POINTS = 500  # per curve: more than the pixels it is drawn on
RATIO_LOW, RATIO_HIGH = 0.05, 20.0  # a decade and a third to either side of the threshold


def timeline(report: Report) -> str:
    """Attacks, verdict and trust per sensor over one time axis."""
    lanes = ["verdict", *[lane.sensor for lane in report.trust]]
    top = 34.0 if report.attacks else 8.0
    bottom = top + LANE * len(lanes)
    height = bottom + 26.0
    span_s = max(report.duration_s, 1e-6)

    def x(time_s: float) -> float:
        return GUTTER + (WIDE - GUTTER - 14.0) * min(max(time_s / span_s, 0.0), 1.0)

    parts = [_time_axis(x, span_s, top, bottom)]
    for row, attack in enumerate(report.attacks):
        tip = f"{attack.attack} on {attack.sensor} ({attack.size}), {attack.start_s:.1f} to {attack.end_s:.1f} s"
        left, width = x(attack.start_s), x(attack.end_s) - x(attack.start_s)
        parts.append(rect(left, top - 4, width, bottom - top + 8, "band", tip))
        parts.append(rect(left, top - 7, width, 3, "bandtop"))
        later = [x(other.start_s) for other in report.attacks[row + 1 :]]
        room = min([*later, WIDE]) - left - 10  # a name may run on to where the next one begins
        fits = max(3, int(room / 6.4))
        name = attack.attack if len(attack.attack) <= fits else attack.attack[: fits - 1] + "…"
        parts.append(label(left + 1, top - 12, name if fits > 6 else f"{row + 1}", "t attack"))
    for row, lane in enumerate(lanes):
        middle = top + LANE * (row + 0.5)
        parts.append(line(GUTTER, middle, WIDE - 14, middle, "base"))
        parts.append(label(GUTTER - 12, middle + 4, _short(lane), "t strong" if row == 0 else "t", "end"))
        spans = report.verdicts if row == 0 else report.trust[row - 1].spans
        for span in spans:
            size = HEIGHTS.get(span.state, 4)
            why = f": {span.reason}" if span.reason else ""
            tip = f"{lane} {span.state}, {span.start_s:.1f} to {span.end_s:.1f} s{why}"
            width = x(span.end_s) - x(span.start_s)
            parts.append(rect(x(span.start_s), middle - size / 2, width, size, f"s-{span.state.lower()}", tip, 2))
            if size > 12 and width > 8.2 * len(span.state):
                parts.append(label(x(span.start_s) + 6, middle + 3.6, span.state, "t inbar"))
    for attack in report.attacks:
        if attack.delay_s is not None and attack.sensor in lanes:
            at, middle = x(attack.start_s + attack.delay_s), top + LANE * (lanes.index(attack.sensor) + 0.5)
            tip = f"{attack.sensor} blamed {attack.delay_s:.1f} s after {attack.attack} began"
            parts.append(element("path", tip=tip, d=f"M{number(at)} {number(middle - 11)}l-5 -7h10z", class_="marker"))
    return figure(WIDE, height, "".join(parts), "verdict and trust per sensor over time")


def check_plot(series: CheckSeries, report: Report, *, width: float = 352.0, height: float = 118.0) -> str:
    """Statistic over threshold on a logarithmic scale; the threshold is the line at 1, above it is red."""
    left, right, top, bottom = 30.0, width - 6.0, 8.0, height - 20.0
    span_s = max(report.duration_s, 1e-6)

    def x(time_s: float) -> float:
        return left + (right - left) * min(max(time_s / span_s, 0.0), 1.0)

    def y(ratio: float) -> float:
        clipped = min(max(ratio, RATIO_LOW), RATIO_HIGH)
        share = math.log(clipped / RATIO_LOW) / math.log(RATIO_HIGH / RATIO_LOW)
        return bottom - (bottom - top) * share

    parts = [rect(left, top, right - left, y(1.0) - top, "above")]
    for attack in report.attacks:
        hit = "band own" if attack.sensor in series.sensors else "band"
        tip = f"{attack.attack} on {attack.sensor}"
        parts.append(rect(x(attack.start_s), top, x(attack.end_s) - x(attack.start_s), bottom - top, hit, tip))
    for mark, name in ((0.1, "0.1"), (1.0, "1"), (10.0, "10")):
        parts.append(line(left, y(mark), right, y(mark), "limit" if mark == 1.0 else "grid"))
        parts.append(label(left - 5, y(mark) + 3.5, name, "t small", "end"))
    step_s = nice_step(span_s, 4)
    ticks_s = [index * step_s for index in range(int(span_s / step_s) + 1)]
    parts.extend(
        label(x(at_s), height - 6, f"{at_s:g} s", "t small", "end" if x(at_s) > right - 12 else "middle")
        for at_s in ticks_s
    )
    for run in _runs(series):
        points = [(x(t), y(r)) for t, r in run]
        parts.append(polyline(points, "curve"))
        parts.extend(polyline([(x(t), y(r)) for t, r in hot], "curve hot") for hot in _hot_runs(run))
    parts.extend(
        rect(x(a), bottom + 1.5, x(b) - x(a), 3, "blind", f"blind {a:.1f} to {b:.1f} s") for a, b in _blind(series)
    )
    return figure(width, height, "".join(parts), f"check {series.check}: statistic over threshold")


def _time_axis(x: Callable[[float], float], span_s: float, top: float, bottom: float) -> str:
    step_s = nice_step(span_s, 10)
    parts = []
    for index in range(int(span_s / step_s + 1e-9) + 1):
        at = x(index * step_s)
        parts.append(line(at, top - 4, at, bottom + 4, "grid"))
        anchor = "end" if at > WIDE - 26 else "middle"
        parts.append(label(at, bottom + 19, f"{index * step_s:g} s", "t small", anchor))
    return "".join(parts)


def _runs(series: CheckSeries) -> list[list[tuple[float, float]]]:
    """Stretches in which the check could see, thinned for drawing."""
    runs: list[list[tuple[float, float]]] = [[]]
    for index in thin_out(series.ratio, MAX_POINTS):
        ratio = series.ratio[index]
        if ratio is None:
            runs.append([])
        else:
            runs[-1].append((series.time_s[index], ratio))
    return [run if len(run) > 1 else run * 2 for run in runs if run]


def _hot_runs(run: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """The parts of a curve above 1, cut where it crosses (in the logarithm, as it is drawn)."""
    parts: list[list[tuple[float, float]]] = []
    before: tuple[float, float] | None = None
    for point in run:
        if before is not None and (before[1] > 1) != (point[1] > 1):
            low, high = (math.log(min(max(p[1], RATIO_LOW), RATIO_HIGH)) for p in (before, point))
            share = low / (low - high) if low != high else 0.5
            crossing = (before[0] + (point[0] - before[0]) * share, 1.0)
            if point[1] > 1:
                parts.append([crossing])
            else:
                parts[-1].append(crossing)
        elif point[1] > 1 and before is None:
            parts.append([])
        if point[1] > 1:
            parts[-1].append(point)
        before = point
    return parts


def _blind(series: CheckSeries) -> list[tuple[float, float]]:
    """Stretches in which the check could not see."""
    spans: list[tuple[float, float]] = []
    inside = False
    for index, ratio in enumerate(series.ratio):
        now_s = series.time_s[index]
        until_s = series.time_s[min(index + 1, len(series.time_s) - 1)]
        if ratio is None:
            spans[-1:] = [(spans[-1][0], until_s)] if inside else [*spans[-1:], (now_s, until_s)]
        inside = ratio is None
    return spans


def _short(name: str) -> str:
    return name if len(name) <= 13 else name[:12] + "…"
