"""ONNX operators as torch functions, one per name: what image models are made of (operator sets 7 to 21).

Each gets (torch, attributes, inputs) and returns one tensor or a tuple. Integer inputs that shape a result (Reshape,
Slice, Resize, Split, ...) must be known without the image, or follow from shapes. Source: the ONNX operator
specification.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

Attributes = Mapping[str, Any]
Inputs = Sequence[Any]
Operator = Callable[[Any, Attributes, Inputs], Any]


class UnknownOperatorError(Exception):
    """An operator, or a mode of one, that is not written here."""


def _ints(value: Any) -> list[int]:
    return [int(v) for v in (value.reshape(-1).tolist() if hasattr(value, "tolist") else value)]


def _given(inputs: Inputs, index: int) -> Any:
    return inputs[index] if len(inputs) > index else None


def _spatial_pads(a: Attributes, size: Sequence[int], kernel: Sequence[int]) -> list[int]:
    """Return ONNX pads: all beginnings, then all ends."""
    count = len(kernel)
    strides, dilations = a.get("strides", [1] * count), a.get("dilations", [1] * count)
    auto = a.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", "VALID"):
        return list(a.get("pads", [0] * 2 * count)) if auto == "NOTSET" else [0] * 2 * count
    begins, ends = [], []
    for i in range(count):
        reach = (kernel[i] - 1) * dilations[i] + 1
        total = max((-(-size[i] // strides[i]) - 1) * strides[i] + reach - size[i], 0)
        small, large = total // 2, total - total // 2
        begins.append(small if auto == "SAME_UPPER" else large)
        ends.append(large if auto == "SAME_UPPER" else small)
    return [*begins, *ends]


def _padded(t: Any, x: Any, pads: Sequence[int], value: float) -> Any:
    """Apply ONNX pads of the last axes; torch wants the last axis first."""
    if not any(pads):
        return x
    count = len(pads) // 2
    order = [p for i in reversed(range(count)) for p in (pads[i], pads[count + i])]
    return t.nn.functional.pad(x, order, value=value)


def _conv(t: Any, a: Attributes, i: Inputs) -> Any:
    x, weight = i[0], i[1]
    spatial = weight.dim() - 2
    pads = _spatial_pads(a, x.shape[2:], weight.shape[2:])
    call = {1: t.nn.functional.conv1d, 2: t.nn.functional.conv2d, 3: t.nn.functional.conv3d}[spatial]
    symmetric = pads[:spatial] == pads[spatial:]
    x = x if symmetric else _padded(t, x, pads, 0.0)
    return call(
        x, weight, _given(i, 2), stride=a.get("strides", 1), padding=pads[:spatial] if symmetric else 0,
        dilation=a.get("dilations", 1), groups=a.get("group", 1),
    )  # fmt: skip


def _conv_transpose(t: Any, a: Attributes, i: Inputs) -> Any:
    pads = list(a.get("pads", [0, 0, 0, 0]))
    if a.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in a or pads[:2] != pads[2:]:
        raise UnknownOperatorError("ConvTranspose with this padding")
    return t.nn.functional.conv_transpose2d(
        i[0], i[1], _given(i, 2), stride=a.get("strides", 1), padding=pads[:2],
        output_padding=a.get("output_padding", 0), groups=a.get("group", 1), dilation=a.get("dilations", 1),
    )  # fmt: skip


def _max_pool(t: Any, a: Attributes, i: Inputs) -> Any:
    kernel = a["kernel_shape"]
    x = _padded(t, i[0], _spatial_pads(a, i[0].shape[2:], kernel), float("-inf"))
    return t.nn.functional.max_pool2d(
        x, kernel, stride=a.get("strides", 1), dilation=a.get("dilations", 1), ceil_mode=bool(a.get("ceil_mode", 0))
    )


def _average_pool(t: Any, a: Attributes, i: Inputs) -> Any:
    kernel, x = a["kernel_shape"], i[0]
    if a.get("ceil_mode", 0) or set(_ints(a.get("dilations", [1]))) != {1}:
        raise UnknownOperatorError("AveragePool with ceil_mode or dilations")
    pads = _spatial_pads(a, x.shape[2:], kernel)
    average = t.nn.functional.avg_pool2d(_padded(t, x, pads, 0.0), kernel, stride=a.get("strides", 1))
    if not any(pads) or a.get("count_include_pad", 0):
        return average
    inside = t.nn.functional.avg_pool2d(
        _padded(t, t.ones_like(x[:1, :1]), pads, 0.0), kernel, stride=a.get("strides", 1)
    )
    return average / inside


def _batch_normalization(t: Any, a: Attributes, i: Inputs) -> Any:
    return t.nn.functional.batch_norm(i[0], i[3], i[4], i[1], i[2], eps=a.get("epsilon", 1e-5))


def _clip(t: Any, a: Attributes, i: Inputs) -> Any:
    low, high = _given(i, 1), _given(i, 2)
    low = a.get("min") if low is None else low.item()
    high = a.get("max") if high is None else high.item()
    return i[0] if low is None and high is None else t.clamp(i[0], low, high)


def _gemm(t: Any, a: Attributes, i: Inputs) -> Any:
    left = i[0].T if a.get("transA", 0) else i[0]
    right = i[1].T if a.get("transB", 0) else i[1]
    out = a.get("alpha", 1.0) * t.matmul(left, right)
    return out if _given(i, 2) is None else out + a.get("beta", 1.0) * i[2]


def _reshape(t: Any, a: Attributes, i: Inputs) -> Any:
    del t
    shape = _ints(i[1])
    if not a.get("allowzero", 0):
        shape = [i[0].shape[k] if s == 0 else s for k, s in enumerate(shape)]
    return i[0].reshape(shape)


def _flatten(t: Any, a: Attributes, i: Inputs) -> Any:
    del t
    axis = a.get("axis", 1)
    axis = axis + i[0].dim() if axis < 0 else axis
    rows = 1
    for size in i[0].shape[:axis]:
        rows *= int(size)
    return i[0].reshape(rows, -1)


def _softmax(t: Any, a: Attributes, i: Inputs, *, logarithm: bool = False) -> Any:
    call = t.log_softmax if logarithm else t.softmax
    if a["opset"] >= 13:
        return call(i[0], dim=a.get("axis", -1))
    flat = _flatten(t, {"axis": a.get("axis", 1)}, i)  # before operator set 13 all axes from `axis` on are one
    return call(flat, dim=1).reshape(i[0].shape)


def _log_softmax(t: Any, a: Attributes, i: Inputs) -> Any:
    return _softmax(t, a, i, logarithm=True)


def _slice(t: Any, a: Attributes, i: Inputs) -> Any:
    x = i[0]
    starts, ends = (_ints(a["starts"]), _ints(a["ends"])) if "starts" in a else (_ints(i[1]), _ints(i[2]))
    axes = a.get("axes") if "starts" in a else _given(i, 3)
    axes = list(range(len(starts))) if axes is None else _ints(axes)
    steps = [1] * len(starts) if _given(i, 4) is None else _ints(i[4])
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        picked = range(int(x.shape[axis]))[slice(start, None if step < 0 and end < -x.shape[axis] else end, step)]
        x = t.index_select(x, axis, t.tensor(list(picked), dtype=t.long))
    return x


def _split(t: Any, a: Attributes, i: Inputs) -> Any:
    axis, x = a.get("axis", 0), i[0]
    sizes = a.get("split") if "split" in a else _given(i, 1)
    if sizes is None:
        part = -(-int(x.shape[axis]) // a["outputs"])
        return tuple(t.split(x, part, dim=axis))
    return tuple(t.split(x, _ints(sizes), dim=axis))


def _resize(t: Any, a: Attributes, i: Inputs) -> Any:
    x, scales, sizes = i[0], _given(i, 2), _given(i, 3)
    where, mode = a.get("coordinate_transformation_mode", "half_pixel"), a.get("mode", "nearest")
    if a["opset"] < 11:  # Resize-10 and Upsample: (X, scales), asymmetric
        scales, sizes, where = i[1] if len(i) > 1 else t.tensor(a["scales"]), None, "asymmetric"
    if sizes is not None and sizes.numel():
        size = _ints(sizes)[2:]
    else:
        size = [int(n * float(s)) for n, s in zip(x.shape[2:], scales.tolist()[2:], strict=True)]
    if mode == "nearest" and where == "asymmetric" and a.get("nearest_mode", "round_prefer_floor") == "floor":
        return t.nn.functional.interpolate(x, size=size, mode="nearest")
    if (
        mode == "nearest"
        and all(s % n == 0 for s, n in zip(size, x.shape[2:], strict=True))
        and where != "align_corners"
    ):
        return t.nn.functional.interpolate(x, size=size, mode="nearest")  # whole factors: every rule picks the same
    flags = {"half_pixel": False, "pytorch_half_pixel": False, "align_corners": True}
    if mode in ("linear", "cubic") and where in flags and (mode == "linear" or a.get("cubic_coeff_a", -0.75) == -0.75):
        kind = "bilinear" if mode == "linear" else "bicubic"
        return t.nn.functional.interpolate(x, size=size, mode=kind, align_corners=flags[where])
    raise UnknownOperatorError(f"Resize {mode} with {where} coordinates")


def _pad(t: Any, a: Attributes, i: Inputs) -> Any:
    pads = _ints(a["pads"] if "pads" in a else i[1])
    value = float(a.get("value", 0.0)) if _given(i, 2) is None else float(i[2])
    if a.get("mode", "constant") != "constant" or _given(i, 3) is not None:
        raise UnknownOperatorError("Pad other than with a constant")
    return _padded(t, i[0], pads, value)


def _axes(a: Attributes, i: Inputs, index: int = 1) -> list[int] | None:
    given = a.get("axes", _given(i, index))
    return None if given is None else _ints(given)


def _squeeze(t: Any, a: Attributes, i: Inputs) -> Any:
    del t
    axes = _axes(a, i)
    return i[0].squeeze() if axes is None else i[0].squeeze(tuple(axes))


def _unsqueeze(t: Any, a: Attributes, i: Inputs) -> Any:
    del t
    x, axes = i[0], _axes(a, i) or []
    for axis in sorted(k % (x.dim() + len(axes)) for k in axes):
        x = x.unsqueeze(axis)
    return x


def _reduce(name: str) -> Operator:
    def call(t: Any, a: Attributes, i: Inputs) -> Any:
        axes = _axes(a, i)
        dims = list(range(i[0].dim())) if axes is None else axes
        return getattr(t, name)(i[0], dim=dims, keepdim=bool(a.get("keepdims", 1)))

    return call


def _gather(t: Any, a: Attributes, i: Inputs) -> Any:
    axis = a.get("axis", 0) % i[0].dim()
    index = i[1].long() % i[0].shape[axis]
    shape = [*i[0].shape[:axis], *index.shape, *i[0].shape[axis + 1 :]]
    return t.index_select(i[0], axis, index.reshape(-1)).reshape(shape)


def _div(t: Any, a: Attributes, i: Inputs) -> Any:
    del a
    whole = not i[0].is_floating_point() and not i[1].is_floating_point()
    return t.div(i[0], i[1], rounding_mode="trunc") if whole else i[0] / i[1]


def _cast(t: Any, a: Attributes, i: Inputs) -> Any:
    # Float types other than float32 are computed in float32: a gradient in float16 underflows.
    kinds = {1: t.float32, 10: t.float32, 11: t.float32, 6: t.int32, 7: t.int64, 9: t.bool}
    if a["to"] not in kinds:
        raise UnknownOperatorError(f"Cast to element type {a['to']}")
    return i[0].to(kinds[a["to"]])


def _prelu(t: Any, a: Attributes, i: Inputs) -> Any:
    del a
    return t.where(i[0] >= 0, i[0], i[0] * i[1])


def _call(name: str) -> Operator:
    return lambda t, _, i: getattr(t, name)(*i)


def _depth_to_space(t: Any, a: Attributes, i: Inputs) -> Any:
    block, (n, c, h, w) = a["blocksize"], i[0].shape
    if a.get("mode", "DCR") == "CRD":
        return t.nn.functional.pixel_shuffle(i[0], block)
    parts = i[0].reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // block**2, h * block, w * block)


OPERATORS: Final[Mapping[str, Operator]] = {
    "Add": lambda _, __, i: i[0] + i[1],
    "Sub": lambda _, __, i: i[0] - i[1],
    "Mul": lambda _, __, i: i[0] * i[1],
    "Div": _div,
    "Pow": _call("pow"),
    "Sqrt": _call("sqrt"),
    "Exp": _call("exp"),
    "Log": _call("log"),
    "Abs": _call("abs"),
    "Neg": _call("neg"),
    "Erf": _call("erf"),
    "Tanh": _call("tanh"),
    "Sigmoid": _call("sigmoid"),
    "Relu": _call("relu"),
    "MatMul": _call("matmul"),
    "Where": _call("where"),
    "Max": lambda t, _, i: i[0] if len(i) == 1 else t.maximum(i[0], i[1]),
    "Min": lambda t, _, i: i[0] if len(i) == 1 else t.minimum(i[0], i[1]),
    "LeakyRelu": lambda t, a, i: t.nn.functional.leaky_relu(i[0], a.get("alpha", 0.01)),
    "Elu": lambda t, a, i: t.nn.functional.elu(i[0], a.get("alpha", 1.0)),
    "Softplus": lambda t, _, i: t.nn.functional.softplus(i[0]),
    "HardSigmoid": lambda t, a, i: t.clamp(a.get("alpha", 0.2) * i[0] + a.get("beta", 0.5), 0.0, 1.0),
    "HardSwish": lambda t, _, i: i[0] * t.clamp(i[0] / 6.0 + 0.5, 0.0, 1.0),
    "PRelu": _prelu,
    "Gelu": lambda t, a, i: t.nn.functional.gelu(i[0], approximate=a.get("approximate", "none")),
    "Clip": _clip,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda _, __, i: i[0].mean(dim=tuple(range(2, i[0].dim())), keepdim=True),
    "GlobalMaxPool": lambda _, __, i: i[0].amax(dim=tuple(range(2, i[0].dim())), keepdim=True),
    "BatchNormalization": _batch_normalization,
    "Gemm": _gemm,
    "Softmax": _softmax,
    "LogSoftmax": _log_softmax,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": lambda _, a, i: i[0].permute(a.get("perm", list(reversed(range(i[0].dim()))))),
    "Concat": lambda t, a, i: t.cat(list(i), dim=a["axis"]),
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": lambda t, _, i: t.broadcast_to(i[0], t.broadcast_shapes(tuple(i[0].shape), tuple(_ints(i[1])))),
    "Shape": lambda t, _, i: t.tensor(list(i[0].shape), dtype=t.int64),
    "ConstantOfShape": lambda t, a, i: t.full(_ints(i[0]), a["value"].item()) if "value" in a else t.zeros(_ints(i[0])),
    "Resize": _resize,
    "Upsample": _resize,
    "Pad": _pad,
    "ReduceMean": _reduce("mean"),
    "ReduceSum": _reduce("sum"),
    "ReduceMax": _reduce("amax"),
    "Cast": _cast,
    "Identity": lambda _, __, i: i[0],
    "Dropout": lambda _, __, i: i[0],  # at inference it passes on what it gets
    "DepthToSpace": _depth_to_space,
}  # fmt: skip
