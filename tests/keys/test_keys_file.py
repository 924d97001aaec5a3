"""A device key in a file: who may read it, what it opens, what it derives."""

from __future__ import annotations

import copy
import os

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_public_key,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.errors import DecryptionError, EdgeGuardError, KeyUnavailableError
from edgeguard.keys.context import kid_of, length_prefixed, wrap_info
from edgeguard.keys.file import FileKeyProvider
from edgeguard.keys.provider import PROVEN, VerifiedStatement

HPKE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
IDENTITY = b"\x11" * 32
FLEET_ID = "ab" * 32


def statement(**changes) -> VerifiedStatement:
    facts = {
        "identity": IDENTITY,
        "bundle_id": "00" * 16,
        "fleet_id": FLEET_ID,
        "model_id": "m",
        "release": "1",
        "channel": "production",
        "boards": (),
        "counter": (0, 1),
        "min_revocation_version": 0,
        "confidentiality": "classical",
        "min_key_class": "file",
        "valid_from_ns": 0,
        "expires_ns": 1,
        "signers": (),
        "proof": PROVEN,
    }
    return VerifiedStatement(**(facts | changes))


def wrap_for(key: FileKeyProvider, cek: bytes = b"\x07" * 32, **changes) -> bytes:
    facts = {
        "identity": IDENTITY,
        "fleet_id": FLEET_ID,
        "model_id": "m",
        "kid": key.kid,
        "suite": "hpke-base/x25519/hkdf-sha256/aes-256-gcm",
    }
    public = load_der_public_key(key.public_key())
    assert isinstance(public, X25519PublicKey)
    return HPKE.encrypt(cek, public, info=wrap_info(**(facts | changes)))


@pytest.fixture
def key(tmp_path) -> FileKeyProvider:
    return FileKeyProvider.generate(tmp_path / "device.pem")


def test_a_new_key_file_is_private_and_never_overwritten(tmp_path):
    """Mode 0600 whatever the umask; the second generate is refused."""
    old = os.umask(0)
    try:
        key = FileKeyProvider.generate(tmp_path / "k.pem")
    finally:
        os.umask(old)
    assert (tmp_path / "k.pem").stat().st_mode & 0o777 == 0o600
    with pytest.raises(KeyUnavailableError):
        FileKeyProvider.generate(tmp_path / "k.pem")
    assert FileKeyProvider(tmp_path / "k.pem").kid == key.kid == kid_of(key.public_key())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o610])
def test_a_key_open_to_others_is_refused_with_the_command_that_closes_it(tmp_path, mode):
    """A key that others could read is no secret."""
    FileKeyProvider.generate(tmp_path / "k.pem")
    (tmp_path / "k.pem").chmod(mode)
    with pytest.raises(KeyUnavailableError) as error:
        FileKeyProvider(tmp_path / "k.pem")
    assert error.value.code == "EG-K002"
    assert "chmod 600" in error.value.hint


@pytest.mark.parametrize(
    "kind", ["missing", "link", "fifo", "folder", "p384", "ed25519", "two", "text", "huge", "empty", "nul"]
)
def test_what_is_no_key_file_is_refused(tmp_path, kind):
    """Every way in which a path can fail to be a device key ends in one class."""
    path = tmp_path / "k.pem"
    if kind == "link":
        FileKeyProvider.generate(tmp_path / "real.pem")
        path.symlink_to(tmp_path / "real.pem")
    elif kind == "fifo":
        os.mkfifo(path, 0o600)
    elif kind == "folder":
        path.mkdir(mode=0o700)
    elif kind == "nul":
        path = tmp_path / "a\0b"
    elif kind != "missing":
        pkcs8 = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        x25519 = X25519PrivateKey.generate().private_bytes(*pkcs8)
        contents = {
            "p384": generate_private_key(SECP384R1()).private_bytes(*pkcs8),
            "ed25519": Ed25519PrivateKey.generate().private_bytes(*pkcs8),
            "two": x25519 + x25519,
            "text": b"not a key",
            "huge": b"x" * 20_000,
            "empty": b"",
        }
        path.write_bytes(contents[kind])
        path.chmod(0o600)
    with pytest.raises(KeyUnavailableError) as error:
        FileKeyProvider(path)
    assert error.value.code == "EG-K001"


@given(content=st.binary(max_size=300))
def test_a_damaged_key_file_never_raises_a_foreign_error(tmp_path_factory, content):
    """Hostile PEM and DER."""
    path = tmp_path_factory.mktemp("k") / "k.pem"
    path.write_bytes(b"-----BEGIN PRIVATE KEY-----\n" + content + b"\n-----END PRIVATE KEY-----\n")
    path.chmod(0o600)
    with pytest.raises(EdgeGuardError):
        FileKeyProvider(path)


def test_a_passphrase_protects_the_file(tmp_path):
    """Without it, with a wrong one: refused; the file does not hold the key in the clear."""
    path = tmp_path / "k.pem"
    key = FileKeyProvider.generate(path, b"correct horse")
    assert b"ENCRYPTED" in path.read_bytes()
    assert FileKeyProvider(path, b"correct horse").kid == key.kid
    for passphrase in (None, b"wrong"):
        with pytest.raises(KeyUnavailableError):
            FileKeyProvider(path, passphrase)


def test_a_wrap_opens_for_its_statement(key):
    """The CEK comes back in a buffer that hides, wipes and is not copied."""
    with key.open_wrap(statement(), wrap_for(key)) as cek:
        assert bytes(cek.view) == b"\x07" * 32
        assert "07" not in repr(cek)
        with pytest.raises(TypeError):
            copy.copy(cek)
    with pytest.raises(ValueError, match="released"):
        bytes(cek.view)


@pytest.mark.parametrize(
    "changes",
    [{"identity": b"\x12" * 32}, {"fleet_id": "cd" * 32}, {"model_id": "n"}, {"kid": "0" * 32}, {"suite": "x"}],
)
def test_a_wrap_made_for_anything_else_does_not_open(key, changes):
    """Statement, fleet, model, device and suite are all bound."""
    with pytest.raises(DecryptionError):
        key.open_wrap(statement(), wrap_for(key, **changes))


@pytest.mark.parametrize("cek", [b"", b"\x07" * 16, b"\x07" * 31, b"\x07" * 64])
def test_a_content_key_of_another_length_is_refused(key, cek):
    """Thirty-two bytes, or nothing."""
    with pytest.raises(DecryptionError):
        key.open_wrap(statement(), wrap_for(key, cek))


@given(wrap=st.binary(max_size=100) | st.binary(min_size=80, max_size=80))
def test_no_wrap_raises_a_foreign_error(tmp_path_factory, wrap):
    """Random bytes, low-order points, any length."""
    key = FileKeyProvider.generate(tmp_path_factory.mktemp("k") / "k.pem")
    for hostile in (wrap, bytes(32) + wrap[:48], b"\x01" + bytes(31) + wrap[:48]):
        with pytest.raises(DecryptionError):
            key.open_wrap(statement(), hostile)


def test_an_unverified_value_is_a_type_error(key):
    """Neither a look-alike nor a hand-made statement turns the key into an oracle."""
    with pytest.raises(TypeError):
        key.open_wrap({"identity": IDENTITY}, wrap_for(key))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        statement(proof=object())


def test_a_statement_that_asks_for_post_quantum_wraps_is_refused(key):
    """Secrecy equals the weakest wrap, so a weak one is not even opened."""
    with pytest.raises(KeyUnavailableError) as error:
        key.open_wrap(statement(confidentiality="pq-required"), wrap_for(key))
    assert error.value.code == "EG-K004"


def test_derived_secrets_depend_on_key_and_label(tmp_path):
    """One label, one purpose; the same after a restart; different on another device."""
    key = FileKeyProvider.generate(tmp_path / "k.pem")
    other = FileKeyProvider.generate(tmp_path / "o.pem")

    def derived(provider: FileKeyProvider, label: str) -> bytes:
        with provider.derive_secret(label) as secret:
            return bytes(secret.view)

    assert derived(key, "state") == derived(FileKeyProvider(tmp_path / "k.pem"), "state")
    assert len({derived(key, "state"), derived(key, "cache"), derived(other, "state")}) == 3
    with pytest.raises(ValueError, match="label"):
        key.derive_secret("Not A Label")


def test_a_derived_secret_needs_the_private_key(tmp_path):
    """Knowing the public key, an attacker can wrap but not derive: wraps and secrets share no input."""
    key = FileKeyProvider.generate(tmp_path / "k.pem")
    attacker = X25519PrivateKey.generate()
    public = load_der_public_key(key.public_key())
    assert isinstance(public, X25519PublicKey)
    with key.derive_secret("state") as secret:
        assert attacker.exchange(public) != bytes(secret.view)
        private = load_pem_private_key((tmp_path / "k.pem").read_bytes(), None)
        assert isinstance(private, X25519PrivateKey)
        assert bytes(secret.view) != private.private_bytes_raw()


def test_a_key_is_not_copied_and_shows_nothing(key):
    """repr names the public key id alone."""
    assert repr(key) == f"<FileKeyProvider {key.kid}>"
    with pytest.raises(TypeError):
        copy.deepcopy(key)


@given(st.lists(st.text(max_size=4), max_size=4), st.lists(st.text(max_size=4), max_size=4))
def test_length_prefixing_never_confuses_two_lists(one, other):
    """Moving a border between fields changes the bytes."""
    assert (length_prefixed(*one) == length_prefixed(*other)) == (one == other)


class Keeping(FileKeyProvider):
    """A provider that keeps hold of what the library gave it."""

    def _open(self, sealed: bytes, info: bytes) -> bytes:
        self.kept = super()._open(sealed, info)
        return self.kept

    def _agree(self, point: bytes) -> bytes:
        self.kept = super()._agree(point)
        return self.kept


def test_the_library_s_copies_of_secrets_are_zero_afterwards(key, tmp_path):
    """The content key and the shared value exist once, in memory that is wiped."""
    keeping = Keeping(tmp_path / "device.pem")
    with keeping.open_wrap(statement(), wrap_for(key)) as cek:
        assert bytes(cek.view) == b"\x07" * 32
        assert keeping.kept == bytes(32)
    peer = X25519PrivateKey.generate()
    proof = keeping.prove_possession(peer.public_key().public_bytes_raw(), b"message")
    assert keeping.kept == bytes(32)
    assert proof == key.prove_possession(peer.public_key().public_bytes_raw(), b"message")


def test_deriving_a_secret_leaves_no_copy_of_the_private_key(key, monkeypatch):
    """Neither the key's bytes nor the derived ones outlive the call outside wiped memory."""
    kept: list[bytes] = []
    private = type(key._private_key)
    read = private.secret_bytes

    def keeping(self: object) -> bytes:
        kept.append(read(self))
        return kept[-1]

    monkeypatch.setattr(private, "secret_bytes", keeping)
    with key.derive_secret("a") as first, key.derive_secret("a") as second:
        assert bytes(first.view) == bytes(second.view) != bytes(32)
    assert [bytes(32)] * 2 == kept


def test_an_encrypted_key_without_a_passphrase_is_told_from_a_broken_one(tmp_path):
    """Whoever protected the key with a passphrase learns that it is missing, and where a device's key lives instead."""
    FileKeyProvider.generate(tmp_path / "closed.pem", b"correct horse")
    with pytest.raises(KeyUnavailableError) as error:
        FileKeyProvider(tmp_path / "closed.pem")
    assert error.value.code == "EG-K001"
    assert "is encrypted and no passphrase" in error.value.message
    assert "credential" in error.value.hint
    with pytest.raises(KeyUnavailableError) as error:
        FileKeyProvider(tmp_path / "closed.pem", b"wrong horse")
    assert "no passphrase" not in error.value.message
