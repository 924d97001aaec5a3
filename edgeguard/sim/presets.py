"""Named sensors and boards: models with the figures of data sheets, listed by `edgeguard sim list --presets`.

Beam tables are the makers' nominal ones. Noise and reach are the makers' where they print them (one standard
deviation; reach at half detection on 10 % reflectance), else of the class of device.
"""

from __future__ import annotations

from dataclasses import replace
from math import pi, radians
from typing import Any

import numpy as np

from edgeguard.sim.camera import CameraModel
from edgeguard.sim.clocks import ClockModel
from edgeguard.sim.gnss import GnssModel
from edgeguard.sim.inertial import ImuModel
from edgeguard.sim.lidar import LidarModel
from edgeguard.sim.lidar2d import RPLIDAR, Lidar2dModel
from edgeguard.sim.receiver import UBX
from edgeguard.sim.weather import WORLD_PRESETS
from edgeguard.sim.wheels import WheelModel

_VLP16 = tuple(float(v) for v in np.arange(15, -16, -2))
_VLP32C = (15.0, 10.33, 7.0, 4.67, 3.33, 2.33, 1.67, 1.33, 1.0, 0.67, 0.33, 0.0, -0.33, -0.67, -1.0, -1.33, -1.67, -2.0,
           -2.33, -2.67, -3.0, -3.33, -3.67, -4.0, -4.67, -5.33, -6.15, -7.25, -8.84, -11.31, -15.64,
               -25.0)  # fmt: skip


def _even(top: float, bottom: float, count: int) -> tuple[float, ...]:
    return tuple(np.linspace(top, bottom, count).tolist())


_HDL64 = LidarModel(
    columns=2083,
    max_range_m=120.0,
    turning=True,
    weak_sigma_m=0.02,
    beam_rad=0.002,
    # Upper and lower block fire in turns; a column of all 64 takes 46 microseconds.
    firing_s=tuple((k % 32) * 1.44e-6 for k in range(64)),
    quantum_m=0.002,
)
_OUSTER = LidarModel(
    columns=2048,
    max_range_m=90.0,
    turning=True,
    beam_rad=0.0061,  # 0.35 degrees
    range_sigma_m=0.015,
    weak_sigma_m=0.03,
    reach_10_m=45.0,
    quantum_m=0.001,
)
LIDARS: dict[str, tuple[LidarModel, str]] = {
    "street": (LidarModel(), "64 rings x 1024, all at once: the default of scenarios"),
    "hdl64": (_HDL64, "Velodyne HDL-64E class, 2083 columns, dual blocks"),
    "vlp16": (
        replace(_HDL64, columns=1800, elevations_deg=_VLP16, max_range_m=100.0, beam_rad=0.003, reach_10_m=40.0,
                firing_s=tuple(k * 2.304e-6 for k in range(16))),
        "Velodyne VLP-16, 0.2 degrees",
    ),
    "vlp16_dual": (
        replace(_HDL64, columns=1800, elevations_deg=_VLP16, max_range_m=100.0, beam_rad=0.003, reach_10_m=40.0,
                firing_s=tuple(k * 2.304e-6 for k in range(16)), dual_return=True),
        "Velodyne VLP-16 with two returns",
    ),
    "vlp32c": (
        replace(_HDL64, columns=1800, elevations_deg=_VLP32C, max_range_m=200.0, beam_rad=0.003, reach_10_m=80.0,
                azimuths_deg=tuple((1.4, -4.2, 1.4, -1.4)[k % 4] for k in range(32)),
                firing_s=tuple((k // 2) * 2.304e-6 for k in range(32))),
        "Velodyne VLP-32C, staggered azimuths",
    ),
    "os1_64": (
        replace(_OUSTER, elevations_deg=_even(22.5, -22.5, 64),
                azimuths_deg=tuple((4.23, 1.41, -1.41, -4.23)[k % 4] for k in range(64))),
        "Ouster OS1-64, 2048 columns, staggered azimuths",
    ),
    "os1_128": (
        replace(_OUSTER, elevations_deg=_even(22.5, -22.5, 128), reach_10_m=60.0, max_range_m=120.0,
                azimuths_deg=tuple((4.23, 1.41, -1.41, -4.23)[k % 4] for k in range(128))),
        "Ouster OS1-128, 2048 columns",
    ),
    "pandar64": (
        replace(_HDL64, columns=1800, elevations_deg=_even(15.0, -25.0, 64), max_range_m=200.0, reach_10_m=150.0,
                firing_s=()),
        "Hesai Pandar64 class, even rings",
    ),
}  # fmt: skip
_EUROC = ImuModel(rate_hz=200)
IMUS: dict[str, tuple[ImuModel, str]] = {
    "street": (ImuModel(), "EuRoC's noise at 100 Hz: the default of scenarios"),
    "euroc": (_EUROC, "ADIS16448 as EuRoC's sensor.yaml has it, 200 Hz"),
    "adis16448": (
        replace(_EUROC, gyro_instability=radians(14.5 / 3600), accel_instability=0.25e-3 * 9.81, scale_sigma=0.002,
                misalignment_rad=radians(0.05), g_sensitivity=radians(0.015) / 9.81, gyro_range_rad_s=radians(1000),
                accel_range_m_s2=18 * 9.81, gyro_step_rad_s=radians(0.04), accel_step_m_s2=0.833e-3 * 9.81),
        "ADIS16448 with the data sheet's instability, rails and counts",
    ),
    "mpu6050": (
        ImuModel(rate_hz=200, gyro_noise=radians(0.005), gyro_walk=4e-5, accel_noise=400e-6 * 9.81, accel_walk=6e-3,
                 gyro_bias_rad_s=radians(2.0), accel_bias_m_s2=0.4, gyro_instability=radians(10 / 3600),
                 scale_sigma=0.01, misalignment_rad=radians(1.0), g_sensitivity=radians(0.1) / 9.81,
                 gyro_range_rad_s=radians(250), accel_range_m_s2=2 * 9.81, gyro_step_rad_s=radians(1 / 131),
                 accel_step_m_s2=9.81 / 16384),
        "InvenSense MPU-6050, +-250 deg/s and +-2 g",
    ),
    "bmi088": (
        ImuModel(rate_hz=200, gyro_noise=radians(0.014), gyro_walk=2e-5, accel_noise=175e-6 * 9.81, accel_walk=2e-3,
                 gyro_bias_rad_s=radians(1.0), accel_bias_m_s2=0.2, gyro_instability=radians(2 / 3600),
                 scale_sigma=0.01, misalignment_rad=radians(0.6), g_sensitivity=radians(0.1) / 9.81,
                 gyro_range_rad_s=radians(500), accel_range_m_s2=6 * 9.81, gyro_step_rad_s=radians(500) / 32768,
                 accel_step_m_s2=6 * 9.81 / 32768),
        "Bosch BMI088, +-500 deg/s and +-6 g",
    ),
}  # fmt: skip
CAMERAS: dict[str, tuple[CameraModel, str]] = {
    "street": (CameraModel(), "640x384 pinhole, global shutter: the default of scenarios"),
    "vga_global": (CameraModel(640, 480, 420.0, 319.5, 239.5), "640x480 pinhole, global shutter"),
    "kitti": (CameraModel(1242, 375, 721.5, 609.6, 172.9, exposure_s=0.002), "KITTI's rectified colour camera"),
    "euroc": (
        CameraModel(752, 480, 458.0, 367.2, 248.4, distortion=(-0.283, 0.0739, 0.00019, 1.8e-05), exposure_s=0.004),
        "MT9V034 as EuRoC has it: distorted, global shutter",
    ),
    "imx219": (
        CameraModel(640, 480, 500.0, 319.5, 239.5, distortion=(0.16, -0.30, 0.0, 0.0), readout_s=0.02,
            exposure_s=0.008),
        "Raspberry Pi camera 2 class: rolling shutter of 20 ms",
    ),
    "imx477_rolling": (
        CameraModel(1014, 760, 800.0, 506.5, 379.5, distortion=(-0.05, 0.02, 0.0, 0.0), readout_s=0.018,
            exposure_s=0.006),
        "Raspberry Pi HQ camera class: rolling shutter of 18 ms",
    ),
}  # fmt: skip
RECEIVERS: dict[str, tuple[GnssModel, str]] = {
    "street": (GnssModel(), "10 Hz NMEA, satellites in view every second: the default of scenarios"),
    "bare": (GnssModel(constellation=False), "10 Hz NMEA without satellites: GGA and RMC alone"),
    "zed_f9p": (
        GnssModel(constellation=True, wire=UBX, slow_sigma_m=0.8, velocity_sigma_m_s=0.03, latency_s=0.08),
        "u-blox F9 class without corrections: UBX NAV-PVT and NAV-SAT",
    ),
    "neo_m8": (
        GnssModel(constellation=True, rate_hz=5, slow_sigma_m=1.8, fast_sigma_m=0.3, latency_s=0.16),
            "u-blox M8 class, 5 Hz"
    ),
}  # fmt: skip
WHEELS: dict[str, tuple[WheelModel, str]] = {
    "street": (WheelModel(), "2048-line encoders at 50 Hz: the default of scenarios"),
    "abs": (
        WheelModel(ticks_per_m=96 / (2 * pi * 0.31), slip_per_m_s2=0.002),
        "ABS rings of 96 edges, tyres that slip",
    ),
    "ice": (
        WheelModel(slip_per_m_s2=0.02),
        "2048-line encoders, tyres with a tenth of their stiffness: packed snow",
    ),
}  # fmt: skip
LIDARS2D: dict[str, tuple[Lidar2dModel, str]] = {
    "ld06": (Lidar2dModel(), "LDROBOT LD06: 456 points, 10 turns a second, 12 m"),
    "rplidar_a1": (
        Lidar2dModel(points=360, rate_hz=5, range_sigma_m=0.02, wire=RPLIDAR),
        "SLAMTEC RPLIDAR A1: standard scan of 360 points, 5 turns a second, asked for",
    ),
}
CLOCKS: dict[str, tuple[ClockModel, str]] = {
    "perfect": (ClockModel(), "as scenarios have it"),
    "crystal": (ClockModel(drift_ppm=20.0, jitter_s=70e-6), "a microcontroller's crystal, interrupt latency"),
    "usb": (ClockModel(drift_ppm=50.0, jitter_s=4e-3, loss=0.001), "behind a USB hub under load"),
    "wifi": (
        ClockModel(drift_ppm=50.0, jitter_s=12e-3, loss=0.01, duplication=0.002, reorder=0.01), "over a wireless link"
    ),
}  # fmt: skip
BOARDS: dict[str, tuple[dict[str, str], str]] = {
    "street": (
        {**dict.fromkeys(("camera", "lidar", "imu", "gnss", "wheels"), "street"), "scan2d": "ld06"},
        "the default of scenarios",
    ),
    "kitti_car": (
        {"camera": "kitti", "lidar": "hdl64", "imu": "adis16448", "gnss": "street", "wheels": "abs", "scan2d": "ld06"},
        "a research car with a large lidar",
    ),
    "pi5_rover": (
        {"camera": "imx219", "lidar": "vlp16", "imu": "mpu6050", "gnss": "neo_m8", "wheels": "abs", "scan2d": "ld06"},
        "Raspberry Pi 5, rolling shutter and cheap inertial unit",
    ),
    "jetson_shuttle": (
        {"camera": "vga_global", "lidar": "os1_64", "imu": "bmi088", "gnss": "zed_f9p", "wheels": "street",
         "scan2d": "rplidar_a1"},
        "Jetson Orin Nano with an Ouster",
    ),
}  # fmt: skip


def every_preset() -> dict[str, dict[str, str]]:
    """Return what each named world, board and sensor is, by kind and name."""
    tables: dict[str, dict[str, tuple[Any, str]]] = {
        "world": dict(WORLD_PRESETS),
        "board": dict(BOARDS),
        "camera": dict(CAMERAS),
        "lidar": dict(LIDARS),
        "scan2d": dict(LIDARS2D),
        "imu": dict(IMUS),
        "gnss": dict(RECEIVERS),
        "wheels": dict(WHEELS),
        "clock": dict(CLOCKS),
    }
    return {kind: {name: words for name, (_, words) in rows.items()} for kind, rows in tables.items()}
