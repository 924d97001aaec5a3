"""Finds what falls: snow, rain and spray in a sweep, by the neighbours that scattered returns do not have.

A flake is millimetres wide and beams are centimetres apart, so that no two of its neighbours meet the same one: flakes
are independent of each other, surfaces are not. Around each return, the others near its range are counted over two
beams and three firings to either side. Independent scatter whose density varies from place to place as an exponential
puts k or more of its returns there with probability (m / (1 + m))^k, where m is what it puts there on average; what has
more neighbours than one in fifty of such returns would have is a surface.

    what it may ever touch   nearer than a flake can be heard, and dimmer than a flake that fills a part of the beam
    what it never touches    a return with `most_asked` others in its window, whatever else is in the sweep
    when it acts at all      when half of all directions have lone returns: snow is everywhere, foliage is not

Density is estimated per metre of range from returns without any neighbour, without the quarter of the directions that
has most of them. An attacker who adds scatter raises the number of neighbours that is asked for, up to the bound.

Papers: neighbours in the range image instead of a tree follow Charron et al., "De-noising of Lidar Point Clouds
Corrupted by Snowfall" (CRV 2018) in letting the radius grow with range, and Park et al., "Fast and Accurate Desnowing
Algorithm for LiDAR Point Clouds" (IEEE Access 2020) in asking for dimness.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels.scatter import COLUMNS, SweepImage, count_neighbours, image_of
from edgeguard.types import PointCloud

# The largest flakes, 10 mm across (aggregates of wet snow), in a narrow beam (2 mrad, 10 mm at the window) of a lidar
# that hears 10 % of reflectance at 55 m are heard to 28 m: r^4 = 0.9 (10 mm / 2 mrad)^2 (55 m)^2 / 0.1.
REACH_M = 30.0
FLAKE_MM, BEAM_MM, BEAM_MRAD = 10.0, 10.0, 2.0
FLAKE_REFLECTANCE = 0.9
SCALE_ERROR = 2.0  # sensors differ by that much in what they call a reflectance
ROWS, FIRINGS = 2, 3
NOISE_M = 0.1  # between two returns of one surface: 2.5 standard deviations of a sensor of 3 cm
SLOPE = 0.02  # of the range, over three firings of 0.2 deg: a surface seen at 60 deg from its normal
MOST_NEIGHBOURS = 2  # that may ever be asked for far off: a pole one beam wide has four, or two after losing half
MOST_NEAR = 8  # and close by, where a thin thing fills many beams
ROD_M = 0.05  # half of the neighbours that an upright rod of this width has are always enough
ALPHA = 0.02  # share of the scatter that is lost to chance neighbours
MOST_SEEN = 0.75  # lone returns per window, beyond which a density cannot be told from them
MIN_SHARE = 0.005  # of lone returns in the middle direction: below a tenth of a millimetre of water an hour

SECTORS = 24
SECTORS_USED = 18
# Snow is uneven: gusts, and more of it is told where the scene is dark. With a local density distributed as an
# exponential, the lowest three quarters have 0.54 of the mean, and a flake lies where twice the mean is.
UNEVEN = 2.0 / 0.54
BINS = int(REACH_M)  # of one metre


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Scattered returns of a sweep. indices: (M,) ascending. lone_share: of the middle direction's returns, the share
    that is dim, near and without neighbour; `indices` is empty where it is too small for snow."""

    indices: NDArray[np.intp]
    lone_share: float


def find_scatter(cloud: PointCloud, min_share: float = MIN_SHARE, reach_m: float = REACH_M) -> Found:
    """Find the returns of a sweep that are scatter in the air; none where the sweep shows no precipitation."""
    image = image_of(cloud.xyz, cloud.ring, reach_m * (1.0 + SLOPE) + NOISE_M)
    asked = may_be_flake(image.range_m, cloud.intensity, reach_m)
    firing = COLUMNS / max(image.beams, 1.0)  # columns from one firing to the next, where all come back
    window = (ROWS, int(np.clip(round(FIRINGS * firing), 2, 15)))
    margins = (NOISE_M, SLOPE, NOISE_M, SLOPE)
    support = count_neighbours(image, asked, window, margins, MOST_NEAR)
    lone = np.flatnonzero(support == 0)
    by_sector = _returns_by_sector(image)
    counted = _lone_by_sector(image, lone)
    share = counted.sum(axis=1) / np.maximum(by_sector, 1.0)
    middle = float(np.median(share[by_sector > 0])) if by_sector.any() else 0.0
    if middle < min_share or middle == 0.0:
        return Found(np.empty(0, np.intp), middle)
    beams = image.beams / COLUMNS * (2 * window[1] + 1) * (2 * ROWS + 1)
    enough = neighbours_asked(_density(counted, by_sector), beams, most_asked(2.0 * np.pi / max(image.beams, 1.0)))
    at = np.minimum(image.range_m, BINS - 1).astype(np.int64)
    return Found(np.flatnonzero((support >= 0) & (support < enough[at])), middle)


def may_be_flake(
    range_m: NDArray[np.float32], intensity: NDArray[np.float32], reach_m: float = REACH_M
) -> NDArray[np.bool_]:
    """Whether a flake could give such a return: (N,) bool of range in metres and intensity 0..1."""
    filled = np.float32(FLAKE_MM) / (np.float32(BEAM_MM) + np.float32(BEAM_MRAD) * range_m)
    brightest = np.float32(FLAKE_REFLECTANCE * SCALE_ERROR) * filled * filled
    return np.asarray((range_m <= reach_m) & (intensity <= np.minimum(brightest, np.float32(1.0))))


def most_asked(firing_rad: float) -> NDArray[np.int8]:
    """Neighbours that always make a surface, per metre of range: (BINS,) int8. firing_rad: from one firing to the next.

    Whatever else is in the sweep, a return with that many is never scatter.
    """
    rod = (2 * ROWS + 1) * ROD_M / ((np.arange(BINS) + 1.0) * firing_rad)
    return np.asarray(np.clip(np.floor(rod / 2.0), MOST_NEIGHBOURS, MOST_NEAR), dtype=np.int8)


def neighbours_asked(density: NDArray[np.float64], beams: float, most: NDArray[np.int8]) -> NDArray[np.int8]:
    """How many neighbours make a surface, per metre of range: (BINS,) int8, 1 to `most`.

    density: (BINS,) scattered returns per beam and metre. beams: in a window.
    """
    middle_m = np.arange(BINS) + 0.5
    room = beams * 2.0 * (NOISE_M + SLOPE * middle_m)
    seen = np.minimum(density * room, MOST_SEEN)
    expected = seen / (1.0 - seen)  # lone returns are those that chance spared, one in 1 + expected
    tail = expected / (1.0 + expected)
    needed = np.ceil(np.log(ALPHA) / np.log(np.maximum(tail, 1e-9)))
    return np.asarray(np.minimum(np.maximum(needed, 1), most), dtype=np.int8)


def _density(counted: NDArray[np.float64], by_sector: NDArray[np.float64]) -> NDArray[np.float64]:
    """(BINS,) lone returns per beam and metre around one of them, judged by the directions that have least."""
    rate = counted / np.maximum(by_sector, 1.0)[:, None]
    return np.asarray(UNEVEN * np.sort(rate, axis=0)[:SECTORS_USED].mean(axis=0))


def _returns_by_sector(image: SweepImage) -> NDArray[np.float64]:
    per_cell = np.diff(image.starts[:-1]).reshape(image.rows, SECTORS, -1)
    return np.asarray(per_cell.sum(axis=(0, 2)), dtype=np.float64)


def _lone_by_sector(image: SweepImage, lone: NDArray[np.intp]) -> NDArray[np.float64]:
    """(SECTORS, BINS) number of the returns `lone` per direction and metre."""
    sector = image.cell[lone] % COLUMNS // (COLUMNS // SECTORS)
    at = np.minimum(image.range_m[lone], BINS - 1).astype(np.int64)
    return np.bincount(sector * BINS + at, minlength=SECTORS * BINS).reshape(SECTORS, BINS).astype(np.float64)
