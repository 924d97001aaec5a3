"""The payload hash: equal to its twin, moved by every byte, by order and by length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.kernels import _reference_payload as twin
from edgeguard.kernels.payload_hash import LANES, differs, payload_hash, payload_keys

KEYS = payload_keys(1)


def _bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


@given(st.binary(max_size=3 * 8 * LANES + 20), st.integers(0, 2**63))
def test_the_hash_equals_its_twin(data: bytes, seed: int) -> None:
    """For payloads of all lengths and any seed."""
    keys = payload_keys(seed)

    assert payload_hash(_bytes(data), keys) == twin.payload_hash(_bytes(data), keys)


@given(st.binary(min_size=1, max_size=1500), st.data())
def test_one_changed_bit_changes_the_hash(data: bytes, draw: st.DataObject) -> None:
    """Wherever it is."""
    at = draw.draw(st.integers(0, 8 * len(data) - 1))
    other = bytearray(data)
    other[at // 8] ^= 1 << (at % 8)

    assert payload_hash(_bytes(data), KEYS) != payload_hash(_bytes(bytes(other)), KEYS)


def test_order_length_and_seed_count() -> None:
    """Stripes in another order, zeros at the end, and another seed give other hashes; the array's shape does not."""
    rng = np.random.default_rng(2)
    image = rng.integers(0, 256, (16, 8 * LANES, 1), np.uint8)
    zeros = np.zeros(8 * LANES, np.uint8)

    assert payload_hash(image, KEYS) == payload_hash(image.reshape(-1), KEYS)
    assert payload_hash(image, KEYS) != payload_hash(np.ascontiguousarray(image[::-1]), KEYS)
    assert len({payload_hash(zeros[:n], KEYS) for n in (0, 1, 7, 8, 9, 511, 512)}) == 7
    assert payload_hash(image, KEYS) != payload_hash(image, payload_keys(2))


def test_a_hundred_thousand_payloads_do_not_collide() -> None:
    """Noise of one grey level on one picture, and counters: by chance there is one collision in 10^9 such tests."""
    rng = np.random.default_rng(3)
    picture = rng.integers(0, 255, 64, np.uint8)
    noisy = {payload_hash(picture + rng.integers(0, 2, 64, np.uint8), KEYS) for _ in range(20_000)}
    counted = {payload_hash(np.array([k, 0], np.uint64), KEYS) for k in range(80_000)}

    assert len(noisy) == 20_000
    assert len(counted) == 80_000


def test_payloads_that_do_not_begin_at_a_word_are_hashed_alike() -> None:
    """A view into a buffer, off by any number of bytes, hashes as its copy."""
    buffer = np.random.default_rng(4).integers(0, 256, 3_000, np.uint8)

    for off in range(8):
        view = buffer[off : off + 2_000]
        assert payload_hash(view, KEYS) == payload_hash(view.copy(), KEYS)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_steps_between_values_are_counted_as_the_twin_does(dtype: type) -> None:
    """Up to what is enough, and at any stride."""
    values = np.random.default_rng(5).integers(0, 3, 5_000).astype(dtype)

    for stride in (1, 3, 7, 5_000, 6_000):
        for enough in (1, 200, 480, 3_400):
            assert differs(values, stride, enough) == twin.differs(values, stride, enough)
    assert not differs(np.zeros(100, dtype), 1, 1)
    assert not differs(np.array([0.0, -0.0] * 50, dtype), 1, 1)
