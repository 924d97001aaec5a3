"""Weights that onnxruntime reads from our memory for as long as the session lives, instead of copying them.

That memory is locked where the limit allows, left out of core dumps and forked children, and zeroed when the session
closes; onnxruntime's own copies are none of these. It costs kernels the packed form of their weights.

The addresses are never given back to the system: an output array, a binding or a run in another thread may still point
there when the session closes. They read zeros then, from pages that take no memory, and not somebody else's data.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, Literal

from edgeguard.bundle.model import VerifiedModel
from edgeguard.errors import InferenceError
from edgeguard.infer.runtime import version_of

Weights = Literal["copied", "shared"]
OLDEST: Final = (1, 32)  # the first onnxruntime that can borrow the buffers
_ENTRIES: Final = {
    "session.use_external_initializer_file_buffers_directly": "1",
    "session.disable_prepacking": "1",  # packing would make the copy that this is about to avoid
}

_libc = ctypes.CDLL(None)
_retired: list[memoryview] = []


def borrow_weights(ort: Any, options: Any) -> None:
    """Set the options that make onnxruntime use the buffers it is given.

    Raises:
        InferenceError: EG-I016, this onnxruntime always copies.
    """
    if version_of(ort) < OLDEST:
        raise InferenceError(
            f"onnxruntime {ort.__version__} always copies the weights",
            code="EG-I016",
            hint='use onnxruntime 1.32 or newer, or weights="copied"',
        )
    for key, value in _ENTRIES.items():
        options.add_session_config_entry(key, value)


class LentWeights:
    """The weights of a model that a session uses in place; `take_back` zeroes them."""

    def __init__(self, model: VerifiedModel) -> None:
        self._model = model
        self._mappings = tuple(model.weights.values())
        # An exported view keeps the mapping's addresses ours when the model is closed, or merely dropped.
        _retired.extend(memoryview(mapping) for mapping in self._mappings if len(mapping))

    def take_back(self) -> None:
        """Zero the weights and free their pages; calling it again does nothing."""
        self._model.close()
        _free_pages(mapping for mapping in self._mappings if not mapping.closed)
        self._mappings = ()


def _free_pages(mappings: Iterable[mmap.mmap]) -> None:
    for mapping in mappings:
        first = ctypes.c_char.from_buffer(mapping)
        _libc.munlock(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(len(mapping)))
        del first
        with suppress(OSError):
            mapping.madvise(mmap.MADV_DONTNEED)
