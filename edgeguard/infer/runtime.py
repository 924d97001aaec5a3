"""Handing a decrypted model to onnxruntime: from memory where it can, through sealed memory files where it cannot.

From 1.24 on, onnxruntime takes external data as buffers. Older ones (1.20 to 1.23, which some board vendors still
ship) load from a path only: there the graph and the weights go into sealed memory files, and onnxruntime is given a
private folder that holds nothing but links to them. Those versions open whatever name a model writes; the gate has
seen by then that it writes the bundle's own flat names only.

ATLAS: AML.M0011 (restrict library loading), AML.M0012 (encrypt sensitive information).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import importlib
import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from edgeguard.errors import EdgeGuardError, EnvironmentMissingError, InferenceError
from edgeguard.harden.memory import wipe_bytes
from edgeguard.infer.options import CPU_PROVIDER, NO_CPU_FALLBACK, RUNTIME_CONFIG_VARIABLE

OLDEST: Final = (1, 20)  # the oldest that tests/infer/test_old_runtimes.py runs
_IN_MEMORY: Final = "add_external_initializers_from_files_in_memory"
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_MFD_NOEXEC_SEAL: Final = 0x8  # Linux 6.3; the os module does not name them
_MFD_EXEC: Final = 0x10
_GRAPH_NAME: Final = "model.onnx"

_libc = ctypes.CDLL(None)


def onnxruntime() -> Any:
    """Import onnxruntime, which takes a quarter of a second and is not needed to verify a model.

    Raises:
        EnvironmentMissingError: EG-E020, it is missing or too old.
    """
    module: Any = None
    with suppress(ImportError):
        module = importlib.import_module("onnxruntime")
    if not hasattr(module, "SessionOptions") or version_of(module) < OLDEST:
        raise EnvironmentMissingError(
            "onnxruntime 1.20 or newer is needed to run protected models",
            code="EG-E020",
            hint="pip install onnxruntime",
        )
    return module


def version_of(ort: Any) -> tuple[int, int]:
    """Return major and minor version; (0, 0) when they cannot be read."""
    parts = str(getattr(ort, "__version__", "")).split(".")
    return (int(parts[0]), int(parts[1])) if len(parts) > 1 and parts[0].isdigit() and parts[1].isdigit() else (0, 0)


def make_session(
    ort: Any,
    graph: memoryview,
    weights: Mapping[str, mmap.mmap],
    options: Any,
    providers: Sequence[tuple[str, Mapping[str, Any]]],
) -> Any:
    """Return the onnxruntime session of a model that the gate has let through.

    Raises:
        InferenceError: EG-I001, onnxruntime refuses the model; its own message may quote the graph and is not shown.
    """
    # Metadata that would configure the runtime is refused by the gate; this closes the same door from outside.
    os.environ.pop(RUNTIME_CONFIG_VARIABLE, None)
    held = {name: data for name, data in weights.items() if len(data)}
    failure = ""
    session = None
    try:
        if hasattr(options, _IN_MEMORY):
            session = _from_memory(ort, graph, held, options, providers)
        else:
            session = _from_memory_files(ort, graph, held, options, providers)
    except EdgeGuardError:
        raise
    except Exception as error:
        failure = type(error).__name__
    if session is None:
        raise _not_taken(ort, failure, options, providers)
    return session


def release_freed_memory() -> None:
    """Give freed heap pages back to the kernel: they hold copies of the weights that onnxruntime has let go of."""
    with suppress(AttributeError):  # a C library other than glibc
        _libc.malloc_trim(0)


def _from_memory(ort: Any, graph: memoryview, held: Mapping[str, mmap.mmap], options: Any, providers: Any) -> Any:
    if held:
        # The lengths must be the buffers' own: onnxruntime reads past the end of a shorter one.
        lengths = [len(data) for data in held.values()]
        getattr(options, _IN_MEMORY)(list(held), list(held.values()), lengths)
    copied = bytes(graph)
    session = None
    try:
        session = ort.InferenceSession(copied, options, **_arguments(providers))
    finally:
        if session is not None:
            session._model_bytes = None  # else kept, in the clear, as long as the session
        wipe_bytes(copied)  # it has been parsed, or refused
    return session


def _from_memory_files(ort: Any, graph: memoryview, held: Mapping[str, mmap.mmap], options: Any, providers: Any) -> Any:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgeguard-")))
        graph_name = _GRAPH_NAME
        while graph_name in held:
            graph_name = f"_{graph_name}"
        contents: dict[str, memoryview | mmap.mmap] = {graph_name: graph, **held}
        for name, data in contents.items():
            fd = stack.enter_context(sealed_memory_file(data))
            (folder / name).symlink_to(f"/proc/self/fd/{fd}")
        return ort.InferenceSession(str(folder / graph_name), options, **_arguments(providers))


@contextmanager
def sealed_memory_file(data: memoryview | mmap.mmap | bytes, *, executable: bool = False) -> Iterator[int]:
    """Give the descriptor of an anonymous file with this content, which nobody can change any more.

    Raises:
        EnvironmentMissingError: EG-E011, there is not enough memory.
    """
    fd = -1
    try:
        try:
            fd = _memory_file(_MFD_EXEC if executable else _MFD_NOEXEC_SEAL)
            with memoryview(data) as view:
                done = 0
                while done < len(view):
                    done += os.write(fd, view[done:])
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        except OSError:
            raise EnvironmentMissingError(
                f"cannot put {len(data)} bytes into a memory file",
                code="EG-E011",
                hint="free memory, or use a smaller model",
            ) from None
        yield fd
    finally:
        if fd >= 0:
            os.close(fd)


def _memory_file(kind: int) -> int:
    try:
        return os.memfd_create("edgeguard", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | kind)
    except OSError as error:
        if error.errno != errno.EINVAL:  # what a kernel before 6.3 says to the last flag
            raise
        return os.memfd_create("edgeguard", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def _arguments(providers: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    return {
        "providers": [(name, dict(options)) for name, options in providers],
        "enable_fallback": 0,  # the CPU is never a silent replacement
        "read_config_from_model": 0,
    }


def _not_taken(ort: Any, failure: str, options: Any, providers: Sequence[tuple[str, Any]]) -> InferenceError:
    hint = "run the plain model with the same onnxruntime and provider on the host to see why"
    with suppress(RuntimeError):
        if options.get_session_config_entry(NO_CPU_FALLBACK) == "1":
            hint = f"a node may be beyond {providers[0][0]}; add {CPU_PROVIDER} to providers to let the CPU run it"
    return InferenceError(
        f"onnxruntime {ort.__version__} does not take the model ({failure})", code="EG-I001", hint=hint
    )
