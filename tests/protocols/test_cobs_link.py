"""The authenticated serial link: framing against an oracle, and every kind of tampering refused."""

from __future__ import annotations

import zlib

import pytest
from cobs import cobs as oracle
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.errors import ConfigError, PacketError
from edgeguard.protocols import cobs
from edgeguard.protocols.link import (
    MAX_ENCODED_BYTES,
    ImuReading,
    LinkDecoder,
    LinkEncoder,
    WheelReading,
    link_tag,
)
from edgeguard.types import ImuSample, WheelOdometry

KEY = bytes(range(32))
IMU = ImuReading((0.1, -0.2, 0.3), (0.0, 0.0, 9.81))
WHEELS = WheelReading((8.0, 8.1, 7.9, 8.0), -0.05)
# Any change of these bytes breaks nodes in the field: see docs/formats/serial-link.md.
VECTOR = bytes.fromhex(
    "0401010702010101020201010440420f010101010440420f08807be1ff"
    "c0c62d01010101010101010450b0950d6cdd0732d7ef4b7e1d8a21cb00"
)


def frames(count: int, *, node: int = 7, boot: int = 1, key: bytes = KEY) -> list[bytes]:
    """Return consecutive frames of one node."""
    encoder = LinkEncoder(node, key, boot=boot)
    return [encoder.frame(k * 10_000, IMU if k % 2 == 0 else WHEELS) for k in range(count)]


@given(st.binary(max_size=700))
def test_cobs_agrees_with_the_public_package_both_ways(data: bytes) -> None:
    """Encoding equals the oracle's, holds no zero, and decodes back."""
    encoded = cobs.encode(data)
    assert encoded == oracle.encode(data)
    assert 0 not in encoded
    assert cobs.decode(encoded) == data


@given(st.binary(max_size=300))
def test_cobs_refuses_what_the_public_package_refuses(data: bytes) -> None:
    """Any bytes decode as the oracle decodes them, or raise our error where it raises its own."""
    try:
        expected = oracle.decode(data)
    except oracle.DecodeError:
        with pytest.raises(PacketError):
            cobs.decode(data)
    else:
        assert cobs.decode(data) == expected


def test_the_published_vector_is_what_a_node_sends() -> None:
    """Third frame of node 7's first boot, byte for byte."""
    encoder = LinkEncoder(7, KEY)
    encoder.frame(0, IMU)
    encoder.frame(0, IMU)
    frame = encoder.frame(1_000_000, IMU)
    assert frame.hex() == VECTOR.hex()
    (record,) = LinkDecoder({7: KEY}).feed(frame)
    assert (record.node_id, record.boot, record.counter, record.device_time_us) == (7, 1, 2, 1_000_000)


numbers = st.floats(-100.0, 100.0)


@given(st.tuples(numbers, numbers, numbers), st.tuples(numbers, numbers, numbers), st.integers(0, 2**64 - 1))
def test_an_imu_reading_comes_back_within_its_unit(
    gyro: tuple[float, float, float], accel: tuple[float, float, float], time_us: int
) -> None:
    """Round trip through frame and decoder keeps values to half a unit and time exactly."""
    (record,) = LinkDecoder({7: KEY}).feed(LinkEncoder(7, KEY).frame(time_us, ImuReading(gyro, accel)))
    sample = record.sample(5, "imu")
    assert isinstance(sample, ImuSample)
    assert sample.gyro_rad_s == pytest.approx(gyro, abs=0.51e-7)
    assert sample.accel_m_s2 == pytest.approx(accel, abs=0.51e-6)
    assert (sample.stamp_ns, sample.device_stamp_ns, sample.sensor) == (5, time_us * 1000, "imu")


@given(st.tuples(numbers, numbers, numbers, numbers), st.none() | st.floats(-1.0, 1.0))
def test_a_wheel_reading_comes_back_within_its_unit(
    speeds: tuple[float, float, float, float], steering: float | None
) -> None:
    """Unknown steering stays unknown; the vehicle's speed is the mean of the wheels."""
    (record,) = LinkDecoder({7: KEY}).feed(LinkEncoder(7, KEY).frame(1, WheelReading(speeds, steering)))
    sample = record.sample(5, "wheels")
    assert isinstance(sample, WheelOdometry)
    assert sample.wheel_speeds_m_s == pytest.approx(speeds, abs=0.51e-6)
    assert sample.speed_m_s == pytest.approx(sum(speeds) / 4, abs=1e-6)
    assert sample.steering_rad == (None if steering is None else pytest.approx(steering, abs=0.51e-7))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e9])
def test_a_value_that_does_not_fit_is_not_sent(value: float) -> None:
    """A node says so instead of wrapping around."""
    with pytest.raises(PacketError) as caught:
        LinkEncoder(7, KEY).frame(0, ImuReading((value, 0.0, 0.0), (0.0, 0.0, 0.0)))
    assert caught.value.code == "EG-N032"


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8), st.data())
def test_how_the_bytes_are_cut_changes_nothing(noise: list[bytes], data: st.DataObject) -> None:
    """Records and every counter are the same whether bytes come at once, in pieces or one by one."""
    good = frames(len(noise))
    stream = b"".join(b + g for b, g in zip(noise, good, strict=True))
    whole = LinkDecoder({7: KEY})
    expected = whole.feed(stream)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = LinkDecoder({7: KEY})
    found = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += pieces.feed(stream[begin:end])
    assert found == expected
    assert pieces.stats == whole.stats
    single = LinkDecoder({7: KEY})
    assert [r for i in range(len(stream)) for r in single.feed(stream[i : i + 1])] == expected
    assert single.stats == whole.stats


@given(st.binary(max_size=600))
def test_garbage_before_a_delimiter_costs_no_good_frame(noise: bytes) -> None:
    """Resynchronisation is one delimiter away, whatever came before, and all bytes are accounted for."""
    good = frames(3)
    decoder = LinkDecoder({7: KEY})
    records = decoder.feed(noise + b"\0" + b"".join(good))
    assert [r.counter for r in records] == [0, 1, 2]
    assert decoder.stats.bytes_received == len(noise) + 1 + sum(map(len, good))
    assert decoder.stats.forged == decoder.stats.replayed == 0


@given(st.integers(0, 58 * 8 - 1))
def test_no_flipped_bit_is_ever_accepted(position: int) -> None:
    """Any single flipped bit of a frame makes it refused, never a different record."""
    frame = bytearray(VECTOR)
    assert len(frame) == 58
    frame[position // 8] ^= 1 << (position % 8)
    decoder = LinkDecoder({7: KEY})
    assert decoder.feed(bytes(frame) + b"\0") == []
    assert len(decoder.feed(VECTOR)) == 1  # the true frame is still welcome


def forge(body: bytearray) -> bytes:
    """Return a frame whose CRC fits, as somebody without the key can make it."""
    body[-12:-8] = zlib.crc32(bytes(body[:-12])).to_bytes(4, "little")
    return cobs.encode(bytes(body)) + b"\0"


@given(st.integers(4, 43), st.integers(1, 255))
def test_a_repaired_checksum_does_not_hide_a_change(position: int, change: int) -> None:
    """Changing header or payload and fixing the CRC is counted as forged."""
    body = bytearray(cobs.decode(VECTOR[:-1]))
    body[position] ^= change
    decoder = LinkDecoder({7: KEY})
    decoder.feed(b"\0")
    assert decoder.feed(forge(body)) == []
    assert decoder.stats.forged == 1


def test_parts_of_two_authentic_frames_do_not_make_a_third() -> None:
    """Splicing one frame's payload under another's header and tag is refused."""
    encoder = LinkEncoder(7, KEY)
    bodies = [
        bytearray(cobs.decode(encoder.frame(k, ImuReading((float(k), 0.0, 0.0), (0.0, 0.0, 9.8)))[:-1])) for k in (1, 2)
    ]
    for tail in (bodies[0][-8:], bodies[1][-8:]):
        spliced = bodies[1][:20] + bodies[0][20:-8] + tail
        decoder = LinkDecoder({7: KEY})
        assert decoder.feed(forge(spliced)) == []
        assert decoder.stats.forged == 1


def test_a_replayed_frame_is_refused_and_counted() -> None:
    """The same frame again, an older one, and one of an earlier boot are replays; a new boot goes on."""
    old, new = frames(4), frames(2, boot=2)
    decoder = LinkDecoder({7: KEY})
    assert len(decoder.feed(b"".join(old))) == 4
    assert decoder.feed(old[3] + old[0]) == []
    assert len(decoder.feed(new[0])) == 1
    assert decoder.feed(old[3]) == []
    assert len(decoder.feed(new[1])) == 1
    assert decoder.stats.replayed == 3
    assert decoder.stats.sequence_gaps == 0


def test_a_remembered_floor_refuses_replays_across_a_restart() -> None:
    """What `last_accepted` gave closes the window after a restart of the receiver."""
    sent = frames(4)
    before = LinkDecoder({7: KEY})
    before.feed(b"".join(sent[:3]))
    after = LinkDecoder({7: KEY}, floor=before.last_accepted)
    assert [r.counter for r in after.feed(b"".join(sent))] == [3]
    assert after.stats.replayed == 3


def test_missing_frames_are_counted_from_their_numbers() -> None:
    """Two lost frames are two gaps; order within a boot is what counts."""
    sent = frames(6)
    decoder = LinkDecoder({7: KEY})
    decoder.feed(sent[0] + sent[3] + sent[4])
    assert decoder.stats.sequence_gaps == 2
    assert decoder.line_stats.sequence_gaps == 2


def test_foreign_nodes_keys_and_versions_are_refused() -> None:
    """Another node's id, another key, and a later version give nothing."""
    decoder = LinkDecoder({7: KEY})
    decoder.feed(b"\0")
    decoder.feed(frames(1, node=8)[0])
    assert decoder.stats.malformed == 1
    decoder.feed(frames(1, key=bytes(32))[0])
    assert decoder.stats.forged == 1
    body = bytearray(cobs.decode(VECTOR[:-1]))
    body[0] = 2
    body[-8:] = link_tag(KEY, bytes(body[:-12]))
    assert decoder.feed(forge(body)) == []
    assert decoder.stats.malformed == 2
    assert decoder.stats.frames == 0


def test_a_line_without_delimiters_does_not_fill_memory() -> None:
    """What is kept never exceeds one frame, and the flood is counted."""
    decoder = LinkDecoder({7: KEY})
    for _ in range(200):
        decoder.feed(b"\x55" * 997)
        assert len(decoder._buffer) <= MAX_ENCODED_BYTES
    assert decoder.stats.bytes_skipped == 200 * 997
    assert len(decoder.feed(b"\0" + frames(1)[0])) == 1


def test_keys_and_node_ids_are_checked_at_the_door() -> None:
    """Short keys, node 0 and an empty set are configuration errors."""
    for keys in ({}, {7: b"short"}, {0: KEY}, {70_000: KEY}):
        with pytest.raises(ConfigError) as caught:
            LinkDecoder(keys)
        assert caught.value.code == "EG-C030"
    with pytest.raises(ConfigError):
        LinkEncoder(7, KEY[:-1])


def test_one_key_for_every_node_serves_a_capture_and_stays_bounded() -> None:
    """For tools: nodes that are not named share it; a key of their own comes first; at most 64 are followed."""
    other = bytes(range(1, 33))
    decoder = LinkDecoder({9: other}, any_node_key=KEY)
    line = b"".join(f for node in range(1, 101) for f in frames(1, node=node, key=other if node == 9 else KEY))
    assert len(decoder.feed(line)) == 64
    assert decoder.stats.malformed == 36
