"""Wheel encoders and steering of the simulated vehicle: tyre radius error, whole ticks, a coarse steering sensor."""

from __future__ import annotations

from dataclasses import dataclass
from math import atan, copysign, floor, hypot

import numpy as np

from edgeguard.clock import NS_PER_S
from edgeguard.sim.world import EgoTruth, World
from edgeguard.types import WHEELS, WheelOdometry

WHEELS_LATENCY_NS = 4_000_000  # from measuring to the host, assumed


@dataclass(frozen=True, slots=True)
class WheelModel:
    """Geometry and errors. A tick is about 1 mm: a 2048-line encoder on a 0.31 m wheel."""

    rate_hz: int = 50
    ticks_per_m: float = 1024.0
    wheelbase_m: float = 2.7
    track_m: float = 1.56
    scale_sigma: float = 0.005  # all tyres together: pressure, wear
    wheel_scale_sigma: float = 0.001  # each tyre
    steering_step_rad: float = 0.0017  # 0.1 degree
    steering_bias_rad: float = 0.003
    slip_per_m_s2: float = (
        0.0  # share by which driven wheels outrun the road per m/s^2; 0.002 is a tyre of 50 kN stiffness
    )


def true_wheel_speeds(ego: EgoTruth, model: WheelModel) -> tuple[float, float, float, float]:
    """Return rolling speeds in m/s of a body that turns about the line of its rear axle."""
    left = ego.speed_m_s - ego.yaw_rate_rad_s * model.track_m / 2
    right = ego.speed_m_s + ego.yaw_rate_rad_s * model.track_m / 2
    across = ego.yaw_rate_rad_s * model.wheelbase_m
    return copysign(hypot(left, across), left), copysign(hypot(right, across), right), left, right


class Wheels:
    """Gives the k-th sample; counts ticks from the start of the drive, so rounding never accumulates."""

    def __init__(self, world: World, seed: int, model: WheelModel | None = None) -> None:
        self._world, self.model = world, model or WheelModel()
        rng = np.random.default_rng([seed, 0x3EE1])
        m = self.model
        common = 1.0 + m.scale_sigma * float(rng.standard_normal())
        self.scales = tuple(common + m.wheel_scale_sigma * float(v) for v in rng.standard_normal(4))
        self._bias_rad = m.steering_bias_rad * float(rng.standard_normal())
        self._phase = rng.random(4)  # where each encoder disc stands at the start
        self._ticks: list[tuple[float, float, float, float]] = [(0.0, 0.0, 0.0, 0.0)]

    def sample(self, index: int) -> WheelOdometry:
        """Return sample `index` >= 1: whole ticks since the sample before, as speeds in m/s."""
        m = self.model
        while len(self._ticks) <= index:
            self._roll()
        speeds = []
        for now, before, phase in zip(self._ticks[index], self._ticks[index - 1], self._phase, strict=True):
            speeds.append((floor(now + phase) - floor(before + phase)) * m.rate_hz / m.ticks_per_m)
        ego = self._world.ego(index / m.rate_hz)
        angle = atan(m.wheelbase_m * ego.curvature_1_m) + self._bias_rad
        steering = round(angle / m.steering_step_rad) * m.steering_step_rad
        stamp_ns = index * NS_PER_S // m.rate_hz
        four = (speeds[0], speeds[1], speeds[2], speeds[3])
        return WheelOdometry(stamp_ns, sum(four) / 4.0, four, steering, WHEELS, stamp_ns)

    def _roll(self) -> None:
        """Add one period of rolling (speed at its middle: exact to micrometres at these accelerations)."""
        m, last = self.model, self._ticks[-1]
        middle = self._world.ego(min((len(self._ticks) - 0.5) / m.rate_hz, self._world.duration_s))
        front_left, front_right, rear_left, rear_right = true_wheel_speeds(middle, m)
        slip = 1.0 + m.slip_per_m_s2 * middle.accel_forward_m_s2  # driven by the front; all four brake
        rear = slip if middle.accel_forward_m_s2 < 0.0 else 1.0
        speeds = (front_left * slip, front_right * slip, rear_left * rear, rear_right * rear)
        rolled = [t + v * s * m.ticks_per_m / m.rate_hz for t, v, s in zip(last, speeds, self.scales, strict=True)]
        self._ticks.append((rolled[0], rolled[1], rolled[2], rolled[3]))
