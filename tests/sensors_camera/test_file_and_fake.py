"""Files as cameras, and the fakes."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeguard.clock import ManualClock
from edgeguard.config import Config
from edgeguard.errors import ConfigError, SensorDisconnectedError, SensorOpenError
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.runtime.ticks import periodic_ticks
from edgeguard.sensors.camera_decode import decode_image
from edgeguard.sensors.camera_file import FileCamera
from edgeguard.sensors.fake import RATE_RAD_S, SPEED_M_S, fake_rig, fake_source
from edgeguard.types import GnssFix, Image, ImuSample, Sample, Source, Verdict, WheelOdometry


def _png(value: int) -> bytes:
    return cv2.imencode(".png", np.full((8, 12, 3), value, np.uint8))[1].tobytes()


def _play(source: Source, clock: ManualClock, seconds: float) -> list[Sample]:
    out: list[Sample] = []
    end_ns = clock.now_ns() + int(seconds * 1e9)
    while clock.now_ns() < end_ns:
        clock.wait_until_ns(clock.now_ns() + 5_000_000)
        while (sample := source.read(0)) is not None:
            out.append(sample)
    return out


def test_a_video_plays_at_the_pace_of_its_own_times(tmp_path: Path) -> None:
    """Ten frames at 20 fps: one every 50 ms from open on, then exhausted."""
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (64, 48))
    for k in range(10):
        writer.write(np.full((48, 64, 3), 20 * k + 20, np.uint8))
    writer.release()
    clock = ManualClock(start_ns=10**9)

    with FileCamera(tmp_path / "v.avi", clock) as source:
        assert source.info.period_ns == 50_000_000
        images = _play(source, clock, 1.0)

    assert [s.stamp_ns for s in images] == [10**9 + k * 50_000_000 for k in range(10)]
    assert [s.device_stamp_ns for s in images][:2] == [0, 50_000_000]
    assert source.exhausted
    assert dict(source.drops) == {}


def test_a_cut_video_plays_up_to_the_cut_and_ends(tmp_path: Path) -> None:
    """It neither loops nor hangs, and says that frames are missing where the container told their number."""
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (64, 48))
    rng = np.random.default_rng(0)
    for _ in range(20):
        writer.write(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    writer.release()
    whole = (tmp_path / "v.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) * 6 // 10])
    clock = ManualClock(start_ns=10**9)

    with FileCamera(tmp_path / "cut.avi", clock) as source:
        images = _play(source, clock, 3.0)

    assert 8 <= len(images) < 14
    assert source.exhausted
    assert sum(source.drops.values()) >= 20 - len(images) - 1


def test_a_folder_plays_by_names_that_are_stamps_or_by_a_stated_rate(tmp_path: Path) -> None:
    """Nanosecond names give the time; other names need fps; a damaged file is counted."""
    stamped, plain = tmp_path / "stamped", tmp_path / "plain"
    stamped.mkdir()
    plain.mkdir()
    for k, stamp in enumerate((1403715273262142976, 1403715273312142976, 1403715273412142976)):
        (stamped / f"{stamp}.png").write_bytes(_png(k))
        (plain / f"img{k}.png").write_bytes(_png(k) if k != 1 else b"not a picture")
    clock = ManualClock(start_ns=5)
    with FileCamera(stamped, clock) as source:
        images = _play(source, clock, 0.3)
    assert [s.stamp_ns - 5 for s in images] == [0, 50_000_000, 150_000_000]
    assert images[2].device_stamp_ns == 1403715273412142976

    clock = ManualClock(start_ns=5)
    with FileCamera(plain, clock, fps=10) as source:
        images = _play(source, clock, 0.5)
    assert [s.stamp_ns - 5 for s in images] == [0, 200_000_000]
    assert dict(source.drops) == {"undecodable": 1}
    with pytest.raises(ConfigError) as caught:
        FileCamera(plain, clock).open()
    assert caught.value.code == "EG-C122"


@pytest.mark.parametrize("kind", ["missing", "text", "empty"])
def test_what_is_no_camera_file_is_refused(tmp_path: Path, kind: str) -> None:
    """A typed error; a URL is not followed."""
    path = tmp_path / kind
    if kind == "text":
        path.write_text("hello")
    if kind == "empty":
        path.mkdir()
    with pytest.raises(SensorOpenError) as caught:
        FileCamera(path, ManualClock()).open()
    assert caught.value.code == "EG-N055"


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_picture_that_is_cut_anywhere_does_not_decode(suffix: str) -> None:
    """OpenCV would give a grey rest; every cut is refused, and the whole one is what OpenCV reads."""
    pixels = np.random.default_rng(0).integers(0, 255, (20, 31, 3), dtype=np.uint8)
    data = cv2.imencode(suffix, pixels)[1].tobytes()

    whole = decode_image(data)

    assert whole is not None
    np.testing.assert_array_equal(whole, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
    assert all(decode_image(data[:n]) is None for n in range(0, len(data), 7))
    assert decode_image(data[:16] + b"\xff\xff\xff\xff" * 2 + data[24:]) is None


@pytest.mark.parametrize("kind", ["camera", "lidar", "scan2d", "imu", "wheels", "gnss"])
def test_a_fake_gives_the_same_samples_for_the_same_seed_whenever_they_are_read(kind: str) -> None:
    """Bit for bit, also after skipping, and others for another seed."""

    def first(seed: int, skip: int = 0) -> tuple[object, ...]:
        clock = ManualClock(start_ns=10**9)
        with fake_source(kind, clock, seed=seed) as source:
            for _ in range(skip + 1):
                sample = source.read(1.0)
        assert sample is not None
        return tuple(v.tobytes() if isinstance(v, np.ndarray) else v for v in asdict(sample).values())

    assert first(1) == first(1)
    assert first(1, skip=3) == first(1, skip=3)
    assert first(1) != first(2)


def test_a_fake_keeps_its_rate_counts_what_nobody_read_and_ends_when_told() -> None:
    """100 Hz on the clock; a reader that was away for two seconds finds the last 64 and a count."""
    clock = ManualClock(start_ns=10**9)
    with fake_source("imu", clock, count=300) as source:
        samples = _play(source, clock, 0.5)
        assert [b.stamp_ns - a.stamp_ns for a, b in itertools.pairwise(samples)] == [10_000_000] * (len(samples) - 1)
        clock.wait_until_ns(clock.now_ns() + 2 * 10**9)
        late = _play(source, clock, 1.0)
        assert source.exhausted
        assert len(samples) + len(late) + source.drops["overflow"] == 300
    with pytest.raises(SensorDisconnectedError):
        source.read(0)
    with pytest.raises(ConfigError):
        fake_source("radar", clock)


def test_the_fakes_of_a_rig_agree_with_each_other() -> None:
    """Gyro, wheels and receiver follow one circle within their noise."""
    clock = ManualClock(start_ns=10**9)
    rig = fake_rig(clock)
    played = {}
    for name in ("imu", "wheels", "gnss"):
        rig[name].open()
        clock2 = clock
        played[name] = _play(rig[name], clock2, 2.0)
    turn = np.mean([s.gyro_rad_s[2] for s in played["imu"] if isinstance(s, ImuSample)])
    speed = np.mean([s.speed_m_s for s in played["wheels"] if isinstance(s, WheelOdometry)])
    fixes = [s for s in played["gnss"] if isinstance(s, GnssFix)]
    course = np.unwrap(np.radians([f.course_deg or 0.0 for f in fixes]))
    assert turn == pytest.approx(RATE_RAD_S, abs=0.001)
    assert speed == pytest.approx(SPEED_M_S, abs=0.01)
    seconds = (fixes[-1].stamp_ns - fixes[0].stamp_ns) / 1e9
    assert (course[0] - course[-1]) / seconds == pytest.approx(RATE_RAD_S, rel=1e-6)
    north_m = (fixes[-1].latitude_deg - fixes[0].latitude_deg) * 111_320
    east_m = (fixes[-1].longitude_deg - fixes[0].longitude_deg) * 111_320 * math.cos(math.radians(48))
    chord_m = 2 * 40.0 * math.sin(RATE_RAD_S * seconds / 2)
    assert math.hypot(north_m, east_m) == pytest.approx(chord_m, abs=3.0)


def test_a_fake_rig_runs_through_the_pipeline_clean() -> None:
    """Ten seconds of all five: every verdict PASS, every stream seen."""
    clock = ManualClock(start_ns=10**9)
    verdicts = []
    with Pipeline(Config(), fake_rig(clock), clock) as pipeline:
        for frame in pipeline.run(periodic_ticks(clock.now_ns(), 10**8, 100)):
            verdicts.append((frame.verdict, frame.verdict_reason))
    assert {v for v, _ in verdicts} == {Verdict.PASS}, [v for v in verdicts if v[0] is not Verdict.PASS][:3]
    assert all(health.received > 90 for health in frame.synced.health.values())
    assert isinstance(frame.synced.samples["camera"], Image)
