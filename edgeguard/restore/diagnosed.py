"""Diagnose each camera frame and mend at most its worst symptom; one without leaves as the object it came as."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeguard.restore.diagnose import Limits, choose_step, diagnose
from edgeguard.restore.draw import Draw
from edgeguard.types import CAMERA, Image, Restoration, Sample

MIN_SIDE_PX = 32  # smaller frames have too few blocks for a statistic


class DiagnosedFrames:
    """A camera restorer: denoise, stretch, dehaze, take streaks out, or nothing. MITRE ATLAS AML.M0010.

    Args:
        limits: beyond which a symptom is one; those of `edgeguard calibrate inputs`, or what no healthy camera reaches.

    Impulses are the business of `ImpulseMedian`, which knows which values to touch.
    """

    name = "diagnosed"
    sensor = CAMERA
    cost_ms_per_mpx = 8.0

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()

    def apply(self, sample: Sample, seed: int) -> tuple[Sample, Restoration]:
        """Return the mended image, or `sample` itself when nothing is wrong with it. Other kinds pass through."""
        untouched = Restoration(self.name, self.sensor, 0.0)
        if not isinstance(sample, Image) or min(sample.pixels.shape[:2]) < MIN_SIDE_PX:
            return sample, untouched
        step = choose_step(diagnose(sample.pixels), self._limits)
        if step is None:
            return sample, untouched
        pixels = step.apply(sample.pixels, Draw(seed))
        changed = float(np.count_nonzero((pixels != sample.pixels).any(axis=2))) / (pixels.shape[0] * pixels.shape[1])
        return replace(sample, pixels=pixels), replace(
            untouched, changed_share=changed, note=str(type(step).__struct_config__.tag)
        )
