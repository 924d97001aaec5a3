"""NumPy twins of the lidar packet kernels: the meaning written plainly, as test oracle and fallback."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels.ouster import CRC64_POLYNOMIAL, INVALID, UNSEEN, VALID
from edgeguard.kernels.velodyne import (
    BLOCK_BYTES,
    BLOCKS,
    CHANNELS,
    IS_LAST,
    IS_STRONGEST,
    KEEP_BOTH,
    KEEP_LAST,
    KEEP_STRONGEST,
    TURN,
)


def crc64(data: bytes) -> int:
    """CRC-64/XZ, a bit at a time."""
    crc = 0xFFFFFFFFFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (CRC64_POLYNOMIAL if crc & 1 else 0)
    return crc ^ 0xFFFFFFFFFFFFFFFF


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
    """Twin of `kernels.ouster.place_columns`."""
    head = 4 if legacy else 3
    table = words[header_words : header_words + columns * column_words].reshape(columns, column_words)
    counts = {"stored": 0, "invalid": 0, "outside": 0, "duplicate": 0}
    for column in table:
        number, upper = int(column[2]) & 0xFFFF, int(column[2]) >> 16
        good = int(column[-1]) & 1 if legacy else upper & 1
        if number >= len(raw) or not window[number]:
            counts["outside"] += 1
        elif not good:
            counts["invalid"] += 1
            state[number] = INVALID if state[number] == UNSEEN else state[number]
        elif state[number] == VALID:
            counts["duplicate"] += 1
        else:
            counts["stored"] += 1
            stamp_ns[number] = np.frombuffer(column[:2].tobytes(), "<i8")[0]
            state[number] = VALID
            raw[number] = column[head : head + raw.shape[1]]
    return counts["stored"], counts["invalid"], counts["outside"], counts["duplicate"]


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
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int16], NDArray[np.int32]]:
    """Twin of `kernels.ouster.sweep_points`; returns what that one writes."""
    range_mm = field_values(raw, pixel_words, range_field)
    hit = (range_mm != 0) & (state == VALID)[:, None]
    turn = np.concatenate([encoder, np.ones((len(encoder), 1))], axis=1)
    direction = np.einsum("wk,jkh->whj", turn, beams)
    points = (range_mm - distance_mm)[:, :, None] * direction + (turn @ origin.T)[:, None, :]
    reflectivity = field_values(raw, pixel_words, reflectivity_field)[hit]
    column, ring = np.nonzero(hit)
    late = np.clip(stamp_ns - reference_ns, -(2**31 - 1), 2**31 - 1).astype(np.int32)
    return (
        points[hit].astype(np.float32),
        reflectivity.astype(np.float32) / np.float32(255.0),
        ring.astype(np.int16),
        late[column],
    )


def field_values(raw: NDArray[np.uint32], pixel_words: int, field: NDArray[np.int64]) -> NDArray[np.int64]:
    """One channel of all pixels, (W, H) int64. field: (word, right shift, mask, left shift)."""
    word, shift, mask, up = (int(v) for v in field)
    values: NDArray[np.int64] = ((raw[:, word::pixel_words].astype(np.int64) >> shift) & mask) << up
    return values


def velodyne_points(
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
    """Twin of `kernels.velodyne.sweep_points`."""
    count, step = len(packets), 2 if dual else 1
    blocks = packets[:, : BLOCKS * BLOCK_BYTES].reshape(count, BLOCKS, BLOCK_BYTES)
    azimuth = blocks[:, :, 2:4].copy().view("<u2")[:, :, 0].astype(np.float64)
    cells = blocks[:, :, 4:].reshape(count, BLOCKS, CHANNELS, 3)
    counts = cells[..., 0].astype(np.int64) + 256 * cells[..., 1].astype(np.int64)
    loud = cells[..., 2].astype(np.int64)
    block = np.arange(BLOCKS)
    inside = (block >= spans[:, :1]) & (block < spans[:, 1:])
    used = inside[:, :, None] & (counts > 0)
    even = (block % 2 == 0)[None, :, None]
    last_mode = (packets[:, 1204] == 0x38)[:, None, None]
    kind = np.where(np.broadcast_to(even if dual else last_mode, counts.shape), IS_LAST, IS_STRONGEST)
    if dual:
        twin = block ^ 1
        other, other_loud = counts[:, twin], loud[:, twin]
        same = (other == counts) & (other_loud == loud)
        louder = (other != 0) & ((other_loud > loud) | ((other_loud == loud) & ~even))
        unwanted = {KEEP_BOTH: np.zeros_like(same), KEEP_LAST: ~even & (other != 0), KEEP_STRONGEST: louder}[keep]
        used &= ~np.where(same, np.broadcast_to(~even, same.shape), unwanted)
        kind = np.where(same, IS_STRONGEST | IS_LAST, kind)
    per_ns = np.array([_turn(row[::step]) for row in azimuth]) / (period_ns * firings)
    p, b, c = np.nonzero(used)
    laser = lasers[c % len(lasers)]
    turn = np.radians((azimuth[p, b] + per_ns[p] * firing_ns[c]) / 100.0) + laser[:, 2]
    r = counts[p, b, c] * unit_m
    xyz = np.stack([r * laser[:, 0] * np.cos(turn), -r * laser[:, 0] * np.sin(turn), r * laser[:, 1] + laser[:, 3]], 1)
    late = (packet_ns[p] - reference_ns).astype(np.float64) + (b // step) * period_ns * firings + firing_ns[c]
    return (
        xyz.astype(np.float32),
        loud[p, b, c].astype(np.float32) / np.float32(255.0),
        rings[c % len(lasers)],
        np.clip(late, -2147483647.0, 2147483647.0).astype(np.int32),
        kind[p, b, c].astype(np.uint8),
    )


def _turn(azimuth: NDArray[np.float64]) -> float:
    """Twin of `kernels.velodyne.turn_per_firing`, on the azimuths of one packet."""
    gaps = np.diff(azimuth) % TURN
    middle = np.sort(gaps)[len(gaps) // 2]
    near = gaps[np.abs(gaps - middle) <= 0.5 * middle + 1.0]
    return float(near.mean()) if len(near) else 0.0
