"""Which rays of a grid can meet which primitive: the caster's culling, for a pinhole grid and a spinning one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeguard.sim.primitives import HALF_WIDTH, Z0, Z1, X, Y, corners, half_length

_NEAR_M = 0.3  # solids are cut here before they are projected
_EDGES = np.array([(0, 1), (2, 3), (4, 5), (6, 7), (0, 2), (1, 3), (4, 6), (5, 7), (0, 4), (1, 5), (2, 6), (3, 7)])


def pinhole_windows(
    points: NDArray[np.float64], focal: float, cx: float, cy: float, size: tuple[int, int]
) -> NDArray[np.int64]:
    """Return (M, 5) windows of convex point sets in a pinhole image.

    points: (N, 8, 3), corners of boxes in the camera's place with x forward. size: (width, height).
    """
    width, height = size
    first, second = points[:, _EDGES[:, 0]], points[:, _EDGES[:, 1]]
    span = second[..., 0] - first[..., 0]
    crosses = (first[..., 0] - _NEAR_M) * (second[..., 0] - _NEAR_M) < 0
    share = np.where(crosses, (_NEAR_M - first[..., 0]) / np.where(crosses, span, 1.0), 0.0)
    cut = first + share[..., None] * (second - first)
    every = np.concatenate([points, cut], axis=1)
    valid = np.concatenate([points[..., 0] >= _NEAR_M, crosses], axis=1)
    depth = np.where(valid, every[..., 0], 1.0)
    u = cx - focal * every[..., 1] / depth
    v = cy - focal * every[..., 2] / depth
    low_u, high_u = np.where(valid, u, np.inf).min(axis=1), np.where(valid, u, -np.inf).max(axis=1)
    low_v, high_v = np.where(valid, v, np.inf).min(axis=1), np.where(valid, v, -np.inf).max(axis=1)
    seen = valid.any(axis=1) & (low_u < width) & (high_u >= 0) & (low_v < height) & (high_v >= 0)
    index = np.flatnonzero(seen)
    out = np.empty((len(index), 5), dtype=np.int64)
    out[:, 0] = index
    out[:, 1] = np.clip(np.floor(low_v[index]), 0, height)
    out[:, 2] = np.clip(np.ceil(high_v[index]) + 1, 0, height)
    out[:, 3] = np.clip(np.floor(low_u[index]), 0, width)
    out[:, 4] = np.clip(np.ceil(high_u[index]) + 1, 0, width)
    return out


def spinning_windows(
    values: NDArray[np.float64], elevations_rad: NDArray[np.float64], columns: int
) -> NDArray[np.int64]:
    """Return (M, 5) windows of primitives in a grid of rings (elevations falling) by azimuths.

    Column c looks along azimuth pi - 2*pi*c/columns: clockwise from the back, as a KITTI sweep is stored.
    """
    points = corners(values)
    base = points[:, ::2, :2]
    centre = np.arctan2(values[:, Y], values[:, X])
    offset = np.angle(np.exp(1j * (np.arctan2(base[..., 1], base[..., 0]) - centre[:, None])))
    low, high = centre + offset.min(axis=1), centre + offset.max(axis=1)
    far = np.hypot(base[..., 0], base[..., 1]).max(axis=1)
    near = plan_distance(values)
    inside = near < 1e-6
    low, high = np.where(inside, -np.pi, low), np.where(inside, np.pi, high)
    near = np.maximum(near, 0.05)
    top = np.maximum(np.arctan2(values[:, Z1], near), np.arctan2(values[:, Z1], far))
    bottom = np.minimum(np.arctan2(values[:, Z0], near), np.arctan2(values[:, Z0], far))
    first_row = np.searchsorted(-elevations_rad, -top, side="left")
    end_row = np.searchsorted(-elevations_rad, -bottom, side="right")
    step = 2 * np.pi / columns
    first = np.floor((np.pi - high) / step).astype(np.int64)
    end = np.ceil((np.pi - low) / step).astype(np.int64) + 1
    rows = []
    for index in np.flatnonzero(end_row > first_row):
        a, b = int(first[index]), min(int(end[index]), int(first[index]) + columns)
        shift = (a // columns) * columns  # a window may hang over either end of the sweep
        a, b = a - shift, b - shift
        rows.append((index, first_row[index], end_row[index], a, min(b, columns)))
        if b > columns:
            rows.append((index, first_row[index], end_row[index], 0, b - columns))
    return np.asarray(rows, dtype=np.int64).reshape(-1, 5)


def plan_distance(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance in plan from the origin to each primitive's footprint; 0 inside it."""
    c, s = values[:, 6], values[:, 7]
    along = np.abs(c * values[:, X] + s * values[:, Y]) - half_length(values)
    across = np.abs(c * values[:, Y] - s * values[:, X]) - values[:, HALF_WIDTH]
    return np.asarray(np.hypot(np.maximum(along, 0.0), np.maximum(across, 0.0)))


def front_to_back(
    windows: NDArray[np.int64], codes: NDArray[np.int64], nearest: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return labelled objects' windows in their order, then scenery from near to far.

    An object's rows must stay together (the caster counts its pixels in one go); scenery may be sorted, so that
    what is hidden is skipped by its lower bound of distance.
    """
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
