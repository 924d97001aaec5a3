"""NumPy twins of the image kernels: the same definitions, written for reading."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def tensor_planes(
    pixels: NDArray[np.uint8],
    corner: tuple[int, int],
    gain: NDArray[np.float32],
    bias: NDArray[np.float32],
    border: NDArray[np.float32],
    *,
    swap: bool,
    size: tuple[int, int],
) -> NDArray[np.float32]:
    """Twin of `image_tensor.fill_planes`; corner is (left, top), size is (width, height)."""
    width, height = size
    out = np.tile(border[:, None, None], (1, height, width)).astype(np.float32)
    left, top = corner
    ordered = pixels[:, :, ::-1] if swap else pixels
    values = (ordered.astype(np.float32) * gain + bias).transpose(2, 0, 1)
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + pixels.shape[1], width), min(top + pixels.shape[0], height)
    if x0 < x1 and y0 < y1:
        out[:, y0:y1, x0:x1] = values[:, y0 - top : y1 - top, x0 - left : x1 - left]
    return out


def second_differences(pixels: NDArray[np.uint8], block: int) -> NDArray[np.float32]:
    """Twin of `image_noise.second_differences`."""
    p = pixels.astype(np.int32)
    vertical = p[:-2] - 2 * p[1:-1] + p[2:]
    both = np.abs(vertical[:, :-2] - 2 * vertical[:, 1:-1] + vertical[:, 2:])
    full = np.full(pixels.shape, np.nan)
    full[1:-1, 1:-1] = both
    rows, columns = pixels.shape[0] // block, pixels.shape[1] // block
    cut = full[: rows * block, : columns * block].reshape(rows, block, columns, block, 3)
    return np.asarray(np.nanmean(cut, axis=(1, 3)), dtype=np.float32)


def entropy_windows(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Twin of `image_noise.entropy_windows`: the entropy of each window's histogram, by its definition."""
    rows, columns = grey.shape[0] // 8 - 2, grey.shape[1] // 8 - 2
    out = np.empty((rows, columns), dtype=np.float32)
    for y in range(rows):
        for x in range(columns):
            window = grey[y * 8 : y * 8 + 24, x * 8 : x * 8 + 24] >> 3
            share = np.bincount(window.ravel(), minlength=32) / window.size
            share = share[share > 0]
            out[y, x] = -(share * np.log2(share)).sum()
    return out


def chambolle(pixels: NDArray[np.uint8], weight: float, iterations: int) -> NDArray[np.float64]:
    """Twin of `total_variation.chambolle` in float64; levels 0..255, not rounded."""
    f = pixels.astype(np.float64) / 255.0
    px, py = np.zeros_like(f), np.zeros_like(f)

    def divergence() -> NDArray[np.float64]:
        d = px + py
        d[:, 1:] -= px[:, :-1]
        d[1:] -= py[:-1]
        return d

    for _ in range(iterations):
        d = divergence() - f / weight
        gx, gy = np.zeros_like(f), np.zeros_like(f)
        gx[:, :-1] = d[:, 1:] - d[:, :-1]
        gy[:-1] = d[1:] - d[:-1]
        scale = 1.0 / (1.0 + 0.25 * np.hypot(gx, gy))
        px, py = (px + 0.25 * gx) * scale, (py + 0.25 * gy) * scale
    return np.asarray((f - weight * divergence()) * 255.0)
