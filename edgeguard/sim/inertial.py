"""An inertial unit on the simulated vehicle: EuRoC's white noise and wandering bias, plus road vibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeguard.clock import NS_PER_S
from edgeguard.sim.world import World
from edgeguard.types import IMU, ImuSample

GRAVITY_M_S2 = 9.81


@dataclass(frozen=True, slots=True)
class ImuModel:
    """Noise of an ADIS16448-class unit as in EuRoC's `sensor.yaml`; vibration is assumed, at 10 m/s."""

    rate_hz: int = 100
    gyro_noise: float = 1.7e-4  # rad/s/sqrt(Hz)
    gyro_walk: float = 1.94e-5  # rad/s^2/sqrt(Hz)
    accel_noise: float = 2.0e-3  # m/s^2/sqrt(Hz)
    accel_walk: float = 3.0e-3  # m/s^3/sqrt(Hz)
    gyro_bias_rad_s: float = 2.0e-3  # spread of the turn-on bias
    accel_bias_m_s2: float = 0.04
    vibration_m_s2: tuple[float, float, float] = (0.06, 0.06, 0.15)


class Imu:
    """Gives the k-th sample of a drive. Noise and bias are drawn up front, so samples may be asked for in any order."""

    def __init__(self, world: World, seed: int, model: ImuModel | None = None) -> None:
        self._world, self.model = world, model or ImuModel()
        m = self.model
        rng = np.random.default_rng([seed, 0x1300])
        count = int(world.duration_s * m.rate_hz) + 2
        step = 1.0 / m.rate_hz
        white = rng.standard_normal((count, 6))
        white[:, :3] *= m.gyro_noise * np.sqrt(m.rate_hz)
        white[:, 3:] *= m.accel_noise * np.sqrt(m.rate_hz)
        walk = rng.standard_normal((count, 6)) * np.sqrt(step)
        walk[:, :3] *= m.gyro_walk
        walk[:, 3:] *= m.accel_walk
        walk[0] = rng.standard_normal(6) * np.array([m.gyro_bias_rad_s] * 3 + [m.accel_bias_m_s2] * 3)
        self._error = white + np.cumsum(walk, axis=0)
        self._shake = rng.standard_normal((count, 3)) * np.array(m.vibration_m_s2)

    def sample(self, index: int) -> ImuSample:
        """Return sample `index`, taken at index / rate seconds; rates in rad/s, specific force in m/s^2."""
        time_s = index / self.model.rate_hz
        ego = self._world.ego(time_s)
        error = self._error[index]
        shake = self._shake[index] * (ego.speed_m_s / 10.0)
        stamp_ns = index * NS_PER_S // self.model.rate_hz
        return ImuSample(
            stamp_ns,
            (float(error[0]), float(error[1]), float(ego.yaw_rate_rad_s + error[2])),
            (
                float(ego.accel_forward_m_s2 + error[3] + shake[0]),
                float(ego.accel_left_m_s2 + error[4] + shake[1]),
                float(GRAVITY_M_S2 + error[5] + shake[2]),
            ),
            IMU,
            stamp_ns,
        )
