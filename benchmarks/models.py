"""Protected models against plain ones: verify, decrypt, load, memory.

The peers are what somebody without EdgeGuard would run on the same model: the OpenSSF Model Signing tool, which only
hashes, and onnxruntime on the plain file. The models are made here: one MatMul per 16 MiB of random weights.

python -m benchmarks models [--size-mib 512] [--load-mib 208] [--rounds 5]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import mmap
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks.timing import best_cpu_s, best_s, paired_s
from edgeguard.bundle.chunked import decryptor_of, encryptor_of
from edgeguard.bundle.copies import STEP_BYTES, hashed_copies
from edgeguard.bundle.manifest import CIPHER_AES_256_GCM, CIPHER_CHACHA20_POLY1305, HEADER_BYTES, ciphertext_size
from edgeguard.bundle.model import VerifiedModel, open_model
from edgeguard.bundle.storage import DirectoryStorage
from edgeguard.bundle.verify import verify_bundle
from edgeguard.clock import SystemClock
from edgeguard.harden.memory import private_mapping, wipe
from edgeguard.infer.options import DEFAULT_THREADS
from edgeguard.infer.session import InferenceSession
from edgeguard.keys.file import FileKeyProvider
from edgeguard.scan.onnx_gate import check_model
from edgeguard.trust.state import DeviceState
from edgeguard.trust.store import TrustStore
from firmware_tools.boards import CipherChoice
from firmware_tools.enroll import enroll, make_request
from firmware_tools.fleet import Fleet
from firmware_tools.grant import grant
from firmware_tools.pack import Release, pack_model

SIDE = 2048  # 2048 x 2048 float32 is 16 MiB
LAYER_MIB = 16
MODEL_ID = "bench"


@dataclass(frozen=True, slots=True)
class Subject:
    """One model: plain and signed with the public tool, and as a bundle that one device may open."""

    plain: Path
    plain_key: Path
    bundle: Path
    fleet: Path
    trust: TrustStore
    key: FileKeyProvider
    state: DeviceState

    @property
    def release_key(self) -> Path:
        return self.fleet / "public" / "release-1.pem"

    @property
    def mib(self) -> float:
        return self.plain.stat().st_size / 2**20

    def open(self) -> VerifiedModel:
        return self.open_other(self.bundle)

    def open_other(self, bundle: Path) -> VerifiedModel:
        return open_model(bundle, trust=self.trust, key=self.key, expect_model=MODEL_ID, state=self.state)

    def session(self) -> InferenceSession:
        return InferenceSession(self.bundle, trust=self.trust, key=self.key, expect_model=MODEL_ID, state=self.state)


def main() -> None:
    parser = argparse.ArgumentParser(prog=sys.argv[0], description="Protected models against plain ones.")
    parser.add_argument("--size-mib", type=int, default=512, help="model for verify and decrypt; a multiple of 16")
    parser.add_argument("--load-mib", type=int, default=208, help="model for sessions and memory; a multiple of 16")
    parser.add_argument("--rounds", type=int, default=5, help="the best of so many, in turns")
    parser.add_argument("--child", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _report_memory(options.child[0], Path(options.child[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        subject = _prepare(Path(folder), options.size_mib, "aes")
        report = _Report(subject.mib, options.rounds)
        _compare_verifying(report, subject, Path(folder))
        _print_stages(subject, options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        subject = _prepare(Path(folder), options.load_mib, "aes")
        _compare_loading(_Report(subject.mib, options.rounds), subject)
        _print_gate(subject, options.rounds)
        _print_memory(subject)


class _Report:
    def __init__(self, size_mib: float, rounds: int) -> None:
        self.rounds = rounds
        print(f"model of {size_mib:.0f} MiB; best of {rounds}, in turns; {_cores()} cores")

    def pair(self, name: str, ours: Callable[[], object], peer_name: str, peer: Callable[[], object]) -> None:
        ours_s, peer_s = paired_s(ours, peer, self.rounds)
        print(f"{name:38s} {ours_s * 1e3:8.1f} ms   {peer_name:38s} {peer_s * 1e3:8.1f} ms   {ours_s / peer_s:5.2f} x")


def _compare_verifying(report: _Report, subject: Subject, work: Path) -> None:
    plain = lambda: _public_verify(subject.plain.parent, subject.plain_key)  # noqa: E731
    same_files = lambda: _public_verify(subject.bundle, subject.release_key)  # noqa: E731
    decrypt = lambda: subject.open().close()  # noqa: E731
    report.pair("verify", lambda: verify_bundle(subject.bundle, subject.trust), "model_signing, plain model", plain)
    report.pair("verify and decrypt", decrypt, "model_signing, plain model", plain)
    report.pair("verify and decrypt", decrypt, "model_signing, the bundle's own files", same_files)
    with _one_core():
        report.pair("verify and decrypt, one core", decrypt, "model_signing, plain model", plain)
    chacha = _pack(subject, work / "chacha.bundle", "chacha")
    opened = lambda: subject.open_other(chacha).close()  # noqa: E731
    report.pair("verify and decrypt, ChaCha20", opened, "model_signing, plain model", plain)
    _print_cpu("verify and decrypt, ChaCha20", best_cpu_s(opened, report.rounds))
    _print_cpu("model_signing, plain model", best_cpu_s(plain, report.rounds))
    _compare_processes(report, subject)


def _compare_processes(report: _Report, subject: Subject) -> None:
    verify = [sys.executable, "-m", "edgeguard.cli.main", "verify"]
    folder, key = str(subject.plain.parent), str(subject.plain_key)
    bundle = [*verify, str(subject.bundle), "--trust", _trust(subject)]
    plain = [*verify, folder, "--public-key", key]
    public = [sys.executable, "-m", "model_signing", "verify", "key", folder]
    public += ["--signature", f"{folder}/model.sig", "--public_key", key]
    name = "process: model_signing verify, plain"
    report.pair("process: edgeguard verify BUNDLE", lambda: _run(bundle), name, lambda: _run(public))
    report.pair("process: edgeguard verify --public-key", lambda: _run(plain), name, lambda: _run(public))
    for command, what in (
        (bundle, "edgeguard verify BUNDLE"),
        (plain, "edgeguard verify --public-key"),
        (public, name),
    ):
        _print_cpu(what, min(_child_cpu_s(command) for _ in range(report.rounds)))


def _child_cpu_s(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _run(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _print_cpu(what: str, cpu_s: float) -> None:
    print(f"  processor time: {what:38s} {cpu_s * 1e3:8.1f} ms")


def _compare_loading(report: _Report, subject: Subject) -> None:
    path = str(subject.plain)
    protected = lambda: subject.session().close()  # noqa: E731
    report.pair(
        "protected load to a ready session", protected,
        "InferenceSession(path)", lambda: onnxruntime.InferenceSession(path, _session_options()),
    )  # fmt: skip
    report.pair(
        "protected load to a ready session", protected,
        "InferenceSession(bytes)",
        lambda: onnxruntime.InferenceSession(subject.plain.read_bytes(), _session_options()),
    )  # fmt: skip


def _print_stages(subject: Subject, rounds: int) -> None:
    """Processor time of each stage alone; in the pipeline they overlap, and the sum is what one core has to do."""
    with DirectoryStorage(subject.bundle) as storage, subject.open() as model:
        payloads = model.manifest.payloads
        sizes = [payload.plaintext_bytes for payload in payloads]
        buffer = memoryview(bytearray(STEP_BYTES))

        def read() -> None:
            for payload in payloads:
                with storage.open_stream(f"payload/{payload.name}") as stream:
                    while stream.readinto(buffer):
                        pass

        def copy_and_hash() -> None:
            for payload in payloads:
                with hashed_copies(storage, payload, beside=False) as copies:
                    for _ in copies:
                        pass

        total = sum(sizes)
        stages = {
            "read into private memory": best_cpu_s(read, rounds),
            "SHA-256 of a step in cache": _repeated_s(lambda: hashlib.sha256(buffer).digest(), total, rounds),
            "read and SHA-256": best_cpu_s(copy_and_hash, rounds),
            "AES-256-GCM into warm memory": _decrypt_s(CIPHER_AES_256_GCM, total, rounds),
            "ChaCha20-Poly1305 into warm memory": _decrypt_s(CIPHER_CHACHA20_POLY1305, total, rounds),
            "page faults of fresh private memory": best_cpu_s(lambda: _touch(sizes), rounds),
            "wipe": _wipe_s(sizes, rounds),
            "signature, policy, manifest, wrap": _signed_parts_s(subject, rounds),
        }
    whole_s = best_cpu_s(lambda: subject.open().close(), rounds)
    for name, stage_s in {**stages, "verify and decrypt, all of it": whole_s}.items():
        print(f"  processor time: {name:38s} {stage_s * 1e3:8.1f} ms   {stage_s / whole_s:5.2f}")


def _repeated_s(call: Callable[[], object], total: int, rounds: int) -> float:
    return best_cpu_s(lambda: [call() for _ in range(total // STEP_BYTES)], rounds)


def _decrypt_s(cipher: str, total: int, rounds: int) -> float:
    cek, plain = memoryview(bytes(32)), memoryview(bytes(32 * STEP_BYTES))
    sealed = memoryview(bytearray(ciphertext_size(len(plain)) + STEP_BYTES))
    written = encryptor_of(cipher, cek, b"").update_into(plain, sealed)
    warm = memoryview(bytearray(2 * STEP_BYTES))

    def decrypt() -> None:
        for _ in range(total // len(plain)):
            decryptor = decryptor_of(cipher, cek, b"")
            decryptor.update_into(sealed[:HEADER_BYTES], warm)
            for start in range(HEADER_BYTES, written, STEP_BYTES):
                decryptor.update_into(sealed[start : min(start + STEP_BYTES, written)], warm)

    return best_cpu_s(decrypt, rounds)


def _touch(sizes: list[int]) -> None:
    for size in sizes:
        mapping = private_mapping(size)
        for start in range(0, size, mmap.PAGESIZE):
            mapping[start] = 1
        mapping.close()


def _wipe_s(sizes: list[int], rounds: int) -> float:
    def run() -> float:
        mappings = [private_mapping(size) for size in sizes]
        for mapping in mappings:
            mapping[:] = b"\1" * len(mapping)
        start = time.process_time()
        for mapping in mappings:
            wipe(mapping)
        return time.process_time() - start

    return min(run() for _ in range(rounds))


def _signed_parts_s(subject: Subject, rounds: int) -> float:
    from edgeguard.bundle.verify import verify_signed_parts

    def run() -> None:
        with DirectoryStorage(subject.bundle) as storage:
            verified = verify_signed_parts(storage, subject.trust, expect_model=MODEL_ID, board="", wall_ns=None)
            subject.key.open_wrap(
                verified.statement, storage.read_small(f"recipients/{subject.key.kid}.hpke", 4096)
            ).close()

    return best_cpu_s(run, rounds)


def _print_gate(subject: Subject, rounds: int) -> None:
    with subject.open() as model:
        sizes = {name: len(data) for name, data in model.weights.items()}
        gate_s = best_s(lambda: check_model(model.graph, sizes), rounds)
    raw = subject.plain.read_bytes()
    plain_s = best_s(lambda: check_model(raw, {}), rounds)
    print(f"  structural gate: {gate_s * 1e3:.2f} ms on the bundle's graph, {plain_s * 1e3:.2f} ms on the plain file")


def _print_memory(subject: Subject) -> None:
    """Peak and lasting resident memory, each way in a process of its own, above what it had before."""
    for way in ("protected", "path", "bytes"):
        command = [sys.executable, "-m", "benchmarks.models", "--child", way, str(subject.fleet.parent)]
        facts = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        peak, lasting = (facts[name] / 2**20 / subject.mib for name in ("peak", "lasting"))
        print(f"  memory: {way:10s} peak {peak:5.2f} x the model   with the session open {lasting:5.2f} x")


def _report_memory(way: str, work: Path) -> None:
    """Run in a child: make one session and print what it took, in bytes."""
    plain, bundle = work / "plain" / "model.onnx", work / "model.bundle"
    trust = TrustStore.load(_trust_folder(work / "fleet"), SystemClock().wall_ns())
    key = FileKeyProvider(work / "device.pem")
    onnxruntime.InferenceSession(_model(0).SerializeToString(), _session_options())  # what onnxruntime needs itself
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    session: object = None
    if way == "protected":
        state = DeviceState.open(work / "state", key=key, fleet_id=trust.fleet_id)
        session = InferenceSession(bundle, trust=trust, key=key, expect_model=MODEL_ID, state=state)
    elif way == "path":
        session = onnxruntime.InferenceSession(str(plain), _session_options())
    else:
        session = onnxruntime.InferenceSession(plain.read_bytes(), _session_options())
    print(json.dumps({"peak": _status("VmHWM") - before, "lasting": _status("VmRSS") - before}))
    del session


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def _prepare(work: Path, size_mib: int, cipher: CipherChoice) -> Subject:
    import model_signing
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now_ns = SystemClock().wall_ns()
    (work / "plain").mkdir()
    plain = work / "plain" / "model.onnx"
    onnx.save(_model(size_mib // LAYER_MIB), plain)
    private = ec.generate_private_key(ec.SECP256R1())
    (work / "plain.key").write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    (work / "plain.pem").write_bytes(
        private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    signature = work / "plain" / "model.sig"
    model_signing.signing.Config().use_elliptic_key_signer(private_key=work / "plain.key").set_hashing_config(
        model_signing.hashing.Config().set_ignored_paths(paths=[signature])
    ).sign(work / "plain", signature)
    fleet = Fleet.create(work / "fleet", name="bench", wall_ns=now_ns, allow_unlocked_memory=True)
    key = FileKeyProvider.generate(work / "device.pem")
    (work / "request").write_bytes(make_request(key, fleet.trust(now_ns), device_name="bench", board="generic"))
    enroll(fleet, work / "request", confirm=lambda pending: True, wall_ns=now_ns)
    trust = TrustStore.load(fleet.trust_folder, now_ns)
    state = DeviceState.create(work / "state", key=key, trust=trust)
    subject = Subject(plain, work / "plain.pem", work / "model.bundle", work / "fleet", trust, key, state)
    _pack(subject, subject.bundle, cipher)
    return subject


def _pack(subject: Subject, out: Path, cipher: CipherChoice) -> Path:
    fleet, now_ns = Fleet.open(subject.fleet), SystemClock().wall_ns()
    pack_model(fleet, subject.plain, out, release=Release(MODEL_ID, "1", cipher=cipher), wall_ns=now_ns)
    grant(fleet, out, "bench", wall_ns=now_ns)
    return out


def _model(layers: int) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.standard_normal((SIDE, SIDE), np.float32), f"w{i}") for i in range(layers)]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(layers)]
    nodes.append(helper.make_node("Identity", [f"x{layers}"], ["y"]))
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, SIDE]) for n in ("x0", "y")]
    graph = helper.make_graph(nodes, "bench", [ports[0]], [ports[1]], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _session_options() -> onnxruntime.SessionOptions:
    """The peers' sessions get as many threads as ours."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = DEFAULT_THREADS
    return options


def _public_verify(folder: Path, public_key: Path) -> None:
    import model_signing

    verifying = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    verifying.verify(folder, folder / "model.sig")


def _trust_folder(fleet: Path) -> Path:
    return Fleet.open(fleet).trust_folder


def _trust(subject: Subject) -> str:
    return str(_trust_folder(subject.fleet))


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


@contextmanager
def _one_core() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


if __name__ == "__main__":
    main()
