"""EuRoC sequences: what is read, how axes turn, and what a cut or damaged copy gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.clock import ManualClock
from edgeguard.config import Config
from edgeguard.errors import RecordingError
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.sensors.euroc import EurocRecording, _imu_row
from edgeguard.types import CAMERA, IMU, Image, ImuSample, Level, Sample, Verdict

START = 1403715273262142976
_CAMERA = """%YAML:1.0
T_BS:
  cols: 4
  rows: 4
  data: [0.0, -1.0, 0.0, -0.02,
         1.0, 0.0, 0.0, -0.06,
         0.0, 0.0, 1.0, 0.01,
         0.0, 0.0, 0.0, 1.0]
rate_hz: 20
resolution: [64, 48]
intrinsics: [45.8, 45.7, 36.7, 24.8] #fu, fv, cu, cv
distortion_coefficients: [-0.28, 0.07, 0.0002, 1.7e-05]
"""
_IMU = """%YAML:1.0
T_BS:
  data: [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
rate_hz: 200
gyroscope_noise_density: 1.6968e-04     # [ rad / s / sqrt(Hz) ]
gyroscope_random_walk: 1.9393e-05
accelerometer_noise_density: 2.0000e-3
accelerometer_random_walk: 3.0000e-3
"""


def _sequence(folder: Path, frames: int = 10, *, listed: bool = False) -> Path:
    """Frames at 20 Hz and 10 readings each: gyro (1, 2, 3) and accel (9.8, 0.5, 0.25), x up, y right, z forward."""
    (folder / "cam0" / "data").mkdir(parents=True)
    (folder / "imu0").mkdir()
    rng = np.random.default_rng(0)
    for k in range(frames):
        pixels = rng.integers(0, 255, (48, 64), dtype=np.uint8)
        (folder / f"cam0/data/{START + k * 50_000_000}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    rows = [f"{START + k * 5_000_000},1,2,3,9.8,0.5,0.25\n" for k in range(10 * frames)]
    (folder / "imu0/data.csv").write_text("#timestamp [ns],w...\n" + "".join(rows))
    (folder / "cam0/sensor.yaml").write_text(_CAMERA)
    (folder / "imu0/sensor.yaml").write_text(_IMU)
    if listed:
        names = [START + k * 50_000_000 for k in range(frames)]
        (folder / "cam0/data.csv").write_text("#t,filename\r\n" + "".join(f"{n},{n}.png\r\n" for n in names))
    return folder


def _play(recording: EurocRecording) -> dict[str, list[Sample]]:
    clock = ManualClock()
    sources = recording.sources(clock)
    played: dict[str, list[Sample]] = {name: [] for name in sources}
    for tick in recording.ticks():
        clock.wait_until_ns(tick.stamp_ns)
        for name, source in sources.items():
            while (sample := source.read(0)) is not None:
                played[name].append(sample)
    return played


def test_a_sequence_plays_on_one_clock_with_its_own_stamps_kept(tmp_path: Path) -> None:
    """The first sample is at 1 s, steps are the file's, `device_stamp_ns` is the file's stamp."""
    played = _play(EurocRecording(_sequence(tmp_path)))

    first = played[CAMERA][0]
    assert isinstance(first, Image)
    assert first.pixels.shape == (48, 64, 3)
    assert (first.stamp_ns, first.device_stamp_ns) == (10**9, START)
    assert [s.stamp_ns for s in played[CAMERA]] == [10**9 + k * 50_000_000 for k in range(10)]
    assert played[IMU][1].device_stamp_ns == START + 5_000_000


def test_imu_axes_become_forward_left_up_without_touching_a_digit(tmp_path: Path) -> None:
    """x up, y right, z forward in the file; the sensor at rest reads +9.8 up."""
    reading = _play(EurocRecording(_sequence(tmp_path)))[IMU][0]

    assert isinstance(reading, ImuSample)
    assert reading.accel_m_s2 == (0.25, -0.5, 9.8)
    assert reading.gyro_rad_s == (3.0, -2.0, 1.0)


def test_a_mount_that_is_no_permutation_is_turned_exactly(tmp_path: Path) -> None:
    """30 degrees of pitch are kept as a rotation: the length of gravity stays."""
    folder = _sequence(tmp_path)
    c, s = np.cos(np.radians(30)), np.sin(np.radians(30))
    turned = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    T = np.eye(4)
    T[:3, :3] = turned
    numbers = ", ".join(repr(float(v)) for v in T.ravel())
    text = (folder / "cam0/sensor.yaml").read_text()
    (folder / "cam0/sensor.yaml").write_text(
        text[: text.index("data:")] + f"data: [{numbers}]\n" + text[text.index("rate") :]
    )

    reading = _play(EurocRecording(folder))[IMU][0]

    assert isinstance(reading, ImuSample)
    expected = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]]) @ turned.T @ [9.8, 0.5, 0.25]
    np.testing.assert_allclose(reading.accel_m_s2, expected, atol=1e-12)


def test_calibration_and_noise_are_read_and_their_absence_is_a_note(tmp_path: Path) -> None:
    """Both yaml files; without them the sequence still plays."""
    folder = _sequence(tmp_path)
    recording = EurocRecording(folder)
    assert recording.camera is not None
    assert recording.imu is not None
    assert recording.camera.image_size_px == (64, 48)
    assert recording.camera.distortion[1] == 0.07
    assert recording.imu.gyro_noise_rad_s_sqrt_hz == 1.6968e-04
    assert recording.notes == []

    (folder / "cam0/sensor.yaml").write_text(_CAMERA.replace("45.8, ", "nan, "))
    (folder / "imu0/sensor.yaml").unlink()
    recording = EurocRecording(folder)

    assert recording.camera is None
    assert recording.imu is None
    assert [n["kind"] for n in recording.notes] == ["calibration", "calibration", "axes"]
    assert len(_play(recording)[CAMERA]) == 10


@pytest.mark.parametrize("keep", [0.93, 0.5])
def test_a_cut_csv_and_a_cut_picture_play_up_to_the_cut_and_say_so(tmp_path: Path, keep: float) -> None:
    """The last line and the last picture are incomplete: both streams end there, with a note and without a fault."""
    folder = _sequence(tmp_path)
    csv = folder / "imu0/data.csv"
    csv.write_bytes(csv.read_bytes()[: int(csv.stat().st_size * keep)])
    last = folder / f"cam0/data/{START + 9 * 50_000_000}.png"
    last.write_bytes(last.read_bytes()[:400])

    recording = EurocRecording(folder)
    played = _play(recording)

    assert len(played[CAMERA]) == 9
    assert 0 < len(played[IMU]) < 100
    assert sorted(n["sensor"] for n in recording.notes if n["kind"] == "truncated") == [CAMERA, IMU]
    assert {name: dict(drops) for name, drops in recording.drops.items()} == {CAMERA: {}, IMU: {}}


def test_listed_pictures_that_are_missing_are_the_end_or_a_fault(tmp_path: Path) -> None:
    """At the end: a copy that was stopped. In the middle: the camera's loss, counted as missing."""
    folder = _sequence(tmp_path, listed=True)
    for k in (4, 8, 9):
        (folder / f"cam0/data/{START + k * 50_000_000}.png").unlink()

    recording = EurocRecording(folder)
    played = _play(recording)

    assert len(played[CAMERA]) == 7
    assert dict(recording.drops[CAMERA]) == {"missing": 1}
    assert [n["reason"] for n in recording.notes] == ["the picture is listed but not there"] * 2


def test_damage_in_the_middle_is_counted_under_its_reason(tmp_path: Path) -> None:
    """Malformed, not finite and backwards lines, and a picture that does not decode."""
    folder = _sequence(tmp_path)
    csv = folder / "imu0/data.csv"
    lines = csv.read_text().splitlines(keepends=True)
    lines[10] = "garbage\n"
    lines[20] = lines[20].replace(",1,2", ",nan,2")
    lines[30] = lines[15]
    lines[40] = lines[40].replace(",3,", ",three,")
    csv.write_text("".join(lines))
    (folder / f"cam0/data/{START + 3 * 50_000_000}.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing")

    recording = EurocRecording(folder)
    played = _play(recording)

    # readings after the last picture's tick stay unread
    assert len(played[CAMERA]) == 9
    assert dict(recording.drops[CAMERA]) == {"undecodable": 1}
    assert dict(recording.drops[IMU]) == {"malformed": 2, "not_finite": 1, "backwards": 1}
    assert recording.notes == []


def test_a_hole_in_the_pictures_is_a_gap_of_the_recording(tmp_path: Path) -> None:
    """Ticks go on at the camera's beat and name what the file lacks."""
    folder = _sequence(tmp_path, 30)
    for k in range(10, 20):
        (folder / f"cam0/data/{START + k * 50_000_000}.png").unlink()

    ticks = EurocRecording(folder).ticks()

    assert len(ticks) == 30
    assert [t.frame for t in ticks if CAMERA in t.recording_gap] == list(range(10, 20))
    assert not any(t.discontinuity for t in ticks)


@pytest.mark.parametrize("kind", ["nothing", "empty", "no_samples", "file"])
def test_what_is_no_sequence_is_refused(tmp_path: Path, kind: str) -> None:
    """Typed, with a hint."""
    folder = tmp_path / kind
    if kind == "file":
        folder.write_text("x")
    elif kind != "nothing":
        folder.mkdir()
    if kind == "no_samples":
        (folder / "cam0/data").mkdir(parents=True)

    with pytest.raises(RecordingError) as caught:
        EurocRecording(folder)

    assert caught.value.code in {"EG-N070", "EG-N071"}
    assert caught.value.hint


@given(st.text(max_size=120))
def test_no_line_makes_the_csv_reader_raise(line: str) -> None:
    """A line gives six finite numbers and a stamp, or a reason."""
    stamp_ns, row = _imu_row(line)

    assert isinstance(row, str) or (stamp_ns is not None and len(row) == 6)


@pytest.mark.realdata
def test_the_real_sequence_plays_whole_and_runs_clean(realdata: Path) -> None:
    """47 pictures at 20 Hz, 501 readings at 200 Hz, calibration as printed, gravity 9.8; every verdict PASS."""
    recording = EurocRecording(realdata / "euroc")
    pictures = sorted(int(p.stem) for p in (realdata / "euroc/cam0/data").glob("*.png"))
    lines = (realdata / "euroc/imu0/data.csv").read_text().splitlines()[1:]
    played = _play(recording)

    assert [s.device_stamp_ns for s in played[CAMERA]] == pictures
    assert len(pictures) == 47
    assert [s.device_stamp_ns for s in played[IMU]] == [int(line.split(",")[0]) for line in lines][: len(played[IMU])]
    assert len(lines) - len(played[IMU]) <= 11  # what lies behind the last tick, one beat at most
    assert abs(np.median(np.diff([s.stamp_ns for s in played[IMU]])) - 5_000_000) < 100
    assert abs(np.median(np.diff([s.stamp_ns for s in played[CAMERA]])) - 50_000_000) < 100
    assert recording.camera is not None
    assert recording.camera.camera_matrix[0, 0] == 458.654
    assert recording.camera.image_size_px == (752, 480)
    readings = np.array([s.accel_m_s2 for s in played[IMU] if isinstance(s, ImuSample)])
    assert abs(np.linalg.norm(readings, axis=1).mean() - 9.8) < 0.1
    assert readings[:, 2].mean() > 8.0
    assert recording.notes == []

    ticks = recording.ticks()
    clock = ManualClock(start_ns=ticks[0].stamp_ns - 1)
    with Pipeline(Config(), recording.sources(clock), clock) as pipeline:
        frames = list(pipeline.run(ticks))
    assert {f.verdict for f in frames} == {Verdict.PASS}
    levels = {(r.check, r.sensors): r.level for f in frames[40:45] for r in f.results}
    assert levels["S1.integrity", (IMU,)] is Level.NOT_OBSERVABLE
    assert levels["T1.rate", (CAMERA,)] is Level.OK
    assert not any(f.anomalies for f in frames)


@pytest.mark.realdata
@pytest.mark.parametrize("cut", [lambda data: data[:-20], lambda data: data[: len(data) // 2]])
def test_a_cut_copy_of_the_real_sequence_runs_clean_to_the_cut(
    realdata: Path, tmp_path: Path, cut: Callable[[bytes], bytes]
) -> None:
    """A csv cut in a number and a last picture cut: PASS throughout, and both notes."""
    real = realdata / "euroc"
    (tmp_path / "cam0/data").mkdir(parents=True)
    (tmp_path / "imu0").mkdir()
    for path in sorted(real.glob("cam0/data/*.png")):
        (tmp_path / "cam0/data" / path.name).symlink_to(path)
    (tmp_path / "cam0/sensor.yaml").symlink_to(real / "cam0/sensor.yaml")
    last = max(tmp_path.glob("cam0/data/*.png"))
    data = last.read_bytes()
    last.unlink()
    last.write_bytes(cut(data))
    (tmp_path / "imu0/data.csv").write_bytes(cut((real / "imu0/data.csv").read_bytes()))

    recording = EurocRecording(tmp_path)
    ticks = recording.ticks()
    clock = ManualClock(start_ns=ticks[0].stamp_ns - 1)
    with Pipeline(Config(), recording.sources(clock), clock) as pipeline:
        verdicts = {frame.verdict for frame in pipeline.run(ticks)}

    assert verdicts == {Verdict.PASS}
    assert {n.get("sensor") for n in recording.notes if n["kind"] == "truncated"} == {CAMERA, IMU}
