"""Ouster packets: columns into a sweep, a sweep into points, CRC-64.

All sizes are counted in 32-bit words because every part of an Ouster packet is a multiple of four bytes. A sweep is
kept as the sensor sent it, raw channel words per column, so that one packet costs one copy; ranges become points once
per sweep.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

UNSEEN, VALID, INVALID = 0, 1, 2  # state of a column: never received, received, received with its status bit clear

# CRC-64/XZ (ECMA-182 polynomial, reflected), as the packet footer carries it since firmware 3.1.
CRC64_POLYNOMIAL = 0xC96C5795D7870F42
CRC64_CHECK = 0x995DC9BBDF1939FA  # of b"123456789", by the catalogue of parametrised CRC algorithms
_SLICES = 8

_MAX_OFFSET_NS = np.int64(2**31 - 1)
_WORDS = types.Array(types.uint32, 1, "C", readonly=True)  # a packet's bytes object is never written


def crc64_tables() -> NDArray[np.uint64]:
    """Return (8, 256) uint64: table k advances a byte past k further bytes (slicing by eight)."""
    table = np.arange(256, dtype=np.uint64)
    one, polynomial = np.uint64(1), np.uint64(CRC64_POLYNOMIAL)
    for _ in range(8):
        table = np.where(table & one, (table >> one) ^ polynomial, table >> one)
    tables = [table]
    for _ in range(_SLICES - 1):
        last = tables[-1]
        tables.append((last >> np.uint64(8)) ^ table[(last & np.uint64(0xFF)).astype(np.int64)])
    return np.stack(tables)


@njit(types.uint64(_WORDS, types.uint64[:, ::1]), cache=True, nogil=True)
def crc64(words: NDArray[np.uint32], tables: NDArray[np.uint64]) -> int:
    """Return the CRC-64/XZ of little-endian 32-bit words; an even number of them is fastest.

    words: (N,) uint32. tables: from `crc64_tables`.
    """
    crc = np.uint64(0xFFFFFFFFFFFFFFFF)
    byte = np.uint64(0xFF)
    pairs = words.shape[0] // 2
    for i in range(pairs):
        x = crc ^ (np.uint64(words[2 * i]) | (np.uint64(words[2 * i + 1]) << np.uint64(32)))
        crc = (
            tables[7, np.int64(x & byte)]
            ^ tables[6, np.int64((x >> np.uint64(8)) & byte)]
            ^ tables[5, np.int64((x >> np.uint64(16)) & byte)]
            ^ tables[4, np.int64((x >> np.uint64(24)) & byte)]
            ^ tables[3, np.int64((x >> np.uint64(32)) & byte)]
            ^ tables[2, np.int64((x >> np.uint64(40)) & byte)]
            ^ tables[1, np.int64((x >> np.uint64(48)) & byte)]
            ^ tables[0, np.int64(x >> np.uint64(56))]
        )
    if words.shape[0] % 2 == 1:
        x = crc ^ np.uint64(words[words.shape[0] - 1])
        for _ in range(4):
            x = tables[0, np.int64(x & byte)] ^ (x >> np.uint64(8))
        crc = x
    return crc ^ np.uint64(0xFFFFFFFFFFFFFFFF)  # type: ignore[return-value]  # numba hands Python an int


@njit(
    types.UniTuple(types.int64, 4)(
        _WORDS, types.int64, types.int64, types.int64, types.boolean, types.uint32[:, ::1], types.int64[::1],
        types.uint8[::1], types.boolean[::1],
    ),
    cache=True,
    nogil=True,
)  # fmt: skip
def place_columns(
    words: NDArray[np.uint32],
    header_words: int,
    column_words: int,
    columns: int,
    legacy: bool,
    raw: NDArray[np.uint32],
    stamp_ns: NDArray[np.int64],
    state: NDArray[np.uint8],
    window: NDArray[np.bool_],
) -> tuple[int, int, int, int]:
    """Copy a packet's columns to their places in a sweep. A column that is already there is never overwritten.

    Args:
        words: (packet bytes / 4,) uint32. header_words, column_words: sizes of the packet header and of one column.
        columns: columns in the packet. legacy: the column has a four-word header and its status in the last word,
            instead of a three-word header with the status inside.
        raw: (columns per sweep, pixel words) uint32, written. stamp_ns: (columns per sweep,) int64, written.
        state: (columns per sweep,) uint8, written: UNSEEN, VALID or INVALID. window: (columns per sweep,) bool.

    Returns how many columns were stored, came with a clear status bit, were outside the sweep or its window, or were
    there before.
    """
    head = 4 if legacy else 3
    pixel_words = raw.shape[1]
    stored = 0
    invalid = 0
    outside = 0
    duplicate = 0
    for c in range(columns):
        at = header_words + c * column_words
        number = np.int64(words[at + 2] & np.uint32(0xFFFF))
        if legacy:
            status = words[at + column_words - 1] & np.uint32(1)
        else:
            status = (words[at + 2] >> np.uint32(16)) & np.uint32(1)
        if number >= raw.shape[0] or not window[number]:
            outside += 1
        elif status == 0:
            invalid += 1
            if state[number] == UNSEEN:
                state[number] = INVALID
        elif state[number] == VALID:
            duplicate += 1
        else:
            stamp_ns[number] = np.int64(np.uint64(words[at]) | (np.uint64(words[at + 1]) << np.uint64(32)))
            state[number] = VALID
            for k in range(pixel_words):
                raw[number, k] = words[at + head + k]
            stored += 1
    return stored, invalid, outside, duplicate


@njit(
    "Tuple((f4[:,::1], f4[::1], i2[::1], i4[::1]))"
    "(u4[:,::1], i8, i8[::1], i8[::1], u1[::1], i8[::1], i8, f8[:,::1], f8[:,::1], f8[::1], f8[:,::1])",
    cache=True,
    nogil=True,
)
def sweep_points(
    raw: NDArray[np.uint32],
    pixel_words: int,
    range_field: NDArray[np.int64],
    reflectivity_field: NDArray[np.int64],
    state: NDArray[np.uint8],
    stamp_ns: NDArray[np.int64],
    reference_ns: int,
    encoder: NDArray[np.float64],
    beams: NDArray[np.float64],
    origin_mm: NDArray[np.float64],
    T_sensor_lidar: NDArray[np.float64],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int16], NDArray[np.int32]]:
    """Points of a sweep in the order they were measured: column by column, beam by beam. No return, no point.

    Args:
        raw: (W, H * pixel_words) uint32. range_field, reflectivity_field: (word, right shift, mask, left shift) int64.
        state, stamp_ns: (W,) as `place_columns` wrote them; only VALID columns give points.
        reference_ns: device time that the offsets count from.
        encoder: (W, 2) float64: cosine and sine of the encoder angle of each column.
        beams: (H, 3) float64: cos(az) cos(alt), sin(az) cos(alt), sin(alt); azimuth counter-clockwise.
        origin_mm: (3,) float64: distance from lidar origin to beam origin, its part in the plane, its part along z.
        T_sensor_lidar: (4, 4) float64, translation in millimetres.

    Returns xyz (N, 3) float32 metres in the sensor frame, intensity (N,) float32 0..1, ring (N,) int16 and time
    offset (N,) int32 nanoseconds, clipped to its type.

    The formula is the one of Ouster's sensor manual, section "Lidar range to XYZ"; computed in double precision.
    """
    width = raw.shape[0]
    height = beams.shape[0]
    word = range_field[0]
    shift = np.uint32(range_field[1])
    mask = np.uint32(range_field[2])
    up = range_field[3]
    r_word = reflectivity_field[0]
    r_shift = np.uint32(reflectivity_field[1])
    r_mask = np.uint32(reflectivity_field[2])
    n = 0
    for w in range(width):
        if state[w] == VALID:
            for h in range(height):
                if (raw[w, h * pixel_words + word] >> shift) & mask != 0:
                    n += 1
    xyz = np.empty((n, 3), dtype=np.float32)
    intensity = np.empty(n, dtype=np.float32)
    ring = np.empty(n, dtype=np.int16)
    offset_ns = np.empty(n, dtype=np.int32)
    R = T_sensor_lidar
    distance = origin_mm[0]
    i = 0
    for w in range(width):
        if state[w] != VALID:
            continue
        late = min(max(stamp_ns[w] - reference_ns, -_MAX_OFFSET_NS), _MAX_OFFSET_NS)
        ce = encoder[w, 0]
        se = encoder[w, 1]
        for h in range(height):
            value = (raw[w, h * pixel_words + word] >> shift) & mask
            if value == 0:
                continue
            r = float(np.int64(value) << up) - distance
            x = r * (ce * beams[h, 0] - se * beams[h, 1]) + origin_mm[1] * ce
            y = r * (se * beams[h, 0] + ce * beams[h, 1]) + origin_mm[1] * se
            z = r * beams[h, 2] + origin_mm[2]
            xyz[i, 0] = np.float32((R[0, 0] * x + R[0, 1] * y + R[0, 2] * z + R[0, 3]) * 1e-3)
            xyz[i, 1] = np.float32((R[1, 0] * x + R[1, 1] * y + R[1, 2] * z + R[1, 3]) * 1e-3)
            xyz[i, 2] = np.float32((R[2, 0] * x + R[2, 1] * y + R[2, 2] * z + R[2, 3]) * 1e-3)
            intensity[i] = np.float32((raw[w, h * pixel_words + r_word] >> r_shift) & r_mask) / np.float32(255.0)
            ring[i] = np.int16(h)
            offset_ns[i] = np.int32(late)
            i += 1
    return xyz, intensity, ring, offset_ns
