"""What is wrong with a frame, and the one step that mends it: diagnose, then restore, else leave the frame alone.

A wrong filter costs more than most corruptions do: a median over clean photographs costs a classifier ten points. So
each symptom has a statistic that clean frames do not reach, at most one step is chosen, and the default is none.

    noise     standard deviation of the quiet quarter of the blocks, levels (Immerkaer, CVIU 64(2), 1996)
    impulses  share of values at 0 or 255 that stand out and are not clumped
    streaks   surplus of narrow bright over narrow dark structure along the rows: rain
    range     luma between the 0.5 % and 99.5 % quantiles, levels: lost contrast, under-exposure
    haze      mean of the dark channel, share of full scale (He, Sun and Tang, CVPR 2009)

Blur, snow, glare and coarse compression are measured by nobody here: nothing at hand mends them without loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import cv2
import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeguard.kernels.frame import compiled_view, require_image
from edgeguard.kernels.image_noise import block_noise
from edgeguard.restore.image_filters import luma_range
from edgeguard.restore.image_steps import Bilateral, Dehaze, ImageStep, RowMedian, Stretch
from edgeguard.restore.impulse import clustering, find_impulses

QUIET_SHARE = 0.25  # of the blocks: texture fills the rest, noise is in all of them
PER_SIGMA = 6.0 * np.sqrt(2.0 / np.pi)  # mean |second difference| of white noise of standard deviation one
STREAK_LEVELS = 40  # a drop in front of a scene is brighter by a sixth of full scale at least
MAX_CLUSTERING = 1.5

Levels = Annotated[float, Meta(ge=0.0, le=255.0)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The statistics of one frame; see the module for what each is."""

    noise_levels: float
    impulse_share: float
    streak_share: float
    range_levels: float
    haze_share: float


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Beyond which a symptom is one. The defaults are what no healthy camera reaches; `fit_limits` knows one camera.

    noise: twice what a small sensor has at its highest useful gain. impulses: as `ImpulseMedian`. streaks: one pixel in
    a hundred. range: a third of full scale. haze: a frame without anything dark in any colour.
    """

    noise_levels: Levels = 12.0
    impulse_share: Share = 0.002
    streak_share: Share = 0.01
    range_levels: Levels = 85.0
    haze_share: Share = 0.55


def diagnose(pixels: NDArray[np.uint8]) -> Diagnosis:
    """Return the statistics of a frame, (H, W, 3) uint8 BGR. Raises ConfigError EG-C140 for anything else."""
    require_image(pixels)
    pixels = compiled_view(pixels)
    median, impulses = find_impulses(pixels)
    share = float(np.count_nonzero(impulses)) / impulses.size
    if share and clustering(impulses) > MAX_CLUSTERING:
        share = 0.0
    grey = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), dtype=np.uint8)
    low, high = luma_range(grey, 0.005)
    half = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    blue, green, red = cv2.split(half)
    dark = cv2.erode(cv2.min(cv2.min(blue, green), red), np.ones((7, 7), np.uint8))
    return Diagnosis(
        # Without what looks like impulses: they are no noise, and clipped noise is still noise without them.
        noise_levels=noise_levels(np.where(impulses, median, pixels) if share else pixels),
        impulse_share=share,
        streak_share=streak_share(grey),
        range_levels=float(high - low),
        haze_share=cv2.mean(dark)[0] / 255.0,
    )


def noise_levels(pixels: NDArray[np.uint8]) -> float:
    """Return the standard deviation of the noise in the quiet quarter of the blocks, levels of luma."""
    blocks = block_noise(pixels)
    if not blocks.size:
        return 0.0
    return float(np.quantile(blocks[:, :, 1], QUIET_SHARE) / PER_SIGMA)


def streak_share(grey: NDArray[np.uint8]) -> float:
    """Return the surplus of narrow bright over narrow dark structure along the rows, share of the pixels, >= 0."""
    middle = RowMedian.of(grey)
    brighter, darker = (
        cv2.countNonZero(cv2.threshold(apart, STREAK_LEVELS, 1, cv2.THRESH_BINARY)[1])
        for apart in (cv2.subtract(grey, middle), cv2.subtract(middle, grey))
    )
    return max(0, brighter - darker) / grey.size


def choose_step(found: Diagnosis, limits: Limits) -> ImageStep | None:
    """Return the one step that mends the worst symptom, or None. Impulses alone are the business of `ImpulseMedian`.

    Streaks come before noise, because they look like noise along the rows; noise before contrast, because stretching
    would enlarge it.
    """
    noisy = found.noise_levels > limits.noise_levels
    if found.impulse_share > limits.impulse_share and not noisy:
        return None
    if found.streak_share > limits.streak_share:
        return RowMedian()
    if noisy:
        return Bilateral(
            diameter_px=9, sigma_level=float(np.clip(3.0 * found.noise_levels, 30.0, 120.0)), sigma_px=90.0
        )
    if found.range_levels < limits.range_levels:
        return Dehaze()
    if found.haze_share > limits.haze_share:
        return Stretch()
    return None


def fit_limits(clean: list[Diagnosis], level: float) -> Limits:
    """Return limits that a share `level` of clean frames exceeds in all, never inside the defaults.

    A camera that is noisier than the defaults allow gets wider limits; none gets narrower ones, because frames of one
    afternoon do not show what the next night looks like.
    """
    default = Limits()
    level /= len(default.__struct_fields__)
    if not clean:
        return default

    def upper(values: list[float], limit: float) -> float:
        return max(limit, float(np.quantile(values, 1.0 - level)))

    return Limits(
        noise_levels=min(255.0, upper([d.noise_levels for d in clean], default.noise_levels)),
        impulse_share=min(1.0, upper([d.impulse_share for d in clean], default.impulse_share)),
        streak_share=min(1.0, upper([d.streak_share for d in clean], default.streak_share)),
        range_levels=min(default.range_levels, float(np.quantile([d.range_levels for d in clean], level))),
        haze_share=min(1.0, upper([d.haze_share for d in clean], default.haze_share)),
    )
