"""What the Ouster decoder does with a network: loss, swaps, repeats, damage, and somebody else's packets."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.errors import ConfigError
from edgeguard.protocols import ouster_metadata
from edgeguard.protocols.ouster import RESTART_PACKETS, OusterDecoder
from edgeguard.protocols.ouster_metadata import parse_metadata
from edgeguard.protocols.ouster_sweep import OusterImu, OusterSweep
from edgeguard.types import ImuSample, PointCloud


def feed(decoder: OusterDecoder, packets: list[bytes]) -> list[OusterSweep]:
    return [r for packet in packets for r in decoder.feed(packet) if isinstance(r, OusterSweep)]


def test_a_sweep_is_given_with_its_last_packet(make_sensor) -> None:
    """No waiting for the next sweep when nothing is missing."""
    sensor = make_sensor("RNG15_RFL8_NIR8")
    packets, decoder = sensor.packets(sensor.frame(1, 1)), OusterDecoder(sensor.metadata)
    assert feed(decoder, packets[:-1]) == []
    assert len(feed(decoder, packets[-1:])) == 1


def test_swapped_packets_of_neighbouring_sweeps_lose_nothing(make_sensor) -> None:
    """The last packets of one sweep arrive after the first of the next."""
    sensor = make_sensor("RNG15_RFL8_NIR8")
    a, b = (sensor.packets(sensor.frame(i, i)) for i in (1, 2))
    order = a[:-3] + b[:4] + a[-3:][::-1] + b[4:][::-1]
    decoder = OusterDecoder(sensor.metadata)
    got = feed(decoder, order)
    assert [s.frame_id for s in got] == [1, 2]
    assert [s.missing_columns for s in got] == [0, 0]
    assert decoder.line_stats.sequence_gaps == 0


def test_lost_packets_are_holes_that_are_counted(make_sensor) -> None:
    """Two packets of one sweep missing: 32 columns, two gaps; the other sweeps are whole."""
    sensor = make_sensor("RNG19_RFL8_SIG16_NIR16")
    sent = [sensor.packets(sensor.frame(i, i)) for i in (1, 2, 3)]
    del sent[1][7], sent[1][20]
    decoder = OusterDecoder(sensor.metadata)
    got = feed(decoder, [p for packets in sent for p in packets])
    assert [s.missing_columns for s in got] == [0, 32, 0]
    assert not got[1].partial
    assert decoder.line_stats.sequence_gaps == 2
    assert len(np.flatnonzero(got[1].column_state == 0)) == 32


def test_lost_sweeps_are_counted_too(make_sensor) -> None:
    """Frame 2 of 32 packets never came."""
    sensor = make_sensor("RNG15_RFL8_NIR8")
    decoder = OusterDecoder(sensor.metadata)
    got = feed(decoder, sensor.packets(sensor.frame(1, 1)) + sensor.packets(sensor.frame(3, 3)))
    assert [s.frame_id for s in got] == [1, 3]
    assert decoder.line_stats.sequence_gaps == 32


def test_a_recording_that_begins_and_ends_inside_sweeps_has_no_gaps(make_sensor) -> None:
    """What was before and after is marked partial, not counted as loss."""
    sensor = make_sensor("RNG15_RFL8_NIR8")
    packets = [p for i in (1, 2, 3) for p in sensor.packets(sensor.frame(i, i))][10:-10]
    decoder = OusterDecoder(sensor.metadata)
    got = feed(decoder, packets) + decoder.flush()
    assert [(s.missing_columns, s.partial) for s in got] == [(160, True), (0, False), (160, True)]
    assert decoder.line_stats.sequence_gaps == 0


def test_repeated_packets_change_nothing(make_sensor) -> None:
    """The network may deliver twice; the second is late or a duplicate."""
    sensor = make_sensor("RNG15_RFL8_NIR8")
    packets = sensor.packets(sensor.frame(1, 1))
    once, twice = OusterDecoder(sensor.metadata), OusterDecoder(sensor.metadata)
    (a,), (b,) = feed(once, packets), feed(twice, [p for p in packets for _ in (0, 1)])
    np.testing.assert_array_equal(a.raw, b.raw)
    assert twice.drops == {"duplicate_columns": 31 * 16, "out_of_sequence": 1}


def test_a_packet_that_claims_the_place_of_another_does_not_replace_it(make_sensor) -> None:
    """The first column to arrive stays: an injected copy cannot change what the sensor said."""
    sensor = make_sensor("LEGACY")
    packets = sensor.packets(sensor.frame(1, 1))
    forged = bytearray(packets[0])
    forged[16:20] = b"\x10\x27\x00\x00"
    decoder = OusterDecoder(sensor.metadata)
    (sweep,) = feed(decoder, [packets[0], bytes(forged), *packets[1:]])
    clean = feed(OusterDecoder(sensor.metadata), packets)[0]
    np.testing.assert_array_equal(sweep.raw, clean.raw)


def test_columns_with_a_clear_status_bit_give_no_points(make_sensor) -> None:
    """The sensor says itself that it did not measure them; that is no loss on the way."""
    sensor = make_sensor("FUSA_RNG15_RFL8_NIR8_DUAL")
    frame = sensor.frame(1, 1)
    frame.status[16:24] = 0
    decoder = OusterDecoder(sensor.metadata)
    (sweep,) = feed(decoder, sensor.packets(frame))
    assert sweep.missing_columns == 8
    assert decoder.line_stats.sequence_gaps == 0
    assert decoder.drops == {"invalid_columns": 8}
    offsets = set(sweep.points()[3].tolist())
    stamps = sweep.column_stamp_ns
    assert not offsets & {int(stamps[c] - stamps.max()) for c in range(16, 24)}


def test_another_sensor_and_a_sensor_initialised_anew_are_refused(make_sensor) -> None:
    """Both would be read with the wrong tables."""
    sensor = make_sensor("RNG19_RFL8_SIG16_NIR16_DUAL")
    frame = sensor.frame(1, 1)
    decoder = OusterDecoder(sensor.metadata)
    assert feed(decoder, sensor.packets(frame, serial=99)) == []
    assert feed(decoder, sensor.packets(frame, init_id=5)) == []
    assert decoder.drops == {"other_sensor": 32, "reinitialised": 32}
    assert decoder.line_stats.frames == 0
    assert len(feed(decoder, sensor.packets(frame))) == 1


def test_metadata_without_identity_takes_the_first_sensor_heard(make_sensor) -> None:
    """And then no other."""
    sensor = make_sensor("RNG15_RFL8_NIR8")
    document = json.loads(sensor.text)
    document["sensor_info"] |= {"prod_sn": "", "initialization_id": 0}
    decoder = OusterDecoder(parse_metadata(json.dumps(document).encode()))
    frame = sensor.frame(1, 1)
    assert len(feed(decoder, sensor.packets(frame, serial=7, init_id=8))) == 1
    feed(decoder, sensor.packets(sensor.frame(2, 2), serial=9, init_id=8)[:1])
    assert decoder.drops == {"other_sensor": 1}


@given(byte=st.integers(0, 6336 - 9), bit=st.integers(0, 7))
def test_any_flipped_bit_of_a_packet_with_crc_is_found(make_sensor, byte: int, bit: int) -> None:
    """Once the sensor has sent a correct CRC, a wrong one refuses the packet; a flipped identity refuses it sooner."""
    sensor = make_sensor("RNG19_RFL8_SIG16_NIR16", pixels_per_column=64)
    packets = sensor.packets(sensor.frame(1, 1))
    decoder = OusterDecoder(sensor.metadata)
    decoder.feed(packets[0])
    bad = bytearray(packets[1])
    bad[byte] ^= 1 << bit
    decoder.feed(bytes(bad))
    assert decoder.line_stats.frames == 1
    assert sum(decoder.drops.values()) == 1


@pytest.mark.parametrize("placeholder", [0xDEADBEEF0000C0DE, 0, 2**64 - 1])
def test_firmware_before_the_crc_is_read_without_it(make_sensor, placeholder: int) -> None:
    """Firmware 2.x writes something else in its place; the sweeps say that nothing was checked."""
    sensor = make_sensor("RNG15_RFL8_NIR8")
    end = placeholder.to_bytes(8, "little")
    decoder = OusterDecoder(sensor.metadata)
    (sweep,) = feed(decoder, [p[:-8] + end for p in sensor.packets(sensor.frame(1, 1))])
    assert not sweep.crc_checked
    assert decoder.line_stats.checksum_failures == 0


def test_a_sensor_that_sends_a_crc_is_never_read_without_it_again(make_sensor) -> None:
    """The placeholder from a sensor that knows better is a forgery or damage."""
    sensor = make_sensor("RNG15_RFL8_NIR8")
    placeholder = (0xDEADBEEF0000C0DE).to_bytes(8, "little")
    decoder = OusterDecoder(sensor.metadata)
    (sweep,) = feed(decoder, sensor.packets(sensor.frame(1, 1)))
    assert sweep.crc_checked
    assert feed(decoder, [p[:-8] + placeholder for p in sensor.packets(sensor.frame(2, 2))]) == []
    assert decoder.line_stats.checksum_failures == 32
    assert decoder.drops == {"checksum": 32}


def test_a_counter_that_starts_again_is_followed_after_a_while(make_sensor) -> None:
    """A jump back is late packets at first, and a restart when it goes on."""
    sensor = make_sensor("RNG15_RFL8_NIR8")
    decoder = OusterDecoder(sensor.metadata)
    feed(decoder, sensor.packets(sensor.frame(1, 30_000)))
    back = [p for i in (5, 6, 7) for p in sensor.packets(sensor.frame(i, i))]
    got = feed(decoder, back)
    assert decoder.drops == {"out_of_sequence": RESTART_PACKETS - 1}
    assert [s.frame_id for s in got][-2:] == [6, 7]


def test_one_packet_from_the_far_future_does_no_harm(make_sensor) -> None:
    """Forged or damaged, without a CRC: the sensor's own packets are not late because of it."""
    sensor = make_sensor("LEGACY")
    frames = [sensor.packets(sensor.frame(i, i)) for i in (1, 2, 3)]
    forged = sensor.packets(sensor.frame(9, 20_000))[0]
    clean, attacked = OusterDecoder(sensor.metadata), OusterDecoder(sensor.metadata)
    a = feed(clean, [p for packets in frames for p in packets])
    b = feed(attacked, [q for packets in frames for p in packets for q in (p, forged)])
    for mine, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(mine.raw, other.raw)
    assert attacked.drops == {"out_of_sequence": 96}
    assert attacked.line_stats.sequence_gaps == 0


def test_a_sensor_that_was_away_for_long_is_followed_again(make_sensor) -> None:
    """The jump is taken when the stream goes on there."""
    sensor = make_sensor("RNG15_RFL8_NIR8")
    decoder = OusterDecoder(sensor.metadata)
    feed(decoder, sensor.packets(sensor.frame(1, 1)))
    got = feed(decoder, [p for i in (500, 501, 502) for p in sensor.packets(sensor.frame(i, i))])
    assert [s.frame_id for s in got][-2:] == [501, 502]
    assert [s.missing_columns for s in got][-2:] == [0, 0]


def test_datagrams_of_another_size_or_kind_are_counted(make_sensor) -> None:
    """Nothing raises, everything is accounted for."""
    sensor = make_sensor("RNG15_RFL8_NIR8")
    decoder = OusterDecoder(sensor.metadata)
    packet = sensor.packets(sensor.frame(1, 1))[0]
    wrong_type = b"\x02" + packet[1:]
    for data in (b"", b"x" * 100, packet[:-1], wrong_type):
        assert decoder.feed(data) == []
    assert decoder.drops == {"wrong_size": 3, "other_type": 1}
    assert decoder.line_stats.bytes_skipped == decoder.line_stats.bytes_received == 100 + 2 * len(packet) - 1


def test_imu_packets_become_samples_in_the_sensor_frame(make_sensor) -> None:
    """Units and rotation by hand; impossible values are refused."""
    import struct

    sensor = make_sensor("RNG15_RFL8_NIR8")
    document = json.loads(sensor.text)
    document["imu_intrinsics"]["imu_to_sensor_transform"] = [0, -1, 0, 6, 1, 0, 0, -11, 0, 0, 1, 7, 0, 0, 0, 1]
    decoder = OusterDecoder(parse_metadata(json.dumps(document).encode()))
    (record,) = decoder.feed(struct.pack("<3Q6f", 10, 11, 12, 0.5, 0.0, 1.0, 90.0, 0.0, 0.0))
    assert isinstance(record, OusterImu)
    sample = record.sample(77, "imu")
    assert isinstance(sample, ImuSample)
    np.testing.assert_allclose(sample.accel_m_s2, (0.0, 0.5 * 9.80665, 9.80665), atol=1e-12)
    np.testing.assert_allclose(sample.gyro_rad_s, (0.0, np.pi / 2, 0.0), atol=1e-12)
    assert (sample.stamp_ns, sample.device_stamp_ns) == (77, 12)
    assert decoder.feed(struct.pack("<3Q6f", 1, 2, 3, float("nan"), 0, 0, 0, 0, 0)) == []
    assert decoder.feed(struct.pack("<3Q6f", 1, 2, 3, 1e9, 0, 0, 0, 0, 0)) == []
    assert decoder.drops == {"malformed": 2}


def test_a_sweep_becomes_a_cloud_stamped_at_its_end(make_sensor) -> None:
    """Offsets count back from the last column; intensity is 0..1."""
    sensor = make_sensor("RNG19_RFL8_SIG16_NIR16")
    (sweep,) = feed(OusterDecoder(sensor.metadata), sensor.packets(sensor.frame(1, 1)))
    cloud = sweep.sample(5_000_000_000, "lidar")
    assert isinstance(cloud, PointCloud)
    assert cloud.stamp_ns == 5_000_000_000
    assert cloud.time_offset_ns is not None
    assert cloud.time_offset_ns.max() == 0
    assert -(10**8) <= cloud.time_offset_ns.min() < 0
    assert 0.0 <= cloud.intensity.min() < cloud.intensity.max() <= 1.0
    assert cloud.device_stamp_ns == int(sweep.column_stamp_ns.max())


def nested(sensor) -> dict:
    return json.loads(sensor.text)


def test_flat_and_nested_metadata_say_the_same(make_sensor) -> None:
    """Firmware before 3.0 put everything on one level and the format under data_format."""
    sensor = make_sensor("RNG15_RFL8_NIR8")
    document = nested(sensor)
    flat = {**document["sensor_info"], **document["beam_intrinsics"], **document["lidar_intrinsics"]}
    flat |= {**document["imu_intrinsics"], **document["config_params"], "data_format": document["lidar_data_format"]}
    assert parse_metadata(json.dumps(flat).encode()) == sensor.metadata
    flat.pop("beam_to_lidar_transform")
    assert parse_metadata(json.dumps(flat).encode()) == sensor.metadata


HOSTILE = [
    ("lidar_data_format", "pixels_per_column", 0),
    ("lidar_data_format", "pixels_per_column", 10**9),
    ("lidar_data_format", "pixels_per_column", True),
    ("lidar_data_format", "pixels_per_column", 65),
    ("lidar_data_format", "columns_per_packet", 1000),
    ("lidar_data_format", "columns_per_frame", 2**40),
    ("lidar_data_format", "columns_per_frame", -1),
    ("lidar_data_format", "column_window", [0, 512]),
    ("lidar_data_format", "column_window", "all"),
    ("lidar_data_format", "pixel_shift_by_row", [10**12] * 64),
    ("lidar_data_format", "header_type", "NONE"),
    ("beam_intrinsics", "beam_altitude_angles", [91.0] * 64),
    ("beam_intrinsics", "beam_azimuth_angles", ["1"] * 64),
    ("beam_intrinsics", "beam_azimuth_angles", [1.0] * 63),
    ("beam_intrinsics", "beam_to_lidar_transform", [0.0] * 16),
    ("lidar_intrinsics", "lidar_to_sensor_transform", [2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]),
    ("lidar_intrinsics", "lidar_to_sensor_transform", [1, 0, 0, 1e9, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]),
    ("sensor_info", "initialization_id", 2**24),
    ("sensor_info", "prod_sn", 2**50),
    ("sensor_info", "prod_line", "x" * 1000),
]


@pytest.mark.parametrize(("section", "name", "value"), HOSTILE)
def test_metadata_out_of_bounds_is_refused_by_name(make_sensor, section: str, name: str, value: object) -> None:
    """The message says which field."""
    document = nested(make_sensor("RNG15_RFL8_NIR8"))
    document[section][name] = value
    with pytest.raises(ConfigError) as refused:
        parse_metadata(json.dumps(document).encode())
    assert refused.value.code == "EG-C131"
    assert name in refused.value.message or name == "pixels_per_column"


def test_an_unknown_profile_is_refused_with_those_that_are_read(make_sensor) -> None:
    """The hint lists them."""
    document = nested(make_sensor("RNG15_RFL8_NIR8"))
    document["lidar_data_format"]["udp_profile_lidar"] = "RNG99_\x1b[31m"
    with pytest.raises(ConfigError) as refused:
        parse_metadata(json.dumps(document).encode())
    assert refused.value.code == "EG-C132"
    assert "\x1b" not in refused.value.message
    assert "LEGACY" in refused.value.hint


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b"{", b"\xff\xfe", b'{"a":NaN}', b"[" * 100_000, b'"' + b"x" * 100]
)
def test_what_is_no_metadata_is_refused(data: bytes) -> None:
    """Deep, broken, empty or of another kind."""
    with pytest.raises(ConfigError):
        parse_metadata(data)


def test_metadata_too_large_to_be_one_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is checked first."""
    monkeypatch.setattr(ouster_metadata, "MAX_METADATA_BYTES", 10)
    with pytest.raises(ConfigError, match="larger than 10 bytes"):
        parse_metadata(b'{"a":             1}')
