"""Natural corruptions of a picture at five severities: what weather, sensors and links do, as pure functions.

After Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations" (ICLR
2019), with generators of our own: no pictures of frost or rain are needed, every random choice comes from `rng`. All
take and give (H, W, 3) uint8 BGR. Severity 3 is the middle one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Rng = np.random.Generator
SEVERITIES: Final = range(1, 6)


def corrupt(name: str, pixels: Pixels, severity: int, rng: Rng) -> Pixels:
    """Return the corrupted frame; `name` is a key of `CORRUPTIONS`, severity 1 to 5."""
    return CORRUPTIONS[name](pixels, severity - 1, rng)


def impulse(pixels: Pixels, step: int, rng: Rng) -> Pixels:
    """Salt and pepper on single values."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[step]
    drawn = rng.random(pixels.shape)
    out = pixels.copy()
    out[drawn < share / 2] = 0
    out[drawn > 1 - share / 2] = 255
    return out


def gaussian(pixels: Pixels, step: int, rng: Rng) -> Pixels:
    """White noise of a hot sensor."""
    sigma = (0.08, 0.12, 0.18, 0.26, 0.38)[step]
    return _levels(pixels / 255.0 + sigma * rng.standard_normal(pixels.shape))


def shot(pixels: Pixels, step: int, rng: Rng) -> Pixels:
    """Photon noise: few electrons per level."""
    photons = (60.0, 25.0, 12.0, 5.0, 3.0)[step]
    return _levels(rng.poisson(pixels / 255.0 * photons) / photons)


def contrast(pixels: Pixels, step: int, rng: Rng) -> Pixels:  # noqa: ARG001 - nothing random
    """Contrast lost around the mean."""
    kept = (0.4, 0.3, 0.2, 0.15, 0.08)[step]
    mean = pixels.mean(axis=(0, 1), keepdims=True)
    return _levels(((pixels - mean) * kept + mean) / 255.0)


def fog(pixels: Pixels, step: int, rng: Rng) -> Pixels:
    """A veil that thickens towards the top, with clouds in it."""
    thickness = (0.35, 0.45, 0.55, 0.65, 0.75)[step]
    height, width = pixels.shape[:2]
    depth = np.linspace(1.0, 0.6, height)[:, None] * (0.85 + 0.3 * (_clouds(height, width, rng) - 0.5))
    share = np.clip(thickness * depth, 0.0, 0.95)[:, :, None]
    return _levels(pixels / 255.0 * (1.0 - share) + 0.86 * share)


def dark(pixels: Pixels, step: int, rng: Rng) -> Pixels:
    """Under-exposed, and noisy for it."""
    gain = (0.5, 0.4, 0.3, 0.22, 0.15)[step]
    return _levels(pixels / 255.0 * gain + 0.02 * rng.standard_normal(pixels.shape))


def rain(pixels: Pixels, step: int, rng: Rng) -> Pixels:
    """Bright streaks along one direction."""
    density = (0.0015, 0.003, 0.005, 0.008, 0.012)[step]
    height, width = pixels.shape[:2]
    drops = (rng.random((height, width)) < density).astype(np.float32)
    length = max(5, height // 12)
    streak = _line_kernel(length, float(rng.uniform(70, 110)))
    veil = np.clip(cv2.filter2D(drops, cv2.CV_32F, streak * length), 0.0, 1.0)[:, :, None] * 0.7
    return _levels(pixels / 255.0 * (1.0 - veil) + 0.85 * veil)


def motion_blur(pixels: Pixels, step: int, rng: Rng) -> Pixels:
    """The camera moved during the exposure."""
    length = max(3, round(pixels.shape[0] * (0.03, 0.045, 0.067, 0.09, 0.12)[step]))
    return _u8(cv2.filter2D(pixels, -1, _line_kernel(length, float(rng.uniform(0, 180)))))


def jpeg(pixels: Pixels, step: int, rng: Rng) -> Pixels:  # noqa: ARG001 - nothing random
    """Compressed for a thin link."""
    coded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, (25, 18, 12, 8, 5)[step]])[1]
    return _u8(cv2.imdecode(coded, cv2.IMREAD_COLOR))


def snow(pixels: Pixels, step: int, rng: Rng) -> Pixels:
    """Flakes of many sizes, and a brighter scene."""
    density = (0.004, 0.008, 0.012, 0.018, 0.025)[step]
    height, width = pixels.shape[:2]
    flakes = (rng.random((height, width)) < density).astype(np.float32)
    layer = np.zeros((height, width), np.float32)
    for sigma in (0.7, 1.4):
        layer += (
            cv2.GaussianBlur(flakes * rng.uniform(0.4, 1.0, flakes.shape).astype(np.float32), (0, 0), sigma) * 6 * sigma
        )
    veil = np.clip(layer, 0.0, 1.0)[:, :, None]
    return _levels(np.maximum(pixels / 255.0, 0.0) * 0.9 * (1.0 - veil) + 0.06 + 0.95 * veil)


def glare(pixels: Pixels, step: int, rng: Rng) -> Pixels:
    """A light source in the frame with its halo."""
    strength = (0.5, 0.7, 0.9, 1.2, 1.6)[step]
    height, width = pixels.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    cx, cy = rng.uniform(0.2, 0.8) * width, rng.uniform(0.1, 0.6) * height
    distance = np.hypot(x - cx, y - cy) / min(height, width)
    halo = strength * (np.exp(-((distance / 0.12) ** 2)) + 0.45 * np.exp(-distance / 0.25))
    return _levels(pixels / 255.0 + halo[:, :, None])


def dirt(pixels: Pixels, step: int, rng: Rng) -> Pixels:
    """Mud on the lens; `dirt_mask` draws the same spots from an equal generator."""
    cover = dirt_mask(pixels.shape[0], pixels.shape[1], step, rng)[:, :, None]
    return _levels(pixels / 255.0 * (1.0 - cover) + 0.13 * cover)


def dirt_mask(height: int, width: int, step: int, rng: Rng) -> NDArray[np.float64]:
    """Return how much of each pixel the mud covers, 0 to 1, (H, W)."""
    spots = (3, 5, 8, 11, 15)[step]
    y, x = np.mgrid[0:height, 0:width]
    cover = np.zeros((height, width))
    for _ in range(spots):
        cx, cy = rng.uniform(0, width), rng.uniform(0, height)
        radius = rng.uniform(0.03, 0.09) * min(height, width)
        distance = np.hypot((x - cx) * rng.uniform(0.6, 1.4), y - cy)
        cover = np.maximum(cover, 1.0 / (1.0 + np.exp((distance - radius) / (0.12 * radius))))
    return cover


CORRUPTIONS: Final[Mapping[str, Callable[[Pixels, int, Rng], Pixels]]] = MappingProxyType({
    "impulse": impulse,
    "gaussian": gaussian,
    "shot": shot,
    "contrast": contrast,
    "fog": fog,
    "dark": dark,
    "rain": rain,
    "motion-blur": motion_blur,
    "jpeg": jpeg,
    "snow": snow,
    "glare": glare,
    "dirt": dirt,
})  # fmt: skip


def _clouds(height: int, width: int, rng: Rng) -> NDArray[np.float64]:
    """Smooth noise of several scales, 0 to 1."""
    total = np.zeros((height, width))
    for cells, weight in ((3, 0.5), (7, 0.3), (15, 0.2)):
        coarse = rng.random((cells, cells))
        total += weight * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(total, 0.0, 1.0))


def _line_kernel(length: int, angle_deg: float) -> NDArray[np.float32]:
    """A straight line of unit sum."""
    kernel = np.zeros((length, length), np.float32)
    centre = (length - 1) / 2.0
    dx, dy = np.cos(np.radians(angle_deg)) * centre, np.sin(np.radians(angle_deg)) * centre
    start, end = (round(centre - dx), round(centre - dy)), (round(centre + dx), round(centre + dy))
    cv2.line(kernel, start, end, 1.0)
    return np.asarray(kernel / max(float(kernel.sum()), 1.0), dtype=np.float32)


def _levels(values: NDArray[np.float64]) -> Pixels:
    return np.asarray(np.clip(values * 255.0 + 0.5, 0, 255), dtype=np.uint8)


def _u8(array: object) -> Pixels:
    return np.asarray(array, dtype=np.uint8)
