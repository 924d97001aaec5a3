"""What a lidar makes of its beams: power of the echo, noise of the range, and which pulses are lost."""

from __future__ import annotations

from math import exp, sqrt

import numpy as np
from numba import njit

from edgeguard.sim.kernels.cast import CODES, GRID_F4, GRID_I4, LINE_F4, TABLE
from edgeguard.sim.kernels.chance import GOLDEN, F, decay, line_key, scramble, share_of
from edgeguard.sim.kernels.solids import FAR, ZERO, intersect, surface
from edgeguard.sim.primitives import BOX

# Places in the vector that describes a lidar and its air.
(GROUND, HALF_POWER, STEEPNESS, STRAY_LOSS, SIGMA, SIGMA_WEAK, BEAM, MAX_RANGE, EXTINCTION, BACKSCATTER, SCATTER_M,
 INTENSITY_NOISE, QUANTUM, DUAL) = range(14)  # fmt: skip
PLACES = 14
RINGS = 64


@njit(
    f"void({GRID_F4}, {GRID_F4}, {GRID_F4}, {TABLE}, {GRID_F4}, {GRID_I4}, {TABLE}, {TABLE}, {CODES}, float64,"
    f" {GRID_F4}, {GRID_F4})",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def reflect(
    dx: np.ndarray,
    dy: np.ndarray,
    dz: np.ndarray,
    starts: np.ndarray,
    distance: np.ndarray,
    hit: np.ndarray,
    values: np.ndarray,
    velocity: np.ndarray,
    codes: np.ndarray,
    ground_reflectance: float,
    reflectance: np.ndarray,
    cosine: np.ndarray,
) -> None:
    """Fill reflectance and cosine of incidence (both (L, B) float32) for unit rays; zero where nothing was hit."""
    lines, rays = distance.shape
    x, y, z = dx.reshape(-1), dy.reshape(-1), dz.reshape(-1)
    far, what, rho, slant = distance.reshape(-1), hit.reshape(-1), reflectance.reshape(-1), cosine.reshape(-1)
    for i in range(lines):
        sx, sy, sz, tau = starts[i, 0], starts[i, 1], starts[i, 2], starts[i, 3]
        for at in range(np.uint64(i * rays), np.uint64((i + 1) * rays)):
            index = what[at]
            if index == -2:
                rho[at], slant[at] = ZERO, ZERO
            elif index == -1:
                rho[at], slant[at] = ground_reflectance, abs(z[at])
            else:
                n, t, vx, vy, vz = np.uint64(index), far[at], x[at], y[at], z[at]
                px = sx - velocity[n, 0] * tau + t * vx - values[n, 0]
                py = sy - velocity[n, 1] * tau + t * vy - values[n, 1]
                pz = sz + t * vz
                rho[at] = values[n, 13]
                if codes[n, 0] == BOX and values[n, 8] == 0.0 and values[n, 9] == 0.0:
                    c, s = values[n, 6], values[n, 7]
                    side = abs(values[n, 5] - abs(c * py - s * px))
                    end = abs(values[n, 4] - abs(c * px + s * py))
                    cap = min(abs(values[n, 3] - pz), abs(pz - values[n, 2]))
                    level = abs(c * vy - s * vx) if side < end else abs(c * vx + s * vy)
                    slant[at] = abs(vz) if cap < min(side, end) else level
                else:
                    p = values[n]
                    _, nx, ny, nz = surface(p, codes[n, 0], px + p[0], py + p[1], pz)
                    slant[at] = abs(nx * vx + ny * vy + nz * vz)


@njit(
    f"float64({TABLE}, {TABLE}, {CODES}, float64[::1], int64, float64, float64, float64)",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def reach_of(
    values: np.ndarray,
    velocity: np.ndarray,
    codes: np.ndarray,
    start: np.ndarray,
    index: int,
    vx: float,
    vy: float,
    vz: float,
) -> float:
    """Distance along a ray to one primitive where it stands when the ray leaves, inf where it misses."""
    x, y = start[0] - velocity[index, 0] * start[3], start[1] - velocity[index, 1] * start[3]
    return float(intersect(values[index], codes[index, 0], codes[index, 1], x, y, start[2], vx, vy, vz))


@njit(
    f"void({GRID_F4}, {GRID_F4}, {GRID_F4}, {TABLE}, {GRID_F4}, {GRID_I4}, {TABLE}, {TABLE}, {CODES}, float64, float64,"
    f" {GRID_F4}, {GRID_F4})",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def split(
    dx: np.ndarray,
    dy: np.ndarray,
    dz: np.ndarray,
    starts: np.ndarray,
    distance: np.ndarray,
    hit: np.ndarray,
    values: np.ndarray,
    velocity: np.ndarray,
    codes: np.ndarray,
    beam_rad: float,
    pulse_m: float,
    second: np.ndarray,
    share: np.ndarray,
) -> None:
    """Find beams whose spot lies on two surfaces: at edges, four more rays are cast at a quarter of the beam's width.

    Only what the beam and its neighbour hit is tried, so this costs little. Where the two echoes overlap (closer than
    `pulse_m`), `distance` becomes their mean weighted by area: a mixed pixel hangs in the air. Where they do not,
    `second` gets the other surface's distance (inf: none) and `share` how much of the spot lies there.
    """
    lines, rays = distance.shape
    for i in range(lines):
        for j in range(rays):
            second[i, j], share[i, j] = np.inf, 0.0
            own, t = hit[i, j], float(distance[i, j])
            if own < 0:
                continue
            on_other, other = 0, np.inf
            for k in range(4):
                a = (i + (1 if k == 0 else (-1 if k == 1 else 0))) % lines
                b = j + (1 if k == 2 else (-1 if k == 3 else 0))
                if b < 0 or b >= rays or abs(distance[a, b] - t) < 0.15 or hit[a, b] == own:
                    continue
                vx, vy, vz = dx[a, b] - dx[i, j], dy[a, b] - dy[i, j], dz[a, b] - dz[i, j]
                apart = sqrt(vx * vx + vy * vy + vz * vz)
                if apart < 1e-9 or apart > 0.05:
                    continue
                step = min(0.25 * beam_rad / apart, 0.5)
                vx, vy, vz = dx[i, j] + step * vx, dy[i, j] + step * vy, dz[i, j] + step * vz
                mine = reach_of(values, velocity, codes, starts[i], own, vx, vy, vz)
                if mine < np.inf:
                    continue
                there = float(distance[a, b])
                if hit[a, b] >= 0:
                    there = reach_of(values, velocity, codes, starts[i], hit[a, b], vx, vy, vz)
                if there < np.inf:
                    on_other += 1
                    other = min(other, there)
            if on_other == 0:
                continue
            part = 0.2 * on_other
            if abs(other - t) < pulse_m:
                distance[i, j] = (1.0 - part) * t + part * other
            else:
                second[i, j], share[i, j] = other, part


@njit("float64(float64)", cache=True, nogil=True, error_model="numpy")
def log_share(share: float) -> float:
    """Natural logarithm of a draw from 0..1, never of zero."""
    return float(np.log(share + 1e-10))


@njit(
    f"void(uint32, float64[::1], {LINE_F4}, {LINE_F4}, {LINE_F4}, {LINE_F4})",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _drops(
    first: int,
    model: np.ndarray,
    near: np.ndarray,
    says: np.ndarray,
    shines: np.ndarray,
    truth: np.ndarray,
) -> None:
    """Let raindrops and fog answer: the nearer the likelier to be heard above the threshold."""
    for j in range(len(says)):
        word = first + np.uint32(j) * GOLDEN
        if share_of(scramble(word + np.uint32(2))) < model[BACKSCATTER]:
            gap = -log_share(share_of(scramble(word + np.uint32(3)))) * model[SCATTER_M]
            if 0.8 < gap < near[j]:
                says[j], truth[j] = gap, np.inf
                shines[j] = 0.02 + 0.05 * share_of(scramble(word + np.uint32(4)))


@njit(
    f"void({LINE_F4}, {LINE_F4}, {LINE_F4}, {LINE_F4}, {LINE_F4})", cache=True, nogil=True, error_model="numpy"
)  # fmt: skip
def _louder(second: np.ndarray, share: np.ndarray, near: np.ndarray, weight: np.ndarray, behind: np.ndarray) -> None:
    """Where a spot lies on two surfaces, sort them: the louder speaks (`near`, `weight`), `behind` is the other."""
    for j in range(len(near)):
        weight[j], behind[j] = 1.0, np.inf
        if second[j] < np.inf:
            t, far, part = near[j], second[j], share[j]
            if part * t * t > (F(1.0) - part) * far * far:
                near[j], behind[j], weight[j] = far, t, part
            else:
                behind[j], weight[j] = far, F(1.0) - part


@njit(
    f"void({GRID_F4}, {GRID_F4}, {GRID_F4}, {GRID_F4}, {GRID_F4}, float64[::1], int64, {LINE_F4}, {GRID_F4}, {GRID_F4},"
    f" {GRID_F4}, {GRID_F4}, int64[::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def listen(
    distance: np.ndarray,
    second: np.ndarray,
    share_behind: np.ndarray,
    reflectance: np.ndarray,
    cosine: np.ndarray,
    model: np.ndarray,
    key: int,
    deviates: np.ndarray,
    said: np.ndarray,
    shine: np.ndarray,
    true: np.ndarray,
    late: np.ndarray,
    tally: np.ndarray,
) -> None:
    """Draw which pulses come back, and what they say.

    Which pulses return is a logistic curve of received power around the half-power point. Street surfaces are rougher
    than Lambert's: their echo falls with the square root of the cosine (the flattening that Oren and Nayar 1994
    describe), or no grazing ground would be seen at all. Noise grows as the echo weakens and as the spot is stretched
    over a slanted surface. Rain and fog dim the echo both ways, and now and then answer themselves.

    Args:
        distance, reflectance, cosine: (L, B) of the scene. second, share_behind: of `split`, or (0, 0) where beams
            have no width. With DUAL the quieter of two echoes is told too.
        model: see the places above. key: of the noise; a beam's draws hang on (key, line, beam) alone. deviates: a
            table of standard normal ones, longer than a line.
        said: (L, B) out: measured range, 0 where nothing is heard. shine: (L, B) out: intensity before it is cut to
            0..1. true: (L, B) out: the surface's range, infinite for rain and fog. late: (L, B) out: the quieter
            echo's range, 0 where there is none; or (0, 0) where beams have no width.
        tally: (B + 1,) out: how many echoes the rings before ring j have together.
    """
    lines, rays = distance.shape
    width, dual = len(second) > 0, model[DUAL] > 0.0
    furthest, half_power = F(model[MAX_RANGE]), F(1.0 / model[HALF_POWER])
    sigma2, weak2 = F(model[SIGMA] * model[SIGMA]), F(model[SIGMA_WEAK] * model[SIGMA_WEAK])
    spot, told, tinge = F(0.2887 * model[BEAM]), F(1.0 - model[STRAY_LOSS]), F(model[INTENSITY_NOISE])
    dim, quantum = F(2.0 * model[EXTINCTION]), F(model[QUANTUM])
    near, weight, odds = np.empty(rays, np.float32), np.ones(rays, np.float32), np.empty(rays, np.float32)
    behind, power = np.full(rays, np.inf, np.float32), np.empty(rays, np.float32)
    count = np.zeros(rays, np.int32)
    places = len(deviates) - rays
    for i in range(lines):
        first = line_key(key, i)  # place j, draw n: scramble(first + j * GOLDEN + n)
        at, tint_at = line_key(key + 1, i) % places, line_key(key + 2, i) % places
        noise, tint = deviates[at : at + rays], deviates[tint_at : tint_at + rays]
        reach, rho, slants = distance[i], reflectance[i], cosine[i]
        says, shines, truth = said[i], shine[i], true[i]
        for j in range(rays):
            near[j] = reach[j]
        if width:
            _louder(second[i], share_behind[i], near, weight, behind)
        for j in range(rays):
            power[j] = weight[j] * rho[j] * np.sqrt(slants[j]) / (near[j] * near[j]) * half_power
        if dim > ZERO:
            for j in range(rays):
                power[j] *= decay(dim * near[j])
        for j in range(rays):
            power[j] = min(max(power[j], F(1e-6)), F(1e6))
            square = power[j] * power[j]
            odds[j] = square * square
        if model[STEEPNESS] != 4.0:
            for j in range(rays):
                odds[j] = power[j] ** model[STEEPNESS]
        for j in range(rays):
            share, t, slant = share_of(scramble(first + np.uint32(j) * GOLDEN)), near[j], slants[j]
            slope = np.sqrt(max(F(1.0) - slant * slant, ZERO)) / max(slant, F(0.05))
            smear = min(t * spot * slope, F(0.5))  # a uniform spot over a slanted surface
            measured = t + noise[j] * np.sqrt(sigma2 + weak2 / power[j] + smear * smear)
            heard = (share * (F(1.0) + odds[j]) < told * odds[j]) & (t <= furthest)
            says[j] = measured if heard else ZERO
            shines[j] = rho[j] * slant * (F(1.0) + tinge * tint[j])
            truth[j] = t
        if quantum > ZERO:
            for j in range(rays):
                says[j] = quantum * np.floor(says[j] / quantum + F(0.5))
        if model[BACKSCATTER] > 0.0:
            _drops(first, model, near, says, shines, truth)
        for j in range(rays):
            count[j] += np.int32(1 if says[j] > ZERO else 0)
        if width:
            quieter = late[i]
            for j in range(rays):
                quieter[j] = ZERO
                far = float(behind[j])
                if not dual or far > model[MAX_RANGE] or says[j] <= ZERO or truth[j] == np.inf:
                    continue
                faint = (1.0 - weight[j]) * 0.3 * exp(-2.0 * model[EXTINCTION] * far) / (far * far)
                chance = (faint / model[HALF_POWER]) ** model[STEEPNESS]
                other = scramble(first + np.uint32(j) * GOLDEN + np.uint32(1))
                if share_of(other) * (1.0 + chance) < chance:
                    quieter[j] = far + tint[j] * model[SIGMA]
                    count[j] += 1
    tally[0] = 0
    for j in range(rays):
        tally[j + 1] = tally[j] + count[j]


@njit(
    f"void({GRID_F4}, {GRID_F4}, {GRID_F4}, {GRID_F4}, {GRID_F4}, {GRID_F4}, {GRID_F4}, {GRID_F4}, {GRID_I4},"
    f" int32[::1], {GRID_I4}, int64[::1], {GRID_F4}, {LINE_F4}, int16[::1], int32[::1], int32[::1], {LINE_F4})",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def tell(
    sx: np.ndarray,
    sy: np.ndarray,
    sz: np.ndarray,
    said: np.ndarray,
    shine: np.ndarray,
    true: np.ndarray,
    late: np.ndarray,
    share_behind: np.ndarray,
    hit: np.ndarray,
    owners: np.ndarray,
    fired: np.ndarray,
    tally: np.ndarray,
    xyz: np.ndarray,
    intensity: np.ndarray,
    ring: np.ndarray,
    offset: np.ndarray,
    owner: np.ndarray,
    true_range: np.ndarray,
) -> None:
    """Write what `listen` heard ring by ring, a second echo right after its first.

    Args:
        sx, sy, sz: (L, B) beams in the sensor's own frame. said, shine, true, late, share_behind, tally: of `listen`.
        hit: (L, B) primitives. owners: (P,) object number of each. fired: (L, B) nanoseconds against the stamp.
        xyz, intensity, ring, offset, owner, true_range: (tally[-1], ...) out; the last two may be empty: not wanted.
    """
    lines, rays = said.shape
    pairs, truth_too, width = len(late) > 0, len(owner) > 0, np.uint64(rays)
    # Flat, for a slice per line would cost more than a short line itself; unsigned, for a signed index is tested.
    x, y, z, when, what = sx.reshape(-1), sy.reshape(-1), sz.reshape(-1), fired.reshape(-1), hit.reshape(-1)
    says, shines, truth = said.reshape(-1), shine.reshape(-1), true.reshape(-1)
    quieter, behind, points = late.reshape(-1), share_behind.reshape(-1), xyz.reshape(-1)
    following = np.empty(RINGS, np.uint64)
    for begin in range(np.uint64(0), width, np.uint64(RINGS)):  # so few rings at a time that what is written stays near
        count = min(np.uint64(RINGS), width - begin)
        for k in range(count):
            following[k] = tally[begin + k]
        for i in range(np.uint64(lines)):
            first = i * width + begin
            for k in range(count):
                beam, at = first + k, following[k]
                measured = says[beam]
                if measured <= ZERO:
                    continue
                place = at * np.uint64(3)
                points[place] = x[beam] * measured
                points[place + np.uint64(1)] = y[beam] * measured
                points[place + np.uint64(2)] = z[beam] * measured
                intensity[at] = min(max(shines[beam], ZERO), F(1.0))
                offset[at] = when[beam]
                if truth_too:
                    known = (what[beam] >= 0) & (truth[beam] < FAR)
                    true_range[at], owner[at] = truth[beam], owners[np.uint64(what[beam])] if known else np.int32(-1)
                at += np.uint64(1)
                if pairs and quieter[beam] > ZERO:
                    far = quieter[beam]
                    xyz[at, 0], xyz[at, 1], xyz[at, 2] = x[beam] * far, y[beam] * far, z[beam] * far
                    intensity[at] = F(0.3) * behind[beam]
                    offset[at] = when[beam]
                    if truth_too:
                        owner[at], true_range[at] = -1, far
                    at += np.uint64(1)
                following[k] = at
    for j in range(rays):
        ring[tally[j] : tally[j + 1]] = j
