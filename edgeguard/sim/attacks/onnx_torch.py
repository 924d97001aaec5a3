"""An ONNX graph run by torch, so that it has gradients: what a white-box attack needs of a model.

Needs the extra `eval` (torch, onnx). Held against onnxruntime output by output in tests/sim/test_onnx_torch.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np

from edgeguard.errors import EnvironmentMissingError, ScenarioError
from edgeguard.sim.attacks.onnx_torch_ops import OPERATORS, UnknownOperatorError

_GRAPH_ATTRIBUTES = (5, 10)  # AttributeProto.GRAPH, GRAPHS: control flow, which image models do without
_TENSOR_ATTRIBUTE = 4


def load_torch() -> Any:
    """Return the module torch.

    Raises:
        EnvironmentMissingError: EG-E055, torch or onnx is not installed.
    """
    try:
        import_module("onnx")
        return import_module("torch")
    except ImportError:
        raise EnvironmentMissingError(
            "white-box attacks need torch and onnx", code="EG-E055", hint='pip install "edgeguard[eval]"'
        ) from None


class TorchGraph:
    """A model as a function of one tensor, with gradients.

    Args:
        content: an ONNX file without external data.

    Weights and computation are float32, also of a float16 model. Raises ScenarioError EG-X019 for a graph with control
    flow or with an operator that is not known here, at once and by name.
    """

    def __init__(self, content: bytes) -> None:
        self._torch = load_torch()
        onnx: Any = import_module("onnx")
        try:
            model = onnx.load_model_from_string(content)
        except Exception as error:  # protobuf's decoding errors have no common base
            raise ScenarioError("this is no ONNX model", code="EG-X019", hint="edgeguard scan FILE") from error
        graph = model.graph
        self._opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
        self._constants = {i.name: self._tensor(onnx, i) for i in graph.initializer}
        inputs = [i.name for i in graph.input if i.name not in self._constants]
        if len(inputs) != 1:
            raise ScenarioError(f"the model has {len(inputs)} inputs, an attack knows one", code="EG-X019")
        self._input = inputs[0]
        self.outputs = tuple(o.name for o in graph.output)
        self._steps: list[tuple[str, Mapping[str, Any], tuple[str, ...], tuple[str, ...]]] = []
        for node in graph.node:
            self._add(onnx, node)
        self._last_use = self._last_uses()

    def __call__(self, image: Any) -> tuple[Any, ...]:
        """Return the output tensors for an input tensor."""
        values = dict(self._constants)
        values[self._input] = image
        for number, (kind, attributes, inputs, outputs) in enumerate(self._steps):
            given = [values[name] if name else None for name in inputs]
            try:
                made = OPERATORS[kind](self._torch, attributes, given)
            except UnknownOperatorError as error:
                raise ScenarioError(f"not known to the attack: {error}", code="EG-X019") from None
            made = made if isinstance(made, tuple) else (made,)
            values.update(zip(outputs, made, strict=False))  # Dropout's mask and the like are not made
            for name in self._last_use.get(number, ()):
                values.pop(name, None)
        return tuple(values[name] for name in self.outputs)

    def _add(self, onnx: Any, node: Any) -> None:
        attributes: dict[str, Any] = {"opset": self._opset, "outputs": len(node.output)}
        for a in node.attribute:
            if a.type in _GRAPH_ATTRIBUTES:
                raise ScenarioError(f"{node.op_type} with a graph inside is not known to the attack", code="EG-X019")
            value = onnx.helper.get_attribute_value(a)
            if a.type == _TENSOR_ATTRIBUTE:
                value = self._tensor(onnx, value)
            attributes[a.name] = value.decode() if isinstance(value, bytes) else value
        if node.op_type == "Constant":
            self._constants[node.output[0]] = self._constant(attributes)
            return
        if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx"):
            raise ScenarioError(
                f"operator {node.op_type} is not known to the attack", code="EG-X019",
                hint="camera_square needs no gradients",
            )  # fmt: skip
        self._steps.append((node.op_type, attributes, tuple(node.input), tuple(node.output)))

    def _constant(self, attributes: Mapping[str, Any]) -> Any:
        if "value" in attributes:
            return attributes["value"]
        value = next(
            (attributes[k] for k in ("value_float", "value_int", "value_floats", "value_ints") if k in attributes), None
        )
        if value is None:
            raise ScenarioError("a Constant of strings or a sparse one is not known to the attack", code="EG-X019")
        return self._torch.tensor(value)

    def _tensor(self, onnx: Any, proto: Any) -> Any:
        if proto.data_location == 1:  # TensorProto.EXTERNAL
            raise ScenarioError("weights outside the file are not known to the attack", code="EG-X019")
        array = np.array(onnx.numpy_helper.to_array(proto))  # a copy: the proto's memory is read-only
        if array.dtype in (np.float16, np.float64):
            array = array.astype(np.float32)
        return self._torch.from_numpy(array)

    def _last_uses(self) -> Mapping[int, tuple[str, ...]]:
        """Return which values nobody reads after each step: what has no gradient is freed there."""
        last: dict[str, int] = {}
        for number, (_, _, inputs, _) in enumerate(self._steps):
            last.update(dict.fromkeys(inputs, number))
        found: dict[int, tuple[str, ...]] = {}
        for name, number in last.items():
            if name and name not in self.outputs and name not in self._constants:
                found[number] = (*found.get(number, ()), name)
        return found
