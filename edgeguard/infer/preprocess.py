"""From a camera frame to a model's input tensor, and back from tensor pixels to frame pixels.

`tensor = (pixel * scale - mean) / std` per channel, after the resize that the signed `InputSpec` names:

* stretch: each axis on its own, so the aspect ratio may change.
* letterbox: the largest size that fits, centred, the rest grey.
* shorter-side-crop: the usual evaluation of image classifiers: cover 1/0.875 of the input, keep its centre.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeguard.bundle.manifest import InputSpec
from edgeguard.kernels.frame import compiled_view
from edgeguard.kernels.image_tensor import encode_levels, fill_pixels, fill_planes, thermometer_table

LETTERBOX_GREY: Final = 114  # what detectors of the YOLO family are trained with
CROP_SHARE: Final = 0.875  # 224 of 256 pixels, the ImageNet evaluation rule


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the frame lies in the model's input: input = frame * scale + offset, per axis, in pixels."""

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float

    def to_frame(self, boxes_xyxy: NDArray[np.float64], frame_size_px: tuple[int, int]) -> NDArray[np.float64]:
        """Map (N, 4) boxes from input pixels to frame pixels, clipped to a frame of (width, height)."""
        scale = np.array([self.scale_x, self.scale_y] * 2)
        offset = np.array([self.offset_x, self.offset_y] * 2)
        limit = np.array([*frame_size_px, *frame_size_px], dtype=np.float64)
        return np.asarray(np.clip((boxes_xyxy - offset) / scale, 0.0, limit))


def place(frame_size_px: tuple[int, int], spec: InputSpec) -> Placement:
    """Return where a frame of (width, height) pixels goes in the input that `spec` describes."""
    (width, height), (input_width, input_height) = frame_size_px, spec.size_px
    if spec.resize == "stretch":
        return Placement(input_width / width, input_height / height, 0.0, 0.0)
    ratios = (input_width / width, input_height / height)
    scale = min(ratios) if spec.resize == "letterbox" else max(ratios) / CROP_SHARE
    inner_width, inner_height = max(1, round(width * scale)), max(1, round(height * scale))
    return Placement(
        inner_width / width,
        inner_height / height,
        float(int((input_width - inner_width) / 2)),
        float(int((input_height - inner_height) / 2)),
    )


def image_tensor(pixels: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.float32]:
    """Return the input tensor of an (h, w, 3) uint8 BGR frame, float32, (1, C, H, W) or (1, H, W, C) with three
    channels, or three times as many as there are thermometer levels."""
    if spec.thermometer_levels:
        return _thermometer(pixels, spec)
    gain = np.array([spec.scale / s for s in spec.std], dtype=np.float32)
    bias = np.array([-m / s for m, s in zip(spec.mean, spec.std, strict=True)], dtype=np.float32)
    border = np.float32(LETTERBOX_GREY) * gain + bias
    scaled, (left, top) = _resize(pixels, spec)
    width, height = spec.size_px
    swap = spec.color == "RGB"
    if spec.layout == "NCHW":
        tensor = np.empty((1, 3, height, width), dtype=np.float32)
        fill_planes(scaled, left, top, gain, bias, border, swap, tensor[0])
    else:
        tensor = np.empty((1, height, width, 3), dtype=np.float32)
        fill_pixels(scaled, left, top, gain, bias, border, swap, tensor[0])
    return tensor


def _thermometer(pixels: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.float32]:
    """Return planes of 0 and 1, the levels of the first colour first; where there is no frame they code the border."""
    scaled, (left, top) = _resize(pixels, spec)
    width, height = spec.size_px
    canvas = np.full((height, width, 3), LETTERBOX_GREY, dtype=np.uint8)
    rows, columns = scaled.shape[:2]
    y0, x0 = max(top, 0), max(left, 0)
    inside = scaled[y0 - top : height - top, x0 - left : width - left]
    canvas[y0 : min(top + rows, height), x0 : min(left + columns, width)] = inside
    if spec.color == "RGB":
        canvas = np.ascontiguousarray(canvas[..., ::-1])
    coded = np.empty((height, width, 3, spec.thermometer_levels), dtype=np.float32)
    encode_levels(canvas, thermometer_table(spec.thermometer_levels), coded)
    flat = coded.reshape(height, width, spec.channels)
    return np.ascontiguousarray(flat.transpose(2, 0, 1) if spec.layout == "NCHW" else flat)[None]


def _resize(pixels: NDArray[np.uint8], spec: InputSpec) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Return the frame at the input's scale, and where its corner lies in the input."""
    height, width = pixels.shape[:2]
    at = place((width, height), spec)
    inner = max(1, round(width * at.scale_x)), max(1, round(height * at.scale_y))
    # Averaging is the only interpolation that does not alias when an image shrinks.
    method = cv2.INTER_AREA if at.scale_x < 1.0 and at.scale_y < 1.0 else cv2.INTER_LINEAR
    scaled = pixels if inner == (width, height) else cv2.resize(pixels, inner, interpolation=method)
    return compiled_view(scaled), (int(at.offset_x), int(at.offset_y))
