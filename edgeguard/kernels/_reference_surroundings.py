"""NumPy twins of what `ranges` says about the cells around a place, and of `sweeps.choose_near`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels import ranges

Float64 = NDArray[np.float64]


def look_around(image: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int8]]:
    """Twin of `ranges.look_around`: low, high, count."""
    padded = np.pad(image, ((1, 1), (0, 0)), constant_values=np.inf)
    padded = np.pad(padded, ((0, 0), (1, 1)), mode="wrap")
    rows, columns = image.shape
    around = np.stack([padded[k : k + rows, c : c + columns] for k in range(3) for c in range(3)])
    seen = np.isfinite(around)
    return around.min(axis=0), np.where(seen, around, 0).max(axis=0), seen.sum(axis=0).astype(np.int8)


def _cells(xyz: NDArray[np.float32], T: Float64, image: NDArray[np.float32]) -> list[tuple[float, Float64] | None]:
    """Range, and the returns of the nine cells around, of each place; None outside the image."""
    found: list[tuple[float, Float64] | None] = []
    for point in xyz.astype(np.float64):
        with np.errstate(all="ignore"):
            x, y, z = T[:3, :3] @ point + T[:3, 3]
            r = float(np.sqrt(x * x + y * y + z * z))
        k = -1
        if ranges.MIN_RANGE_M <= r <= ranges.MAX_RANGE_M:
            k = int(np.floor(np.arcsin(z / r) * ranges.EL_SCALE + ranges.EL_OFFSET))
        if not 0 <= k < ranges.ROWS:
            found.append(None)
            continue
        c = int((np.arctan2(y, x) + np.pi) * ranges.AZ_SCALE)
        rows = [k + d for d in (-1, 0, 1) if 0 <= k + d < ranges.ROWS]
        cells = image[np.ix_(rows, [(c + d) % ranges.COLUMNS for d in (-1, 0, 1)])].astype(np.float64)
        found.append((r, cells[np.isfinite(cells)]))
    return found


def find_seen_through(
    xyz: NDArray[np.float32], T: Float64, image: NDArray[np.float32], margin_m: float, margin_ratio: float
) -> NDArray[np.int32]:
    """Twin of `ranges.find_seen_through`; takes the range image itself."""
    found = [
        i
        for i, cell in enumerate(_cells(xyz, T, image))
        if cell is not None
        and cell[1].size >= ranges.MIN_SOLID_CELLS
        and cell[1].min() > cell[0] + margin_m + margin_ratio * cell[0]
    ]
    return np.array(found, dtype=np.int32)


def ask_surroundings(
    xyz: NDArray[np.float32],
    T: Float64,
    image: NDArray[np.float32],
    margin_m: float,
    margin_ratio: float,
    *,
    whole: bool = False,
) -> NDArray[np.int8]:
    """Twin of `ranges.ask_surroundings`; takes the range image itself."""
    status = np.full(xyz.shape[0], ranges.UNKNOWN, dtype=np.int8)
    for i, cell in enumerate(_cells(xyz, T, image)):
        if cell is None or cell[1].size == 0:
            continue
        r, seen = cell
        margin = margin_m + margin_ratio * r
        at = np.abs(seen - r) <= margin
        if (seen > r + margin).all():
            status[i] = ranges.SEEN_THROUGH if seen.size >= 2 else ranges.UNKNOWN
        elif at.all() if whole else at.any():
            status[i] = ranges.HIT
        else:
            status[i] = ranges.HIDDEN
    return status


def choose_near(
    xyz: NDArray[np.float32], a_m: tuple[float, float], b_m: tuple[float, float], reach_m: float
) -> NDArray[np.int32]:
    """Twin of `sweeps.choose_near`."""
    away = [((xyz[:, :2] - np.array(place, np.float32)) ** 2).sum(axis=1) for place in (a_m, b_m)]
    return np.flatnonzero(np.minimum(*away) < np.float32(reach_m * reach_m)).astype(np.int32)
