"""Memory out of nothing: operators whose output is as large as a constant of a few bytes says.

Decided is what can be decided without running shape inference: a shape, a repeat count, a scale or an amount of padding
that lies in the graph as a constant. Not decided: sizes computed from other values, and broadcasting (two vectors of a
million make a million million). A memory limit on the process has to hold those.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Mapping
from typing import Final

from edgeguard.errors import ModelStructureError
from edgeguard.scan import onnx_limits as limits
from edgeguard.scan.onnx_schema import Message

Numbers = tuple[int, ...] | tuple[float, ...]
# Names of constants in scope, innermost graph first, and their values where they are a short vector in the graph.
Constants = ChainMap[str, Numbers | None]

# Which input is the shape of the output; None as a value there means it cannot be looked at.
_SHAPE_INPUT: Final = {"ConstantOfShape": 0, "Expand": 1}
# Which inputs multiply the input's size, by position: repeats, scales, sizes. Resize-10 has scales where Resize-11 has
# a region of interest between 0 and 1, which multiplies nothing.
_FACTOR_INPUTS: Final = {"Tile": (1,), "Resize": (1, 2, 3), "Upsample": (1,), "CenterCropPad": (1,)}
# Which single number is the length of the output.
_LENGTH_INPUT: Final = {
    "OneHot": (1,), "HannWindow": (0,), "HammingWindow": (0,), "BlackmanWindow": (0,), "MelWeightMatrix": (0, 1),
    "DFT": (1,),
}  # fmt: skip
_SHAPE_ATTRIBUTES: Final = {
    "RandomNormal": "shape", "RandomUniform": "shape", "ConvTranspose": "output_shape", "Upsample": "scales",
    "Resize": "scales", "Tile": "repeats",
}  # fmt: skip
_GEOMETRY: Final = ("pads", "strides", "kernel_shape", "dilations", "output_padding", "output_shape")


def check_node_memory(op_type: str, node: Message, attributes: Mapping[str, Numbers], constants: Constants) -> None:
    """Refuse a node of the ONNX domain that makes more elements than fit, as far as constants tell.

    Raises:
        ModelStructureError: it does, or its shape is a constant that lies outside the graph.
    """
    shape = attributes.get(_SHAPE_ATTRIBUTES.get(op_type, ""))
    if shape is not None:
        _check_product(shape, op_type)
    for name in _GEOMETRY:
        if name in attributes and any(abs(entry) > limits.MAX_GEOMETRY for entry in attributes[name]):
            raise ModelStructureError(f"a {op_type} has {name} beyond any image", code="EG-G003")
    if op_type == "Pad":
        _check_padding(attributes.get("pads") or _constant(node, 1, constants) or (), op_type)
    elif op_type == "Range":
        _check_range([_constant(node, position, constants) for position in range(3)])
    elif op_type in _SHAPE_INPUT:
        _check_shape_input(op_type, node, constants)
    for position in _FACTOR_INPUTS.get(op_type, ()):
        _check_product(_constant(node, position, constants) or (), op_type)
    lengths = [_constant(node, position, constants) or () for position in _LENGTH_INPUT.get(op_type, ())]
    _check_product(tuple(value for numbers in lengths for value in numbers), op_type)


def _constant(node: Message, position: int, constants: Constants) -> Numbers | None:
    inputs = node.texts("input", limits.MAX_NAME_BYTES)
    return constants.get(inputs[position]) if position < len(inputs) else None


def _check_shape_input(op_type: str, node: Message, constants: Constants) -> None:
    inputs = node.texts("input", limits.MAX_NAME_BYTES)
    position = _SHAPE_INPUT[op_type]
    if position >= len(inputs) or inputs[position] not in constants:
        return  # computed at run time
    shape = constants[inputs[position]]
    if shape is None:
        raise ModelStructureError(f"the shape of a {op_type} does not lie in the graph", code="EG-G009")
    _check_product(shape, op_type)


def _check_product(factors: Numbers, op_type: str) -> None:
    product: float = 1
    for factor in factors:
        if math.isnan(factor):
            raise ModelStructureError(f"a {op_type} has a size that is no number", code="EG-G009")
        product *= max(factor, 1)
    if product > limits.MAX_FILL_ELEMENTS:
        raise ModelStructureError(f"a {op_type} makes more than {limits.MAX_FILL_ELEMENTS} elements", code="EG-G003")


def _check_padding(pads: Numbers, op_type: str) -> None:
    half = len(pads) // 2
    _check_product(tuple(before + after for before, after in zip(pads[:half], pads[half:], strict=False)), op_type)


def _check_range(bounds: list[Numbers | None]) -> None:
    values = [bound[0] for bound in bounds if bound is not None and len(bound) == 1]
    if len(values) != 3:
        return
    start, limit, delta = values
    _check_product((abs(limit - start) / abs(delta) if delta else math.inf,), "Range")
