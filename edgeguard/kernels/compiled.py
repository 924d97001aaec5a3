"""Which kernels are compiled, where their machine code lies, and whether anything compiles right now."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from numba.core import event
from numba.core.dispatcher import Dispatcher

from edgeguard import kernels
from edgeguard.errors import EnvironmentMissingError


@dataclass(frozen=True, slots=True)
class KernelModule:
    """One module of kernels after it was imported.

    compiled, loaded: signatures that this process had to compile, and that came out of the cache. lazy: kernels that
    would still compile at a call. cache: folders with their machine code.
    """

    name: str
    kernels: int
    compiled: int
    loaded: int
    lazy: tuple[str, ...]
    cache: frozenset[Path]
    wall_s: float


def load_kernels() -> Iterator[KernelModule]:
    """Import every module of kernels, which compiles what the cache lacks: all signatures are explicit.

    Raises:
        EnvironmentMissingError: EG-E070, there is no place where machine code could be kept.
    """
    for module in sorted(iter_modules(kernels.__path__), key=lambda each: each.name):
        if not module.name.startswith("_"):  # the twins are no kernels
            yield _load(f"{kernels.__name__}.{module.name}")


def _load(name: str) -> KernelModule:
    start_s = time.perf_counter()
    try:
        namespace = vars(import_module(name))
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        raise EnvironmentMissingError(
            f"there is no folder in which compiled kernels of {name} can be kept",
            code="EG-E070",
            hint="set NUMBA_CACHE_DIR to a folder that only this user can write, such as /var/cache/edgeguard",
        ) from None
    wall_s = time.perf_counter() - start_s
    own: list[Any] = [
        found for found in namespace.values() if isinstance(found, Dispatcher) and found.py_func.__module__ == name
    ]
    stats = [kernel.stats for kernel in own]
    return KernelModule(
        name=name.rpartition(".")[2],
        kernels=len(own),
        compiled=sum(sum(each.cache_misses.values()) for each in stats),
        loaded=sum(sum(each.cache_hits.values()) for each in stats),
        lazy=tuple(kernel.py_func.__name__ for kernel in own if kernel._can_compile),
        cache=frozenset(Path(each.cache_path) for each in stats if each.cache_path),
        wall_s=wall_s,
    )


class _Compilations(event.Listener):  # type: ignore[misc] # numba has no types
    """Collects the names of what numba compiles."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def on_start(self, event: Any) -> None:
        function = event.data["dispatcher"].py_func
        self.names.append(f"{function.__module__}.{function.__qualname__}")

    def on_end(self, event: Any) -> None:
        """Only beginnings count."""


@contextmanager
def compilations() -> Iterator[list[str]]:
    """Within the block, names of functions that numba compiles are appended to the list; loading is no compiling."""
    listener = _Compilations()
    with event.install_listener("numba:compile", listener):
        yield listener.names
