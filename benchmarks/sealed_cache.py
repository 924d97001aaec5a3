"""The sealed provider cache: what it adds to a start, and what sealing and opening cost by size.

The first table is a directory of random bytes against a plain copy of it, hot in the page cache. With --openvino a
second one runs the real OpenVINO provider in an environment of its own, which is made when it is missing (about 20 s,
needs the network): a protected load with no cache, with a plain cache directory (which EdgeGuard refuses; the benchmark
goes around it), and sealed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.timing import paired_s
from edgeguard.clock import SystemClock
from edgeguard.infer.cache_binding import CacheBinding
from edgeguard.infer.sealed_cache import SealedCache
from edgeguard.keys.file import FileKeyProvider
from firmware_tools.enroll import enroll, make_request
from firmware_tools.fleet import Fleet
from firmware_tools.grant import grant
from firmware_tools.pack import Release, pack_model

SIZES_MIB = (4, 64, 256)
REQUIREMENT = "onnxruntime-openvino==1.24.1"
VENVS = Path(os.environ.get("EDGEGUARD_VENVS", f"/tmp/edgeguard-venvs-{os.getuid()}"))  # noqa: S108
PACKAGES = ("numpy", "cryptography", "msgspec", "tuf", "securesystemslib")
BINDING = CacheBinding("11" * 32, "22" * 32, 0, (("bench", ()),), (), "1", (), ())
LAYERS, CHANNELS = 24, 128

PROGRAM = """
import json, shutil, sys, time
from pathlib import Path
from edgeguard.bundle.model import open_model
from edgeguard.clock import SystemClock
from edgeguard.infer.options import session_options
from edgeguard.infer.runtime import make_session, onnxruntime
from edgeguard.infer.sealed_cache import SealedCache
from edgeguard.infer.session import InferenceSession
from edgeguard.keys.file import FileKeyProvider
from edgeguard.trust.store import TrustStore

work = Path(sys.argv[1])
ort = onnxruntime()
trust = TrustStore.load(work / "fleet" / "trust", SystemClock().wall_ns())
key = FileKeyProvider(work / "device.pem")
ports = {"trust": trust, "key": key, "expect_model": "bench"}
name, options = "OpenVINOExecutionProvider", {"device_type": "CPU"}

def uncached():
    InferenceSession(work / "bundle", providers=[(name, options)], **ports).close()

def plain():
    named = [(name, {**options, "cache_dir": str(work / "plain")})]
    with open_model(work / "bundle", **ports) as model:
        make_session(ort, model.graph, model.weights, session_options(ort, None, 2, named), named)

states = []
def sealed():
    cache = SealedCache(work / "sealed", key=key, allow_swap=True)
    with InferenceSession(work / "bundle", providers=[(name, options)], sealed_cache=cache, **ports) as session:
        states.append(session.cache.state)

times = {}
for call in (uncached, plain, sealed) * 6:
    start = time.perf_counter()
    call()
    times.setdefault(call.__name__, []).append(time.perf_counter() - start)
best = {name: min(seconds[1:]) for name, seconds in times.items()}
print(json.dumps({"best": best, "first": {n: s[0] for n, s in times.items()}, "states": states}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="The sealed provider cache.")
    parser.add_argument("--openvino", action="store_true", help="also run the OpenVINO provider, installed on demand")
    with_provider = parser.parse_args().openvino
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        _by_size(work)
        if with_provider:
            _with_openvino(work)


def _by_size(work: Path) -> None:
    print("directory of random bytes; best of 5, in turns")
    key = FileKeyProvider.generate(work / "size.pem")
    for size_mib in SIZES_MIB:
        source = work / "source"
        source.write_bytes(np.random.default_rng(size_mib).bytes(size_mib * 2**20))
        cache = SealedCache(work / f"cache-{size_mib}", key=key, allow_swap=True)

        def seal(cache: SealedCache = cache, source: Path = source) -> None:
            cache.object_path("fleet", "bench").unlink(missing_ok=True)
            opened = cache.open("fleet", "bench", BINDING)
            shutil.copyfile(source, opened.path / "engine")
            assert opened.finish().state == "built"
            opened.close()

        def restore(cache: SealedCache = cache) -> None:
            opened = cache.open("fleet", "bench", BINDING)
            assert opened.finish().state == "restored"
            opened.close()

        def copy(source: Path = source) -> None:
            shutil.copyfile(source, "/dev/shm/edgeguard-bench-copy")  # noqa: S108
            os.unlink("/dev/shm/edgeguard-bench-copy")  # noqa: S108

        for name, call in (("copy in, seal, wipe", seal), ("open, check, wipe", restore)):
            ours_s, copy_s = paired_s(call, copy)
            print(
                f"{size_mib:4d} MiB  {name:20s} {ours_s * 1e3:8.1f} ms  {size_mib / ours_s / 1024:5.2f} GiB/s"
                f"   copy to memory {copy_s * 1e3:8.1f} ms"
            )


def _with_openvino(work: Path) -> None:
    python = _environment()
    if python is None:
        print(f"{REQUIREMENT} cannot be installed here")
        return
    _prepare(work)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run(
        [python, "-c", PROGRAM, work], check=True, capture_output=True, text=True, timeout=600, env=environment
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    best = answer["best"]
    print(f"\nOpenVINO provider, model of {(work / 'model.onnx').stat().st_size / 2**20:.0f} MiB, in turns")
    for name in ("uncached", "plain", "sealed"):
        print(
            f"{name:10s} first {answer['first'][name] * 1e3:8.1f} ms   later, best of 5 {best[name] * 1e3:8.1f} ms"
            f"   {best[name] / best['plain']:5.2f} x plain cache"
        )
    print(f"states of the sealed cache: {', '.join(answer['states'])}")


def _environment() -> Path | None:
    folder = VENVS / f"{REQUIREMENT}-py{sys.version_info.major}{sys.version_info.minor}"
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        packages = [f"{name}=={version(name)}" for name in PACKAGES]
        if subprocess.run([python, "-m", "pip", "install", "-q", REQUIREMENT, *packages], check=False).returncode:
            return None
        ready.touch()
    return python


def _prepare(work: Path) -> None:
    now_ns = SystemClock().wall_ns()
    onnx.save(_model(), work / "model.onnx")
    fleet = Fleet.create(
        work / "fleet", name="bench", wall_ns=now_ns, allow_unlocked_memory=True, device_state="optional"
    )
    key = FileKeyProvider.generate(work / "device.pem")
    request = work / "request"
    request.write_bytes(make_request(key, fleet.trust(now_ns), device_name="bench", board="generic"))
    enroll(fleet, request, confirm=lambda pending: True, wall_ns=now_ns)
    pack_model(fleet, work / "model.onnx", work / "bundle", release=Release("bench", "1"), wall_ns=now_ns)
    grant(fleet, work / "bundle", "bench", wall_ns=now_ns)


def _model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(
            (rng.standard_normal((CHANNELS, CHANNELS if i else 3, 3, 3)) / 34).astype(np.float32), f"w{i}"
        )
        for i in range(LAYERS)
    ]
    nodes = []
    for i in range(LAYERS):
        nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"c{i}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"x{i + 1}"]))
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 56, 56])
        for name, channels in (("x0", 3), (f"x{LAYERS}", CHANNELS))
    ]
    graph = helper.make_graph(nodes, "bench", [ports[0]], [ports[1]], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
