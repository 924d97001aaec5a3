"""What drift is watched on: a few numbers per frame that name what changed in the world or in the camera.

They are about light, colour and sharpness, not about content, so that a reference needs no labels. MITRE ATLAS
AML.M0008.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels.frame import require_image

SIDE_PX = 128  # every frame is shrunk to it: scalars of a release hold for another resolution
FRAME_SCALARS = ("brightness", "contrast", "detail", "saturation", "warmth")


def frame_scalars(pixels: NDArray[np.uint8]) -> dict[str, float]:
    """Return the scalars of a frame, (H, W, 3) uint8 BGR.

    brightness: mean luma, 0..255. contrast: standard deviation of luma. detail: mean |Laplacian| of luma over contrast.
    saturation: mean spread of the three colours over the brightest. warmth: log of mean red over mean blue.

    Raises:
        ConfigError: EG-C140: not a frame.
    """
    require_image(pixels)
    small = cv2.resize(pixels, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
    luma = np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), dtype=np.float32)
    contrast = float(luma.std())
    detail = float(np.abs(cv2.Laplacian(luma, cv2.CV_32F)).mean())
    highest, lowest = small.max(axis=2).astype(np.float32), small.min(axis=2).astype(np.float32)
    blue, _, red = (float(value) for value in small.reshape(-1, 3).mean(axis=0, dtype=np.float64))
    return {
        "brightness": float(luma.mean()),
        "contrast": contrast,
        "detail": detail / (contrast + 1.0),
        "saturation": float(((highest - lowest) / (highest + 1.0)).mean()),
        "warmth": float(np.log((red + 1.0) / (blue + 1.0))),
    }
