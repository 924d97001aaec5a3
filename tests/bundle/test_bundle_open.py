"""Opening a genuine bundle: the right bytes, in memory alone, gone afterwards."""

from __future__ import annotations

import copy
import hashlib
import subprocess
import sys
from pathlib import Path

import msgspec
import onnx
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from edgeguard.bundle.inspect import inspect_bundle
from edgeguard.bundle.model import open_model
from edgeguard.bundle.payload import cipher_context
from edgeguard.bundle.verify import verify_bundle
from edgeguard.errors import EdgeGuardError, UnprotectedModelError

NOW_NS = 1_790_000_000_000_000_000
MODEL_ID = "road-objects"
MARKER = b"WEIGHTS-IN-THE-CLEAR"


def open_it(world, bundle=None, **changes):
    arguments = {"trust": world.trust, "key": world.key, "expect_model": MODEL_ID, "wall_ns": NOW_NS} | changes
    return open_model(bundle or world.bundle, **arguments)


def test_an_opened_model_gives_back_graph_and_weights(world):
    """What was packed comes out, and the onnx package agrees about the graph."""
    with open_it(world) as model:
        assert bytes(model.weights["weights.bin"]) == world.weights
        assert len(model.weights["weights.bin"]) == len(world.weights)
        graph = onnx.load_model_from_string(bytes(model.graph))
        assert [n.op_type for n in graph.graph.node] == ["Add"]
        assert model.statement.model_id == MODEL_ID
        assert model.statement.counter == (0, 1)
        assert model.manifest.io.decoder.labels == ("car", "person")


@pytest.mark.parametrize("size", [4 * 4096 - 4, 4 * 4096, 4 * 4096 + 4, 4 << 20, (4 << 20) - 56, (9 << 20) + 4096])
def test_any_weight_size_survives_the_round_trip(world, tmp_path, size):
    """Chunk and span edges, exact multiples, several spans."""
    weights = (MARKER * (size // len(MARKER) + 1))[:size]
    bundle = world.pack(tmp_path / "b", weights)
    with open_it(world, bundle) as model:
        assert hashlib.sha256(model.weights["weights.bin"]).digest() == hashlib.sha256(weights).digest()
    verify_bundle(bundle, world.trust, wall_ns=NOW_NS)


def test_the_payload_is_what_the_public_specification_says(world):
    """An independent reading of C2SP chunked-encryption decrypts the file with the context of the format document."""
    verified = verify_bundle(world.bundle, world.trust, wall_ns=NOW_NS)
    payload = verified.manifest.payloads[1]
    raw = (world.bundle / "payload" / payload.name).read_bytes()
    statement = verified.statement
    ids = (statement.fleet_id, statement.model_id, statement.bundle_id)
    context = b"".join(
        len(f).to_bytes(4, "big") + f
        for f in (b"edgeguard/v1", *(i.encode() for i in ids), payload.name.encode(), b"weights")
    )
    assert context == cipher_context(ids, payload.name, "weights")
    wrap = (world.bundle / "recipients" / f"{world.key.kid}.hpke").read_bytes()
    with world.key.open_wrap(statement, wrap) as cek:
        info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\x00" + raw[:24] + context
        okm = HKDFExpand(SHA512(), 32 + 12 + 32, info).derive(bytes(cek.view))
    key, base, commitment = okm[:32], int.from_bytes(okm[32:44], "big"), okm[44:]
    assert commitment == raw[24:56]
    plaintext = b"".join(
        AESGCM(key).decrypt((base ^ i).to_bytes(12, "big"), raw[at : at + 16400], None)
        for i, at in enumerate(range(56, len(raw), 16400))
    )
    assert plaintext == world.weights


def test_the_weights_are_zero_after_close_even_through_a_view_that_is_still_held(world):
    """Close wipes; a view that outlives it reads zeros."""
    model = open_it(world)
    held, graph = memoryview(model.weights["weights.bin"]), model.graph
    assert MARKER in bytes(held)
    model.close()
    model.close()
    assert not any(held)
    assert not any(graph)


def test_a_model_that_is_dropped_is_wiped(world):
    """Forgetting to close does not leave plaintext behind."""
    model = open_it(world)
    held = memoryview(model.weights["weights.bin"])
    del model
    assert not any(held)


def test_a_model_shows_no_content_and_is_not_copied(world):
    """repr and copy give nothing away."""
    with open_it(world) as model:
        assert repr(model) == "<VerifiedModel road-objects 1.0.0, open>"
        with pytest.raises(TypeError):
            copy.copy(model)
    assert "closed" in repr(model)


def test_no_plaintext_is_ever_in_a_file(world, tmp_path, monkeypatch):
    """While a model is open and afterwards, neither the bundle nor a temporary folder holds the weights."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    places = [world.bundle, world.fleet.folder, tmp_path]
    with open_it(world):
        _assert_no_marker(places)
    _assert_no_marker(places)


def _assert_no_marker(places: list[Path]) -> None:
    for place in places:
        for path in place.rglob("*"):
            assert not path.is_file() or MARKER not in path.read_bytes(), path


@pytest.mark.parametrize("name", ["model.onnx", "model.ORT", "model.tflite"])
def test_a_plain_model_is_refused_with_the_command_that_protects_it(world, tmp_path, name):
    """There is no way to run an unprotected model by accident."""
    (tmp_path / name).write_bytes(b"\x08\x08")
    with pytest.raises(UnprotectedModelError) as refused:
        open_it(world, tmp_path / name)
    assert "edgeguard-provision pack" in refused.value.hint


@pytest.mark.parametrize("path", ["", "missing", "a\0b", "/dev/null"])
def test_what_is_no_directory_is_refused(world, tmp_path, path):
    """Every strange path ends in our error."""
    with pytest.raises(EdgeGuardError):
        open_it(world, f"{tmp_path}/{path}/nothing")


def test_inspect_says_that_nothing_is_verified(world, other_world):
    """The facts of any bundle can be read without trust, and carry the label."""
    facts = inspect_bundle(other_world.bundle)
    assert facts.verified is False
    assert facts.policy.model_id == MODEL_ID
    assert msgspec.to_builtins(facts.manifest)["cipher"]["name"] == "aes-256-gcm-c2sp"


def test_memory_that_cannot_be_locked_is_refused_while_swap_is_on(world, tmp_path):
    """With a lock limit of zero and a swap area the model is not opened, unless the signed policy allows it."""
    swaps = tmp_path / "swaps"
    swaps.write_text("Filename Type Size Used Priority\n/swap file 1 0 -2\n")
    program = tmp_path / "open.py"
    program.write_text(
        "import ctypes, resource, sys\n"
        "from pathlib import Path\n"
        "import edgeguard.harden.memory as memory\n"
        "from edgeguard.bundle.model import open_model\n"
        "from edgeguard.keys.file import FileKeyProvider\n"
        "from edgeguard.trust.store import TrustStore\n"
        "memory._SWAPS = Path(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))\n"
        "header = (ctypes.c_uint32 * 2)(0x20080522, 0)\n"
        "assert ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()) == 0\n"
        f"trust = TrustStore.load(sys.argv[2], {NOW_NS})\n"
        "try:\n"
        "    with open_model(sys.argv[3], trust=trust, key=FileKeyProvider(sys.argv[4]), "
        f"expect_model='{MODEL_ID}', wall_ns={NOW_NS}):\n"
        "        print('opened')\n"
        "except Exception as error:\n"
        "    print(getattr(error, 'code', repr(error)))\n"
    )
    none = tmp_path / "none"
    none.write_text("Filename Type Size Used Priority\n")
    for listing, expected in ((swaps, "EG-E010"), (none, "opened")):
        arguments = [listing, world.fleet.trust_folder, world.bundle, world.root / "device.pem"]
        ran = subprocess.run(
            [sys.executable, program, *map(str, arguments)], capture_output=True, text=True, check=True
        )
        assert ran.stdout.strip() == expected
