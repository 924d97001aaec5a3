"""Which rays of a grid can meet which primitive: the caster's culling, for a pinhole grid and a spinning one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeguard.sim.kernels.bounds import spinning_bounds
from edgeguard.sim.primitives import corners


def to_pixels(bounds: NDArray[np.float64], focal: float, cx: float, cy: float) -> NDArray[np.float64]:
    """Turn (N, 4) bounds of y / x and z / x into lowest and highest column, lowest and highest row, in pixels."""
    out = np.empty_like(bounds)
    out[:, 0], out[:, 1] = cx - focal * bounds[:, 1], cx - focal * bounds[:, 0]
    out[:, 2], out[:, 3] = cy - focal * bounds[:, 3], cy - focal * bounds[:, 2]
    return out


def windows_of(pixels: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.int64]:
    """Return (M, 5) windows of those of (N, 4) bounds in pixels that meet the image: number, rows from, to, columns."""
    width, height = size
    seen = (pixels[:, 0] < width) & (pixels[:, 1] >= 0) & (pixels[:, 2] < height) & (pixels[:, 3] >= 0)
    index = np.flatnonzero(seen)
    out = np.empty((len(index), 5), dtype=np.int64)
    out[:, 0] = index
    out[:, 1] = np.clip(np.floor(pixels[index, 2]), 0, height)
    out[:, 2] = np.clip(np.ceil(pixels[index, 3]) + 1, 0, height)
    out[:, 3] = np.clip(np.floor(pixels[index, 0]), 0, width)
    out[:, 4] = np.clip(np.ceil(pixels[index, 1]) + 1, 0, width)
    return out


def spinning_windows(
    values: NDArray[np.float64],
    elevations_rad: NDArray[np.float64],
    columns: int,
    *,
    velocity: NDArray[np.float64] | None = None,
    motion: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
    period_s: float = 0.0,
    tilt_rad: float = 0.0,
    spread_rad: float = 0.0,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return (M, 5) windows of primitives in a grid of azimuths (lines) by rings (elevations falling), and distances.

    Line c looks along azimuth pi - 2*pi*c/columns: clockwise from the back, as a KITTI sweep is stored. `spread_rad`:
    by how much beams of one line differ in azimuth. Distances are (N,) lower bounds in plan; the rest as in
    `spinning_bounds`.
    """
    still = np.zeros((len(values), 2)) if velocity is None else velocity
    bounds = spinning_bounds(np.ascontiguousarray(values), still, np.array(motion), period_s, tilt_rad)
    first_ray = np.searchsorted(-elevations_rad, -bounds[:, 3], side="left")
    end_ray = np.searchsorted(-elevations_rad, -bounds[:, 2], side="right")
    step = 2 * np.pi / columns
    first = np.floor((np.pi - bounds[:, 1] - spread_rad) / step).astype(np.int64)
    end = np.minimum(np.ceil((np.pi - bounds[:, 0] + spread_rad) / step).astype(np.int64) + 1, first + columns)
    shift = (first // columns) * columns  # a window may hang over either end of the sweep
    first, end = first - shift, end - shift
    seen = end_ray > first_ray
    over = seen & (end > columns)
    index = np.concatenate([np.flatnonzero(seen), np.flatnonzero(over)])
    out = np.empty((len(index), 5), dtype=np.int64)
    out[:, 0], out[:, 3], out[:, 4] = index, first_ray[index], end_ray[index]
    out[:, 1] = np.concatenate([first[seen], np.zeros(int(over.sum()), dtype=np.int64)])
    out[:, 2] = np.concatenate([np.minimum(end[seen], columns), end[over] - columns])
    return out, np.ascontiguousarray(bounds[:, 4])


def front_to_back(
    windows: NDArray[np.int64], codes: NDArray[np.int64], nearest: NDArray[np.float64], *, counted: bool = True
) -> NDArray[np.int64]:
    """Return labelled objects' windows in their order, then scenery from near to far; or all from near to far.

    An object's rows must stay together where the caster counts its pixels; the rest may be sorted, so that what is
    hidden is skipped by its lower bound of distance.
    """
    if not counted:
        return np.ascontiguousarray(windows[np.argsort(nearest[windows[:, 0]], kind="stable")])
    labelled = codes[windows[:, 0], 2] >= 0
    scenery = windows[~labelled]
    scenery = scenery[np.argsort(nearest[scenery[:, 0]], kind="stable")]
    return np.ascontiguousarray(np.concatenate([windows[labelled], scenery]))


def shadow_corners(values: NDArray[np.float64], sun: NDArray[np.float64], height_m: float) -> NDArray[np.float64]:
    """Return (N, 8, 3) corners of the area on the ground that each primitive can shade; sun is a unit vector to it."""
    points = corners(values)
    above = points[..., 2] + height_m
    points[..., 0] -= above * sun[0] / sun[2]
    points[..., 1] -= above * sun[1] / sun[2]
    points[..., 2] = -height_m
    return points
