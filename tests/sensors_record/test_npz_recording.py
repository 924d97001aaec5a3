"""npz recordings: the document's arrays, hostile files, and files that are cut."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.clock import ManualClock
from edgeguard.errors import RecordingError
from edgeguard.sensors.fake import fake_rig, fake_source
from edgeguard.sensors.npz import NpzRecording, save_npz
from edgeguard.sensors.npz_file import NpzFile, parse_npy_header
from edgeguard.types import IMU, GnssFix, ImuSample, PointCloud, RigCalibration, Sample, WheelOdometry

RIG = RigCalibration(np.diag([50.0, 50.0, 1.0]), np.eye(4), (128, 96), 1.5)


def samples(seconds: float = 1.0) -> list[tuple[int, Sample]]:
    """Every kind of the fakes, in order of arrival."""
    clock = ManualClock(start_ns=10**9)
    sources = {**fake_rig(clock), "scan2d": fake_source("scan2d", clock)}
    for source in sources.values():
        source.open()
    out: list[tuple[int, Sample]] = []
    while clock.now_ns() < 10**9 + int(seconds * 1e9):
        for source in sources.values():
            while (sample := source.read(0)) is not None:
                out.append((clock.now_ns(), sample))
        clock.wait_until_ns(clock.now_ns() + 5_000_000)
    return out


def play(recording: NpzRecording) -> dict[str, list[Sample]]:
    clock = ManualClock(start_ns=2**61)
    played: dict[str, list[Sample]] = {}
    for name, source in recording.sources(clock).items():
        played[name] = []
        while (sample := source.read(0)) is not None:
            played[name].append(sample)
    return played


def fields(sample: Sample) -> dict[str, object]:
    """Comparable: arrays as type, shape and bytes."""
    told = {name: getattr(sample, name) for name in type(sample).__slots__}
    return {name: (v.dtype.str, v.shape, v.tobytes()) if isinstance(v, np.ndarray) else v for name, v in told.items()}


def test_what_is_saved_plays_back_bit_for_bit(tmp_path: Path) -> None:
    """All six kinds, with what is None staying None, and the geometry."""
    drive = samples()
    extra: list[tuple[int, Sample]] = [
        (3 * 10**9, GnssFix(2 * 10**9, 1.0, -2.0, fix_quality=0, device_stamp_ns=-5)),
        (3 * 10**9, WheelOdometry(3 * 10**9, -0.5, None, 0.25)),
    ]
    drive += extra

    counts = save_npz(tmp_path / "d.npz", drive, RIG)
    recording = NpzRecording(tmp_path / "d.npz")
    played = play(recording)

    assert counts == {name: len(rows) for name, rows in played.items()}
    for name, rows in played.items():
        assert [fields(s) for s in rows] == [fields(s) for _, s in drive if s.sensor == name]
    assert recording.calibration is not None
    np.testing.assert_array_equal(recording.calibration.camera_matrix, RIG.camera_matrix)
    assert recording.calibration.lidar_height_m == 1.5
    assert recording.notes == []
    assert len(recording.ticks()) > 10


def test_arrays_that_numpy_alone_wrote_are_a_recording(tmp_path: Path) -> None:
    """The example of the document, also compressed, big-endian and as float32."""
    t = 10**9 + np.arange(50) * 10_000_000
    gyro = np.tile([0.0, 0.0, 0.1], (50, 1))
    for k, (write, kind) in enumerate(((np.savez, ">f8"), (np.savez_compressed, "<f4"))):
        write(
            tmp_path / f"{k}.npz", edgeguard_npz=1, imu_stamp_ns=t, imu_gyro_rad_s=gyro.astype(kind),
            imu_accel_m_s2=np.zeros((50, 3)), note=np.zeros(3),
        )  # fmt: skip
        recording = NpzRecording(tmp_path / f"{k}.npz")
        rows = play(recording)[IMU]
        assert len(rows) == 50
        assert isinstance(rows[0], ImuSample)
        assert rows[0].gyro_rad_s[2] == pytest.approx(0.1)
        assert len(recording.ticks()) == 4  # 10 Hz without frames


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("packed", [False, True])
def test_a_cut_file_plays_up_to_the_cut_and_says_so(tmp_path: Path, share: float, packed: bool) -> None:
    """Every sample that plays is whole and equal to the original; the notes say truncated."""
    drive = samples()
    save_npz(tmp_path / "d.npz", drive)
    if packed:
        with np.load(tmp_path / "d.npz") as arrays:
            np.savez_compressed(tmp_path / "d.npz", **dict(arrays))
    data = (tmp_path / "d.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[: int(len(data) * share)])

    if share < 0.1:  # only a cut before the first sensor leaves nothing
        with pytest.raises(RecordingError) as caught:
            NpzRecording(tmp_path / "cut.npz")
        assert caught.value.code in {"EG-N074", "EG-N076"}
        return
    recording = NpzRecording(tmp_path / "cut.npz")
    played = play(recording)

    assert recording.notes[0]["kind"] == "truncated"
    assert any(played.values())
    for name, rows in played.items():
        original = [fields(s) for _, s in drive if s.sensor == name]
        assert [fields(s) for s in rows] == original[: len(rows)]
    assert len(recording.ticks()) >= 1


def _zip(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def _npy(array: object, **options: bool) -> bytes:
    out = io.BytesIO()
    np.save(out, array, **options)  # type: ignore[call-overload]
    return out.getvalue()


T5 = _npy(np.arange(5) + 10**9)
GOOD = {
    "edgeguard_npz.npy": _npy(np.array(1)),
    "imu_stamp_ns.npy": T5,
    "imu_gyro_rad_s.npy": _npy(np.zeros((5, 3))),
    "imu_accel_m_s2.npy": _npy(np.zeros((5, 3))),
}
LARGE = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999, 9999), }"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"edgeguard_npz.npy": None}, "EG-N074"),
        ({"edgeguard_npz.npy": _npy(np.array(2))}, "EG-N074"),
        ({"imu_stamp_ns.npy": None}, "EG-N076"),
        ({"imu_gyro_rad_s.npy": None}, "EG-N076"),
        ({"imu_gyro_rad_s.npy": _npy(np.zeros((4, 3)))}, "EG-N076"),
        ({"imu_gyro_rad_s.npy": _npy(np.zeros((5, 2)))}, "EG-N076"),
        ({"imu_stamp_ns.npy": _npy(np.arange(5)[::-1] + 10**9)}, "EG-N076"),
        ({"imu_stamp_ns.npy": _npy(np.arange(5) - 10)}, "EG-N076"),
        ({"imu_stamp_ns.npy": _npy(np.arange(5.0))}, "EG-N076"),
        ({"imu_gyro_rad_s.npy": _npy(np.array([{}] * 5, object), allow_pickle=True)}, "EG-N075"),
        ({"imu_gyro_rad_s.npy": _npy(np.zeros(5, [("a", "f8")]))}, "EG-N075"),
        ({"imu_gyro_rad_s.npy": _npy(np.asfortranarray(np.zeros((5, 3))))}, "EG-N075"),
        ({"imu_gyro_rad_s.npy": b"\x93NUMPY\x01\x00" + (len(LARGE)).to_bytes(2, "little") + LARGE}, "EG-N075"),
        ({"imu_gyro_rad_s.npy": GOOD["imu_gyro_rad_s.npy"][:-8]}, "EG-N075"),
        ({"imu_gyro_rad_s.npy": b""}, "EG-N075"),
        ({"camera_stamp_ns.npy": T5, "camera_pixels.npy": _npy(np.zeros((5, 2, 2, 4), np.uint8))}, "EG-N076"),
        ({"lidar_stamp_ns.npy": T5, "lidar_end.npy": T5, "lidar_xyz.npy": _npy(np.zeros((5, 3))),
          "lidar_intensity.npy": _npy(np.zeros(5))}, "EG-N076"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused_by_code(
    tmp_path: Path, changes: dict[str, bytes | None], code: str
) -> None:
    """Missing, of another shape, running backwards, pickled, in column order, larger than the file."""
    members = {name: data for name, data in {**GOOD, **changes}.items() if data is not None}
    (tmp_path / "x.npz").write_bytes(_zip(members))

    with pytest.raises(RecordingError) as caught:
        NpzRecording(tmp_path / "x.npz")

    assert caught.value.code == code


def test_a_bomb_is_refused_at_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros deflated a thousandfold, beyond the budget (here 64 MiB, to be quick)."""
    import zlib

    monkeypatch.setattr("edgeguard.sensors.npz_file.MAX_UNPACKED_BYTES", 1 << 26)
    step = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join(step.compress(bytes(1 << 24)) for _ in range(6)) + step.flush()
    name = b"imu_stamp_ns.npy"
    local = b"PK\x03\x04" + (20).to_bytes(2, "little") + bytes(2) + (8).to_bytes(2, "little") + bytes(8)
    local += len(packed).to_bytes(4, "little") + bytes(4) + len(name).to_bytes(2, "little") + bytes(2) + name
    (tmp_path / "bomb.npz").write_bytes(local + packed)

    with pytest.raises(RecordingError) as caught:
        NpzFile(tmp_path / "bomb.npz")

    assert caught.value.code == "EG-N075"


@given(st.data())
def test_no_damage_makes_the_reader_raise_anything_but_its_own_error(data: st.DataObject) -> None:
    """Any bytes flipped or cut: a recording whose samples can be read, or a RecordingError."""
    import tempfile

    blob = bytearray(_zip(GOOD))
    for _ in range(data.draw(st.integers(1, 6))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    del blob[data.draw(st.integers(1, len(blob))) :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npz"
        path.write_bytes(blob)
        try:
            recording = NpzRecording(path)
        except RecordingError:
            return
        assert set(play(recording)) <= {IMU}


@given(st.binary(max_size=300))
def test_no_header_makes_the_parser_raise(tail: bytes) -> None:
    """Bytes give a plain type and a bounded shape, or None."""
    for head in (tail, b"\x93NUMPY\x01\x00" + tail, b"\x93NUMPY\x01\x00" + len(tail).to_bytes(2, "little") + tail):
        told = parse_npy_header(head)
        assert told is None or (told[1].kind in "fiu" and all(n >= 0 for n in told[3]))


@given(st.sampled_from(["<f8", ">f4", "<i8", "|u1", "<i2", ">u4", "<f2"]), st.lists(st.integers(0, 900), max_size=4))
def test_every_header_that_numpy_writes_for_numbers_is_read(kind: str, shape: list[int]) -> None:
    """The pattern is NumPy's own output: same type, same shape, same offset."""
    out = io.BytesIO()
    header = {"descr": kind, "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(out, header)

    told = parse_npy_header(out.getvalue())

    assert told == (len(out.getvalue()), np.dtype(kind), False, tuple(shape))


def test_what_has_no_place_is_not_saved_and_leaves_no_file(tmp_path: Path) -> None:
    """A second camera, or frames of two sizes: EG-N077, and nothing half-written."""
    cloud = next(s for _, s in samples(0.2) if isinstance(s, PointCloud))
    odd = PointCloud(cloud.xyz, cloud.intensity, 2 * 10**9, "rear_lidar")
    with pytest.raises(RecordingError) as caught:
        save_npz(tmp_path / "d.npz", [(1, odd)])
    assert caught.value.code == "EG-N077"
    bare = PointCloud(cloud.xyz, cloud.intensity, 3 * 10**9)
    with pytest.raises(RecordingError):
        save_npz(tmp_path / "d.npz", [(1, cloud), (2, bare)])
    with pytest.raises(RecordingError):
        save_npz(tmp_path / "no" / "d.npz", [(1, bare)])
    assert list(tmp_path.iterdir()) == []
