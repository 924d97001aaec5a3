"""Payload files become plaintext in private memory. docs/formats/bundle.md section 5.

Each byte is read once; the same private copy is hashed and decrypted. Nothing leaves before the signed digest, the
commitment and every chunk's tag have passed, for all payloads. Memory for all of them is taken and locked before the
first byte is decrypted, and wiped on every failure.
"""

from __future__ import annotations

import hmac
import mmap
import threading
from collections.abc import Iterable, Mapping

from cryptography.exceptions import InvalidTag

from edgeguard.bundle.chunked import decryptor_of
from edgeguard.bundle.copies import DAMAGE_HINT, HashedCopies, hashed_copies, on_all_cores
from edgeguard.bundle.manifest import HEADER_BYTES, Manifest, Payload
from edgeguard.bundle.storage import BundleStorage
from edgeguard.errors import DecryptionError, EnvironmentMissingError, SignatureError
from edgeguard.harden.memory import SecretBuffer, lock, private_mapping, swap_is_on, wipe, wipe_bytes
from edgeguard.keys.context import hkdf_sha256, length_prefixed
from edgeguard.keys.file import DECRYPTION_FAILED


def cipher_context(manifest_ids: tuple[str, str, str], name: str, role: str) -> bytes:
    """Return the context of a payload; `manifest_ids` is (fleet_id, model_id, bundle_id)."""
    return length_prefixed("edgeguard/v1", *manifest_ids, name, role)


def plaintext_mac(cek: memoryview, manifest_ids: tuple[str, str, str], name: str, role: str) -> hmac.HMAC:
    """Return the running HMAC that names a payload's plaintext."""
    info = length_prefixed("edgeguard/v1/plaintext-hmac", *manifest_ids, name, role)
    key = hkdf_sha256(cek, info)
    mac = hmac.new(key, digestmod="sha256")
    wipe_bytes(key)
    return mac


def ids_of(manifest: Manifest) -> tuple[str, str, str]:
    """Return (fleet_id, model_id, bundle_id), the ids that every payload is bound to."""
    return manifest.fleet_id, manifest.model_id, manifest.bundle_id


def decrypt_payloads(
    storage: BundleStorage,
    manifest: Manifest,
    digests: Mapping[str, str],
    cek: SecretBuffer,
    memory: str,
    *,
    deep: bool = False,
) -> dict[str, mmap.mmap]:
    """Return the plaintext of each payload, by its name, in private mappings of exactly its size; the caller wipes.

    Args:
        digests: signed SHA-256 (hex) by file name.
        memory: the fleet policy's `unlocked_memory`.
        deep: also check the plaintext HMACs. A load does not need them: the signature fixes ciphertext and
            commitment, the commitment fixes the key, and those fix the plaintext.

    Raises:
        SignatureError: EG-S004, header or content is not the signed one.
        DecryptionError: EG-D000, the CEK is not the one of this bundle, or an HMAC differs.
        BundleFormatError: EG-B002. EnvironmentMissingError: EG-E010, EG-E011.
    """
    plaintexts: dict[str, mmap.mmap] = {}
    failed = threading.Event()

    def decrypt(payload: Payload, beside: bool) -> None:
        one = _Decryption(manifest, payload, cek, plaintexts[payload.name], failed)
        try:
            one.run(storage, digests[f"payload/{payload.name}"], beside=beside, deep=deep)
        except BaseException:
            failed.set()
            raise

    done = False
    try:
        for payload in manifest.payloads:
            plaintexts[payload.name] = private_mapping(payload.plaintext_bytes)
        _lock_all(plaintexts.values(), memory)
        on_all_cores(manifest.payloads, decrypt)
        done = True
    finally:
        if not done:
            for plaintext in plaintexts.values():
                wipe(plaintext)
    return plaintexts


def _lock_all(plaintexts: Iterable[mmap.mmap], memory: str) -> None:
    locked = [lock(plaintext) for plaintext in plaintexts]
    if not all(locked) and memory != "allow" and swap_is_on():
        raise EnvironmentMissingError(
            "the model's memory cannot be locked, swap is on, and the fleet's policy does not allow that",
            code="EG-E010",
            hint="raise the limit (LimitMEMLOCK=infinity in the systemd unit, or ulimit -l), or turn swap off",
        )


class _Decryption:
    """One pass over one payload file. `elsewhere` is set when another payload has failed: then this one stops."""

    def __init__(
        self, manifest: Manifest, payload: Payload, cek: SecretBuffer, plaintext: mmap.mmap, elsewhere: threading.Event
    ) -> None:
        self._ids = ids_of(manifest)
        self._payload = payload
        self._cek = cek
        self._decryptor = decryptor_of(
            manifest.cipher.name, cek.view, cipher_context(self._ids, payload.name, payload.role)
        )
        self._plaintext = plaintext
        self._elsewhere = elsewhere
        self._filled = 0
        self._rejected = False

    def run(self, storage: BundleStorage, signed_digest: str, *, beside: bool, deep: bool) -> None:
        """Read, hash and decrypt each step once; then judge all of it."""
        with hashed_copies(storage, self._payload, beside=beside) as copies, memoryview(self._plaintext) as out:
            if not self._pass(copies, out):
                return
            copies.require_digest(signed_digest)
            if self._rejected or self._filled != self._payload.plaintext_bytes:
                raise DecryptionError(DECRYPTION_FAILED)
            if deep:
                self._require_mac(out)

    def _pass(self, copies: HashedCopies, out: memoryview) -> bool:
        """Return False when another payload's failure made this one pointless."""
        for index, step in enumerate(copies):
            if self._elsewhere.is_set():
                return False
            if index == 0:
                self._require_signed_header(step)
            if not self._rejected:
                self._decrypt(step, out[self._filled :])
        if not self._rejected:
            self._finish(out[self._filled :])
        return True

    def _require_signed_header(self, step: memoryview) -> None:
        if bytes(step[:HEADER_BYTES]).hex() != self._payload.salt + self._payload.commitment:
            raise SignatureError(
                f"payload/{self._payload.name} does not begin as signed", code="EG-S004", hint=DAMAGE_HINT
            )

    def _decrypt(self, step: memoryview, room: memoryview) -> None:
        # A rejected step is not reported yet: the digest, which says more, has the first word.
        try:
            self._filled += self._decryptor.update_into(step, room)
        except (InvalidTag, ValueError):
            self._rejected = True

    def _finish(self, room: memoryview) -> None:
        try:
            self._filled += self._decryptor.finalize_into(room)
        except (InvalidTag, ValueError):
            self._rejected = True

    def _require_mac(self, out: memoryview) -> None:
        mac = plaintext_mac(self._cek.view, self._ids, self._payload.name, self._payload.role)
        mac.update(out)
        if not hmac.compare_digest(mac.hexdigest(), self._payload.plaintext_hmac):
            raise DecryptionError(DECRYPTION_FAILED)
