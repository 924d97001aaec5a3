"""Every byte of a bundle counts: change one and the model does not open, and the error is always ours."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.bundle.copies import check_payload_digest
from edgeguard.bundle.verify import verify_bundle
from edgeguard.errors import BundleFormatError, DecryptionError, EdgeGuardError, SignatureError

NOW_NS = 1_790_000_000_000_000_000


def refused(world, storage, kind=EdgeGuardError, **changes):
    with pytest.raises(kind) as error:
        world.open(storage, **changes).close()
    return error.value


def flipped(raw: bytes, at: int, mask: int = 1) -> bytes:
    changed = bytearray(raw)
    changed[at] ^= mask
    return bytes(changed)


def test_any_flipped_byte_of_the_signature_file_is_refused(world):
    """All of model.sig: JSON structure, payload, signature, hint."""
    storage = world.storage
    raw = storage.files["model.sig"]
    for at in range(len(raw)):
        refused(world, storage.changed({"model.sig": flipped(raw, at, 1 << (at % 8))}))


def test_any_flipped_byte_of_the_manifest_is_refused(world):
    """Every third byte, which meets every field."""
    storage = world.storage
    raw = storage.files["manifest.json"]
    for at in range(0, len(raw), 3):
        error = refused(world, storage.changed({"manifest.json": flipped(raw, at)}))
        assert error.code == "EG-S004"


def test_any_flipped_byte_of_the_wrap_is_refused_with_one_message(world):
    """Encapsulated key, ciphertext and tag fail alike."""
    storage = world.storage
    name = f"recipients/{world.key.kid}.hpke"
    messages = set()
    for at in range(80):
        error = refused(world, storage.changed({name: flipped(storage.files[name], at)}), DecryptionError)
        messages.add(str(error))
    assert len(messages) == 1


@pytest.mark.parametrize("payload", ["payload/000.egc", "payload/001.egc"])
@pytest.mark.parametrize("place", [0, 23, 24, 55, 56, 57, 71, 0.5, -17, -16, -1])
def test_a_flipped_byte_in_each_region_of_a_payload_is_refused(world, payload, place):
    """Salt, commitment, first chunk, middle, last chunk, last tag."""
    storage = world.storage
    raw = storage.files[payload]
    at = int(len(raw) * place) if isinstance(place, float) else place
    error = refused(world, storage.changed({payload: flipped(raw, at)}), SignatureError)
    assert error.code == "EG-S004"
    assert payload in error.message


@pytest.mark.parametrize("change", ["cut", "cut-chunk", "grow", "empty", "header-only", "swap-chunks"])
def test_a_payload_of_other_length_or_order_is_refused(world, change):
    """Truncation at a chunk edge, growth, an empty file, reordered chunks."""
    storage = world.storage
    name = "payload/001.egc"
    raw = storage.files[name]
    changed = {
        "cut": raw[:-1],
        "cut-chunk": raw[: 56 + 16400],
        "grow": raw + b"\0",
        "empty": b"",
        "header-only": raw[:56],
        "swap-chunks": raw[:56] + raw[56 + 16400 : 56 + 32800] + raw[56 : 56 + 16400] + raw[56 + 32800 :],
    }[change]
    refused(world, storage.changed({name: changed}))


def test_verify_names_the_damaged_span(world, tmp_path):
    """The span digests lead to the place."""
    bundle = world.pack(tmp_path / "b", b"\1\2\3\4" * (9 << 18))
    verified = verify_bundle(bundle, world.trust, wall_ns=NOW_NS)
    path = bundle / "payload" / "001.egc"
    path.write_bytes(flipped(path.read_bytes(), (4 << 20) + 5))
    with pytest.raises(SignatureError, match="between bytes 4194304 and 8388608"):
        verify_bundle(bundle, world.trust, wall_ns=NOW_NS)
    assert len(verified.manifest.payloads[1].spans) == 3


@pytest.mark.parametrize("missing", ["model.sig", "manifest.json", "payload/000.egc", "payload/001.egc"])
def test_a_missing_file_is_refused(world, missing):
    """Nothing is optional but what the format says."""
    refused(world, world.storage.changed({missing: None}), BundleFormatError)


@given(data=st.data())
def test_mutated_small_files_never_raise_a_foreign_error(world, data):
    """Cut, replaced and inserted bytes in statement, manifest and wrap."""
    storage = world.storage
    name = data.draw(st.sampled_from(["model.sig", "manifest.json", f"recipients/{world.key.kid}.hpke"]))
    raw = storage.files[name]
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, min(len(raw), start + 40)))
    changed = raw[:start] + data.draw(st.binary(max_size=40)) + raw[end:]
    if changed == raw:
        return
    refused(world, storage.changed({name: changed}))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(path=st.lists(st.integers(0, 30), max_size=6), value=JSON_VALUES)
def test_a_signed_statement_with_any_other_value_in_it_is_refused(world, path, value):
    """Even a release key makes no foreign error; what is still well formed has another identity."""
    envelope = json.loads(world.storage.files["model.sig"])
    statement = json.loads(base64.b64decode(envelope["dsseEnvelope"]["payload"]))
    before = json.dumps(statement, sort_keys=True)
    node = statement
    for step in path[:-1]:
        keys = sorted(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
        if not keys:
            break
        child = keys[step % len(keys)]
        if not isinstance(node[child], dict | list):
            break
        node = node[child]
    keys = sorted(node) if isinstance(node, dict) else list(range(len(node)))
    if keys:
        node[keys[(path or [0])[-1] % len(keys)]] = value
    if json.dumps(statement, sort_keys=True) == before:
        return
    payload = json.dumps(statement, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    signed = world.sign(payload.encode("utf-8", "surrogatepass"))
    refused(world, world.storage.changed({"model.sig": signed}))


def test_each_byte_of_a_payload_is_read_once(world):
    """One open, one pass: whoever swaps a file between two reads finds nobody reading twice."""
    storage = world.storage
    world.open(storage).close()
    for name in ("model.sig", "manifest.json", "payload/000.egc", "payload/001.egc"):
        assert storage.opens[name] == 1, name
        assert storage.bytes_read[name] == len(storage.files[name]), name


def test_a_payload_swapped_after_a_good_verify_is_refused_at_load(world, tmp_path):
    """A granted owner knows the CEK and re-encrypts: AEAD passes, the signed digest does not."""
    from cryptography.cobblestone import Cobblestone256Encryptor

    from edgeguard.bundle.payload import cipher_context, ids_of

    storage = world.storage
    verified = verify_bundle(world.bundle, world.trust, wall_ns=NOW_NS)
    payload = verified.manifest.payloads[1]
    check_payload_digest(storage, payload, verified.digests["payload/001.egc"], beside=False)
    with world.key.open_wrap(verified.statement, storage.files[f"recipients/{world.key.kid}.hpke"]) as cek:
        forger = Cobblestone256Encryptor(cek.view, cipher_context(ids_of(verified.manifest), "001.egc", "weights"))
        forged = forger.update(b"\0" * payload.plaintext_bytes) + forger.finalize()
    assert len(forged) == len(storage.files["payload/001.egc"])
    refused(world, storage.changed({"payload/001.egc": forged}), SignatureError)
    spliced = storage.files["payload/001.egc"][:56] + forged[56:]
    refused(world, storage.changed({"payload/001.egc": spliced}), SignatureError)


@pytest.mark.parametrize("cipher", ["aes", "chacha"])
def test_a_failure_at_any_chunk_leaves_zeros(world, tmp_path, monkeypatch, cipher):
    """Whichever chunk is wrong, whatever was decrypted before it is wiped, and so is every other buffer."""
    import edgeguard.bundle.copies as copies_module
    import edgeguard.bundle.payload as payload_module
    import edgeguard.harden.memory as memory_module

    bundle = world.pack(tmp_path / "b", cipher=cipher)
    made = []
    real = memory_module.private_mapping

    def recording(size: int):
        mapping = real(size)
        made.append(memoryview(mapping))
        return mapping

    for module in (memory_module, payload_module, copies_module):
        monkeypatch.setattr(module, "private_mapping", recording)
    storage = world.storage.of(bundle)
    raw = storage.files["payload/001.egc"]
    for at in [*range(56, len(raw), 16400), len(raw) - 1]:
        made.clear()
        refused(world, storage.changed({"payload/001.egc": flipped(raw, at)}), SignatureError)
        assert len(made) > 4
        assert not any(any(view) for view in made)
