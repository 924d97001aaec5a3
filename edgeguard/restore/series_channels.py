"""What numbers a serial sample has, and the same sample with other numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import cos, nan, radians
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edgeguard.types import GnssFix, ImuSample, Sample, WheelOdometry

M_PER_DEG = 111_320.0  # of latitude; across the date line longitudes jump, and nothing there is judged right

# What honest bodies do (the I1 and X checks use the same figures): turn rates change by 2 rad/s^2, specific force by
# 20 m/s^3, speed by 10 m/s^2. Over a time T a line is missed by that times T; a position by half of it times T^2, and
# by what a receiver's noise is between fixes.
_IMU_SLEW = (2.0, 2.0, 2.0, 20.0, 20.0, 20.0)
_ACCEL_M_S2 = 10.0
_FIX_NOISE_M, _SPEED_NOISE_M_S = 3.0, 0.5


@dataclass(frozen=True, slots=True)
class Channels:
    """The numbers of one kind of sample.

    least: how far honest readings may lie off a line, per channel, in a window that reaches so many seconds.
    """

    names: tuple[str, ...]
    read: Callable[[Sequence[Sample]], NDArray[np.float64]]
    write: Callable[[Sample, Mapping[str, float]], Sample]
    least: Callable[[Sequence[Sample], float], tuple[float, ...]]


def channels_of(samples: Sequence[Sample]) -> Channels | None:
    """Return the channels of these samples, None where they are not all of one serial kind."""
    for kind, channels in _BY_KIND.items():
        if samples and all(isinstance(sample, kind) for sample in samples):
            return channels
    return None


def _read_imu(samples: Sequence[Sample]) -> NDArray[np.float64]:
    return np.array([(*s.gyro_rad_s, *s.accel_m_s2) for s in samples if isinstance(s, ImuSample)], np.float64)


def _write_imu(sample: Sample, changed: Mapping[str, float]) -> Sample:
    assert isinstance(sample, ImuSample)  # noqa: S101 - chosen by kind
    gyro = [changed.get(f"gyro_{axis}_rad_s", v) for axis, v in zip("xyz", sample.gyro_rad_s, strict=True)]
    accel = [changed.get(f"accel_{axis}_m_s2", v) for axis, v in zip("xyz", sample.accel_m_s2, strict=True)]
    return replace(sample, gyro_rad_s=(gyro[0], gyro[1], gyro[2]), accel_m_s2=(accel[0], accel[1], accel[2]))


def _least_imu(samples: Sequence[Sample], reach_s: float) -> tuple[float, ...]:  # noqa: ARG001
    return tuple(slew * reach_s for slew in _IMU_SLEW)


def _read_gnss(samples: Sequence[Sample]) -> NDArray[np.float64]:
    rows = [
        (s.latitude_deg, s.longitude_deg, nan if s.altitude_m is None else s.altitude_m,
         nan if s.speed_m_s is None else s.speed_m_s)
        for s in samples if isinstance(s, GnssFix)
    ]  # fmt: skip
    return np.array(rows, np.float64)


def _write_gnss(sample: Sample, changed: Mapping[str, float]) -> Sample:
    assert isinstance(sample, GnssFix)  # noqa: S101 - chosen by kind
    given: Mapping[str, float | None] = changed
    return replace(
        sample,
        latitude_deg=changed.get("latitude_deg", sample.latitude_deg),
        longitude_deg=changed.get("longitude_deg", sample.longitude_deg),
        altitude_m=given.get("altitude_m", sample.altitude_m),
        speed_m_s=given.get("speed_m_s", sample.speed_m_s),
    )


def _least_gnss(samples: Sequence[Sample], reach_s: float) -> tuple[float, ...]:
    latitudes = [s.latitude_deg for s in samples if isinstance(s, GnssFix) and abs(s.latitude_deg) <= 90.0]
    shrink = max(0.01, cos(radians(latitudes[0]))) if latitudes else 1.0
    level_m = _FIX_NOISE_M + 0.5 * _ACCEL_M_S2 * reach_s * reach_s
    speed_m_s = _SPEED_NOISE_M_S + _ACCEL_M_S2 * reach_s
    return level_m / M_PER_DEG, level_m / (M_PER_DEG * shrink), 2.0 * level_m, speed_m_s


def _read_wheels(samples: Sequence[Sample]) -> NDArray[np.float64]:
    none = (nan, nan, nan, nan)
    rows = [(s.speed_m_s, *(s.wheel_speeds_m_s or none)) for s in samples if isinstance(s, WheelOdometry)]
    return np.array(rows, np.float64)


def _write_wheels(sample: Sample, changed: Mapping[str, float]) -> Sample:
    assert isinstance(sample, WheelOdometry)  # noqa: S101 - chosen by kind
    wheels = sample.wheel_speeds_m_s
    if wheels is not None:
        each = [changed.get(f"wheel_{name}_m_s", v) for name, v in zip(_WHEELS, wheels, strict=True)]
        wheels = (each[0], each[1], each[2], each[3])
    return replace(sample, speed_m_s=changed.get("speed_m_s", sample.speed_m_s), wheel_speeds_m_s=wheels)


def _least_wheels(samples: Sequence[Sample], reach_s: float) -> tuple[float, ...]:  # noqa: ARG001
    return (_SPEED_NOISE_M_S + _ACCEL_M_S2 * reach_s,) * 5


_WHEELS = ("front_left", "front_right", "rear_left", "rear_right")
_BY_KIND: Mapping[type, Channels] = MappingProxyType({
    ImuSample: Channels(
        (*(f"gyro_{a}_rad_s" for a in "xyz"), *(f"accel_{a}_m_s2" for a in "xyz")), _read_imu, _write_imu, _least_imu
    ),
    GnssFix: Channels(
        ("latitude_deg", "longitude_deg", "altitude_m", "speed_m_s"), _read_gnss, _write_gnss, _least_gnss
    ),
    WheelOdometry: Channels(
        ("speed_m_s", *(f"wheel_{name}_m_s" for name in _WHEELS)), _read_wheels, _write_wheels, _least_wheels
    ),
})  # fmt: skip
CHANNEL_NAMES = frozenset(name for channels in _BY_KIND.values() for name in channels.names)
