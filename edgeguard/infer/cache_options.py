"""Which option of which execution provider names the directory where it keeps compiled models.

From onnxruntime's documentation of each provider. A provider that is not in the table has no such option or writes a
second model file instead (QNN's context binary); it cannot be given a sealed cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeguard.errors import InferenceError


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """How to send a provider's cache to a directory.

    options: from the directory's path to the provider options. at_first_run: it may compile when shapes are known, in
    the first run, and not while the session is made.
    """

    options: Callable[[str], Mapping[str, str]]
    at_first_run: bool = False


CACHE_OPTIONS: Final[Mapping[str, CacheOptions]] = {
    "CoreMLExecutionProvider": CacheOptions(lambda path: {"ModelCacheDirectory": path}),
    "MIGraphXExecutionProvider": CacheOptions(lambda path: {"migraphx_model_cache_dir": path}, at_first_run=True),
    "NvTensorRTRTXExecutionProvider": CacheOptions(lambda path: {"nv_runtime_cache_path": path}, at_first_run=True),
    "OpenVINOExecutionProvider": CacheOptions(lambda path: {"cache_dir": path}),
    "TensorrtExecutionProvider": CacheOptions(
        lambda path: {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": path,
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": path,
        },
        at_first_run=True,
    ),
    "VitisAIExecutionProvider": CacheOptions(lambda path: {"cache_dir": path, "cache_key": "model"}),
}


def require_cacheable(named: Sequence[tuple[str, Any]]) -> None:
    """Refuse a list of providers of which none keeps compiled models in a directory.

    Raises:
        InferenceError: EG-I014.
    """
    if not any(name in CACHE_OPTIONS for name, _ in named):
        raise InferenceError(
            f"none of {', '.join(name for name, _ in named)} keeps compiled models in a directory",
            code="EG-I014",
            hint=f"leave sealed_cache out; it serves {', '.join(sorted(CACHE_OPTIONS))}",
        )


def with_cache(named: Sequence[tuple[str, Mapping[str, Any]]], folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the providers with their cache in `folder`, each in a directory of its own."""
    directed: list[tuple[str, dict[str, Any]]] = []
    for name, options in named:
        known = CACHE_OPTIONS.get(name)
        directed.append((name, {**options, **(known.options(str(folder / name)) if known else {})}))
        if known:
            (folder / name).mkdir(mode=0o700, exist_ok=True)
    return directed


def compiles_at_first_run(named: Sequence[tuple[str, Any]]) -> bool:
    """Return whether one of the providers may still compile after the session has been made."""
    return any(name in CACHE_OPTIONS and CACHE_OPTIONS[name].at_first_run for name, _ in named)
