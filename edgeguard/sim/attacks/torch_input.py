"""From pixels to a model's input in torch, with gradients: the twin of `edgeguard.infer.preprocess`.

Resizing is linear and the same for rows and columns apart, so its two matrices are what OpenCV makes of the identity:
the gradient goes through the very resize that the device does, but for its rounding to 8 bits, which is passed straight
through.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeguard.bundle.manifest import InputSpec
from edgeguard.infer.preprocess import LETTERBOX_GREY, place


class TorchInput:
    """Maps (N, 3, H, W) float32 BGR pixels in 0..255 to the input tensor that `spec` describes.

    Args:
        torch: the module. spec: of the model. frame_size_px: (width, height) of the images.
    """

    def __init__(self, torch: Any, spec: InputSpec, frame_size_px: tuple[int, int]) -> None:
        self._torch, self._spec = torch, spec
        width, height = frame_size_px
        at = place(frame_size_px, spec)
        inner = max(1, round(width * at.scale_x)), max(1, round(height * at.scale_y))
        self._same = inner == frame_size_px
        method = cv2.INTER_AREA if at.scale_x < 1.0 and at.scale_y < 1.0 else cv2.INTER_LINEAR
        self._rows = torch.from_numpy(_resize_matrix(height, inner[1], method))
        self._columns = torch.from_numpy(_resize_matrix(width, inner[0], method).T.copy())
        left, top = int(at.offset_x), int(at.offset_y)
        # What torch pads is negative where the frame is larger than the input: a crop.
        self._pads = (left, spec.size_px[0] - inner[0] - left, top, spec.size_px[1] - inner[1] - top)
        self._gain = torch.tensor([spec.scale / s for s in spec.std], dtype=torch.float32)[:, None, None]
        bias = [-m / s for m, s in zip(spec.mean, spec.std, strict=True)]
        self._bias = torch.tensor(bias, dtype=torch.float32)[:, None, None]

    def __call__(self, pixels: Any) -> Any:
        """Return the tensor, (N, C, h, w) or (N, h, w, C)."""
        x = pixels
        if not self._same:
            scaled = self._rows @ x @ self._columns
            x = scaled + (self._torch.round(scaled) - scaled).detach()
        if any(self._pads):
            x = self._torch.nn.functional.pad(x, self._pads, value=float(LETTERBOX_GREY))
        if self._spec.color == "RGB":
            x = x.flip(1)
        levels = self._spec.thermometer_levels
        x = self._thermometer(x, levels) if levels else x * self._gain + self._bias
        return x if self._spec.layout == "NCHW" else x.permute(0, 2, 3, 1)

    def _thermometer(self, x: Any, levels: int) -> Any:
        """Code exactly, and let the gradient through as if each level were a ramp (Athalye et al., ICML 2018)."""
        share = (x / 255.0)[:, :, None]
        edges = self._torch.arange(levels, dtype=x.dtype)[None, None, :, None, None] / levels
        ramp = ((share - edges) * levels).clamp(0.0, 1.0)
        hard = (share > edges).to(x.dtype)
        hard[:, :, 0] = 1.0
        return (ramp + (hard - ramp).detach()).flatten(1, 2)


def _resize_matrix(before: int, after: int, method: int) -> NDArray[np.float32]:
    """Return (after, before) weights of one axis of cv2.resize."""
    if before == after:
        return np.eye(before, dtype=np.float32)
    # Both axes shrink or grow together in OpenCV's choice of algorithm: the identity's other axis stays as it is.
    return np.asarray(cv2.resize(np.eye(before, dtype=np.float32), (before, after), interpolation=method))
