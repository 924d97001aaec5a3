"""How far along its street the ego vehicle is, and how fast it drives: closed formulas of time."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray

from edgeguard.sim.weather import queue_time

MEAN_SPEED_M_S = 9.5
_SPEED_WAVES = ((2.9, 19.0), (1.4, 8.7))  # m/s and seconds: 5.2 to 13.8 m/s, at most 2 m/s^2


@dataclass(frozen=True, slots=True)
class Pace:
    """A way of driving: a phase in radians for each of the two waves of speed; `queue`: whether it stands for a while.

    `ahead_s` asks for somebody who drives the same way so many seconds before.
    """

    phases_rad: tuple[float, float]
    queue: bool

    def progress(self, t: float, ahead_s: float = 0.0) -> float:
        """Return the arc length at `t`, metres."""
        t = self._time(t)[0] + ahead_s
        total = MEAN_SPEED_M_S * t
        for (amplitude, period), phase in zip(_SPEED_WAVES, self.phases_rad, strict=True):
            w = 2 * pi / period
            total -= amplitude / w * (cos(w * t + phase) - cos(phase))
        return total

    def rate(self, t: float, ahead_s: float = 0.0) -> float:
        """Return the derivative of `progress`, m/s."""
        t, share, _ = self._time(t)
        return share * self._free_rate(t + ahead_s)

    def rate_change(self, t: float) -> float:
        """Return the derivative of `rate`, m/s^2."""
        t, share, change = self._time(t)
        waves = zip(_SPEED_WAVES, self.phases_rad, strict=True)
        free = sum(a * 2 * pi / period * cos(2 * pi / period * t + phase) for (a, period), phase in waves)
        return share * share * free + change * self._free_rate(t)

    def at(self, times_s: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return `progress`, `rate` and `rate_change` at (N,) times at once."""
        t, share, change = times_s, np.ones_like(times_s), np.zeros_like(times_s)
        if self.queue:
            t, share, change = np.array([queue_time(float(one)) for one in times_s]).T
        way, free, bend = MEAN_SPEED_M_S * t, np.full_like(t, MEAN_SPEED_M_S), np.zeros_like(t)
        for (amplitude, period), phase in zip(_SPEED_WAVES, self.phases_rad, strict=True):
            w = 2 * pi / period
            wave, slope = np.sin(w * t + phase), np.cos(w * t + phase)
            way -= amplitude / w * (slope - cos(phase))
            free += amplitude * wave
            bend += amplitude * w * slope
        return way, share * free, share * share * bend + change * free

    def _free_rate(self, t: float) -> float:
        waves = zip(_SPEED_WAVES, self.phases_rad, strict=True)
        return MEAN_SPEED_M_S + sum(a * sin(2 * pi / period * t + phase) for (a, period), phase in waves)

    def _time(self, t: float) -> tuple[float, float, float]:
        return queue_time(t) if self.queue else (t, 1.0, 0.0)
