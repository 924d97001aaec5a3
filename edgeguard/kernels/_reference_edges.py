"""NumPy twins of `kernels.edges` and `kernels.blocks`; slow, plain, oracles for the tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels import blocks, edges

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


def edge_field(grey: NDArray[np.uint8], fade: float) -> Float32:
    """Twin of `edges.edge_field`."""
    g = grey.astype(np.int32)
    field = np.zeros((2, *grey.shape))
    field[0, 1:-1, 1:-1] = np.abs(g[1:-1, 2:] - g[1:-1, :-2])
    field[1, 1:-1, 1:-1] = np.abs(g[2:, 1:-1] - g[:-2, 1:-1])
    count = max(1, (grey.shape[0] - 2) * (grey.shape[1] - 2))
    for a in range(2):
        usual = field[a].sum() / count * 1.5 + 4.0
        plane = field[a] / (field[a] + usual)
        across = plane if a == 0 else plane.T
        at = np.arange(across.shape[1])
        weight = float(fade) ** np.abs(at[:, None] - at[None, :])
        spread = (across[:, None, :] * weight[None]).max(axis=2)
        field[a] = spread if a == 0 else spread.T
    return field.astype(np.float32)


def depth_edges(
    xyz: Float32,
    intensity: Float32,
    row: NDArray[np.int16],
    P: Float64,
    width: int,
    cell_px: float,
    limit: int,
) -> Float32:
    """Twin of `edges.depth_edges`."""
    columns = int(np.ceil(width / cell_px))
    nearest: dict[tuple[int, int], tuple[np.float32, int]] = {}
    for i, point in enumerate(xyz.astype(np.float64)):
        with np.errstate(all="ignore"):
            u, _, w = P[:, :3] @ point + P[:, 3]
            c = u / (w * cell_px)
        if not (w > edges.NEAR_M and c >= 0.0 and c < columns) or row[i] < 0:
            continue
        key = (int(row[i]), int(c))
        if key not in nearest or w < nearest[key][0]:
            nearest[key] = (np.float32(w), i)
    found: list[list[float]] = []
    for along in (edges.UPRIGHT, edges.FLAT):
        for line in sorted({key[along] for key in nearest}):
            cells = sorted((key[1 - along], *value) for key, value in nearest.items() if key[along] == line)
            _walk(cells, xyz, intensity, along, found)
    return np.array(found[:limit], np.float32).reshape(-1, 4)


def _walk(
    cells: list[tuple[int, np.float32, int]], xyz: Float32, intensity: Float32, along: int, found: list[list[float]]
) -> None:
    run = 0
    before = np.float32(0.0)
    for n in range(1, len(cells)):
        (at0, d0, i0), (at1, d1, i1) = cells[n - 1 : n + 1]
        if at1 - at0 > edges.REACH_CELLS:
            run, before = 0, np.float32(0.0)
            continue
        near, jump = min(d0, d1), abs(d1 - d0)
        steady = abs(d0 - before) if before > 0 else 0.0
        limit = edges.MIN_JUMP_M + edges.MIN_JUMP_SHARE * near + 2.0 * min(steady, jump * 0.4)
        if near < edges.FAR_M and jump > limit:
            a, b = (i1, i0) if d1 < d0 else (i0, i1)
            found.append([*_between(xyz[a], xyz[b]), along])
        run = run + 1 if jump < edges.MIN_JUMP_M else 0
        if run >= 3 and near < edges.INK_FAR_M:
            last = [float(intensity[cell[2]]) for cell in cells[n - 3 : n + 1]]
            step = 0.5 * abs(last[3] + last[2] - last[1] - last[0])
            rough = abs(last[3] - last[2]) + abs(last[1] - last[0])
            if step > edges.MIN_INK and rough < edges.MAX_ROUGH * step:
                found.append([*_between(xyz[i0], xyz[cells[n - 2][2]]), along])
        before = d0


def _between(near: Float32, far: Float32) -> list[float]:
    return [float(v) for v in 0.5 * (near + far * (np.linalg.norm(near) / np.linalg.norm(far)))]


def look_up(found: Float32, field: Float32, poses: Float64, lens: Float64, per_px: float) -> Float32:
    """Twin of `edges.look_up`."""
    rows, columns = field.shape[1:]
    fx, fy, cx, cy, k1, k2, p1, p2, k3 = lens
    out = np.full((len(poses), len(found)), np.nan, np.float32)
    for k, T in enumerate(poses):
        x, y, w = T[:, :3] @ found[:, :3].astype(np.float64).T + T[:, 3:]
        with np.errstate(all="ignore"):
            a, b = x / w, y / w
            r2 = a * a + b * b
            radial = 1.0 + k1 * r2 + k2 * r2**2 + k3 * r2**3
            u = (fx * (a * radial + 2 * p1 * a * b + p2 * (r2 + 2 * a * a)) + cx) * per_px
            v = (fy * (b * radial + p1 * (r2 + 2 * b * b) + 2 * p2 * a * b) + cy) * per_px
            inside = np.flatnonzero((w > 1.0) & (u >= 2) & (v >= 2) & (u < columns - 3) & (v < rows - 3))
        u, v, kind = u[inside], v[inside], found[inside, 3].astype(int)
        u0, v0 = u.astype(int), v.astype(int)
        fu, fv = u - u0, v - v0
        low = (1 - fu) * field[kind, v0, u0] + fu * field[kind, v0, u0 + 1]
        high = (1 - fu) * field[kind, v0 + 1, u0] + fu * field[kind, v0 + 1, u0 + 1]
        out[k, inside] = (1 - fv) * low + fv * high
    return out


def block_changes(grey: NDArray[np.uint8], before: NDArray[np.uint8]) -> tuple[Float32, Float32]:
    """Twin of `blocks.block_changes`."""
    n = blocks.BLOCK_PX
    rows, columns = grey.shape[0] // n, grey.shape[1] // n
    change = np.abs(grey.astype(np.int32) - before)

    def means(values: NDArray[np.int32]) -> Float32:
        cells = values[: rows * n, : columns * n].reshape(rows, n, columns, n)
        return np.asarray(cells.mean(axis=(1, 3)), np.float32)

    return means(grey.astype(np.int32)), means(change)


def brightness_steps(pixels: NDArray[np.uint8], stride: int) -> Float64:
    """Twin of `blocks.brightness_steps`."""
    green = pixels[..., 1].astype(np.float64)
    far, size = blocks.COARSE_PX, blocks.SEGMENT_PX
    found = []
    for v in range(0, green.shape[0] - far, stride):
        for u in range(0, green.shape[1] - far - size, size):
            here = green[v, u : u + size]
            others = (
                green[v, u + 1 : u + 1 + size], green[v, u + far : u + far + size],
                green[v + 1, u : u + size], green[v + far, u : u + size],
            )  # fmt: skip
            found.append([float(np.mean((here - other) ** 2)) for other in others])
    return np.array(found, np.float64).reshape(-1, 4)


def row_means(grey: NDArray[np.uint8], sectors: int) -> Float32:
    """Twin of `blocks.row_means`."""
    width = grey.shape[1] // sectors
    parts = grey[:, : width * sectors].reshape(grey.shape[0], sectors, width)
    return np.asarray(parts.mean(axis=2), np.float32)


def thin_look(
    pixels: NDArray[np.uint8], stride: int, shape: tuple[int, int]
) -> tuple[NDArray[np.int64], Float32, float]:
    """Twin of `blocks.thin_look`."""
    rows = pixels[::stride, :, 1].astype(np.int64)
    thin = rows[:, ::stride]
    height, width = thin.shape[0] // shape[0], thin.shape[1] // shape[1]
    cells = thin[: height * shape[0], : width * shape[1]].reshape(shape[0], height, shape[1], width)
    deviation = cells.std(axis=(1, 3)) if cells.size else np.zeros(shape)
    return np.bincount(thin.ravel(), minlength=256), deviation.astype(np.float32), float(np.abs(np.diff(rows)).mean())


def mean_distances(kept: Float32, look: Float32, asked: NDArray[np.bool_]) -> Float32:
    """Twin of `blocks.mean_distances`."""
    return np.where(asked, np.abs(kept - look).mean(axis=1), np.inf).astype(np.float32)
