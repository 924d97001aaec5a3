"""A sweep with the vehicle's own motion taken out: every point where it was at the sweep's stamp."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeguard.types import PointCloud

# Below this the motion within a sweep is smaller than the sensor's own noise.
MIN_SPEED_M_S, MIN_TURN_RAD_S = 0.05, 0.002


def deskew(cloud: PointCloud, speed_m_s: float, turn_rad_s: float) -> PointCloud:
    """Move each point by the vehicle's motion between its firing and the sweep's stamp.

    A point fired `t` after the stamp was seen from ``(v t, v w t^2 / 2)``, turned by ``w t``. Speed and yaw rate are
    held over the sweep. The cloud itself is returned where it has no times or the vehicle hardly moves; else a new one
    whose times are zero, (N, 3) float32, points that are not finite left as they are.
    """
    still = abs(speed_m_s) < MIN_SPEED_M_S and abs(turn_rad_s) < MIN_TURN_RAD_S
    if cloud.time_offset_ns is None or still or not np.isfinite(speed_m_s + turn_rad_s):
        return cloud
    t = cloud.time_offset_ns.astype(np.float32)
    t *= np.float32(1e-9)
    angle = t * np.float32(turn_rad_s)
    # Fourth-order series: below 1e-7 for the tenths of a radian a sweep turns.
    square = angle * angle
    sin = angle * (1.0 - square / 6.0)
    cos = 1.0 - square * (0.5 - square / 24.0)
    t *= np.float32(speed_m_s)
    x, y = cloud.xyz[:, 0], cloud.xyz[:, 1]
    moved = np.empty_like(cloud.xyz)
    np.multiply(cos, x, out=moved[:, 0])
    moved[:, 0] -= sin * y
    moved[:, 0] += t
    np.multiply(sin, x, out=moved[:, 1])
    moved[:, 1] += cos * y
    moved[:, 1] += t * angle * np.float32(0.5)
    moved[:, 2] = cloud.xyz[:, 2]
    return replace(cloud, xyz=moved, time_offset_ns=np.zeros_like(cloud.time_offset_ns))
