"""Bytes of serial 2-D lidars into arrays: LDROBOT LD06/LD19 packets, SLAMTEC RPLIDAR nodes and capsules.

Layouts: LDROBOT "LD06 development manual v1.0"; SLAMTEC "RPLIDAR interface protocol and application notes" (rev. 2.x).
Each `find` kernel looks once at every byte; each `decode` kernel turns what was found into numbers.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

LD06_BYTES = 47
LD06_POINTS = 12
LD06_HEADER, LD06_VERLEN = 0x54, 0x2C
LD06_CRC_POLYNOMIAL = 0x4D

NODE_BYTES = 5
CAPSULE_BYTES = 84
CAPSULE_CABINS = 16
DENSE_POINTS = 40


def _crc8_table(polynomial: int) -> NDArray[np.uint8]:
    table = np.zeros(256, dtype=np.uint8)
    for value in range(256):
        crc = value
        for _ in range(8):
            crc = ((crc << 1) ^ polynomial if crc & 0x80 else crc << 1) & 0xFF
        table[value] = crc
    return table


LD06_CRC_TABLE = _crc8_table(LD06_CRC_POLYNOMIAL)


@njit("Tuple((i8, i8, i8, i8, i8))(u1[::1], u1[::1], i8, i8[::1])", cache=True, nogil=True)
def find_ld06(
    data: NDArray[np.uint8], table: NDArray[np.uint8], quiet: int, starts: NDArray[np.int64]
) -> tuple[int, int, int, int, int]:
    """Find packets with a correct CRC-8.

    Args:
        data: (N,) bytes. table: CRC-8 table. quiet: bytes at the start in which a failing header is part of a packet
            that was already counted as failed. starts: (N // 47 + 1,) output, offset of each packet.

    Returns:
        packets, checksum failures, bytes skipped, bytes consumed (at most 46 are left), quiet bytes after those.
    """
    n = data.shape[0]
    count = 0
    failures = 0
    skipped = 0
    i = 0
    while i + LD06_BYTES <= n:
        if data[i] == LD06_HEADER and data[i + 1] == LD06_VERLEN:
            crc = np.uint8(0)
            for k in range(i, i + LD06_BYTES - 1):
                crc = table[crc ^ data[k]]
            if crc == data[i + LD06_BYTES - 1]:
                starts[count] = i
                count += 1
                i += LD06_BYTES
                quiet = i
                continue
            if i >= quiet:
                failures += 1
                quiet = i + LD06_BYTES
        i += 1
        skipped += 1
    return count, failures, skipped, i, max(quiet - i, 0)


@njit("Tuple((u2[:,::1], u1[:,::1], u2[:,::1]))(u1[::1], i8[::1])", cache=True, nogil=True)
def decode_ld06(
    data: NDArray[np.uint8], starts: NDArray[np.int64]
) -> tuple[NDArray[np.uint16], NDArray[np.uint8], NDArray[np.uint16]]:
    """Read the packets at `starts`.

    Returns:
        distance_mm (P, 12) uint16, intensity (P, 12) uint8, and head (P, 4) uint16: speed in deg/s, start and end
        angle in 0.01 deg, timestamp in ms (wraps at 30000).
    """
    packets = starts.shape[0]
    distance = np.empty((packets, LD06_POINTS), dtype=np.uint16)
    intensity = np.empty((packets, LD06_POINTS), dtype=np.uint8)
    head = np.empty((packets, 4), dtype=np.uint16)
    for p in range(packets):
        at = starts[p]
        head[p, 0] = np.uint16(data[at + 2]) | (np.uint16(data[at + 3]) << 8)
        head[p, 1] = np.uint16(data[at + 4]) | (np.uint16(data[at + 5]) << 8)
        head[p, 2] = np.uint16(data[at + 42]) | (np.uint16(data[at + 43]) << 8)
        head[p, 3] = np.uint16(data[at + 44]) | (np.uint16(data[at + 45]) << 8)
        for k in range(LD06_POINTS):
            o = at + 6 + 3 * k
            distance[p, k] = np.uint16(data[o]) | (np.uint16(data[o + 1]) << 8)
            intensity[p, k] = data[o + 2]
    return distance, intensity, head


@njit("Tuple((i8, i8, i8))(u1[::1], i8[::1])", cache=True, nogil=True)
def find_nodes(data: NDArray[np.uint8], starts: NDArray[np.int64]) -> tuple[int, int, int]:
    """Find 5-byte nodes of the RPLIDAR standard scan: start bit and its inverse, check bit set.

    A node has no checksum; three fixed bits tell one from noise, so a loss of step is noticed within a few nodes and
    every node before the place is kept only if the one after it fits as well.

    Returns:
        nodes, bytes skipped, bytes consumed (at most 9 are left: a node waits for its successor).
    """
    n = data.shape[0]
    count = 0
    skipped = 0
    i = 0
    while i + 2 * NODE_BYTES <= n:
        here = (data[i] ^ (data[i] >> 1)) & 1 == 1 and data[i + 1] & 1 == 1
        j = i + NODE_BYTES
        after = (data[j] ^ (data[j] >> 1)) & 1 == 1 and data[j + 1] & 1 == 1
        if here and after:
            starts[count] = i
            count += 1
            i = j
        else:
            i += 1
            skipped += 1
    return count, skipped, i


@njit("Tuple((i4[::1], i4[::1], u1[::1], b1[::1]))(u1[::1], i8[::1])", cache=True, nogil=True)
def decode_nodes(
    data: NDArray[np.uint8], starts: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.uint8], NDArray[np.bool_]]:
    """Return angle in 1/64 deg, distance in 1/4 mm (0: no return), quality 0..63, and the start flag, per node."""
    nodes = starts.shape[0]
    angle = np.empty(nodes, dtype=np.int32)
    distance = np.empty(nodes, dtype=np.int32)
    quality = np.empty(nodes, dtype=np.uint8)
    first = np.empty(nodes, dtype=np.bool_)
    for k in range(nodes):
        at = starts[k]
        quality[k] = data[at] >> 2
        first[k] = data[at] & 1 == 1
        angle[k] = (np.int32(data[at + 1]) >> 1) | (np.int32(data[at + 2]) << 7)
        distance[k] = np.int32(data[at + 3]) | (np.int32(data[at + 4]) << 8)
    return angle, distance, quality, first


@njit("Tuple((i8, i8, i8, i8, i8))(u1[::1], i8, i8[::1])", cache=True, nogil=True)
def find_capsules(data: NDArray[np.uint8], quiet: int, starts: NDArray[np.int64]) -> tuple[int, int, int, int, int]:
    """Find 84-byte capsules of the RPLIDAR express scan (legacy and dense) with a correct XOR checksum.

    Arguments and results as of `find_ld06`, at most 83 bytes are left.
    """
    n = data.shape[0]
    count = 0
    failures = 0
    skipped = 0
    i = 0
    while i + CAPSULE_BYTES <= n:
        if data[i] >> 4 == 0xA and data[i + 1] >> 4 == 0x5:
            total = np.uint8(0)
            for k in range(i + 2, i + CAPSULE_BYTES):
                total ^= data[k]
            if total == (data[i] & 0xF) | ((data[i + 1] & 0xF) << 4):
                starts[count] = i
                count += 1
                i += CAPSULE_BYTES
                quiet = i
                continue
            if i >= quiet:
                failures += 1
                quiet = i + CAPSULE_BYTES
        i += 1
        skipped += 1
    return count, failures, skipped, i, max(quiet - i, 0)


@njit("Tuple((i4[:,::1], i4[:,::1], i4[::1], b1[::1]))(u1[::1], i8[::1])", cache=True, nogil=True)
def decode_capsules(
    data: NDArray[np.uint8], starts: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
    """Read legacy express capsules.

    The manual calls the top bit of the compensation a sign; the vendor's own driver reads all six bits as a positive
    number, and only so do far points, whose compensation approaches 8 deg, land where they are.

    Returns:
        distance in mm (C, 32), angle compensation in 1/8 deg (C, 32), start angle in 1/64 deg (C,), and whether the
        scan was started anew with this capsule (C,).
    """
    capsules = starts.shape[0]
    distance = np.empty((capsules, 2 * CAPSULE_CABINS), dtype=np.int32)
    compensation = np.empty((capsules, 2 * CAPSULE_CABINS), dtype=np.int32)
    start = np.empty(capsules, dtype=np.int32)
    anew = np.empty(capsules, dtype=np.bool_)
    for c in range(capsules):
        at = starts[c]
        start[c] = np.int32(data[at + 2]) | (np.int32(data[at + 3] & 0x7F) << 8)
        anew[c] = data[at + 3] >> 7 == 1
        for k in range(CAPSULE_CABINS):
            o = at + 4 + 5 * k
            for half in range(2):
                low = np.int32(data[o + 2 * half])
                high = np.int32(data[o + 2 * half + 1])
                fine = np.int32((data[o + 4] >> (4 * half)) & 0xF) | ((low & 3) << 4)
                distance[c, 2 * k + half] = (low >> 2) | (high << 6)
                compensation[c, 2 * k + half] = fine
    return distance, compensation, start, anew


@njit("Tuple((i4[:,::1], i4[::1], b1[::1]))(u1[::1], i8[::1])", cache=True, nogil=True)
def decode_dense(
    data: NDArray[np.uint8], starts: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
    """Read dense express capsules: distance in mm (C, 40), start angle in 1/64 deg (C,), started anew (C,)."""
    capsules = starts.shape[0]
    distance = np.empty((capsules, DENSE_POINTS), dtype=np.int32)
    start = np.empty(capsules, dtype=np.int32)
    anew = np.empty(capsules, dtype=np.bool_)
    for c in range(capsules):
        at = starts[c]
        start[c] = np.int32(data[at + 2]) | (np.int32(data[at + 3] & 0x7F) << 8)
        anew[c] = data[at + 3] >> 7 == 1
        for k in range(DENSE_POINTS):
            o = at + 4 + 2 * k
            distance[c, k] = np.int32(data[o]) | (np.int32(data[o + 1]) << 8)
    return distance, start, anew
