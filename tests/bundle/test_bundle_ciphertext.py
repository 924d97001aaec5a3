"""Hostile ciphertext, down to what a holder of every key could sign: one refusal, no plaintext, no change of state."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeguard.bundle.chunked import AEADS, ChunkEncryptor
from edgeguard.bundle.copies import FIRST_STEP_BYTES, STEP_BYTES
from edgeguard.bundle.manifest import (
    CHUNK_BYTES,
    CIPHER_AES_256_GCM,
    CIPHER_CHACHA20_POLY1305,
    SPAN_BYTES,
    Cipher,
    Manifest,
    Payload,
    ciphertext_size,
)
from edgeguard.bundle.model import open_model
from edgeguard.bundle.payload import cipher_context, decrypt_payloads, ids_of
from edgeguard.bundle.verify import verify_bundle
from edgeguard.cli.main import cli, run
from edgeguard.errors import BundleFormatError, DecryptionError, EdgeGuardError, SignatureError
from edgeguard.harden.memory import SecretBuffer, wipe
from edgeguard.trust.state import DeviceState
from edgeguard.trust.strict_json import canonical
from firmware_tools.grant import seal_cek

NOW_NS = 1_790_000_000_000_000_000
MODEL_ID = "road-objects"
SEALED = CHUNK_BYTES + 16
WEIGHTS = "payload/001.egc"


@pytest.fixture(scope="module", params=["aes", "chacha"])
def packed(world, tmp_path_factory, request) -> Path:
    """A bundle with each cipher; four chunks of weights."""
    return world.pack(tmp_path_factory.mktemp(request.param) / "b", cipher=request.param)


def refused(world, storage, kind=EdgeGuardError, code="", **changes):
    with pytest.raises(kind) as error:
        world.open(storage, **changes).close()
    assert not code or error.value.code == code
    return error.value


def cut_up(raw: bytes) -> tuple[bytes, list[bytes]]:
    return raw[:56], [raw[at : at + SEALED] for at in range(56, len(raw), SEALED)]


DAMAGE: dict[str, Callable[[bytes, list[bytes]], bytes]] = {
    "empty": lambda head, chunks: b"",
    "half a header": lambda head, chunks: head[:28],
    "header only": lambda head, chunks: head,
    "cut at a chunk edge": lambda head, chunks: head + b"".join(chunks[:2]),
    "last chunk missing": lambda head, chunks: head + b"".join(chunks[:-1]),
    "last byte missing": lambda head, chunks: head + b"".join(chunks)[:-1],
    "chunk dropped": lambda head, chunks: head + chunks[0] + b"".join(chunks[2:]),
    "chunks swapped": lambda head, chunks: head + chunks[1] + chunks[0] + b"".join(chunks[2:]),
    "chunk twice": lambda head, chunks: head + chunks[0] + chunks[0] + b"".join(chunks[2:]),
    "byte appended": lambda head, chunks: head + b"".join(chunks) + b"\0",
    "chunk appended": lambda head, chunks: head + b"".join(chunks) + chunks[0],
    "zeros": lambda head, chunks: head + bytes(len(b"".join(chunks))),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_payload_is_refused_by_load_and_verify_and_changes_no_state(world, packed, tmp_path, capsys, damage):
    """Exit code 4 from the command, an integrity error from the library, the device state as it was."""
    storage = world.storage.of(packed)
    changed = storage.changed({WEIGHTS: DAMAGE[damage](*cut_up(storage.files[WEIGHTS]))})
    state = DeviceState.create(tmp_path / "state", key=world.key, trust=world.trust)
    before = {path.name: path.read_bytes() for path in (tmp_path / "state").iterdir()}
    error = refused(world, changed, (SignatureError, BundleFormatError), state=state)
    assert error.code in ("EG-S004", "EG-B002")
    assert {path.name: path.read_bytes() for path in (tmp_path / "state").iterdir()} == before
    bundle = tmp_path / "bundle"
    for name, content in changed.files.items():
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_bytes(content)
    arguments = ["verify", str(bundle), "--trust", str(world.fleet.trust_folder)]
    assert run(cli, "edgeguard", arguments) == 4
    assert error.code in capsys.readouterr().err


def signed_again(
    world,
    folder: Path,
    encrypt: Callable[[memoryview, Manifest, Payload], bytes] | None = None,
    change: Callable[[dict], None] = lambda manifest: None,
):
    """Return the bundle with other weights or manifest, all digests, signature and wrap made anew and right."""
    storage = world.storage.of(folder)
    verified = verify_bundle(folder, world.trust, wall_ns=NOW_NS)
    files = dict(storage.files)
    manifest = json.loads(files["manifest.json"])
    wrap_name = f"recipients/{world.key.kid}.hpke"
    statement = json.loads(base64.b64decode(json.loads(files["model.sig"])["dsseEnvelope"]["payload"]))
    with world.key.open_wrap(verified.statement, files[wrap_name]) as cek:
        if encrypt is not None:
            files[WEIGHTS] = encrypt(cek.view, verified.manifest, verified.manifest.payloads[1])
        raw = files[WEIGHTS]
        manifest["payloads"][1] |= {
            "salt": raw[:24].hex(),
            "commitment": raw[24:56].hex(),
            "spans": [hashlib.sha256(raw[at : at + SPAN_BYTES]).hexdigest() for at in range(0, len(raw), SPAN_BYTES)],
        }
        change(manifest)
        files["manifest.json"] = canonical(manifest)
        resources = statement["predicate"]["resources"]
        for resource in resources:
            resource["digest"] = hashlib.sha256(files[resource["name"]]).hexdigest()
        root = hashlib.sha256(b"".join(bytes.fromhex(resource["digest"]) for resource in resources)).hexdigest()
        statement["subject"][0]["digest"]["sha256"] = root
        statement["predicate"]["edgeguard"]["manifest"] = hashlib.sha256(files["manifest.json"]).hexdigest()
        payload = canonical(statement)
        files["model.sig"] = world.sign(payload)
        files[wrap_name] = seal_cek(
            cek,
            world.key.public_key(),
            identity=hashlib.sha256(payload).digest(),
            fleet_id=verified.statement.fleet_id,
            model_id=MODEL_ID,
        )
    return world.storage.changed(files)


def sealed(cek: memoryview, cipher: str, context: bytes, plaintext: bytes) -> bytes:
    encryptor = ChunkEncryptor(AEADS[cipher], cek, context)
    buffer = memoryview(bytearray(ciphertext_size(len(plaintext)) + SEALED))
    written = encryptor.update_into(memoryview(plaintext), buffer)
    return bytes(buffer[:written]) + encryptor.finalize()


def test_the_same_content_signed_again_opens(world, packed):
    """The control: nothing below is refused because of how these tests sign."""

    def same(cek, manifest, payload):
        context = cipher_context(ids_of(manifest), payload.name, payload.role)
        return sealed(cek, manifest.cipher.name, context, world.weights)

    with world.open(signed_again(world, packed, same)) as model:
        assert bytes(model.weights["weights.bin"]) == world.weights


@pytest.mark.parametrize("field", ["fleet", "model", "bundle", "name", "role"])
def test_a_payload_under_another_context_is_refused_although_all_is_signed(world, packed, field):
    """The context is not read from the bundle: it is what the statement, the place and the role say."""

    def elsewhere(cek, manifest, payload):
        parts = dict(zip(("fleet", "model", "bundle"), ids_of(manifest), strict=True))
        parts |= {"name": payload.name, "role": payload.role}
        parts[field] = "000.egc" if field == "name" else "graph" if field == "role" else "0" * 64
        context = cipher_context((parts["fleet"], parts["model"], parts["bundle"]), parts["name"], parts["role"])
        return sealed(cek, manifest.cipher.name, context, world.weights)

    error = refused(world, signed_again(world, packed, elsewhere), DecryptionError, "EG-D000")
    assert error.message == "the model cannot be decrypted for this device"


def test_the_name_of_the_other_cipher_is_refused_although_all_is_signed(world, packed):
    """A downgrade or mix-up of ciphers changes the commitment."""

    def other(manifest):
        names = {CIPHER_AES_256_GCM, CIPHER_CHACHA20_POLY1305}
        (manifest["cipher"]["name"],) = names - {manifest["cipher"]["name"]}

    refused(world, signed_again(world, packed, change=other), DecryptionError, "EG-D000")


@pytest.mark.parametrize("name", ["aes-128-gcm-c2sp", "none", "", "AES-256-GCM-C2SP", "chacha20-poly1305"])
def test_an_unknown_cipher_is_refused_although_it_is_signed(world, packed, name):
    """The list is closed."""
    refused(world, signed_again(world, packed, change=lambda m: m["cipher"].update(name=name)), BundleFormatError)


def test_one_wrong_tag_in_a_signed_payload_is_a_decryption_failure(world, packed):
    """Where the signature does not help, the tag of each chunk does, with the one message."""

    def broken(cek, manifest, payload):
        context = cipher_context(ids_of(manifest), payload.name, payload.role)
        raw = bytearray(sealed(cek, manifest.cipher.name, context, world.weights))
        raw[56 + 2 * SEALED - 1] ^= 1
        return bytes(raw)

    refused(world, signed_again(world, packed, broken), DecryptionError, "EG-D000")


def test_the_mac_of_the_plaintext_is_checked_where_a_bundle_is_examined(world, packed):
    """A load does not need it; verify --key and the packer look at it."""
    storage = signed_again(world, packed, change=lambda m: m["payloads"][1].update(plaintext_hmac="00" * 32))
    world.open(storage).close()
    refused(world, storage, DecryptionError, "EG-D000", deep=True)


def test_weights_of_another_bundle_of_the_same_fleet_are_refused(world, packed, tmp_path):
    """Same model, same size, same device; another key and another statement."""
    other = world.pack(tmp_path / "other")
    foreign = (other / WEIGHTS).read_bytes()
    refused(world, world.storage.of(packed).changed({WEIGHTS: foreign}), SignatureError, "EG-S004")


class _SwappedWhileRead:
    """A storage whose file changes between two reads of the same pass."""

    def __init__(self, storage, good: bytes, bad: bytes, after: int) -> None:
        self._storage, self._good, self._bad, self._after = storage, good, bad, after

    def __getattr__(self, name: str):
        return getattr(self._storage, name)

    def open_stream(self, name: str):
        if name != WEIGHTS:
            return self._storage.open_stream(name)
        files = self._storage.files | {WEIGHTS: self._good[: self._after] + self._bad[self._after :]}
        return type(self._storage)(files).open_stream(name)


def test_a_file_that_changes_while_it_is_read_is_refused(world, packed):
    """Half of the good file, half of one that the owner of the key encrypted: the hash is of what was decrypted."""
    good = world.storage.of(packed)

    def zeros(cek, manifest, payload):
        context = cipher_context(ids_of(manifest), payload.name, payload.role)
        return sealed(cek, manifest.cipher.name, context, bytes(len(world.weights)))

    bad = signed_again(world, packed, zeros).files[WEIGHTS]
    for after in (56, 56 + SEALED, len(bad) - 5):
        swapping = _SwappedWhileRead(good, good.files[WEIGHTS], bad, after)
        refused(world, swapping, SignatureError, "EG-S004")


@pytest.mark.parametrize("cipher", [CIPHER_AES_256_GCM, CIPHER_CHACHA20_POLY1305])
@pytest.mark.parametrize("chunks", [1, 2, 32, 33, 64, 65])
@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_sizes_around_every_edge_survive(world, tmp_path, cipher, chunks, extra):
    """Chunks, steps of reading, and the end of the decryptor's room; hashed beside and in line."""
    size = chunks * CHUNK_BYTES + extra
    plain = bytes(i % 249 for i in range(1000)) * (size // 1000 + 1)
    with SecretBuffer.copy_of(bytes(range(32))) as cek:
        storage, manifest, digests = by_hand(world, cipher, cek, [plain[:size], plain[: size // 2 + 1]])
        plaintexts = decrypt_payloads(storage, manifest, digests, cek, "allow")
    assert bytes(plaintexts["000.egc"]) == plain[:size]
    assert bytes(plaintexts["001.egc"]) == plain[: size // 2 + 1]


def by_hand(world, cipher, cek, plains):
    """Return storage, manifest and digests of payloads without a model in them."""
    ids = ("0" * 64, "m", "0" * 32)
    files, payloads = {}, []
    for index, plain in enumerate(plains):
        name, role = f"{index:03d}.egc", "weights" if index else "graph"
        raw = sealed(cek.view, cipher, cipher_context(ids, name, role), plain)
        files[f"payload/{name}"] = raw
        spans = tuple("0" * 64 for _ in range(-(-len(raw) // SPAN_BYTES)))
        location = "weights.bin" if index else ""
        sizes = (len(plain), len(raw), raw[:24].hex(), raw[24:56].hex())
        payloads.append(Payload(name, role, location, *sizes, spans, "0" * 64))
    manifest = Manifest(
        "edgeguard/manifest/v1", ids[2], ids[0], ids[1], Cipher(cipher, 16384, SPAN_BYTES), tuple(payloads)
    )
    digests = {name: hashlib.sha256(raw).hexdigest() for name, raw in files.items()}
    return world.storage.changed(files), manifest, digests


def test_the_edges_above_are_the_edges_of_the_code():
    """If the step changes, the sizes above must follow."""
    assert STEP_BYTES == 32 * SEALED
    assert FIRST_STEP_BYTES == STEP_BYTES + 56


@pytest.mark.parametrize(
    "planted",
    [
        "Manifest.json",
        "MODEL.SIG",
        "Payload/001.egc",
        "payload/001.EGC",
        "payload/001.egc ",
        "payload/\u2024001.egc",
        unicodedata.normalize("NFD", "payload/é.egc"),
        "payload\\001.egc",
        "C:manifest.json",
        "payload/...",
    ],
)
def test_names_that_another_system_takes_for_listed_ones_are_refused(world, bundle_copy, planted):
    """Case, trailing space, look-alikes, decomposed letters, drive letters: none of it is signed."""
    path = bundle_copy / planted
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    with pytest.raises(BundleFormatError) as error:
        open_model(bundle_copy, trust=world.trust, key=world.key, expect_model=MODEL_ID, wall_ns=NOW_NS)
    assert error.value.code == "EG-B005"
    assert str(error.value).isascii()


@pytest.mark.parametrize("name", ["model.sig", "manifest.json", WEIGHTS])
def test_a_hard_link_counts_by_its_content(world, bundle_copy, tmp_path, name):
    """Deduplicating file systems make them; what is hashed is what is used, whoever else holds the file."""
    os.link(bundle_copy / name, tmp_path / "elsewhere")
    arguments = {"trust": world.trust, "key": world.key, "expect_model": MODEL_ID, "wall_ns": NOW_NS}
    open_model(bundle_copy, **arguments).close()
    raw = (tmp_path / "elsewhere").read_bytes()
    (tmp_path / "elsewhere").write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(EdgeGuardError):
        open_model(bundle_copy, **arguments)


@pytest.mark.parametrize("name", ["model.sig", "manifest.json", WEIGHTS])
def test_a_device_in_place_of_a_file_is_refused(world, bundle_copy, name):
    """An endless source of zeros is no regular file."""
    (bundle_copy / name).unlink()
    try:
        os.mknod(bundle_copy / name, 0o20666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("making a device needs rights that this user lacks")
    with pytest.raises(BundleFormatError) as error:
        open_model(bundle_copy, trust=world.trust, key=world.key, expect_model=MODEL_ID, wall_ns=NOW_NS)
    assert error.value.code == "EG-B002"


@pytest.mark.slow
def test_a_million_wraps_cost_nothing(world, bundle_copy):
    """The own one is opened by its name; the folder is not listed."""
    for number in range(1_000_000):
        os.close(os.open(bundle_copy / "recipients" / f"{number:032x}.hpke", os.O_CREAT | os.O_WRONLY))
    open_model(bundle_copy, trust=world.trust, key=world.key, expect_model=MODEL_ID, wall_ns=NOW_NS).close()


@pytest.mark.slow
@pytest.mark.parametrize(("cipher", "bits"), [(CIPHER_AES_256_GCM, 32), (CIPHER_CHACHA20_POLY1305, 31)])
def test_a_payload_of_more_than_two_gibibytes_survives(world, tmp_path, cipher, bits):
    """Beyond what one call of the library takes, and beyond 31 and 32 bits of every counter."""
    size = (1 << bits) + CHUNK_BYTES + 5
    ids, name = ("0" * 64, "m", "0" * 32), "000.egc"
    digest, piece = hashlib.sha256(), memoryview(bytes(64 * CHUNK_BYTES))
    (tmp_path / "payload").mkdir()
    with SecretBuffer.copy_of(bytes(range(32))) as cek, (tmp_path / "payload" / name).open("wb") as file:
        encryptor = ChunkEncryptor(AEADS[cipher], cek.view, cipher_context(ids, name, "graph"))
        buffer = memoryview(bytearray(66 * SEALED))
        for start in range(0, size, len(piece)):
            written = encryptor.update_into(piece[: size - start], buffer)
            digest.update(buffer[:written])
            file.write(buffer[:written])
        last = encryptor.finalize()
        digest.update(last)
        file.write(last)
    with (tmp_path / "payload" / name).open("rb") as file:
        header = file.read(56)
    total = ciphertext_size(size)
    spans = tuple("0" * 64 for _ in range(-(-total // SPAN_BYTES)))
    payload = Payload(name, "graph", "", size, total, header[:24].hex(), header[24:].hex(), spans, "0" * 64)
    manifest = Manifest("edgeguard/manifest/v1", ids[2], ids[0], ids[1], Cipher(cipher, 16384, SPAN_BYTES), (payload,))
    from edgeguard.bundle.storage import DirectoryStorage

    with DirectoryStorage(tmp_path) as storage, SecretBuffer.copy_of(bytes(range(32))) as cek:
        plaintexts = decrypt_payloads(storage, manifest, {f"payload/{name}": digest.hexdigest()}, cek, "allow")
    assert len(plaintexts[name]) == size
    with memoryview(plaintexts[name]) as view:
        zeros = bytes(1 << 24)
        assert all(view[at : at + len(zeros)] == zeros[: size - at] for at in range(0, size, len(zeros)))
    wipe(plaintexts[name])
