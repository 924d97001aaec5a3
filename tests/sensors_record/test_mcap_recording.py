"""MCAP: what is recorded is what happened, is replayed as it happened, opens elsewhere, and survives a cut."""

from __future__ import annotations

import itertools
import json
import stat
import struct
import tempfile
import zlib
from dataclasses import fields as declared
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.stream_reader import StreamReader

from edgeguard.clock import ManualClock
from edgeguard.config import Config
from edgeguard.errors import RecordingError
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.runtime.record import public_record
from edgeguard.sensors.mcap_codec import DECODERS, decode_sample, encode_sample, schema_of
from edgeguard.sensors.mcap_file import McapFile
from edgeguard.sensors.mcap_replay import McapRecording
from edgeguard.sensors.mcap_schemas import SCHEMAS
from edgeguard.types import (
    GnssFix,
    Image,
    ImuSample,
    PointCloud,
    Sample,
    Scan2d,
    WheelOdometry,
)

START_NS, WALL_NS = 7_000_000_000, 1_800_000_000_123_456_789  # of the drive in conftest.py
Drive = Any  # conftest.Drive: test modules cannot import each other


def fields(sample: Sample) -> dict[str, object]:
    """Comparable: arrays as type, shape and bytes."""
    told = {name: getattr(sample, name) for name in type(sample).__slots__}
    return {name: (v.dtype.str, v.shape, v.tobytes()) if isinstance(v, np.ndarray) else v for name, v in told.items()}


def replay(recording: McapRecording) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, dict[str, int]]]:
    clock = ManualClock(start_ns=START_NS)
    with Pipeline(Config(), recording.sources(clock), clock, calibration=recording.calibration) as pipeline:
        frames = list(pipeline.run(recording.ticks()))
        drops = {name: dict(source.drops) for name, source in pipeline.sources.items()}
    healths = [{n: (h.received, h.line) for n, h in frame.synced.health.items()} for frame in frames]
    return [public_record(frame) for frame in frames], healths, drops


def samples(recording: McapRecording) -> dict[str, list[Sample]]:
    clock = ManualClock(start_ns=2**61)
    out: dict[str, list[Sample]] = {}
    for name, source in recording.sources(clock).items():
        out[name] = []
        while (sample := source.read(0)) is not None:
            out[name].append(sample)
    return out


def test_every_sample_comes_back_bit_for_bit(drive: Drive) -> None:
    """Clouds, readings, fixes and pictures of all five sensors, in order, with every field."""
    recording = McapRecording(drive.path)
    played = samples(recording)

    assert set(played) == {"camera", "lidar", "gnss", "imu", "wheels"}
    for name, rows in played.items():
        assert [fields(s) for s in rows] == [fields(s) for s in drive.heard[name]]
        assert len(rows) == drive.written[name] > 0
    assert recording.calibration is not None
    np.testing.assert_array_equal(recording.calibration.T_cam_lidar, drive.calibration.T_cam_lidar)
    np.testing.assert_array_equal(recording.calibration.camera_matrix, drive.calibration.camera_matrix)
    assert recording.notes == []


def test_a_replay_decides_what_was_decided_on_the_drive(drive: Drive) -> None:
    """Same ticks, verdicts, trust, anomalies and statistics, same totals of every stream and line."""
    records, healths, drops = replay(McapRecording(drive.path))

    assert records == drive.records
    assert healths == drive.healths
    assert {r["verdict"] for r in records} != {"PASS"}  # the ghost and the silence were seen
    assert all(told == {"tested": len(drive.heard[name]) // 10} for name, told in drops.items())


def test_the_public_reader_finds_the_same_file(drive: Drive) -> None:
    """The mcap package: checksums hold, counts agree, times are wall times, every message is valid JSON."""
    with drive.path.open("rb") as file:
        list(StreamReader(file, validate_crcs=True).records)
    with drive.path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        summary = reader.get_summary()
        counts: dict[str, int] = {}
        for schema, channel, message in reader.iter_messages():
            assert schema is not None
            assert (schema.encoding, channel.message_encoding) == ("jsonschema", "json")
            assert isinstance(json.loads(message.data), dict)
            assert WALL_NS <= message.log_time <= WALL_NS + 4 * 10**9
            counts[channel.topic] = counts.get(channel.topic, 0) + 1
        names = {channel.topic: summary.schemas[channel.schema_id].name for channel in summary.channels.values()}
    assert counts["/edgeguard/frame"] == 20
    assert {topic[1:]: n for topic, n in counts.items() if topic[1:] in drive.heard} == {
        name: len(rows) for name, rows in drive.heard.items()
    }
    assert names["/camera"] == "foxglove.CompressedImage"
    assert names["/lidar"] == "foxglove.PointCloud"
    assert names["/gnss"] == "foxglove.LocationFix"
    assert {"/ego", "/log", "/tf", "/camera/calibration"} <= set(counts)


def test_every_message_follows_the_schema_in_its_file(drive: Drive) -> None:
    """jsonschema is the judge."""
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    judges = {name: jsonschema.Draft202012Validator(json.loads(text)) for name, text in SCHEMAS.items()}
    seen = set()
    with drive.path.open("rb") as file:
        for schema, _, message in make_reader(file).iter_messages():
            assert schema is not None
            judges[schema.name].validate(json.loads(message.data))
            seen.add(schema.name)
    assert len(seen) == 10


def test_the_file_is_its_owners_alone_and_no_other_is_overwritten(drive: Drive) -> None:
    """Mode 0600; recording to an existing file is EG-N078."""
    from edgeguard.sensors.mcap_write import McapSink

    assert stat.S_IMODE(drive.path.stat().st_mode) == 0o600
    before = drive.path.read_bytes()
    with pytest.raises(RecordingError) as caught:
        McapSink(drive.path, [])
    assert caught.value.code == "EG-N078"
    assert drive.path.read_bytes() == before


@pytest.mark.parametrize("share", [0.1, 0.37, 0.5, 0.83, 0.995])
def test_a_cut_file_replays_up_to_the_cut_and_says_so(drive: Drive, tmp_path: Path, share: float) -> None:
    """No footer, no summary, a record cut in the middle: what is before it is exact, and decides the same."""
    data = drive.path.read_bytes()
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(data[: int(len(data) * share)])

    recording = McapRecording(cut)
    ticks = recording.ticks()

    assert [n["kind"] for n in recording.notes] == ["truncated"]
    assert len(ticks) >= int(20 * share) - 3
    if share == 0.5:
        assert replay(recording)[0] == drive.records[: len(ticks)]
    for name, rows in samples(recording).items():
        assert [fields(s) for s in rows] == [fields(s) for s in drive.heard[name][: len(rows)]]


def test_a_damaged_chunk_costs_its_own_messages_and_is_told(drive: Drive, tmp_path: Path) -> None:
    """One flipped bit in the middle: its chunk fails the checksum, the rest plays."""
    data = bytearray(drive.path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path = tmp_path / "flip.mcap"
    path.write_bytes(data)

    recording = McapRecording(path)
    played = samples(recording)

    assert [n["kind"] for n in recording.notes] == ["damaged"]
    lost = sum(len(drive.heard[n]) - len(rows) for n, rows in played.items())
    assert 0 < lost < 200
    everything = {n: {s.stamp_ns: s for s in rows} for n, rows in drive.heard.items()}
    assert all(fields(s) == fields(everything[n][s.stamp_ns]) for n, rows in played.items() for s in rows)


def test_a_file_of_others_is_refused_with_a_hint(tmp_path: Path) -> None:
    """An MCAP without our metadata, of another version, and no MCAP at all."""
    from mcap.writer import Writer

    for k, metadata in enumerate((None, {"version": "99"}, {"version": "1", "sensors": "[]"}, {"version": "1"})):
        path = tmp_path / f"{k}.mcap"
        with path.open("wb") as file:
            writer = Writer(file)
            writer.start()
            if metadata is not None:
                writer.add_metadata("edgeguard.recording", metadata)
            writer.finish()
        with pytest.raises(RecordingError) as caught:
            McapRecording(path)
        assert caught.value.code == "EG-N079"
        assert caught.value.hint
    (tmp_path / "x.mcap").write_bytes(b"\x89MCAP1\r\n")
    with pytest.raises(RecordingError):
        McapRecording(tmp_path / "x.mcap")


def _chunk(size: int, data: bytes, compression: bytes = b"zstd", crc: int = 0) -> bytes:
    body = struct.pack("<QQQI", 0, 0, size, crc) + struct.pack("<I", len(compression)) + compression
    body += struct.pack("<Q", len(data)) + data
    return b"\x06" + struct.pack("<Q", len(body)) + body


def test_sizes_that_lie_cost_nothing(tmp_path: Path) -> None:
    """A zstd frame that claims a terabyte, a chunk that claims one, a record that claims one."""
    import zstandard

    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 24))
    # frame header: magic, descriptor with an 8-byte content size, one terabyte, then an empty last block
    lying = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 40) + b"\x01\x00\x00"
    for body in (
        _chunk(1000, bomb), _chunk(1 << 40, bomb), _chunk(1000, lying), _chunk(9, b"x", b"lz4"),
        _chunk(3, b"abc", b"", zlib.crc32(b"abd")),
    ):  # fmt: skip
        path = tmp_path / "x.mcap"
        path.write_bytes(b"\x89MCAP0\r\n" + body)
        file = McapFile(path)
        assert file.damaged_chunks == 1
        assert not file.channels
    path.write_bytes(b"\x89MCAP0\r\n" + b"\x05" + struct.pack("<Q", 1 << 60))
    assert McapFile(path).cut_at == 8


@settings(max_examples=25)
@given(st.data())
def test_no_damage_makes_the_reader_raise_anything_but_its_own_error(drive: Drive, data: st.DataObject) -> None:
    """Flips and cuts anywhere in the first part of a real file."""
    blob = bytearray(drive.path.read_bytes()[:30_000])
    for _ in range(data.draw(st.integers(1, 8))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    del blob[data.draw(st.integers(8, len(blob))) :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.mcap"
        path.write_bytes(blob)
        try:
            recording = McapRecording(path)
        except RecordingError:
            return
        samples(recording)


RNG = np.random.default_rng(0)
ONE_OF_EACH: list[Sample] = [
    Image(RNG.integers(0, 255, (7, 9, 3), dtype=np.uint8), 5, "left", 2**62),
    PointCloud(
        np.array([[1, np.nan, -np.inf], [0.1, -0.0, 3e38]], np.float32), np.array([0.25, np.nan], np.float32), 10**18,
        "top", np.array([3, -1], np.int16), np.array([-5, 2**31 - 1], np.int32), -7,
    ),
    PointCloud(np.zeros((0, 3), np.float32), np.zeros(0, np.float32), 1, "top", None, np.zeros(0, np.int32)),
    ImuSample(10**18 + 1, (0.1, -1e-320, 1 / 3), (9.80665, 1e308, -0.0), "imu2", 0),
    GnssFix(3, 48.123456789012345, -11.0, None, 1e-9, None, 0, 99.9, 4, "rover", -(2**62)),
    GnssFix(3, -90.0, 180.0, 500.5, None, 359.99999, None, None, 0),
    WheelOdometry(4, -0.1, (0.1, 0.2, 0.3, -0.4), 0.25, "odo", 8),
    WheelOdometry(4, 1e-17),
    Scan2d(np.array([1, np.inf], np.float32), np.array([0, np.nan], np.float32), np.zeros(2, np.float32), 6, "scan", 1),
]  # fmt: skip


@pytest.mark.parametrize("sample", ONE_OF_EACH, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("images", ["png", "raw"])
def test_every_field_of_every_kind_survives_the_message(sample: Sample, images: str) -> None:
    """Also NaN in clouds, negative zero, denormals, None, huge stamps; a field added to a type fails here."""
    schema = schema_of(sample, images)
    data = encode_sample(sample, WALL_NS, images)

    back = decode_sample(schema, sample.sensor, data)

    assert not isinstance(back, str), back
    assert fields(back) == fields(sample)
    assert {f.name for f in declared(sample)} == set(fields(sample))
    stamp = json.loads(data)["timestamp"]
    assert stamp["sec"] * 10**9 + stamp["nsec"] == sample.stamp_ns + WALL_NS


def test_jpeg_is_smaller_and_says_that_it_is_not_the_same() -> None:
    """A choice for those who have no disk: close, not equal."""
    y, x = np.mgrid[0:96, 0:128]
    smooth = np.stack([x, y, x + y], axis=2).astype(np.uint8)
    smooth += RNG.integers(0, 4, smooth.shape, dtype=np.uint8)  # a camera's noise
    image = Image(smooth, 1)

    packed, png = encode_sample(image, 0, "jpeg"), encode_sample(image, 0, "png")
    back = decode_sample("foxglove.CompressedImage", "camera", packed)

    assert isinstance(back, Image)
    assert json.loads(packed)["format"] == "jpeg"
    assert np.abs(back.pixels.astype(int) - smooth).mean() < 6
    assert len(packed) < len(png)


def test_a_reading_without_its_number_is_refused_on_the_way_back() -> None:
    """JSON has no NaN: null, and then a drop reason; never a number nobody measured."""
    for sample in (
        ImuSample(1, (float("nan"), 0, 0), (0, 0, 0)),
        GnssFix(1, float("inf"), 0.0),
        WheelOdometry(1, float("nan")),
        WheelOdometry(1, 1.0, (1.0, float("nan"), 1.0, 1.0)),
    ):
        data = encode_sample(sample, 0, "png")
        json.loads(data)
        assert decode_sample(schema_of(sample, "png"), sample.sensor, data) == "not_finite"


@given(st.sampled_from(sorted(DECODERS)), st.binary(max_size=200))
def test_no_bytes_make_a_decoder_raise(schema: str, data: bytes) -> None:
    """Bytes give a sample or a reason."""
    assert isinstance(decode_sample(schema, "x", data), str)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=6,
)


@given(st.sampled_from(range(len(ONE_OF_EACH))), st.data())
def test_no_replaced_value_makes_a_decoder_raise(which: int, data: st.DataObject) -> None:
    """A valid message with any one value replaced by any JSON gives a sample of its kind or a reason."""
    sample = ONE_OF_EACH[which]
    message = json.loads(encode_sample(sample, 0, "raw"))
    place = message["edgeguard"] if data.draw(st.booleans()) else message
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(_JSON)

    back = decode_sample(schema_of(sample, "raw"), "x", json.dumps(message).encode())

    assert isinstance(back, str | type(sample))


def test_messages_stand_in_the_file_in_the_order_of_arrival(drive: Drive) -> None:
    """What a live viewer and the replay both rely on."""
    with drive.path.open("rb") as file:
        times = [
            message.log_time
            for _, channel, message in make_reader(file).iter_messages(log_time_order=False)
            if channel.topic.strip("/") in drive.heard
        ]
    assert all(a <= b for a, b in itertools.pairwise(times))
