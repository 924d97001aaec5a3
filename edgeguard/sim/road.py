"""The centreline of a street: gentle curves both ways, as a closed formula for heading and a table for position.

Heading is a sum of sines of arc length, so curvature and its derivative are exact and the inertial sensor needs no
numerical differences. Frame: x east, y north, z up, metres; headings counter-clockwise from east.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray

STEP_M = 0.5  # chord error at the tightest curve (60 m radius) is 0.5 mm
_SUBSTEPS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Road:
    """A centreline from `start_m` to `end_m` of arc length.

    table: (N, 4) float64 of x, y, cos(heading), sin(heading) every `STEP_M` from `start_m`.
    """

    start_m: float
    end_m: float
    heading0_rad: float
    amplitudes_rad: tuple[float, ...]
    lengths_m: tuple[float, ...]
    phases_rad: tuple[float, ...]
    table: NDArray[np.float64]

    def heading(self, s_m: float) -> float:
        """Heading in radians at arc length `s_m`."""
        waves = zip(self.amplitudes_rad, self.lengths_m, self.phases_rad, strict=True)
        return self.heading0_rad + sum(a * sin(2 * pi * s_m / length + phase) for a, length, phase in waves)

    def curvature(self, s_m: float) -> float:
        """Curvature in 1/m, left positive."""
        return sum(
            a * 2 * pi / length * cos(2 * pi * s_m / length + phase)
            for a, length, phase in zip(self.amplitudes_rad, self.lengths_m, self.phases_rad, strict=True)
        )

    def curvature_rate(self, s_m: float) -> float:
        """Derivative of curvature by arc length, 1/m^2."""
        return -sum(
            a * (2 * pi / length) ** 2 * sin(2 * pi * s_m / length + phase)
            for a, length, phase in zip(self.amplitudes_rad, self.lengths_m, self.phases_rad, strict=True)
        )

    def bends(self, s_m: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return `curvature` and `curvature_rate` at (N,) arc lengths at once."""
        bend, rate = np.zeros_like(s_m), np.zeros_like(s_m)
        for a, length, phase in zip(self.amplitudes_rad, self.lengths_m, self.phases_rad, strict=True):
            w = 2 * pi / length
            bend += a * w * np.cos(w * s_m + phase)
            rate -= a * w * w * np.sin(w * s_m + phase)
        return bend, rate

    def place(self, s_m: float, offset_m: float) -> tuple[float, float, float]:
        """Return (x, y, heading) of the point `offset_m` to the left of the centreline at `s_m`.

        Position is cubic Hermite interpolation with the exact tangents: error far below a micrometre.
        """
        position = (s_m - self.start_m) / STEP_M
        index = min(max(int(position), 0), len(self.table) - 2)
        u = position - index
        (x0, y0, c0, s0), (x1, y1, c1, s1) = self.table[index : index + 2].tolist()
        a, b = (1 + 2 * u) * (1 - u) ** 2, u * (1 - u) ** 2
        c, d = u * u * (3 - 2 * u), u * u * (u - 1)
        x = a * x0 + b * STEP_M * c0 + c * x1 + d * STEP_M * c1
        y = a * y0 + b * STEP_M * s0 + c * y1 + d * STEP_M * s1
        heading = self.heading(s_m)
        return x - offset_m * sin(heading), y + offset_m * cos(heading), heading

    def places(
        self, s_m: NDArray[np.float64], offset_m: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return what `place` does, of (N,) points at once."""
        position = (s_m - self.start_m) / STEP_M
        index = np.clip(position.astype(np.int64), 0, len(self.table) - 2)
        u = position - index
        at, to = self.table[index], self.table[index + 1]
        rest = 1 - u
        a, b = (1 + 2 * u) * rest * rest, u * rest * rest * STEP_M
        c, d = u * u * (3 - 2 * u), u * u * (u - 1) * STEP_M
        heading = _heading(s_m, self.heading0_rad, self.amplitudes_rad, self.lengths_m, self.phases_rad)
        x = a * at[:, 0] + b * at[:, 2] + c * to[:, 0] + d * to[:, 2]
        y = a * at[:, 1] + b * at[:, 3] + c * to[:, 1] + d * to[:, 3]
        return x - offset_m * np.sin(heading), y + offset_m * np.cos(heading), heading


def _heading(
    s_m: NDArray[np.floating],
    heading0_rad: float,
    amplitudes: tuple[float, ...],
    lengths: tuple[float, ...],
    phases: tuple[float, ...],
) -> NDArray[np.float64]:
    total = np.full(s_m.shape, heading0_rad)
    for a, length, phase in zip(amplitudes, lengths, phases, strict=True):
        total = total + a * np.sin(2 * pi * s_m / length + phase)
    return total


def make_road(rng: np.random.Generator, start_m: float, end_m: float) -> Road:
    """Draw a street: radii stay above about 60 m, so 14 m/s keeps lateral acceleration below 3.5 m/s^2."""
    heading0 = float(rng.uniform(-pi, pi))
    amplitudes = (0.30, 0.04)
    lengths = (float(rng.uniform(135.0, 160.0)), float(rng.uniform(60.0, 75.0)))
    phases = (float(rng.uniform(0.0, 2 * pi)), float(rng.uniform(0.0, 2 * pi)))
    count = int((end_m - start_m) / STEP_M) + 2
    fine = start_m + (np.arange((count - 1) * _SUBSTEPS) + 0.5) * (STEP_M / _SUBSTEPS)
    heading = np.asarray(_heading(fine, heading0, amplitudes, lengths, phases))
    steps = np.stack([np.cos(heading), np.sin(heading)], axis=1).reshape(count - 1, _SUBSTEPS, 2).mean(axis=1) * STEP_M
    nodes = start_m + np.arange(count) * STEP_M
    node_heading = np.asarray(_heading(nodes, heading0, amplitudes, lengths, phases))
    table = np.zeros((count, 4))
    table[1:, :2] = np.cumsum(steps, axis=0)
    table[:, 2], table[:, 3] = np.cos(node_heading), np.sin(node_heading)
    at_zero = round(-start_m / STEP_M)
    table[:, :2] -= table[at_zero, :2]  # the origin of the map is where arc length is zero
    return Road(start_m, end_m, heading0, amplitudes, lengths, phases, table)
