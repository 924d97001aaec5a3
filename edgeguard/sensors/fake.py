"""Sensors that need no hardware and no simulator: deterministic signals, to wire a pipeline and test one's own code.

`fake_source(kind, clock)` gives one; `fake_rig(clock)` the five of a road rig. Sample i is taken at start + i * period
on the clock and is readable at once. Lidar, IMU, wheels and GNSS follow one motion, a circle of `RADIUS_M` at
`SPEED_M_S`, and so agree with each other; the camera does not. Noise is drawn per sample from (seed, sensor, i), so a
sample does not depend on what was read before it.

| kind | rate | signal |
|---|---|---|
| camera | 10 Hz | 96 x 128: a grey texture that moves one pixel a frame, with noise of 2 levels |
| lidar | 10 Hz | 16 rings of 360 returns: the ground, a round wall and 30 posts around the circle, 1 cm of noise |
| scan2d | 10 Hz | 360 returns of the same wall and posts, 1 cm of noise |
| imu | 100 Hz | the turn rate on z, v * rate on y, gravity on z, with MEMS noise |
| wheels | 50 Hz | the speed, inner wheels slower by the track |
| gnss | 10 Hz | the circle, 0.3 m of noise |
"""

# ruff: noqa: ARG001 - every signal is made and called alike

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from edgeguard.clock import NS_PER_S, Clock
from edgeguard.errors import ConfigError, SensorDisconnectedError
from edgeguard.types import (
    CAMERA,
    GNSS,
    IMU,
    LIDAR,
    WHEELS,
    GnssFix,
    Image,
    ImuSample,
    LineStats,
    PointCloud,
    Sample,
    Scan2d,
    SourceInfo,
    WheelOdometry,
)

SCAN2D = "scan2d"
SPEED_M_S, RADIUS_M, TRACK_M = 8.0, 40.0, 1.55
RATE_RAD_S = SPEED_M_S / RADIUS_M
START_LATITUDE_DEG, START_LONGITUDE_DEG = 48.0, 11.0
METRES_PER_DEGREE = 111_320.0  # of latitude; the circle is small enough for a plane
GRAVITY_M_S2 = 9.80665
WALL_M, POST_RADIUS_M, LIDAR_HEIGHT_M, RINGS = 60.0, 0.8, 1.73, 16
IMAGE_PX = (128, 96)
MAX_BEHIND = 64  # samples that wait for a reader that was away; older ones are lost, as in a driver
OVERFLOW = "overflow"

Signal = Callable[[int, int, np.random.Generator], Sample]


class FakeSource:
    """One fake sensor.

    Args:
        info: what it is. clock: injected. signal: (i, stamp_ns, generator of this sample) -> sample. seed: of noise.
        count: samples until it is exhausted; None for no end.
    """

    def __init__(self, info: SourceInfo, clock: Clock, signal: Signal, *, seed: int = 0, count: int | None = None):
        self._info, self._clock, self._signal, self._seed, self._count = info, clock, signal, seed, count
        self._salt = sum(info.sensor.encode())
        self._start_ns: int | None = None
        self._next = 0
        self._frames = self._lost = 0

    @property
    def info(self) -> SourceInfo:
        return self._info

    @property
    def exhausted(self) -> bool:
        return self._count is not None and self._next >= self._count

    @property
    def drops(self) -> Mapping[str, int]:
        """`overflow`: samples nobody read in time."""
        return MappingProxyType({OVERFLOW: self._lost} if self._lost else {})

    @property
    def line_stats(self) -> LineStats:
        return LineStats()

    def open(self) -> None:
        """Start the signal at the clock's time; again after `close`."""
        if self._start_ns is None:
            self._start_ns, self._next = self._clock.now_ns(), 0

    def read(self, timeout_s: float) -> Sample | None:
        """The next sample, waiting up to `timeout_s` on the clock.

        Raises:
            SensorDisconnectedError: EG-N002 when it is not open.
        """
        if self._start_ns is None:
            raise SensorDisconnectedError(
                f"the fake {self._info.sensor} is not open", hint="use it as a context manager"
            )
        if self.exhausted:
            return None
        now_ns = self._clock.now_ns()
        newest = (now_ns - self._start_ns) // self._info.period_ns
        if newest - self._next >= MAX_BEHIND:
            self._lost += newest - self._next - MAX_BEHIND + 1
            self._next = newest - MAX_BEHIND + 1
        stamp_ns = self._start_ns + self._next * self._info.period_ns
        if stamp_ns > now_ns:
            deadline_ns = now_ns + int(max(timeout_s, 0.0) * NS_PER_S)
            self._clock.wait_until_ns(min(stamp_ns, deadline_ns))
            if stamp_ns > deadline_ns:
                return None
        i, self._next = self._next, self._next + 1
        self._frames += 1
        return self._signal(i, stamp_ns, np.random.default_rng((self._seed, self._salt, i)))

    def close(self) -> None:
        self._start_ns = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def fake_source(
    kind: str, clock: Clock, *, seed: int = 0, sensor: str | None = None, count: int | None = None
) -> FakeSource:
    """One fake of a kind in the table above.

    Args:
        sensor: its name; the kind's by default. count: samples until it is exhausted.

    Raises:
        ConfigError: EG-C123 for an unknown kind.
    """
    if kind not in _FAKES:
        raise ConfigError(f"no fake sensor of kind {kind!r}", code="EG-C123", hint="one of: " + ", ".join(_FAKES))
    sample_kind, rate_hz, make = _FAKES[kind]
    name = sensor or kind
    info = SourceInfo(name, sample_kind, NS_PER_S // rate_hz, "fake")
    return FakeSource(info, clock, make(name, rate_hz), seed=seed, count=count)


def fake_rig(clock: Clock, *, seed: int = 0) -> dict[str, FakeSource]:
    """Camera, lidar, GNSS, IMU and wheels of one vehicle."""
    return {kind: fake_source(kind, clock, seed=seed) for kind in (CAMERA, LIDAR, GNSS, IMU, WHEELS)}


# ---- signals -------------------------------------------------------------------------------------------------------


def _camera(sensor: str, rate_hz: int) -> Signal:
    width, height = IMAGE_PX
    columns, rows = np.meshgrid(np.arange(4 * width), np.arange(height))
    texture = (128 + 60 * np.sin(columns / 5.0) * np.cos(rows / 7.0) + 40 * ((columns // 16 + rows // 16) % 2)).clip(
        0, 250
    )

    def signal(i: int, stamp_ns: int, rng: np.random.Generator) -> Sample:
        view = np.roll(texture, -i, axis=1)[:, :width, None] + rng.normal(0.0, 2.0, (height, width, 3))
        return Image(view.clip(0, 255).astype(np.uint8), stamp_ns, sensor)

    return signal


def _lidar(sensor: str, rate_hz: int) -> Signal:
    elevation = np.radians(np.linspace(-15.0, 15.0, RINGS))
    azimuth = np.radians(np.arange(360))
    ring = np.repeat(np.arange(RINGS, dtype=np.int16), 360)
    e, a = np.repeat(elevation, 360), np.tile(azimuth, RINGS)
    ground_m = np.where(e < 0, LIDAR_HEIGHT_M / np.maximum(np.sin(-e), 1e-6), np.inf)
    intensity = np.full(len(e), 0.5, np.float32)

    def signal(i: int, stamp_ns: int, rng: np.random.Generator) -> Sample:
        r = np.minimum(np.tile(_yard(i / rate_hz, azimuth), RINGS) / np.cos(e), ground_m)
        r += rng.normal(0.0, 0.01, len(r))
        xyz = np.stack([r * np.cos(e) * np.cos(a), r * np.cos(e) * np.sin(a), r * np.sin(e)], axis=1)
        return PointCloud(xyz.astype(np.float32), intensity.copy(), stamp_ns, sensor, ring.copy())

    return signal


def _scan2d(sensor: str, rate_hz: int) -> Signal:
    azimuth = np.radians(np.arange(360))

    def signal(i: int, stamp_ns: int, rng: np.random.Generator) -> Sample:
        range_m = (_yard(i / rate_hz, azimuth) + rng.normal(0.0, 0.01, 360)).astype(np.float32)
        return Scan2d(range_m, azimuth.astype(np.float32), np.full(360, 0.5, np.float32), stamp_ns, sensor)

    return signal


def _yard(time_s: float, azimuth: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) horizontal distance to the wall around the track or to a post in the yard, as seen from the vehicle."""
    yaw_rad = RATE_RAD_S * time_s
    place = RADIUS_M * np.array([math.sin(yaw_rad), -math.cos(yaw_rad)])
    rays = np.stack([np.cos(azimuth + yaw_rad), np.sin(azimuth + yaw_rad)], axis=1)
    along = rays @ place
    distance = -along + np.sqrt(along**2 + WALL_M**2 - RADIUS_M**2)
    ahead = rays @ (_POSTS - place).T
    miss = ((_POSTS - place) ** 2).sum(axis=1) - POST_RADIUS_M**2
    inside = np.maximum(ahead**2 - miss, 0.0)
    hit = np.where((ahead > 0) & (inside > 0), ahead - np.sqrt(inside), np.inf)
    nearest: NDArray[np.float64] = np.minimum(distance, hit.min(axis=1))
    return nearest


def _posts() -> NDArray[np.float64]:
    """(30, 2): spread by the golden angle, in turns inside and outside the track."""
    k = np.arange(30)
    angle, radius = k * 2.399963, np.where(k % 2 == 0, 28.0, 52.0)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


_POSTS = _posts()


def _imu(sensor: str, rate_hz: int) -> Signal:
    def signal(i: int, stamp_ns: int, rng: np.random.Generator) -> Sample:
        w, a = rng.normal(0.0, 0.002, 3).tolist(), rng.normal(0.0, 0.02, 3).tolist()
        gyro = (w[0], w[1], RATE_RAD_S + w[2])
        return ImuSample(stamp_ns, gyro, (a[0], SPEED_M_S * RATE_RAD_S + a[1], GRAVITY_M_S2 + a[2]), sensor)

    return signal


def _wheels(sensor: str, rate_hz: int) -> Signal:
    def signal(i: int, stamp_ns: int, rng: np.random.Generator) -> Sample:
        half = RATE_RAD_S * TRACK_M / 2
        base = (SPEED_M_S - half, SPEED_M_S + half, SPEED_M_S - half, SPEED_M_S + half)
        n = rng.normal(0.0, 0.01, 4).tolist()
        speeds = (base[0] + n[0], base[1] + n[1], base[2] + n[2], base[3] + n[3])
        return WheelOdometry(stamp_ns, sum(speeds) / 4, speeds, sensor=sensor)

    return signal


def _gnss(sensor: str, rate_hz: int) -> Signal:
    per_longitude = METRES_PER_DEGREE * math.cos(math.radians(START_LATITUDE_DEG))

    def signal(i: int, stamp_ns: int, rng: np.random.Generator) -> Sample:
        yaw_rad = RATE_RAD_S * i / rate_hz  # from east, counter-clockwise
        east_m, north_m = RADIUS_M * math.sin(yaw_rad), RADIUS_M * (1 - math.cos(yaw_rad))
        noise = rng.normal(0.0, 1.0, 4).tolist()
        return GnssFix(
            stamp_ns,
            START_LATITUDE_DEG + (north_m + 0.3 * noise[0]) / METRES_PER_DEGREE,
            START_LONGITUDE_DEG + (east_m + 0.3 * noise[1]) / per_longitude,
            500.0 + 0.5 * noise[2],
            SPEED_M_S + 0.03 * noise[3],
            (90.0 - math.degrees(yaw_rad)) % 360.0,
            satellites=12,
            hdop=0.8,
            sensor=sensor,
        )

    return signal


_FAKES: dict[str, tuple[type, int, Callable[[str, int], Signal]]] = {
    CAMERA: (Image, 10, _camera),
    LIDAR: (PointCloud, 10, _lidar),
    SCAN2D: (Scan2d, 10, _scan2d),
    IMU: (ImuSample, 100, _imu),
    WHEELS: (WheelOdometry, 50, _wheels),
    GNSS: (GnssFix, 10, _gnss),
}
