"""How large and what kind of ONNX model the gate lets through. Every limit with its reason."""

from __future__ import annotations

from typing import Final

MAX_GRAPH_BYTES: Final = (1 << 31) - 1  # no protobuf message can be longer
MAX_FIELDS: Final = 2_000_000  # about 30 per node of a real export; each costs a microsecond to read
MAX_NODES: Final = 50_000  # ten times the largest vision export we know; functions count once per call
MAX_NESTING: Final = 8  # If/Loop/Scan in one another; runtimes recurse per level, real exports stay below 4
MAX_CALL_DEPTH: Final = 16  # functions calling functions; runtimes inline them by recursion, torch reaches 5
MAX_TYPE_DEPTH: Final = 8  # sequence of optional of sequence ...
MAX_INITIALIZERS: Final = 50_000  # one per node is already more than real models have
MAX_RANK: Final = 16  # numpy and onnxruntime kernels are written for less; real models stay below 8
MAX_TENSOR_BYTES: Final = 2 << 30  # one tensor larger than a protobuf message fits no supported board
MAX_INITIALIZER_BYTES: Final = 8 << 30  # the memory of the largest supported board
MAX_FILL_ELEMENTS: Final = 1 << 28  # 1 GiB of float32 conjured from a shape of a few bytes
MAX_GEOMETRY: Final = 1 << 20  # of a stride, kernel or padding; the largest images have 2**15 pixels a side
MAX_NAME_BYTES: Final = 4096  # exporters write module paths; longer ones are no names
MAX_METADATA: Final = 256
MAX_OPSETS: Final = 64
MAX_OPSET_VERSION: Final = 1000  # ai.onnx counts 27 in 2026
MIN_IR_VERSION: Final = 3  # the first that names its opsets
MAX_IR_VERSION: Final = 14  # one past onnx 1.23; a runtime still refuses what it does not know

DEFAULT_DOMAINS: Final = frozenset({"", "ai.onnx"})  # two names of one domain
ONNX_DOMAINS: Final = DEFAULT_DOMAINS | {"ai.onnx.ml"}
MICROSOFT_DOMAIN: Final = "com.microsoft"

# Pure arithmetic that onnxruntime's quantizer and graph optimizer write into files. Left out on purpose: EPContext
# (loads an engine blob), everything that calls back into Python, and whole text-generation loops.
MICROSOFT_OPS: Final = frozenset(
    {
        "Attention",
        "BiasAdd",
        "BiasGelu",
        "BiasSoftmax",
        "BiasSplitGelu",
        "DequantizeLinear",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "EmbedLayerNormalization",
        "FastGelu",
        "FusedConv",
        "FusedGemm",
        "FusedMatMul",
        "Gelu",
        "GridSample",
        "GroupNorm",
        "GroupQueryAttention",
        "Inverse",
        "MatMulInteger16",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "MultiHeadAttention",
        "NhwcFusedConv",
        "NhwcMaxPool",
        "QAttention",
        "QGemm",
        "QLinearAdd",
        "QLinearAveragePool",
        "QLinearConcat",
        "QLinearConv",
        "QLinearGlobalAveragePool",
        "QLinearLeakyRelu",
        "QLinearMul",
        "QLinearReduceMean",
        "QLinearSigmoid",
        "QLinearSoftmax",
        "QLinearWhere",
        "QMoE",
        "QuantizeLinear",
        "QuickGelu",
        "RotaryEmbedding",
        "SimplifiedLayerNormalization",
        "SkipGroupNorm",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    }
)

# Imported by models that onnxruntime itself saved, without any node that uses them.
INERT_DOMAINS: Final = frozenset(
    {
        "ai.onnx.preview",
        "ai.onnx.preview.training",
        "ai.onnx.training",
        "com.microsoft.experimental",
        "com.microsoft.nchwc",
        "com.ms.internal.nhwc",
        "org.pytorch.aten",
    }
)
PYTHON_OPS: Final = frozenset(
    {"PyOp", "PythonOp"}
)  # run Python that the model names; no domain and no library allows it
RESERVED_PREFIXES: Final = ("ai.onnx", "com.microsoft", "com.ms.")  # a model may define no functions in these

# Keys by which a model file would configure the runtime that loads it.
RUNTIME_METADATA_KEYS: Final = frozenset({"ort_config"})
