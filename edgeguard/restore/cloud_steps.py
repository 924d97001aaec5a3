"""Steps of a chain for point clouds: each finds returns that may go, and says how many at most.

No step moves or adds a return. What a step finds is taken out within its caps (`cloud_cut`), before the next one looks.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeguard.kernels.scatter import COLUMNS, count_neighbours, image_of, image_of_bands
from edgeguard.restore.cloud_cut import Cap
from edgeguard.restore.cloud_scatter import (
    FIRINGS,
    MIN_SHARE,
    NOISE_M,
    REACH_M,
    ROWS,
    SLOPE,
    find_scatter,
    may_be_flake,
)
from edgeguard.restore.isolated import find_isolated
from edgeguard.types import PointCloud

Indices = NDArray[np.intp]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
RemovedShare = Annotated[float, Meta(ge=0.0, le=0.5, description="of the sweep: a filter must not delete the world")]
RegionShare = Annotated[float, Meta(ge=0.0, le=0.8, description="of the returns of one direction of 10 deg")]
Metres = Annotated[float, Meta(gt=0.0, le=300.0)]

FARTHEST_M = 300.0


class _Step(msgspec.Struct, frozen=True, tag_field="op", forbid_unknown_fields=True):
    """What every step has. Where a cap of the sweep bites, the dimmest go; a direction over its cap loses nothing."""


class Snow(_Step, frozen=True, tag="snow"):
    """Snow, rain and spray: near, dim, and without the neighbours that a surface would have. See `cloud_scatter`."""

    min_share: Share = MIN_SHARE
    reach_m: Annotated[float, Meta(gt=0.0, le=REACH_M)] = REACH_M
    max_removed_share: RemovedShare = 0.4  # at 15 to 20 % of scatter a sweep is in the heaviest snow that was simulated
    max_region_share: RegionShare = 0.6

    def find(self, cloud: PointCloud) -> Indices:
        """Return the indices of what may go, ascending."""
        return find_scatter(cloud, self.min_share, self.reach_m).indices

    @property
    def cap(self) -> Cap:
        """The largest shares that may go."""
        return Cap(self.max_removed_share, self.max_region_share)


class Isolated(_Step, frozen=True, tag="isolated"):
    """Returns that stand alone in space, at any range and however bright: crosstalk, single spoofed points."""

    min_share: Share = 0.001
    max_removed_share: RemovedShare = 0.05
    max_region_share: RegionShare = 0.2

    def find(self, cloud: PointCloud) -> Indices:
        """Return the indices of what may go, ascending."""
        return _if_many(find_isolated(cloud.xyz), self.min_share, cloud)

    @property
    def cap(self) -> Cap:
        """The largest shares that may go."""
        return Cap(self.max_removed_share, self.max_region_share)


class Ghosts(_Step, frozen=True, tag="ghosts"):
    """Lone returns behind a closed surface: what a wet road or a window reflects appears behind it.

    Behind: nine in ten of the window's returns, and no fewer than `MIN_CLOSED`, are nearer by more than the margin. A
    picture of many returns in a mirror is no lone return: to find those is what checks are for.
    """

    min_share: Share = 0.001
    margin_m: Metres = 0.5
    max_removed_share: RemovedShare = 0.02
    max_region_share: RegionShare = 0.1

    def find(self, cloud: PointCloud) -> Indices:
        """Return the indices of what may go, ascending."""
        image = image_of(cloud.xyz, cloud.ring, FARTHEST_M)
        window = (ROWS, int(np.clip(round(FIRINGS * COLUMNS / max(image.beams, 1.0)), 2, 15)))
        everywhere = np.ones(len(cloud.xyz), np.bool_)
        lone = count_neighbours(image, everywhere, window, (NOISE_M, SLOPE, NOISE_M, SLOPE), 1) == 0
        around = count_neighbours(image, lone, window, (0.0, 1.0, FARTHEST_M, 0.0), 100)
        nearer = count_neighbours(image, lone, window, (0.0, 1.0, -self.margin_m, -SLOPE), 100)
        return _if_many(np.flatnonzero((nearer >= MIN_CLOSED) & (nearer >= 0.9 * around)), self.min_share, cloud)

    @property
    def cap(self) -> Cap:
        """The largest shares that may go."""
        return Cap(self.max_removed_share, self.max_region_share)


class DynamicRadius(_Step, frozen=True, tag="dynamic-radius"):
    """Too few others within a radius that grows with range (DROR: Charron et al., CRV 2018), dim ones only if `dim`.

    The radius is `factor` steps of the beam at that range, at least `least_m`; `angle_deg` is the sensor's step. With
    `dim`, returns that are brighter than a flake can be stay, as in LIOR (Park et al., IEEE Access 2020).
    """

    angle_deg: Annotated[float, Meta(gt=0.0, le=2.0)] = 0.2
    factor: Annotated[float, Meta(gt=0.0, le=10.0)] = 3.0
    least_m: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.04
    neighbours: Annotated[int, Meta(ge=1, le=50)] = 3
    reach_m: Metres = REACH_M
    dim: bool = True
    max_removed_share: RemovedShare = 0.3
    max_region_share: RegionShare = 0.6

    def find(self, cloud: PointCloud) -> Indices:
        """Return the indices of what may go, ascending."""
        from edgeguard.kernels.nearby import count_in_radius  # compiled code that few chains need

        image = image_of_bands(cloud.xyz, min(self.reach_m * 1.2, FARTHEST_M))
        asked = image.range_m <= self.reach_m
        if self.dim:
            asked &= may_be_flake(image.range_m, cloud.intensity, self.reach_m)
        slope = self.factor * np.deg2rad(self.angle_deg)
        count = count_in_radius(image, cloud.xyz, asked, (self.least_m, slope), self.neighbours)
        return np.flatnonzero((count >= 0) & (count < self.neighbours))

    @property
    def cap(self) -> Cap:
        """The largest shares that may go."""
        return Cap(self.max_removed_share, self.max_region_share)


class StatisticalOutlier(_Step, frozen=True, tag="statistical-outlier"):
    """Farther from their neighbours than most are (Rusu et al., Robotics and Autonomous Systems 56(11), 2008).

    The mean distance to the `neighbours` nearest, each at most `cap_m`, lies more than `sigmas` standard deviations
    above the mean of the sweep. Distances grow with range, so that it takes what is far rather than what is scatter.
    """

    neighbours: Annotated[int, Meta(ge=1, le=32)] = 10
    sigmas: Annotated[float, Meta(gt=0.0, le=20.0)] = 2.0
    cap_m: Annotated[float, Meta(gt=0.0, le=20.0)] = 5.0
    max_removed_share: RemovedShare = 0.1
    max_region_share: RegionShare = 0.3

    def find(self, cloud: PointCloud) -> Indices:
        """Return the indices of what may go, ascending."""
        from edgeguard.kernels.nearby import mean_nearest  # compiled code that few chains need

        mean = mean_nearest(image_of_bands(cloud.xyz, FARTHEST_M), cloud.xyz, self.neighbours, self.cap_m)
        there = mean[np.isfinite(mean)].astype(np.float64)
        limit = there.mean() + self.sigmas * there.std() if there.size else np.inf
        return np.flatnonzero(mean > limit)

    @property
    def cap(self) -> Cap:
        """The largest shares that may go."""
        return Cap(self.max_removed_share, self.max_region_share)


CloudStep = Snow | Isolated | Ghosts | DynamicRadius | StatisticalOutlier

MIN_CLOSED = 8  # of the 35 beams of a window; one ring alone has seven


def _if_many(found: Indices, min_share: float, cloud: PointCloud) -> Indices:
    return found if found.size and found.size >= min_share * len(cloud.xyz) else found[:0]
