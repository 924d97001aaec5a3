"""Block statistics of camera frames: what changed, how sharp it is, how bright each row is."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

BLOCK_PX = 4  # of the thinned frame: 8 to 12 pixels of the camera, a hand's width of a pedestrian at 12 m
COARSE_PX = 8  # lag of the coarse difference: half of it is a blur that no lens in focus has
SEGMENT_PX = 32
_U = np.uint64


@njit("void(u1[:,::1], u1[:,::1], f4[:,::1], f4[:,::1])", cache=True, nogil=True)
def _changes(
    grey: NDArray[np.uint8], before: NDArray[np.uint8], mean: NDArray[np.float32], change: NDArray[np.float32]
) -> None:
    columns = mean.shape[1]
    width = _U(columns * BLOCK_PX)
    total = np.zeros(columns * BLOCK_PX, np.int32)
    differ = np.zeros(columns * BLOCK_PX, np.int32)
    share = np.float32(1.0 / (BLOCK_PX * BLOCK_PX))
    for r in range(mean.shape[0]):
        total[:] = 0
        differ[:] = 0
        for v in range(r * BLOCK_PX, (r + 1) * BLOCK_PX):
            now, then = grey[v], before[v]
            for u in range(width):
                a = np.int32(now[u])
                total[u] += a
                differ[u] += abs(a - np.int32(then[u]))
        for c in range(columns):
            s = d = 0
            for u in range(c * BLOCK_PX, (c + 1) * BLOCK_PX):
                s += total[u]
                d += differ[u]
            mean[r, c] = s * share
            change[r, c] = d * share


def block_changes(
    grey: NDArray[np.uint8], before: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean brightness, and mean absolute change against another frame, of each block of 4 x 4 pixels.

    grey, before: (H, W) uint8, C-contiguous, same shape. Returns two (H // 4, W // 4) float32; the rest is left out.
    """
    shape = (grey.shape[0] // BLOCK_PX, grey.shape[1] // BLOCK_PX)
    mean, change = np.empty(shape, np.float32), np.empty(shape, np.float32)
    _changes(grey, before, mean, change)
    return mean, change


@njit("void(u1[:,:,::1], i8, f8[:,::1])", cache=True, nogil=True)
def _steps(pixels: NDArray[np.uint8], stride: int, out: NDArray[np.float64]) -> None:
    rows, columns = pixels.shape[0], pixels.shape[1]
    n = 0
    for v in range(0, rows - COARSE_PX, stride):
        for begin in range(0, columns - COARSE_PX - SEGMENT_PX, SEGMENT_PX):
            fx = cx = fy = cy = 0
            for u in range(begin, begin + SEGMENT_PX):
                a = int(pixels[v, u, 1])
                d = a - int(pixels[v, u + 1, 1])
                fx += d * d
                d = a - int(pixels[v, u + COARSE_PX, 1])
                cx += d * d
                d = a - int(pixels[v + 1, u, 1])
                fy += d * d
                d = a - int(pixels[v + COARSE_PX, u, 1])
                cy += d * d
            out[n, 0] = fx / SEGMENT_PX
            out[n, 1] = cx / SEGMENT_PX
            out[n, 2] = fy / SEGMENT_PX
            out[n, 3] = cy / SEGMENT_PX
            n += 1


def brightness_steps(pixels: NDArray[np.uint8], stride: int) -> NDArray[np.float64]:
    """Mean squared steps of brightness over one and over eight pixels, sideways and down, along pieces of rows.

    pixels: (H, W, 3) uint8, C-contiguous. stride: every so many rows. Returns (M, 4) float64, squared grey levels: one
    right, eight right, one down, eight down, for each piece of 32 pixels.
    """
    rows, columns = pixels.shape[:2]
    lines = len(range(0, rows - COARSE_PX, stride))
    pieces = len(range(0, columns - COARSE_PX - SEGMENT_PX, SEGMENT_PX))
    out = np.empty((lines * pieces, 4), np.float64)
    _steps(pixels, stride, out)
    return out


@njit("void(u1[:,::1], f4[:,::1])", cache=True, nogil=True)
def _row_means(grey: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    sectors = out.shape[1]
    width = grey.shape[1] // sectors
    for v in range(grey.shape[0]):
        for s in range(sectors):
            total = 0
            for u in range(s * width, (s + 1) * width):
                total += grey[v, u]
            out[v, s] = np.float32(total / width)


def row_means(grey: NDArray[np.uint8], sectors: int) -> NDArray[np.float32]:
    """Mean of each row in each of `sectors` equal parts: (H, sectors) float32 from (H, W) uint8, W >= sectors."""
    out = np.empty((grey.shape[0], sectors), np.float32)
    _row_means(grey, out)
    return out
