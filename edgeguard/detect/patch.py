"""Adversarial patches: find where the picture says too much, cover it, and see whether the models then agree.

A patch must carry its information in a small place, so the entropy of the grey levels is high there (Tarchoun et al.,
"Jedi", CVPR 2023). High entropy alone is no proof: foliage has it too. The proof is that covering the one place
changes the first model's answer *towards* that of a second architecture, for which the patch was not made. Clean
frames on which the models differ seldom agree just because one twentieth of the frame is covered.

MITRE ATLAS AML.M0015. Blind to patches of low entropy, and to patches that were made for both models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels.frame import require_image
from edgeguard.kernels.image_noise import CELL_PX, WINDOW_CELLS, entropy_weights, entropy_windows
from edgeguard.kernels.scratch import Scratch

WINDOW_SHARE = 0.24  # of the shorter side: a window covers a patch of five percent of a square frame
WINDOWS = 3  # places to try: each costs one pass of the model
MIN_SIDE_PX = (WINDOW_CELLS + 1) * CELL_PX  # smaller frames have no map to speak of

_SCRATCH = Scratch()
_WEIGHTS = entropy_weights()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Window:
    """A place in the frame, pixels: left, top, and one past right and bottom. entropy_bit: its mean."""

    left: int
    top: int
    right: int
    bottom: int
    entropy_bit: float


@dataclass(frozen=True, slots=True, eq=False)
class PatchEvidence:
    """What covering did. score: how much disagreement it resolved, bits; 0 when none. window, answer: of the best."""

    score: float
    window: Window | None = None
    answer: object = None


def entropy_map(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the entropy of each window of 24 x 24 pixels, bits, one every 8 pixels: (H // 8 - 2, W // 8 - 2) float32.

    pixels: (H, W, 3) uint8 BGR, at least 32 pixels a side.
    """
    grey = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), dtype=np.uint8)
    rows, columns = grey.shape[0] // CELL_PX, grey.shape[1] // CELL_PX
    cells = _SCRATCH.array("cells", rows * columns * 32, np.uint16).reshape(rows, columns, 32)
    out = np.empty((rows - 2, columns - 2), dtype=np.float32)
    entropy_windows(grey, cells, _WEIGHTS, out)
    return out


def find_windows(pixels: NDArray[np.uint8], count: int = WINDOWS, share: float = WINDOW_SHARE) -> tuple[Window, ...]:
    """Return the places with the highest mean entropy that do not overlap, highest first.

    pixels: (H, W, 3) uint8 BGR. Empty for a frame under 32 pixels a side. Raises ConfigError EG-C140 for no frame.
    """
    require_image(pixels)
    height, width = pixels.shape[:2]
    if min(height, width) < MIN_SIDE_PX:
        return ()
    entropy = entropy_map(pixels)
    # A window of n map cells covers n + 2 cells of the frame, because each map cell is three wide.
    side = max(1, round(share * min(height, width) / CELL_PX) - WINDOW_CELLS + 1)
    side = min(side, *entropy.shape)
    mean = cv2.blur(entropy, (side, side), anchor=(0, 0), borderType=cv2.BORDER_REFLECT)
    mean = np.asarray(mean[: entropy.shape[0] - side + 1, : entropy.shape[1] - side + 1]).copy()
    covered = (side + WINDOW_CELLS - 1) * CELL_PX
    found = []
    for _ in range(count):
        row, column = np.unravel_index(int(mean.argmax()), mean.shape)
        value = float(mean[row, column])
        if not np.isfinite(value):
            break
        left, top = int(column) * CELL_PX, int(row) * CELL_PX
        found.append(Window(left, top, min(left + covered, width), min(top + covered, height), value))
        reach = side // 2 + 1
        mean[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1] = -np.inf
    return tuple(found)


def cover(pixels: NDArray[np.uint8], window: Window) -> NDArray[np.uint8]:
    """Return a copy with the window filled from its surroundings (Telea, 2004), (H, W, 3) uint8.

    Filled at a quarter of the size: no detail is wanted there, and the time stays bounded.
    """
    margin = 16
    top, left = max(0, window.top - margin), max(0, window.left - margin)
    part = pixels[top : window.bottom + margin, left : window.right + margin]
    small = cv2.resize(part, (max(1, part.shape[1] // 4), max(1, part.shape[0] // 4)), interpolation=cv2.INTER_AREA)
    mask = np.zeros(small.shape[:2], dtype=np.uint8)
    mask[
        (window.top - top) // 4 : -(-(window.bottom - top) // 4),
        (window.left - left) // 4 : -(-(window.right - left) // 4),
    ] = 1
    filled = cv2.inpaint(small, mask, 3.0, cv2.INPAINT_TELEA)
    smooth = cv2.resize(filled, (part.shape[1], part.shape[0]), interpolation=cv2.INTER_LINEAR)
    out = pixels.copy()
    rows, columns = slice(window.top, window.bottom), slice(window.left, window.right)
    out[rows, columns] = smooth[window.top - top : window.bottom - top, window.left - left : window.right - left]
    return out


def verify_patch(
    pixels: NDArray[np.uint8],
    ask: Callable[[NDArray[np.uint8]], T],
    answer: T,
    second: T,
    *,
    differ: Callable[[T, T], float],
    min_disagreement_bit: float = 0.0,
) -> PatchEvidence:
    """Cover up to three places, one after the other, and return how far the models come together.

    Args:
        pixels: (H, W, 3) uint8 BGR.
        ask: the first model; called at most `WINDOWS` times.
        answer, second: of the first and of a second model to the frame as it is. differ: how far two answers differ.
        min_disagreement_bit: below it there is nothing to resolve and no model is asked.
    """
    before = differ(answer, second)
    best = PatchEvidence(0.0)
    if before <= min_disagreement_bit:
        return best
    for window in find_windows(pixels):
        covered = ask(cover(pixels, window))
        resolved = before - differ(covered, second)
        if resolved > best.score:
            best = PatchEvidence(resolved, window, covered)
    return best
