"""C1.blind: the camera sees nothing: black, blown out, uniform, covered, or suddenly without detail.

Hard limits are physical: no scene holds its pixels within a few grey levels, and a night image still has lamps. What
is merely dim (a tunnel, dusk) changes slowly against the recent past and stays OK.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels.blocks import thin_look
from edgeguard.types import CAMERA, CheckResult, Image, Level, SyncedSet

STRIDE = 4
BLOCK_ROWS, BLOCK_COLS = 4, 8
MIN_CONTRAST_DN = 6.0  # p99 - p1: read noise of a covered sensor stays below, any lit scene is tens of levels above
DARK_DN = 12.0  # p99 of a lens cap; street lamps, tail lights and headlights each fill more than 1 % near the road
WHITE_DN = 250.0
MAX_WHITE_SHARE = 0.85  # low sun blows out the sky, at most half of a road camera's image
MAX_DETAIL_LOSS = 5.0  # factor between frames; a tunnel mouth or a lorry alongside takes two or three
FLAT_DN, TEXTURED_DN = 1.0, 4.0  # standard deviation in a block: below read noise; above it for certain
MAX_NEWLY_FLAT = 0.4  # of the blocks that had texture a moment ago
MIN_PIXELS = 1_000
PAST_FRAMES = 10
MIN_PAST = 3
HOLD_FRAMES = 50  # then what is left becomes the new normal: dusk and dirt are not attacks
CONFIRM = 2  # frames, for losses judged against the past


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """What one frame looks like. detail: mean absolute horizontal step; blocks: standard deviations."""

    low_dn: float
    high_dn: float
    white_share: float
    detail_dn: float
    blocks: NDArray[np.float32]


class BlindCheck:
    """C1.blind. statistic: share of the worst limit reached; threshold 1."""

    name = "C1.blind"

    def __init__(self, sensor: str = CAMERA) -> None:
        self.sensors: tuple[str, ...] = (sensor,)
        self._past: deque[_Look] = deque(maxlen=PAST_FRAMES)
        self._run = 0

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        if synced.tick.discontinuity:
            self._past.clear()
            self._run = 0
        sample = synced.samples.get(self.sensors[0])
        if not isinstance(sample, Image) or sample.pixels.size < 3 * MIN_PIXELS:
            return self._result(Level.NOT_OBSERVABLE, 0.0, "no frame at this tick")
        look = _look(sample.pixels)
        hard, why = _hard(look)
        loss, how = _loss(look, self._past)
        self._run = self._run + 1 if loss > 1.0 else 0
        if max(hard, loss) <= 1.0 or self._run > HOLD_FRAMES:
            self._past.append(look)
        if hard > 1.0:
            return self._result(Level.ANOMALY, hard, why)
        if self._run >= CONFIRM:
            return self._result(Level.ANOMALY, loss, how)
        return self._result(Level.OK, min(max(hard, loss), 1.0), "")

    def _result(self, level: Level, statistic: float, reason: str) -> CheckResult:
        power = float("inf") if level is Level.NOT_OBSERVABLE else MAX_NEWLY_FLAT
        return CheckResult(self.name, self.sensors, level, statistic, 1.0, power, "share of image", "image", reason)


def _look(pixels: NDArray[np.uint8]) -> _Look:
    histogram, blocks, detail = thin_look(np.ascontiguousarray(pixels), STRIDE, (BLOCK_ROWS, BLOCK_COLS))
    counts = histogram.cumsum()
    size = int(counts[-1])
    low, high = np.searchsorted(counts, (0.01 * size, 0.99 * size))
    return _Look(
        low_dn=float(low),
        high_dn=float(high),
        white_share=1.0 - float(counts[int(WHITE_DN) - 1]) / size,
        detail_dn=detail,
        blocks=blocks,
    )


def _hard(look: _Look) -> tuple[float, str]:
    """Limits that no scene reaches, as a share."""
    contrast = look.high_dn - look.low_dn
    uniform = MIN_CONTRAST_DN / max(contrast, 0.1)
    dark = DARK_DN / max(look.high_dn, 0.1)
    white = look.white_share / MAX_WHITE_SHARE
    if dark >= max(uniform, white):
        return dark, f"the image is dark: 99 % of it below {look.high_dn:.0f} of 255"
    if white >= uniform:
        return white, f"{look.white_share:.0%} of the image is saturated"
    return uniform, f"the image is uniform: {contrast:.1f} grey levels of contrast"


def _loss(look: _Look, past: deque[_Look]) -> tuple[float, str]:
    """Sudden loss against the recent past, as a share of what is tolerated."""
    if len(past) < MIN_PAST:
        return 0.0, ""
    usual = median(p.detail_dn for p in past)
    detail = usual / max(look.detail_dn, 0.05) / MAX_DETAIL_LOSS
    ordered = np.sort([p.blocks for p in past], axis=0)
    blocks = 0.5 * (ordered[(len(past) - 1) // 2] + ordered[len(past) // 2])
    textured = blocks > TEXTURED_DN
    flat = float(np.mean(look.blocks[textured] < FLAT_DN)) if textured.sum() >= 8 else 0.0
    if flat / MAX_NEWLY_FLAT >= detail:
        return flat / MAX_NEWLY_FLAT, f"{flat:.0%} of the image went blank"
    return detail, f"detail fell by a factor of {detail * MAX_DETAIL_LOSS:.1f}"
