"""Car recordings: what is read, how axes turn, and what a hostile file gets."""

from __future__ import annotations

import contextlib
import io
import itertools
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.clock import ManualClock
from edgeguard.errors import RecordingError
from edgeguard.sensors.car import CarRecording
from edgeguard.types import GNSS, IMU, WHEELS, GnssFix, ImuSample, WheelOdometry


def arrays(n: int = 60) -> dict[str, np.ndarray]:
    t = 1000.0 + np.arange(n) / 10
    fast = 1000.0 + np.arange(10 * n) / 100
    gnss = np.stack([37 + t * 0, -122 + t * 0, 10 + t * 0, 1.5e12 + (t - 1000) * 1e3, 30 + t * 0, 90 + t * 0], axis=1)
    return {
        "gnss_t": t,
        "gnss_value": gnss,
        "wheel_speed_t": fast,
        "wheel_speed_value": np.full((10 * n, 4), 10.0),
        "gyro_t": fast,
        "gyro_value": np.tile([0.1, 0.2, 0.3], (10 * n, 1)),
        "accelerometer_t": fast,
        "accelerometer_value": np.tile([1.0, 0.5, -9.81], (10 * n, 1)),
    }


def save(path: Path, data: dict[str, np.ndarray]) -> Path:
    np.savez(path, **data)
    return path


def test_axes_become_forward_left_up_and_the_receiver_time_is_kept(tmp_path: Path):
    """Forward, right, down is turned so that the accelerometer reads +9.8 up at rest."""
    recording = CarRecording(save(tmp_path / "car.npz", arrays()))
    clock = ManualClock()
    first = {}
    for source in recording.sources(clock).values():
        clock.wait_until_ns(1_200_000_000)
        first[source.info.sensor] = source.read(0.0)
    imu, fix, wheels = first[IMU], first[GNSS], first[WHEELS]
    assert isinstance(imu, ImuSample)
    assert isinstance(fix, GnssFix)
    assert isinstance(wheels, WheelOdometry)
    assert imu.gyro_rad_s == pytest.approx((0.1, -0.2, -0.3))
    assert imu.accel_m_s2 == pytest.approx((1.0, -0.5, 9.81))
    assert fix.device_stamp_ns == 1_500_000_000 * 10**9
    assert wheels.speed_m_s == pytest.approx(10.0)
    assert wheels.steering_rad is None


def test_ticks_are_ten_per_second_and_name_what_the_file_lacks(tmp_path: Path):
    """A hole in the file is the file's, not the sensor's."""
    data = arrays()
    keep = (data["gnss_t"] < 1002.0) | (data["gnss_t"] > 1004.0)
    data["gnss_t"], data["gnss_value"] = data["gnss_t"][keep], data["gnss_value"][keep]
    ticks = CarRecording(save(tmp_path / "car.npz", data)).ticks()
    assert {b.stamp_ns - a.stamp_ns for a, b in itertools.pairwise(ticks)} == {100_000_000}
    gaps = [t.stamp_ns / 1e9 - 1 for t in ticks if GNSS in t.recording_gap]
    assert 2.1 < min(gaps) < 2.4
    assert 3.8 < max(gaps) < 4.1


def test_optional_streams_may_be_missing_and_bad_rows_go_with_a_note(tmp_path: Path):
    """No IMU, no steering, some NaN: still a recording, and it says so."""
    data = {k: v for k, v in arrays().items() if k.startswith(("gnss", "wheel"))}
    data["gnss_value"][3, 2] = np.nan
    data["wheel_speed_value"][5, 0] = 1e9
    recording = CarRecording(save(tmp_path / "car.npz", data))
    assert [i.sensor for i in recording.infos] == [GNSS, WHEELS]
    assert any("gnss: 1 rows with no number" in n["text"] for n in recording.notes)
    assert any("wheels: 1 rows outside" in n["text"] for n in recording.notes)
    assert any("imu: not in" in n["text"] for n in recording.notes)


def _shuffle(d: dict[str, np.ndarray]) -> None:
    d["gnss_t"] = d["gnss_t"][::-1].copy()


def _half(d: dict[str, np.ndarray]) -> None:
    del d["gnss_value"]


def _none(d: dict[str, np.ndarray]) -> None:
    del d["gnss_t"], d["gnss_value"]


def _columns(d: dict[str, np.ndarray]) -> None:
    d["gnss_value"] = d["gnss_value"][:, :5]


def _rows(d: dict[str, np.ndarray]) -> None:
    d["gyro_value"] = d["gyro_value"][:7]


def _text(d: dict[str, np.ndarray]) -> None:
    d["gyro_t"] = np.array(["x"] * len(d["gyro_t"]))


def _objects(d: dict[str, np.ndarray]) -> None:
    d["gyro_t"] = np.array([{}] * len(d["gyro_t"]), dtype=object)


def _eternity(d: dict[str, np.ndarray]) -> None:
    d["gnss_t"] = d["gnss_t"] * 1e6


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (_shuffle, "EG-N135"),
        (_half, "EG-N133"),
        (_none, "EG-N133"),
        (_columns, "EG-N134"),
        (_rows, "EG-N134"),
        (_text, "EG-N134"),
        (_objects, "EG-N132"),
        (_eternity, "EG-N136"),
    ],
)
def test_a_file_that_is_no_drive_is_refused_with_a_code_and_a_hint(
    tmp_path: Path, spoil: Callable[[dict[str, np.ndarray]], None], code: str
):
    """Each kind of damage has its code."""
    data = arrays()
    spoil(data)
    with pytest.raises(RecordingError) as refused:
        CarRecording(save(tmp_path / "car.npz", data))
    assert refused.value.code == code
    assert refused.value.hint


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path):
    """Sizes are read from the directory."""
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("gnss_t.npy", bytes(80 << 20))
    with pytest.raises(RecordingError) as refused:
        CarRecording(path)
    assert refused.value.code == "EG-N131"


@given(st.data())
def test_truncated_or_flipped_bytes_never_raise_anything_else(data: st.DataObject):
    """Whatever the bytes are: a recording or a RecordingError."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays(8))
    raw = bytearray(buffer.getvalue())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw)))]
    for _ in range(data.draw(st.integers(0, 8))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "car.npz"
        path.write_bytes(bytes(raw))
        with contextlib.suppress(RecordingError):
            CarRecording(path)


def test_a_missing_file_says_so(tmp_path: Path):
    """No OSError crosses the border."""
    with pytest.raises(RecordingError) as refused:
        CarRecording(tmp_path / "none.npz")
    assert refused.value.code == "EG-N130"


@pytest.mark.realdata
def test_the_real_drive_reads_as_gravity_up_and_turns_agree(realdata: Path):
    """Signs on real data: +9.8 up, and the integrated gyro follows the wheels' right-left difference."""
    recording = CarRecording(realdata / "car_60s" / "car.npz")
    clock = ManualClock()
    clock.wait_until_ns(10**12)
    series = {s.info.sensor: list(iter(lambda s=s: s.read(0.0), None)) for s in recording.sources(clock).values()}
    assert np.mean([s.accel_m_s2[2] for s in series[IMU]]) == pytest.approx(9.7, abs=0.3)
    t = np.array([s.stamp_ns for s in series[IMU]])
    rate = np.interp([s.stamp_ns for s in series[WHEELS]], t, [s.gyro_rad_s[2] for s in series[IMU]])
    w = np.array([s.wheel_speeds_m_s for s in series[WHEELS]])
    pair = (w[:, 1] - w[:, 0] + w[:, 3] - w[:, 2]) / 2
    smooth = np.ones(40) / 40
    left = np.convolve(rate, smooth, "valid"), np.convolve(pair, smooth, "valid")
    assert np.corrcoef(left[0], left[1])[0, 1] > 0.5
