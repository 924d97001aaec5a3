"""A small clean drive in memory, for the bench."""

from __future__ import annotations

import pytest

from edgeguard.sim.soak.lean import LeanDrive, lean_drive


@pytest.fixture(scope="session")
def drive() -> LeanDrive:
    """Twenty-four seconds with GNSS, IMU and wheels."""
    return lean_drive(("gnss", "imu", "wheels"), 0, 5_001, 24.0)
