"""Ouster packets: columns into a sweep, a sweep into points, CRC-64.

All sizes are counted in 32-bit words because every part of an Ouster packet is a multiple of four bytes. A sweep is
kept as the sensor sent it, raw channel words per column, so that one packet costs one copy; ranges become points once
per sweep.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

UNSEEN, VALID, INVALID = 0, 1, 2  # state of a column: never received, received, received with its status bit clear

# CRC-64/XZ (ECMA-182 polynomial, reflected), as the packet footer carries it since firmware 3.1.
CRC64_POLYNOMIAL = 0xC96C5795D7870F42
CRC64_CHECK = 0x995DC9BBDF1939FA  # of b"123456789", by the catalogue of parametrised CRC algorithms
_SLICES = 8

_MAX_OFFSET_NS = np.int64(2**31 - 1)
# A packet's bytes object is never written.
_WORDS = types.Array(types.uint32, 1, "C", readonly=True)
_LONGS = types.Array(types.uint64, 1, "C", readonly=True)


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


@lru_cache(maxsize=16)
def crc64_advance(longs: int) -> NDArray[np.uint64]:
    """Return (8, 256) uint64: the effect of `longs` zero longs on each byte of a CRC state, to join parts of a packet.

    The result is shared: do not write to it.
    """
    tables = crc64_tables()
    # One zero byte is linear in the state: column b of the matrix is what becomes of bit b. Square and multiply.
    step = [_zero_byte(1 << bit, tables) for bit in range(64)]
    total = [1 << bit for bit in range(64)]
    count = 8 * longs
    while count:
        if count & 1:
            total = [_times(step, column) for column in total]
        step = [_times(step, column) for column in step]
        count >>= 1
    table = [[_times(total, value << (8 * k)) for value in range(256)] for k in range(_SLICES)]
    return np.array(table, dtype=np.uint64)


def _zero_byte(state: int, tables: NDArray[np.uint64]) -> int:
    return int(tables[0, state & 0xFF]) ^ state >> 8


def _times(matrix: list[int], vector: int) -> int:
    result, bit = 0, 0
    while vector:
        if vector & 1:
            result ^= matrix[bit]
        vector >>= 1
        bit += 1
    return result


@njit(types.uint64(_LONGS, _WORDS, types.uint64[:, ::1], types.uint64[:, ::1], types.int64), cache=True, nogil=True)
def crc64(
    longs: NDArray[np.uint64],
    rest: NDArray[np.uint32],
    tables: NDArray[np.uint64],
    advance: NDArray[np.uint64],
    part: int,
) -> int:
    """Return the CRC-64/XZ of little-endian data.

    Four parts run side by side, because one alone waits for each look-up before the next. Unsigned indices spare the
    test for negative ones; the rows of the table are named because numba does not lift them out of the loop.

    longs: (N,) uint64, the data. rest: (M,) uint32, what is left of it. tables: from `crc64_tables`. part: elements of
    `longs` in each part, at most N / 4; what follows is done one after the other. advance: from `crc64_advance(part)`.
    """
    byte = np.uint64(0xFF)
    t0, t1, t2, t3 = tables[0], tables[1], tables[2], tables[3]
    t4, t5, t6, t7 = tables[4], tables[5], tables[6], tables[7]
    step = np.uint64(part)
    a = np.uint64(0xFFFFFFFFFFFFFFFF)
    b = np.uint64(0)
    c = np.uint64(0)
    d = np.uint64(0)
    for i in range(step):
        a ^= longs[i]
        b ^= longs[i + step]
        c ^= longs[i + step + step]
        d ^= longs[i + step + step + step]
        a = (
            t7[a & byte]
            ^ t6[(a >> np.uint64(8)) & byte]
            ^ t5[(a >> np.uint64(16)) & byte]
            ^ t4[(a >> np.uint64(24)) & byte]
            ^ t3[(a >> np.uint64(32)) & byte]
            ^ t2[(a >> np.uint64(40)) & byte]
            ^ t1[(a >> np.uint64(48)) & byte]
            ^ t0[a >> np.uint64(56)]
        )
        b = (
            t7[b & byte]
            ^ t6[(b >> np.uint64(8)) & byte]
            ^ t5[(b >> np.uint64(16)) & byte]
            ^ t4[(b >> np.uint64(24)) & byte]
            ^ t3[(b >> np.uint64(32)) & byte]
            ^ t2[(b >> np.uint64(40)) & byte]
            ^ t1[(b >> np.uint64(48)) & byte]
            ^ t0[b >> np.uint64(56)]
        )
        c = (
            t7[c & byte]
            ^ t6[(c >> np.uint64(8)) & byte]
            ^ t5[(c >> np.uint64(16)) & byte]
            ^ t4[(c >> np.uint64(24)) & byte]
            ^ t3[(c >> np.uint64(32)) & byte]
            ^ t2[(c >> np.uint64(40)) & byte]
            ^ t1[(c >> np.uint64(48)) & byte]
            ^ t0[c >> np.uint64(56)]
        )
        d = (
            t7[d & byte]
            ^ t6[(d >> np.uint64(8)) & byte]
            ^ t5[(d >> np.uint64(16)) & byte]
            ^ t4[(d >> np.uint64(24)) & byte]
            ^ t3[(d >> np.uint64(32)) & byte]
            ^ t2[(d >> np.uint64(40)) & byte]
            ^ t1[(d >> np.uint64(48)) & byte]
            ^ t0[d >> np.uint64(56)]
        )
    crc = a
    for later in (b, c, d):
        moved = np.uint64(0)
        for k in range(8):
            moved ^= advance[k, (crc >> np.uint64(8 * k)) & byte]
        crc = moved ^ later
    for i in range(4 * part, longs.shape[0]):
        crc ^= longs[i]
        for _ in range(8):
            crc = t0[crc & byte] ^ (crc >> np.uint64(8))
    for i in range(rest.shape[0]):
        crc ^= np.uint64(rest[i])
        for _ in range(4):
            crc = t0[crc & byte] ^ (crc >> np.uint64(8))
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
    "i8(u4[:,::1], i8, i8[::1], i8[::1], u1[::1], i8[::1], i8, f8[:,::1], f8[:,:,::1], f8[:,::1], f8,"
    " f4[:,::1], f4[::1], i2[::1], i4[::1])",
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
    origin: NDArray[np.float64],
    distance_mm: float,
    xyz: NDArray[np.float32],
    intensity: NDArray[np.float32],
    ring: NDArray[np.int16],
    offset_ns: NDArray[np.int32],
) -> int:
    """Points of a sweep in the order they were measured: column by column, beam by beam. No return, no point.

    Args:
        raw: (W, H * pixel_words) uint32. range_field, reflectivity_field: (word, right shift, mask, left shift) int64.
        state, stamp_ns: (W,) as `place_columns` wrote them; only VALID columns give points.
        reference_ns: device time that the offsets count from.
        encoder: (W, 2) float64: cosine and sine of the encoder angle of each column.
        beams: (3, 3, H) float64, metres per millimetre: for each axis of the sensor frame, the parts of a beam's
            direction that go with the cosine, with the sine, and with neither.
        origin: (3, 3) float64, metres: the same parts of where the beams leave from.
        distance_mm: how much of a range lies between the lidar's origin and the beam's.
        xyz, intensity, ring, offset_ns: written; one element longer than points can be.

    Returns the number of points. xyz in metres in the sensor frame, intensity 0..1, time offset in nanoseconds,
    clipped to its type.

    The formula is the one of Ouster's sensor manual, section "Lidar range to XYZ", with the sensor transform folded
    into the tables; computed in double precision. Three plain loops per column, so that the middle one is vectorised.
    """
    width = raw.shape[0]
    height = beams.shape[2]
    flat = raw.reshape(-1)
    stride = np.uint64(pixel_words)
    word = np.uint64(range_field[0])
    shift = np.uint32(range_field[1])
    mask = np.uint32(range_field[2])
    up = np.uint32(range_field[3])
    r_word = np.uint64(reflectivity_field[0])
    r_shift = np.uint32(reflectivity_field[1])
    r_mask = np.uint32(reflectivity_field[2])
    ranges = np.empty(height, dtype=np.float64)
    x = np.empty(height, dtype=np.float32)
    y = np.empty(height, dtype=np.float32)
    z = np.empty(height, dtype=np.float32)
    n = 0
    for w in range(width):
        if state[w] != VALID:
            continue
        late = np.int32(min(max(stamp_ns[w] - reference_ns, -_MAX_OFFSET_NS), _MAX_OFFSET_NS))
        c = encoder[w, 0]
        s = encoder[w, 1]
        ox = c * origin[0, 0] + s * origin[0, 1] + origin[0, 2]
        oy = c * origin[1, 0] + s * origin[1, 1] + origin[1, 2]
        oz = c * origin[2, 0] + s * origin[2, 1] + origin[2, 2]
        row = np.uint64(w * raw.shape[1])
        for h in range(height):
            value = ((flat[row + np.uint64(h) * stride + word] >> shift) & mask) << up
            ranges[h] = np.float64(np.int32(value))  # 20 bits at most; from int32 the conversion is one instruction
        for h in range(height):
            r = ranges[h] - distance_mm
            x[h] = np.float32(r * (c * beams[0, 0, h] + s * beams[0, 1, h] + beams[0, 2, h]) + ox)
            y[h] = np.float32(r * (c * beams[1, 0, h] + s * beams[1, 1, h] + beams[1, 2, h]) + oy)
            z[h] = np.float32(r * (c * beams[2, 0, h] + s * beams[2, 1, h] + beams[2, 2, h]) + oz)
        for h in range(height):
            xyz[n, 0] = x[h]
            xyz[n, 1] = y[h]
            xyz[n, 2] = z[h]
            level = (flat[row + np.uint64(h) * stride + r_word] >> r_shift) & r_mask
            intensity[n] = np.float32(np.int32(level)) / np.float32(255.0)
            ring[n] = np.int16(h)
            offset_ns[n] = late
            n += ranges[h] > 0.0
    return n
