"""Mutated lidar packets and capture files. Run: python tests/fuzz/fuzz_lidar_udp.py 1 1000000."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgeguard.errors import EdgeGuardError
from edgeguard.protocols.ouster import OusterDecoder
from edgeguard.protocols.ouster_metadata import LAYOUTS, OusterMetadata, parse_metadata
from edgeguard.protocols.ouster_sweep import OusterSweep
from edgeguard.protocols.pcap import CaptureReader
from edgeguard.protocols.udp import UdpReader
from edgeguard.protocols.velodyne import VelodyneDecoder, VelodyneSweep

PIXELS, COLUMNS, PER_PACKET = 8, 16, 4  # small sweeps: many of them close during a run
RENEW_EVERY = 2000  # decoders keep state; a fresh one now and then meets first packets, too


@dataclass(frozen=True)
class Corpus:
    """Valid inputs to mutate, and what decodes them."""

    metadata: dict[str, OusterMetadata]
    ouster: dict[str, list[bytes]]
    velodyne: list[bytes]
    captures: list[bytes]
    documents: list[bytes]


def fuzz(seed: int, cases: int) -> int:
    """Feed `cases` mutated inputs to the decoders; return how many packets and datagrams were accepted.

    Raises whatever a decoder raises beyond EdgeGuardError: that is a finding. AssertionError: a total that does not
    add up, a number that is no number, memory that grows.
    """
    rng = np.random.default_rng(seed)
    corpus = make_corpus(rng)
    accepted = 0
    done = 0
    while done < cases:
        profile = list(corpus.ouster)[int(rng.integers(len(corpus.ouster)))]
        ouster, velodyne = OusterDecoder(corpus.metadata[profile]), VelodyneDecoder(returns="both")
        batch = min(RENEW_EVERY, cases - done)
        done += batch
        picks = rng.integers(0, 100, batch)
        for pick in picks.tolist():
            if pick < 45:
                accepted += _ouster(ouster, mutate(rng, _choose(rng, corpus.ouster[profile])))
            elif pick < 80:
                accepted += _velodyne(velodyne, mutate(rng, _choose(rng, corpus.velodyne)))
            elif pick < 97:
                accepted += _capture(rng, mutate(rng, _choose(rng, corpus.captures)), (ouster.feed, velodyne.feed))
            else:
                _document(mutate(rng, _choose(rng, corpus.documents)))
        ouster.flush()
        velodyne.flush()
        for stats in (ouster.line_stats, velodyne.line_stats):
            assert 0 <= stats.bytes_skipped <= stats.bytes_received
            assert min(stats.frames, stats.checksum_failures, stats.sequence_gaps) >= 0
    return accepted


def mutate(rng: np.random.Generator, data: bytes) -> bytes:
    """Change a few bytes or bits, cut, repeat, insert, or leave alone (a stream needs good packets to get deep)."""
    kind = int(rng.integers(8))
    if kind >= 6 or not data:
        return data
    out = bytearray(data)
    at = int(rng.integers(len(out)))
    if kind == 0:
        out[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        end = min(len(out), at + int(rng.integers(1, 9)))
        out[at:end] = rng.bytes(end - at)
    elif kind == 2:
        out[at : at + 4] = _choose(rng, _EDGES)
        del out[len(data) :]
    elif kind == 3:
        del out[at:]
    elif kind == 4:
        out[at:at] = rng.bytes(int(rng.integers(1, 40)))
    else:
        # Early bytes hold the headers.
        out[min(at % 48, len(out) - 1)] = int(rng.integers(256))
    return bytes(out)


_EDGES = [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\x10\0\0\0", b"\0\0\xc0\x7f"]


def _choose(rng: np.random.Generator, items: list[bytes]) -> bytes:
    return items[int(rng.integers(len(items)))]


def _ouster(decoder: OusterDecoder, data: bytes) -> int:
    before = decoder.accepted
    for record in decoder.feed(data):
        if isinstance(record, OusterSweep):
            for which in range(record.geometry.layout.returns):
                xyz, intensity, ring, offset_ns = record.points(which)
                assert np.isfinite(xyz).all()
                assert len(xyz) == len(intensity) == len(ring) == len(offset_ns) <= PIXELS * COLUMNS
            json.dumps(record.summary(), allow_nan=False)
        else:
            assert np.isfinite(record.accel_m_s2 + record.gyro_rad_s).all()
    return decoder.accepted - before


def _velodyne(decoder: VelodyneDecoder, data: bytes) -> int:
    before = decoder.accepted
    for record in decoder.feed(data):
        if isinstance(record, VelodyneSweep):
            assert np.isfinite(record.xyz).all()
            json.dumps(record.summary(), allow_nan=False)
    return decoder.accepted - before


def _capture(rng: np.random.Generator, data: bytes, sinks: tuple[Callable[[bytes], object], ...]) -> int:
    reader, udp = CaptureReader(), UdpReader()
    cut = int(rng.integers(len(data) + 1))
    got = 0
    for piece in (data[:cut], data[cut:]):
        for packet in reader.feed(piece):
            datagram = udp.feed(packet)
            if datagram is not None:
                got += 1
                sinks[got % len(sinks)](datagram.payload)
        assert reader.torn_bytes <= len(data) + 1
    return got


def _document(data: bytes) -> None:
    try:
        parse_metadata(data)
    except EdgeGuardError:
        return


def make_corpus(rng: np.random.Generator) -> Corpus:
    """Build valid packets of every profile, VLP-16 turns, position packets, captures and metadata."""
    metadata, ouster, documents = {}, {}, []
    for profile in LAYOUTS:
        document = _metadata(profile)
        documents.append(document)
        metadata[profile] = parse_metadata(document)
        packets = [_ouster_packet(rng, metadata[profile], n) for n in range(24)]
        ouster[profile] = [*packets, struct.pack("<3Q6f", 1, 2, 3, *rng.normal(size=6))]
    velodyne = [_velodyne_packet(rng, n) for n in range(120)]
    position = b"\0" * 198 + struct.pack("<IB3x", 9, 2) + b"$GPRMC,123519,A,4807.038,N,01131.000,E,1,2,230394,,*2B\r\n"
    velodyne.append(position.ljust(512, b"\0"))
    payloads = [ouster["RNG15_RFL8_NIR8"][0], velodyne[0], velodyne[-1]]
    return Corpus(metadata, ouster, velodyne, [_pcap(payloads), _pcapng(payloads)], documents)


def _metadata(profile: str) -> bytes:
    T = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 36.18, 0, 0, 0, 1]
    return json.dumps(
        {
            "sensor_info": {"prod_line": "OS-1-8", "prod_sn": "122201000998", "initialization_id": 77},
            "beam_intrinsics": {
                "beam_altitude_angles": [20.0 - 5 * k for k in range(PIXELS)],
                "beam_azimuth_angles": [1.0] * PIXELS,
                "lidar_origin_to_beam_origin_mm": 15.8,
            },
            "imu_intrinsics": {"imu_to_sensor_transform": T},
            "lidar_intrinsics": {"lidar_to_sensor_transform": T},
            "lidar_data_format": {
                "pixels_per_column": PIXELS,
                "columns_per_packet": PER_PACKET,
                "columns_per_frame": COLUMNS,
                "column_window": [0, COLUMNS - 1],
                "pixel_shift_by_row": [0] * PIXELS,
                "udp_profile_lidar": profile,
            },
            "config_params": {"lidar_mode": "1024x10"},
        }
    ).encode()


def _ouster_packet(rng: np.random.Generator, metadata: OusterMetadata, number: int) -> bytes:
    layout = metadata.layout
    frame_id, first = divmod(number * PER_PACKET, COLUMNS)
    body = b""
    for column in range(first, first + PER_PACKET):
        pixels = rng.bytes(PIXELS * layout.pixel_bytes)
        stamp = struct.pack("<QHH", 10**12 + number * 10**6 + column, column, frame_id if layout.legacy else 1)
        body += stamp + (b"\0" * 4 + pixels + b"\xff" * 4 if layout.legacy else pixels)
    if layout.legacy:
        return body
    serial = (122201000998).to_bytes(5, "little")
    if layout.fusa:
        head = b"\x01" + (77).to_bytes(3, "little") + struct.pack("<IB2x", frame_id, 0) + serial
    else:
        head = struct.pack("<HH", 1, frame_id) + (77).to_bytes(3, "little") + serial
    return head.ljust(32, b"\0") + body + b"\0" * 32


def _velodyne_packet(rng: np.random.Generator, number: int) -> bytes:
    blocks = b"".join(
        struct.pack("<HH", 0xEEFF, (300 * (12 * number + block)) % 36000) + rng.bytes(96) for block in range(12)
    )
    return blocks + struct.pack("<IBB", 1327 * number, (0x37, 0x38, 0x39)[number // 40], 0x22)


def _frames(payloads: list[bytes]) -> list[bytes]:
    """Ethernet frames, every datagram in two fragments, the last one over IPv6."""
    frames = []
    for ident, payload in enumerate(payloads):
        whole = struct.pack(">4H", 7502, 7502, 8 + len(payload), 0) + payload
        half = len(whole) // 16 * 8
        for offset, part, more in ((0, whole[:half], 1), (half, whole[half:], 0)):
            if ident == len(payloads) - 1:
                extension = struct.pack(">BBHI", 17, 0, offset | more, ident)
                ip = struct.pack(">IHBB", 6 << 28, 8 + len(part), 44, 64) + b"\x01" * 32 + extension + part
                frames.append(b"\0" * 12 + b"\x86\xdd" + ip)
            else:
                ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(part), ident, offset // 8 | more << 13, 64, 17, 0)
                frames.append(b"\0" * 12 + b"\x08\x00" + ip + b"\x0a\0\0\x01\x0a\0\0\x02" + part)
    return frames


def _pcap(payloads: list[bytes]) -> bytes:
    out = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    return out + b"".join(struct.pack("<4I", 1, n, len(f), len(f)) + f for n, f in enumerate(_frames(payloads)))


def _pcapng(payloads: list[bytes]) -> bytes:
    def block(kind: int, body: bytes) -> bytes:
        body += b"\0" * (-len(body) % 4)
        return struct.pack("<II", kind, 12 + len(body)) + body + struct.pack("<I", 12 + len(body))

    out = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)) + block(1, struct.pack("<HHI", 1, 0, 0))
    for number, frame in enumerate(_frames(payloads)):
        out += block(6, struct.pack("<5I", 0, 0, number, len(frame), len(frame)) + frame)
    return out


if __name__ == "__main__":
    accepted_packets = fuzz(int(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.write(f"{sys.argv[2]} cases, {accepted_packets} accepted, nothing raised\n")
