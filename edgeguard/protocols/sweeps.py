"""What the sweeps of different 3-D lidars have in common."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# xyz (N, 3) float32 metres in the sensor frame, intensity (N,) float32 0..1, ring (N,) int16, time offset (N,) int32
# nanoseconds.
Points = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int16], NDArray[np.int32]]


def range_summary(xyz: NDArray[np.float32], mark: str = "") -> dict[str, object]:
    """Return number of points and least, mean and greatest range in metres, rounded to micrometres."""
    row: dict[str, object] = {"points" + mark: len(xyz)}
    if len(xyz):
        r = np.linalg.norm(xyz.astype(np.float64), axis=1)
        row |= {
            f"range{mark}_min_m": round(float(r.min()), 6),
            f"range{mark}_mean_m": round(float(r.mean()), 6),
            f"range{mark}_max_m": round(float(r.max()), 6),
        }
    return row
