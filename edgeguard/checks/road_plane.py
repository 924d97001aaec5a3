"""How the picture of the road moves: the plane that the lidar measures, and the image that it induces.

Between two frames, a pinhole camera sees a plane through the homography K (R - t n' / d) K^-1 (Hartley & Zisserman,
Multiple View Geometry, 2nd ed., 13.1). R and t come from the scan match and from the two planes (pitch, roll, heave).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels.road import fit_level_plane

NEAR_M, FAR_M, ASIDE_M = 3.0, 30.0, 6.0  # where a road is a plane to within its crown, and the vehicle's own
GROUND_M = 0.2
MIN_POINTS, MAX_POINTS = 150, 2_000
SIGMA_FLOOR_M, MAX_SIGMA_M = 0.02, 0.08  # range noise; more is no plane
MAX_TILT = 0.15  # 8 deg against the sensor: more is a wall or a wrong mount


@dataclass(frozen=True, slots=True, eq=False)
class RoadPlane:
    """normal: (3,) float64 up, lidar frame. height_m: of the sensor over it. On it normal @ x + height_m = 0."""

    normal: NDArray[np.float64]
    height_m: float

    def levelled(self) -> NDArray[np.float64]:
        """R_level_lidar, (3, 3): z along the normal, x ahead."""
        a, b, c = self.normal.tolist()
        level = float(np.sqrt(b * b + c * c))  # of the x axis less what of it is along the normal
        return np.array([[level, -a * b / level, -a * c / level], [0.0, c / level, -b / level], [a, b, c]])


def fit_road(ahead: NDArray[np.float32]) -> RoadPlane | None:
    """Least squares through the ground returns ahead, outliers cut three times; None where there is no plane.

    ahead: (4, M) of `kernels.road.points_ahead`, with `ASIDE_M` and `FAR_M`.
    """
    fitted = fit_level_plane(ahead, (NEAR_M, FAR_M), ASIDE_M, GROUND_M, (MIN_POINTS, MAX_POINTS), SIGMA_FLOOR_M)
    if fitted is None:
        return None
    slope_x, slope_y, offset, sigma = fitted
    length = float(np.sqrt(1.0 + slope_x**2 + slope_y**2))
    if sigma > MAX_SIGMA_M or max(abs(slope_x), abs(slope_y)) > MAX_TILT or not -offset / length > 0.1:
        return None
    return RoadPlane(np.array([-slope_x, -slope_y, 1.0]) / length, -offset / length)


def road_homography(
    K: NDArray[np.float64],
    T_cam_lidar: NDArray[np.float64],
    now: RoadPlane,
    before: RoadPlane,
    moved: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the earlier frame showed what this one shows of the road.

    K: (3, 3). T_cam_lidar: (4, 4). now, before: planes in their own sweeps' frames. moved: (3, 3) planar pose of the
    present vehicle in the earlier one's frame.
    Returns H (3, 3), pixels now to pixels before, and the plane (4,) in the present camera's frame: n @ x + d = 0.
    """
    turn = np.eye(3)
    turn[:2, :2] = moved[:2, :2]
    level_now, level_before = now.levelled(), before.levelled()
    R_lidar = level_before.T @ turn @ level_now
    step = np.array([moved[0, 2], moved[1, 2], now.height_m - before.height_m])
    R_cl, t_cl = T_cam_lidar[:3, :3], T_cam_lidar[:3, 3]
    R = R_cl @ R_lidar @ R_cl.T
    t = R_cl @ (level_before.T @ step) + t_cl - R @ t_cl
    normal = R_cl @ now.normal
    d = now.height_m - float(normal @ t_cl)
    H = K @ (R - np.outer(t, normal) / d) @ np.linalg.inv(K)
    return H, np.append(normal, d)
