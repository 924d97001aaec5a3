"""From a resized frame to a model's input tensor in one pass: placement, colour order, scale and layout.

NumPy makes five arrays of the tensor's size for the same result. The arithmetic is `pixel * gain + bias` in float32, in
that order and without contraction, so kernel and twin agree to the bit.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit("void(u1[:,:,::1], i8, i8, f4[::1], f4[::1], f4[::1], b1, f4[:,:,::1])", cache=True, nogil=True)
def fill_planes(
    pixels: NDArray[np.uint8],
    left: int,
    top: int,
    gain: NDArray[np.float32],
    bias: NDArray[np.float32],
    border: NDArray[np.float32],
    swap: bool,
    out: NDArray[np.float32],
) -> None:
    """Write a frame into planes.

    pixels: (h, w, 3) uint8; its corner lies at (left, top) of the output, either of which may be negative. gain, bias,
    border: (3,) float32 in the order of the output's planes; `border` is the tensor value where there is no frame.
    swap: the output's planes are in the reverse of the frame's colour order. out: (3, H, W) float32.
    """
    h, w = pixels.shape[0], pixels.shape[1]
    height, width = out.shape[1], out.shape[2]
    x0, x1 = max(left, 0), min(left + w, width)
    y0, y1 = max(top, 0), min(top + h, height)
    for y in range(height):
        inside = y0 <= y < y1 and x0 < x1
        for c in range(3):
            plane = out[c, y]
            if not inside:
                plane[:] = border[c]
                continue
            plane[:x0] = border[c]
            plane[x1:] = border[c]
            g, b = gain[c], bias[c]
            source = pixels[y - top, x0 - left : x1 - left, 2 - c if swap else c]
            target = plane[x0:x1]
            for x in range(x1 - x0):
                target[x] = np.float32(source[x]) * g + b


@njit("void(u1[:,:,::1], i8, i8, f4[::1], f4[::1], f4[::1], b1, f4[:,:,::1])", cache=True, nogil=True)
def fill_pixels(
    pixels: NDArray[np.uint8],
    left: int,
    top: int,
    gain: NDArray[np.float32],
    bias: NDArray[np.float32],
    border: NDArray[np.float32],
    swap: bool,
    out: NDArray[np.float32],
) -> None:
    """As `fill_planes`, for an interleaved output. out: (H, W, 3) float32."""
    h, w = pixels.shape[0], pixels.shape[1]
    height, width = out.shape[0], out.shape[1]
    for y in range(height):
        inside_rows = top <= y < top + h
        for x in range(width):
            inside = inside_rows and left <= x < left + w
            for c in range(3):
                source = 2 - c if swap else c
                if inside:
                    out[y, x, c] = np.float32(pixels[y - top, x - left, source]) * gain[c] + bias[c]
                else:
                    out[y, x, c] = border[c]


@njit("void(u1[:,:,::1], f4[:,::1], f4[:,:,:,::1])", cache=True, nogil=True)
def encode_levels(pixels: NDArray[np.uint8], table: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Replace every value by a vector.

    pixels: (H, W, C) uint8. table: (256, L) float32, the vector of each value. out: (H, W, C, L) float32. Thermometer
    codes are made this way (Buckman et al., ICLR 2018).
    """
    levels = table.shape[1]
    for y in range(pixels.shape[0]):
        for x in range(pixels.shape[1]):
            for c in range(pixels.shape[2]):
                value = pixels[y, x, c]
                for k in range(levels):
                    out[y, x, c, k] = table[value, k]


def thermometer_table(levels: int) -> NDArray[np.float32]:
    """Return the (256, levels) float32 thermometer codes: element k of value v is 1 where v exceeds k / levels of full
    scale, the first always 1.

    Source: Buckman et al. (ICLR 2018), by the definition of adversarial-robustness-toolbox.
    """
    position = np.zeros(256, dtype=np.int64)
    values = np.arange(256, dtype=np.float32) / np.float32(255.0)
    for k in range(1, levels):
        position += values > k / levels
    return np.asarray(position[:, None] >= np.arange(levels)[None, :], dtype=np.float32)
