"""Golden data: inputs and the outputs they must give, as an encrypted payload of the bundle. docs/formats/bundle.md.

The health check of an installed model: the same bytes that were released, on this board and runtime, still compute
what was evaluated. The data is a payload of its own, because pairs in the clear would help to copy the model.

    with open_model(bundle, trust=trust, key=key, expect_model="road-objects", state=state) as model:
        golden = parse_golden(model.golden)
        session = InferenceSession(model)
    result = golden_check(lambda feeds: dict(zip(outputs, session.run(outputs, feeds))), golden)
    if result.passed:
        state.commit(session.statement)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeguard.errors import BundleFormatError, EdgeGuardError
from edgeguard.trust.strict_json import canonical, convert, parse

GOLDEN_SCHEMA: Final = "edgeguard/golden/v1"
MAX_GOLDEN_BYTES: Final = 256 * 1024 * 1024  # a few camera frames and their outputs
MAX_HEADER_BYTES: Final = 64 * 1024
MAX_TENSORS: Final = 64
# Providers and boards add up in different orders; what a wrong weight does is orders of magnitude more.
DEFAULT_RTOL: Final = 1e-3
DEFAULT_ATOL: Final = 1e-5

Tensors = Mapping[str, NDArray[Any]]
_DTYPES: Final = ("float32", "float16", "float64", "uint8", "int8", "int32", "int64", "bool")
_LENGTH_BYTES: Final = 4

TensorName = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Side = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
Tolerance = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class _Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: Literal["input", "output"]
    name: TensorName
    dtype: Literal["float32", "float16", "float64", "uint8", "int8", "int32", "int64", "bool"]
    shape: Annotated[tuple[Side, ...], msgspec.Meta(max_length=8)]


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: Literal["edgeguard/golden/v1"]
    rtol: Tolerance
    atol: Tolerance
    tensors: Annotated[tuple[_Tensor, ...], msgspec.Meta(min_length=2, max_length=MAX_TENSORS)]


@dataclass(frozen=True, slots=True)
class Golden:
    """Inputs, the outputs they must give, and how close: |got - expected| <= atol + rtol * |expected|."""

    inputs: Tensors
    outputs: Tensors
    rtol: float = DEFAULT_RTOL
    atol: float = DEFAULT_ATOL


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """What a health check found. worst: largest error as a share of what is allowed; above 1 it fails.

    reason: empty when passed; names an output, never a value.
    """

    passed: bool
    worst: float
    reason: str = ""


def encode_golden(golden: Golden) -> bytes:
    """Return the payload's plaintext: header length, canonical header, then each tensor's bytes, little-endian.

    Raises:
        BundleFormatError: EG-B008, a tensor that the format does not hold.
    """
    tensors = [("input", n, a) for n, a in sorted(golden.inputs.items())]
    tensors += [("output", n, a) for n, a in sorted(golden.outputs.items())]
    header = {
        "schema": GOLDEN_SCHEMA,
        "rtol": float(golden.rtol),
        "atol": float(golden.atol),
        "tensors": [{"kind": k, "name": n, "dtype": str(a.dtype), "shape": list(a.shape)} for k, n, a in tensors],
    }
    raw = canonical(header)
    data = [np.ascontiguousarray(a, dtype=a.dtype.newbyteorder("<")).tobytes() for _, _, a in tensors]
    content = b"".join([len(raw).to_bytes(_LENGTH_BYTES, "big"), raw, *data])
    parse_golden(memoryview(content))
    return content


def parse_golden(content: memoryview) -> Golden:
    """Read the plaintext of a golden payload; arrays are copies and outlive the model's memory.

    Raises:
        BundleFormatError: EG-B008, malformed, too large, or a value that is not finite.
    """
    reason = ""
    try:
        header, start = _header(content)
        inputs, outputs = _tensors(content, header, start)
        return Golden(inputs, outputs, header.rtol, header.atol)
    except EdgeGuardError as error:
        reason = error.message
    raise BundleFormatError(f"the golden data is refused: {reason}", code="EG-B008")


def golden_check(run: Callable[[dict[str, NDArray[Any]]], Tensors], golden: Golden) -> GoldenResult:
    """Run the model on the golden inputs and compare; any failure of `run` is a failed check, never an exception.

    Args:
        run: takes the inputs by name, returns the outputs by name; each output of the golden data must be there with
            its shape and type.
    """
    failure = ""
    produced: Tensors = {}
    try:
        produced = run({name: value.copy() for name, value in golden.inputs.items()})
    except EdgeGuardError as error:
        failure = f"the model failed: {error.code}"
    except Exception as error:  # a runtime's own errors are as much a failed check
        failure = f"the model failed: {type(error).__name__}"
    if failure:
        return GoldenResult(False, float("inf"), failure)
    worst = 0.0
    for name, expected in golden.outputs.items():
        got = produced.get(name)
        if got is None or got.shape != expected.shape or got.dtype != expected.dtype:
            return GoldenResult(False, float("inf"), f"output {name!a} is missing, or of another shape or type")
        share = _share(got, expected, golden)
        if not share <= 1.0:
            return GoldenResult(False, share, f"output {name!a} is not what it was when the model was released")
        worst = max(worst, share)
    return GoldenResult(True, worst)


def _share(got: NDArray[Any], expected: NDArray[Any], golden: Golden) -> float:
    """Return the largest error as a share of what is allowed; infinite for NaN and for any error where none is."""
    wide, reference = got.astype(np.float64), expected.astype(np.float64)
    error = np.abs(wide - reference)
    allowed = golden.atol + golden.rtol * np.abs(reference)
    if not np.isfinite(error).all():
        return float("inf")
    over = error > 0
    if (allowed[over] == 0).any():
        return float("inf")
    return float((error[over] / allowed[over]).max(initial=0.0))


def _header(content: memoryview) -> tuple[_Header, int]:
    length = int.from_bytes(content[:_LENGTH_BYTES], "big")
    start = _LENGTH_BYTES + length
    if len(content) > MAX_GOLDEN_BYTES or not 0 < length <= MAX_HEADER_BYTES or start > len(content):
        raise BundleFormatError("its size does not fit", code="EG-B008")
    header = convert(parse(bytes(content[_LENGTH_BYTES:start]), what="header"), _Header, what="header")
    names = [(t.kind, t.name) for t in header.tensors]
    if names != sorted(set(names)) or {kind for kind, _ in names} != {"input", "output"}:
        raise BundleFormatError("its tensors are not sorted, distinct, and of both kinds", code="EG-B008")
    return header, start


def _tensors(content: memoryview, header: _Header, start: int) -> tuple[Tensors, Tensors]:
    found: dict[str, dict[str, NDArray[Any]]] = {"input": {}, "output": {}}
    for tensor in header.tensors:
        dtype = np.dtype(tensor.dtype)
        size = dtype.itemsize
        for side in tensor.shape:
            size *= side
        if size > len(content) - start:
            raise BundleFormatError("it ends before its last tensor", code="EG-B008")
        value = np.frombuffer(content[start : start + size], dtype=dtype.newbyteorder("<")).astype(dtype)
        if not np.isfinite(value).all():
            raise BundleFormatError("a value is not finite", code="EG-B008")
        found[tensor.kind][tensor.name] = value.reshape(tensor.shape)
        start += size
    if start != len(content):
        raise BundleFormatError("it goes on after its last tensor", code="EG-B008")
    return MappingProxyType(found["input"]), MappingProxyType(found["output"])
