"""Picture filters without parameters to draw: pure functions, (H, W, 3) uint8 in and out."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

GUIDE_RADIUS_PX = 20  # of the guided filter, for frames of about 640 pixels; scaled with the frame
DARK_PATCH_PX = 15  # the patch of the dark channel in the paper, for the same frames
MIN_TRANSMISSION = 0.1  # the paper's t0: below it, noise is all that dehazing would show


def stretch(pixels: Pixels, cut: float) -> Pixels:
    """Map the luma percentiles `cut` and 1 - `cut` to 0 and 255, all channels alike."""
    low, high = luma_range(as_u8(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)), cut)
    if high <= low:
        return pixels
    table = np.clip((np.arange(256) - low) * (255.0 / (high - low)), 0, 255)
    return as_u8(cv2.LUT(pixels, np.rint(table).astype(np.uint8)))


def dehaze(pixels: Pixels, strength: float) -> Pixels:
    """Dark-channel dehazing; the transmission is found at half size and smoothed along the picture's edges."""
    height, width = pixels.shape[:2]
    scale = 2.0 * max(1.0, max(height, width) / 640.0)
    small = as_u8(cv2.resize(pixels, (max(8, round(width / scale)), max(8, round(height / scale)))))
    dark = _dark_channel(small)
    air = np.maximum(small[dark >= np.quantile(dark, 0.999)].reshape(-1, 3).mean(axis=0), 1.0)
    haze = _dark_channel(as_u8(np.clip(small / air * 255.0, 0, 255)))
    guide = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float32) / 255.0
    smooth = _guided(guide, (1.0 - strength * haze / 255.0).astype(np.float32), GUIDE_RADIUS_PX // 2)
    clear = np.maximum(cv2.resize(smooth, (width, height)), MIN_TRANSMISSION)[:, :, None]
    light = air.astype(np.float32)
    return as_u8(np.clip((pixels - light) / clear + light + 0.5, 0, 255))


def upper_median_2x2(pixels: Pixels) -> Pixels:
    """Return the third smallest of the pixel, its left, its upper and its upper left neighbour, borders repeated.

    pixels: (H, W, C) uint8. This is the 2 x 2 median of the feature-squeezing papers: SciPy's `median_filter(size=2)`.
    """
    left = np.concatenate((pixels[:, :1], pixels[:, :-1]), axis=1)
    more, less = np.maximum(pixels, left), np.minimum(pixels, left)
    more_up = np.concatenate((more[:1], more[:-1]))
    less_up = np.concatenate((less[:1], less[:-1]))
    return as_u8(np.maximum(np.minimum(more, more_up), np.maximum(less, less_up)))


def luma_range(grey: NDArray[np.uint8], cut: float) -> tuple[int, int]:
    """Return the levels below which a share `cut` and 1 - `cut` of the pixels lie. grey: (H, W) uint8."""
    counts = np.cumsum(cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel())
    low, high = np.searchsorted(counts, (cut * counts[-1], (1.0 - cut) * counts[-1]))
    return int(low), int(min(high, 255))


def inpaint(pixels: Pixels, mask: NDArray[np.bool_], radius_px: float = 3.0) -> Pixels:
    """Fill what `mask` marks from around it (Telea, 2004). pixels: (H, W, 3) uint8; mask: (H, W) bool."""
    return as_u8(cv2.inpaint(pixels, mask.astype(np.uint8), radius_px, cv2.INPAINT_TELEA))


def _dark_channel(pixels: Pixels) -> NDArray[np.uint8]:
    patch = DARK_PATCH_PX // 2 | 1
    return as_u8(cv2.erode(pixels.min(axis=2), np.ones((patch, patch), np.uint8)))


def _guided(guide: NDArray[np.float32], values: NDArray[np.float32], radius_px: int) -> NDArray[np.float32]:
    """Smooth `values` along the edges of `guide`; both (H, W) float32."""
    window = (2 * radius_px + 1, 2 * radius_px + 1)
    mean_g, mean_v = cv2.blur(guide, window), cv2.blur(values, window)
    spread = cv2.blur(guide * guide, window) - mean_g * mean_g
    slope = (cv2.blur(guide * values, window) - mean_g * mean_v) / (spread + 1e-3)
    level = mean_v - slope * mean_g
    return np.asarray(cv2.blur(slope, window) * guide + cv2.blur(level, window), dtype=np.float32)


def as_u8(array: object) -> Pixels:
    """Return what OpenCV made as the type it is."""
    return np.asarray(array, dtype=np.uint8)
