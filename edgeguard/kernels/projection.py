"""Lidar points onto the camera's pixel grid, nearest return first.

A point is inside when its depth is at least `MIN_DEPTH_M` and its pixel, rounded to the nearest centre, lies in the
image. NaN, infinite and absurdly large coordinates fall outside by comparison, never by exception.

Five short passes instead of one long one: a coarse cull without divisions, the survivors side by side, their divisions,
the depth buffer, the answers. The first and third are vectorised, the others branch only on what is rarely true. The
cull is in single precision and lets through whatever it could be wrong about; all else is in double precision, so that
the result is the twin's to the last bit.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeguard.kernels.scratch import Scratch

MIN_DEPTH_M = 0.1  # nearer than any lens; keeps the division finite
SINGLE = 1e-6  # share of its terms by which a sum of four products is wrong in single precision, three times over
HUGE_M = 1e15  # coordinates whose products may not be finite in single precision
_ONE = np.uint64(1)
_TWO = np.uint64(2)
_THREE = np.uint64(3)
_EIGHT = np.uint64(8)
_BLOCK = np.uint64(2_048)
_scratch = Scratch()


# sums that are fused round otherwise than the exact pass does: the slack covers both
@njit("void(f4[::1], f4[:,::1], f4[::1], b1[::1])", cache=True, nogil=True, fastmath={"contract"})
def _cull(
    flat: NDArray[np.float32], P: NDArray[np.float32], limits: NDArray[np.float32], maybe: NDArray[np.bool_]
) -> None:
    """Whether each point may be inside, in single precision and without dividing. P, limits: of `_centred`."""
    p00, p01, p02, p03 = P[0, 0], P[0, 1], P[0, 2], P[0, 3]
    p10, p11, p12, p13 = P[1, 0], P[1, 1], P[1, 2], P[1, 3]
    p20, p21, p22, p23 = P[2, 0], P[2, 1], P[2, 2], P[2, 3]
    half_width, half_height, share, slack, huge = limits[0], limits[1], limits[2], limits[3], limits[4]
    for i in range(np.uint64(maybe.shape[0])):
        j = i * _THREE
        x, y, z = flat[j], flat[j + _ONE], flat[j + _TWO]
        size = abs(x) + abs(y) + abs(z)
        w = p20 * x + p21 * y + p22 * z + p23
        u = abs(p00 * x + p01 * y + p02 * z + p03)
        v = abs(p10 * x + p11 * y + p12 * z + p13)
        off = share * size + slack
        maybe[i] = ((w + off > np.float32(0.0)) & (u < half_width * w + off) & (v < half_height * w + off)) | (
            size > huge
        )


@lru_cache(maxsize=16)
def _centred(flat: bytes, width: int, height: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """P, given as its bytes, with pixels counted from the image's middle; and the limits of `_cull`.

    These are half of the width and of the height with a pixel to spare; the share of |x| + |y| + |z| and the constant
    by which single precision may be wrong about any of the three; and the size beyond which it says nothing.
    """
    half = np.array((0.5 * width, 0.5 * height))
    P = np.frombuffer(flat).reshape(3, 4)
    centred = P.copy()
    centred[:2] -= (half - 0.5)[:, None] * P[2]
    size = np.abs(P[2]) * (half.max() + 1.0) + np.abs(centred).max(axis=0)
    share, slack = SINGLE * float(size[:3].max()), SINGLE * float(size[3])
    return centred.astype(np.float32), np.array((*(half + 1.0), share, slack, HUGE_M), np.float32)


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
        inside = (w >= MIN_DEPTH_M) & (w < np.inf) & (u >= 0.0) & (u < right) & (v >= 0.0) & (v < low)
        index = np.int32(v) * width + np.int32(u)  # what is not negative is rounded down by cutting
        place[t] = index if inside else np.int32(-1)
        near[t] = np.float32(w)


@njit("i8(f4[::1], f4[:,::1], f4[::1], b1[::1], u8[::1], i4[::1], f4[:,::1])", cache=True, nogil=True)
def _collect(
    flat: NDArray[np.float32],
    P: NDArray[np.float32],
    limits: NDArray[np.float32],
    maybe: NDArray[np.bool_],
    eights: NDArray[np.uint64],
    who: NDArray[np.int32],
    kept: NDArray[np.float32],
) -> int:
    """Number and coordinates of the points that may be inside; maybe, eights: scratch, the flags of a block twice.

    Block by block, so that what is culled is still at hand when it is collected.
    """
    n = np.uint64(flat.shape[0]) // _THREE
    xs, ys, zs = kept[0], kept[1], kept[2]
    m = first = np.uint64(0)
    for begin in range(np.uint64(0), n, _BLOCK):
        count = min(_BLOCK, n - begin)
        maybe[count : (count + _EIGHT - _ONE) // _EIGHT * _EIGHT] = False  # the flags are read eight at a time
        _cull(flat[_THREE * begin : _THREE * (begin + count)], P, limits, maybe[:count])
        for e in range((count + _EIGHT - _ONE) // _EIGHT):
            if eights[e] == np.uint64(0):
                continue
            for i in range(e * _EIGHT, e * _EIGHT + _EIGHT):
                who[m] = np.int32(begin + i)
                m += np.uint64(maybe[i])
        for t in range(first, m):
            j = np.uint64(who[t]) * _THREE
            xs[t] = flat[j]
            ys[t] = flat[j + _ONE]
            zs[t] = flat[j + _TWO]
        first = m
    return np.int64(m)  # type: ignore[return-value]  # numba hands Python an int


@njit(
    "i8(f4[::1], f4[:,::1], f4[::1], f8[:,::1], i4, i4, b1[::1], u8[::1], i4[::1], f4[:,::1], i4[::1], f4[::1])",
    cache=True,
    nogil=True,
)
def _find(
    flat: NDArray[np.float32],
    single: NDArray[np.float32],
    limits: NDArray[np.float32],
    P: NDArray[np.float64],
    width: int,
    height: int,
    maybe: NDArray[np.bool_],
    eights: NDArray[np.uint64],
    who: NDArray[np.int32],
    kept: NDArray[np.float32],
    place: NDArray[np.int32],
    near: NDArray[np.float32],
) -> int:
    """Number, pixel and depth of the points that may be inside; how many."""
    m: int = _collect(flat, single, limits, maybe, eights, who, kept)
    _divide(kept[0, :m], kept[1, :m], kept[2, :m], P, width, height, place[:m], near[:m])
    return m


@njit("i8(i4[::1], f4[::1], f4[::1])", cache=True, nogil=True)
def _depths(place: NDArray[np.int32], near: NDArray[np.float32], depth: NDArray[np.float32]) -> int:
    """Depth buffer, NaN where empty; how many points are inside."""
    depth[:] = np.nan
    inside = 0
    for t in range(np.uint64(place.shape[0])):
        if place[t] < 0:
            continue
        inside += 1
        q = np.uint64(place[t])
        behind = near[t] >= depth[q]  # false for an empty pixel
        depth[q] = depth[q] if behind else near[t]
    return inside


@njit("void(i4[::1], f4[::1], i4[::1], f4[::1], i4[::1])", cache=True, nogil=True)
def _nearest(
    place: NDArray[np.int32],
    near: NDArray[np.float32],
    who: NDArray[np.int32],
    depth: NDArray[np.float32],
    owner: NDArray[np.int32],
) -> None:
    """Depth buffer, and who gave each pixel its own. owner is read only where this call has written."""
    depth[:] = np.nan
    for t in range(np.uint64(place.shape[0])):
        if place[t] < 0:
            continue
        q = np.uint64(place[t])
        behind = near[t] >= depth[q]  # false for an empty pixel
        depth[q] = depth[q] if behind else near[t]
        owner[q] = owner[q] if behind else who[t]


@njit("i8(i4[::1], f4[::1], i4[::1], i8, f4[::1], i4[::1], i4[::1], b1[::1])", cache=True, nogil=True)
def _answer(
    place: NDArray[np.int32],
    near: NDArray[np.float32],
    who: NDArray[np.int32],
    width: int,
    depth: NDArray[np.float32],
    owner: NDArray[np.int32],
    pixel: NDArray[np.int32],
    visible: NDArray[np.bool_],
) -> int:
    """Depth buffer; column, row and visibility of each point; how many are inside."""
    _nearest(place, near, who, depth, owner)
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
    depth = _scratch.lend("depth", (height, width), np.float32) if out is None else out
    place, near, _ = _inside(xyz, P, width, height)
    return depth, int(_depths(place, near, depth.reshape(-1)))


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
    place, near, who = _inside(xyz, P, width, height)
    owner = _scratch.array("owner", width * height, np.int32)
    inside = _answer(place, near, who, width, depth.reshape(-1), owner, pixel.reshape(-1), visible)
    return depth, pixel, visible, int(inside)


def points_in_columns(
    flat: NDArray[np.float32], P: NDArray[np.float64], width: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Numbers and coordinates of the points that may lie in an image's columns, in any row.

    flat: (3 N,) float32, points as `project_points` takes them, one after the other. P, width: as there.

    Returns (M,) int32 and (3, N) float32, the first M of it theirs; scratch memory that the next call overwrites.
    """
    n = flat.shape[0] // 3
    level = P.copy()
    level[1] = 0.0  # every point is in the middle of the only row
    single, limits = _centred(level.tobytes(), width, 1)
    maybe = _scratch.array("maybe", int(_BLOCK), np.bool_)
    who, kept = _scratch.array("who", n + 8, np.int32), _scratch.array("kept", 3 * n, np.float32).reshape(3, n)
    m = _collect(flat, single, limits, maybe, maybe.view(np.uint64), who, kept)
    return who[:m], kept


def _inside(
    xyz: NDArray[np.float32], P: NDArray[np.float64], width: int, height: int
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]:
    """Pixel index (-1 outside), depth and number of the points that may be inside."""
    n = xyz.shape[0]
    maybe = _scratch.array("maybe", int(_BLOCK), np.bool_)
    who = _scratch.array("who", n + 8, np.int32)  # the last write of a block may be for nobody
    kept = _scratch.array("kept", 3 * n, np.float32).reshape(3, n)
    place, near = _scratch.array("place", n, np.int32), _scratch.array("near", n, np.float32)
    single = _centred(P.tobytes(), width, height)
    m = _find(xyz.reshape(-1), *single, P, width, height, maybe, maybe.view(np.uint64), who, kept, place, near)
    return place[:m], near[:m], who[:m]
