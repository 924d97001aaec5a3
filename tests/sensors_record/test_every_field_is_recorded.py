"""Both recording formats carry every field of every sample type: a field added to a type is drawn here by itself."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeguard.clock import ManualClock
from edgeguard.errors import RecordingError
from edgeguard.sensors.mcap_codec import decode_sample, encode_sample, schema_of
from edgeguard.sensors.mcap_replay import McapRecording
from edgeguard.sensors.mcap_schemas import SCHEMAS
from edgeguard.sensors.mcap_write import McapSink
from edgeguard.sensors.npz import LAYOUTS, NpzRecording, save_npz
from edgeguard.types import GnssFix, GnssSignal, Image, PointCloud, RigCalibration, Sample, SourceInfo

NUMBER = st.floats(0.5, 80.0)  # a place on earth, a speed, an accuracy: what a reader would not refuse
COUNT = st.integers(1, 30)
SIGNAL = st.builds(
    GnssSignal,
    system=st.sampled_from("GRECJSI"),
    number=st.integers(0, 255),
    cn0_dbhz=NUMBER,
    elevation_deg=st.none() | NUMBER,
    residual_m=st.none() | NUMBER,
    used=st.booleans(),
)


def _values(annotation: str, rows: int, rng: np.random.Generator) -> st.SearchStrategy[object]:
    """Values for a field by its annotation, never its default; an annotation that is not known here fails the test."""

    def array(shape: tuple[int, ...], kind: str) -> st.SearchStrategy[object]:
        return st.just(rng.integers(1, 100, shape).astype(kind))

    plain = annotation.removesuffix(" | None")
    known: dict[str, st.SearchStrategy[object]] = {
        "int": st.integers(2, 2**60),
        "float": NUMBER,
        "tuple[float, ...]": st.lists(NUMBER, min_size=1, max_size=5).map(tuple),
        "tuple[float, float, float]": st.tuples(NUMBER, NUMBER, NUMBER),
        "tuple[float, float, float, float]": st.tuples(NUMBER, NUMBER, NUMBER, NUMBER),
        "tuple[GnssSignal, ...]": st.lists(SIGNAL, min_size=1, max_size=5).map(tuple),
        "NDArray[np.uint8]": array((4, 6, 3), "u1"),
        "NDArray[np.int16]": array((rows,), "i2"),
        "NDArray[np.int32]": array((rows,), "i4"),
    }
    return known[plain]


@st.composite
def full_samples(draw: st.DrawFn) -> Sample:
    """A sample of any kind in which every field has a value of its own."""
    sensor = draw(st.sampled_from(sorted(LAYOUTS)))
    kind, rows = LAYOUTS[sensor].kind, draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    told: dict[str, object] = {}
    for field in fields(kind):
        annotation = str(field.type)
        if field.name == "sensor":
            told[field.name] = sensor
        elif annotation == "NDArray[np.float32]":
            shape = (rows, 3) if field.name == "xyz" else (rows,)
            told[field.name] = rng.uniform(0.5, 80.0, shape).astype(np.float32)
        elif annotation == "int | None" and "stamp" not in field.name:
            told[field.name] = draw(COUNT)
        elif field.name == "fix_quality":
            told[field.name] = draw(st.integers(2, 8))
        else:
            told[field.name] = draw(_values(annotation, rows, rng))
    sample: Sample = kind(**told)
    return sample


def told(sample: Sample) -> dict[str, object]:
    """Comparable: arrays as type, shape and bytes."""
    held = {f.name: getattr(sample, f.name) for f in fields(sample)}
    return {n: (v.dtype.str, v.shape, v.tobytes()) if isinstance(v, np.ndarray) else v for n, v in held.items()}


@given(full_samples(), st.sampled_from(["png", "raw"]))
def test_a_message_carries_every_field(sample: Sample, images: str) -> None:
    """MCAP: what is decoded equals what was encoded, field by field."""
    back = decode_sample(schema_of(sample, images), sample.sensor, encode_sample(sample, 0, images))

    assert not isinstance(back, str), back
    assert told(back) == told(sample)


@settings(max_examples=40)
@given(st.lists(full_samples(), min_size=1, max_size=6))
def test_an_npz_carries_every_field(tmp_path_factory: pytest.TempPathFactory, samples: list[Sample]) -> None:
    """npz: likewise, also for fixes with different numbers of satellites."""
    path = tmp_path_factory.mktemp("npz") / "d.npz"
    ordered = sorted(samples, key=lambda s: s.stamp_ns)
    save_npz(path, [(s.stamp_ns, s) for s in ordered])
    clock = ManualClock(start_ns=2**61)
    played: list[Sample] = []
    for source in NpzRecording(path).sources(clock).values():
        while (sample := source.read(0.0)) is not None:
            played.append(sample)

    for sensor in LAYOUTS:
        kept = [told(s) for s in ordered if s.sensor == sensor]
        assert [told(s) for s in played if s.sensor == sensor] == kept


def test_the_schema_in_the_file_names_every_field_of_a_fix() -> None:
    """Whoever reads the recording with other tools finds the names in its schema."""
    own = {f.name for f in fields(GnssFix)} - {"sensor"}
    text = SCHEMAS["foxglove.LocationFix"].decode()
    assert {name for name in own if f'"{name}"' in text} == own


@pytest.mark.parametrize("device_ns", [2**63, (2**64 - 1) * 1000])
def test_a_device_clock_at_its_end_is_recorded_or_refused_with_a_reason(device_ns: int, tmp_path: Path) -> None:
    """A node's 64-bit microseconds are more nanoseconds than an int64 holds: MCAP keeps them, npz refuses."""
    fix = GnssFix(1, 2.0, 3.0, device_stamp_ns=device_ns)
    back = decode_sample("foxglove.LocationFix", "gnss", encode_sample(fix, 0, "png"))
    assert back == fix
    with pytest.raises(RecordingError) as caught:
        save_npz(tmp_path / "d.npz", [(1, fix)])
    assert caught.value.code == "EG-N077"


def test_a_satellite_list_without_end_is_refused(tmp_path: Path) -> None:
    """The bound of the format document holds on both sides."""
    with pytest.raises(RecordingError) as caught:
        save_npz(tmp_path / "d.npz", [(1, GnssFix(1, 2.0, 3.0, cn0_dbhz=(40.0,) * 513))])
    assert caught.value.code == "EG-N077"
    arrays = {"edgeguard_npz": 1, "gnss_stamp_ns": [1], "gnss_latitude_deg": [1.0], "gnss_longitude_deg": [1.0]}
    np.savez(tmp_path / "wide.npz", gnss_cn0_dbhz=np.zeros((1, 513)), **arrays)
    with pytest.raises(RecordingError) as caught:
        NpzRecording(tmp_path / "wide.npz")
    assert caught.value.code == "EG-N076"


def test_a_cloud_beside_fixes_keeps_its_optional_arrays(tmp_path: Path) -> None:
    """Ring and time are there or not for a whole drive; a mixture is refused, not filled with zeros."""
    points = np.ones((2, 3), np.float32), np.ones(2, np.float32)
    mixed = [(1, PointCloud(*points, 1, ring=np.zeros(2, np.int16))), (2, PointCloud(*points, 2))]
    with pytest.raises(RecordingError) as caught:
        save_npz(tmp_path / "d.npz", mixed)
    assert caught.value.code == "EG-N077"


@pytest.mark.parametrize(
    "fix",
    [
        GnssFix(1, 2.0, 3.0, spoof_state=2, jam_state=None, agc_share=0.25),
        GnssFix(1, 2.0, 3.0, signals=(GnssSignal("G", 0, 40.0), GnssSignal("R", 7, 38.5, 12.0, -0.5, True))),
    ],
)
def test_what_a_receiver_does_not_tell_stays_untold(fix: GnssFix, tmp_path: Path) -> None:
    """None is no number on the way through either format, beside a fix that has everything."""
    whole = GnssFix(2, 2.0, 3.0, signals=(GnssSignal("E", 5, 41.0, 30.0, 0.1, True),) * 3, spoof_state=1, jam_state=3)
    save_npz(tmp_path / "d.npz", [(1, fix), (2, whole)])
    source = NpzRecording(tmp_path / "d.npz").sources(ManualClock(start_ns=9))["gnss"]
    assert [source.read(0.0), source.read(0.0)] == [fix, whole]
    assert decode_sample("foxglove.LocationFix", "gnss", encode_sample(fix, 0, "png")) == fix


RIGS = [
    RigCalibration(np.diag([400.0, 410.0, 1.0]), np.eye(4), (6, 4), 1.5),
    RigCalibration(
        np.diag([400.0, 410.0, 1.0]), np.eye(4), (6, 4), 1.5, (-0.28, 0.07, 2e-4, 1e-5, 0.01), np.eye(3)[[1, 2, 0]]
    ),
    RigCalibration(np.diag([400.0, 410.0, 1.0]), np.eye(4), (6, 4), 1.5, (-0.28, 0.07, 2e-4, 1e-5)),
]


def _same(one: RigCalibration | None, other: RigCalibration) -> bool:
    assert one is not None
    return one.distortion == other.distortion and (
        one.R_cam_imu is None if other.R_cam_imu is None else np.array_equal(one.R_cam_imu, other.R_cam_imu)
    )


@pytest.mark.parametrize("rig", RIGS)
def test_both_formats_carry_the_lens_and_the_turn_to_the_imu(rig: RigCalibration, tmp_path: Path) -> None:
    """A replay of a distorted camera must not run on a pinhole."""
    image = Image(np.zeros((4, 6, 3), np.uint8), 1)
    save_npz(tmp_path / "d.npz", [(1, image)], rig)
    assert _same(NpzRecording(tmp_path / "d.npz").calibration, rig)
    sink = McapSink(tmp_path / "d.mcap", [SourceInfo("camera", Image, 100_000_000, "test")], rig)
    sink.write_sample(1, image)
    sink.close()
    assert _same(McapRecording(tmp_path / "d.mcap").calibration, rig)


@pytest.mark.parametrize(
    ("name", "value"),
    [("distortion", np.zeros(3)), ("distortion", np.array([np.nan] * 4)), ("R_cam_imu", np.zeros((2, 3)))],
)
def test_a_lens_that_is_none_is_refused(name: str, value: np.ndarray, tmp_path: Path) -> None:
    """Geometry with a hole in it fails on opening, not in the middle of a drive."""
    arrays = {"edgeguard_npz": 1, "imu_stamp_ns": [1], "imu_gyro_rad_s": np.zeros((1, 3))}
    arrays |= {"imu_accel_m_s2": np.zeros((1, 3)), "camera_matrix": np.eye(3), "T_cam_lidar": np.eye(4)}
    np.savez(tmp_path / "d.npz", image_size_px=[6, 4], lidar_height_m=1.5, **arrays, **{name: value})
    with pytest.raises(RecordingError) as caught:
        NpzRecording(tmp_path / "d.npz")
    assert caught.value.code == "EG-N076"


@pytest.mark.parametrize("signal", [GnssSignal("GPS", 1, 40.0), GnssSignal("G", -1, 40.0), GnssSignal("G", 1, np.nan)])
def test_a_satellite_without_a_name_is_not_written_to_an_npz(signal: GnssSignal, tmp_path: Path) -> None:
    """A row that could not be told from filling is refused, not lost."""
    with pytest.raises(RecordingError) as caught:
        save_npz(tmp_path / "d.npz", [(1, GnssFix(1, 2.0, 3.0, signals=(signal,)))])
    assert caught.value.code == "EG-N077"


def test_files_from_before_these_fields_are_read(tmp_path: Path) -> None:
    """An old message and an old array file know neither satellites nor the receiver's suspicion."""
    old = b'{"edgeguard":{"stamp_ns":1,"latitude_deg":2.0,"longitude_deg":3.0,"cn0_dbhz":[40.0]}}'
    fix = GnssFix(1, 2.0, 3.0, cn0_dbhz=(40.0,))
    assert decode_sample("foxglove.LocationFix", "gnss", old) == fix
    arrays = {"edgeguard_npz": 1, "gnss_stamp_ns": [1], "gnss_latitude_deg": [2.0], "gnss_longitude_deg": [3.0]}
    np.savez(tmp_path / "old.npz", gnss_cn0_dbhz=[[40.0]], **arrays)
    assert NpzRecording(tmp_path / "old.npz").sources(ManualClock(start_ns=9))["gnss"].read(0.0) == fix
