"""Bytes of serial 2-D lidars into arrays: LDROBOT LD06/LD19 packets, SLAMTEC RPLIDAR nodes and capsules.

Layouts: LDROBOT "LD06 development manual v1.0"; SLAMTEC "RPLIDAR interface protocol and application notes" (rev. 2.x).
Each `find` kernel looks once at every byte; each `decode` kernel turns what was found into numbers.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

# What arrives is immutable bytes; a signature for read-only arrays takes them, and arrays, without a copy.
DATA = types.Array(types.uint8, 1, "C", readonly=True)
STARTS = types.int64[::1]
COUNTS3, COUNTS5 = types.UniTuple(types.int64, 3), types.UniTuple(types.int64, 5)

LD06_BYTES = 47
LD06_POINTS = 12
LD06_HEADER, LD06_VERLEN = 0x54, 0x2C
LD06_CRC_POLYNOMIAL = 0x4D
LD06_CIRCLE_CDEG = 36_000
LD06_WRAP_MS = 30_000

NODE_BYTES = 5
CAPSULE_BYTES = 84
CAPSULE_CABINS = 16
DENSE_POINTS = 40


def _crc8_contributions(polynomial: int, length: int) -> NDArray[np.uint8]:
    """What each byte value at each place adds to the CRC-8 of `length` bytes: (length, 256) uint8.

    A CRC that starts at zero is linear over XOR, so the contributions of all places can be looked up independently of
    each other; the usual loop waits for every byte's result before it can look up the next.
    """
    step = np.zeros(256, dtype=np.uint8)
    for value in range(256):
        crc = value
        for _ in range(8):
            crc = ((crc << 1) ^ polynomial if crc & 0x80 else crc << 1) & 0xFF
        step[value] = crc
    places = [step]
    while len(places) < length:
        places.append(step[places[-1]])
    return np.stack(places[::-1])


LD06_CRC_TABLES = _crc8_contributions(LD06_CRC_POLYNOMIAL, LD06_BYTES - 1)


@njit(COUNTS5(DATA, types.uint8[:, ::1], types.int64, STARTS), cache=True, nogil=True)
def find_ld06(
    data: NDArray[np.uint8], tables: NDArray[np.uint8], quiet: int, starts: NDArray[np.int64]
) -> tuple[int, int, int, int, int]:
    """Find packets with a correct CRC-8.

    Args:
        data: (N,) bytes. tables: `LD06_CRC_TABLES`. quiet: bytes at the start in which a failing header is part of a
            packet that was already counted as failed. starts: (N // 47 + 1,) output, offset of each packet.

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
            for k in range(LD06_BYTES - 1):
                crc ^= tables[k, data[i + k]]
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


@njit(
    types.Tuple((types.uint16[:, ::1], types.uint8[:, ::1], types.uint16[:, ::1]))(DATA, STARTS), cache=True, nogil=True
)
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


@njit(types.int64(types.uint16[:, ::1], types.int64[::1]), cache=True, nogil=True)
def count_missing_ld06(head: NDArray[np.uint16], last: NDArray[np.int64]) -> int:
    """Count packets that are missing between those at hand.

    The angle says how many within a revolution, time and speed say how many revolutions.

    Args:
        head: as from `decode_ld06`. last: (3,) end angle, timestamp and a flag (0: none yet) of the packet before;
            updated in place.
    """
    missing = 0
    for p in range(head.shape[0]):
        speed, start, end, time = float(head[p, 0]), float(head[p, 1]), float(head[p, 2]), head[p, 3]
        step = max(((end - start) % LD06_CIRCLE_CDEG) / (LD06_POINTS - 1), 1.0)
        if last[2] != 0:
            turned = (start - last[0]) % LD06_CIRCLE_CDEG - step
            if turned > LD06_CIRCLE_CDEG - 2.0 * step:
                turned = 0.0  # a little less than a step: the sensor rounds
            passed_ms = (time - last[1]) % LD06_WRAP_MS
            turns = max(np.floor((passed_ms * speed / 10.0 - turned) / LD06_CIRCLE_CDEG + 0.5), 0.0)
            missing += int(np.floor((turned + turns * LD06_CIRCLE_CDEG) / (step * LD06_POINTS) + 0.5))
        last[0], last[1], last[2] = head[p, 2], time, 1
    return missing


@njit(COUNTS3(DATA, STARTS), cache=True, nogil=True)
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


@njit(
    types.Tuple((types.int32[::1], types.int32[::1], types.uint8[::1], types.boolean[::1]))(DATA, STARTS),
    cache=True,
    nogil=True,
)
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


@njit(COUNTS5(DATA, types.int64, STARTS), cache=True, nogil=True)
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


@njit(
    types.Tuple((types.int32[:, ::1], types.int32[:, ::1], types.int32[::1], types.boolean[::1]))(DATA, STARTS),
    cache=True,
    nogil=True,
)
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


@njit(types.Tuple((types.int32[:, ::1], types.int32[::1], types.boolean[::1]))(DATA, STARTS), cache=True, nogil=True)
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
