"""Velodyne packets: against the manual's arithmetic written out slowly, against velodyne_decoder, and hostile ones."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest

from edgeguard.errors import ConfigError
from edgeguard.protocols.gnss_record import GnssRecord
from edgeguard.protocols.velodyne import MAX_SWEEP_PACKETS, VelodyneDecoder, VelodyneSweep
from edgeguard.protocols.velodyne_models import DUAL, LAST, MODELS, STRONGEST
from edgeguard.types import PointCloud

VLP16, HI_RES, VLP32C, HDL32E = 0x22, 0x24, 0x28, 0x21


def decode(decoder: VelodyneDecoder, packets: list[bytes]) -> list[VelodyneSweep]:
    records = [r for packet in packets for r in decoder.feed(packet)] + decoder.flush()
    return [r for r in records if isinstance(r, VelodyneSweep)]


def joined(sweeps: list[VelodyneSweep], name: str) -> np.ndarray:
    return np.concatenate([getattr(s, name) for s in sweeps])


# The VLP-16 manual, 63-9243 Rev E, table 9-1: elevation and vertical correction per laser.
MANUAL_ELEVATION_DEG = (-15, 1, -13, 3, -11, 5, -9, 7, -7, 9, -5, 11, -3, 13, -1, 15)
MANUAL_CORRECTION_MM = (
    11.2, -0.7, 9.7, -2.2, 8.1, -3.7, 6.6, -5.1, 5.1, -6.6, 3.7, -8.1, 2.2, -9.7, 0.7, -11.2,
)  # fmt: skip


def manual_points(packet: bytes) -> list[tuple[float, float, float]]:
    """Section 9.4 and 9.5 for a single-return packet, one point at a time, in the manual's axes."""
    azimuths = [struct.unpack_from("<H", packet, 100 * n + 2)[0] for n in range(12)]
    points = []
    for n in range(12):
        following = azimuths[n + 1] - azimuths[n] if n < 11 else azimuths[n] - azimuths[n - 1]
        gap = following + 36000 if following < 0 else following
        for k in range(32):
            distance = struct.unpack_from("<H", packet, 100 * n + 4 + 3 * k)[0] * 2.0
            if k < 16:
                precision = azimuths[n] + gap * 2.304 * k / (2 * 55.296)
            else:
                precision = azimuths[n] + gap * 2.304 * ((k - 16) + 24) / (2 * 55.296)
            alpha, omega = math.radians(precision / 100.0), math.radians(MANUAL_ELEVATION_DEG[k % 16])
            if distance:
                points.append(
                    (
                        distance * math.cos(omega) * math.sin(alpha),
                        distance * math.cos(omega) * math.cos(alpha),
                        distance * math.sin(omega) + MANUAL_CORRECTION_MM[k % 16],
                    )
                )
    return points


def test_vlp16_points_are_those_of_the_manuals_formula(velodyne_packets) -> None:
    """Differences come only from the azimuth's step of 0.01 degrees, which the manual interpolates block by block."""
    packets = velodyne_packets(VLP16, STRONGEST, 90)
    ours = joined(decode(VelodyneDecoder(), packets), "xyz").astype(np.float64)
    manual = np.array([p for packet in packets for p in manual_points(packet)]) / 1000.0
    expected = np.stack([manual[:, 1], -manual[:, 0], manual[:, 2]], axis=1)  # REP-103: x forward, y left
    assert len(ours) == len(expected)
    reach = np.linalg.norm(expected, axis=1)
    assert (np.linalg.norm(ours - expected, axis=1) / reach).max() < math.radians(0.011)
    assert np.abs(ours[:, 2] - expected[:, 2]).max() < 1e-5


@pytest.mark.parametrize("mode", [STRONGEST, LAST, DUAL])
@pytest.mark.parametrize("product", [VLP16, HI_RES, VLP32C, HDL32E])
def test_points_are_those_of_velodyne_decoder(velodyne_packets, product: int, mode: int) -> None:
    """Every point, its ring, intensity, firing time and return; that library rounds azimuths to 0.01 degrees."""
    vd = pytest.importorskip("velodyne_decoder")
    packets = velodyne_packets(product, mode, 60)
    sweeps = decode(VelodyneDecoder(returns="both"), packets)
    config = vd.Config(min_range=0.0, max_range=1000.0, timestamp_first_packet=True)
    models = {VLP16: vd.Model.VLP16, HI_RES: vd.Model.PuckHiRes, VLP32C: vd.Model.VLP32C, HDL32E: vd.Model.HDL32E}
    config.model = models[product]
    stamps = [struct.unpack_from("<I", p, 1200)[0] * 1e-6 for p in packets]
    _, theirs = vd.ScanDecoder(config).decode(
        [vd.VelodynePacket(s, p) for s, p in zip(stamps, packets, strict=True)], False
    )
    xyz, ring, kind = (joined(sweeps, n) for n in ("xyz", "ring", "kind"))
    loud = np.round(joined(sweeps, "intensity") * 255)
    when = np.concatenate([s.time_offset_ns.astype(np.int64) + s.device_stamp_ns for s in sweeps])
    when -= round(stamps[0] * 1e9)
    assert len(xyz) == len(theirs)
    reach = np.linalg.norm(theirs[:, :3], axis=1)
    mine = np.lexsort((np.round(np.linalg.norm(xyz, axis=1), 1), kind, ring, np.round(when / 1000.0)))
    other = np.lexsort((np.round(reach, 1), theirs[:, 7], theirs[:, 6], np.round(theirs[:, 4] * 1e6)))
    difference = np.linalg.norm(xyz[mine] - theirs[other, :3], axis=1)
    assert (difference <= math.radians(0.006) * reach[other] + 5e-5).all()  # the table rounds heights to 0.1 mm
    assert np.abs(xyz[mine, 2] - theirs[other, 2]).max() < 1e-4
    np.testing.assert_array_equal(ring[mine], theirs[other, 6])
    np.testing.assert_array_equal(loud[mine], theirs[other, 3])
    np.testing.assert_array_equal(kind[mine], theirs[other, 7])
    np.testing.assert_allclose(when[mine] * 1e-9, theirs[other, 4], atol=1e-7)


def test_a_sweep_ends_where_the_azimuth_passes_zero(velodyne_packets) -> None:
    """Whole turns between; the first and the last are partial."""
    packets = velodyne_packets(VLP16, STRONGEST, 240)
    decoder = VelodyneDecoder()
    sweeps = decode(decoder, packets)
    assert [s.partial for s in sweeps] == [True, False, False, False, True]
    for sweep in sweeps[1:-1]:
        assert 359.0 < sweep.turned_deg <= 360.0
        forward = np.degrees(np.arctan2(-sweep.xyz[:, 1], sweep.xyz[:, 0])) % 360.0
        assert np.diff(forward).max() < 2.0
    assert decoder.line_stats.frames == 240
    assert decoder.line_stats.sequence_gaps == 0
    assert sum(s.packets for s in sweeps) >= 240


@pytest.mark.parametrize("mode", [STRONGEST, DUAL])
@pytest.mark.parametrize("product", sorted(MODELS))
def test_loss_is_read_from_the_clock(velodyne_packets, product: int, mode: int) -> None:
    """Seven packets taken out in three places, over the top of the hour."""
    packets = velodyne_packets(product, mode, 50, start_us=3_599_990_000.0)
    del packets[40:44], packets[20], packets[5:7]
    decoder = VelodyneDecoder()
    decode(decoder, packets)
    assert decoder.line_stats.sequence_gaps == 7
    assert not decoder.drops


def test_stamps_go_on_over_the_top_of_the_hour(velodyne_packets) -> None:
    """The sensor counts microseconds of the hour; ours never jump back."""
    packets = velodyne_packets(VLP16, STRONGEST, 240, start_us=3_599_900_000.0)
    stamps = [s.device_stamp_ns for s in decode(VelodyneDecoder(), packets)]
    steps = np.diff(stamps[:-1])
    np.testing.assert_allclose(steps, 1e8, rtol=0.02)


def test_a_packet_from_the_past_is_refused(velodyne_packets) -> None:
    """Repeats and swaps are dropped; the sweep is what it is without them."""
    packets = velodyne_packets(VLP16, STRONGEST, 100)
    again = packets[:50] + packets[48:50] + packets[50:]
    decoder = VelodyneDecoder()
    got = decode(decoder, again)
    np.testing.assert_array_equal(joined(got, "xyz"), joined(decode(VelodyneDecoder(), packets), "xyz"))
    assert decoder.drops == {"out_of_sequence": 2}


def test_one_packet_from_the_far_future_does_no_harm(velodyne_packets) -> None:
    """The sensor's own packets are not late because of it."""
    packets = velodyne_packets(VLP16, STRONGEST, 100)
    forged = packets[50][:1200] + (1_800_000_000).to_bytes(4, "little") + packets[50][1204:]
    decoder = VelodyneDecoder()
    got = decode(decoder, [q for p in packets for q in (p, forged)])
    np.testing.assert_array_equal(joined(got, "xyz"), joined(decode(VelodyneDecoder(), packets), "xyz"))
    assert decoder.drops == {"out_of_sequence": 100}


def test_a_clock_that_was_set_is_followed_after_a_while(velodyne_packets) -> None:
    """Synchronising to a receiver moves the sensor's clock."""
    packets = velodyne_packets(VLP16, STRONGEST, 60) + velodyne_packets(VLP16, STRONGEST, 60, start_us=9e8)
    decoder = VelodyneDecoder()
    sweeps = decode(decoder, packets)
    assert decoder.drops == {"out_of_sequence": 31}
    assert decoder.line_stats.frames == 89
    assert min(s.time_offset_ns.min() for s in sweeps) > -110_000_000  # no sweep spans the jump


def test_returns_can_be_chosen(velodyne_packets) -> None:
    """One point per firing for strongest and last, the louder and the one of the even block; both keeps all."""
    packets = velodyne_packets(VLP16, DUAL, 20)
    both, strongest, last = (decode(VelodyneDecoder(returns=r), packets) for r in ("both", "strongest", "last"))
    cells = np.frombuffer(b"".join(p[:1200] for p in packets), np.uint8).reshape(-1, 2, 100)[:, :, 4:]
    cells = cells.reshape(-1, 2, 32, 3).astype(np.int64)
    distance, loud = cells[..., 0] + 256 * cells[..., 1], cells[..., 2]
    fired = (distance > 0).any(axis=1)
    same = (distance[:, 0] == distance[:, 1]) & (loud[:, 0] == loud[:, 1])
    assert len(joined(strongest, "xyz")) == len(joined(last, "xyz")) == fired.sum()
    assert len(joined(both, "xyz")) == (distance > 0).sum() - (same & fired).sum()
    louder = np.where(distance > 0, loud, -1).max(axis=1)[fired]
    assert sorted(np.round(joined(strongest, "intensity") * 255)) == sorted(louder)
    assert set(joined(last, "kind")) <= {1, 2, 3}
    with pytest.raises(ConfigError) as refused:
        VelodyneDecoder(returns="first")
    assert refused.value.code == "EG-C133"


def test_another_model_on_the_port_is_refused(velodyne_packets) -> None:
    """Packets carry no serial number, but they do carry the model."""
    decoder = VelodyneDecoder()
    decode(decoder, velodyne_packets(VLP16, STRONGEST, 3) + velodyne_packets(VLP32C, STRONGEST, 2))
    assert decoder.drops == {"other_sensor": 2}


def test_malformed_packets_are_counted_by_reason(velodyne_packets) -> None:
    """A wrong flag, an azimuth past the circle, a stamp past the hour, an unknown product, a wrong size."""
    good = velodyne_packets(VLP16, STRONGEST, 1)[0]
    bad_flag, bad_azimuth, bad_stamp, product = bytearray(good), bytearray(good), bytearray(good), bytearray(good)
    bad_flag[300] = 0
    bad_azimuth[102:104] = (36000).to_bytes(2, "little")
    bad_stamp[1200:1204] = b"\xff" * 4
    product[1205] = 0xA1
    decoder = VelodyneDecoder()
    for data in (bad_flag, bad_azimuth, bad_stamp, product, good[:-1], b""):
        assert decoder.feed(bytes(data)) == []
    assert decoder.drops == {"malformed": 3, "unknown_model": 1, "wrong_size": 2}
    assert decoder.line_stats.frames == 0


def test_a_head_that_does_not_turn_does_not_fill_the_memory(velodyne_packets) -> None:
    """The sweep is given at the limit, marked partial."""
    packets = velodyne_packets(VLP16, STRONGEST, MAX_SWEEP_PACKETS + 5, rpm=0.0, azimuth=100.0)
    decoder = VelodyneDecoder()
    got = [r for p in packets for r in decoder.feed(p)]
    assert [(s.packets, s.partial) for s in got] == [(MAX_SWEEP_PACKETS, True)]


def position(sentence: bytes, stamp_us: int = 5, pps: int = 2) -> bytes:
    return (b"\0" * 0xC6 + struct.pack("<IB3x", stamp_us, pps) + sentence).ljust(512, b"\0")


def test_position_packets_give_the_receivers_fixes() -> None:
    """The sensor repeats a sentence many times a second; each is one fix, and it belongs to the same second."""
    decoder = VelodyneDecoder()
    fixes = []
    for second in range(4):
        body = f"GPRMC,12351{second}.00,A,4807.0380,N,01131.0000,E,022.4,084.4,230394,003.1,W"
        check = 0
        for character in body.encode():
            check ^= character
        sentence = f"${body}*{check:02X}\r\n".encode()
        fixes += [r for _ in range(14) for r in decoder.feed(position(sentence))]
    fixes += decoder.flush()
    assert 2 <= len(fixes) <= 4
    assert all(isinstance(f, GnssRecord) for f in fixes)
    assert fixes[0].latitude_deg == pytest.approx(48.1173)
    assert decoder.pps_status == 2
    assert decoder.line_stats.frames == 56


def test_a_sweep_becomes_a_cloud(velodyne_packets) -> None:
    """Offsets count back from the last firing."""
    sweep = decode(VelodyneDecoder(), velodyne_packets(VLP16, STRONGEST, 100))[1]
    cloud = sweep.sample(9, "lidar")
    assert isinstance(cloud, PointCloud)
    assert cloud.ring is not None
    assert set(cloud.ring.tolist()) == set(range(16))
    assert cloud.time_offset_ns is not None
    assert -(10**8) < cloud.time_offset_ns.min() < cloud.time_offset_ns.max() <= 0
