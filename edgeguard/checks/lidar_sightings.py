"""What the surface of a suspect says for and against its being solid.

Terms are log-likelihood ratios, ghost against solid body, each clipped so that one odd measurement decides nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.lidar_evidence import LidarFrame
from edgeguard.kernels.ranges import COLUMNS
from edgeguard.kernels.regions import count_behind

JITTER_SD_M = 0.86  # sqrt(6) * 0.35: second difference of the measured injection jitter
GENUINE_SD_M = 0.18  # 10 m/s^2 over 0.1 s, and 6 cm of what changing visibility does to a median range
ROUGH_GENUINE_M, ROUGH_GENUINE_LN = 0.02, 0.6  # painted, glazed and clothed surfaces measure 0.01 to 0.03
ROUGH_GHOST_M, ROUGH_GHOST_LN = 0.10, 0.35  # Sato et al., NDSS 2024: of injected points
ROUGH_NEUTRAL_M = 0.2  # foliage and nets: rougher than either model, so the term abstains
MAX_ROUGH_LLR = 4.5  # of all sweeps together: one surface is one reason
MIN_TRIPLES = 12
NEIGHBOUR_AZ_DEG, NEIGHBOUR_EL_DEG = 1.2, 0.7  # angles between beams of 16 to 128 rings that follow each other
OPAQUE_PENETRATION = 0.7  # genuine clusters: 95 % below 0.57 (KITTI)


def roughness(points: NDArray[np.float32], range_m: NDArray[np.float32]) -> float:
    """Range noise sigma in metres from second differences of neighbouring beams; NaN with too few of them.

    points: (N, 3) float32, range_m: (N,). Neighbours are consecutive in the cloud's order and within the angles that
    neighbours have, so that clouds in ring order and in firing order both work and shuffled clouds abstain.
    """
    az = np.arctan2(points[:, 1], points[:, 0])
    el = points[:, 2] / np.maximum(range_m, 1e-3)  # the sine: all that is asked is whether it hardly changes
    step = (np.abs(np.diff(az)) < np.radians(NEIGHBOUR_AZ_DEG)) & (np.abs(np.diff(el)) < np.radians(NEIGHBOUR_EL_DEG))
    second = np.abs(range_m[2:] - 2.0 * range_m[1:-1] + range_m[:-2])[step[:-1] & step[1:]]
    if second.size < MIN_TRIPLES:
        return float("nan")
    return float(np.partition(second, second.size // 2)[second.size // 2] / (0.6745 * np.sqrt(6.0)))


def penetration(frame: LidarFrame, members: NDArray[np.integer]) -> float:
    """Share of the returns within a cluster's inner angular box that come from well behind it."""
    row, col = frame.row[members].astype(np.int64), frame.col[members].astype(np.int64)
    shift = int(col[0]) - COLUMNS // 2
    col = (col - shift) % COLUMNS  # away from the seam
    low, high = members.size // 10, members.size - 1 - members.size // 10
    row.sort()
    col.sort()
    window = np.array((row[low], row[high], col[low], col[high]), dtype=np.float64)
    beyond_m = float(frame.range_m[members].max() + 1.0)
    inside, behind = count_behind(frame.row, frame.col, frame.range_m, shift, COLUMNS, window, beyond_m)
    return float(behind / max(inside, 1))


def roughness_llr(sigma_m: float) -> float:
    """Log-likelihood ratio, ghost against solid surface, of a range noise between neighbouring beams."""
    if not sigma_m <= ROUGH_NEUTRAL_M:
        return 0.0
    value = np.log(max(sigma_m, 1e-3))
    ghost = -0.5 * ((value - np.log(ROUGH_GHOST_M)) / ROUGH_GHOST_LN) ** 2 - np.log(ROUGH_GHOST_LN)
    solid = -0.5 * ((value - np.log(ROUGH_GENUINE_M)) / ROUGH_GENUINE_LN) ** 2 - np.log(ROUGH_GENUINE_LN)
    return float(np.clip(ghost - solid, -2.5, 3.0))


def penetration_llr(share: float) -> float:
    """Log-likelihood ratio of the returns that come through a body: solid ones let few pass, sparse ghosts most."""
    return 2.0 * max(0.0, share - OPAQUE_PENETRATION) / (1.0 - OPAQUE_PENETRATION)


def jitter_llr(second_difference_m: float) -> float:
    """Log-likelihood ratio of one second difference of range."""
    q = second_difference_m**2
    llr = np.log(GENUINE_SD_M / JITTER_SD_M) + 0.5 * q * (1.0 / GENUINE_SD_M**2 - 1.0 / JITTER_SD_M**2)
    return float(np.clip(0.8 * llr, -1.2, 2.0))
