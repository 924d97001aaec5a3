"""Objects from camera and lidar: existence rises with both, falls with the one that should have seen and did not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.fusion.deskew import deskew
from edgeguard.fusion.objects import Cluster, ObjectFusion, find_clusters, lidar_sees, overlap
from edgeguard.types import CAMERA, LIDAR, Detection, PointCloud, RigCalibration

WIDTH, HEIGHT, FOCAL = 640, 480, 500.0


def rig() -> RigCalibration:
    """Camera at the lidar's place, looking ahead, 1.7 m over the road."""
    T = np.eye(4)
    T[:3, :3] = [[0, -1, 0], [0, 0, -1], [1, 0, 0]]
    K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    return RigCalibration(K, T, (WIDTH, HEIGHT), 1.7)


def box_at(x: float, y: float, width: float = 1.8, height: float = 1.5) -> tuple[float, float, float, float]:
    """Image box of an upright rectangle that stands on the road."""
    u = [WIDTH / 2 - FOCAL * (y + s * width / 2) / x for s in (1, -1)]
    v = [HEIGHT / 2 + FOCAL * (1.7 - h) / x for h in (height, 0.0)]
    return u[0], v[0], u[1], v[1]


def car_ahead(x: float = 12.0, y: float = 0.0, score: float = 0.9) -> tuple[Detection, Cluster]:
    box = box_at(x, y)
    return Detection("car", score, box), Cluster((x, y), (0.3, 1.8, 1.3), 60, box)


def run(frames: int, detections: list[Detection] | None, clusters: list[Cluster] | None) -> ObjectFusion:
    objects = ObjectFusion(rig())
    for _ in range(frames):
        objects.update(0.1, detections, clusters)
    return objects


def test_both_sensors_confirm_within_three_frames():
    """One object with label, box, place and both names."""
    detection, cluster = car_ahead()
    (found,) = run(2, [detection], [cluster]).update(0.1, [detection], [cluster])
    assert found.existence > 0.99
    assert found.sources == (CAMERA, LIDAR)
    assert (found.label, found.position_m) == ("car", (12.0, 0.0))


def test_a_box_where_the_lidar_should_have_seen_something_is_doubted():
    """A phantom on the road at 12 m: the model is sure in every frame, and the existence stays below one half."""
    detection, _ = car_ahead(score=0.95)
    found = run(20, [detection], []).update(0.1, [detection], [])
    assert all(o.existence < 0.5 for o in found)


def test_a_box_behind_something_nearer_is_not_doubted_for_want_of_returns():
    """Occluded: the lidar could not have seen it."""
    far, _ = car_ahead(20.0)
    wide = box_at(8.0, 0.0, 3.5, 2.5)
    screen = Cluster((8.0, 0.0), (0.5, 3.5, 2.5), 200, wide)
    near = Detection("truck", 0.9, wide)
    found = run(5, [near, far], [screen]).update(0.1, [near, far], [screen])
    hidden = next(o for o in found if o.label == "car")
    assert hidden.existence > 0.9


@pytest.mark.parametrize("lost", [CAMERA, LIDAR])
def test_it_survives_the_loss_of_either_sensor(lost: str):
    """Confirmed by both, then one is gone: the object stays, on the word of the other."""
    detection, cluster = car_ahead()
    objects = run(5, [detection], [cluster])
    for _ in range(30):
        found = objects.update(0.1, None if lost == CAMERA else [detection], None if lost == LIDAR else [cluster])
    assert found[0].existence > 0.9
    assert found[0].sources == ((LIDAR,) if lost == CAMERA else (CAMERA,))


def test_what_nobody_sees_any_more_is_forgotten():
    """Both look, and neither sees it."""
    detection, cluster = car_ahead()
    objects = run(5, [detection], [cluster])
    for _ in range(10):
        found = objects.update(0.1, [], [])
    assert not found
    assert not objects.update(0.1, None, None)


def test_an_object_keeps_its_number_while_the_vehicle_drives_and_turns():
    """A parked car comes nearer by the vehicle's own motion; another one beside it is another one."""
    objects, numbers = ObjectFusion(rig()), set()
    x, y, turn = 30.0, 3.0, 0.02
    for i in range(15):
        detection, cluster = car_ahead(x, y)
        other = Cluster((x, y - 6.0), (1.0, 1.0, 1.0), 30, None)
        found = objects.update(0.1, [detection], [cluster, other], moved=(1.5, 0.0, turn) if i else (0.0, 0.0, 0.0))
        numbers |= {o.track for o in found if o.label}
        x -= 1.5
        x, y = math.cos(turn) * x + math.sin(turn) * y, math.cos(turn) * y - math.sin(turn) * x
    assert len(numbers) == 1
    assert len(found) == 2


def test_the_lidar_is_not_expected_to_see_what_is_too_small_or_too_far():
    """Detection probability falls with the square of the range, and never passes one."""
    near, far = (lidar_sees(r, 1.0, 30_000.0) for r in (10.0, 100.0))
    assert 0.9 < near < 1.0
    assert far < 0.3
    assert lidar_sees(10.0, 0.001, 30_000.0) < 0.1


@given(st.lists(st.floats(0.0, 600.0), min_size=8, max_size=8))
def test_overlap_is_a_share_and_symmetric(v: list[float]):
    """Of any two boxes."""
    a = (min(v[0], v[1]), min(v[2], v[3]), max(v[0], v[1]), max(v[2], v[3]))
    b = (min(v[4], v[5]), min(v[6], v[7]), max(v[4], v[5]), max(v[6], v[7]))
    assert 0.0 <= overlap(a, b) <= 1.0 + 1e-9
    assert overlap(a, b) == pytest.approx(overlap(b, a))


def test_clusters_are_things_that_stand_and_not_walls_or_road():
    """Two cars are found with their nearest point and image box; a 30 m wall, the road and a kerb are not."""
    rng = np.random.default_rng(3)

    def block(x: float, y: float, size: tuple[float, float, float], n: int) -> np.ndarray:
        return np.column_stack(
            [x + rng.uniform(0, size[0], n), y + rng.uniform(-0.5, 0.5, n) * size[1], rng.uniform(0, size[2], n) - 1.7]
        )

    parts = [
        block(12, 0, (0.2, 1.8, 1.5), 300), block(20, 5, (0.2, 1.8, 1.5), 200),
        block(5, -6, (30.0, 0.2, 2.5), 4000), block(2, 0, (40, 20, 0.02), 3000),
    ]  # fmt: skip
    xyz = np.vstack(parts).astype(np.float32)
    found = find_clusters(xyz, xyz[:, 2] + np.float32(1.7), rig())
    places = sorted(c.position_m[0] for c in found)
    assert places == pytest.approx([12.0, 20.0], abs=0.3)
    (near,) = [c for c in found if c.position_m[0] < 15]
    assert near.box_xyxy is not None
    assert overlap(near.box_xyxy, box_at(12.0, 0.0)) > 0.8
    assert find_clusters(np.full((0, 3), np.nan, np.float32), np.zeros(0, np.float32), None) == []


@pytest.mark.parametrize(("speed", "turn"), [(15.0, 0.0), (10.0, 0.4), (0.0, -0.5), (-3.0, 0.1)])
def test_deskew_puts_every_point_where_it_was_at_the_stamp(speed: float, turn: float):
    """A room seen by a turning, moving sweep, against the exact arc: below 2 mm."""
    rng = np.random.default_rng(1)
    world = rng.uniform(-20, 20, (500, 3))
    t = np.linspace(-0.1, 0.0, 500)
    angle = turn * t
    arc = speed * t if turn == 0 else speed / turn * np.sin(angle)
    aside = np.zeros_like(t) if turn == 0 else speed / turn * (1 - np.cos(angle))
    x, y = world[:, 0] - arc, world[:, 1] - aside
    seen = np.column_stack([np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x, world[:, 2]])
    cloud = PointCloud(
        seen.astype(np.float32), np.zeros(500, np.float32), 0, time_offset_ns=np.round(t * 1e9).astype(np.int32)
    )
    fixed = deskew(cloud, speed, turn)
    assert np.abs(fixed.xyz - world).max() < 2e-3
    assert fixed.time_offset_ns is not None
    assert not fixed.time_offset_ns.any()


def test_deskew_leaves_alone_what_has_no_times_or_does_not_move():
    """The very same value."""
    bare = PointCloud(np.ones((3, 3), np.float32), np.zeros(3, np.float32), 0)
    timed = PointCloud(np.ones((3, 3), np.float32), np.zeros(3, np.float32), 0, time_offset_ns=np.zeros(3, np.int32))
    assert deskew(bare, 10.0, 0.1) is bare
    assert deskew(timed, 0.0, 0.0) is timed
    assert deskew(timed, math.nan, 0.0) is timed
