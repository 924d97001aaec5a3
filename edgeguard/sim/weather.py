"""What a drive meets besides a clear day on a flat street: weather, light, ground, structures.

Figures and where they come from: contrast falls to 2 % at the meteorological visibility V, so extinction is 3.912 / V
(Koschmieder 1924). Rain of R mm/h dims a lidar by 0.01 * R^0.6 per km (Goodin et al. 2019). Road roughness follows ISO
8608, classes A to C. How bright the night, a tunnel or a wet street is, and how many drops answer a pulse, is assumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin, sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
CLEAR_VISIBILITY_M = 1017.0  # town air: contrast falls to 1/e at 260 m
ROUGHNESS_M3 = {"": 0.0, "A": 16e-6, "B": 64e-6, "C": 256e-6}  # ISO 8608, displacement density at 0.1 cycles per metre
TUNNEL_M = (55.0, 125.0)  # where a tunnel begins and ends, arc length
BRIDGE_M = (70.0, 84.0)
QUEUE_S = (6.0, 11.0, 18.0, 23.0)  # begins to brake, stands, sets off, drives as before


@dataclass(frozen=True, slots=True)
class Conditions:
    """A world's weather, light and structures.

    grade: steepest slope of the hills, rise over run. roughness: ISO 8608 class, "A" to "C", or "" for a plane.
    visibility_m: meteorological. trucks: parked lorries and vans in the lanes' margin. queue: the column stops for a
    while, see `QUEUE_S`.
    """

    grade: float = 0.0
    roughness: str = ""
    visibility_m: float = CLEAR_VISIBILITY_M
    rain_mm_h: float = 0.0
    overcast: float = 0.0
    night: bool = False
    low_sun: bool = False
    tunnel: bool = False
    bridge: bool = False
    trucks: bool = False
    crossings: bool = False
    queue: bool = False

    @property
    def extinction_1_m(self) -> float:
        """Loss of light on one way, per metre, beyond that of clear town air."""
        haze = 3.912 / self.visibility_m - 3.912 / CLEAR_VISIBILITY_M
        rain = 0.01 * self.rain_mm_h**0.6 / 1000.0
        return float(max(haze, 0.0) + rain)


CLEAR_DAY = Conditions()
WORLD_PRESETS: dict[str, tuple[Conditions, str]] = {
    "clear": (CLEAR_DAY, "flat street on a clear day, as without a preset"),
    "hills": (Conditions(grade=0.04, roughness="B"), "slopes up to 4 %, ISO 8608 class B: the body pitches"),
    "rough": (Conditions(roughness="C"), "flat, ISO 8608 class C"),
    "rain": (Conditions(roughness="A", rain_mm_h=20.0, overcast=1.0, visibility_m=700.0), "heavy rain, wet street"),
    "fog": (Conditions(roughness="A", overcast=1.0, visibility_m=90.0), "fog, 90 m visibility: no blinding"),
    "night": (Conditions(roughness="A", night=True), "street lamps and headlights: dark is not covered"),
    "glare": (Conditions(roughness="A", low_sun=True), "low sun ahead: in frame, and no dazzler"),
    "tunnel": (Conditions(roughness="A", tunnel=True), "70 m of tunnel: no satellites, and no jammer"),
    "bridge": (Conditions(roughness="A", bridge=True), "a bridge overhead hides half the sky for a moment"),
    "trucks": (Conditions(roughness="A", trucks=True), "lorries parked in the margin: near walls, no ghosts"),
    "busy": (Conditions(roughness="A", crossings=True), "pedestrians cross between the cars"),
    "queue": (Conditions(queue=True), "the column stands for seven seconds: pictures hardly change, and nothing froze"),
}  # fmt: skip


class Ground:
    """Height of the ground, and how the vehicle's body answers its roughness; closed formulas of a seed."""

    _WAVES = 3
    _TONES = 48

    def __init__(self, conditions: Conditions, seed: int, mean_speed_m_s: float) -> None:
        rng = np.random.default_rng([seed, 0x6A0D])
        lengths = rng.uniform(110.0, 230.0, self._WAVES)
        angle = rng.uniform(-pi, pi, self._WAVES)
        self._kx, self._ky = 2 * pi / lengths * np.cos(angle), 2 * pi / lengths * np.sin(angle)
        self._phase = rng.uniform(0, 2 * pi, self._WAVES)
        self._amplitude = conditions.grade / self._WAVES * lengths / (2 * pi)
        self.flat = conditions.grade == 0.0
        self.smooth = not conditions.roughness
        edges = np.geomspace(0.02, 3.0, self._TONES + 1)  # cycles per metre
        n = np.sqrt(edges[1:] * edges[:-1])
        density = ROUGHNESS_M3[conditions.roughness] * (n / 0.1) ** -2.0
        # The body on its springs: 1.3 Hz, damped to 0.3 of critical, at the drive's mean speed.
        ratio = n * mean_speed_m_s / 1.3
        damped = (2 * 0.3 * ratio) ** 2
        gain = np.sqrt((1 + damped) / ((1 - ratio**2) ** 2 + damped))
        self._tones = 2 * pi * n
        self._rough = np.sqrt(2.0 * density * np.diff(edges)) * gain
        self._tone_phase = rng.uniform(0, 2 * pi, (2, self._TONES))

    def height(self, x: Floats, y: Floats) -> Floats:
        """Return the ground's height at world x, y (same shapes)."""
        total = np.zeros(np.shape(x))
        if self.flat:
            return total
        for kx, ky, phase, amplitude in zip(self._kx, self._ky, self._phase, self._amplitude, strict=True):
            total = total + amplitude * (np.sin(kx * x + ky * y + phase) - np.sin(phase))
        return total

    def slope(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return the rise per metre towards x and towards y at (N,) places."""
        if self.flat:
            return np.zeros_like(x), np.zeros_like(x)
        swing = self._amplitude * np.cos(np.outer(x, self._kx) + np.outer(y, self._ky) + self._phase)
        return swing @ self._kx, swing @ self._ky

    def shake(self, s_m: Floats, wheelbase_m: float = 2.7, track_m: float = 1.56) -> tuple[Floats, Floats, Floats]:
        """Return heave in metres, pitch (nose down) and roll in radians of the body at (N,) arc lengths."""
        if self.smooth:
            return np.zeros_like(s_m), np.zeros_like(s_m), np.zeros_like(s_m)
        rear = np.cos(np.outer(s_m, self._tones) + self._tone_phase[0])
        front = np.cos(np.outer(s_m + wheelbase_m, self._tones) + self._tone_phase[0])
        # Left and right wheels meet the same long waves, and each its own short ones.
        both = np.cos(np.outer(s_m, self._tones) + self._tone_phase[1])
        apart = np.sqrt(1.0 - np.exp(-self._tones * track_m)) * both
        return (
            (rear + front) @ self._rough / 2.0,
            (rear - front) @ self._rough / wheelbase_m,
            apart @ self._rough / track_m / sqrt(2.0),
        )


def queue_time(t: float) -> tuple[float, float, float]:
    """Return how far a drive that stands in a queue has come, as time of one that does not, and its two derivatives.

    The share of the speed falls and rises as half a cosine, so acceleration has no steps.
    """
    brake, stand, start, gone = QUEUE_S
    down, up = stand - brake, gone - start
    if t <= brake:
        return t, 1.0, 0.0
    if t < stand:
        x = pi * (t - brake) / down
        return brake + (t - brake) / 2 + down / (2 * pi) * sin(x), (1 + cos(x)) / 2, -pi / (2 * down) * sin(x)
    if t <= start:
        return brake + down / 2, 0.0, 0.0
    if t < gone:
        x = pi * (t - start) / up
        return (
            brake + down / 2 + (t - start) / 2 - up / (2 * pi) * sin(x), (1 - cos(x)) / 2, pi / (2 * up) * sin(x)
        )  # fmt: skip
    return t - (stand - brake) / 2 - (start - stand) - up / 2, 1.0, 0.0


def exposure_of(brightness: Floats, step_s: float, lag_s: float) -> float:
    """Return the gain that an automatic exposure has after a history of brightness (1: full day): it lags behind."""
    seen = float(brightness[0])
    keep = float(np.exp(-step_s / lag_s))
    for value in brightness[1:]:
        seen = keep * seen + (1.0 - keep) * float(value)
    return 1.0 / max(seen, 1e-3)
