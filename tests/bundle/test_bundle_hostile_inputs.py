"""Hostile inputs of the threat model that no other file tries: docs/threat-model.md names each test."""

from __future__ import annotations

import base64
import hashlib
import json
import mmap
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import edgeguard
from edgeguard.bundle.dsse import STATEMENT_TYPE
from edgeguard.bundle.signature import encode_signed
from edgeguard.errors import BundleFormatError, DecryptionError, EdgeGuardError, SignatureError
from edgeguard.harden.memory import SecretBuffer
from edgeguard.keys.file import FileKeyProvider
from edgeguard.trust.strict_json import canonical

OURS = str(Path(edgeguard.__file__).parent)
NAMES = [
    "../manifest.json",
    "payload/../manifest.json",
    "/etc/passwd",
    "C:\\payload\\000.egc",
    "payload\\000.egc",
    "payload/000.egc\0",
    "payload/000.egc ",
    "payload/000.EGC",
    "payload/\uff10\uff10\uff10.egc",
    "Payload/000.egc",
    "payload//000.egc",
    "./payload/000.egc",
    ".",
    "..",
    "",
    "attestations/..",
    "attestations/\u00e9.json",
    "attestations/e\u0301.json",
]


def statement_of(world) -> dict:
    envelope = json.loads(world.storage.files["model.sig"])
    return json.loads(base64.b64decode(envelope["dsseEnvelope"]["payload"]))


def signed_again(statement: dict) -> bytes:
    """Return the payload bytes of a statement whose root digest fits its resources."""
    digests = b"".join(bytes.fromhex(resource["digest"]) for resource in statement["predicate"]["resources"])
    statement["subject"][0]["digest"]["sha256"] = hashlib.sha256(digests).hexdigest()
    return canonical(statement)


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_name_in_a_signed_statement_is_refused(world, name):
    """Although the release key signed it: nothing but the format's own names is ever opened."""
    statement = statement_of(world)
    statement["predicate"]["resources"][-1]["name"] = name
    storage = world.storage.changed({"model.sig": world.sign(signed_again(statement))})
    with pytest.raises(BundleFormatError) as error:
        world.open(storage)
    assert error.value.code == "EG-B004"
    assert set(storage.opens) <= {"model.sig", "signatures/revocation.json", "signatures/revocation-list.json"}


@pytest.mark.parametrize("field", ["name", "location"])
@pytest.mark.parametrize("name", [*NAMES[:9], "*/_ORT_MEM_ADDR_/*", "/proc/self/mem", "a" * 200, ".hidden"])
def test_a_hostile_name_in_a_signed_manifest_is_refused(world, field, name):
    """Payload files and the locations that the graph names."""
    manifest = json.loads(world.storage.files["manifest.json"])
    manifest["payloads"][1][field] = name
    raw = canonical(manifest)
    statement = statement_of(world)
    digest = hashlib.sha256(raw).hexdigest()
    statement["predicate"]["edgeguard"]["manifest"] = digest
    (own,) = (r for r in statement["predicate"]["resources"] if r["name"] == "manifest.json")
    own["digest"] = digest
    storage = world.storage.changed({"manifest.json": raw, "model.sig": world.sign(signed_again(statement))})
    with pytest.raises(BundleFormatError) as error:
        world.open(storage)
    assert error.value.code == "EG-B004"
    assert not any(opened.startswith("payload/") for opened in storage.opens)


@pytest.mark.parametrize("part", ["payload", "sig"])
@pytest.mark.parametrize(
    "spell",
    [
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: text[:8] + "\r\n" + text[8:],
        lambda text: text.rstrip("=") + ("" if text.endswith("=") else "="),
        lambda text: text + "=",
        lambda text: text + "!",
        lambda text: "",
        lambda text: text.replace("+", "-").replace("/", "_") + "-_",
        lambda text: text + "AAAA\0",
    ],
    ids=["newline", "space", "folded", "padding", "more padding", "junk", "empty", "url-safe", "nul"],
)  # fmt: skip
def test_base64_has_one_spelling(world, part: str, spell: Callable[[str], str]):
    """Two spellings of one signature would be two files for one release."""
    envelope = json.loads(world.storage.files["model.sig"])
    holder = envelope["dsseEnvelope"] if part == "payload" else envelope["dsseEnvelope"]["signatures"][0]
    holder[part] = spell(holder[part])
    with pytest.raises(BundleFormatError) as error:
        world.open(world.storage.changed({"model.sig": canonical(envelope)}))
    assert error.value.code == "EG-B004"


def test_unused_bits_of_base64_are_zero(world):
    """The last letter before the padding has bits that no decoder shows."""
    envelope = json.loads(world.storage.files["model.sig"])
    (signature,) = envelope["dsseEnvelope"]["signatures"]
    raw = base64.b64decode(signature["sig"])
    padded = base64.b64encode(raw + bytes(-(len(raw) + 2) % 3)).decode()
    assert padded.endswith("=")
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    at = len(padded.rstrip("=")) - 1
    signature["sig"] = padded[:at] + letters[letters.index(padded[at]) ^ 1] + padded[at + 1 :]
    assert base64.b64decode(signature["sig"], validate=True) == base64.b64decode(padded)
    with pytest.raises(BundleFormatError) as error:
        world.open(world.storage.changed({"model.sig": canonical(envelope)}))
    assert error.value.code == "EG-B004"


@pytest.mark.parametrize(
    "kind", ["application/vnd.edgeguard.device+json", "application/json", "", STATEMENT_TYPE + " "]
)
def test_another_payload_type_is_refused(world, kind):
    """Signed as such, or renamed afterwards."""
    payload = canonical(statement_of(world))
    signer = world.fleet.signers("release", 1)[0]
    message = b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)
    signed = encode_signed(payload, kind, signer.public_key().keyid, signer.sign(message))
    renamed = json.loads(world.storage.files["model.sig"])
    renamed["dsseEnvelope"]["payloadType"] = kind
    for raw in (signed, canonical(renamed)):
        with pytest.raises(BundleFormatError) as error:
            world.open(world.storage.changed({"model.sig": raw}))
        assert error.value.code == "EG-B004"


class _Watched(FileKeyProvider):
    """Remembers the content key, backwards, so that the test's own copy is not what it finds."""

    backwards = b""

    def open_wrap(self, statement, wrap):
        cek = super().open_wrap(statement, wrap)
        self.backwards = bytes(cek.view)[::-1]
        return cek


def _reachable(value: object, depth: int = 6, seen: set[int] | None = None) -> Iterator[bytes]:
    """Give the content of every buffer that can be reached from a value."""
    seen = set() if seen is None else seen
    if id(value) in seen or depth < 0 or isinstance(value, (type, types.ModuleType, str, int)):
        return
    seen.add(id(value))
    if isinstance(value, (bytes, bytearray)):
        yield bytes(value)
        return
    if isinstance(value, memoryview):
        try:
            yield bytes(value)
        except ValueError:  # released
            return
        return
    if isinstance(value, mmap.mmap):
        if not value.closed:
            yield value[:]
        return
    inner: list[object] = []
    if isinstance(value, dict):
        inner = [*value, *value.values()]
    elif isinstance(value, (list, tuple, set, frozenset)):
        inner = list(value)
    else:
        names = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        inner = [getattr(value, name, None) for name in names if isinstance(name, str)]
        inner.append(getattr(value, "__dict__", None))
    for item in inner:
        yield from _reachable(item, depth - 1, seen)


def _left_behind(error: BaseException | None) -> Iterator[bytes]:
    """Give every buffer that our frames of an error and of what caused it still hold; tests may know secrets."""
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename.startswith(OURS):
                yield from _reachable(dict(trace.tb_frame.f_locals))
            trace = trace.tb_next
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("damage", ["payload", "mac", "foreign key"])
def test_no_error_leads_to_a_secret(world, damage):
    """Neither its text nor the local variables of its traceback, which crash reporters send away."""
    key = _Watched(world.root / "device.pem")
    storage, deep = world.storage, damage == "mac"
    if damage == "payload":
        raw = bytearray(storage.files["payload/001.egc"])
        raw[-3] ^= 1
        storage = storage.changed({"payload/001.egc": bytes(raw)})
    elif damage == "mac":
        manifest = json.loads(storage.files["manifest.json"])
        manifest["payloads"][1]["plaintext_hmac"] = "00" * 32
        changed = canonical(manifest)
        statement = statement_of(world)
        digest = hashlib.sha256(changed).hexdigest()
        statement["predicate"]["edgeguard"]["manifest"] = digest
        statement["predicate"]["resources"][0]["digest"] = digest
        storage = _granted_anew(world, key, storage.changed({"manifest.json": changed}), signed_again(statement))
    else:
        wrap = bytearray(storage.files[f"recipients/{key.kid}.hpke"])
        wrap[-1] ^= 1
        storage = storage.changed({f"recipients/{key.kid}.hpke": bytes(wrap)})

    with pytest.raises(EdgeGuardError) as caught:
        world.open(storage, key=key, deep=deep)

    kind = SignatureError if damage == "payload" else DecryptionError
    assert isinstance(caught.value, kind)
    assert (damage == "foreign key") == (key.backwards == b"")
    private = key._private_key.secret_bytes()
    for content in _left_behind(caught.value):
        assert world.weights[:64] not in content
        assert private not in content
        assert not key.backwards or key.backwards[::-1] not in content
    for secret in (private, key.backwards[::-1] or private):
        assert secret.hex() not in repr(caught.value) + str(caught.value) + caught.value.hint


def _granted_anew(world, key: FileKeyProvider, storage, payload: bytes):
    """Return a storage whose wrap is bound to the statement that a release key has just signed."""
    from edgeguard.bundle.verify import verify_bundle
    from edgeguard.keys.public_key import parse_public_key
    from firmware_tools.grant import seal_cek

    statement = verify_bundle(world.bundle, world.trust, wall_ns=1_790_000_000_000_000_000).statement
    with FileKeyProvider(world.root / "device.pem").open_wrap(
        statement, storage.files[f"recipients/{key.kid}.hpke"]
    ) as cek:
        wrap = seal_cek(
            cek,
            parse_public_key(key.public_key()).der,
            identity=hashlib.sha256(payload).digest(),
            fleet_id=statement.fleet_id,
            model_id=statement.model_id,
        )
    return storage.changed({"model.sig": world.sign(payload), f"recipients/{key.kid}.hpke": wrap})


def test_the_search_of_tracebacks_finds_what_is_there(world):
    """The test above would see a secret: one is left in a frame on purpose."""

    def careless() -> None:
        left = {"deep": [SecretBuffer.copy_of(b"an unwiped secret of this test..")]}
        namespace = {"left": left}
        code = "def fail(left):\n    raise ValueError\nfail(left)"
        exec(compile(code, f"{OURS}/careless.py", "exec"), namespace)  # noqa: S102

    with pytest.raises(ValueError) as caught:
        careless()
    assert any(b"an unwiped secret" in content for content in _left_behind(caught.value))
