"""A clean drive with lean sensors, as a recording: values in memory instead of terminals, lower rates, thin frames.

A rig has a wheel scale of its own that stays with it from drive to drive, as tyres do; turn-on biases and noise are
new in every drive, as after every power-up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeguard.clock import NS_PER_S, Clock
from edgeguard.sensors.recorded import FIRST_STAMP_NS, RecordedStream
from edgeguard.sim.gnss import Gnss, GnssModel
from edgeguard.sim.inertial import IMU_LATENCY_NS, Imu, ImuModel
from edgeguard.sim.wheels import WHEELS_LATENCY_NS, WheelModel, Wheels
from edgeguard.sim.world import World
from edgeguard.types import (
    CAMERA,
    GNSS,
    IMU,
    LIDAR,
    WHEELS,
    GnssFix,
    Image,
    ImuSample,
    PointCloud,
    RigCalibration,
    Sample,
    Source,
    SourceInfo,
    Tick,
    WheelOdometry,
)

TICK_NS = NS_PER_S // 10
# Half of the rig's usual rates, which the checks are as good at and the machine is twice as fast at.
LEAN_IMU = ImuModel(rate_hz=50)
# A fleet's steering is zeroed at the works; a bias that is new in every drive would be no rig.
LEAN_WHEELS = WheelModel(rate_hz=25, steering_bias_rad=0.0)
LEAN_GNSS = GnssModel()


@dataclass(frozen=True, slots=True)
class Preset:
    """Which sensors a lean rig has, the share of the day that it drives, and how many rigs of the kind do."""

    name: str
    sensors: tuple[str, ...]
    share: float
    rigs: int


PRESETS = (
    Preset("car", (GNSS, IMU, WHEELS), 0.70, 4),
    Preset("no-imu", (GNSS, WHEELS), 0.14, 2),
    Preset("no-gnss", (IMU, WHEELS), 0.14, 2),
    Preset("frames", (CAMERA, LIDAR, GNSS, IMU, WHEELS), 0.02, 1),
)


@dataclass(frozen=True, slots=True, eq=False)
class LeanDrive:
    """One clean drive as a `Recording`; samples are made when they are read, and again by each reader."""

    calibration: RigCalibration | None
    streams: Sequence[RecordedStream]
    duration_s: float
    notes: Sequence[Mapping[str, Any]] = ()

    def ticks(self) -> Iterable[Tick]:
        """Ten a second."""
        count = round(self.duration_s * NS_PER_S) // TICK_NS
        return [Tick(k, FIRST_STAMP_NS + (k + 1) * TICK_NS) for k in range(count)]

    def sources(self, clock: Clock) -> Mapping[str, Source]:
        """Fresh sources of all streams."""
        return {stream.info.sensor: stream.source(clock) for stream in self.streams}


def lean_drive(sensors: Sequence[str], rig: int, street: int, duration_s: float) -> LeanDrive:
    """Return a drive of one rig through one street.

    Args:
        sensors: of the five. rig: number; decides the wheels' scale. street: number; decides road, traffic, the way of
            driving, and with the rig the noise.

    Raises:
        ScenarioError: EG-X001 when the duration is not in 1..600 s.
    """
    world = World(street, duration_s)
    seed = rig * 1_000_003 + street
    gnss, imu, wheels = Gnss(world, seed, LEAN_GNSS), Imu(world, seed, LEAN_IMU), Wheels(world, seed, LEAN_WHEELS)
    wheels.scales = Wheels(world, rig, LEAN_WHEELS).scales
    plan: dict[str, tuple[type, int, int, Callable[[int], Sample]]] = {
        GNSS: (GnssFix, NS_PER_S // LEAN_GNSS.rate_hz, round(LEAN_GNSS.latency_s * NS_PER_S), gnss.sample),
        IMU: (ImuSample, NS_PER_S // LEAN_IMU.rate_hz, IMU_LATENCY_NS, imu.sample),
        WHEELS: (WheelOdometry, NS_PER_S // LEAN_WHEELS.rate_hz, WHEELS_LATENCY_NS, wheels.sample),
    }
    calibration = None
    if {CAMERA, LIDAR} & set(sensors):
        calibration, frames = _frames(world, seed)
        plan = {**frames, **plan}
    streams = [_stream(sensor, *plan[sensor], duration_s) for sensor in plan if sensor in sensors]
    return LeanDrive(calibration, streams, duration_s)


def _frames(
    world: World, seed: int
) -> tuple[RigCalibration, dict[str, tuple[type, int, int, Callable[[int], Sample]]]]:
    """Camera of a quarter of the pixels and lidar of half the columns; imported here, most drives have neither."""
    from edgeguard.sim.camera import CameraModel, render
    from edgeguard.sim.lidar import LidarModel, sweep
    from edgeguard.sim.rig import rig_calibration

    camera = CameraModel(width_px=320, height_px=192, focal_px=210.0, cx_px=159.5, cy_px=95.5)
    lidar = LidarModel(columns=512)

    def image(index: int) -> Sample:
        return render(world, index * TICK_NS / NS_PER_S, camera, noise_seed=seed)

    def cloud(index: int) -> Sample:
        return sweep(world, index * TICK_NS / NS_PER_S, lidar, noise_seed=seed)

    streams: dict[str, tuple[type, int, int, Callable[[int], Sample]]] = {
        CAMERA: (Image, TICK_NS, 0, image),
        LIDAR: (PointCloud, TICK_NS, 0, cloud),
    }
    return rig_calibration(camera, lidar), streams


def _stream(
    sensor: str, kind: type, period_ns: int, latency_ns: int, measure: Callable[[int], Sample], duration_s: float
) -> RecordedStream:
    # Sample 0 is the moment the rig is switched on; wheels have nothing to count from yet.
    count = round(duration_s * NS_PER_S) // period_ns
    stamps = FIRST_STAMP_NS + np.arange(1, count + 1, dtype=np.int64) * period_ns

    def load(index: int) -> Sample:
        return replace(measure(index + 1), stamp_ns=int(stamps[index]))

    return RecordedStream(SourceInfo(sensor, kind, period_ns, "simulator"), stamps + latency_ns, load)
