"""Lidar points onto the camera's pixel grid, nearest return first.

A point is inside when its depth is at least `MIN_DEPTH_M` and its pixel, rounded to the nearest centre, lies in the
image. NaN, infinite and absurdly large coordinates fall outside by comparison, never by exception.

Five short passes instead of one long one: a coarse cull without divisions, the survivors side by side, their divisions,
the depth buffer, the answers. The first and third are vectorised, the others branch only on what is rarely true. All
arithmetic is in double precision, so that the result is the twin's to the last bit.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeguard.kernels.scratch import Scratch

MIN_DEPTH_M = 0.1  # nearer than any lens; keeps the division finite
_ONE = np.uint64(1)
_TWO = np.uint64(2)
_THREE = np.uint64(3)
_EIGHT = np.uint64(8)
_scratch = Scratch()


@njit("void(f4[::1], f8[:,::1], f8, f8, b1[::1])", cache=True, nogil=True)
def _cull(
    flat: NDArray[np.float32], P: NDArray[np.float64], width: float, height: float, maybe: NDArray[np.bool_]
) -> None:
    """Whether each point may be inside: the image with a pixel to spare on each side, tested without dividing."""
    p00, p01, p02, p03 = P[0, 0], P[0, 1], P[0, 2], P[0, 3]
    p10, p11, p12, p13 = P[1, 0], P[1, 1], P[1, 2], P[1, 3]
    p20, p21, p22, p23 = P[2, 0], P[2, 1], P[2, 2], P[2, 3]
    right = width + 1.0
    low = height + 1.0
    for i in range(np.uint64(maybe.shape[0])):
        j = i * _THREE
        x = float(flat[j])
        y = float(flat[j + _ONE])
        z = float(flat[j + _TWO])
        w = p20 * x + p21 * y + p22 * z + p23
        u = p00 * x + p01 * y + p02 * z + p03
        v = p10 * x + p11 * y + p12 * z + p13
        maybe[i] = (w >= MIN_DEPTH_M) & (w < np.inf) & (u > -w) & (u < right * w) & (v > -w) & (v < low * w)


@njit("i8(f4[::1], b1[::1], u8[::1], i4[::1], f4[:,::1])", cache=True, nogil=True)
def _collect(
    flat: NDArray[np.float32],
    maybe: NDArray[np.bool_],
    eights: NDArray[np.uint64],
    who: NDArray[np.int32],
    kept: NDArray[np.float32],
) -> int:
    """Number and coordinates of the points that may be inside. eights: `maybe`, eight flags at a time."""
    m = np.uint64(0)
    for e in range(np.uint64(eights.shape[0])):
        if eights[e] == np.uint64(0):
            continue
        for i in range(e * _EIGHT, e * _EIGHT + _EIGHT):
            who[m] = np.int32(i)
            m += np.uint64(maybe[i])
    for t in range(m):
        j = np.uint64(who[t]) * _THREE
        kept[0, t] = flat[j]
        kept[1, t] = flat[j + _ONE]
        kept[2, t] = flat[j + _TWO]
    return np.int64(m)  # type: ignore[return-value]  # numba hands Python an int


# a division by zero gives inf or NaN, as in NumPy: the test for it would keep the loop from being vectorised
@njit(
    "void(f4[::1], f4[::1], f4[::1], f8[:,::1], i4, i4, i4[::1], f4[::1])", cache=True, nogil=True, error_model="numpy"
)
def _divide(
    xs: NDArray[np.float32],
    ys: NDArray[np.float32],
    zs: NDArray[np.float32],
    P: NDArray[np.float64],
    width: int,
    height: int,
    place: NDArray[np.int32],
    near: NDArray[np.float32],
) -> None:
    """Index of the pixel (row by row), -1 outside, and depth in metres. place: one element per point."""
    p00, p01, p02, p03 = P[0, 0], P[0, 1], P[0, 2], P[0, 3]
    p10, p11, p12, p13 = P[1, 0], P[1, 1], P[1, 2], P[1, 3]
    p20, p21, p22, p23 = P[2, 0], P[2, 1], P[2, 2], P[2, 3]
    right = float(width)
    low = float(height)
    for t in range(np.uint64(place.shape[0])):
        x = float(xs[t])
        y = float(ys[t])
        z = float(zs[t])
        w = p20 * x + p21 * y + p22 * z + p23
        u = (p00 * x + p01 * y + p02 * z + p03) / w + 0.5
        v = (p10 * x + p11 * y + p12 * z + p13) / w + 0.5
        inside = (u >= 0.0) & (u < right) & (v >= 0.0) & (v < low)
        index = np.int32(v) * width + np.int32(u)  # what is not negative is rounded down by cutting
        place[t] = index if inside else np.int32(-1)
        near[t] = np.float32(w)


@njit("void(i4[::1], f4[::1], i4[::1], f4[::1], i4[::1])", cache=True, nogil=True)
def _nearest(
    place: NDArray[np.int32],
    near: NDArray[np.float32],
    who: NDArray[np.int32],
    depth: NDArray[np.float32],
    owner: NDArray[np.int32],
) -> None:
    """Depth buffer, NaN where empty. owner is read only where this call has written."""
    depth[:] = np.nan
    for t in range(np.uint64(place.shape[0])):
        if place[t] < 0:
            continue
        q = np.uint64(place[t])
        behind = near[t] >= depth[q]  # false for an empty pixel
        depth[q] = depth[q] if behind else near[t]
        owner[q] = owner[q] if behind else who[t]


@njit("i8(i4[::1], i4[::1], i4[::1], i8, i4[::1], b1[::1])", cache=True, nogil=True)
def _answer(
    place: NDArray[np.int32],
    who: NDArray[np.int32],
    owner: NDArray[np.int32],
    width: int,
    pixel: NDArray[np.int32],
    visible: NDArray[np.bool_],
) -> int:
    """Column, row and visibility of each point; how many are inside."""
    pixel[:] = -1
    visible[:] = False
    columns = np.uint32(width)
    inside = 0
    for t in range(np.uint64(place.shape[0])):
        if place[t] < 0:
            continue
        q = np.uint32(place[t])
        i = np.uint64(who[t])
        row = q // columns
        pixel[_TWO * i] = np.int32(q - row * columns)
        pixel[_TWO * i + _ONE] = np.int32(row)
        visible[i] = owner[np.uint64(q)] == who[t]
        inside += 1
    return inside


def depth_image(
    xyz: NDArray[np.float32],
    P: NDArray[np.float64],
    width: int,
    height: int,
    out: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], int]:
    """Depth of the nearest return per pixel, and how many points are inside: `project_points` without the points.

    Arguments as there. out: (height, width) float32, C-contiguous, written and returned instead of a new array.
    """
    depth, place, _, _ = _buffer(xyz, P, width, height, out)
    return depth, int(np.count_nonzero(place >= 0))


def project_points(
    xyz: NDArray[np.float32],
    P: NDArray[np.float64],
    width: int,
    height: int,
    out: tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.bool_]] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.bool_], int]:
    """Project points and keep the nearest per pixel.

    Args:
        xyz: (N, 3) float32, metres, lidar frame, C-contiguous.
        P: (3, 4) float64, `K @ T_cam_lidar[:3]` with the last row of K equal to (0, 0, 1), so that the third
            coordinate of the product is the depth.
        width, height: image size in pixels.
        out: depth, pixel and visible of the shapes and types below, C-contiguous, written and returned instead of
            new arrays.

    Returns:
        depth (height, width) float32 in metres, NaN where no return; pixel (N, 2) int32 as (column, row), -1 where
        outside; visible (N,) bool, true for the return that gave its pixel the depth (first of equals); and how many
        points are inside.
    """
    n = xyz.shape[0]
    if out is None:
        out = (
            np.empty((height, width), dtype=np.float32),
            np.empty((n, 2), dtype=np.int32),
            np.empty(n, dtype=np.bool_),
        )
    depth, pixel, visible = out
    _, place, who, owner = _buffer(xyz, P, width, height, depth)
    inside = _answer(place, who, owner, width, pixel.reshape(-1), visible)
    return depth, pixel, visible, int(inside)


def _buffer(
    xyz: NDArray[np.float32], P: NDArray[np.float64], width: int, height: int, out: NDArray[np.float32] | None
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Depth; pixel index and number of the points that may be inside; the owner of each pixel."""
    depth = np.empty((height, width), dtype=np.float32) if out is None else out
    n = xyz.shape[0]
    flat = xyz.reshape(-1)
    whole = -(-n // 8)  # the flags are read eight at a time
    maybe = _scratch.array("maybe", 8 * whole, np.bool_)
    maybe[n:] = False
    _cull(flat, P, width, height, maybe[:n])
    who = _scratch.array("who", 8 * whole + 1, np.int32)  # the last write of a full block may be for nobody
    kept = _scratch.array("kept", 3 * n, np.float32).reshape(3, n)
    m = _collect(flat, maybe, maybe.view(np.uint64), who, kept)
    place = _scratch.array("place", n, np.int32)[:m]
    near = _scratch.array("near", n, np.float32)[:m]
    _divide(kept[0, :m], kept[1, :m], kept[2, :m], P, width, height, place, near)
    owner = _scratch.array("owner", width * height, np.int32)
    _nearest(place, near, who[:m], depth.reshape(-1), owner)
    return depth, place, who, owner
