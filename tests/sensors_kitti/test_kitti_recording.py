"""KITTI folders in both layouts, with everything that copying and recording does to them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.clock import ManualClock
from edgeguard.errors import RecordingError
from edgeguard.sensors.kitti import PERIOD_NS, KittiRecording, decode_sweep
from edgeguard.types import CAMERA, LIDAR, Image, PointCloud

_CAM = """calib_time: 09-Jan-2012 13:57:47
S_rect_02: 6.4e+01 3.2e+01
R_rect_00: 1 0 0 0 1 0 0 0 1
P_rect_02: 50 0 32 4 0 50 16 0.2 0 0 1 0.003
"""
_VELO = "R: 0 -1 0 0 0 -1 1 0 0\nT: 0.01 -0.07 -0.27\n"


def _sweep(cut: int = 0) -> bytes:
    """Eight rings of 300 returns in ring order, 10 m away; the last `cut` points missing."""
    azimuth = np.linspace(0, 2 * np.pi, 300, endpoint=False)
    rings = [
        np.stack((10 * np.cos(azimuth), 10 * np.sin(azimuth), np.full(300, 0.5 - 0.3 * k), np.full(300, 0.4)), axis=1)
        for k in range(8)
    ]
    points = np.concatenate(rings).astype("<f4")
    return points[: len(points) - cut].tobytes()


def _png(seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (32, 64, 3), dtype=np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


def _drive(
    folder: Path, frames: Iterable[int] = range(6), *, raw: bool = False, calibration: Path | None = None
) -> Path:
    images = folder / ("image_02/data" if raw else "image_02")
    sweeps = folder / ("velodyne_points/data" if raw else "velodyne")
    images.mkdir(parents=True)
    sweeps.mkdir(parents=True)
    for n in frames:
        (images / f"{n:010d}.png").write_bytes(_png(n))
        (sweeps / f"{n:010d}.bin").write_bytes(_sweep())
    place = calibration or folder
    (place / "calib_cam_to_cam.txt").write_text(_CAM)
    (place / "calib_velo_to_cam.txt").write_text(_VELO)
    return folder


def _play(recording: KittiRecording) -> list[tuple[int, bool, bool]]:
    """Frame number, and whether camera and lidar gave a sample at each tick."""
    clock = ManualClock()
    sources = recording.sources(clock)
    played = []
    for tick in recording.ticks():
        clock.wait_until_ns(tick.stamp_ns)
        camera, lidar = sources[CAMERA].read(0), sources[LIDAR].read(0)
        assert camera is None or isinstance(camera, Image)
        assert lidar is None or isinstance(lidar, PointCloud)
        played.append((tick.frame, camera is not None, lidar is not None))
    return played


def test_a_flat_drive_plays_every_frame_at_the_nominal_period(tmp_path: Path) -> None:
    """Stamps are number times period, each sample is readable exactly from its stamp on."""
    recording = KittiRecording(_drive(tmp_path, range(3, 7)))
    clock = ManualClock()
    source = recording.sources(clock)[LIDAR]

    assert [t.stamp_ns for t in recording.ticks()] == [n * PERIOD_NS for n in range(3, 7)]
    assert not any(t.discontinuity or t.recording_gap for t in recording.ticks())
    clock.wait_until_ns(3 * PERIOD_NS - 1)
    assert source.read(0) is None
    clock.wait_until_ns(3 * PERIOD_NS)
    sweep = source.read(0)
    assert isinstance(sweep, PointCloud)
    assert sweep.xyz.shape == (2400, 3)
    assert sweep.intensity.max() <= 1.0
    assert source.read(0) is None
    assert _play(recording) == [(n, True, True) for n in range(3, 7)]
    assert recording.notes == []


def test_a_raw_drive_takes_its_stamps_from_the_files_without_losing_digits(tmp_path: Path) -> None:
    """Line i is frame i; ticks come at the later of both stamps; calibration may lie with the day."""
    day = tmp_path / "2011_09_26"
    day.mkdir()
    drive = _drive(day / "2011_09_26_drive_0001_sync", range(2, 5), raw=True, calibration=day)
    lines = [f"2011-09-26 13:02:{25 + n // 10}.{n % 10}00000{n:03d}" for n in range(5)]
    (drive / "image_02/timestamps.txt").write_text("\n".join(lines))
    (drive / "velodyne_points/timestamps.txt").write_text("\n".join(line[:-3] + "107" for line in lines))

    recording = KittiRecording(drive)

    assert [t.stamp_ns for t in recording.ticks()] == [105, 100_000_105, 200_000_105]
    assert [n for n, c, v in _play(recording) if c and v] == [2, 3, 4]


def test_calibration_folds_rectification_into_one_transform(tmp_path: Path) -> None:
    """K @ T equals P_rect @ R_rect @ Tr for a point."""
    calibration = KittiRecording(_drive(tmp_path)).calibration
    P = np.array([[50, 0, 32, 4], [0, 50, 16, 0.2], [0, 0, 1, 0.003]])
    Tr = np.array([[0, -1, 0, 0.01], [0, 0, -1, -0.07], [1, 0, 0, -0.27], [0, 0, 0, 1]])
    point = np.array([7.0, 1.0, -0.5, 1.0])

    mine = calibration.camera_matrix @ (calibration.T_cam_lidar @ point)[:3]

    np.testing.assert_allclose(mine, P @ Tr @ point, rtol=1e-12)
    assert calibration.image_size_px == (64, 32)


def test_missing_numbers_are_gaps_and_jumps_of_time(tmp_path: Path) -> None:
    """A number missing in both streams is a discontinuity; in one, a recording gap that names the sensor."""
    drive = _drive(tmp_path, (0, 1, 2, 9, 10, 11))
    (drive / "velodyne/0000000010.bin").unlink()
    (drive / "image_02/0000000001.png").unlink()

    ticks = {t.frame: t for t in KittiRecording(drive).ticks()}

    assert [n for n, t in ticks.items() if t.discontinuity] == [9]
    assert {n: set(t.recording_gap) for n, t in ticks.items() if t.recording_gap} == {1: {CAMERA}, 10: {LIDAR}}


@pytest.mark.parametrize("tail", [b"", _sweep()[:-7], _sweep(cut=300), _sweep(cut=1500)])
def test_a_cut_last_sweep_ends_the_recording_without_a_fault(tmp_path: Path, tail: bytes) -> None:
    """Cut inside a point, at a ring or in the middle: its tick is dropped and noted, nothing is counted as damage."""
    drive = _drive(tmp_path)
    (drive / "velodyne/0000000005.bin").write_bytes(tail)

    recording = KittiRecording(drive)

    assert _play(recording) == [(n, True, True) for n in range(5)]
    assert [(n["kind"], n["frame"]) for n in recording.notes] == [("truncated", 5)]
    assert recording.drops == {CAMERA: {}, LIDAR: {}}


def test_a_cut_last_picture_ends_the_recording_too(tmp_path: Path) -> None:
    """A copy that was stopped while writing the last image loses that frame, not trust in the camera."""
    drive = _drive(tmp_path)
    (drive / "image_02/0000000005.png").write_bytes(_png(5)[:700])

    recording = KittiRecording(drive)

    assert _play(recording) == [(n, True, True) for n in range(5)]
    assert recording.notes[0]["sensor"] == CAMERA


def test_a_whole_last_sweep_is_kept(tmp_path: Path) -> None:
    """A few returns fewer than usual are no cut."""
    drive = _drive(tmp_path)
    (drive / "velodyne/0000000005.bin").write_bytes(_sweep(cut=5))

    assert KittiRecording(drive).notes == []


def test_images_after_a_cut_sweep_still_play(tmp_path: Path) -> None:
    """Only lidar ends early: its frames become recording gaps."""
    drive = _drive(tmp_path)
    (drive / "velodyne/0000000005.bin").unlink()
    (drive / "velodyne/0000000004.bin").write_bytes(_sweep(cut=1000))

    recording = KittiRecording(drive)

    assert {t.frame for t in recording.ticks() if LIDAR in t.recording_gap} == {4, 5}
    assert _play(recording)[-2:] == [(4, True, False), (5, True, False)]


def _nan() -> bytes:
    points = np.frombuffer(_sweep(), "<f4").copy()
    points[4000] = np.nan
    return points.tobytes()


@pytest.mark.parametrize(
    ("name", "content", "sensor", "reason"),
    [
        ("velodyne/0000000002.bin", _sweep()[:-3], LIDAR, "bad_size"),
        ("velodyne/0000000002.bin", b"", LIDAR, "bad_size"),
        ("velodyne/0000000002.bin", _nan(), LIDAR, "not_finite"),
        ("image_02/0000000002.png", b"not a picture", CAMERA, "undecodable"),
        ("image_02/0000000002.png", _png(2)[: len(_png(2)) // 2], CAMERA, "undecodable"),
        ("image_02/0000000002.png", _png(2)[:60] + b"\0" * 40 + _png(2)[100:], CAMERA, "undecodable"),
    ],
)
def test_damage_in_the_middle_is_the_sensors_fault_at_that_tick(
    tmp_path: Path, name: str, content: bytes, sensor: str, reason: str
) -> None:
    """The sample is missing, counted under its reason and in the line statistics; the rest plays on."""
    drive = _drive(tmp_path)
    (drive / name).write_bytes(content)
    recording = KittiRecording(drive)

    played = _play(recording)

    assert played == [(n, n != 2 or sensor != CAMERA, n != 2 or sensor != LIDAR) for n in range(6)]
    assert recording.drops[sensor] == {reason: 1}
    clock = ManualClock(start_ns=10**12)
    with recording.sources(clock)[sensor] as source:
        while source.read(0) is not None:
            pass
        assert source.exhausted
        assert dict(source.drops) == {reason: 1}
        assert source.line_stats.checksum_failures == 1


def test_unusable_timestamps_fall_back_to_the_nominal_period_with_a_note(tmp_path: Path) -> None:
    """Wrong line count, garbage or time running backwards: all noted, none raised."""
    for k, text in enumerate(("x\ny\n", "2011-09-26 13:02:25.1\n" * 6, "2011-09-26 13:02:25.1\n" * 3)):
        drive = _drive(tmp_path / str(k), raw=True)
        (drive / "image_02/timestamps.txt").write_text(text)
        (drive / "velodyne_points/timestamps.txt").write_text(text)

        recording = KittiRecording(drive)

        assert [t.stamp_ns for t in recording.ticks()] == [n * PERIOD_NS for n in range(6)]
        assert [n["kind"] for n in recording.notes] == ["timestamps"]


@pytest.mark.parametrize(
    ("break_it", "code"),
    [
        (lambda d: (d / "velodyne").rename(d / "clouds"), "EG-N010"),
        (lambda d: (d / "calib_velo_to_cam.txt").unlink(), "EG-N011"),
        (lambda d: (d / "calib_cam_to_cam.txt").write_text("P_rect_02: 1 2 three"), "EG-N011"),
        (lambda d: (d / "calib_cam_to_cam.txt").write_text(_CAM.replace("50 0 32", "nan 0 32")), "EG-N011"),
        (lambda d: [p.unlink() for p in (*d.glob("image_02/*"), *d.glob("velodyne/*"))], "EG-N012"),
    ],
)
def test_a_wrong_folder_is_refused_with_a_hint(tmp_path: Path, break_it: object, code: str) -> None:
    """Every refusal is a RecordingError with a stable code and a next step."""
    drive = _drive(tmp_path / "deep" / "down" / "drive")
    break_it(drive)  # type: ignore[operator]

    with pytest.raises(RecordingError) as caught:
        KittiRecording(drive)

    assert caught.value.code == code
    assert caught.value.hint


@given(st.binary(max_size=400))
def test_no_bytes_make_decoding_a_sweep_raise(data: bytes) -> None:
    """Bytes give a finite cloud or a reason, never an exception."""
    cloud, reason = decode_sweep(data, 0)

    assert (cloud is None) == bool(reason)
    if cloud is not None:
        assert np.isfinite(cloud.xyz).all()
        assert len(cloud.intensity) == len(cloud.xyz)


@pytest.mark.realdata
def test_the_real_drive_plays_whole_and_ends_where_it_is_cut(realdata: Path, tmp_path: Path) -> None:
    """All frames with one jump of time; cutting the last sweep at a point boundary drops exactly that frame."""
    real = realdata / "kitti_drive"
    recording = KittiRecording(real)
    ticks = list(recording.ticks())
    assert len(ticks) == 32
    assert [t.frame for t in ticks if t.discontinuity] == [24]
    assert recording.notes == []

    for part in ("image_02", "velodyne"):
        (tmp_path / part).mkdir()
        for path in sorted((real / part).iterdir())[-4:]:
            (tmp_path / part / path.name).symlink_to(path)
    for path in real.glob("calib_*.txt"):
        (tmp_path / path.name).symlink_to(path)
    last = tmp_path / "velodyne" / "0000000043.bin"
    data = last.read_bytes()
    last.unlink()
    last.write_bytes(data[: len(data) // 16 * 15 // 16 * 16])

    cut = KittiRecording(tmp_path)

    assert cut.frames == (40, 41, 42)
    assert cut.notes[0]["frame"] == 43
