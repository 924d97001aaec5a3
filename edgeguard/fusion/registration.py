"""The fused product of camera and lidar: depth on the camera's pixel grid."""

from __future__ import annotations

import numpy as np

from edgeguard.kernels.projection import depth_image
from edgeguard.types import PointCloud, RegisteredDepth, RigCalibration


def register_depth(cloud: PointCloud, calibration: RigCalibration) -> RegisteredDepth:
    """Project a sweep into the image, nearest return per pixel.

    Returns depth_m (H, W) float32, metres along the optical axis, NaN where no return. Points that are not finite,
    behind the camera or outside the image are left out. Says nothing about motion between the two stamps.
    """
    width, height = calibration.image_size_px
    P = np.ascontiguousarray(calibration.camera_matrix @ calibration.T_cam_lidar[:3], dtype=np.float64)
    depth, inside = depth_image(np.ascontiguousarray(cloud.xyz, dtype=np.float32), P, width, height)
    return RegisteredDepth(depth, inside)
