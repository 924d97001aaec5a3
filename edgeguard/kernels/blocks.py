"""Block statistics of camera frames: what changed, how sharp it is, how bright each row is."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeguard.kernels.frame import compiled_view
from edgeguard.kernels.scratch import Scratch

BLOCK_PX = 4  # of the thinned frame: 8 to 12 pixels of the camera, a hand's width of a pedestrian at 12 m
COARSE_PX = 8  # lag of the coarse difference: half of it is a blur that no lens in focus has
SEGMENT_PX = 32
_U = np.uint64
_scratch = Scratch()


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


@njit("void(u1[:,:,::1], i8, i4[:,::1], f8[:,::1])", cache=True, nogil=True)
def _steps(pixels: NDArray[np.uint8], stride: int, line: NDArray[np.int32], out: NDArray[np.float64]) -> None:
    """line: (3, W) scratch, the green of the row, of the next, and of the one eight below."""
    rows, columns = pixels.shape[0], pixels.shape[1]
    n = 0
    for v in range(0, rows - COARSE_PX, stride):
        for k in range(3):
            source = pixels[v + (0 if k == 0 else 1 if k == 1 else COARSE_PX)].reshape(-1)
            green = line[k]
            for u in range(_U(columns)):
                green[u] = source[_U(3) * u + _U(1)]
        for begin in range(0, columns - COARSE_PX - SEGMENT_PX, SEGMENT_PX):
            end = begin + SEGMENT_PX
            here, right = line[0, begin:end], line[0, begin + 1 : end + 1]
            far, below, low = line[0, begin + COARSE_PX : end + COARSE_PX], line[1, begin:end], line[2, begin:end]
            fx = cx = fy = cy = np.int32(0)
            for u in range(_U(SEGMENT_PX)):
                a = here[u]
                d0, d1, d2, d3 = a - right[u], a - far[u], a - below[u], a - low[u]
                fx += d0 * d0
                cx += d1 * d1
                fy += d2 * d2
                cy += d3 * d3
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
    _steps(compiled_view(pixels), stride, _scratch.array("line", 3 * columns, np.int32).reshape(3, columns), out)
    return out


# whole numbers up to 2**24 are exact in single precision, in any order
@njit("f8(u1[::1])", cache=True, nogil=True, fastmath={"reassoc"})
def _line_sum(line: NDArray[np.uint8]) -> float:
    total = np.float32(0.0)
    for u in range(_U(line.shape[0])):
        total += np.float32(line[u])
    return np.float64(total)


@njit("void(u1[:,::1], f4[:,::1])", cache=True, nogil=True)
def _row_means(grey: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    sectors = out.shape[1]
    width = grey.shape[1] // sectors
    for v in range(grey.shape[0]):
        for s in range(sectors):
            out[v, s] = np.float32(_line_sum(grey[v, s * width : (s + 1) * width]) / width)


def row_means(grey: NDArray[np.uint8], sectors: int) -> NDArray[np.float32]:
    """Mean of each row in each of `sectors` equal parts: (H, sectors) float32 from (H, W) uint8, W >= sectors."""
    out = np.empty((grey.shape[0], sectors), np.float32)
    _row_means(grey, out)
    return out


@njit("f8(u1[::1], f4[::1])", cache=True, nogil=True, fastmath={"reassoc"})
def _green_steps(row: NDArray[np.uint8], green: NDArray[np.float32]) -> float:
    """Sum of absolute steps of green along a row of (W, 3); green: 1 at green, else 0, so that no load leaves a gap."""
    total = np.float32(0.0)
    for i in range(_U(green.shape[0])):
        total += green[i] * abs(np.float32(row[i]) - np.float32(row[i + _U(3)]))
    return np.float64(total)


@njit("f8(u1[:,:,::1], i8, f4[::1], u1[::1], i4[:,::1], i8[:,:,::1])", cache=True, nogil=True)
def _thin(
    pixels: NDArray[np.uint8],
    stride: int,
    green: NDArray[np.float32],
    line: NDArray[np.uint8],
    histograms: NDArray[np.int32],
    blocks: NDArray[np.int64],
) -> float:
    """histograms: (4, 256), written in turn, so that no count waits for the one before."""
    histograms[:] = 0
    blocks[:] = 0
    thin_rows, thin_columns = -(-pixels.shape[0] // stride), line.shape[0]
    height, width = thin_rows // blocks.shape[0], thin_columns // blocks.shape[1]
    total = 0.0
    for r in range(thin_rows):
        row = pixels[r * stride].reshape(-1)
        total += _green_steps(row, green)
        for c in range(_U(thin_columns)):
            line[c] = row[_U(3 * stride) * c + _U(1)]
        for c in range(_U(thin_columns)):
            histograms[c & _U(3), _U(line[c])] += np.int32(1)
        if height == 0 or width == 0 or r >= height * blocks.shape[0]:
            continue
        for q in range(blocks.shape[1]):
            plain = square = np.int32(0)
            for c in range(_U(q * width), _U((q + 1) * width)):
                v = np.int32(line[c])
                plain += v
                square += v * v
            blocks[r // height, q, 0] += plain
            blocks[r // height, q, 1] += square
    return total


@lru_cache(maxsize=4)
def _green(columns: int) -> NDArray[np.float32]:
    """1 at green and 0 elsewhere, for each value of a row but its last pixel's."""
    return np.tile(np.array((0, 1, 0), np.float32), max(columns - 1, 0))


def thin_look(
    pixels: NDArray[np.uint8], stride: int, shape: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.float32], float]:
    """Grey levels, contrast and detail of every `stride`-th row and column, green.

    pixels: (H, W, 3) uint8, C-contiguous. Returns the number of thinned pixels at each level, (256,) int64; their
    standard deviation in each of `shape` equal blocks, float32, 0 where there are too few; and the mean absolute step
    from each pixel of those rows to its right neighbour, at full width.
    """
    histograms, blocks = np.empty((4, 256), np.int32), np.empty((*shape, 2), np.int64)
    rows, columns = -(-pixels.shape[0] // stride), -(-pixels.shape[1] // stride)
    line = _scratch.array("thin", columns, np.uint8)
    total = _thin(compiled_view(pixels), stride, _green(pixels.shape[1]), line, histograms, blocks)
    histogram = histograms.sum(axis=0, dtype=np.int64)
    count = max(1, (rows // shape[0]) * (columns // shape[1]))
    mean, square = blocks[:, :, 0] / count, blocks[:, :, 1] / count
    deviation = np.sqrt(np.maximum(square - mean * mean, 0.0)).astype(np.float32)
    return histogram, deviation, float(total / max(1, rows * (pixels.shape[1] - 1)))


@njit("void(f4[:,::1], f4[::1], b1[::1], f4[::1])", cache=True, nogil=True, fastmath={"reassoc"})
def _distances(
    kept: NDArray[np.float32], look: NDArray[np.float32], asked: NDArray[np.bool_], out: NDArray[np.float32]
) -> None:
    n = look.shape[0]
    for k in range(out.shape[0]):
        if not asked[k]:
            out[k] = np.inf
            continue
        line = kept[k]
        total = np.float32(0.0)
        for i in range(_U(n)):
            total += abs(line[i] - look[i])
        out[k] = total / np.float32(n)


def mean_distances(
    kept: NDArray[np.float32], look: NDArray[np.float32], asked: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Mean absolute difference of each row that is asked for from `look`, inf for the others.

    kept: (K, M) float32, C-contiguous; look: (M,) float32; asked: (K,) bool. Returns (K,) float32.
    """
    out = np.empty(kept.shape[0], np.float32)
    _distances(kept, look, asked, out)
    return out
