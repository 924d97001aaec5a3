"""What a lens and a shutter do to a picture: distortion, glare, raindrops, motion blur, rolling shutter's times."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Light = NDArray[np.float32]


def undistorted(u: Floats, v: Floats, coefficients: tuple[float, ...]) -> tuple[Floats, Floats]:
    """Return normalised image coordinates without distortion of those with it (Brown 1966: k1, k2, p1, p2[, k3]).

    Fixed-point iteration; right to 1e-9 for the distortion of any lens that images its corners at all.
    """
    k1, k2, p1, p2, k3 = (*coefficients, 0.0, 0.0, 0.0, 0.0, 0.0)[:5]
    x, y = u.copy(), v.copy()
    for _ in range(40):
        r2 = x * x + y * y
        radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))
        x = (u - 2 * p1 * x * y - p2 * (r2 + 2 * x * x)) / radial
        y = (v - p1 * (r2 + 2 * y * y) - 2 * p2 * x * y) / radial
    return x, y


def distorted(x: Floats, y: Floats, coefficients: tuple[float, ...]) -> tuple[Floats, Floats]:
    """Return normalised image coordinates with distortion."""
    k1, k2, p1, p2, k3 = (*coefficients, 0.0, 0.0, 0.0, 0.0, 0.0)[:5]
    r2 = x * x + y * y
    radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))
    return x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y


def bloom(light: Light, strength: float) -> None:
    """Add the veil that what is brighter than full scale spreads over the picture, three planes, in place."""
    height, width = light.shape[1:]
    for plane in light:
        over = np.maximum(cv2.resize(plane, (width // 8, height // 8), interpolation=cv2.INTER_AREA) - 250.0, 0.0)
        over = np.minimum(over, 2500.0)
        veil = cv2.GaussianBlur(over, (0, 0), 2.0) * 0.5 + cv2.GaussianBlur(over, (0, 0), 9.0) * 0.5
        plane[:] += strength * cv2.resize(veil, (width, height), interpolation=cv2.INTER_LINEAR)


def rain_streaks(light: Light, rain_mm_h: float, exposure_s: float, focal_px: float, rng: np.random.Generator) -> None:
    """Draw drops that fall through the picture while the shutter is open, in place in its three planes.

    Drops fall at 6 to 9 m/s (Gunn and Kinzer 1949); the near ones are long streaks, the far ones join the haze.
    """
    height, width = light.shape[1:]
    count = int(12.0 * rain_mm_h * width * height / (640 * 480))
    depth = 1.2 + 9.0 * rng.random(count) ** 0.6
    x, y = rng.uniform(0, width, count), rng.uniform(-40, height, count)
    length = np.maximum(focal_px * rng.uniform(6.0, 9.0, count) * exposure_s / depth, 1.0)
    slant = rng.normal(0.06, 0.03, count)
    layer = np.zeros((height, width), dtype=np.float32)
    for at_x, at_y, long, lean, far in zip(x, y, length, slant, depth, strict=True):
        end = (round(at_x + lean * long), round(at_y + long))
        cv2.line(layer, (round(at_x), round(at_y)), end, min(0.30 / far, 0.2), 1, cv2.LINE_AA)
    sky = float(np.percentile(light[:, : height // 3], 80))
    light += layer * (sky - light)
