"""Velodyne data packets into points: azimuth of every firing, calibration, firing times.

The formula is section 9.5 ("precision azimuth calculation") and 9.2.1 of the VLP-16 manual, 63-9243 Rev E. Axes are
REP-103: the manual's y is forward, its x is right, and its azimuth grows clockwise.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

BLOCKS = 12
CHANNELS = 32
BLOCK_BYTES = 100
PACKET_BYTES = 1206
TURN = 36000  # hundredths of a degree

KEEP_STRONGEST, KEEP_LAST, KEEP_BOTH = 0, 1, 2
IS_STRONGEST, IS_LAST = 1, 2
_RADIANS = np.pi / 18000.0


@njit("f8(u1[::1], i8)", cache=True, nogil=True)
def turn_per_firing(packet: NDArray[np.uint8], step: int) -> float:
    """Mean azimuth between two azimuth readings of a packet, hundredths of a degree.

    packet: (1206,) uint8. step: blocks that share one azimuth (2 in dual return). Differences that are off the median
    by more than half (the jump over a masked field of view, a damaged reading) do not count.
    """
    count = BLOCKS // step - 1
    gaps = np.empty(count, dtype=np.float64)
    for i in range(count):
        a = 100 * step * i + 2
        b = a + 100 * step
        here = np.int64(packet[a]) + 256 * np.int64(packet[a + 1])
        then = np.int64(packet[b]) + 256 * np.int64(packet[b + 1])
        gaps[i] = (then - here) % TURN
    middle = np.sort(gaps)[count // 2]
    total = 0.0
    used = 0
    for i in range(count):
        if abs(gaps[i] - middle) <= 0.5 * middle + 1.0:
            total += gaps[i]
            used += 1
    return total / used if used > 0 else 0.0


@njit(
    "Tuple((f4[:,::1], f4[::1], i2[::1], i4[::1], u1[::1]))"
    "(u1[:,::1], i8[:,::1], i8[::1], i8, i8, b1, i8, f8, f8[:,::1], i2[::1], f8[::1], f8)",
    cache=True,
    nogil=True,
)
def sweep_points(
    packets: NDArray[np.uint8],
    spans: NDArray[np.int64],
    packet_ns: NDArray[np.int64],
    reference_ns: int,
    keep: int,
    dual: bool,
    firings: int,
    period_ns: float,
    lasers: NDArray[np.float64],
    rings: NDArray[np.int16],
    firing_ns: NDArray[np.float64],
    unit_m: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int16], NDArray[np.int32], NDArray[np.uint8]]:
    """Points of a sweep in the order of the packets.

    Args:
        packets: (N, 1206) uint8. spans: (N, 2) int64, first block of the sweep and the one after its last.
        packet_ns: (N,) int64, device time of each packet's first firing. reference_ns: what offsets count from.
        keep: KEEP_STRONGEST, KEEP_LAST or KEEP_BOTH; says which of two returns stays in dual mode. Two equal returns
            are one. dual: blocks come in pairs of one azimuth, last return first.
        firings: firing sequences per block, 2 with 16 lasers, 1 with 32. period_ns: time of one firing sequence.
        lasers: (L, 4) float64: cos and sin of the elevation, azimuth offset in radians, vertical offset in metres.
        rings: (L,) int16, beam number counted upward. firing_ns: (32,) float64, time of each channel from the block's
            begin. unit_m: metres per count of distance.

    Returns xyz (M, 3) float32 metres, intensity (M,) float32 0..1, ring (M,) int16, time offset (M,) int32
    nanoseconds, and which return (M,) uint8: IS_STRONGEST, IS_LAST or both bits.
    """
    limit = packets.shape[0] * BLOCKS * CHANNELS
    xyz = np.empty((limit, 3), dtype=np.float32)
    intensity = np.empty(limit, dtype=np.float32)
    ring = np.empty(limit, dtype=np.int16)
    offset_ns = np.empty(limit, dtype=np.int32)
    kind = np.empty(limit, dtype=np.uint8)
    step = 2 if dual else 1
    count = lasers.shape[0]
    n = 0
    for p in range(packets.shape[0]):
        packet = packets[p]
        per_ns = turn_per_firing(packet, step) / (period_ns * firings)
        last_mode = packet[1204] == 0x38
        for b in range(spans[p, 0], spans[p, 1]):
            at = b * BLOCK_BYTES
            azimuth = float(packet[at + 2]) + 256.0 * float(packet[at + 3])
            is_last = (b % 2 == 0) if dual else last_mode
            twin = (at + BLOCK_BYTES if b % 2 == 0 else at - BLOCK_BYTES) if dual else at
            block_ns = float(b // step) * period_ns * firings
            for c in range(CHANNELS):
                here = at + 4 + 3 * c
                counts = np.int64(packet[here]) + 256 * np.int64(packet[here + 1])
                if counts == 0:
                    continue
                returned = IS_LAST if is_last else IS_STRONGEST
                if dual:
                    there = twin + 4 + 3 * c
                    other = np.int64(packet[there]) + 256 * np.int64(packet[there + 1])
                    mine_loud = packet[here + 2]
                    twin_loud = packet[there + 2]
                    same = other == counts and mine_loud == twin_loud
                    if same:
                        if b % 2 == 1:
                            continue
                        returned = IS_STRONGEST | IS_LAST
                    elif keep == KEEP_LAST:
                        if not is_last and other != 0:
                            continue
                    elif keep == KEEP_STRONGEST:
                        louder = twin_loud > mine_loud or (twin_loud == mine_loud and b % 2 == 1)
                        if other != 0 and louder:
                            continue
                laser = c % count
                turn = (azimuth + per_ns * firing_ns[c]) * _RADIANS + lasers[laser, 2]
                r = counts * unit_m
                flat = r * lasers[laser, 0]
                xyz[n, 0] = np.float32(flat * np.cos(turn))
                xyz[n, 1] = np.float32(-flat * np.sin(turn))
                xyz[n, 2] = np.float32(r * lasers[laser, 1] + lasers[laser, 3])
                intensity[n] = np.float32(packet[here + 2]) / np.float32(255.0)
                ring[n] = rings[laser]
                late = float(packet_ns[p] - reference_ns) + block_ns + firing_ns[c]
                offset_ns[n] = np.int32(min(max(late, -2147483647.0), 2147483647.0))
                kind[n] = returned
                n += 1
    return xyz[:n].copy(), intensity[:n].copy(), ring[:n].copy(), offset_ns[:n].copy(), kind[:n].copy()
