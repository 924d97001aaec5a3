"""What a camera pixel sees: surfaces lit by sun, sky and lamps, through air; then exposure and sensor noise."""

from __future__ import annotations

from math import exp

import numpy as np
from numba import njit

from edgeguard.sim.kernels.cast import CODES, GRID_F4, GRID_I4, GRID_U1, PICTURE, TABLE
from edgeguard.sim.kernels.chance import decay
from edgeguard.sim.kernels.light import (
    AIR_B,
    AIR_G,
    AIR_R,
    AMBIENT,
    FOG,
    HAZE,
    HEADLIGHT,
    MAP_CELL,
    MAP_X,
    MAP_Y,
    OVERCAST,
    SKY,
    SUN,
    SUN_DISC,
    WET,
)
from edgeguard.sim.kernels.light import EMIT as EMITTED
from edgeguard.sim.kernels.solids import hash3
from edgeguard.sim.kernels.textures import (
    ARC,
    BLUE,
    CLEAR,
    DX,
    DY,
    DZ,
    EMIT,
    FOOT,
    GREEN,
    LANES,
    LINE_F4,
    LINES,
    LIT,
    OFFSET,
    REACH,
    RED,
    RUN,
    STRETCH,
    SUNLIT,
    TOWARDS,
    UP,
    WX,
    WY,
    F,
    asphalt,
    grass,
    leaves,
    paving,
    sky,
    wall,
)  # fmt: skip
from edgeguard.sim.kernels.things import thing
from edgeguard.sim.primitives import BUILDING, FOLIAGE
from edgeguard.sim.road import STEP_M

ANCHOR = np.uint64(32)  # pixels between the places where road coordinates are found; straight in between
ASPHALT_M, PAVING_M = 6.0, 9.6  # half the width of the carriageway, and out to where grass begins
_REPEAT_M = 128.0  # every texture of the ground repeats at least this often


@njit(f"UniTuple(float64, 2)({PICTURE}, float64[::1], float64, float64)", cache=True, nogil=True, error_model="numpy")
def lights_at(lamps: np.ndarray, light: np.ndarray, x: float, y: float) -> tuple[float, float]:
    """Share of daylight and brightness of lamps at (x, y) of the level frame, from a map of square cells."""
    n = lamps.shape[0]
    u, v = (x - light[MAP_X]) / light[MAP_CELL], (y - light[MAP_Y]) / light[MAP_CELL]
    u, v = min(max(u, 0.0), n - 1.001), min(max(v, 0.0), n - 1.001)
    iu, iv = int(u), int(v)
    fu, fv = u - iu, v - iv
    a, b = (1 - fu) * (1 - fv), fu * (1 - fv)
    c, d = (1 - fu) * fv, fu * fv
    return (
        a * lamps[iv, iu, 0] + b * lamps[iv, iu + 1, 0] + c * lamps[iv + 1, iu, 0] + d * lamps[iv + 1, iu + 1, 0],
        a * lamps[iv, iu, 1] + b * lamps[iv, iu + 1, 1] + c * lamps[iv + 1, iu, 1] + d * lamps[iv + 1, iu + 1, 1],
    )


@njit(
    "float64(float64[::1], float64, float64, float64, float64)",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def headlight(light: np.ndarray, x: float, y: float, z: float, facing: float) -> float:
    """Light of the own dipped beam at a point of the camera's level frame; `facing` is the cosine at the surface."""
    ahead = x + 1.2  # lamps stand in front of the camera, but a beam has no edge there
    if ahead < 0.5:
        return 0.0
    side, rise = y / ahead, (z + 1.0) / ahead
    r2 = ahead * ahead + y * y
    spread = exp(-6.0 * side * side)
    cut = 1.0 if rise < 0.0 else exp(-900.0 * rise * rise)  # dipped: little goes above the lamps
    return float(light[HEADLIGHT] * spread * (0.08 + 0.92 * cut) * (0.15 + 0.85 * facing) / (1.0 + 0.012 * r2))


@njit(f"UniTuple(float64, 2)({TABLE}, float64, float64, float64, float64)", cache=True, nogil=True, error_model="numpy")
def along_road(table: np.ndarray, start_m: float, x: float, y: float, arc: float) -> tuple[float, float]:
    """Arc length and offset of world (x, y), by up to three steps of Newton from `arc`."""
    last, d = table.shape[0] - 2, 0.0
    for _ in range(3):
        node = min(max(int((arc - start_m) / STEP_M), 0), last)
        f = arc - start_m - node * STEP_M
        tx, ty = table[node, 2], table[node, 3]
        rx, ry = x - table[node, 0], y - table[node, 1]
        d = ry * tx - rx * ty
        step = rx * tx + ry * ty - f
        arc += step
        if abs(step) < 1e-6:
            break
    return arc, d


@njit(
    f"void({TABLE}, float64, float64[::1], float64, float64, float64, float64, float64, float64[::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _locate(
    table: np.ndarray,
    start_m: float,
    pose: np.ndarray,
    cosine: float,
    sine: float,
    x: float,
    y: float,
    guess: float,
    out: np.ndarray,
) -> None:
    """Fill world x, y, arc length and offset of (x, y) in the rays' frame, whose heading has these cosine and sine."""
    out[0], out[1] = pose[0] + cosine * x - sine * y, pose[1] + sine * x + cosine * y
    out[2], out[3] = along_road(table, start_m, out[0], out[1], guess)


@njit(
    f"void(uint64, uint64, {LINE_F4}, {LINE_F4}, {LINE_F4}, {LINE_F4}, uint8[::1], float32, {LINE_F4})",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _load(
    first: int,
    count: int,
    x: np.ndarray,
    y: np.ndarray,
    z: np.ndarray,
    t: np.ndarray,
    shadow: np.ndarray,
    haze: float,
    lines: np.ndarray,
) -> None:
    """Put rays, distances and shadows of pixels first, first + 1, .. into `lines`, and what contrast the air leaves.

    Pictures come flat here and below: a slice per line would be counted by whoever else uses it, under a lock. `haze`
    is the loss per metre.
    """
    for k in range(count):
        dx, dy, dz, reach = x[first + k], y[first + k], z[first + k], t[first + k]
        lines[DX + k], lines[DY + k], lines[DZ + k], lines[REACH + k] = dx, dy, dz, reach
        lines[SUNLIT + k] = F(1.0) if shadow[first + k] == 0 else F(0.0)
        lines[CLEAR + k] = decay(reach * np.sqrt(dx * dx + dy * dy + dz * dz) * haze)


@njit("uint64(uint64, uint64)", cache=True, nogil=True, error_model="numpy")
def _whole(begin: int, end: int) -> int:
    """Return the end of a run lengthened to whole vectors: what is written beyond it the next run overwrites."""
    return begin + ((end - begin + np.uint64(LANES - 1)) // np.uint64(LANES)) * np.uint64(LANES)  # type: ignore[return-value]


@njit(f"void({RUN}, uint64, float64, float64)", cache=True, nogil=True, error_model="numpy")
def _lerp(begin: int, end: int, lines: np.ndarray, quantity: int, first: float, step: float) -> None:
    """Fill one quantity of a run with first, first + step and so on."""
    base, slope = F(first - begin * step), F(step)
    for k in range(begin, end):
        lines[quantity + k] = base + F(np.int32(k)) * slope


@njit(
    f"float64(uint64, uint64, {LINE_F4}, {TABLE}, float64, float64[::1], float64, float64, float64, float64, float64,"
    " float64, float64[::1], float64[::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _survey(
    begin: int,
    count: int,
    lines: np.ndarray,
    table: np.ndarray,
    start_m: float,
    pose: np.ndarray,
    cosine: float,
    sine: float,
    scale: float,
    sx: float,
    sy: float,
    guess: float,
    here: np.ndarray,
    there: np.ndarray,
) -> float:
    """Fill world coordinates (less whole repeats), road coordinates and pixel lengths of a run on the ground.

    They are found every ANCHOR pixels of begin..count and are straight in between and after. Returns the arc length of
    the run's last pixel. here, there: (4,) scratch.
    """
    x, y = sx + lines[REACH + begin] * lines[DX + begin], sy + lines[REACH + begin] * lines[DY + begin]
    _locate(table, start_m, pose, cosine, sine, x, y, guess, here)
    shift_x, shift_y = _REPEAT_M * np.floor(here[0] / _REPEAT_M), _REPEAT_M * np.floor(here[1] / _REPEAT_M)
    flat, width, one = F(0.35 / pose[2]), F(scale), F(1.0)
    end, last = _whole(begin, count), count - np.uint64(1)
    for k in range(begin, end):  # a pixel is long on ground seen at a flat angle
        reach = lines[REACH + k]
        lines[FOOT + k] = reach * width * max(reach * flat, one)
    while True:
        stop = min(begin + ANCHOR, last)
        until = end if stop == last else stop
        x, y = sx + lines[REACH + stop] * lines[DX + stop], sy + lines[REACH + stop] * lines[DY + stop]
        _locate(table, start_m, pose, cosine, sine, x, y, here[2], there)
        step = 1.0 / np.float64(max(stop - begin, np.uint64(1)))
        _lerp(begin, until, lines, WX, here[0] - shift_x, (there[0] - here[0]) * step)
        _lerp(begin, until, lines, WY, here[1] - shift_y, (there[1] - here[1]) * step)
        _lerp(begin, until, lines, ARC, here[2], (there[2] - here[2]) * step)
        _lerp(begin, until, lines, OFFSET, here[3], (there[3] - here[3]) * step)
        begin = stop  # type: ignore[assignment]
        here[0], here[1], here[2], here[3] = there[0], there[1], there[2], there[3]
        if begin >= last:
            return float(there[2])


@njit("int64(float32)", cache=True, nogil=True, error_model="numpy")
def _zone(offset: float) -> int:
    """Return 0 on asphalt, 1 on the pavement, 2 beyond."""
    side = abs(offset)
    return 0 if side < ASPHALT_M else (1 if side < PAVING_M else 2)


@njit(f"uint64({RUN}, int64)", cache=True, nogil=True, error_model="numpy")
def _end_of_zone(begin: int, end: int, lines: np.ndarray, zone: int) -> int:
    """Return where the zone that a run begins in is left, at most `end`."""
    low = F(0.0) if zone == 0 else (F(ASPHALT_M) if zone == 1 else F(PAVING_M))
    high = F(ASPHALT_M) if zone == 0 else (F(PAVING_M) if zone == 1 else F(np.inf))
    for k in range(begin, end):
        side = abs(lines[OFFSET + k])
        if not (low <= side < high):
            return k
    return end


@njit(f"void({RUN}, float64[::1], float64[::1])", cache=True, nogil=True, error_model="numpy")
def _brighten(begin: int, end: int, lines: np.ndarray, sun: np.ndarray, light: np.ndarray) -> None:
    """Add fog and the sun to a run of sky."""
    fog, disc, none = F(light[FOG]), F(light[SUN_DISC]), F(0.0)
    air_b, air_g, air_r = F(light[AIR_B]), F(light[AIR_G]), F(light[AIR_R])
    sun_x, sun_y, sun_z = F(sun[0]), F(sun[1]), F(sun[2])
    if fog > none:
        for k in range(begin, end):
            veil = decay(lines[UP + k] * fog)
            lines[BLUE + k] += veil * (air_b - lines[BLUE + k])
            lines[GREEN + k] += veil * (air_g - lines[GREEN + k])
            lines[RED + k] += veil * (air_r - lines[RED + k])
    if disc > none:
        for k in range(begin, end):
            x, y, z = lines[DX + k], lines[DY + k], lines[DZ + k]
            near = (x * sun_x + y * sun_y + z * sun_z) / np.sqrt(x * x + y * y + z * z)
            # The disc is a quarter of a degree in radius; the air around it scatters forward.
            glow = F(0.035) / (F(1.002) - near) + (F(60.0) if near > F(0.99999) else none)
            glow = disc * glow if near > none else none
            lines[BLUE + k] += F(24.0) * glow
            lines[GREEN + k] += F(31.0) * glow
            lines[RED + k] += F(34.0) * glow


@njit(f"void({RUN}, float64[::1], boolean)", cache=True, nogil=True, error_model="numpy")
def _shine(begin: int, end: int, lines: np.ndarray, light: np.ndarray, wall: bool) -> None:
    """Night: add the own headlights to the light, and to the colours what shines by itself: colour * light shows it."""
    for k in range(begin, end):
        t, facing = lines[REACH + k], max(lines[TOWARDS + k], F(0.0))
        x, y, z = t * lines[DX + k], t * lines[DY + k], t * lines[DZ + k]
        lines[LIT + k] += headlight(light, x, y, z, facing)
        if lines[EMIT + k] > 0.0:
            glow = light[EMITTED] * lines[EMIT + k]
            if wall:
                share = glow / max(lines[LIT + k], 1e-6)
                lines[BLUE + k] += 92.0 * share
                lines[GREEN + k] += 150.0 * share
                lines[RED + k] += 190.0 * share
            else:
                lines[LIT + k] += 5.0 * glow


@njit(f"void(uint64, {LINE_F4}, float32, uint64, uint64, {LINE_F4})", cache=True, nogil=True, error_model="numpy")
def _through_air(count: int, lines: np.ndarray, air: float, colour: int, first: int, out: np.ndarray) -> None:
    """Light a stretch of one colour and put the air in front of it, from place `first` of `out` on."""
    for k in range(count):
        out[first + k] = air + lines[CLEAR + k] * (lines[colour + k] * lines[LIT + k] - air)


# What `shade` and `develop` are told about the scene, up to `lamps`.
SCENE = (
    f"{GRID_F4}, {GRID_F4}, {GRID_F4}, {TABLE}, {GRID_F4}, {GRID_I4}, {GRID_U1}, {TABLE}, {TABLE}, {CODES}, {TABLE},"
    f" float64, float64, float64[::1], float64[::1], float64, float64[::1], {PICTURE}"
)


@njit(
    f"float64(int64, {SCENE}, {LINE_F4}, float64[::1], float64[::1], uint64, uint64, {LINE_F4})",
    cache=True,
    error_model="numpy",
    nogil=True,
)
def _shade_row(
    i: int,
    rx: np.ndarray,
    ry: np.ndarray,
    rz: np.ndarray,
    starts: np.ndarray,
    depth: np.ndarray,
    hit: np.ndarray,
    shadow: np.ndarray,
    values: np.ndarray,
    velocity: np.ndarray,
    codes: np.ndarray,
    table: np.ndarray,
    table_start_m: float,
    arc_m: float,
    pose: np.ndarray,
    sun: np.ndarray,
    focal_px: float,
    light: np.ndarray,
    lamps: np.ndarray,
    lines: np.ndarray,
    here: np.ndarray,
    there: np.ndarray,
    first: int,
    apart: int,
    out: np.ndarray,
) -> float:
    """Fill three lines with row `i` of `shade`; lines, here, there: scratch. Returns the arc length for the row above.

    Blue begins at place `first` of `out`, green `apart` places after it and red as many after that.

    A row is cut into stretches, and those into runs of one surface. Road coordinates change slowly: they are found
    every ANCHOR pixels. What is left is arithmetic on lines, whole vectors of pixels at a time.
    """
    columns = depth.shape[1]
    cosine, sine, ground_z = np.cos(pose[3]), np.sin(pose[3]), -pose[2]
    mapped, night = lamps.shape[0] > 0, light[HEADLIGHT] > 0.0
    ambient, strength, wet = F(light[AMBIENT]), F(light[SUN]), light[WET]
    on_ground, haze, scale = F(light[SUN] * sun[2]), F(1.0 / light[HAZE]), F(1.0 / focal_px)
    air_b, air_g, air_r = F(light[AIR_B]), F(light[AIR_G]), F(light[AIR_R])
    sx, sy, sz, tau, guess = starts[i, 0], starts[i, 1], starts[i, 2], starts[i, 3], arc_m
    x, y, z, reach, what, dark = (
        rx.reshape(-1), ry.reshape(-1), rz.reshape(-1), depth.reshape(-1), hit.reshape(-1), shadow.reshape(-1)
    )  # fmt: skip
    for left in range(np.uint64(0), np.uint64(columns), np.uint64(STRETCH)):
        full, pixel = min(np.uint64(columns) - left, np.uint64(STRETCH)), np.uint64(i * columns) + left
        b = np.uint64(0)
        _load(pixel, full, x, y, z, reach, dark, haze, lines)
        while b < full:
            a, index = b, what[pixel + b]
            b += np.uint64(1)
            while b < full and what[pixel + b] == index:
                b += np.uint64(1)
            e = _whole(a, b)
            if index == -2:
                sky(a, e, lines, cosine, sine, light[OVERCAST], light[SKY])
                if light[FOG] > 0.0 or light[SUN_DISC] > 0.0:
                    _brighten(a, e, lines, sun, light)
                for k in range(a, b):
                    lines[LIT + k], lines[CLEAR + k] = F(1.0), F(1.0)
                continue
            if index == -1:
                guess = _survey(a, b, lines, table, table_start_m, pose, cosine, sine, scale, sx, sy, guess, here,
                                there)  # fmt: skip
                if a == 0 and left == 0:
                    arc_m = np.float64(lines[ARC])
                from_ = a
                while from_ < b:
                    zone = _zone(lines[OFFSET + from_])
                    stop = _end_of_zone(from_, b, lines, zone)
                    damp = F(1.0 - 0.15 * (3 - zone) * wet)
                    if zone == 0:
                        asphalt(from_, _whole(from_, stop), lines, ambient * damp, on_ground * damp)
                    elif zone == 1:
                        paving(from_, _whole(from_, stop), lines, ambient * damp, on_ground * damp)
                    else:
                        grass(from_, _whole(from_, stop), lines, ambient * damp, on_ground * damp)
                    from_ = stop
                if night:
                    for k in range(a, b):  # the ground's facets stand up to a grazing beam
                        lines[EMIT + k], lines[TOWARDS + k] = F(0.0), F(0.3)
            else:
                n, material = np.uint64(index), codes[index, 1]
                px = sx - values[n, 0] - velocity[n, 0] * tau
                py = sy - values[n, 1] - velocity[n, 1] * tau
                pz = sz - values[n, 2]
                if material == BUILDING:
                    wall(a, e, lines, values, n, px, py, pz, ground_z, sun, ambient, strength, scale)
                elif material == FOLIAGE:
                    leaves(a, e, lines, values, n, px, py, pz, ground_z, sun, ambient, strength)
                else:
                    thing(a, e, lines, values, n, px, py, pz, ground_z, sun, ambient, strength, codes[n, 0],
                          material, scale)  # fmt: skip
            if mapped:
                for k in range(a, b):
                    at_x, at_y = sx + lines[REACH + k] * lines[DX + k], sy + lines[REACH + k] * lines[DY + k]
                    day, lamp = lights_at(lamps, light, at_x, at_y)
                    lines[LIT + k] = lines[LIT + k] * day + lamp
            if night:
                _shine(a, b, lines, light, index >= 0 and codes[max(index, 0), 1] == BUILDING)
        _through_air(full, lines, air_b, BLUE, first + left, out)
        _through_air(full, lines, air_g, GREEN, first + apart + left, out)
        _through_air(full, lines, air_r, RED, first + apart + apart + left, out)
    return arc_m


@njit(f"void({SCENE}, {PICTURE})", cache=True, error_model="numpy", nogil=True)
def shade(
    rx: np.ndarray,
    ry: np.ndarray,
    rz: np.ndarray,
    starts: np.ndarray,
    depth: np.ndarray,
    hit: np.ndarray,
    shadow: np.ndarray,
    values: np.ndarray,
    velocity: np.ndarray,
    codes: np.ndarray,
    table: np.ndarray,
    table_start_m: float,
    first_s_m: float,
    pose: np.ndarray,
    sun: np.ndarray,
    focal_px: float,
    light: np.ndarray,
    lamps: np.ndarray,
    out: np.ndarray,
) -> None:
    """Fill `out` (3, H, W) float32, planes blue, green, red, about 0..255, with the light that reaches each pixel.

    Args:
        rx, ry, rz, starts, depth, hit: as in and out of `cast`; rays have 1 along the optical axis. shadow: of
            `cast_shadows`.
        values, velocity, codes: primitives in the rays' frame.
        table, table_start_m: the road's (x, y, cos, sin) every `STEP_M`, world frame, from that arc length on.
        first_s_m: arc length near the camera, where the search for the ground's road coordinates begins.
        pose: of the camera: world x, y, height above the ground, heading. sun: unit vector in the rays' frame.
        light: what shines and what dims, see `edgeguard.sim.kernels.light`. lamps: (N, N, 2) map of daylight and
            lamps, or (0, 0, 2).
    """
    rows, columns = depth.shape
    lines, flat = np.ones(LINES * (STRETCH + LANES), np.float32), out.reshape(-1)
    here, there = np.empty(4), np.empty(4)
    arc_m = first_s_m
    for i in range(depth.shape[0] - 1, -1, -1):  # upwards: arc length grows smoothly, so the search starts close
        arc_m = _shade_row(
            i, rx, ry, rz, starts, depth, hit, shadow, values, velocity, codes, table, table_start_m, arc_m, pose,
            sun, focal_px, light, lamps, lines, here, there, np.uint64(i * columns), np.uint64(rows * columns), flat,
        )  # fmt: skip


@njit(
    f"void(uint64, uint64, uint64, uint64, {LINE_F4}, float32, float32, {LINE_F4})",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _soften(
    above: int, here: int, below: int, count: int, light: np.ndarray, centre: float, beside: float, out: np.ndarray
) -> None:
    """Fill columns -1 to W of a row's weighted mean with its neighbours; the picture is mirrored at its sides."""
    for j in range(count):
        out[j + np.uint64(1)] = centre * light[here + j] + beside * (light[above + j] + light[below + j])
    out[0], out[count + np.uint64(1)] = out[2], out[count - np.uint64(1)]


@njit(
    f"void(uint64, {LINE_F4}, float32, float32, {LINE_F4}, float32, float32, float32, uint64, {LINE_F4}, uint64,"
    " uint8[::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _expose_line(
    count: int,
    mean: np.ndarray,
    centre: float,
    beside: float,
    fall: np.ndarray,
    high: float,
    read: float,
    shot: float,
    begin: int,
    noise: np.ndarray,
    first: int,
    out: np.ndarray,
) -> None:
    """Expose one row of one plane, whose weighted means `_soften` has made; noise is read from place `begin` on."""
    for j in range(count):
        middle, sides = mean[j + np.uint64(1)], mean[j] + mean[j + np.uint64(2)]
        signal = (centre * middle + beside * sides) * (fall[j] - high)
        value = signal + noise[begin + j] * np.sqrt(read + shot * max(signal, F(0.0))) + F(0.5)
        out[first + j] = np.uint8(np.int32(min(max(value, F(0.0)), F(255.0))))


# What `expose` and `develop` are told about lens and sensor.
SENSOR = f"float64, float64, float64, float64, float64, int64, {LINE_F4}"


@njit(
    f"void(float64, float64, float64, float64, float64, int64, float64[::1], {LINE_F4})",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _sensor(
    blur_px: float,
    gain: float,
    vignette: float,
    read_dn: float,
    shot_dn: float,
    rows: int,
    numbers: np.ndarray,
    fall: np.ndarray,
) -> None:
    """Fill `fall` with the gain along the middle row, `numbers` with what rows have in common.

    These are the weights of a pixel and of its neighbour, both variances, and what a row loses of its gain per square
    of its distance from the middle.
    """
    columns = len(fall)
    tap = exp(-0.5 / (blur_px * blur_px)) if blur_px > 0.0 else 0.0
    cy, cx = 0.5 * (rows - 1), 0.5 * (columns - 1)
    scale = vignette / (cy * cy + cx * cx)
    numbers[0], numbers[1] = 1.0 / (1.0 + 2.0 * tap), tap / (1.0 + 2.0 * tap)
    numbers[2], numbers[3], numbers[4] = read_dn * read_dn, shot_dn, gain * scale
    for j in range(columns):
        fall[j] = gain * (1.0 - scale * (j - cx) * (j - cx))


@njit(
    f"void(int64, int64, uint64, uint64, uint64, uint64, {LINE_F4}, float64[::1], {LINE_F4}, int64, {LINE_F4},"
    f" {LINE_F4}, uint8[::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _expose_row(
    i: int,
    rows: int,
    above: int,
    here: int,
    below: int,
    apart: int,
    light: np.ndarray,
    numbers: np.ndarray,
    fall: np.ndarray,
    key: int,
    deviates: np.ndarray,
    mean: np.ndarray,
    out: np.ndarray,
) -> None:
    """Expose one row, which is at `here` in `light`, its neighbours at `above` and `below`, its colours `apart`.

    numbers, fall: of `_sensor`. mean: scratch, two longer than a row.
    """
    columns, cy = len(fall), 0.5 * (rows - 1)
    count = np.uint64(columns)
    centre, beside, high = F(numbers[0]), F(numbers[1]), F(numbers[4] * (i - cy) * (i - cy))
    begin = np.uint64(hash3(i, key, 0x5EED) % (len(deviates) - 3 * columns))
    for c in range(np.uint64(3)):
        shift, first = c * apart, np.uint64(i) * count + c * np.uint64(rows) * count
        _soften(above + shift, here + shift, below + shift, count, light, centre, beside, mean)
        _expose_line(count, mean, centre, beside, fall, high, F(numbers[2]), F(numbers[3]), begin + c * count, deviates,
                     first, out)  # fmt: skip


@njit(f"void({PICTURE}, {SENSOR}, uint8[:,:,::1])", cache=True, nogil=True, error_model="numpy")
def expose(
    light: np.ndarray,
    blur_px: float,
    gain: float,
    vignette: float,
    read_dn: float,
    shot_dn: float,
    key: int,
    deviates: np.ndarray,
    out: np.ndarray,
) -> None:
    """Turn light, (3, H, W), into digital numbers: the lens' blur, gain, vignetting, shot and read noise.

    blur_px: sigma of a Gauss curve cut off beyond one pixel; 0: none. The picture, at least two pixels wide and high,
    is mirrored at its border. `vignette` is the share lost in the corners. Noise is read from `deviates`, a table of
    standard normal ones; where a row begins in it hangs on a hash of (key, row), so a frame does not depend on which
    frames were made before it. Variance is read_dn^2 + shot_dn * signal, in digital numbers squared.
    """
    rows, columns = light.shape[1], light.shape[2]
    numbers, fall, mean = np.empty(5), np.empty(columns, np.float32), np.empty(columns + 2, np.float32)
    _sensor(blur_px, gain, vignette, read_dn, shot_dn, rows, numbers, fall)
    flat, told = light.reshape(-1), out.reshape(-1)
    for i in range(rows):
        above, below = abs(i - 1), rows - 1 - abs(rows - 2 - i)
        _expose_row(i, rows, np.uint64(above * columns), np.uint64(i * columns), np.uint64(below * columns),
                    np.uint64(rows * columns), flat, numbers, fall, key, deviates, mean, told)  # fmt: skip


@njit(f"void({SCENE}, {SENSOR}, uint8[:,:,::1])", cache=True, nogil=True, error_model="numpy")
def develop(
    rx: np.ndarray,
    ry: np.ndarray,
    rz: np.ndarray,
    starts: np.ndarray,
    depth: np.ndarray,
    hit: np.ndarray,
    shadow: np.ndarray,
    values: np.ndarray,
    velocity: np.ndarray,
    codes: np.ndarray,
    table: np.ndarray,
    table_start_m: float,
    first_s_m: float,
    pose: np.ndarray,
    sun: np.ndarray,
    focal_px: float,
    light: np.ndarray,
    lamps: np.ndarray,
    blur_px: float,
    gain: float,
    vignette: float,
    read_dn: float,
    shot_dn: float,
    key: int,
    deviates: np.ndarray,
    out: np.ndarray,
) -> None:
    """`shade` and then `expose`, of which three rows are kept at a time: a whole picture's light would leave the cache.

    For exposures with nothing between the two: no motion blur, no glare, no drops on the way.
    """
    rows, columns = depth.shape
    lines = np.ones(LINES * (STRETCH + LANES), np.float32)
    here, there, kept = np.empty(4), np.empty(4), np.empty(9 * columns, np.float32)
    numbers, fall, mean = np.empty(5), np.empty(columns, np.float32), np.empty(columns + 2, np.float32)
    told = out.reshape(-1)
    _sensor(blur_px, gain, vignette, read_dn, shot_dn, rows, numbers, fall)
    arc_m = first_s_m
    for i in range(rows - 1, -2, -1):
        if i >= 0:
            arc_m = _shade_row(
                i, rx, ry, rz, starts, depth, hit, shadow, values, velocity, codes, table, table_start_m, arc_m,
                pose, sun, focal_px, light, lamps, lines, here, there,
                np.uint64((i % 3) * columns), np.uint64(3 * columns), kept,
            )  # fmt: skip
        done = i + 1  # its neighbours are known now
        if done < rows:
            above, below = abs(done - 1), rows - 1 - abs(rows - 2 - done)
            _expose_row(done, rows, np.uint64((above % 3) * columns), np.uint64((done % 3) * columns),
                        np.uint64((below % 3) * columns), np.uint64(3 * columns), kept, numbers, fall, key, deviates,
                        mean, told)  # fmt: skip
