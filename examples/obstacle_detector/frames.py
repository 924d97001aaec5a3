"""Simulator frames with ground truth, and the rule for which objects count.

A detector is asked for what a driver could act on: an object counts when at least half of it is visible and its box is
at least 6 x 16 pixels in the 640 x 384 frame (a pedestrian at about 40 m). Smaller or more hidden ones are neither
demanded nor held against it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeguard.sim.actors import LABELS
from edgeguard.sim.camera import view
from edgeguard.sim.world import World
from edgeguard.types import Image

MIN_VISIBLE_SHARE = 0.5
MIN_WIDTH_PX, MIN_HEIGHT_PX = 6.0, 16.0
DRIVE_S = 40.0


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """An image and its objects. boxes_xyxy: (N, 4) frame pixels; labels: (N,) into LABELS; counts: (N,) bool.

    Objects come farthest first, so that what is drawn later lies in front.
    """

    image: Image
    boxes_xyxy: NDArray[np.float64]
    labels: NDArray[np.intp]
    counts: NDArray[np.bool_]


def simulated_frames(seeds: Iterable[int], per_seed: int) -> Iterable[Frame]:
    """Yield `per_seed` frames of each world, at times drawn from a generator of the world's seed."""
    for seed in seeds:
        world = World(seed, DRIVE_S)
        times = np.random.default_rng([seed, 0xF7]).uniform(0.0, DRIVE_S, per_seed)
        for time_s in times:
            yield simulated_frame(world, float(time_s))


def simulated_frame(world: World, time_s: float) -> Frame:
    """Render one frame with its ground truth."""
    seen = view(world, time_s)
    objects = seen.boxes[::-1]
    boxes = np.array([box for _, box, _, _ in objects], dtype=np.float64).reshape(-1, 4)
    visible = np.array([share for _, _, share, _ in objects])
    size = boxes[:, 2:] - boxes[:, :2]
    counts = (visible >= MIN_VISIBLE_SHARE) & (size[:, 0] >= MIN_WIDTH_PX) & (size[:, 1] >= MIN_HEIGHT_PX)
    labels = np.array([LABELS.index(label) for label, _, _, _ in objects], dtype=np.intp)
    return Frame(seen.image, boxes, labels, counts)
