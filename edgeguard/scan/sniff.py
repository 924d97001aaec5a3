"""Decides by content what a file is and hands it to its scanner; the name only has to agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgeguard.scan.compressed_scan import compression, scan_compressed
from edgeguard.scan.content import Content, Context, shown
from edgeguard.scan.gguf_scan import GGUF_MAGIC, scan_gguf
from edgeguard.scan.keras_scan import HDF5_MAGIC, scan_hdf5
from edgeguard.scan.numpy_scan import MAGIC as NPY_MAGIC
from edgeguard.scan.numpy_scan import scan_npy
from edgeguard.scan.onnx_scan import is_onnx, scan_onnx
from edgeguard.scan.pickle_scan import looks_like_pickle, scan_pickle
from edgeguard.scan.safetensors_scan import is_safetensors, scan_safetensors
from edgeguard.scan.tar_scan import is_tar, scan_tar
from edgeguard.scan.tensorflow_scan import is_tensorflow, scan_tensorflow, scan_tflite
from edgeguard.scan.text_scan import program_kind, scan_program, scan_text
from edgeguard.scan.torch_scan import is_legacy, scan_legacy
from edgeguard.scan.zip_reader import ends_as_zip
from edgeguard.scan.zip_scan import scan_zip

Scanner = Callable[[Content, Context], str]

# Formats that are recognised only so that the report can say what was not scanned.
_CLOSED: Final = (
    (0, b"7z\xbc\xaf\x27\x1c", "7z archive"),
    (0, b"Rar!\x1a\x07", "RAR archive"),
    (0, b"\x04\x22\x4d\x18", "lz4 stream"),
    (0, b"\x28\xb5\x2f\xfd", "zstd stream"),
    (4, b"ORTM", "ONNX Runtime format (.ort)"),
    (0, b"ptrt", "TensorRT engine"),
    (0, b"ftrt", "TensorRT engine"),
    (0, b"\x0a\x0dBLOB", "OpenVINO blob"),
    (0, b"ZF0x", "zfile of joblib before 0.10"),
)
_ZIP_HEADS: Final = (b"PK\x03\x04", b"PK\x05\x06")

# What a name promises; a file of another kind is a finding. `.bin` and `.model` promise nothing.
_PICKLE_SUFFIXES: Final = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt")
_PICKLES: Final = ("pickle", "joblib pickle")
_PROMISES: Final[dict[str, tuple[str, ...]]] = {
    ".onnx": ("ONNX",),
    ".pt": ("PyTorch", "TorchScript", *_PICKLES),
    ".pth": ("PyTorch", "TorchScript", *_PICKLES),
    ".ckpt": ("PyTorch", "TorchScript", *_PICKLES),
    ".pkl": (*_PICKLES, "PyTorch"),
    ".pickle": (*_PICKLES, "PyTorch"),
    ".joblib": _PICKLES,
    ".npy": ("NPY",),
    ".npz": ("NPZ", "zip archive"),
    ".safetensors": ("safetensors",),
    ".gguf": ("GGUF",),
    ".keras": ("Keras", "HDF5"),
    ".h5": ("HDF5",),
    ".hdf5": ("HDF5",),
    ".tflite": ("TFLite",),
    ".pb": ("TensorFlow", "ONNX"),
    ".json": ("JSON",),
    ".zip": ("zip archive", "PyTorch", "TorchScript", "NPZ", "Keras"),
    ".ort": ("ONNX Runtime format",),
}


def make_dispatch(folder: Path | None) -> Scanner:
    """Return the function that scans content of any kind; `folder` is where an ONNX model's data files are."""

    def dispatch(content: Content, context: Context) -> str:
        closed = _closed_kind(bytes(content.data[:16]))
        if closed:
            context.report("EG-SCAN-007", content, closed)
            return closed
        kind = _scan_by_content(content, context, folder if content.member == "" else None)
        if not bytes(content.data[:4]).startswith(_ZIP_HEADS) and kind != "zip archive" and ends_as_zip(content.data):
            context.report("EG-SCAN-002", content, f"{kind}, and a zip archive to those who read from the end")
            scan_zip(content, context)
        _check_promise(content, context, kind)
        return kind

    return dispatch


def _closed_kind(head: bytes) -> str:
    return next((kind for at, magic, kind in _CLOSED if head[at : at + len(magic)] == magic), "")


def _scan_by_content(content: Content, context: Context, folder: Path | None) -> str:
    data = content.data
    head = bytes(data[:16])
    if not head:
        context.report("EG-SCAN-001", content, "empty")
        return "empty"
    for matches, scanner in _BY_MAGIC:
        if matches(data, head):
            return scanner(content, context)
    if is_onnx(data):
        return scan_onnx(content, context, folder)
    packed = compression(data)
    if packed:
        return scan_compressed(content, context, packed)
    program = program_kind(head)
    if program:
        return scan_program(content, context, program)
    if looks_like_pickle(data, context):
        return scan_pickle(content, context)
    if is_tar(data):
        return scan_tar(content, context)
    if ends_as_zip(data):
        return scan_zip(content, context)
    # A loader goes by the name and will try: what is wrong, and what stands before it, counts.
    if content.name.lower().endswith(_PICKLE_SUFFIXES):
        return scan_pickle(content, context)
    if content.name.lower().endswith(".onnx"):
        return scan_onnx(content, context, folder)
    text = scan_text(content, context)
    if text is not None:
        return text
    if is_tensorflow(data):
        return scan_tensorflow(content, context)
    context.report("EG-SCAN-001", content, f"{len(data)} bytes of no known kind")
    return "unknown"


_BY_MAGIC: Final[tuple[tuple[Callable[[memoryview, bytes], bool], Scanner], ...]] = (
    (lambda _data, head: head.startswith(_ZIP_HEADS), scan_zip),
    (lambda _data, head: head.startswith(NPY_MAGIC), scan_npy),
    (lambda _data, head: head.startswith(HDF5_MAGIC), scan_hdf5),
    (lambda _data, head: head.startswith(GGUF_MAGIC), scan_gguf),
    (lambda _data, head: head[4:8] == b"TFL3", scan_tflite),
    (lambda data, _head: is_legacy(data), scan_legacy),
    (lambda data, _head: is_safetensors(data), scan_safetensors),
)


def _check_promise(content: Content, context: Context, kind: str) -> None:
    name = content.name.lower()
    suffix = name[name.rfind(".") :] if "." in name else ""
    promised = _PROMISES.get(suffix)
    if promised is not None and kind not in ("empty", "unknown") and not kind.startswith(promised):
        context.report("EG-SCAN-002", content, f"{shown(suffix)} but {kind}")
