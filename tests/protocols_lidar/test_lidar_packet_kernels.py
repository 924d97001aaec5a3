"""Kernels against their NumPy twins on arbitrary bytes: same results, and no way out of the arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.kernels import _reference_lidar_packets as reference
from edgeguard.kernels import ouster, velodyne
from edgeguard.protocols.velodyne_models import MODELS


@given(st.binary(max_size=200).map(lambda b: b + b"\0" * (-len(b) % 4)), st.integers(0, 6))
def test_crc64_is_the_bitwise_one(data: bytes, part: int) -> None:
    """However it is divided, with and without half a long at the end."""
    longs = np.frombuffer(data[: len(data) // 8 * 8], "<u8")
    rest = np.frombuffer(data[len(data) // 8 * 8 :], "<u4")
    part = min(part, len(longs) // 4)
    tables, advance = ouster.crc64_tables(), ouster.crc64_advance(part)
    assert ouster.crc64(longs, rest, tables, advance, part) == reference.crc64(data)


def test_crc64_gives_the_catalogues_check_value() -> None:
    """CRC-64/XZ of "123456789"."""
    assert reference.crc64(b"123456789") == ouster.CRC64_CHECK


@pytest.mark.parametrize("legacy", [False, True])
@given(seed=st.integers(0, 2**32 - 1))
def test_columns_are_placed_as_the_twin_places_them(legacy: bool, seed: int) -> None:
    """Random words with measurement ids near the edge of a small sweep."""
    rng = np.random.default_rng(seed)
    columns, pixel_words, width = 4, 6, 8
    column_words = pixel_words + (5 if legacy else 3)
    header = 0 if legacy else 8
    words = rng.integers(0, 2**32, header + columns * column_words, dtype=np.uint32)
    words[header + 2 :: column_words] &= np.uint32(0xFFFF000F)
    window = rng.random(width) < 0.8
    mine, twin = [
        (np.zeros((width, pixel_words), np.uint32), np.zeros(width, np.int64), np.zeros(width, np.uint8)) for _ in "ab"
    ]
    for _ in range(2):
        got = ouster.place_columns(words, header, column_words, columns, legacy, *mine, window)
        expected = reference.place_columns(words, header, column_words, columns, legacy, *twin, window)
        assert tuple(got) == expected
        assert sum(got) == columns
    for a, b in zip(mine, twin, strict=True):
        np.testing.assert_array_equal(a, b)


@given(seed=st.integers(0, 2**32 - 1))
def test_ouster_points_are_the_twins(seed: int) -> None:
    """Random ranges, geometry and stamps, the extreme ones included."""
    rng = np.random.default_rng(seed)
    width, height, words = 16, 5, 2
    raw = rng.integers(0, 2**32, (width, height * words), dtype=np.uint32)
    raw[rng.random(raw.shape) < 0.3] = 0
    stamps = rng.integers(-(2**62), 2**62, width)
    stamps[rng.random(width) < 0.5] //= 2**40
    turn = rng.uniform(0, 7, width)
    arguments = (
        raw, words, np.array([0, 0, 0x7FFF, 3]), np.array([1, 16, 0xFF, 0]),
        rng.integers(0, 3, width).astype(np.uint8), stamps, int(stamps[0]),
        np.ascontiguousarray(np.stack([np.cos(turn), np.sin(turn)], 1)), rng.uniform(-1e-3, 1e-3, (3, 3, height)),
        rng.uniform(-0.05, 0.05, (3, 3)), 15.8,
    )  # fmt: skip
    most = width * height + 1
    ours = (
        np.empty((most, 3), np.float32),
        np.empty(most, np.float32),
        np.empty(most, np.int16),
        np.empty(most, np.int32),
    )
    count = ouster.sweep_points(*arguments, *ours)
    twin = reference.sweep_points(*arguments)
    assert count == len(twin[0])
    np.testing.assert_allclose(ours[0][:count], twin[0], rtol=3e-7, atol=1e-6)
    for a, b in zip(ours[1:], twin[1:], strict=True):
        np.testing.assert_array_equal(a[:count], b)


@pytest.mark.parametrize("keep", [velodyne.KEEP_STRONGEST, velodyne.KEEP_LAST, velodyne.KEEP_BOTH])
@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize("product", sorted(MODELS))
def test_velodyne_points_are_the_twins(product: int, dual: bool, keep: int) -> None:
    """Random bytes in every field, azimuths beyond the circle included."""
    rng = np.random.default_rng(product + keep)
    model = MODELS[product]
    packets = rng.integers(0, 256, (7, 1206), dtype=np.uint8)
    packets[rng.random(packets.shape) < 0.4] = 0
    packets[:3, 100:200] = packets[:3, :100]
    first = rng.integers(0, 7, 7) // 2 * 2
    spans = np.ascontiguousarray(np.stack([first, first + 2 * rng.integers(0, 3, 7)], 1).astype(np.int64))
    arguments = (
        packets, spans, rng.integers(0, 10**12, 7), 10**6, keep, dual, model.firings, model.period_ns,
        model.lasers(), model.rings(), model.firing_ns(), model.unit_m,
    )  # fmt: skip
    ours, twin = velodyne.sweep_points(*arguments), reference.velodyne_points(*arguments)
    assert len(ours[0]) > 0
    np.testing.assert_allclose(ours[0], twin[0], rtol=1e-6, atol=2e-5)
    for a, b in zip(ours[1:], twin[1:], strict=True):
        np.testing.assert_array_equal(a, b)
