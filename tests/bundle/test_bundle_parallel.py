"""Several payloads on several cores: the same bytes, the same refusals, and nothing left when one of them fails."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgeguard.bundle.copies as copies_module
import edgeguard.bundle.payload as payload_module
from edgeguard.bundle.copies import hashed_copies, on_all_cores
from edgeguard.bundle.verify import verify_bundle
from edgeguard.errors import BundleFormatError, EdgeGuardError, SignatureError
from firmware_tools import onnx_split
from firmware_tools.grant import grant
from firmware_tools.pack import Release, pack_model

NOW_NS = 1_790_000_000_000_000_000
MODEL_ID = "road-objects"
TENSORS = 7
SIDE = 360  # 518,400 bytes a tensor, so that a blob takes several steps


@pytest.fixture(scope="module")
def blobs(world, tmp_path_factory) -> Path:
    """A bundle whose weights are spread over several payloads of more than one step each."""
    folder = tmp_path_factory.mktemp("blobs")
    rng = np.random.default_rng(5)
    weights = [numpy_helper.from_array(rng.normal(size=(SIDE, SIDE)).astype(np.float32), f"w{i}") for i in range(7)]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(TENSORS)]
    ports = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [1, SIDE]) for i in (0, TENSORS)]
    graph = helper.make_graph(nodes, "g", [ports[0]], [ports[1]], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_split, "BLOB_BYTES", 600_000)
        pack_model(world.fleet, folder / "m.onnx", folder / "b", release=Release(MODEL_ID, "1"), wall_ns=NOW_NS)
    grant(world.fleet, folder / "b", world.key.kid, wall_ns=NOW_NS)
    return folder / "b"


@pytest.fixture(params=[1, 2, 3, 16])
def cores(request, monkeypatch) -> int:
    """As if the machine had so many."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(request.param)))
    return request.param


def test_weights_in_several_payloads_run_as_the_plain_model_does(world, blobs, cores):
    """Packed, decrypted on any number of cores, and run: bit for bit the answer of the plain file."""
    import onnxruntime

    from edgeguard.infer.session import InferenceSession

    assert len(list((blobs / "payload").iterdir())) == 5
    with InferenceSession(
        blobs, trust=world.trust, key=world.key, expect_model=MODEL_ID, wall_ns=NOW_NS, threads=1
    ) as session:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        plain = onnxruntime.InferenceSession(str(blobs.parent / "m.onnx"), options, providers=["CPUExecutionProvider"])
        feeds = {"x0": np.random.default_rng(1).normal(size=(1, SIDE)).astype(np.float32)}
        (ours,), (theirs,) = session.run(None, feeds), plain.run(None, feeds)
    assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("payload", [f"payload/{index:03d}.egc" for index in range(5)])
def test_damage_in_any_payload_is_refused_and_named_on_any_number_of_cores(world, blobs, tmp_path, cores, payload):
    """Whichever fails, all are wiped; verify says which and where."""
    storage = world.storage.of(blobs)
    raw = bytearray(storage.files[payload])
    raw[len(raw) // 2] ^= 1
    with pytest.raises(SignatureError, match=payload):
        world.open(storage.changed({payload: bytes(raw)}))
    for name, content in storage.files.items():
        (tmp_path / "b" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "b" / name).write_bytes(bytes(raw) if name == payload else content)
    with pytest.raises(SignatureError, match=f"{payload} is damaged or altered between bytes 0 and"):
        verify_bundle(tmp_path / "b", world.trust, wall_ns=NOW_NS)


def test_a_failure_stops_the_other_payloads_and_wipes_them(world, blobs, monkeypatch):
    """What other threads had decrypted by then is zero as well, and no thread goes on."""
    made = []
    real = payload_module.private_mapping

    def recording(size: int):
        mapping = real(size)
        made.append(memoryview(mapping))
        return mapping

    monkeypatch.setattr(payload_module, "private_mapping", recording)
    storage = world.storage.of(blobs)
    raw = storage.files["payload/003.egc"]
    before = threading.active_count()
    with pytest.raises(BundleFormatError):
        world.open(storage.changed({"payload/003.egc": raw[:-1]}))
    assert threading.active_count() == before
    assert len(made) == 5
    assert not any(bytes(view).strip(b"\0") for view in made)


def test_the_first_payload_in_order_gives_the_error_however_the_threads_ran(world, blobs, cores):
    """Two are damaged; the report does not depend on luck where both are judged."""
    verified = verify_bundle(blobs, world.trust, wall_ns=NOW_NS)

    def work(payload, beside):
        if payload.name in ("001.egc", "003.egc"):
            raise SignatureError(payload.name)
        return payload.name

    with pytest.raises(SignatureError, match=r"001\.egc"):
        on_all_cores(verified.manifest.payloads, work)
    assert on_all_cores(verified.manifest.payloads, lambda payload, beside: payload.name) == {
        payload.name: payload.name for payload in verified.manifest.payloads
    }


@pytest.mark.parametrize("count", [1, 2, 4])
def test_only_a_payload_above_a_cores_share_is_hashed_beside(world, blobs, monkeypatch, count):
    """One core never; many cores those that would keep the others waiting."""
    payloads = verify_bundle(blobs, world.trust, wall_ns=NOW_NS).manifest.payloads
    seen = {}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(count)))
    on_all_cores(payloads, lambda payload, beside: seen.update({payload.name: beside}))
    share = sum(payload.ciphertext_bytes for payload in payloads) // count
    assert seen == {payload.name: count > 1 and payload.ciphertext_bytes > share for payload in payloads}


@pytest.mark.parametrize("beside", [False, True])
def test_a_reader_that_gives_up_leaves_no_thread_behind(world, blobs, beside):
    """Also when the consumer raises in the middle."""
    payload = verify_bundle(blobs, world.trust, wall_ns=NOW_NS).manifest.payloads[1]
    before = threading.active_count()

    def give_up():
        with hashed_copies(world.storage.of(blobs), payload, beside=beside) as copies:
            for _ in copies:
                raise KeyError

    with pytest.raises(KeyError):
        give_up()
    assert threading.active_count() == before


def test_a_hash_that_fails_is_no_digest(world, blobs, monkeypatch):
    """Nothing is taken for verified because a thread has died."""

    class Broken:
        def update(self, data: memoryview) -> None:
            raise MemoryError

        def hexdigest(self) -> str:
            return verified.digests["payload/001.egc"]

    verified = verify_bundle(blobs, world.trust, wall_ns=NOW_NS)
    payload = verified.manifest.payloads[1]
    monkeypatch.setattr(copies_module.hashlib, "sha256", Broken)
    with hashed_copies(world.storage.of(blobs), payload, beside=True) as copies:
        for _ in copies:
            pass
        with pytest.raises(SignatureError):
            copies.require_digest(verified.digests["payload/001.egc"])


def test_an_unreadable_disk_is_our_error(world, blobs):
    """An input/output error in the middle of a payload ends the load with a code."""

    class Failing:
        def __init__(self, storage) -> None:
            self._storage = storage

        def __getattr__(self, name: str):
            return getattr(self._storage, name)

        def open_stream(self, name: str):
            from contextlib import nullcontext

            return nullcontext(self)

        def readinto(self, buffer: memoryview) -> int:
            raise OSError(5, "Input/output error")

    with pytest.raises(EdgeGuardError) as error:
        world.open(Failing(world.storage.of(blobs)))
    assert error.value.code == "EG-B002"
    assert "input/output error" in str(error.value)
