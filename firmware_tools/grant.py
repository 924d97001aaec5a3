"""Granting: the CEK goes from the fleet's wrap to one device's wrap; the bundle stays as signed."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.serialization import load_der_public_key

from edgeguard.bundle.verify import verify_bundle
from edgeguard.errors import ProvisioningError
from edgeguard.harden.memory import SecretBuffer
from edgeguard.keys.context import SUITE_X25519, WRAP_BYTES, kid_of, wrap_info
from edgeguard.keys.provider import VerifiedStatement
from firmware_tools.enroll import DeviceRecord, find_device
from firmware_tools.files import write_atomic
from firmware_tools.fleet import Fleet

KEY_CLASSES = ("file", "device-bound", "hardware")  # weakest first


def seal_cek(cek: SecretBuffer, public_der: bytes, *, identity: bytes, fleet_id: str, model_id: str) -> bytes:
    """Return the wrap of a CEK to an X25519 key, bound to statement, fleet, model and key."""
    key = load_der_public_key(public_der)
    if not isinstance(key, X25519PublicKey):
        raise ProvisioningError("the device's key is not an X25519 key", code="EG-P022")
    info = wrap_info(
        identity=identity, fleet_id=fleet_id, model_id=model_id, kid=kid_of(public_der), suite=SUITE_X25519
    )
    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM).encrypt(cek.view, key, info=info)


def grant(fleet: Fleet, bundle: Path | str, device: str, *, wall_ns: int) -> Path:
    """Give one enrolled device access to a bundle; return the path of its wrap.

    Everything is verified first: the bundle as the device would, the device's record by its signature. Granting again
    replaces the wrap by a fresh one.

    Raises:
        ModelError: the bundle does not verify. ProvisioningError: EG-P013 unknown device, EG-P014 record not signed,
            EG-P022 the statement excludes the device, EG-P023 the fleet does not hold this bundle's CEK.
    """
    trust = fleet.trust(wall_ns)
    record = find_device(fleet, trust, device)
    statement = verify_bundle(bundle, trust, wall_ns=wall_ns).statement
    _require_admitted(statement, record)
    with fleet.grant_key().open_wrap(statement, _read_wrap(fleet, statement)) as cek:
        wrap = seal_cek(
            cek,
            record.public_der,
            identity=statement.identity,
            fleet_id=statement.fleet_id,
            model_id=statement.model_id,
        )
    path = Path(bundle) / "recipients" / f"{record.kid}.hpke"
    write_atomic(path, wrap)
    return path


def _require_admitted(statement: VerifiedStatement, record: DeviceRecord) -> None:
    reason = ""
    if statement.boards and record.board not in statement.boards:
        reason = f"the model is for {', '.join(statement.boards)} and the device is a {record.board}"
    if KEY_CLASSES.index(record.key_class) < KEY_CLASSES.index(statement.min_key_class):
        reason = f"the model asks for a {statement.min_key_class} key and the device has a {record.key_class} key"
    if statement.confidentiality == "pq-required":
        reason = "the model asks for a post-quantum wrap and the device has no such key"
    if reason:
        raise ProvisioningError(f"{record.device_name} is not granted: {reason}", code="EG-P022")


def _read_wrap(fleet: Fleet, statement: VerifiedStatement) -> bytes:
    path = fleet.cek_wrap(statement.identity)
    try:
        with path.open("rb") as file:
            return file.read(WRAP_BYTES + 1)
    except OSError:
        pass
    raise ProvisioningError(
        f"this fleet folder does not hold the key of {statement.model_id} {statement.release}",
        code="EG-P023",
        hint="grant from the folder that packed the bundle, or pack the model again",
    )
