"""Taking returns out of a sweep, and how many may go: of the whole, and of each direction.

A filter that removes returns is a way to make something vanish. Whatever a filter finds, no more than a share of the
sweep goes, the dimmest first, and a direction that would lose more than its own share keeps everything: what is mostly
scatter is blind rather than dirty, and blindness is for the checks to judge.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgeguard.types import PointCloud

REGIONS = 36  # 10 deg: a person fills one at 3 m


@dataclass(frozen=True, slots=True)
class Cap:
    """Largest shares of returns that a filter may take: of the sweep, and of those in one direction."""

    whole: float
    region: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """What goes. removed: (M,) indices, ascending. spared: found, and kept because of a cap. regions: kept whole."""

    removed: NDArray[np.intp]
    spared: int = 0
    regions: int = 0


def cut_within(cloud: PointCloud, found: NDArray[np.intp], cap: Cap) -> Cut:
    """Return which of the returns `found` (M,) may go."""
    allowed, regions = found, 0
    if cap.region < 1.0 and found.size:
        azimuth = np.arctan2(cloud.xyz[:, 1], cloud.xyz[:, 0])
        with np.errstate(invalid="ignore"):  # not finite: in some region, which is all that matters
            region = ((azimuth + np.pi) * (REGIONS / (2.0 * np.pi))).astype(np.int64) % REGIONS
        total = np.bincount(region, minlength=REGIONS)
        over = np.bincount(region[found], minlength=REGIONS) > cap.region * total
        allowed, regions = found[~over[region[found]]], int(over.sum())
    limit = int(cap.whole * len(cloud.xyz))
    if allowed.size > limit:
        # Backscatter is dim; where the cap bites, what reflects well stays. Stable: equal sweeps give equal results.
        allowed = np.sort(allowed[np.argsort(cloud.intensity[allowed], kind="stable")[:limit]])
    return Cut(allowed, found.size - allowed.size, regions)


def without(cloud: PointCloud, removed: NDArray[np.intp]) -> PointCloud:
    """Return the sweep without some of its returns, the very object when there are none to remove."""
    if removed.size == 0:
        return cloud
    kept = np.ones(len(cloud.xyz), dtype=np.bool_)
    kept[removed] = False
    return replace(
        cloud,
        xyz=cloud.xyz[kept],
        intensity=cloud.intensity[kept],
        ring=None if cloud.ring is None else cloud.ring[kept],
        time_offset_ns=None if cloud.time_offset_ns is None else cloud.time_offset_ns[kept],
    )
