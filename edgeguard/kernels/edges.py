"""Where depth jumps in a sweep, where brightness jumps in an image, and how well the two coincide.

After Levinson & Thrun (RSS 2013): every depth edge of the sweep is looked up in a field of image edges that fades with
distance. Edges between neighbours of one scan line run upright and are held against upright image edges; edges between
scan lines lie flat and are held against flat ones.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

UPRIGHT, FLAT = 0, 1
REACH_CELLS = 3  # a beam may find nothing, and coarse lidars leave cells empty
MIN_JUMP_M = 0.5
MIN_JUMP_SHARE = 0.08  # of the depth: a road seen at a flat angle steps from ring to ring
NEAR_M, FAR_M = 2.5, 60.0  # nearer, the lever arm between the sensors hides; farther, a beam is wider than the things
INK_FAR_M = 35.0  # paint, kerbs and plates; farther, the beam mixes them
MIN_INK = 0.1  # step of reflectance between two pairs of returns on one surface
MAX_ROUGH = 0.4  # what the pairs may differ within, as a share of the step: speckle has no flat sides
GRID_ROWS = 100  # of the elevation rows of `ranges.to_spherical`
_THREE = np.uint64(3)
_ONE = np.uint64(1)
_TWO = np.uint64(2)


@njit("void(f4[::1], i2[::1], f8[:,::1], f8, i8, f4[:,::1], i4[:,::1])", cache=True, nogil=True, error_model="numpy")
def _fill(
    flat: NDArray[np.float32],
    row: NDArray[np.int16],
    P: NDArray[np.float64],
    cell_px: float,
    columns: int,
    depth: NDArray[np.float32],
    who: NDArray[np.int32],
) -> None:
    """Nearest point per (elevation row, image column) cell."""
    p00, p01, p02, p03 = P[0, 0], P[0, 1], P[0, 2], P[0, 3]
    p20, p21, p22, p23 = P[2, 0], P[2, 1], P[2, 2], P[2, 3]
    depth[:] = np.inf
    for i in range(np.uint64(row.shape[0])):
        j = i * _THREE
        x, y, z = np.float64(flat[j]), np.float64(flat[j + _ONE]), np.float64(flat[j + _TWO])
        w = p20 * x + p21 * y + p22 * z + p23
        if not (w > NEAR_M) or row[i] < 0:
            continue
        c = (p00 * x + p01 * y + p02 * z + p03) / (w * cell_px)
        if not (c >= 0.0 and c < columns):
            continue
        k, q = np.uint64(row[i]), np.uint64(c)
        if w < depth[k, q]:
            depth[k, q] = np.float32(w)
            who[k, q] = np.int32(i)


@njit("void(f4[::1], i8, i8, f4[::1])", cache=True, nogil=True, error_model="numpy")
def _between(flat: NDArray[np.float32], near: int, far: int, out: NDArray[np.float32]) -> None:
    """The direction between two returns at the range of the nearer: the edge lies somewhere between the beams."""
    rn = np.sqrt(flat[near] ** 2 + flat[near + 1] ** 2 + flat[near + 2] ** 2)
    rf = np.sqrt(flat[far] ** 2 + flat[far + 1] ** 2 + flat[far + 2] ** 2)
    for a in range(3):
        out[a] = np.float32(0.5) * (flat[near + a] + flat[far + a] * rn / rf)


@njit("i8(f4[:,::1], i4[:,::1], f4[::1], f4[::1], f4[:,::1], i8, i8)", cache=True, nogil=True)
def _walk(
    depth: NDArray[np.float32],
    who: NDArray[np.int32],
    flat: NDArray[np.float32],
    intensity: NDArray[np.float32],
    out: NDArray[np.float32],
    count: int,
    along: int,
) -> int:
    """Append every jump and step along one axis of the grid to `out`; returns the new count."""
    rows, columns = depth.shape
    lines, steps = (rows, columns) if along == UPRIGHT else (columns, rows)
    for a in range(lines):
        last, last_at, before = np.float32(0.0), -100, np.float32(0.0)
        run, at1, at2 = 0, 0, 0
        i1, i2, i3 = np.float32(0.0), np.float32(0.0), np.float32(0.0)
        for b in range(steps):
            k, q = (a, b) if along == UPRIGHT else (b, a)
            d = depth[k, q]
            if d == np.inf:
                continue
            if b - last_at <= REACH_CELLS:
                near = min(d, last)
                jump = abs(d - last)
                # A slope steps by the same again and again; only what exceeds its last step is an edge.
                steady = abs(last - before) if before > 0.0 else np.float32(0.0)
                if near < FAR_M and jump > MIN_JUMP_M + MIN_JUMP_SHARE * near + 2.0 * min(steady, jump * 0.4):
                    at = b if d < last else last_at
                    kk, qq = (a, at) if along == UPRIGHT else (at, a)
                    other = last_at if at == b else b
                    ko, qo = (a, other) if along == UPRIGHT else (other, a)
                    if count < out.shape[0]:
                        _between(flat, 3 * who[kk, qq], 3 * who[ko, qo], out[count])
                        out[count, 3] = np.float32(along)
                        count += 1
                run = run + 1 if jump < MIN_JUMP_M else 0
                ink = intensity[who[k, q]]
                step = np.float32(0.5) * abs(ink + i1 - i2 - i3)
                rough = abs(ink - i1) + abs(i2 - i3)
                painted = run >= 3 and near < INK_FAR_M and step > MIN_INK and rough < MAX_ROUGH * step
                if painted and count < out.shape[0]:
                    k1, q1 = (a, at1) if along == UPRIGHT else (at1, a)
                    k2, q2 = (a, at2) if along == UPRIGHT else (at2, a)
                    _between(flat, 3 * who[k1, q1], 3 * who[k2, q2], out[count])
                    out[count, 3] = np.float32(along)
                    count += 1
                before = last
            else:
                before = np.float32(0.0)
                run = 0
            last, last_at = d, b
            i3, i2, i1 = i2, i1, intensity[who[k, q]]
            at2, at1 = at1, b
    return count


def depth_edges(
    xyz: NDArray[np.float32],
    intensity: NDArray[np.float32],
    row: NDArray[np.int16],
    P: NDArray[np.float64],
    width: int,
    cell_px: float,
    limit: int,
) -> NDArray[np.float32]:
    """Places at which depth jumps, or reflectance steps on one surface, inside the camera's columns.

    Args:
        xyz: (N, 3) float32 m, lidar frame, C-contiguous. intensity: (N,) float32, zeros for depth alone.
        row: (N,) int16, 0..GRID_ROWS - 1: elevation row of `ranges.to_spherical`, -1 for points to leave out.
        P: (3, 4) float64, lidar to pixels. width: of the image, pixels. cell_px: width of a grid cell, pixels.
        limit: at most so many.

    Returns (M, 4) float32: x, y, z between the two beams at the nearer's range, and UPRIGHT or FLAT.
    """
    columns = int(np.ceil(width / cell_px))
    depth = np.empty((GRID_ROWS, columns), np.float32)
    who = np.zeros((GRID_ROWS, columns), np.int32)
    flat = xyz.reshape(-1)
    _fill(flat, row, P, cell_px, columns, depth, who)
    out = np.empty((limit, 4), np.float32)
    count = _walk(depth, who, flat, intensity, out, 0, UPRIGHT)
    count = _walk(depth, who, flat, intensity, out, count, FLAT)
    return out[:count]


@njit("void(u1[:,::1], f4[:,:,::1], f4)", cache=True, nogil=True)
def _gradients(grey: NDArray[np.uint8], field: NDArray[np.float32], fade: np.float32) -> None:
    """Relative gradients, spread: two plain scans per direction."""
    rows, columns = grey.shape
    field[:] = np.float32(0.0)
    sum_x = 0.0
    sum_y = 0.0
    for v in range(1, rows - 1):
        for u in range(1, columns - 1):
            gx = abs(np.int32(grey[v, u + 1]) - np.int32(grey[v, u - 1]))
            gy = abs(np.int32(grey[v + 1, u]) - np.int32(grey[v - 1, u]))
            field[0, v, u] = np.float32(gx)
            field[1, v, u] = np.float32(gy)
            sum_x += gx
            sum_y += gy
    n = max(1, (rows - 2) * (columns - 2))
    for a in range(2):
        usual = np.float32((sum_x if a == 0 else sum_y) / n * 1.5 + 4.0)
        plane = field[a]
        for v in range(rows):
            for u in range(columns):
                g = plane[v, u]
                plane[v, u] = g / (g + usual)
        if a == 0:  # an upright edge fades sideways
            for v in range(rows):
                for u in range(1, columns):
                    plane[v, u] = max(plane[v, u], fade * plane[v, u - 1])
                for u in range(columns - 2, -1, -1):
                    plane[v, u] = max(plane[v, u], fade * plane[v, u + 1])
        else:
            for v in range(1, rows):
                for u in range(columns):
                    plane[v, u] = max(plane[v, u], fade * plane[v - 1, u])
            for v in range(rows - 2, -1, -1):
                for u in range(columns):
                    plane[v, u] = max(plane[v, u], fade * plane[v + 1, u])


def edge_field(grey: NDArray[np.uint8], fade: float) -> NDArray[np.float32]:
    """(2, H, W) float32 in 0..1 from (H, W) uint8: upright and flat edges, fading by `fade` per pixel across."""
    field = np.empty((2, *grey.shape), np.float32)
    _gradients(grey, field, np.float32(fade))
    return field


@njit("void(f4[:,::1], f4[:,:,::1], f8[:,:,::1], f8[::1], f8, f4[:,::1])", cache=True, nogil=True, error_model="numpy")
def _lookup(
    edges: NDArray[np.float32],
    field: NDArray[np.float32],
    poses: NDArray[np.float64],
    lens: NDArray[np.float64],
    per_px: float,
    out: NDArray[np.float32],
) -> None:
    rows, columns = field.shape[1], field.shape[2]
    fx, fy, cx, cy = lens[0], lens[1], lens[2], lens[3]
    k1, k2, p1, p2, k3 = lens[4], lens[5], lens[6], lens[7], lens[8]
    for k in range(poses.shape[0]):
        T = poses[k]
        for i in range(edges.shape[0]):
            x, y, z = np.float64(edges[i, 0]), np.float64(edges[i, 1]), np.float64(edges[i, 2])
            w = T[2, 0] * x + T[2, 1] * y + T[2, 2] * z + T[2, 3]
            a = (T[0, 0] * x + T[0, 1] * y + T[0, 2] * z + T[0, 3]) / w
            b = (T[1, 0] * x + T[1, 1] * y + T[1, 2] * z + T[1, 3]) / w
            r2 = a * a + b * b
            radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))
            u = (fx * (a * radial + 2.0 * p1 * a * b + p2 * (r2 + 2.0 * a * a)) + cx) * per_px
            v = (fy * (b * radial + p1 * (r2 + 2.0 * b * b) + 2.0 * p2 * a * b) + cy) * per_px
            if not (w > 1.0 and u >= 2.0 and v >= 2.0 and u < columns - 3.0 and v < rows - 3.0):
                out[k, i] = np.nan
                continue
            kind = np.uint64(edges[i, 3])
            u0, v0 = np.uint64(u), np.uint64(v)
            fu, fv = u - np.float64(u0), v - np.float64(v0)
            low = (1.0 - fu) * field[kind, v0, u0] + fu * field[kind, v0, u0 + _ONE]
            high = (1.0 - fu) * field[kind, v0 + _ONE, u0] + fu * field[kind, v0 + _ONE, u0 + _ONE]
            out[k, i] = np.float32((1.0 - fv) * low + fv * high)


def look_up(
    edges: NDArray[np.float32],
    field: NDArray[np.float32],
    poses: NDArray[np.float64],
    lens: NDArray[np.float64],
    per_px: float,
) -> NDArray[np.float32]:
    """Value of the image's edge field under each depth edge, for each pose: (K, M) float32, NaN outside the image.

    Args:
        edges: (M, 4) of `depth_edges`. field: (2, H, W) of `edge_field`. poses: (K, 3, 4) float64, lidar to camera.
        lens: (9,) float64: fx, fy, cx, cy in full-size pixels, then k1, k2, p1, p2, k3 as OpenCV has them.
        per_px: field pixels per full-size pixel.
    """
    out = np.empty((poses.shape[0], edges.shape[0]), np.float32)
    _lookup(edges, field, poses, lens, per_px, out)
    return out
