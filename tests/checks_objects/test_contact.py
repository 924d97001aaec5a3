"""X4.contact: what comes nearer grows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeguard.checks.lidar_evidence import LidarEvidence, LidarFrame
from edgeguard.clock import ManualClock
from edgeguard.fusion.contact_check import ContactCheck, growth
from edgeguard.fusion.objects import find_clusters
from edgeguard.sensors.kitti import KittiRecording
from edgeguard.sim.rig import SimRig
from edgeguard.sim.world import World
from edgeguard.types import (
    CheckResult,
    Detection,
    Image,
    Level,
    PointCloud,
    RigCalibration,
    Sample,
    Source,
    SyncedSet,
    Tick,
)

F, EYE_M = 420.0, 1.65
K = np.array([[F, 0.0, 319.5], [0.0, F, 191.5], [0.0, 0.0, 1.0]])
T = np.array([[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, -0.08], [1.0, 0.0, 0.0, -0.27], [0.0, 0.0, 0.0, 1.0]])
RIG = RigCalibration(K, T, (640, 384), 1.73)
WIDE_M, TALL_M, PX_PER_M = 1.9, 1.5, 60
PERIOD_NS = 100_000_000
# Development looked at seeds 1 to 3.
UNSEEN = (41, 42, 43)
Depth = Callable[[float], float]


def rear(seed: int) -> NDArray[np.uint8]:
    """What a car's rear may look like: patches of some centimetres."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 220, (round(TALL_M * 10), round(WIDE_M * 10))).astype(np.float32)
    fine = cv2.resize(coarse, (round(WIDE_M * PX_PER_M), round(TALL_M * PX_PER_M)), interpolation=cv2.INTER_NEAREST)
    return cv2.GaussianBlur(fine, (0, 0), 1.0).astype(np.uint8)


def picture(seed: int, depth_m: float, number: int, wider: float = 1.0) -> tuple[NDArray[np.uint8], Detection]:
    """The rear at a depth, standing on the road, before a grey wall; and a detector's box with its usual error."""
    rng = np.random.default_rng((seed, number))
    zoom = F / depth_m / PX_PER_M
    left, top = 319.5 - 0.5 * WIDE_M * F / depth_m * wider, 191.5 + (EYE_M - TALL_M - 0.2) * F / depth_m
    M = np.array([[zoom * wider, 0.0, left], [0.0, zoom, top]])
    canvas = np.full((384, 640), 110, np.uint8)
    shown = cv2.warpAffine(
        rear(seed), M, (640, 384), dst=canvas, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_TRANSPARENT
    )
    noisy = np.clip(shown + rng.normal(0.0, 1.5, shown.shape), 0, 255).astype(np.uint8)
    wide, tall = WIDE_M * F / depth_m * wider, TALL_M * F / depth_m
    edges = np.array((left, top, left + wide, top + tall)) + 0.03 * tall * rng.normal(size=4)
    box = tuple(float(v) for v in edges)
    return np.repeat(noisy[:, :, None], 3, axis=2), Detection("car", 0.9, (box[0], box[1], box[2], box[3]))


def sweep(seed: int, depth_m: float, number: int, behind_m: float = 0.0) -> LidarFrame:
    """Returns of the rear every fifth of a degree, 2 cm noise; `behind_m`: every other one from so much farther."""
    rng = np.random.default_rng((seed, number, 7))
    step = math.radians(0.25) * depth_m
    y, z = np.meshgrid(np.arange(-0.5 * WIDE_M, 0.5 * WIDE_M, step), np.arange(-1.53, -0.1, 2 * step))
    x = depth_m + 0.27 + behind_m * (np.arange(y.size) % 2) + rng.normal(0.0, 0.02, y.size)
    xyz = np.column_stack((x, y.ravel(), z.ravel())).astype(np.float32)
    cloud = PointCloud(xyz, np.zeros(len(xyz), np.float32), 0)
    none, reach = np.zeros(len(xyz), np.int16), np.linalg.norm(xyz, axis=1).astype(np.float32)
    height = (xyz[:, 2] + RIG.lidar_height_m).astype(np.float32)
    return LidarFrame(cloud, xyz, reach, none, none, height, np.zeros((1, 1), np.float32), None, "")


def watch(
    frames: Iterable[tuple[NDArray[np.uint8], LidarFrame | None, Sequence[Detection] | None]],
) -> list[CheckResult]:
    """Ticks of 100 ms through the check."""
    check, out = ContactCheck(RIG), []
    for number, (pixels, frame, detections) in enumerate(frames):
        stamp_ns = (number + 1) * PERIOD_NS
        shown = frame
        if frame is not None:
            cloud = PointCloud(frame.cloud.xyz, frame.cloud.intensity, stamp_ns)
            shown = LidarFrame(
                cloud, frame.xyz, frame.range_m, frame.row, frame.col, frame.height_m, frame.image, None, ""
            )
        synced = SyncedSet(Tick(number, stamp_ns), {"camera": Image(pixels, stamp_ns)}, {}, {})
        out.append(check.update(synced, shown, detections))
    return out


def approach(seed: int, seen: Depth, measured: Depth, seconds: float = 2.5, label: str = "car") -> list[CheckResult]:
    """Camera and lidar each with a depth of their own."""
    frames = []
    for number in range(round(seconds * 10)):
        pixels, box = picture(seed, seen(number / 10), number)
        boxes = (Detection(label, box.score, box.box_xyxy),)
        frames.append((pixels, sweep(seed, measured(number / 10), number), boxes))
    return watch(frames)


def nears(from_m: float, m_s: float) -> Depth:
    return lambda t: from_m - m_s * t


def first(found: list[CheckResult]) -> float | None:
    return next((i / 10 for i, r in enumerate(found) if r.level is Level.ANOMALY), None)


@pytest.mark.parametrize("seed", UNSEEN)
@pytest.mark.parametrize("way", [nears(22.0, 5.0), nears(11.0, -4.0), nears(16.0, 2.0), lambda t: 20.0 - 2.0 * t * t])
def test_a_body_that_both_see_nearing_or_leaving_is_one_body(seed: int, way: Depth) -> None:
    """At constant speed, braking, going away: nobody is accused, and the check says how much it could have seen."""
    found = approach(seed, way, way)
    assert first(found) is None
    powers = [r.power for r in found if r.level is Level.OK]
    assert powers
    assert min(powers) < 0.45


@pytest.mark.parametrize("seed", UNSEEN)
def test_a_body_held_at_its_place_for_the_lidar_while_it_nears_is_found(seed: int) -> None:
    """Returns that keep their range on a car that comes nearer: both sensors are named, as either may lie."""
    found = approach(seed, nears(20.0, 6.0), lambda _: 15.0)
    at = first(found)
    assert at is not None
    assert at <= 2.0
    result = found[round(10 * at)]
    assert result.sensors == ("camera", "lidar")
    assert result.size is not None
    assert result.size > 0.2


@pytest.mark.parametrize("seed", UNSEEN)
def test_a_braking_that_only_the_lidar_sees_is_found(seed: int) -> None:
    """Spoofed returns rush at the vehicle while the picture of the car ahead stays as large as it is."""
    at = first(approach(seed, lambda _: 14.0, nears(18.0, 6.0), 2.0))
    assert at is not None
    assert at <= 1.8


@pytest.mark.parametrize("seed", UNSEEN)
def test_a_figure_that_only_grows_is_found(seed: int) -> None:
    """A screen that shows a car coming nearer, on something that stands."""
    at = first(approach(seed, nears(18.0, 6.0), lambda _: 12.0, 2.2))
    assert at is not None
    assert at <= 2.1


@pytest.mark.parametrize("seed", UNSEEN)
def test_what_keeps_its_distance_is_not_observable(seed: int) -> None:
    """Two that say nothing changes may both have made it up."""
    assert all(r.level is Level.NOT_OBSERVABLE for r in approach(seed, lambda _: 12.0, lambda _: 12.0))


def test_without_boxes_and_for_people_it_is_not_observable() -> None:
    """No model, no object; and limbs swing."""
    person = approach(41, nears(20.0, 6.0), lambda _: 15.0, label="pedestrian")
    frames = [(picture(41, 20.0 - 0.6 * n, n)[0], sweep(41, 15.0, n), None) for n in range(20)]
    assert all(r.level is Level.NOT_OBSERVABLE for r in [*person, *watch(frames)])


def test_without_geometry_or_a_sweep_it_is_not_observable() -> None:
    """Nothing is compared with one of the two."""
    pixels, box = picture(41, 12.0, 0)
    synced = SyncedSet(Tick(0, PERIOD_NS), {"camera": Image(pixels, PERIOD_NS)}, {}, {})
    assert ContactCheck(None).update(synced, sweep(41, 12.0, 0), (box,)).level is Level.NOT_OBSERVABLE
    found = watch((picture(41, 20.0 - 0.5 * n, n)[0], None, (picture(41, 20.0 - 0.5 * n, n)[1],)) for n in range(15))
    assert all(r.level is Level.NOT_OBSERVABLE for r in found)


@pytest.mark.parametrize("seed", UNSEEN)
def test_a_vehicle_that_turns_is_not_accused(seed: int) -> None:
    """It grows in width by a tenth each frame and stays where it is."""
    frames = []
    for n in range(12):
        pixels, box = picture(seed, 12.0, n, 1.0 + 0.1 * n)
        frames.append((pixels, sweep(seed, 12.0, n), (box,)))
    assert first(watch(frames)) is None


def test_returns_at_two_depths_are_not_compared() -> None:
    """A fence before a car, a car through a window: whose depth it is nobody knows."""
    frames = [
        (picture(41, 20.0 - 0.6 * n, n)[0], sweep(41, 15.0, n, 4.0), (picture(41, 20.0 - 0.6 * n, n)[1],))
        for n in range(20)
    ]
    assert all(r.level is Level.NOT_OBSERVABLE for r in watch(frames))


def test_a_jump_in_time_forgets_every_object() -> None:
    """After a reset the first ticks have nothing to compare."""
    check = ContactCheck(RIG)
    for n in range(12):
        pixels, box = picture(41, 20.0 - 0.6 * n, n)
        if n == 10:
            check.reset()
        synced = SyncedSet(Tick(n, (n + 1) * PERIOD_NS), {"camera": Image(pixels, (n + 1) * PERIOD_NS)}, {}, {})
        frame = sweep(41, 15.0, n)
        object.__setattr__(frame.cloud, "stamp_ns", (n + 1) * PERIOD_NS)
        result = check.update(synced, frame, (box,))
    assert result.level is Level.NOT_OBSERVABLE


@settings(max_examples=60, deadline=None)
@given(scale=st.floats(0.6, 1.6), roll=st.floats(-0.05, 0.05), shift=st.floats(-30, 30), seed=st.integers(0, 10_000))
def test_growth_is_recovered_within_its_sigma(scale: float, roll: float, shift: float, seed: int) -> None:
    """A third of noise's usual size, any way and roll of the whole, one corner in sixteen astray."""
    rng = np.random.default_rng(seed)
    before = rng.uniform((300, 180), (340, 220), (16, 2))
    y = 200 + scale * (before[:, 1] - 200) + roll * (before[:, 0] - 320) + shift
    x = 320 + scale * (before[:, 0] - 320) - roll * (before[:, 1] - 200)
    after = np.column_stack((x, y)) + rng.normal(0, 0.05, (16, 2))
    after[0] += 5.0
    found = growth(before, after)
    assert found is not None
    assert abs(found[0] - scale) < 6.0 * found[1]
    assert found[1] < 0.1


def test_corners_that_do_not_move_as_one_have_no_growth() -> None:
    """Half of them stay behind: it would be anybody's guess."""
    rng = np.random.default_rng(41)
    before = rng.uniform((300, 180), (340, 220), (16, 2))
    after = before.copy()
    after[::2, 1] += rng.uniform(3, 9, 8)
    assert growth(before, after) is None
    assert growth(before[:5], before[:5]) is None


def followed(pairs: Iterable[tuple[RigCalibration, Image, PointCloud]]) -> list[CheckResult]:
    """Frames and sweeps of a drive; boxes are those of the sweep's own clusters."""
    evidence: LidarEvidence | None = None
    check, out = ContactCheck(None), []
    for number, (calibration, image, cloud) in enumerate(pairs):
        if evidence is None:
            evidence, check = LidarEvidence(calibration), ContactCheck(calibration)
        synced = SyncedSet(Tick(number, image.stamp_ns), {"camera": image, "lidar": cloud}, {}, {})
        frame = evidence.frame(synced)
        boxes = [] if frame is None else [
            Detection("car", 0.9, c.box_xyxy)
            for c in find_clusters(frame.xyz, frame.height_m, calibration)
            if c.box_xyxy is not None
        ]  # fmt: skip
        out.append(check.update(synced, frame, boxes))
    return out


def _newest(sources: Mapping[str, Source]) -> dict[str, Sample]:
    found = {}
    for name, source in sources.items():
        while (sample := source.read(0.0)) is not None:
            found[name] = sample
    return found


def street(seed: int, seconds: float = 8.0) -> Iterator[tuple[RigCalibration, Image, PointCloud]]:
    """Frames and sweeps of a simulated drive."""
    clock = ManualClock()
    with SimRig(World(seed, seconds + 1.0), clock, seed, sensors=("camera", "lidar")) as rig:
        assert rig.calibration is not None
        for source in rig.sources.values():
            source.open()
        for k in range(1, round(seconds * 10) + 1):
            clock.wait_until_ns(k * PERIOD_NS + PERIOD_NS // 5)
            newest = _newest(rig.sources)
            image, cloud = newest.get("camera"), newest.get("lidar")
            if isinstance(image, Image) and isinstance(cloud, PointCloud):
                yield rig.calibration, image, cloud


@pytest.mark.slow
@pytest.mark.parametrize("seed", [41, 42, 43, 44])
def test_a_simulated_street_accuses_nobody(seed: int) -> None:
    """Every upright thing as an object: vehicles, people, poles, trees before facades."""
    assert first(followed(street(seed))) is None


@pytest.mark.realdata
def test_a_recorded_street_accuses_nobody(realdata: Path) -> None:
    """KITTI: nobody is accused."""
    recording = KittiRecording(realdata / "kitti_drive")
    assert recording.calibration is not None
    clock, pairs = ManualClock(start_ns=0), []
    sources = recording.sources(clock)
    for source in sources.values():
        source.open()
    for tick in recording.ticks():
        clock.wait_until_ns(tick.stamp_ns)
        newest = _newest(sources)
        image, cloud = newest.get("camera"), newest.get("lidar")
        if isinstance(image, Image) and isinstance(cloud, PointCloud):
            pairs.append((recording.calibration, image, cloud))
    assert len(pairs) > 20
    assert first(followed(pairs)) is None
