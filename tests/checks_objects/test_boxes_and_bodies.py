"""C5.body and X3.object: what the beams met where the model draws a box."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeguard.checks.lidar_evidence import LidarFrame
from edgeguard.fusion.object_checks import (
    BODY,
    GONE,
    NOTHING,
    ObjectChecks,
    ask_beams,
    farthest,
    gather_beams,
)
from edgeguard.types import CheckResult, Detection, Image, Level, PointCloud, RigCalibration, SyncedSet, Tick

K = np.array([[420.0, 0.0, 319.5], [0.0, 420.0, 191.5], [0.0, 0.0, 1.0]])
T = np.array([[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, -0.08], [1.0, 0.0, 0.0, -0.27], [0.0, 0.0, 0.0, 1.0]])
RIG = RigCalibration(K, T, (640, 384), 1.73)
EYE_M = 1.65
AZIMUTH = np.radians(np.arange(-40.0, 40.0, 0.25))
ELEVATION = np.radians(np.linspace(-24.0, 3.0, 64))
PERIOD_NS = 100_000_000

Slab = tuple[float, float, float, float]  # x, left edge y, right edge y, height: upright, facing the sensor


def sweep(slabs: list[Slab], stamp_ns: int = PERIOD_NS, keep: NDArray[np.bool_] | None = None, noise_m: float = 0.02
          ) -> LidarFrame:  # fmt: skip
    """Beams against a level road and upright slabs: the nearest wins."""
    az, el = (a.ravel() for a in np.meshgrid(AZIMUTH, ELEVATION))
    way = np.stack([np.cos(el) * np.cos(az), np.cos(el) * np.sin(az), np.sin(el)], axis=1)
    far = np.where(way[:, 2] < -0.03, -RIG.lidar_height_m / np.minimum(way[:, 2], -1e-6), np.inf)
    upright = np.zeros(len(far), bool)
    for x, left, right, tall in slabs:
        hit = x / way[:, 0]
        y, z = hit * way[:, 1], hit * way[:, 2] + RIG.lidar_height_m
        on = (y < left) & (y > right) & (z > 0) & (z < tall) & (hit < far)
        far, upright = np.where(on, hit, far), upright | on
    far = far + np.random.default_rng(3).normal(0.0, noise_m, len(far))
    told = np.isfinite(far) & (far < 80.0)
    xyz = (way * np.where(told, far, 0.0)[:, None]).astype(np.float32)[told]
    if keep is not None:
        xyz = xyz[keep[told]]
    cloud = PointCloud(xyz, np.zeros(len(xyz), np.float32), stamp_ns)
    none = np.zeros(len(xyz), np.int16)
    height = (xyz[:, 2] + RIG.lidar_height_m).astype(np.float32)
    reach = np.linalg.norm(xyz, axis=1).astype(np.float32)
    return LidarFrame(cloud, xyz, reach, none, none, height, np.zeros((1, 1), np.float32), None, "")


def box_at(x_m: float, left_m: float, right_m: float, tall_m: float, label: str = "pedestrian") -> Detection:
    """The box that a perfect detector draws around an upright thing."""
    depth = x_m - 0.27
    u = [319.5 - 420.0 * y / depth for y in (left_m, right_m)]
    v = [191.5 + 420.0 * (EYE_M - z) / depth for z in (tall_m, 0.0)]
    return Detection(label, 0.9, (u[0], v[0], u[1], v[1]))


PERSON: Slab = (12.0, 0.3, -0.3, 1.75)
BOX = box_at(*PERSON)


def answer(slabs: list[Slab], detection: Detection = BOX) -> str | None:
    return ask_beams(gather_beams(sweep(slabs), RIG), detection, RIG)


def removed(nearest_deg: float) -> NDArray[np.bool_]:
    """Beams that an attack leaves: all but a sector ahead, in which every eleventh remains."""
    az, _ = (a.ravel() for a in np.meshgrid(AZIMUTH, ELEVATION))
    return (np.abs(np.degrees(az)) > nearest_deg) | (np.arange(len(az)) % 11 == 0)


def ticks(
    frames: list[LidarFrame | None], boxes: list[tuple[Detection, ...] | None], checks: ObjectChecks | None = None
) -> list[tuple[CheckResult, CheckResult]]:
    """Run ticks of 100 ms."""
    checks = checks or ObjectChecks(RIG)
    out = []
    for i, (frame, detections) in enumerate(zip(frames, boxes, strict=True)):
        stamp_ns = (i + 1) * PERIOD_NS
        image = Image(np.zeros((384, 640, 3), np.uint8), stamp_ns)
        shown = None
        if frame is not None:
            cloud = PointCloud(frame.cloud.xyz, frame.cloud.intensity, stamp_ns)
            shown = replace(frame, cloud=cloud)
        synced = SyncedSet(Tick(i, stamp_ns), {"camera": image, "lidar": shown and shown.cloud}, {}, {})
        out.append(checks.update(synced, shown, detections))
    return out


@pytest.mark.parametrize("range_m", [6.0, 12.0, 20.0])
@pytest.mark.parametrize("wall", [[], [(45.0, 30.0, -30.0, 8.0)]])
def test_a_person_is_a_body_and_its_picture_alone_is_none(range_m: float, wall: list[Slab]) -> None:
    """With the person the beams stop at it; without, they reach the road behind, or a wall."""
    person = (range_m, 0.3, -0.3, 1.75)
    detection = box_at(*person)
    assert answer([person, *wall], detection) == BODY
    assert answer(wall, detection) == NOTHING


def test_a_body_beside_its_box_still_counts() -> None:
    """What moves across is beside its box by the time that the other sensor looks."""
    assert answer([(12.0, 0.9, 0.3, 1.75)]) == BODY


def test_a_print_on_a_wall_is_no_body_and_a_person_before_the_wall_is_one() -> None:
    """The print has no relief; a person stands 15 cm or more before the plane."""
    wall = (12.0, 6.0, -6.0, 5.0)
    assert answer([wall]) == NOTHING
    assert answer([wall, (11.8, 0.3, -0.3, 1.75)]) == BODY


def test_a_body_without_echoes_is_gone_and_not_transparent() -> None:
    """Removal leaves nothing where the road around has returns; it does not show the road behind."""
    beams = gather_beams(sweep([PERSON], keep=removed(4.0)), RIG)
    assert ask_beams(beams, BOX, RIG) == GONE


def test_the_sky_behind_a_box_says_nothing() -> None:
    """No return above the horizon is what an empty sky gives, and no accusation."""
    high = Detection("car", 0.9, (300.0, 100.0, 340.0, 150.0))
    assert answer([], high) is None


@pytest.mark.parametrize("hidden", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("range_m", [5.0, 10.0, 25.0])
def test_an_object_is_never_farther_than_its_bound(range_m: float, hidden: float) -> None:
    """Also where its lower part is hidden: the box is smaller and its edge higher."""
    full = box_at(range_m, 0.3, -0.3, 1.9)
    left, top, right, bottom = full.box_xyxy
    cut = Detection(full.label, full.score, (left, top, right, bottom - hidden * (bottom - top)))
    assert farthest(cut, RIG) > range_m


def test_a_phantom_is_named_within_a_second_and_blames_the_camera() -> None:
    """A box in every frame, beams that pass: six frames."""
    results = ticks([sweep([])] * 10, [(BOX,)] * 10)
    first = next(i for i, (body, _) in enumerate(results) if body.level is Level.ANOMALY)
    assert first + 1 == 6
    assert results[first][0].sensors == ("camera",)
    assert all(x3.level is Level.OK for _, x3 in results)


def test_a_detector_that_misses_every_third_frame_only_delays_it() -> None:
    """A missing box is no answer, neither for nor against."""
    boxes: list[tuple[Detection, ...] | None] = [(BOX,) if i % 3 else () for i in range(12)]
    results = ticks([sweep([])] * 12, boxes)
    assert results[8][0].level is Level.ANOMALY
    assert not any(body.level is Level.ANOMALY for body, _ in results[:8])


def test_removed_echoes_accuse_both() -> None:
    """Two sources: the set, and how many objects it is about."""
    results = ticks([sweep([PERSON], keep=removed(4.0))] * 12, [(BOX,)] * 12)
    x3 = results[-1][1]
    assert (x3.level, x3.sensors, x3.size) == (Level.ANOMALY, ("camera", "lidar"), 1.0)
    assert all(body.level is Level.OK for body, _ in results)


def test_bodies_in_boxes_never_accuse_and_outweigh_a_few_misplaced_boxes() -> None:
    """One frame in five without a body, for as long as one likes: the sum stays down."""
    frames = [sweep([PERSON]) if i % 5 else sweep([]) for i in range(60)]
    for body, x3 in ticks(list(frames), [(BOX,)] * 60):
        assert body.level is x3.level is Level.OK
        assert body.statistic < 0.5 * body.threshold


@pytest.mark.parametrize(
    ("frame", "boxes"),
    [(None, (BOX,)), (sweep([]), None), (sweep([]), ()), (sweep([]), (Detection("car", 0.9, (0, 300, 90, 384)),))],
)
def test_nothing_to_hold_together_is_not_observable(
    frame: LidarFrame | None, boxes: tuple[Detection, ...] | None
) -> None:
    """Without a sweep, without a model, without boxes, with boxes that the picture's edge cuts."""
    assert {r.level for pair in ticks([frame] * 8, [boxes] * 8) for r in pair} == {Level.NOT_OBSERVABLE}


def test_a_box_that_is_no_number_is_left_out() -> None:
    """What a model returns is not trusted to be finite."""
    bad = Detection("car", 0.9, (math.nan, 100.0, 200.0, math.inf))
    assert ticks([sweep([])] * 2, [(bad,)] * 2)[-1][0].level is Level.NOT_OBSERVABLE


def test_a_jump_in_time_forgets() -> None:
    """What was summed before belongs to another place."""
    checks = ObjectChecks(RIG)
    ticks([sweep([])] * 5, [(BOX,)] * 5, checks)
    checks.reset()
    assert all(body.level is Level.OK for body, _ in ticks([sweep([])] * 5, [(BOX,)] * 5, checks))
