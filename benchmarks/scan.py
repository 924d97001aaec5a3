"""The scanner over its hostile corpus and over honest files, beside other scanners where they are installed.

Peers are run by the Python of another environment, named in EDGEGUARD_SCAN_PEERS:

    python -m venv peers && peers/bin/pip install picklescan modelscan fickling modelaudit
    EDGEGUARD_SCAN_PEERS=peers/bin/python python -m benchmarks scan

A hostile file that ends with exit code 0 was passed as clean: that is what a pipeline sees.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks.timing import best_s
from edgeguard.scan.onnx_gate import check_model
from edgeguard.scan.protobuf import length_delimited
from edgeguard.scan.scanner import scan_bytes, scan_file

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "tests" / "scan" / "samples"


def main() -> None:
    _speed()
    with tempfile.TemporaryDirectory() as folder:
        hostile, honest = _write(Path(folder))
        columns = {"edgeguard": {str(path): int(scan_file(path).verdict.value != "clean") for path in hostile + honest}}
        peers = os.environ.get("EDGEGUARD_SCAN_PEERS", "")
        if peers:
            script = ROOT / "benchmarks" / "scan_peers.py"
            done = subprocess.run([peers, str(script), folder], capture_output=True, text=True, check=True)
            columns |= json.loads(done.stdout.splitlines()[-1])
        _table(columns, hostile, honest)


def _table(columns: dict[str, dict[str, int]], hostile: list[Path], honest: list[Path]) -> None:
    groups = sorted({path.parent.name for path in hostile})
    print(f"\nhostile files that end with exit code 0 (passed as clean), of {len(hostile)}")
    print(
        f"{'':22s}" + "".join(f"{group:>16s}" for group in groups) + f"{'all':>8s}{'errors':>8s}{'honest flagged':>16s}"
    )
    for name, codes in columns.items():
        passed = [path for path in hostile if codes[str(path)] == 0]
        cells = "".join(f"{sum(path.parent.name == group for path in passed):16d}" for group in groups)
        errors = sum(codes[str(path)] > 1 for path in hostile)
        flagged = sum(codes[str(path)] == 1 for path in honest)
        print(f"{name:22s}{cells}{len(passed):8d}{errors:8d}{flagged:10d} of {len(honest)}")
    for group in groups:
        print(f"{group}: {sum(path.parent.name == group for path in hostile)} files")


def _write(folder: Path) -> tuple[list[Path], list[Path]]:
    """Write corpus and samples as files; each hostile one in a folder of its group."""
    corpus = _corpus_module()
    hostile: list[Path] = []
    for group in ("pickles", "containers", "tensor_files", "configurations", "onnx_models"):
        for index, sample in enumerate(getattr(corpus, group)()):
            path = folder / f"{index:03d}" / group / sample.file_name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(sample.content)
            hostile.append(path)
    honest = []
    for source in sorted(SAMPLES.iterdir()):
        if source.suffix != ".py" and scan_file(source).verdict.value == "clean":
            honest.append(folder / "honest" / source.name)
            honest[-1].parent.mkdir(exist_ok=True)
            honest[-1].write_bytes(source.read_bytes())
    return hostile, honest


def _corpus_module() -> ModuleType:
    path = ROOT / "tests" / "scan" / "hostile.py"
    spec = importlib.util.spec_from_file_location("hostile", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hostile"] = module
    spec.loader.exec_module(module)
    return module


def _speed() -> None:
    heavy = _onnx(nodes=300, weight_bytes=200_000_000)
    deep = _onnx(nodes=5000, weight_bytes=1000)
    print(f"gate, 200 MB model of 300 nodes   {best_s(lambda: check_model(heavy, {})) * 1e3:8.1f} ms")
    print(f"gate, 5,000 nodes                 {best_s(lambda: check_model(deep, {})) * 1e3:8.1f} ms")
    print(f"onnx.load_from_string, 5,000 nodes{best_s(lambda: onnx.load_from_string(deep)) * 1e3:8.1f} ms")
    rows = b"\x80\x04](" + b"G?\xf0\0\0\0\0\0\0" * 1_000_000 + b"e."
    print(f"pickle of 1,000,000 opcodes       {best_s(lambda: scan_bytes(rows, 'm.pkl'), 2) * 1e3:8.1f} ms")


def _onnx(nodes: int, weight_bytes: int) -> bytes:
    ports = [helper.make_tensor_value_info(f"v{i}", TensorProto.FLOAT, [1, 8, 32, 32]) for i in range(nodes + 1)]
    chain = [
        helper.make_node("Conv", [f"v{i}", "w"], [f"v{i + 1}"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        for i in range(nodes)
    ]
    graph = helper.make_graph(chain, "g", ports[:1], ports[-1:], value_info=ports[1:-1])
    weights = TensorProto(name="w", data_type=TensorProto.UINT8, dims=[weight_bytes]).SerializeToString()
    weights += length_delimited(9, np.zeros(weight_bytes, np.uint8).tobytes())
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    raw = model.graph.SerializeToString() + length_delimited(5, weights)
    model.ClearField("graph")
    return model.SerializeToString() + length_delimited(7, raw)


if __name__ == "__main__":
    main()
