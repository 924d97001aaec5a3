"""An inertial unit on the simulated vehicle: EuRoC's white noise and wandering bias, plus road vibration.

What a cheaper unit adds is in the model too, zero by default: bias instability, scale, misalignment, g-sensitivity,
saturation, quantisation. IEEE 952 names the terms; `docs/simulator.md` has the Allan deviations they give.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeguard.clock import NS_PER_S
from edgeguard.sim.world import EgoTruth, Motion, World
from edgeguard.types import IMU, ImuSample

GRAVITY_M_S2 = 9.81
IMU_LATENCY_NS = 2_000_000  # from measuring to the host, assumed
BLOCK = 64  # samples made at once: long enough for arrays to pay, short enough to ask for one

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ImuModel:
    """Noise of an ADIS16448-class unit as in EuRoC's `sensor.yaml`; vibration is assumed, at 10 m/s.

    *_instability: the flat floor of the Allan deviation. scale_sigma: spread of each axis' gain. misalignment_rad:
    spread of each axis' lean towards the two others. g_sensitivity: rad/s per m/s^2. *_range: rails, inf: none.
    *_step: size of a count, 0: none.
    """

    rate_hz: int = 100
    gyro_noise: float = 1.7e-4  # rad/s/sqrt(Hz)
    gyro_walk: float = 1.94e-5  # rad/s^2/sqrt(Hz)
    accel_noise: float = 2.0e-3  # m/s^2/sqrt(Hz)
    accel_walk: float = 3.0e-3  # m/s^3/sqrt(Hz)
    gyro_bias_rad_s: float = 2.0e-3  # spread of the turn-on bias
    accel_bias_m_s2: float = 0.04
    vibration_m_s2: tuple[float, float, float] = (0.06, 0.06, 0.15)
    gyro_instability: float = 0.0  # rad/s
    accel_instability: float = 0.0  # m/s^2
    scale_sigma: float = 0.0
    misalignment_rad: float = 0.0
    g_sensitivity: float = 0.0
    gyro_range_rad_s: float = float("inf")
    accel_range_m_s2: float = float("inf")
    gyro_step_rad_s: float = 0.0
    accel_step_m_s2: float = 0.0


class Imu:
    """Gives the k-th sample of a drive. Noise and bias are drawn up front, so samples may be asked for in any order."""

    def __init__(self, world: World, seed: int, model: ImuModel | None = None) -> None:
        self._world, self.model = world, model or ImuModel()
        m = self.model
        rng = np.random.default_rng([seed, 0x1300])
        count = int(world.duration_s * m.rate_hz) + 2
        self._error = error_series(m, rng, count)
        self._shake = rng.standard_normal((count, 3)) * np.array(m.vibration_m_s2)
        spread = np.random.default_rng([seed, 0x1301])
        self._mix = np.stack([_mixing(spread, m), _mixing(spread, m)])
        self._pull = m.g_sensitivity * spread.standard_normal((3, 3))
        self._held: tuple[int, list[list[float]]] = (-1, [])
        self._plain = not (m.scale_sigma or m.misalignment_rad or m.g_sensitivity)

    def sample(self, index: int) -> ImuSample:
        """Return sample `index`, taken at index / rate seconds; rates in rad/s, specific force in m/s^2."""
        rate_hz = self.model.rate_hz
        if not 0 <= index <= self._world.duration_s * rate_hz:
            self._world.ego(index / rate_hz)  # says what is wrong
        number, place = divmod(index, BLOCK)
        held = self._held
        if held[0] != number:
            self._held = held = (number, self._block(number))
        gx, gy, gz, ax, ay, az = held[1][place]
        stamp_ns = index * NS_PER_S // rate_hz
        return ImuSample(stamp_ns, (gx, gy, gz), (ax, ay, az), IMU, stamp_ns)

    def _block(self, number: int) -> list[list[float]]:
        """Return BLOCK samples in a row, six numbers each: a block hangs on nothing that was asked for before."""
        m = self.model
        index = np.arange(number * BLOCK, min((number + 1) * BLOCK, len(self._error)))
        motion = self._world.motion(np.minimum(index / m.rate_hz, self._world.duration_s))
        rate, force = true_motion(motion)
        force = force + self._shake[index].T * (motion.speed_m_s / 10.0)
        if not self._plain:
            rate, force = self._mix[0] @ rate + self._pull @ force, self._mix[1] @ force
        error = self._error[index]
        gyro = _counts(rate.T + error[:, :3], m.gyro_range_rad_s, m.gyro_step_rad_s)
        accel = _counts(force.T + error[:, 3:], m.accel_range_m_s2, m.accel_step_m_s2)
        return np.concatenate([gyro, accel], axis=1).tolist()  # type: ignore[no-any-return]


def true_motion(ego: EgoTruth | Motion) -> tuple[Floats, Floats]:
    """Return rates in rad/s and specific force in m/s^2 about the vehicle's own, leaning axes, (3,) or (3, N)."""
    cr, sr, cp, sp = np.cos(ego.roll_rad), np.sin(ego.roll_rad), np.cos(ego.pitch_rad), np.sin(ego.pitch_rad)
    rate = [
        ego.roll_rate_rad_s - sp * ego.yaw_rate_rad_s,
        cr * ego.pitch_rate_rad_s + sr * cp * ego.yaw_rate_rad_s,
        -sr * ego.pitch_rate_rad_s + cr * cp * ego.yaw_rate_rad_s,
    ]
    ahead, left, up = ego.accel_forward_m_s2, ego.accel_left_m_s2, ego.accel_up_m_s2 + GRAVITY_M_S2
    down = sp * ahead + cp * up  # the level force turned by pitch, then by roll
    return np.array(rate), np.array([cp * ahead - sp * up, cr * left + sr * down, -sr * left + cr * down])


def error_series(model: ImuModel, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Return (count, 6) of what a unit at rest reads besides gravity: gyro, then accelerometer."""
    m = model
    step = 1.0 / m.rate_hz
    white = rng.standard_normal((count, 6))
    white[:, :3] *= m.gyro_noise * np.sqrt(m.rate_hz)
    white[:, 3:] *= m.accel_noise * np.sqrt(m.rate_hz)
    walk = rng.standard_normal((count, 6)) * np.sqrt(step)
    walk[:, :3] *= m.gyro_walk
    walk[:, 3:] *= m.accel_walk
    walk[0] = rng.standard_normal(6) * np.array([m.gyro_bias_rad_s] * 3 + [m.accel_bias_m_s2] * 3)
    error = white + np.cumsum(walk, axis=0)
    floor = np.array([m.gyro_instability] * 3 + [m.accel_instability] * 3)
    if np.any(floor > 0.0):
        error += _flicker(rng, count, step) * floor
    return np.asarray(error)


def _flicker(rng: np.random.Generator, count: int, step_s: float) -> NDArray[np.float64]:
    """Return (count, 6) noise whose Allan deviation is flat at 1 from 0.1 to 1000 s: a sum of Gauss-Markov series."""
    total = np.zeros((count, 6))
    for time_s in np.geomspace(0.05, 2000.0, 12):
        keep = float(np.exp(-step_s / time_s))
        drive = np.sqrt(1.0 - keep * keep) * rng.standard_normal((count, 6))
        drive[0] = rng.standard_normal(6)
        for index in range(1, count):
            drive[index] += keep * drive[index - 1]
        total += drive
    return total * 0.85  # neighbours a factor 2.6 apart add up to a floor of 1.18


def _mixing(rng: np.random.Generator, model: ImuModel) -> NDArray[np.float64]:
    mix = model.misalignment_rad * rng.standard_normal((3, 3))
    np.fill_diagonal(mix, 1.0 + model.scale_sigma * rng.standard_normal(3))
    return mix


def _counts(values: Floats, limit: float, step: float) -> Floats:
    """Cut to the rails and round to whole counts."""
    cut = np.clip(values, -limit, limit)
    return np.asarray(np.round(cut / step) * step if step > 0.0 else cut)
