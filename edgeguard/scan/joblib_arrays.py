"""The arrays that joblib writes into the middle of a pickle.

`joblib.dump` replaces an array by a `NumpyArrayWrapper` and writes its bytes right behind the BUILD opcode of that
wrapper, so that they can be mapped. Who follows the opcodes has to step over them, and knows how many they are from
the shape and the type in the wrapper's state. An array of objects is a pickle of its own at that place.

Source: joblib/numpy_pickle.py (NumpyArrayWrapper.read_array), joblib 1.5.
"""

from __future__ import annotations

import re
from typing import Final

from edgeguard.scan.pickle_machine import Inline
from edgeguard.scan.pickle_values import Import, Made, Table, Value

_WRAPPER: Final = ("joblib.numpy_pickle", "NumpyArrayWrapper")
_PLAIN_TYPE: Final = re.compile(r"[<>|=]?([biufcSUVmMO?])(\d{1,6})?")
_DEFAULT_BYTES: Final = {"b": 1, "?": 1, "i": 8, "u": 8, "f": 8, "c": 16, "m": 8, "M": 8, "O": 8}
_DTYPE_STATE_ITEMSIZE: Final = 5  # (version, byte order, subarray, names, fields, itemsize, alignment, flags)
_DTYPE_STATE_FLAGS: Final = 7
_HAS_OBJECT: Final = 1 | 0x10  # NPY_ITEM_REFCOUNT, NPY_NEEDS_PYAPI
_MAX_RANK: Final = 64


def is_wrapper(made: Made) -> bool:
    """Tell whether joblib would read array bytes behind this object."""
    callee = made.callee
    return isinstance(callee, Import) and (callee.module, callee.name) == _WRAPPER


def inline_array(data: memoryview, made: Made, at: int) -> Inline | None:
    """Return the array bytes at `at` that belong to `made`; None when it is no wrapper or its size is not known."""
    if not is_wrapper(made) or not isinstance(made.state, Table):
        return None
    entries = made.state.entries
    item = _item_bytes(entries.get("dtype"))
    count = _count(entries.get("shape"))
    if item is None or count is None:
        return None
    if item < 0:
        return Inline(at, at, is_pickle=True)
    if isinstance(entries.get("numpy_array_alignment_bytes"), int) and at < len(data):
        at += 1 + data[at]
    end = at + count * item
    return Inline(at, end, is_pickle=False) if end <= len(data) else None


def _count(shape: Value) -> int | None:
    if not isinstance(shape, tuple) or len(shape) > _MAX_RANK:
        return None
    count = 1
    for dim in shape:
        if not isinstance(dim, int) or dim < 0:
            return None
        count *= dim
    return count


def _item_bytes(dtype: Value) -> int | None:
    """Return the bytes per element of a pickled numpy dtype, -1 for objects, None when that cannot be told."""
    if not isinstance(dtype, Made) or not isinstance(dtype.callee, Import) or dtype.callee.name != "dtype":
        return None
    arguments = dtype.arguments
    code = arguments[0] if isinstance(arguments, tuple) and arguments else None
    matched = _PLAIN_TYPE.fullmatch(code) if isinstance(code, str) else None
    if matched is None:
        return None
    letter, digits = matched.groups()
    state = dtype.state if isinstance(dtype.state, tuple) else ()
    flags = state[_DTYPE_STATE_FLAGS] if len(state) > _DTYPE_STATE_FLAGS else 0
    if letter == "O" or (isinstance(flags, int) and flags & _HAS_OBJECT):
        return -1
    size = int(digits) if digits else _DEFAULT_BYTES.get(letter, 0)
    if letter == "U":
        size *= 4
    if letter == "V" and len(state) > _DTYPE_STATE_ITEMSIZE:
        itemsize = state[_DTYPE_STATE_ITEMSIZE]
        size = itemsize if isinstance(itemsize, int) and itemsize >= 0 else size
    return size
