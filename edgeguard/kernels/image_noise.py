"""Noise and entropy of a picture, block by block.

The noise is the second difference in both directions, [1 -2 1] x [1 -2 1], which cancels everything that is locally
plane (Immerkaer, "Fast Noise Variance Estimation", CVIU 64(2), 1996). Blocks instead of one number, because a
perturbation is everywhere and texture is not: the quiet blocks tell them apart.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeguard.kernels.scratch import Scratch

_SCRATCH = Scratch()

BINS = 32  # of the histogram: 8 grey levels each, so that sensor noise does not look like information
BLOCK_PX = 16  # small enough for quiet places in a 224-pixel frame, large enough for a mean over 256 pixels
CELL_PX = 8
WINDOW_CELLS = 3  # a window of 24 x 24 pixels, moved by one cell


@njit("void(u1[:,:,::1], i8, f4[::1], f4[::1], f4[:,:,::1])", cache=True, nogil=True)
def second_differences(
    pixels: NDArray[np.uint8],
    block: int,
    row: NDArray[np.float32],
    sums: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Mean absolute second difference of each block and channel.

    pixels: (H, W, 3) uint8, H and W >= 3. row, sums: (W * 3,) float32 scratch; all sums are whole numbers below 2^24,
    so they are exact. out: (H // block, W // block, 3) float32; the pixels at the frame's border have no second
    difference and do not count.
    """
    height, width = pixels.shape[0], pixels.shape[1]
    n = width * 3
    two = np.float32(2.0)
    left_of, here, right_of = row[: n - 6], row[3 : n - 3], row[6:]
    inner = sums[3 : n - 3]
    for by in range(out.shape[0]):
        first, last = max(by * block, 1), min((by + 1) * block, height - 1)
        sums[:] = np.float32(0.0)
        for y in range(first, last):
            above, at, below = pixels[y - 1].reshape(n), pixels[y].reshape(n), pixels[y + 1].reshape(n)
            for i in range(n):
                row[i] = np.float32(above[i]) - two * np.float32(at[i]) + np.float32(below[i])
            for i in range(n - 6):
                inner[i] += abs(left_of[i] - two * here[i] + right_of[i])
        for bx in range(out.shape[1]):
            left, right = max(bx * block, 1), min((bx + 1) * block, width - 1)
            count = np.float32((last - first) * (right - left))
            for c in range(3):
                total = np.float32(0.0)
                for x in range(left, right):
                    total += sums[x * 3 + c]
                out[by, bx, c] = total / count if count > 0 else np.float32(0.0)


def block_noise(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the mean absolute second difference of each block of 16 x 16 pixels and channel.

    pixels: (H, W, 3) uint8, contiguous. Returns (H // 16, W // 16, 3) float32, empty for a frame under 16 pixels.
    """
    height, width = pixels.shape[:2]
    blocks = np.empty((height // BLOCK_PX, width // BLOCK_PX, 3), dtype=np.float32)
    if blocks.size:
        row, sums = (_SCRATCH.array(name, width * 3, np.float32) for name in ("row", "sums"))
        second_differences(pixels, BLOCK_PX, row, sums, blocks)
    return blocks


@njit("void(u1[:,::1], u2[:,:,::1], f4[::1], f4[:,::1])", cache=True, nogil=True)
def entropy_windows(
    grey: NDArray[np.uint8], cells: NDArray[np.uint16], weights: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """Entropy of the grey levels in every window of 3 x 3 cells of 8 x 8 pixels, bits.

    grey: (H, W) uint8. cells: (H // 8, W // 8, 32) uint16 scratch. weights: (577,) float32, n * log2(n) of each count
    (`entropy_weights`). out: (H // 8 - 2, W // 8 - 2) float32.
    """
    rows, columns = cells.shape[0], cells.shape[1]
    for cy in range(rows):
        for cx in range(columns):
            for k in range(BINS):
                cells[cy, cx, k] = 0
        for y in range(cy * CELL_PX, (cy + 1) * CELL_PX):
            for x in range(columns * CELL_PX):
                cells[cy, x >> 3, grey[y, x] >> 3] += np.uint16(1)
    total = np.float32(WINDOW_CELLS * WINDOW_CELLS * CELL_PX * CELL_PX)
    log_total = np.float32(np.log2(total))
    for cy in range(out.shape[0]):
        for cx in range(out.shape[1]):
            weighted = np.float32(0.0)
            for k in range(BINS):
                count = np.uint32(0)
                for dy in range(WINDOW_CELLS):
                    for dx in range(WINDOW_CELLS):
                        count += cells[cy + dy, cx + dx, k]
                weighted += weights[count]
            out[cy, cx] = log_total - weighted / total


def entropy_weights() -> NDArray[np.float32]:
    """n * log2(n) for every count that a window can hold; 0 for 0."""
    n = np.arange((WINDOW_CELLS * CELL_PX) ** 2 + 1, dtype=np.float64)
    return np.asarray(n * np.log2(np.maximum(n, 1.0)), dtype=np.float32)
