"""The heading of a gyro's zero, learned from the courses of a receiver: offset and bias, a two-state Kalman filter."""

from __future__ import annotations

import math

from edgeguard.checks.motion_statistics import DEAD_BAND_SIGMA


def wrap(angle_rad: float) -> float:
    """The same angle in [-pi, pi)."""
    return (angle_rad + math.pi) % (2 * math.pi) - math.pi


class HeadingFilter:
    """Offset of the gyro's integrated yaw to GNSS course, and the gyro's bias: a two-state Kalman filter."""

    # Consumer gyros: bias below 1 deg/s; sideslip and mounting move the offset by fractions of a degree.
    _BIAS_SD = 0.012
    _BIAS_LIMIT = 0.05
    _BIAS_WALK = 0.0002
    _OFFSET_WALK = 0.0008
    _OFFSET_FLOOR = 0.0015
    _BIAS_FLOOR = 0.0004
    # A turn is measured too long or too short: scale and mounting of the gyro.
    _SCALE_SD = 0.012

    def __init__(self) -> None:
        self.restart()
        self.bias_rad_s = 0.0
        self._bias_var = self._BIAS_SD**2

    def restart(self) -> None:
        """Forget the offset, keep the bias: after a gap the integral starts anywhere."""
        self.offset_rad: float | None = None
        self._t = 0.0
        self._offset_var = math.pi**2
        self._cross = 0.0
        self.learned = 0
        self._yaw = 0.0

    def predict(self, t: float, yaw_rad: float) -> tuple[float, float] | None:
        """Offset at `t`, where the gyro's integral is `yaw_rad`, and its standard deviation; None before the first."""
        if self.offset_rad is None:
            return None
        dt = t - self._t
        var = self._offset_var - 2 * dt * self._cross + dt * dt * self._bias_var
        var += abs(dt) * self._OFFSET_WALK**2 + self._OFFSET_FLOOR**2 + (self._SCALE_SD * (yaw_rad - self._yaw)) ** 2
        return self.offset_rad - self.bias_rad_s * dt, math.sqrt(max(var, self._OFFSET_FLOOR**2))

    @property
    def bias_sd(self) -> float:
        return math.sqrt(self._bias_var + self._BIAS_FLOOR**2)

    def update(self, t: float, yaw_rad: float, offset_rad: float, noise_rad: float, limit_rad: float) -> None:
        """Take one measured offset (course minus integrated yaw), unless it is off by more than the own uncertainty
        and `limit_rad`; uncertainty grows while nothing is taken, so an honest offset is taken again."""
        known = self.predict(t, yaw_rad)
        if self.offset_rad is None or known is None:
            self.learned = 1
            self.offset_rad, self._t, self._yaw = offset_rad, t, yaw_rad
            self._offset_var, self._cross = noise_rad**2, 0.0
            return
        if abs(wrap(offset_rad - known[0])) > DEAD_BAND_SIGMA * known[1] + limit_rad:
            return
        self.learned += 1
        dt = t - self._t
        # offset' = offset - bias dt
        mean = self.offset_rad - self.bias_rad_s * dt
        var = self._offset_var - 2 * dt * self._cross + dt * dt * self._bias_var + dt * self._OFFSET_WALK**2
        var += (self._SCALE_SD * (yaw_rad - self._yaw)) ** 2
        cross = self._cross - dt * self._bias_var
        bias_var = self._bias_var + dt * self._BIAS_WALK**2
        s = var + noise_rad**2
        innovation = wrap(offset_rad - mean)
        self.offset_rad = wrap(mean + var / s * innovation)
        bias = self.bias_rad_s + cross / s * innovation
        self.bias_rad_s = min(max(bias, -self._BIAS_LIMIT), self._BIAS_LIMIT)
        self._offset_var, self._bias_var = var - var * var / s, bias_var - cross * cross / s
        self._cross = cross - cross * var / s
        self._t, self._yaw = t, yaw_rad
