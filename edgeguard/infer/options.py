"""What a caller may ask of onnxruntime when the model is a secret.

Session options are copied by an allow-list into options of our own, for two reasons. Many of them write the model in
the clear (optimized model, profile, context and engine caches) or load code. And the options object keeps raw
pointers to the weight buffers: one that the caller reuses after the wipe would hand dead memory to the next session.

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
ERRORS_ONLY: Final = 3  # onnxruntime warns once per initializer that is also an input

Provider = str | tuple[str, Mapping[str, Any]]

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
_COPIED_ENTRIES: Final = (
    "session.disable_prepacking",
    "session.disable_quant_qdq",
    "session.enable_quant_qdq_cleanup",
    "session.force_spinning_stop",
    "session.inter_op.allow_spinning",
    "session.intra_op.allow_spinning",
    "session.intra_op_thread_affinities",
    "session.set_denormal_as_zero",
    "session.use_env_allocators",
)
# Settings that write the model, or parts of it, to disk or take it from somewhere else.
_REFUSED_ENTRIES: Final = (
    "ep.context_embed_mode",
    "ep.context_enable",
    "ep.context_file_path",
    "ep.context_model_external_initializers_file_name",
    "session.debug_layout_transformation",
    "session.load_model_format",
    "session.model_external_initializers_file_folder_path",
    "session.optimized_model_external_initializers_file_name",
    "session.save_external_prepacked_constant_initializers",
    "session.save_model_format",
    "session.use_ort_model_bytes_directly",
    "session.use_ort_model_bytes_for_initializers",
)
# Provider options with one of these in their name put engines on disk or load a library from there; engines hold the
# weights in the clear (NVIDIA/TensorRT issue 4290).
_REFUSED_WORDS: Final = ("cache", "context", "dump", "profil", "path", "dir", "file", "library")
_REFUSED_ENVIRONMENT: Final = ("ORT_TENSORRT_", "ORT_MIGRAPHX_", "ORT_TVM_")  # the same options by another way
_OFF: Final = ("", "0", "false", "no", "off", "none")
RUNTIME_CONFIG_VARIABLE: Final = "ORT_LOAD_CONFIG_FROM_MODEL"


def checked_providers(providers: Sequence[Provider] | None) -> list[tuple[str, dict[str, Any]]]:
    """Return the providers with their options; the CPU alone when none are named.

    Raises:
        InferenceError: EG-I010, an option or environment variable would put the model on disk or load a library.
    """
    named = [(p, {}) if isinstance(p, str) else (p[0], dict(p[1])) for p in providers or (CPU_PROVIDER,)]
    for name, options in named:
        for key, value in options.items():
            if any(word in key.lower() for word in _REFUSED_WORDS) and str(value).strip().lower() not in _OFF:
                raise _refused(f"the option {key} of {name}")
    if any(name != CPU_PROVIDER for name, _ in named):
        for key, value in os.environ.items():
            by_environment = key.startswith(_REFUSED_ENVIRONMENT) and value.strip().lower() not in _OFF
            if by_environment and any(word in key.lower() for word in _REFUSED_WORDS):
                raise _refused(f"the environment variable {key}")
    return named


def session_options(ort: Any, wanted: Any, threads: int, providers: Sequence[tuple[str, Any]]) -> Any:
    """Return fresh onnxruntime options: `wanted` (or None) by allow-list, then what is not for the caller to choose.

    Raises:
        InferenceError: EG-I010, a setting that would expose the model. EG-I011, an unusable thread count.
    """
    if not 1 <= threads <= MAX_THREADS:
        raise InferenceError(f"cannot use {threads} threads", code="EG-I011", hint=f"choose 1 to {MAX_THREADS}")
    options = ort.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    if wanted is not None:
        _require_harmless(wanted)
        for name in _COPIED_OPTIONS:
            setattr(options, name, getattr(wanted, name))
        for key in _COPIED_ENTRIES:
            if (value := _entry(wanted, key)) is not None:
                options.add_session_config_entry(key, value)
    if wanted is None or not wanted.intra_op_num_threads:
        options.intra_op_num_threads = threads
    options.use_deterministic_compute = True
    if all(name != CPU_PROVIDER for name, _ in providers):
        # The runtime would quietly run what the accelerator cannot; whoever wants that names the CPU too.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


def _require_harmless(wanted: Any) -> None:
    if wanted.optimized_model_filepath:
        raise _refused("optimized_model_filepath")
    if wanted.enable_profiling:
        raise _refused("profiling")
    for key in _REFUSED_ENTRIES:
        if (_entry(wanted, key) or "").strip().lower() not in _OFF:
            raise _refused(f"the session option {key}")
    if wanted.has_providers():
        raise InferenceError(
            "providers are set in the session options", code="EG-I010", hint="pass them as providers=[...] instead"
        )


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
        hint="remove it; for debugging, run the plain model with onnxruntime on the host",
    )
