"""Opening a protected model against the public verifier, which only hashes, and against a plain load.

The models are made here: one MatMul per 16 MiB of random weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks.timing import paired_s
from edgeguard.bundle.model import open_model
from edgeguard.bundle.verify import verify_bundle
from edgeguard.clock import SystemClock
from edgeguard.infer.session import InferenceSession
from edgeguard.keys.file import FileKeyProvider
from edgeguard.trust.store import TrustStore
from firmware_tools.enroll import enroll, make_request
from firmware_tools.fleet import Fleet
from firmware_tools.grant import grant
from firmware_tools.pack import Release, pack_model

SIDE = 2048  # 2048 x 2048 float32 is 16 MiB
LAYERS = 8


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        plain, bundle, trust, key = _prepare(work)
        size_mib = plain.stat().st_size / 2**20
        report = _Report(size_mib)
        report.pair(
            "verify signature and digests", lambda: verify_bundle(bundle, trust),
            "model_signing API verify", lambda: _public_verify(bundle, work / "fleet" / "public" / "release-1.pem"),
        )  # fmt: skip
        report.pair(
            "verify and decrypt", lambda: open_model(bundle, trust=trust, key=key, expect_model="bench").close(),
            "model_signing API verify", lambda: _public_verify(bundle, work / "fleet" / "public" / "release-1.pem"),
        )  # fmt: skip
        protected = lambda: InferenceSession(bundle, trust=trust, key=key, expect_model="bench").close()  # noqa: E731
        report.pair(
            "protected load to session", protected,
            "InferenceSession(path)", lambda: onnxruntime.InferenceSession(str(plain)),
        )  # fmt: skip
        report.pair(
            "protected load to session", protected,
            "InferenceSession(bytes)", lambda: onnxruntime.InferenceSession(plain.read_bytes()),
        )  # fmt: skip


class _Report:
    def __init__(self, size_mib: float) -> None:
        print(f"model of {size_mib:.0f} MiB; best of 5, in turns")

    def pair(self, name: str, ours: Callable[[], object], peer_name: str, peer: Callable[[], object]) -> None:
        ours_s, peer_s = paired_s(ours, peer)
        print(f"{name:30s} {ours_s * 1e3:8.1f} ms   {peer_name:26s} {peer_s * 1e3:8.1f} ms   {ours_s / peer_s:5.2f} x")


def _prepare(work: Path) -> tuple[Path, Path, TrustStore, FileKeyProvider]:
    now_ns = SystemClock().wall_ns()
    plain = work / "model.onnx"
    onnx.save(_model(), plain)
    fleet = Fleet.create(
        work / "fleet", name="bench", wall_ns=now_ns, allow_unlocked_memory=True, device_state="optional"
    )
    key = FileKeyProvider.generate(work / "device.pem")
    request = work / "request"
    request.write_bytes(make_request(key, fleet.trust(now_ns), device_name="bench", board="generic"))
    enroll(fleet, request, confirm=lambda pending: True, wall_ns=now_ns)
    bundle = work / "model.bundle"
    pack_model(fleet, plain, bundle, release=Release("bench", "1"), wall_ns=now_ns)
    grant(fleet, bundle, "bench", wall_ns=now_ns)
    return plain, bundle, TrustStore.load(fleet.trust_folder, now_ns), key


def _model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.standard_normal((SIDE, SIDE), np.float32), f"w{i}") for i in range(LAYERS)]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(LAYERS)]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, SIDE]) for n in ("x0", f"x{LAYERS}")]
    graph = helper.make_graph(nodes, "bench", [ports[0]], [ports[1]], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _public_verify(bundle: Path, public_key: Path) -> None:
    import model_signing

    model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public_key).set_hashing_config(
        model_signing.hashing.Config().set_ignored_paths(
            paths=[bundle / name for name in ("model.sig", "recipients", "signatures")], ignore_git_paths=True
        )
    ).verify(bundle, bundle / "model.sig")
