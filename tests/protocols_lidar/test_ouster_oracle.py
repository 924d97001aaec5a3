"""Ouster packets against Ouster's own SDK: every profile, every channel, every point."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import ouster.sdk.core as sdk
import ouster.sdk.pcap
import pytest

from edgeguard.kernels.ouster import VALID
from edgeguard.protocols.ouster import OusterDecoder, OusterRecord
from edgeguard.protocols.ouster_metadata import LAYOUTS, parse_metadata
from edgeguard.protocols.ouster_sweep import OusterImu, OusterSweep
from edgeguard.protocols.pcap import CaptureReader, CaptureState
from edgeguard.protocols.udp import UdpReader

NAMES = {
    "range": "RANGE", "range2": "RANGE2", "reflectivity": "REFLECTIVITY", "reflectivity2": "REFLECTIVITY2",
    "signal": "SIGNAL", "signal2": "SIGNAL2", "near_ir": "NEAR_IR", "flags": "FLAGS", "flags2": "FLAGS2",
}  # fmt: skip
FLOAT32_ROUNDING = 2.0**-23


def sweeps(records: list[OusterRecord]) -> list[OusterSweep]:
    return [record for record in records if isinstance(record, OusterSweep)]


def assert_same_frame(ours: OusterSweep, theirs: sdk.LidarFrame, info: sdk.SensorInfo) -> None:
    """Every channel, stamp and point; both returns."""
    assert ours.frame_id == theirs.frame_id
    assert ours.channels
    for name in ours.channels:
        np.testing.assert_array_equal(ours.channel(name), theirs.field(NAMES[name]), err_msg=name)
    valid = ours.column_state == VALID
    np.testing.assert_array_equal(valid, (np.asarray(theirs.status) & 1).astype(bool))
    np.testing.assert_array_equal(ours.column_stamp_ns[valid], np.asarray(theirs.timestamp)[valid])
    for which, name in enumerate(n for n in ("RANGE", "RANGE2") if theirs.has_field(n)):
        ranges = theirs.field(name)
        cloud = sdk.XYZLut(info, False)(ranges).reshape(*ranges.shape, 3)
        column, ring = np.nonzero(ranges.T)
        xyz, intensity, our_ring, offset_ns = ours.points(which)
        expected = cloud[ring, column]
        assert len(xyz) == len(expected) > 0
        assert np.abs(xyz - expected).max() <= FLOAT32_ROUNDING * np.abs(expected).max()
        reflectivity = theirs.field("REFLECTIVITY" + name[5:])
        np.testing.assert_array_equal(np.round(intensity * 255), reflectivity[ring, column])
        np.testing.assert_array_equal(our_ring, ring)
        np.testing.assert_array_equal(offset_ns, ours.column_stamp_ns[column] - ours.column_stamp_ns[valid].max())


def test_the_profiles_under_test_are_all_there_are() -> None:
    """A profile without a line below would be an untested one."""
    assert set(PROFILES) == set(LAYOUTS)


PROFILES = [
    "LEGACY",
    "RNG15_RFL8_NIR8",
    "RNG15_RFL8_NIR8_DUAL",
    "FUSA_RNG15_RFL8_NIR8_DUAL",
    "RNG19_RFL8_SIG16_NIR16",
    "RNG19_RFL8_SIG16_NIR16_DUAL",
]


@pytest.mark.parametrize("profile", PROFILES)
def test_frames_written_by_the_sdk_come_back_as_they_were(make_sensor, profile: str) -> None:
    """Three frames over the wrap of the frame counter, all channels and points equal, nothing missing."""
    sensor = make_sensor(profile)
    last = 2**32 - 1 if profile.startswith("FUSA") else 2**16 - 1
    frames = [sensor.frame(seed, frame_id) for seed, frame_id in enumerate((last - 1, last, 0))]
    decoder = OusterDecoder(sensor.metadata)
    got = sweeps([r for frame in frames for packet in sensor.packets(frame) for r in decoder.feed(packet)])
    assert len(got) == 3
    assert not decoder.drops
    assert decoder.line_stats.sequence_gaps == 0
    for ours, theirs in zip(got, frames, strict=True):
        assert ours.missing_columns == 0
        assert not ours.partial
        assert ours.crc_checked == LAYOUTS[profile].has_crc
        assert_same_frame(ours, theirs, sensor.info)


@pytest.mark.parametrize(
    ("mode", "window"),
    [
        (sdk.LidarMode._1024x20, (100, 899)),
        (sdk.LidarMode._2048x10, (2000, 47)),
        (sdk.LidarMode._4096x5, (0, 4095)),
    ],
)
def test_every_mode_and_azimuth_window_gives_whole_sweeps(make_sensor, mode, window: tuple[int, int]) -> None:
    """The window may wrap; a sweep is whole when the window is."""
    sensor = make_sensor("RNG19_RFL8_SIG16_NIR16", mode, column_window=list(window))
    frame = sensor.frame(5, 9)
    decoder = OusterDecoder(sensor.metadata)
    got = sweeps([r for packet in sensor.packets(frame) for r in decoder.feed(packet)])
    assert len(got) == 1
    assert got[0].missing_columns == 0
    assert_same_frame(got[0], frame, sensor.info)


@pytest.mark.parametrize("header", ["STANDARD", "FUSA"])
@pytest.mark.parametrize("profile", ["RNG15_RFL8_NIR8_DUAL", "RNG19_RFL8_SIG16_NIR16"])
def test_the_header_type_named_apart_from_the_profile_is_followed(make_sensor, profile: str, header: str) -> None:
    """Later firmware combines every profile with either header."""
    sensor = make_sensor(profile, header_type=header)
    frame = sensor.frame(6, 70_000 if header == "FUSA" else 70)
    decoder = OusterDecoder(sensor.metadata)
    got = sweeps([r for packet in sensor.packets(frame) for r in decoder.feed(packet)])
    assert len(got) == 1
    assert got[0].crc_checked == (header == "STANDARD")
    assert_same_frame(got[0], frame, sensor.info)


@pytest.mark.parametrize("profile", PROFILES[1:])
def test_header_fields_are_read_where_the_sdk_reads_them(make_sensor, profile: str) -> None:
    """Random header bytes: alerts, shot limiting, thermal shutdown and both countdowns agree."""
    sensor = make_sensor(profile)
    pf = sdk.PacketFormat(sensor.info)
    packet = bytearray(sensor.packets(sensor.frame(1, 1))[0])
    rng = np.random.default_rng(4)
    for _ in range(20):
        packet[8 if profile.startswith("FUSA") else 12] = rng.integers(256)
        packet[16:18] = rng.bytes(2)
        # The SDK refuses statuses that have no name; the other half of each byte is reserved.
        packet[18] = int(rng.integers(2)) | int(rng.integers(16)) << 4
        packet[19] = int(rng.integers(2)) | int(rng.integers(16)) << 4
        decoder = OusterDecoder(sensor.metadata)
        buffer = np.frombuffer(bytes(packet), np.uint8)
        if LAYOUTS[profile].has_crc:
            packet[-8:] = pf.calculate_crc(buffer).to_bytes(8, "little")
        decoder.feed(bytes(packet))
        status = decoder.status
        assert status.alert_flags == pf.alert_flags(buffer)
        assert status.thermal_shutdown == int(pf.thermal_shutdown(buffer))
        assert status.shot_limiting == int(pf.shot_limiting(buffer))
        assert status.countdown_thermal_shutdown_s == pf.countdown_thermal_shutdown(buffer)
        assert status.countdown_shot_limiting_s == pf.countdown_shot_limiting(buffer)


def test_destaggering_is_the_sdks(make_sensor) -> None:
    """Rows shifted so that columns are directions."""
    sensor = make_sensor("LEGACY")
    frame = sensor.frame(2, 2)
    decoder = OusterDecoder(sensor.metadata)
    sweep = sweeps([r for packet in sensor.packets(frame) for r in decoder.feed(packet)])[0]
    np.testing.assert_array_equal(sweep.destaggered("range"), sdk.destagger(sensor.info, frame.field("RANGE")))


def test_a_beam_offset_out_of_the_plane_is_followed(make_sensor) -> None:
    """`beam_to_lidar_transform` with a height, as wide-angle sensors have it."""
    import json

    sensor = make_sensor("RNG19_RFL8_SIG16_NIR16")
    document = json.loads(sensor.text)
    document["beam_intrinsics"]["beam_to_lidar_transform"] = [1, 0, 0, 12.5, 0, 1, 0, 0, 0, 0, 1, 30.25, 0, 0, 0, 1]
    text = json.dumps(document)
    info, frame = sdk.SensorInfo(text), sensor.frame(3, 3)
    decoder = OusterDecoder(parse_metadata(text.encode()))
    sweep = sweeps([r for packet in sensor.packets(frame) for r in decoder.feed(packet)])[0]
    assert_same_frame(sweep, frame, info)


OPTIONAL = [
    (),
    ("beam_to_lidar_transform",),
    ("beam_to_lidar_transform", "lidar_origin_to_beam_origin_mm"),
    ("lidar_to_sensor_transform", "imu_to_sensor_transform"),
    ("udp_profile_lidar", "column_window", "header_type"),
]


@pytest.mark.parametrize("product", ["OS-0-64", "OS-1-64", "OS-2-64", "OS-DOME-64", ""])
@pytest.mark.parametrize("absent", OPTIONAL)
def test_metadata_that_lacks_a_field_means_what_the_sdk_takes_it_to_mean(
    make_sensor, absent: tuple[str, ...], product: str
) -> None:
    """Flat metadata, as old firmware printed it, without what older firmware did not print."""
    import json

    document = json.loads(make_sensor("LEGACY").text)
    flat = {**document["sensor_info"], **document["beam_intrinsics"], **document["lidar_intrinsics"]}
    flat |= {**document["imu_intrinsics"], **document["config_params"], "data_format": document["lidar_data_format"]}
    flat["prod_line"] = product
    for name in absent:
        flat.pop(name, None)
        flat["data_format"].pop(name, None)
    text = json.dumps(flat)
    ours, theirs = parse_metadata(text.encode()), sdk.SensorInfo(text)
    for mine, other in (
        (ours.beam_to_lidar, theirs.beam_to_lidar_transform),
        (ours.lidar_to_sensor, theirs.lidar_to_sensor_transform),
        (ours.imu_to_sensor, theirs.imu_to_sensor_transform),
    ):
        np.testing.assert_array_equal(np.array(mine).reshape(4, 4), other)
    assert ours.column_window == tuple(theirs.format.column_window)
    assert ours.layout.profile == theirs.format.udp_profile_lidar.name
    assert (ours.serial, ours.init_id) == (theirs.sn, theirs.init_id)


CAPTURES = [
    ("OS-1-128_v2.3.0_1024x10_lb_n3.pcap", "OS-1-128_v2.3.0_1024x10.json", 192, 30, 3),
    (
        "OS-1-128_767798045_1024x10_20230712_120049.pcap",
        "OS-1-128_767798045_1024x10_20230712_120049.json",
        8,
        2,
        1,
    ),
]


@pytest.mark.realdata
@pytest.mark.parametrize(("capture", "metadata", "lidar", "imu", "frames"), CAPTURES)
def test_real_captures_decode_as_the_sdk_decodes_them(
    realdata: Path, capture: str, metadata: str, lidar: int, imu: int, frames: int
) -> None:
    """Every packet of the file, every channel, point and IMU value."""
    path, described = realdata / "ouster" / capture, realdata / "ouster" / metadata
    reader, udp, decoder = CaptureReader(), UdpReader(), OusterDecoder(parse_metadata(described.read_bytes()))
    datagrams = [udp.feed(packet) for packet in reader.feed(path.read_bytes())]
    records = [r for d in datagrams if d is not None for r in decoder.feed(d.payload)] + decoder.flush()
    assert reader.state is CaptureState.READING
    assert reader.torn_bytes == 0
    assert not udp.drops
    assert decoder.line_stats.frames == lidar + imu == len(datagrams)
    assert not decoder.drops
    assert decoder.line_stats.sequence_gaps == 0
    info = sdk.SensorInfo(described.read_text())
    theirs = [
        f for frame_set in ouster.sdk.pcap.PcapFrameSetSource(str(path), meta=[str(described)]) for f in frame_set
    ]
    ours = sweeps(records)
    assert len(ours) == len(theirs) == frames
    for a, b in zip(ours, theirs, strict=True):
        assert_same_frame(a, b, info)
    _assert_same_imu([r for r in records if isinstance(r, OusterImu)], path, described, imu)


def _assert_same_imu(ours: list[OusterImu], path: Path, described: Path, count: int) -> None:
    source = ouster.sdk.pcap.PcapPacketSource(str(path), meta=[str(described)])
    theirs = [packet for _, packet in source if isinstance(packet, sdk.ImuPacket)]
    assert len(ours) == len(theirs) == count
    for a, b in zip(ours, theirs, strict=True):
        assert (a.accel_stamp_ns, a.gyro_stamp_ns) == (b.accel_ts(), b.gyro_ts())
        np.testing.assert_allclose(a.accel_m_s2, b.accel()[0], rtol=3e-7)
        np.testing.assert_allclose(a.gyro_rad_s, b.gyro()[0], rtol=3e-7)
