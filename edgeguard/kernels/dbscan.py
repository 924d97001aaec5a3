"""Exact DBSCAN (Ester et al., KDD 1996) in three dimensions, on a grid of cells that are cliques.

The cells' diagonal is just under eps (Gunawan 2013; Gan & Tao, SIGMOD 2015): all points of a cell are neighbours, so a
cell with `min_points` points is core without a single distance. Points are sorted by cell, z fastest: what may lie
within eps of a cell is then one run of points per (x, y) column, 25 in all, and as the cells are walked in order the
ends of each run only move forward. No hash table, no limit on the extent other than the sort key.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeguard.kernels.clusters import find_root

NOISE = -1
_REACH = 2  # cells of edge eps / sqrt(3): two to either side hold every neighbour
_SIDE = 2 * _REACH + 1
_COLUMNS = _SIDE * _SIDE
SHRINK = 1.0 - 1e-9  # outweighs the rounding of a quotient below 2**21, so that cells stay cliques
LIMIT = float(1 << 20)  # cells from the origin; three coordinates fit one sort key
_DIGIT = 11  # bits per pass of the radix sort: its counters fit the first-level cache


@njit("Tuple((i8[::1], i4[::1]))(f4[:,::1], f8)", cache=True, nogil=True)
def _keys(xyz: NDArray[np.float32], cell_m: float) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Sort keys of the usable points, and their indices; the first element of the keys is their number of bits."""
    n = xyz.shape[0]
    index = np.empty(n, dtype=np.int32)
    keys = np.empty(n + 1, dtype=np.int64)
    low = np.full(3, np.inf)
    high = np.full(3, -np.inf)
    m = 0
    for i in range(n):
        x = np.floor(float(xyz[i, 0]) / cell_m)
        y = np.floor(float(xyz[i, 1]) / cell_m)
        z = np.floor(float(xyz[i, 2]) / cell_m)
        if not (abs(x) < LIMIT and abs(y) < LIMIT and abs(z) < LIMIT):
            continue
        low[0] = min(low[0], x)
        low[1] = min(low[1], y)
        low[2] = min(low[2], z)
        high[0] = max(high[0], x)
        high[1] = max(high[1], y)
        high[2] = max(high[2], z)
        index[m] = i
        m += 1
    if m == 0:
        keys[0] = 0
        return keys[:1], index[:0]
    # a margin of two cells on every side: a neighbouring column's key then never runs into another row
    bits = np.empty(3, dtype=np.int64)
    for a in range(3):
        bits[a] = 1
        while (1 << bits[a]) < int(high[a] - low[a]) + 1 + 2 * _REACH:
            bits[a] += 1
    keys[0] = bits[2] | (bits[1] << 8) | (bits[0] << 16)
    y_shift = bits[2]
    x_shift = bits[1] + bits[2]
    for k in range(m):
        i = index[k]
        x = int(np.floor(float(xyz[i, 0]) / cell_m) - low[0]) + _REACH
        y = int(np.floor(float(xyz[i, 1]) / cell_m) - low[1]) + _REACH
        z = int(np.floor(float(xyz[i, 2]) / cell_m) - low[2]) + _REACH
        keys[k + 1] = (x << x_shift) | (y << y_shift) | z
    return keys[: m + 1], index[:m]


@njit("void(i8[::1], i4[::1], i8)", cache=True, nogil=True)
def _sort(keys: NDArray[np.int64], index: NDArray[np.int32], bits: int) -> None:
    """Sort keys of `bits` bits, and the indices with them, in place; equal keys keep their order."""
    n = keys.shape[0]
    mask = (1 << _DIGIT) - 1
    a, b = keys, np.empty_like(keys)
    p, q = index, np.empty_like(index)
    passes = (bits + _DIGIT - 1) // _DIGIT
    start = np.empty(mask + 2, dtype=np.int64)
    for turn in range(passes):
        shift = turn * _DIGIT
        start[:] = 0
        for i in range(n):
            start[((a[i] >> shift) & mask) + 1] += 1
        for d in range(mask):
            start[d + 1] += start[d]
        for i in range(n):
            d = (a[i] >> shift) & mask
            to = start[d]
            start[d] = to + 1
            b[to] = a[i]
            q[to] = p[i]
        a, b = b, a
        p, q = q, p
    if passes % 2:  # one by one: copying an array into another would compile half of numba's strings
        for i in range(n):
            keys[i] = a[i]
            index[i] = p[i]


@njit("i8(f8[::1], f8[::1], f8[::1], f8, f8, f8, f8)", cache=True, nogil=True)
def _count(
    x: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64], px: float, py: float, pz: float, e2: float
) -> int:
    """How many of a run of points lie within the square root of e2 of a place."""
    found = 0
    for j in range(x.shape[0]):
        dx = x[j] - px
        dy = y[j] - py
        dz = z[j] - pz
        found += dx * dx + dy * dy + dz * dz <= e2
    return found


@njit("b1(f8[:,::1], b1[::1], i8, i8, i8, i8, f8)", cache=True, nogil=True)
def _touch(p: NDArray[np.float64], core: NDArray[np.bool_], a0: int, a1: int, b0: int, b1: int, e2: float) -> bool:
    """Whether a core point of one cell lies within eps of a core point of another."""
    low = np.full(3, np.inf)
    high = np.full(3, -np.inf)
    for j in range(b0, b1):
        if core[j]:
            for k in range(3):
                low[k] = min(low[k], p[k, j])
                high[k] = max(high[k], p[k, j])
    for i in range(a0, a1):
        if not core[i]:
            continue
        # farther than eps from the other cell's box: no need to ask its points
        gap = 0.0
        for k in range(3):
            d = max(low[k] - p[k, i], p[k, i] - high[k], 0.0)
            gap += d * d
        if gap > e2:
            continue
        for j in range(b0, b1):
            dx = p[0, j] - p[0, i]
            dy = p[1, j] - p[1, i]
            dz = p[2, j] - p[2, i]
            if core[j] and dx * dx + dy * dy + dz * dz <= e2:
                return True
    return False


@njit("i4[:,:,::1](i8[::1], i8[::1])", cache=True, nogil=True)
def _runs(cell_key: NDArray[np.int64], shifts: NDArray[np.int64]) -> NDArray[np.int32]:
    """First and one past the last cell of each of a cell's 25 neighbouring columns, (cells, 25, 2)."""
    cells = cell_key.shape[0]
    runs = np.empty((cells, _COLUMNS, 2), dtype=np.int32)
    for dx in range(-_REACH, _REACH + 1):
        for dy in range(-_REACH, _REACH + 1):
            k = (dx + _REACH) * _SIDE + dy + _REACH
            centre = (dx << shifts[0]) + (dy << shifts[1])
            first = 0
            last = 0
            for c in range(cells):
                lowest = cell_key[c] + centre - _REACH
                highest = lowest + 2 * _REACH
                while first < cells and cell_key[first] < lowest:
                    first += 1
                last = max(last, first)
                while last < cells and cell_key[last] <= highest:
                    last += 1
                runs[c, k, 0] = first
                runs[c, k, 1] = last
    return runs


@njit("i8[::1]()", cache=True, nogil=True)
def _inside_out() -> NDArray[np.int64]:
    """The 25 columns in order of distance from the middle one."""
    order = np.empty(_COLUMNS, dtype=np.int64)
    t = 0
    for ring in range(2 * _REACH * _REACH + 1):
        for dx in range(-_REACH, _REACH + 1):
            for dy in range(-_REACH, _REACH + 1):
                if dx * dx + dy * dy == ring:
                    order[t] = (dx + _REACH) * _SIDE + dy + _REACH
                    t += 1
    return order


@njit("i8(i8, i8, f8[:,::1], b1[::1], i4[::1], i4[::1], i4[:,:,::1], i4[::1], i4[::1], f8)", cache=True, nogil=True)
def _border(
    i: int,
    cell: int,
    p: NDArray[np.float64],
    core: NDArray[np.bool_],
    cores: NDArray[np.int32],
    start: NDArray[np.int32],
    runs: NDArray[np.int32],
    index: NDArray[np.int32],
    labels: NDArray[np.int32],
    e2: float,
) -> int:
    """Lowest cluster with a core point within eps of a point, NOISE for none."""
    best = np.int64(NOISE)
    for k in range(_COLUMNS):
        for c in range(runs[cell, k, 0], runs[cell, k, 1]):
            if cores[c] == 0:
                continue
            for j in range(start[c], start[c + 1]):
                if not core[j]:
                    continue
                label = labels[index[j]]
                if best != NOISE and label >= best:
                    break  # core points of a cell share a cluster
                dx = p[0, j] - p[0, i]
                dy = p[1, j] - p[1, i]
                dz = p[2, j] - p[2, i]
                if dx * dx + dy * dy + dz * dz <= e2:
                    best = np.int64(label)
                    break
    return int(best)


@njit("Tuple((i4[::1], b1[::1], i8))(f4[:,::1], f8, i8)", cache=True, nogil=True)
def dbscan(xyz: NDArray[np.float32], eps_m: float, min_points: int) -> tuple[NDArray[np.int32], NDArray[np.bool_], int]:
    """Cluster by density.

    Args:
        xyz: (N, 3) float32, metres; distances are taken in double precision.
        eps_m: two points are neighbours when no farther apart than this.
        min_points: a point is core when it has so many neighbours, itself included.

    Returns labels (N,) int32 counted from 0 in order of each cluster's first core point, NOISE for noise and for points
    that are not finite or beyond 0.5 million eps; core (N,) bool; and the number of clusters. A point that is
    within reach of several clusters without being core belongs to the first of them: the rule of scikit-learn, so that
    labels are equal number for number.

    Time grows with the points, the longest part being those in cells of less than `min_points`; two dense cells that
    nearly touch cost at most the product of their points.
    """
    n = xyz.shape[0]
    labels = np.full(n, NOISE, dtype=np.int32)
    is_core = np.zeros(n, dtype=np.bool_)
    cell_m = eps_m / np.sqrt(3.0) * SHRINK
    if not (cell_m > 0.0 and cell_m < np.inf):
        return labels, is_core, 0
    packed, index = _keys(xyz, cell_m)
    m = index.shape[0]
    if m == 0:
        return labels, is_core, 0
    z_bits = packed[0] & 255
    y_bits = (packed[0] >> 8) & 255
    x_bits = packed[0] >> 16
    keys = packed[1:]
    _sort(keys, index, x_bits + y_bits + z_bits)

    p = np.empty((3, m), dtype=np.float64)
    cell_of = np.empty(m, dtype=np.int32)
    start = np.empty(m + 1, dtype=np.int32)
    cell_key = np.empty(m, dtype=np.int64)
    cells = 0
    for i in range(m):
        for a in range(3):
            p[a, i] = xyz[index[i], a]
        if i == 0 or keys[i] != keys[i - 1]:
            cell_key[cells] = keys[i]
            start[cells] = i
            cells += 1
        cell_of[i] = cells - 1
    start[cells] = m
    runs = _runs(cell_key[:cells], np.array([y_bits + z_bits, z_bits]))
    e2 = eps_m * eps_m

    core = np.zeros(m, dtype=np.bool_)
    cores = np.zeros(cells, dtype=np.int32)
    order = _inside_out()
    for c in range(cells):
        own = start[c + 1] - start[c]
        if own >= min_points:
            core[start[c] : start[c + 1]] = True
            cores[c] = own
            continue
        for i in range(start[c], start[c + 1]):
            found = 0
            for t in range(_COLUMNS):
                k = order[t]
                a = start[runs[c, k, 0]]
                b = start[runs[c, k, 1]]
                if a == b:
                    continue
                found += _count(p[0, a:b], p[1, a:b], p[2, a:b], p[0, i], p[1, i], p[2, i], e2)
                if found >= min_points:
                    core[i] = True
                    cores[c] += 1
                    break

    parent = np.arange(cells).astype(np.int32)
    # near columns first: by the time the far ones are asked, most cells belong together already
    for t in range(_COLUMNS):
        k = order[t]
        for c in range(cells):
            if cores[c] == 0:
                continue
            for d in range(max(runs[c, k, 0], c + 1), runs[c, k, 1]):
                if cores[d] == 0:
                    continue
                a = find_root(parent, c)
                b = find_root(parent, d)
                if a != b and _touch(p, core, start[c], start[c + 1], start[d], start[d + 1], e2):
                    parent[max(a, b)] = min(a, b)

    place = np.full(n, -1, dtype=np.int32)
    for i in range(m):
        place[index[i]] = i
    number = np.full(cells, -1, dtype=np.int32)
    count = 0
    for j in range(n):
        if place[j] < 0 or not core[place[j]]:
            continue
        root = find_root(parent, cell_of[place[j]])
        if number[root] < 0:
            number[root] = count
            count += 1
        labels[j] = number[root]
        is_core[j] = True
    for i in range(m):
        if not core[i]:
            labels[index[i]] = _border(i, cell_of[i], p, core, cores, start, runs, index, labels, e2)
    return labels, is_core, count
