"""LD06 decoding with CRC against a plain Python loop over the same bytes; records compared before times."""

from __future__ import annotations

import numpy as np

from benchmarks.timing import best_s
from edgeguard.kernels._reference_serial_lidar import crc8
from edgeguard.protocols.ld06 import Ld06Framer, Ld06Packet, encode_packet

PACKETS = 20_000
PEER_PACKETS = 1_000
PIECE_BYTES = 65_536  # as a capture is read
LINE_BYTES_PER_S = 23_040  # 230400 baud, ten bits a byte


def main() -> None:
    packets = _stream()
    raw = b"".join(packets)
    short = b"".join(packets[:PEER_PACKETS])
    table = [crc8(bytes((value,))) for value in range(256)]
    ours, peers = Ld06Framer().packets(short), _python_loop(short, table)
    assert [p[1] for p in peers] == ours.start_cdeg.tolist()
    assert [p[2] for p in peers] == ours.distance_mm.tolist()
    ours_mb_s = len(raw) / best_s(lambda: _in_pieces(raw)) / 1e6
    peer_mb_s = len(short) / best_s(lambda: _python_loop(short, table)) / 1e6
    print(f"LD06 with CRC: {ours_mb_s:.0f} MB/s, {ours_mb_s * 1e6 / LINE_BYTES_PER_S:.0f} times the line rate")
    print(f"pure Python loop: {peer_mb_s:.2f} MB/s, ratio {ours_mb_s / peer_mb_s:.0f} x")


def _in_pieces(raw: bytes) -> None:
    framer = Ld06Framer()
    for start in range(0, len(raw), PIECE_BYTES):
        framer.packets(raw[start : start + PIECE_BYTES])


def _python_loop(data: bytes, table: list[int]) -> list[tuple[int, int, list[int], list[int]]]:
    found = []
    at = 0
    while at + 47 <= len(data):
        if data[at] == 0x54 and data[at + 1] == 0x2C:
            crc = 0
            for byte in data[at : at + 46]:
                crc = table[crc ^ byte]
            if crc == data[at + 46]:
                word = [data[k] | data[k + 1] << 8 for k in (at + 2, at + 4)]
                ranges = [data[k] | data[k + 1] << 8 for k in range(at + 6, at + 42, 3)]
                found.append((word[0], word[1], ranges, [data[k] for k in range(at + 8, at + 42, 3)]))
                at += 47
                continue
        at += 1
    return found


def _stream() -> list[bytes]:
    rng = np.random.default_rng(0)
    return [
        encode_packet(
            Ld06Packet(
                3600,
                k * 9.6 % 360,
                (k * 9.6 + 8.8) % 360,
                int(k * 12 / 4.5) % 30_000,
                tuple(rng.uniform(0.1, 12.0, 12).tolist()),
                tuple(rng.integers(0, 256, 12).tolist()),
            )
        )
        for k in range(PACKETS)
    ]
