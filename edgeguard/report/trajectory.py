"""The trajectory drawing: fused path against raw fixes, equal aspect, and a closer look at where they part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from edgeguard.report.svg import element, figure, label, line, nice_step, polyline, rect
from edgeguard.report.track import FixPoint, Track, TrackPoint

P = TypeVar("P")

WIDTH, HEIGHT = 620.0, 430.0
FOOT = 26.0  # scale bar and legend
MARGIN = 30.0
INSET_WIDTH, INSET_HEIGHT = 220.0, 236.0
INSET_GAIN = 1.5  # the closer look is worth its place only if it magnifies
MAX_PLACES = 1500  # more than the pixels they are drawn on


@dataclass(frozen=True, slots=True)
class Window:
    """Maps metres to pixels inside a box, the same scale both ways, north up."""

    left: float
    top: float
    width: float
    height: float
    centre_east_m: float
    centre_north_m: float
    scale: float  # pixels per metre

    @classmethod
    def around(
        cls, places: Sequence[tuple[float, float]], box: tuple[float, float, float, float], margin: float
    ) -> Window:
        """Fit `places` (east_m, north_m) into box (left, top, width, height) pixels."""
        left, top, width, height = box
        west, east = min(p[0] for p in places), max(p[0] for p in places)
        south, north = min(p[1] for p in places), max(p[1] for p in places)
        scale = min((width - 2 * margin) / max(east - west, 1.0), (height - 2 * margin) / max(north - south, 1.0))
        return cls(left, top, width, height, (east + west) / 2, (north + south) / 2, scale)

    def at(self, place: TrackPoint | FixPoint) -> tuple[float, float]:
        return (
            self.left + self.width / 2 + (place.east_m - self.centre_east_m) * self.scale,
            self.top + self.height / 2 - (place.north_m - self.centre_north_m) * self.scale,
        )


def trajectory(track: Track) -> str:
    """Draw the track; fixes are red while the receiver was not trusted."""
    places = [(p.east_m, p.north_m) for part in track.fused for p in part]
    places += [(f.east_m, f.north_m) for f in track.fixes]
    whole = Window.around(places, (0.0, 0.0, WIDTH, HEIGHT - FOOT), MARGIN)
    parts = [_grid(whole.scale), _marks(track, whole, 1.0)]
    if track.fused:
        for place, class_, tip in ((track.fused[0][0], "start", "start"), (track.fused[-1][-1], "end", "end")):
            x, y = whole.at(place)
            parts.append(element("circle", tip=tip, cx=x, cy=y, r=5.0, class_=class_))
    parts.append(_closer_look(track, whole))
    # A step may be 2.5 times what is wanted; the legend begins half way.
    parts.append(_scale_bar(whole.scale, 12.0, HEIGHT - 9, 90.0) + _legend())
    return figure(WIDTH, HEIGHT, "".join(parts), "fused path and raw satellite fixes")


def _marks(track: Track, window: Window, size: float) -> str:
    """Trusted fixes below the path, fixes that were not trusted above it."""
    fixes = _every(track.fixes, MAX_PLACES)
    parts = [_fix(fix, window, size) for fix in fixes if fix.trusted]
    for part in track.fused:
        points = [window.at(p) for p in _every(part, MAX_PLACES)]
        parts += [polyline(points, "casing"), polyline(points, "path")]
    parts += [_fix(fix, window, size) for fix in fixes if not fix.trusted]
    return "".join(parts)


def _fix(fix: FixPoint, window: Window, size: float) -> str:
    x, y = window.at(fix)
    tip = f"raw fix at {fix.time_s:.1f} s, receiver {'trusted' if fix.trusted else 'not trusted'}"
    radius, class_ = (2.4, "fix") if fix.trusted else (2.8, "fix bad")
    return element("circle", tip=tip, cx=x, cy=y, r=radius * size, class_=class_)


def _closer_look(track: Track, whole: Window) -> str:
    """An inset around the fixes that were not trusted and the path of that time; empty if it would not help."""
    bad_s = [f.time_s for f in track.fixes if not f.trusted]
    if not bad_s or not track.fused:
        return ""
    first_s, last_s = min(bad_s), max(bad_s)
    near = Track(
        tuple(p for part in track.fused if (p := tuple(q for q in part if first_s - 1 <= q.time_s <= last_s + 1))),
        tuple(f for f in track.fixes if first_s - 1 <= f.time_s <= last_s + 1),
    )
    drawn = [whole.at(p) for part in track.fused for p in part] + [whole.at(f) for f in track.fixes]
    corner = _emptiest_corner(drawn)
    box = (*corner, INSET_WIDTH, INSET_HEIGHT)
    inset = Window.around(
        [(p.east_m, p.north_m) for part in near.fused for p in part] + [(f.east_m, f.north_m) for f in near.fixes],
        box,
        18.0,
    )
    if inset.scale < INSET_GAIN * whole.scale:
        return ""
    frame = rect(*box, "inset", rx=8)
    parts = [
        frame,
        _marks(near, inset, 1.0),
        _scale_bar(inset.scale, corner[0] + 10, corner[1] + INSET_HEIGHT - 11, 40.0),
    ]
    title = f"{first_s:.0f} to {last_s:.0f} s, {inset.scale / whole.scale:.1f}×"
    return "".join(parts) + label(corner[0] + 10, corner[1] + 17, title, "t small")


def _emptiest_corner(drawn: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Left and top of the corner box that covers the fewest drawn points."""
    gap = 6.0
    lefts, tops = (gap, WIDTH - INSET_WIDTH - gap), (gap, HEIGHT - FOOT - INSET_HEIGHT - gap)
    corners = [(left, top) for top in tops for left in lefts]

    def covered(corner: tuple[float, float]) -> int:
        left, top = corner
        return sum(left <= x <= left + INSET_WIDTH and top <= y <= top + INSET_HEIGHT for x, y in drawn)

    return min(corners, key=covered)


def _grid(scale: float) -> str:
    step = nice_step(WIDTH / scale, 8) * scale
    lines = [line(i * step, 0, i * step, HEIGHT - FOOT, "grid") for i in range(1, int(WIDTH / step) + 1)]
    lines += [line(0, i * step, WIDTH, i * step, "grid") for i in range(1, int((HEIGHT - FOOT) / step) + 1)]
    return "".join(lines)


def _scale_bar(scale: float, left: float, y: float, wanted_px: float) -> str:
    length_m = nice_step(wanted_px / scale, 1)
    right = left + length_m * scale
    name = f"{length_m / 1000:g} km" if length_m >= 1000 else f"{length_m:g} m"
    ends = line(left, y - 4, left, y + 4, "bar") + line(right, y - 4, right, y + 4, "bar")
    return line(left, y, right, y, "bar") + ends + label(right + 8, y + 4, name, "t small")


def _legend() -> str:
    y = HEIGHT - 9
    return "".join((
        line(WIDTH - 318, y, WIDTH - 296, y, "path"), label(WIDTH - 290, y + 4, "fused path", "t"),
        element("circle", cx=WIDTH - 208, cy=y, r=2.6, class_="fix"), label(WIDTH - 200, y + 4, "raw fix", "t"),
        element("circle", cx=WIDTH - 136, cy=y, r=3.6, class_="fix bad"),
        label(WIDTH - 128, y + 4, "fix not trusted", "t"),
    ))  # fmt: skip


def _every(values: Sequence[P], limit: int) -> Sequence[P]:
    """At most `limit` values, evenly taken, with the last one."""
    if len(values) <= limit:
        return values
    step = math.ceil(len(values) / limit)
    return [*values[::step], values[-1]]
