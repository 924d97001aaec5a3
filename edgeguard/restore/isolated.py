"""Removes lidar returns that stand alone in space: rain, dust, crosstalk, single spoofed points.

Space is cut into cells of equal angle and equal *relative* range, so that a cell grows with distance as the sensor's
own sampling does. A return is isolated when its cell holds no other and the 26 cells around it none at all.

Why an attacker cannot use this filter to delete a pedestrian:

- two returns in one neighbourhood protect each other; a body that gives two returns is never removed;
- adding points only adds neighbours, so nothing that was kept without the attacker's points is isolated with them;
- at most `max_removed_share` of the returns go, whatever the diagnosis says.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeguard.errors import ConfigError
from edgeguard.restore.cloud_cut import Cap, cut_within, without
from edgeguard.types import LIDAR, PointCloud, Restoration, Sample

CELL_DEG = 2.0  # the beam spacing of a 16-beam lidar; every denser one has neighbours well inside
CELL_LOG_RANGE = 0.1  # 10 % of the range: a surface seen at 60 deg changes less from one beam to the next
MIN_RANGE_M = 0.5
MAX_RANGE_M = 200.0
MIN_SHARE = 0.001  # ten times what clean sweeps of a 64-beam lidar on a street show
MAX_REMOVED_SHARE = 0.05

_COLUMNS = round(360.0 / CELL_DEG)
_ROWS = round(180.0 / CELL_DEG) + 1
_SHELLS = int(np.ceil(np.log(MAX_RANGE_M / MIN_RANGE_M) / CELL_LOG_RANGE)) + 1
_SHAPE = (_COLUMNS + 2, _ROWS + 2, _SHELLS + 2)  # one cell of margin all around: no index test in the loop
_NEIGHBOURS = tuple(
    (a * _SHAPE[1] + e) * _SHAPE[2] + r
    for a in (-1, 0, 1)
    for e in (-1, 0, 1)
    for r in (-1, 0, 1)
    if (a, e, r) != (0, 0, 0)
)


class IsolatedReturns:
    """Drops isolated returns, dimmest first, never more than `max_removed_share` of the sweep.

    A sweep with a smaller isolated share than `min_share` is returned as the same object.
    """

    name = "isolated-returns"
    sensor = LIDAR
    cost_ms_per_mpx = 60.0  # per million points

    def __init__(
        self, *, max_removed_share: float = MAX_REMOVED_SHARE, min_share: float = MIN_SHARE, sensor: str = LIDAR
    ) -> None:
        if not (0.0 <= max_removed_share <= 0.5 and 0.0 <= min_share <= 1.0):
            raise ConfigError("max_removed_share must lie in 0..0.5, min_share in 0..1", code="EG-C051")
        self.sensor = sensor
        self._max_removed_share = max_removed_share
        self._min_share = min_share

    def apply(self, sample: Sample, seed: int) -> tuple[Sample, Restoration]:  # noqa: ARG002 - nothing random here
        """Return the thinned cloud, or `sample` itself when there is nothing to remove. Other kinds pass through."""
        untouched = Restoration(self.name, self.sensor, 0.0)
        if not isinstance(sample, PointCloud) or len(sample.xyz) == 0:
            return sample, untouched
        total = len(sample.xyz)
        found = find_isolated(sample.xyz)
        if found.size < self._min_share * total:
            return sample, untouched
        removed = cut_within(sample, found, Cap(self._max_removed_share)).removed
        return without(sample, removed), Restoration(self.name, self.sensor, removed.size / total)


def find_isolated(xyz: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the indices of isolated returns, ascending. xyz: (N, 3) float32, metres, sensor frame.

    Points that are not finite count as lying in the sensor and are never isolated: judging them is the checks' part.
    """
    cells = _cells(xyz)
    counts = np.bincount(cells, minlength=_SHAPE[0] * _SHAPE[1] * _SHAPE[2])
    grid = counts.reshape(_SHAPE)
    grid[0], grid[-1] = grid[-2], grid[1]  # azimuth is a circle
    alone: NDArray[np.intp] = np.flatnonzero(counts[cells] == 1)
    around = np.zeros(alone.size, dtype=counts.dtype)
    for step in _NEIGHBOURS:
        around += counts[cells[alone] + step]
    isolated: NDArray[np.intp] = alone[around == 0]
    return isolated


def _cells(xyz: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return the flat cell index of each point, (N,) int32."""
    import cv2

    finite = xyz.copy()
    finite[~np.isfinite(xyz.sum(axis=1))] = 0.0  # a sum of three float32 is finite unless one of them is not
    x, y, z = (np.ascontiguousarray(finite[:, axis]) for axis in range(3))
    ground_m, azimuth_deg = (a.ravel() for a in cv2.cartToPolar(x, y, angleInDegrees=True))
    range_m, elevation_deg = (a.ravel() for a in cv2.cartToPolar(ground_m, z, angleInDegrees=True))
    elevation_deg = np.where(elevation_deg > 180.0, elevation_deg - 360.0, elevation_deg)
    column = np.minimum(azimuth_deg / CELL_DEG, _COLUMNS - 1).astype(np.int32) + 1
    row = ((elevation_deg + 90.0) / CELL_DEG).clip(0, _ROWS - 1).astype(np.int32) + 1
    clipped = np.clip(range_m, MIN_RANGE_M, MAX_RANGE_M) / np.float32(MIN_RANGE_M)
    shell = (np.log(clipped) / np.float32(CELL_LOG_RANGE)).astype(np.int32) + 1
    flat: NDArray[np.int32] = (column * _SHAPE[1] + row) * _SHAPE[2] + shell
    return flat
