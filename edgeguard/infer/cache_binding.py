"""What a compiled model is bound to: this bundle, these options, these versions, this machine.

docs/formats/sealed-cache.md section 2. A field too many costs one compilation; a field too few runs code that was
compiled for something else. So whatever can be read cheaply is in.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeguard.trust.strict_json import canonical

Pairs = tuple[tuple[str, str], ...]

_CPU_LINES: Final = ("model name", "flags", "Features", "CPU implementer", "CPU part", "CPU revision", "microcode")
_VENDOR_LIBRARIES: Final = ("libnvinfer.so*", "libcudnn.so*", "libcudart.so*", "libopenvino.so*", "libmigraphx.so*")
_LIBRARY_FOLDERS: Final = (
    "/usr/lib",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/local/cuda/lib64",
)
_VENDOR_PACKAGES: Final = (
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
    "openvino",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
)
_ACCELERATOR_CLASSES: Final = ("0x03", "0x12")  # PCI classes: display controller, processing accelerator


@dataclass(frozen=True, slots=True)
class CacheBinding:
    """All that must be the same for a compiled model to be used again; see the format for each field."""

    statement: str
    graph: str
    generation: int
    providers: tuple[tuple[str, Pairs], ...]
    session: Pairs
    runtime: str
    versions: Pairs
    hardware: Pairs

    def canonical(self) -> bytes:
        """Return the bytes that go into the key."""
        return canonical(
            {
                "schema": "edgeguard/ep-cache-binding/v1",
                "statement": self.statement,
                "graph": self.graph,
                "generation": str(self.generation),
                "providers": [[name, [list(pair) for pair in pairs]] for name, pairs in self.providers],
                "session": [list(pair) for pair in self.session],
                "runtime": self.runtime,
                "versions": [list(pair) for pair in self.versions],
                "hardware": [list(pair) for pair in self.hardware],
            }
        )


def as_pairs(options: Mapping[str, Any]) -> Pairs:
    """Return options as sorted text pairs."""
    return tuple(sorted((str(key), str(value)) for key, value in options.items()))


def bound_providers(named: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[tuple[str, Pairs], ...]:
    """Return the providers and their options as they enter the binding."""
    return tuple((name, as_pairs(options)) for name, options in named)


def runtime_versions(library_folder: Path) -> Pairs:
    """Return what identifies onnxruntime's libraries, vendor packages and libraries, and kernel drivers.

    Libraries count with size and time of change: hashing hundreds of megabytes at each start would cost more than the
    cache saves, and whoever can replace these libraries runs code in this process anyway.
    """
    found = {f"onnxruntime/{path.name}": _stamp(path) for path in library_folder.glob("*.so*")}
    for folder in _LIBRARY_FOLDERS:
        for pattern in _VENDOR_LIBRARIES:
            found |= {str(path): f"{path.resolve().name} {_stamp(path)}" for path in Path(folder).glob(pattern)}
    for package in _VENDOR_PACKAGES:
        if version := _package_version(package):
            found[f"package/{package}"] = version
    for name, path in (
        ("driver/nvidia", Path("/proc/driver/nvidia/version")),
        ("driver/nvidia-module", Path("/sys/module/nvidia/version")),
        ("driver/amdgpu", Path("/sys/module/amdgpu/version")),
        ("board/l4t", Path("/etc/nv_tegra_release")),
    ):
        if text := _text(path):
            found[name] = text
    found["kernel"] = platform.release()
    return as_pairs(found)


def machine_hardware() -> Pairs:
    """Return what identifies processor, board and accelerators of this machine."""
    found = {"machine": platform.machine()}
    lines = _text(Path("/proc/cpuinfo")).splitlines()
    for label in _CPU_LINES:
        values = sorted({line.partition(":")[2].strip() for line in lines if line.split(":")[0].strip() == label})
        if values:
            found[f"cpu/{label}"] = _short(values)
    for name in ("model", "serial-number", "compatible"):
        if text := _text(Path("/proc/device-tree") / name):
            found[f"board/{name}"] = text.replace("\0", " ").strip()
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        kept = [line for line in _text(path).splitlines() if line.startswith(("Model", "GPU UUID", "Video BIOS"))]
        found[f"gpu/{path.parent.name}"] = " ".join(" ".join(line.split()) for line in kept)
    for path in sorted(Path("/sys/bus/pci/devices").glob("*")):
        if _text(path / "class").startswith(_ACCELERATOR_CLASSES):
            ids = [_text(path / name).strip() for name in ("vendor", "device", "revision", "subsystem_device")]
            found[f"pci/{path.name}"] = " ".join(ids)
    return as_pairs(found)


def _package_version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _stamp(path: Path) -> str:
    with suppress(OSError):
        status = path.stat()
        return f"{status.st_size} {status.st_mtime_ns}"
    return "unreadable"


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(errors="replace")
    return ""


def _short(values: Iterable[str]) -> str:
    """Return the values themselves, or their digest where they are long (processor flags)."""
    text = "; ".join(values)
    return text if len(text) <= 200 else hashlib.sha256(text.encode()).hexdigest()
