"""C5.light: a figure that the road does not carry; and the plane by which the picture of the road moves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.checks.camera_evidence import CameraEvidence
from edgeguard.checks.camera_light import RoadLightCheck
from edgeguard.checks.lidar_evidence import LidarEvidence
from edgeguard.checks.road_plane import RoadPlane, road_homography
from edgeguard.clock import NS_PER_S, ManualClock
from edgeguard.sim.attacks.base import AttackBase
from edgeguard.sim.attacks.camera import CameraPhantom
from edgeguard.sim.rig import SimRig
from edgeguard.sim.world import World
from edgeguard.types import CheckResult, Image, Level, PointCloud, RigCalibration, Sample, SyncedSet, Tick

PERIOD_NS = 100_000_000
START_S, LENGTH_S = 1.6, 2.8
# Streets that nothing was developed on.
SEEDS = (411, 412)


def drive(
    seed: int, attacks: Sequence[AttackBase] = (), length_s: float = LENGTH_S
) -> Iterator[tuple[RigCalibration, Image, PointCloud]]:
    """Frames and sweeps of a simulated drive."""
    clock = ManualClock()
    with SimRig(World(seed, length_s + 1.0), clock, seed, attacks, sensors=("camera", "lidar")) as rig:
        calibration = rig.calibration
        assert calibration is not None
        for source in rig.sources.values():
            source.open()
        for k in range(1, round(length_s * 10) + 1):
            clock.wait_until_ns(k * PERIOD_NS + PERIOD_NS // 5)
            newest: dict[str, Sample] = {}
            for name, source in rig.sources.items():
                while (sample := source.read(0.0)) is not None:
                    newest[name] = sample
            image, cloud = newest.get("camera"), newest.get("lidar")
            if isinstance(image, Image) and isinstance(cloud, PointCloud):
                yield calibration, image, cloud


def judge(pairs: Sequence[tuple[RigCalibration, Image, PointCloud]]) -> list[tuple[float, CheckResult]]:
    """Every pair through the check: (time of the image in s, result)."""
    camera, lidar = CameraEvidence(), LidarEvidence(pairs[0][0])
    check = RoadLightCheck(camera, lidar, pairs[0][0])
    out = []
    for i, (_, image, cloud) in enumerate(pairs):
        synced = SyncedSet(Tick(i, image.stamp_ns), {"camera": image, "lidar": cloud}, {}, {})
        out.append((image.stamp_ns / NS_PER_S, check.evaluate(synced)))
    return out


@pytest.fixture(scope="module", params=SEEDS)
def clean(request: pytest.FixtureRequest) -> list[tuple[RigCalibration, Image, PointCloud]]:
    return list(drive(request.param))


def attacked(
    pairs: Sequence[tuple[RigCalibration, Image, PointCloud]], attack: AttackBase
) -> list[tuple[RigCalibration, Image, PointCloud]]:
    """The same drive with the attack on its images."""
    from edgeguard.sim.attacks.base import Injector

    injector = Injector((attack,), 7, 0)
    out = []
    for calibration, image, cloud in pairs:
        shown = injector.apply(image)
        assert isinstance(shown, Image)
        out.append((calibration, shown, cloud))
    return out


def test_a_clean_street_has_no_light_without_a_body(clean: list[tuple[RigCalibration, Image, PointCloud]]) -> None:
    """No alarm, and the check sees something on most frames."""
    results = judge(clean)
    assert not [t for t, r in results if r.level is Level.ANOMALY]
    assert sum(r.level is Level.OK for _, r in results) > 0.6 * len(results)


def test_a_pedestrian_of_light_is_found_within_a_second(
    clean: list[tuple[RigCalibration, Image, PointCloud]],
) -> None:
    """A figure that is carried ahead of the vehicle; blames the camera alone, and nobody before."""
    results = judge(attacked(clean, CameraPhantom(START_S, 60.0, light=0.4)))
    alarms = [t for t, r in results if r.level is Level.ANOMALY]
    assert alarms, "not found"
    assert START_S <= alarms[0] <= START_S + 1.0
    assert {r.sensors for _, r in results} == {("camera",)}


def test_a_figure_that_was_always_there_is_no_appearance(
    clean: list[tuple[RigCalibration, Image, PointCloud]],
) -> None:
    """A reflection on the windscreen stands there from the first frame on."""
    results = judge(attacked(clean, CameraPhantom(0.0, 60.0, light=0.4)))
    assert not [t for t, r in results if r.level is Level.ANOMALY]


def test_a_sweep_that_is_late_does_not_accuse_the_camera(
    clean: list[tuple[RigCalibration, Image, PointCloud]],
) -> None:
    """Two frames late under fresh stamps: bodies stand beside their places, and are no light."""
    late = [(c, i, replace(clean[max(0, k - 2)][2], stamp_ns=p.stamp_ns)) for k, (c, i, p) in enumerate(clean)]
    assert not [t for t, r in judge(late) if r.level is Level.ANOMALY]


def test_camera_and_lidar_apart_in_time_are_not_observable(
    clean: list[tuple[RigCalibration, Image, PointCloud]],
) -> None:
    """Stamps 80 ms apart say that the road is not where the sweep has it."""
    apart = [(c, replace(i, stamp_ns=i.stamp_ns + 80_000_000), p) for c, i, p in clean[:8]]
    assert {r.level for _, r in judge(apart)} == {Level.NOT_OBSERVABLE}


TILT = st.floats(-0.05, 0.05)


@given(TILT, TILT, TILT, TILT, st.floats(0.2, 3.0), st.floats(-0.1, 0.1), st.integers(0, 2**31))
def test_the_homography_is_what_points_of_the_road_do(
    pitch: float, roll: float, pitch_before: float, roll_before: float, way_m: float, yaw: float, seed: int
) -> None:
    """Points on the plane, carried into the earlier frame and projected, land where H says."""

    def plane(slope_x: float, slope_y: float, height_m: float) -> RoadPlane:
        normal = np.array([slope_x, slope_y, 1.0])
        return RoadPlane(normal / np.linalg.norm(normal), height_m)

    K = np.array([[420.0, 0.0, 319.5], [0.0, 420.0, 191.5], [0.0, 0.0, 1.0]])
    T = np.array([[0.0, -1.0, 0.0, 0.05], [0.0, 0.0, -1.0, -0.08], [1.0, 0.0, 0.0, -0.27], [0.0, 0.0, 0.0, 1.0]])
    now, before = plane(pitch, roll, 1.73), plane(pitch_before, roll_before, 1.70)
    cos, sin = np.cos(yaw), np.sin(yaw)
    moved = np.array([[cos, -sin, way_m], [sin, cos, 0.1], [0.0, 0.0, 1.0]])
    H, seen = road_homography(K, T, now, before, moved)
    # On the road, level frame of the present vehicle: z = 0 below the sensor.
    rng = np.random.default_rng(seed)
    level = np.column_stack((rng.uniform(8, 30, 20), rng.uniform(-4, 4, 20), np.full(20, -now.height_m)))
    here = level @ now.levelled()
    level_before = np.column_stack((level[:, :2] @ moved[:2, :2].T + moved[:2, 2], np.full(20, -before.height_m)))
    there = level_before @ before.levelled()

    def pixels(lidar_xyz: np.ndarray) -> np.ndarray:
        p = (lidar_xyz @ T[:3, :3].T + T[:3, 3]) @ K.T
        return p[:, :2] / p[:, 2:]

    q = np.column_stack((pixels(here), np.ones(20))) @ H.T
    np.testing.assert_allclose(q[:, :2] / q[:, 2:], pixels(there), atol=1e-6)
    camera = here @ T[:3, :3].T + T[:3, 3]
    np.testing.assert_allclose(camera @ seen[:3] + seen[3], 0.0, atol=1e-9)
