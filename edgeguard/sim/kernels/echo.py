"""What a lidar makes of its beams: power of the echo, noise of the range, and which pulses are lost."""

from __future__ import annotations

from math import exp, sqrt

import numpy as np
from numba import njit

from edgeguard.sim.kernels.cast import CODES, GRID_F4, GRID_I4, LINE_F4, TABLE, hash3, intersect, surface
from edgeguard.sim.primitives import BOX

# Places in the vector that describes a lidar and its air.
(GROUND, HALF_POWER, STEEPNESS, STRAY_LOSS, SIGMA, SIGMA_WEAK, BEAM, MAX_RANGE, EXTINCTION, BACKSCATTER, SCATTER_M,
 INTENSITY_NOISE, QUANTUM, DUAL) = range(14)  # fmt: skip
PLACES = 14


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
    for i in range(lines):
        for j in range(rays):
            index = hit[i, j]
            if index == -2:
                reflectance[i, j], cosine[i, j] = 0.0, 0.0
            elif index == -1:
                reflectance[i, j], cosine[i, j] = ground_reflectance, abs(dz[i, j])
            else:
                p, t, tau = values[index], distance[i, j], starts[i, 3]
                vx, vy, vz = dx[i, j], dy[i, j], dz[i, j]
                x = starts[i, 0] - velocity[index, 0] * tau + t * vx
                y = starts[i, 1] - velocity[index, 1] * tau + t * vy
                reflectance[i, j] = p[13]
                if codes[index, 0] == BOX and p[8] == 0.0 and p[9] == 0.0:
                    lx, ly = p[6] * (x - p[0]) + p[7] * (y - p[1]), p[6] * (y - p[1]) - p[7] * (x - p[0])
                    z = starts[i, 2] + t * vz
                    side, end = abs(p[5] - abs(ly)), abs(p[4] - abs(lx))
                    if min(abs(p[3] - z), abs(z - p[2])) < min(side, end):
                        cosine[i, j] = abs(vz)
                    elif side < end:
                        cosine[i, j] = abs(p[6] * vy - p[7] * vx)
                    else:
                        cosine[i, j] = abs(p[6] * vx + p[7] * vy)
                else:
                    _, nx, ny, nz = surface(p, codes[index, 0], x, y, starts[i, 2] + t * vz)
                    cosine[i, j] = abs(nx * vx + ny * vy + nz * vz)


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
    f"int64({GRID_F4}, {GRID_F4}, {GRID_F4}, {GRID_F4}, {GRID_F4}, {GRID_F4}, {GRID_F4}, {GRID_F4},"
    f" {GRID_I4}, int32[::1],"
    f" int32[:,::1], float64[::1], int64, {LINE_F4}, {GRID_F4}, {LINE_F4}, int16[::1], int32[::1],"
    f" int32[::1], {LINE_F4})",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def listen(
    sx: np.ndarray,
    sy: np.ndarray,
    sz: np.ndarray,
    distance: np.ndarray,
    second: np.ndarray,
    share_behind: np.ndarray,
    reflectance: np.ndarray,
    cosine: np.ndarray,
    hit: np.ndarray,
    owners: np.ndarray,
    fired: np.ndarray,
    model: np.ndarray,
    key: int,
    deviates: np.ndarray,
    xyz: np.ndarray,
    intensity: np.ndarray,
    ring: np.ndarray,
    offset: np.ndarray,
    owner: np.ndarray,
    true_range: np.ndarray,
) -> int:
    """Draw which pulses come back, and write what they say, ring by ring; return how many.

    Which pulses return is a logistic curve of received power around the half-power point. Street surfaces are rougher
    than Lambert's: their echo falls with the square root of the cosine (the flattening that Oren and Nayar 1994
    describe), or no grazing ground would be seen at all. Noise grows as the echo weakens and as the spot is stretched
    over a slanted surface. Rain and fog dim the echo both ways, and now and then answer themselves.

    Args:
        sx, sy, sz: (L, B) beams in the sensor's own frame. distance, reflectance, cosine, hit: (L, B) of the scene.
        owners: (P,) object number of each primitive. fired: (L, B) int32, nanoseconds against the stamp.
        second, share_behind: of `split`, or (0, 0) where beams have no width. With DUAL the quieter of two echoes is
            written too, right after the louder one.
        model: see the places above. key: of the noise; a beam's draws hang on (key, line, beam) alone. deviates:
            a power of two of standard normal ones.
        xyz .. true_range: (L * B, ...) out; `true_range` is the surface's, and infinite for rain and fog.
    """
    lines, rays = distance.shape
    width = len(second) > 0
    said, shine = np.empty((lines, rays), dtype=np.float32), np.empty((lines, rays), dtype=np.float32)
    true, late = np.empty((lines, rays), dtype=np.float32), np.zeros((lines, rays), dtype=np.float32)
    tally = np.zeros(rays + 1, dtype=np.int64)
    for i in range(lines):  # line by line, as memory lies; the order of the output is made below
        for j in range(rays):
            t = float(distance[i, j])
            said[i, j] = 0.0
            if t > model[MAX_RANGE] and model[BACKSCATTER] == 0.0:
                continue
            draw = hash3(i, j, key)
            other = hash3(draw & 0xFFFFFF, i, key + 1)
            share = (draw >> 8) / 16777216.0
            behind, behind_share = np.inf, 0.0
            if width and second[i, j] < np.inf:
                behind, behind_share = float(second[i, j]), float(share_behind[i, j])
                if behind_share / (behind * behind) > (1.0 - behind_share) / (t * t):  # the louder echo speaks
                    t, behind, behind_share = behind, t, 1.0 - behind_share
            if model[BACKSCATTER] > 0.0:
                # Drops answer from where they are: the nearer the likelier to be heard above the threshold.
                gap = -log_share(other / 4294967296.0) * model[SCATTER_M]
                lone = (hash3(other & 0xFFFFFF, j, key + 2) >> 8) / 16777216.0
                if gap < t and gap > 0.8 and lone < model[BACKSCATTER]:
                    said[i, j], shine[i, j], true[i, j] = gap, 0.02 + 0.05 * share, np.inf
                    tally[j + 1] += 1
                    continue
            if t > model[MAX_RANGE]:
                continue
            slant = float(cosine[i, j])
            power = (1.0 - behind_share) * reflectance[i, j] * sqrt(slant) / (t * t)
            if model[EXTINCTION] > 0.0:
                power *= exp(-2.0 * model[EXTINCTION] * t)
            ratio = max(power / model[HALF_POWER], 1e-6)
            fourth = ratio * ratio * ratio * ratio if model[STEEPNESS] == 4.0 else ratio ** model[STEEPNESS]
            if share * (1.0 + fourth) >= (1.0 - model[STRAY_LOSS]) * fourth:
                continue
            variance = model[SIGMA] * model[SIGMA] + model[SIGMA_WEAK] * model[SIGMA_WEAK] / ratio
            if model[BEAM] > 0.0:
                slope = sqrt(max(1.0 - slant * slant, 0.0)) / max(slant, 0.05)
                smear = min(t * model[BEAM] * slope * 0.2887, 0.5)  # a uniform spot over a slanted surface
                variance += smear * smear
            measured = t + deviates[other & (len(deviates) - 1)] * sqrt(variance)
            if model[QUANTUM] > 0.0:
                measured = model[QUANTUM] * np.floor(measured / model[QUANTUM] + 0.5)
            tint = deviates[(other >> 10) & (len(deviates) - 1)]
            said[i, j], true[i, j] = measured, t
            shine[i, j] = reflectance[i, j] * slant * (1.0 + model[INTENSITY_NOISE] * tint)
            tally[j + 1] += 1
            if model[DUAL] > 0.0 and behind <= model[MAX_RANGE]:
                power = behind_share * 0.3 * exp(-2.0 * model[EXTINCTION] * behind) / (behind * behind)
                fourth = (power / model[HALF_POWER]) ** model[STEEPNESS]
                if (other >> 8) / 16777216.0 < fourth / (1.0 + fourth):
                    late[i, j] = behind + deviates[(other >> 5) & (len(deviates) - 1)] * model[SIGMA]
                    tally[j + 1] += 1
    for j in range(rays):
        tally[j + 1] += tally[j]
    for i in range(lines):
        for j in range(rays):
            measured = said[i, j]
            if measured == 0.0:
                continue
            at = tally[j]
            xyz[at, 0], xyz[at, 1], xyz[at, 2] = sx[i, j] * measured, sy[i, j] * measured, sz[i, j] * measured
            intensity[at] = min(max(shine[i, j], 0.0), 1.0)
            ring[at], offset[at], true_range[at] = j, fired[i, j], true[i, j]
            owner[at] = owners[hit[i, j]] if hit[i, j] >= 0 and true[i, j] < np.inf else -1
            tally[j] = at + 1
            far = late[i, j]
            if far > 0.0:
                at += 1
                xyz[at, 0], xyz[at, 1], xyz[at, 2] = sx[i, j] * far, sy[i, j] * far, sz[i, j] * far
                intensity[at], ring[at], offset[at] = 0.3 * share_behind[i, j], j, fired[i, j]
                owner[at], true_range[at] = -1, far
                tally[j] = at + 1
    return int(tally[rays - 1])
