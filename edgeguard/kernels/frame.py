"""What a camera frame is, asked once at the border of what works on one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeguard.errors import ConfigError

MIN_SIDE_PX = 8  # the smallest cell that any statistic of a picture is taken over


def require_image(pixels: NDArray[np.uint8]) -> None:
    """Raise unless `pixels` is (H, W, 3) uint8 with at least 8 pixels a side.

    Raises:
        ConfigError: EG-C140.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or min(pixels.shape[:2]) < MIN_SIDE_PX:
        raise ConfigError(
            f"a frame is (H, W, 3) uint8 of at least {MIN_SIDE_PX} pixels a side, not {pixels.shape} {pixels.dtype}",
            code="EG-C140",
            hint="convert it before restoring: restoration runs before any normalisation",
        )


def compiled_view(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the frame as compiled signatures take it: in one piece and writable. Copied only where it is not.

    Frames that drivers and decoders lend are often read-only; a kernel for each kind would compile everything twice.
    """
    return np.require(pixels, requirements=["C", "W"])
