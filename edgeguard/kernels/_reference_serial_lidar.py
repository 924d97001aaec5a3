"""Plain twins of the serial lidar kernels: oracles for the tests, written from the manuals' layouts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels.serial_lidar import CAPSULE_BYTES, LD06_BYTES, LD06_POINTS, NODE_BYTES

Bytes = NDArray[np.uint8]


def crc8(data: bytes, polynomial: int = 0x4D) -> int:
    """CRC-8, most significant bit first, no reflection, starts at zero, bit by bit."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ polynomial if crc & 0x80 else crc << 1) & 0xFF
    return crc


def _find(data: bytes, size: int, quiet: int, looks_like: object, correct: object) -> tuple[list[int], int, int, int]:
    starts: list[int] = []
    failures = skipped = at = 0
    while at + size <= len(data):
        frame = data[at : at + size]
        likely = looks_like(frame)  # type: ignore[operator]
        if likely and correct(frame):  # type: ignore[operator]
            starts.append(at)
            at += size
            quiet = at
            continue
        if likely and at >= quiet:
            failures += 1
            quiet = at + size
        at += 1
        skipped += 1
    return starts, failures, skipped, at


def find_ld06(data: bytes, quiet: int) -> tuple[list[int], int, int, int]:
    """Twin of `serial_lidar.find_ld06`: starts, failures, skipped, consumed."""
    return _find(data, LD06_BYTES, quiet, lambda f: f[:2] == b"\x54\x2c", lambda f: crc8(f[:-1]) == f[-1])


def find_capsules(data: bytes, quiet: int) -> tuple[list[int], int, int, int]:
    """Twin of `serial_lidar.find_capsules`."""

    def correct(frame: bytes) -> bool:
        total = 0
        for byte in frame[2:]:
            total ^= byte
        return total == frame[0] % 16 + 16 * (frame[1] % 16)

    return _find(data, CAPSULE_BYTES, quiet, lambda f: f[0] // 16 == 0xA and f[1] // 16 == 0x5, correct)


def find_nodes(data: bytes) -> tuple[list[int], int, int]:
    """Twin of `serial_lidar.find_nodes`."""

    def fits(at: int) -> bool:
        return (data[at] & 1) != (data[at] >> 1 & 1) and data[at + 1] & 1 == 1

    starts: list[int] = []
    skipped = at = 0
    while at + 2 * NODE_BYTES <= len(data):
        if fits(at) and fits(at + NODE_BYTES):
            starts.append(at)
            at += NODE_BYTES
        else:
            at += 1
            skipped += 1
    return starts, skipped, at


def decode_ld06(data: Bytes, starts: NDArray[np.int64]) -> tuple[NDArray[np.uint16], Bytes, NDArray[np.uint16]]:
    """Twin of `serial_lidar.decode_ld06` by structured arrays."""
    point = np.dtype([("distance", "<u2"), ("intensity", "u1")])
    front, points, back = ("mark", "speed", "start"), ("points", point, (LD06_POINTS,)), ("end", "time")
    layout = np.dtype([*((n, "<u2") for n in front), points, *((n, "<u2") for n in back), ("crc", "u1")])
    packets = np.frombuffer(b"".join(data[s : s + LD06_BYTES].tobytes() for s in starts), dtype=layout)
    head = np.stack([packets[name] for name in ("speed", "start", "end", "time")], axis=1).astype(np.uint16)
    return packets["points"]["distance"].astype(np.uint16), packets["points"]["intensity"].copy(), head.reshape(-1, 4)


def count_missing_ld06(head: NDArray[np.uint16], last: tuple[int, int] | None) -> int:
    """Twin of `serial_lidar.count_missing_ld06`, in whole arrays; `last`: end angle and timestamp before, or None."""
    speed, start, end, time = head.astype(np.float64).T
    step = np.maximum(((end - start) % 36_000) / 11, 1.0)
    if last is not None:
        end, time = np.concatenate(([last[0]], end)), np.concatenate(([last[1]], time))
    else:
        speed, start, step = speed[1:], start[1:], step[1:]
    turned = (start - end[:-1]) % 36_000 - step
    turned = np.where(turned > 36_000 - 2 * step, 0.0, turned)
    turns = np.maximum(np.floor((np.diff(time) % 30_000 * speed / 10.0 - turned) / 36_000 + 0.5), 0.0)
    return int(np.floor((turned + turns * 36_000) / (step * 12) + 0.5).sum())
