"""What a caller may ask of onnxruntime when the model is a secret.

Session options are copied by an allow-list into options of our own, for two reasons. Many of them write the model in
the clear (optimized model, profile, context and engine caches) or load code. And the options object keeps raw
pointers to the weight buffers: one that the caller reuses after the wipe would hand dead memory to the next session.
The lists were held against every key in onnxruntime 1.32.0; `tests/infer/test_options.py` names those that appear in
the installed version and stand in no list, which are left out without an error.

ATLAS: AML.M0011 (restrict library loading), AML.M0012 (encrypt sensitive information).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from edgeguard.errors import InferenceError

CPU_PROVIDER: Final = "CPUExecutionProvider"
DEFAULT_THREADS: Final = 2  # inference shares a four-core board with sensors and checks
MAX_THREADS: Final = 256
SILENT: Final = 4  # onnxruntime's errors name layers of the model on stderr; what they say comes as an exception too
NO_CPU_FALLBACK: Final = "session.disable_cpu_ep_fallback"

Provider = str | tuple[str, Mapping[str, Any]]
NamedProvider = tuple[str, dict[str, Any]]

_COPIED_OPTIONS: Final = (
    "enable_cpu_mem_arena",
    "enable_mem_pattern",
    "enable_mem_reuse",
    "execution_mode",
    "execution_order",
    "graph_optimization_level",
    "inter_op_num_threads",
    "intra_op_num_threads",
    "log_severity_level",
    "log_verbosity_level",
    "logid",
)
COPIED_ENTRIES: Final = (
    "mlas.disable_kleidiai",
    "mlas.use_lut_gemm",
    "optimization.enable_cast_chain_elimination",
    "optimization.enable_gelu_approximation",
    "session.allow_released_opsets_only",
    "session.disable_aot_function_inlining",
    "session.disable_double_qdq_remover",
    "session.disable_prepacking",
    "session.disable_qdq_constant_folding",
    "session.disable_quant_qdq",
    "session.dynamic_block_base",
    "session.enable_dq_matmulnbits_fusion",
    "session.enable_quant_qdq_cleanup",
    "session.force_spinning_stop",
    "session.graph_optimizations_loop_level",
    "session.inter_op.allow_spinning",
    "session.inter_op.spin_backoff_max",
    "session.inter_op.spin_duration_us",
    "session.intra_op.allow_spinning",
    "session.intra_op.spin_backoff_max",
    "session.intra_op.spin_duration_us",
    "session.intra_op_thread_affinities",
    "session.prepack.enable_parallel",
    "session.qdq_matmulnbits_accuracy_level",
    "session.qdq_matmulnbits_block_size",
    "session.qdqisint8allowed",
    "session.set_denormal_as_zero",
    "session.strict_shape_type_inference",
    "session.use_device_allocator_for_initializers",
    "session.use_env_allocators",
    "session.x64quantprecision",
)
# Settings that write the model, or parts of it, to disk, take it from somewhere else, or borrow memory that we wipe.
REFUSED_ENTRIES: Final = (
    "ep.context_embed_mode",
    "ep.context_enable",
    "ep.context_file_path",
    "ep.context_model_external_initializers_file_name",
    "ep.context_node_name_prefix",
    "ep.context_source_model_path",
    "ep.enable_weightless",
    "ep.enable_weightless_ep_context_nodes",
    "ep.enable_weightless_mode",
    "ep.share_ep_contexts",
    "ep.stop_share_ep_contexts",
    "optimization.minimal_build_optimizations",
    "session.collect_node_memory_stats_to_file",
    "session.compile_only",
    "session.debug_layout_transformation",
    "session.enable_profiling",
    "session.layer_assignment_settings",
    "session.load_model_format",
    "session.model_external_initializers_file_folder_path",
    "session.moe.offload.allow_file_backing",
    "session.moe.offload.derived_cache_dir",
    "session.moe.offload.popularity_file",
    "session.moe.offload.source_root",
    "session.moe_expert_counter_state_file",
    "session.node_partition_config_file",
    "session.optimized_model_external_initializers_file_name",
    "session.optimized_model_external_initializers_min_size_in_bytes",
    "session.optimized_model_filepath",
    "session.resource_cuda_partitioning_settings",
    "session.save_external_prepacked_constant_initializers",
    "session.save_model_format",
    "session.use_external_initializer_file_buffers_directly",
    "session.use_ort_model_bytes_directly",
    "session.use_ort_model_bytes_for_initializers",
)
# Provider options with one of these in their name put engines on disk, read files that nobody signed, load a library,
# or point into memory; engines hold the weights in the clear (NVIDIA/TensorRT issue 4290).
_REFUSED_WORDS: Final = (
    "blob",
    "bytestream",
    "cache",
    "calibration",
    "compiled",
    "config",
    "context",
    "decrypt",
    "dir",
    "dump",
    "file",
    "folder",
    "library",
    "model_name",
    "op_packages",
    "path",
    "plugin",
    "profil",
    "saver",
    "xclbin",
)
# They hold one of the words and mean something else: shapes, and flags that touch no file.
_HARMLESS_NAMES: Final = frozenset(
    {
        "nv_profile_max_shapes",
        "nv_profile_min_shapes",
        "nv_profile_opt_shapes",
        "trt_context_memory_sharing_enable",
        "trt_profile_max_shapes",
        "trt_profile_min_shapes",
        "trt_profile_opt_shapes",
    }
)
# Written without being asked for, unless told otherwise: CANN saves the model it built in the working directory.
_SWITCHED_OFF: Final[Mapping[str, Mapping[str, str]]] = {"CANNExecutionProvider": {"dump_om_model": "0"}}
# The same options by another way; the last two are honoured by builds made for debugging.
_REFUSED_ENVIRONMENT: Final = (
    "OPENVINO_",
    "ORT_DEBUG_NODE_IO_",
    "ORT_MIGRAPHX_",
    "ORT_NV_TENSORRT_RTX_",
    "ORT_OPENVINO_",
    "ORT_QNN_",
    "ORT_TENSORRT_",
    "ORT_TVM_",
)
_OFF: Final = ("", "0", "false", "no", "off", "none")
RUNTIME_CONFIG_VARIABLE: Final = "ORT_LOAD_CONFIG_FROM_MODEL"


def checked_providers(providers: Sequence[Provider] | None) -> list[NamedProvider]:
    """Return the providers with their options; the CPU alone when none are named.

    Raises:
        InferenceError: EG-I010, an option or environment variable would put the model on disk or load a library;
            EG-I013, the list cannot be read or names a provider twice.
    """
    named = [_named(provider) for provider in providers or (CPU_PROVIDER,)]
    if len({name for name, _ in named}) != len(named):
        raise InferenceError("a provider is named twice", code="EG-I013", hint="name each provider once")
    for name, options in named:
        for key, value in options.items():
            if _exposes(key) and not _is_off(value):
                raise _refused(f"the option {key} of {name}")
        options.update(_SWITCHED_OFF.get(name, {}))
    accelerated = any(name != CPU_PROVIDER for name, _ in named)
    for key, value in os.environ.items():
        watched = key.startswith("ORT_DEBUG_NODE_IO_") or (accelerated and key.startswith(_REFUSED_ENVIRONMENT))
        if watched and _exposes(key) and not _is_off(value):
            raise _refused(f"the environment variable {key}")
    return named


def session_options(
    ort: Any, wanted: Any, threads: int, providers: Sequence[tuple[str, Any]], *, require_all_nodes: bool | None = None
) -> Any:
    """Return fresh onnxruntime options: `wanted` (or None) by allow-list, then what is not for the caller to choose.

    Args:
        require_all_nodes: refuse a model of which the CPU would run a part; None does so when the CPU is not named.

    Raises:
        InferenceError: EG-I010, a setting that would expose the model. EG-I011, an unusable thread count. EG-I012,
            `require_all_nodes` with the CPU among the providers.
    """
    if not 1 <= threads <= MAX_THREADS:
        raise InferenceError(f"cannot use {threads} threads", code="EG-I011", hint=f"choose 1 to {MAX_THREADS}")
    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    # Weights outside the arena, which grows in powers of two, are given back one by one when a kernel has packed them.
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    if wanted is not None:
        _require_harmless(wanted)
        untouched = ort.SessionOptions()
        for name in _COPIED_OPTIONS:
            if (value := getattr(wanted, name)) != getattr(untouched, name):
                setattr(options, name, value)
        for key in COPIED_ENTRIES:
            if (value := _entry(wanted, key)) is not None:
                options.add_session_config_entry(key, value)
    if wanted is None or not wanted.intra_op_num_threads:
        options.intra_op_num_threads = threads
    options.use_deterministic_compute = True
    named = [name for name, _ in providers]
    if require_all_nodes and CPU_PROVIDER in named:
        raise InferenceError(
            "every node is asked for on an accelerator, and the CPU is among the providers",
            code="EG-I012",
            hint="leave CPUExecutionProvider out of providers, or require_all_nodes",
        )
    if CPU_PROVIDER not in named and require_all_nodes is not False:
        # The runtime would quietly run what the accelerator cannot; whoever wants that names the CPU too.
        options.add_session_config_entry(NO_CPU_FALLBACK, "1")
    if named != [CPU_PROVIDER]:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def bound_options(options: Any) -> dict[str, str]:
    """Return what of the session options changes a compiled model, for the binding of a sealed cache."""
    entries = {key: _entry(options, key) for key in (*COPIED_ENTRIES, NO_CPU_FALLBACK)}
    bound = {key: value for key, value in entries.items() if value is not None}
    return bound | {"graph_optimization_level": str(options.graph_optimization_level)}


def _named(provider: Any) -> NamedProvider:
    if isinstance(provider, str):
        return provider, {}
    if isinstance(provider, tuple) and len(provider) == 2:
        name, options = provider
        if isinstance(name, str) and isinstance(options, Mapping):
            return name, {str(key): value for key, value in options.items()}
    raise InferenceError(
        "a provider is neither a name nor a pair of name and options",
        code="EG-I013",
        hint='for example providers=[("TensorrtExecutionProvider", {"trt_fp16_enable": "1"})]',
    )


def _require_harmless(wanted: Any) -> None:
    if wanted.optimized_model_filepath:
        raise _refused("optimized_model_filepath")
    if wanted.enable_profiling:
        raise _refused("profiling")
    for key in REFUSED_ENTRIES:
        if not _is_off(_entry(wanted, key) or ""):
            raise _refused(f"the session option {key}")
    # onnxruntime 1.20 has no has_providers, and no way to set them there either.
    if getattr(wanted, "has_providers", bool)():
        raise InferenceError(
            "providers are set in the session options", code="EG-I010", hint="pass them as providers=[...] instead"
        )


def _exposes(name: str) -> bool:
    return name.lower() not in _HARMLESS_NAMES and any(word in name.lower() for word in _REFUSED_WORDS)


def _is_off(value: object) -> bool:
    return str(value).strip().lower() in _OFF


def _entry(options: Any, key: str) -> str | None:
    """Return a session config entry; None when it is not set (onnxruntime raises then)."""
    try:
        return str(options.get_session_config_entry(key))
    except RuntimeError:
        return None


def _refused(what: str) -> InferenceError:
    return InferenceError(
        f"{what} would expose the protected model or load code beside it",
        code="EG-I010",
        hint="remove it; to keep compiled engines between starts pass sealed_cache=SealedCache(FOLDER, key=KEY)",
    )
